// Where a model runs: WebGPU if the browser has it and it works, otherwise WebAssembly, in threads where they are allowed.

const here = new URL(".", import.meta.url);
let current; // the Runtime of the page, after the first image
let about; // a promise of models.json

async function whyNoWebGPU() {
  if (!navigator.gpu) return "this browser has no WebGPU";
  if (!("Suspending" in WebAssembly)) return "WebGPU needs JavaScript Promise Integration, which this browser lacks";
  try {
    const adapter = await navigator.gpu.requestAdapter();
    if (!adapter || adapter.info?.isFallbackAdapter) return "WebGPU finds no graphics processor here"; // or a program in its place
    return "";
  } catch (error) {
    return `WebGPU failed: ${error.message}`;
  }
}

class Runtime {
  constructor(reason) {
    this.reason = reason; // why WebGPU is not used, or ""
    this.threads = crossOriginIsolated ? Math.min(4, Math.ceil(navigator.hardwareConcurrency / 2)) : 1; // as onnxruntime-web by default
    this.asked = new Map();
    this.worker = new Worker(new URL("worker.js", here), { type: "module" });
    this.worker.onmessage = ({ data: { id, progress, error, done } }) => {
      const { resolve, reject, tell } = this.asked.get(id);
      if (progress) {
        if (progress.part === 1) this.watch();
        return tell(progress);
      }
      clearTimeout(this.timer);
      this.asked.delete(id);
      error === undefined ? resolve(done) : reject(new Error(error));
    };
    this.worker.onerror = (event) => this.stop(event.message || "its worker did not start");
  }

  get description() {
    if (!this.reason) return "WebGPU";
    return `WebAssembly in ${this.threads === 1 ? "one thread" : `${this.threads} threads`}, because ${this.reason}`;
  }

  ask(message, tell) {
    return new Promise((resolve, reject) => {
      const id = (this.count = (this.count ?? 0) + 1);
      this.asked.set(id, { resolve, reject, tell });
      this.worker.postMessage({ id, ...message });
      if (message.task === "run") this.watch();
    });
  }

  // A driver may compile for minutes, or hang.
  watch() {
    clearTimeout(this.timer);
    if (!this.reason) this.timer = setTimeout(() => this.stop("it gave no answer within a minute"), 60_000);
  }

  stop(message) {
    clearTimeout(this.timer);
    this.worker.terminate();
    for (const { reject } of this.asked.values()) reject(new Error(message));
    this.asked.clear();
  }
}

// Names, colours and sizes of the models.
export function models() {
  about ??= fetch(new URL("models.json", here)).then((response) => response.json());
  about.catch(() => (about = undefined)); // so that the next image tries again
  return about;
}

// Class ids of an image, { data, width, height }, with the seconds that they took and a description of the runtime.
export async function predict(name, image, { loading, running }) {
  const { sizes } = await models();
  const reason = current ? "" : await whyNoWebGPU();
  const runtime = (current ??= new Runtime(reason));
  const webgpu = !runtime.reason;
  try {
    await runtime.ask({ task: "load", name, sizes, webgpu, threads: runtime.threads, image }, loading);
    if (!running()) return undefined;
    const started = performance.now();
    const ids = await runtime.ask({ task: "run", name, image });
    return { ids, seconds: (performance.now() - started) / 1000, runtime: runtime.description };
  } catch (error) {
    if (current === runtime) {
      runtime.stop("another image ended this runtime");
      current = webgpu ? new Runtime(`WebGPU failed: ${error.message.replace(/[.]+$/, "")}`) : undefined;
      if (!webgpu) throw error;
    }
    return predict(name, image, { loading, running }); // in the runtime that took its place
  }
}

// Threads need headers that static hosts do not send. A service worker adds them once the page is loaded again.
export async function allowThreads(unused) {
  if (crossOriginIsolated || !navigator.serviceWorker) return;
  await navigator.serviceWorker.register(new URL("isolate.js", here));
  await navigator.serviceWorker.ready;
  if (!unused() || sessionStorage.getItem("try-reloaded")) return;
  sessionStorage.setItem("try-reloaded", "yes"); // once, even if it does not help
  location.reload();
}
