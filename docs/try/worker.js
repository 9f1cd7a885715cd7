// onnxruntime-web behind messages, so that the page stays responsive: { id, task, ... } in, { id, progress }, { id, done } or { id, error } out.

const here = new URL(".", import.meta.url);
const files = (webgpu) =>
  webgpu ? ["ort.jspi.min.mjs", "ort-wasm-simd-threaded.jspi.wasm"] : ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.wasm"];
const sessions = new Map();
let ort; // onnxruntime-web, with the first model

async function fetchAll(names, sizes, progress) {
  const total = names.reduce((sum, name) => sum + sizes[name], 0);
  let loaded = 0;
  return Promise.all(
    names.map(async (name) => {
      const response = await fetch(new URL(name, here));
      if (!response.ok) throw new Error(`${name}: the server answered ${response.status}`);
      const parts = [];
      for (const reader = response.body.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        parts.push(value);
        loaded += value.length;
        progress({ part: Math.min(loaded / total, 1), total });
      }
      return new Uint8Array(await new Blob(parts).arrayBuffer());
    }),
  );
}

async function predict(session, { data, width, height }) {
  return (await session.run({ rgba: new ort.Tensor("uint8", data, [height, width, 4]) })).ids.data;
}

// Every n-th row and column of an image, at most 256 of each.
function shrink({ data, width, height }) {
  const n = Math.ceil(Math.max(width, height) / 256);
  const small = { width: Math.ceil(width / n), height: Math.ceil(height / n) };
  small.data = new Uint8Array(4 * small.width * small.height);
  for (let y = 0; y < small.height; y++) {
    for (let x = 0; x < small.width; x++) {
      const from = 4 * n * (y * width + x);
      small.data.set(data.subarray(from, from + 4), 4 * (y * small.width + x));
    }
  }
  return small;
}

const tasks = {
  async load({ name, sizes, webgpu, threads, image }, progress) {
    if (sessions.has(name)) return;
    const [script, wasm] = files(webgpu);
    const [model, binary] = await fetchAll([`${name}.onnx`, ...(ort ? [] : [`ort/${wasm}`])], sizes, progress);
    progress({ part: 1 });
    if (!ort) {
      ort = await import(new URL(`ort/${script}`, here).href);
      ort.env.logLevel = "error"; // not that a constant was left unfolded
      Object.assign(ort.env.wasm, { numThreads: threads, wasmPaths: new URL("ort/", here).href, wasmBinary: binary });
    }
    const create = (provider) => ort.InferenceSession.create(model, { executionProviders: [provider], logSeverityLevel: 3 });
    const session = await create(webgpu ? "webgpu" : "wasm");
    if (webgpu) {
      const reference = await create("wasm");
      const small = shrink(image);
      const expected = await predict(reference, small);
      const other = (await predict(session, small)).filter((id, i) => id !== expected[i]).length / expected.length;
      await reference.release();
      if (other > 0.01) throw new Error(`it gave ${(100 * other).toFixed(1)} % of the pixels another class than WebAssembly`);
    }
    sessions.set(name, session);
  },
  run: ({ name, image }) => predict(sessions.get(name), image),
};

let queue = Promise.resolve(); // one task after the other
self.onmessage = ({ data: { id, task, ...given } }) => {
  queue = queue
    .then(() => tasks[task](given, (progress) => postMessage({ id, progress })))
    .then(
      (done) => postMessage({ id, done }),
      (error) => postMessage({ id, error: String(error?.message ?? error) }),
    );
};
