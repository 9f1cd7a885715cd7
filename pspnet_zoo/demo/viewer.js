// Shows `props.value`: { photo, ids, names, colors, class_fractions }, the first two as addresses of images; null hides all.
// Gradio runs this once with `element`, `props` and `watch`; the sliders act here, without asking the server.

let ids = null; // RGBA pixels of the mask: the red channel is the class id
let value = null;
const find = (selector) => element.querySelector(selector);

function apply() {
  const mask = find(".mask");
  mask.style.opacity = find(".alpha").value;
  mask.style.clipPath = `inset(0 0 0 ${100 * find(".cut").value}%)`;
}

async function load(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

async function render() {
  value = props.value;
  find(".viewer").hidden = !value;
  if (!value) return;
  const current = value;
  const image = await load(value.ids);
  if (current !== value) return; // a later image was faster
  find(".photo").src = value.photo;
  const mask = find(".mask");
  mask.width = image.naturalWidth;
  mask.height = image.naturalHeight;
  const context = mask.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  ids = context.getImageData(0, 0, mask.width, mask.height);
  const colored = context.createImageData(mask.width, mask.height);
  for (let i = 0; i < ids.data.length; i += 4) {
    const color = value.colors[ids.data[i]];
    if (color) colored.data.set([color[0], color[1], color[2], 255], i);
  }
  context.putImageData(colored, 0, 0);
  const most = Math.max(...value.class_fractions.map(([, fraction]) => fraction));
  find(".class_fractions").replaceChildren(
    ...value.class_fractions.map(([id, fraction]) => {
      const row = document.createElement("tr");
      row.innerHTML = '<th scope="row"></th><td class="bar"><div></div></td><td class="fraction"></td>';
      row.firstChild.textContent = value.names[id];
      row.lastChild.textContent = `${(100 * fraction).toFixed(1)} %`;
      const bar = row.querySelector(".bar div");
      bar.style.background = `rgb(${value.colors[id]})`;
      bar.style.width = `${(100 * fraction) / most}%`;
      return row;
    }),
  );
  apply();
}

element.addEventListener("input", apply);
element.addEventListener("pointermove", (event) => {
  if (!event.target.matches(".mask") || !ids) return;
  const box = event.target.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * ids.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * ids.height);
  const name = value.names[ids.data[4 * (y * ids.width + x)]];
  const tip = find(".tip");
  tip.hidden = name === undefined;
  tip.textContent = name ?? "";
  tip.style.left = `${event.clientX - box.left}px`;
  tip.style.top = `${event.clientY - box.top}px`;
});
element.addEventListener("pointerout", () => (find(".tip").hidden = true));
watch("value", render);
render();
