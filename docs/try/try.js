// The bundled models in the page: the pixels of a photo go through onnxruntime-web in a worker, and class ids come back.
// tools/browser.py writes the files beside this one (NAME.onnx, models.json, ort/); nothing else is loaded.

import { allowThreads, models, predict } from "./runtime.js";

const here = new URL(".", import.meta.url);
const element = (id) => document.getElementById(`try-${id}`);
const status = element("status");
let shown; // { ids, width, height, about } of the image on the page
let turn = 0; // number of the newest request: the result of an older one is dropped
let first; // seconds from the first request to its result

let timer;

function loading({ part, total }) {
  const bar = element("progress");
  bar.hidden = false;
  bar.value = part;
  const megabytes = (bytes) => Math.round(bytes / 1e6);
  status.textContent = total ? `Loading the model: ${megabytes(part * total)} of ${megabytes(total)} MB` : "Starting the model…";
}

function waiting() {
  const started = performance.now();
  const bar = element("progress");
  const tell = () => (status.textContent = `Segmenting… ${Math.round((performance.now() - started) / 1000)} s`);
  bar.removeAttribute("value"); // how long it takes is unknown
  bar.hidden = false;
  tell();
  clearInterval(timer);
  timer = setInterval(tell, 1000);
}

function stopWaiting() {
  clearInterval(timer);
  element("progress").hidden = true;
}

function toCanvas(source, width, height, { maxPixels, inputScale }) {
  const scale = Math.min(inputScale, Math.sqrt(maxPixels / (width * height))); // as Preprocess.input_scale_for in the package
  const canvas = element("photo");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff"; // behind transparent pixels, as in the package
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

async function segment(source, width, height) {
  const mine = ++turn;
  const requested = performance.now();
  const name = element("model").value;
  const { models: all, maxPixels } = await models();
  if (mine !== turn) return;
  const about = { ...all[name], maxPixels };
  const pixels = toCanvas(source, width, height, about);
  const image = { data: new Uint8Array(pixels.data.buffer), width: pixels.width, height: pixels.height };
  const running = () => mine === turn && (waiting(), true);
  let result;
  try {
    result = await predict(name, image, { loading: (progress) => mine === turn && loading(progress), running });
  } catch (error) {
    if (mine === turn) throw error;
  }
  if (mine !== turn) return;
  stopWaiting();
  shown = { ids: result.ids, width: image.width, height: image.height, about };
  show();
  first ??= (performance.now() - requested) / 1000;
  status.textContent = `Segmented ${image.width} x ${image.height} pixels in ${result.seconds.toFixed(1)} s. Point at the image to see a class.`;
  element("runtime").textContent = `Computed with ${result.runtime}. The first result took ${first.toFixed(1)} s with loading.`;
}

function show() {
  const { ids, width, height, about } = shown;
  const mask = element("mask");
  mask.width = width;
  mask.height = height;
  const image = new ImageData(width, height);
  const counts = new Array(about.names.length).fill(0);
  for (let i = 0; i < ids.length; i++) {
    counts[ids[i]]++;
    image.data.set([...about.colors[ids[i]], 255], 4 * i);
  }
  mask.getContext("2d").putImageData(image, 0, 0);
  mask.style.opacity = element("alpha").value;
  const rows = counts
    .map((count, id) => ({ name: about.names[id], color: about.colors[id], fraction: count / ids.length }))
    .filter((row) => row.fraction > 0)
    .sort((a, b) => b.fraction - a.fraction)
    .map(({ name, color, fraction }) => {
      const row = document.createElement("tr");
      row.innerHTML = '<th scope="row"></th><td><div class="try-bar"></div></td><td></td>';
      row.firstChild.textContent = name;
      row.lastChild.textContent = `${(100 * fraction).toFixed(1)} %`;
      const bar = row.querySelector(".try-bar");
      bar.style.background = `rgb(${color})`;
      bar.style.width = `${(100 * fraction * ids.length) / Math.max(...counts)}%`;
      return row;
    });
  element("fractions").replaceChildren(...rows);
  element("result").hidden = false;
}

function clear() {
  turn++; // a result that is still computed is dropped
  stopWaiting();
  element("result").hidden = true;
  shown = undefined;
}

function fail(error) {
  console.info(error); // for developers; the page shows the message
  clear();
  status.textContent = `That did not work: ${error.message ?? error}`;
}

async function open(blob) {
  let image;
  try {
    image = await createImageBitmap(blob);
  } catch {
    clear();
    status.textContent = "This file is not an image that the browser can read. Choose a JPEG, PNG or WebP.";
    return;
  }
  await segment(image, image.width, image.height).catch(fail);
}

async function startCamera() {
  const video = element("video");
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    status.textContent = "No camera, or no permission to use it.";
    return;
  }
  await video.play();
  video.hidden = element("shoot").hidden = false;
  status.textContent = "Point the camera at a street, or through a microscope.";
}

async function shoot() {
  const video = element("video");
  const image = await createImageBitmap(video);
  video.srcObject.getTracks().forEach((track) => track.stop());
  video.hidden = element("shoot").hidden = true;
  await segment(image, image.width, image.height).catch(fail);
}

function save(canvas, name) {
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

function overlay() {
  const canvas = document.createElement("canvas");
  canvas.width = shown.width;
  canvas.height = shown.height;
  const context = canvas.getContext("2d");
  context.drawImage(element("photo"), 0, 0);
  context.globalAlpha = element("alpha").value;
  context.drawImage(element("mask"), 0, 0);
  return canvas;
}

function point(event) {
  const tip = element("tip");
  const box = element("mask").getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * shown.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * shown.height);
  const name = shown.about.names[shown.ids[y * shown.width + x]];
  tip.hidden = name === undefined;
  tip.textContent = name ?? "";
  tip.style.left = `${event.clientX - box.left}px`;
  tip.style.top = `${event.clientY - box.top}px`;
}

element("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // so that the same file can be chosen again
  if (file) open(file);
});
for (const example of document.querySelectorAll(".try-example")) {
  example.addEventListener("click", async () => {
    element("model").value = example.dataset.model;
    open(await (await fetch(new URL(`../assets/${example.dataset.photo}`, here))).blob());
  });
}
element("model").addEventListener("change", () => {
  clear(); // another model's result
  status.textContent = "Choose an image for this model.";
});
element("camera").addEventListener("click", startCamera);
element("shoot").addEventListener("click", shoot);
element("alpha").addEventListener("input", (event) => (element("mask").style.opacity = event.target.value));
element("mask").addEventListener("pointermove", point);
element("mask").addEventListener("pointerleave", () => (element("tip").hidden = true));
element("save-mask").addEventListener("click", () => save(element("mask"), "mask.png"));
element("save-overlay").addEventListener("click", () => save(overlay(), "overlay.png"));
allowThreads(() => turn === 0 && element("video").hidden).catch(console.info); // one thread is enough where it fails
globalThis.pspnetTry = { shown: () => shown }; // for the tests
