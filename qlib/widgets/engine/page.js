// What a page has of the engine: one worker, loaded when it is first wanted, and `window.qlibMeasure`.
const FOLDER = "_static/measure/", // as in bundle.py
  BENCH = "digits-",
  NO_SIMD =
    "This browser cannot run what measures here (WebAssembly with SIMD: Chrome and Edge have it since version 91, Firefox since 89, " +
    "Safari since 16.4). In another browser it works; in JupyterLab and Colab qlib.explore measures with any.";

/** What all figures of a page share. */
const shared = () => (window.qlibShared ??= { files: {}, waiting: new Map(), count: 0 });

/** A promise of a file beside the page: a script, so that a page that lies on a disk can have it, too. */
function file(name) {
  const { files } = shared();
  return (files[name] ??= fetched(name).catch((error) => {
    delete files[name]; // another click tries again
    throw error;
  }));
}

async function fetched(name) {
  const root = document.documentElement.dataset.content_root ?? "./",
    script = Object.assign(document.createElement("script"), { src: `${root}${FOLDER}${name}.js` });
  const again = (text) => Object.assign(new Error(`The file ${FOLDER}${name}.js ${text} Try again.`), { again: true });
  await new Promise((go, stop) => {
    script.onload = go;
    script.onerror = () => stop(again("could not be loaded: is the connection there?"));
    document.head.append(script);
  });
  script.remove();
  const found = window.qlibFiles?.[name];
  delete window.qlibFiles?.[name];
  if (!found || sum(found.text) !== found.sum) throw again("came broken: the download may have been cut off.");
  return JSON.parse(found.text);
}

/** The checksum CRC-32 of a text of ASCII characters. */
function sum(text) {
  const table = Int32Array.from({ length: 256 }, (_, byte) => {
    for (let k = 0; k < 8; k++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
    return byte;
  });
  let rest = -1;
  for (let i = 0; i < text.length; i++) rest = table[(rest ^ text.charCodeAt(i)) & 255] ^ (rest >>> 8);
  return ~rest >>> 0;
}

/** The worker, with a network in it, and with what a method has learned of it where that is shipped. */
export async function load(network, method) {
  const [engine, weights] = await Promise.all([file("engine"), file(BENCH + network)]),
    rounding = engine.rounded[network]?.includes(method) && (await file(`${BENCH}${network}-${method}`));
  if ([weights, rounding].some((part) => part && part.version !== engine.version))
    throw new Error("The files beside this page come from two builds of it: reload the page.");
  const here = shared();
  here.worker ??= begin(engine);
  here.loaded ??= new Set();
  const give = (name, message) => {
    if (!here.loaded.has(name)) here.worker.postMessage(message);
    here.loaded.add(name);
  };
  give(network, { load: weights });
  if (rounding) give(`${network}-${method}`, { rounding, network });
  return here.worker;
}

function begin(engine) {
  const kernel = Uint8Array.from(atob(engine.kernel), (c) => c.charCodeAt(0));
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(kernel)) throw new Error(NO_SIMD);
  const { waiting } = shared(),
    address = URL.createObjectURL(new Blob([engine.worker], { type: "text/javascript" })),
    worker = new Worker(address);
  worker.onmessage = ({ data }) => waiting.get(data.id)?.(data);
  worker.onerror = (event) => waiting.forEach((hear) => hear({ error: `What measures here has stopped: ${event.message}. Reload the page.` }));
  worker.postMessage({ engine });
  return worker;
}

/** A name for a panel, of whose moves the worker answers the last: no other figure of the page has it. */
export const named = () => `panel ${++shared().count}`;

/** Asks the worker; `part(found)` hears every answer but the last, which is what the promise gives. */
export async function ask(network, question, part = () => {}) {
  const worker = await load(network, question.method),
    { waiting } = shared(),
    id = ++shared().count;
  return new Promise((go, stop) => {
    waiting.set(id, (found) => {
      if (!found.error && found.last === false) return part(found);
      waiting.delete(id);
      return found.error ? stop(new Error(found.error)) : go(found);
    });
    worker.postMessage({ ...question, network, id });
  });
}

/**
 * Top-1 answers of a quantized network to the first `images` validation images: {answers, correct, n}, of which `correct` is how many are
 * right. `config`: fields of QuantConfig; `ranges`: [low, high] by tensor, as for qlib.quantize; then `network` and `method`.
 */
export async function measure(config, images = 2000, ranges = {}, { network = "base", method = "nearest" } = {}) {
  const { answers, right, n } = await ask(network, { config, parts: [images], ranges: ranges ?? {}, method });
  return { answers, correct: right.filter(Boolean).length, n };
}

/** Lets the page measure, for whoever looks at it by program. */
export function offer() {
  window.qlibMeasure ??= measure;
  window.qlibImages ??= (stream, n) => ask("base", { draw: [stream, n] }); // those that it answers
}
