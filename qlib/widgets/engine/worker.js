// The worker: holds networks, and measures for the page. Of a panel's moves the last one wins.
import { Engine } from "./engine.js";
import { drawer } from "./images.js";

const PART = 64, // images between two looks at what else the page wants
  bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)),
  engines = {},
  moves = {}; // by panel, the number of the last one
let draw, counts, kernel;

/** Lets messages in. */
const pause = () =>
  new Promise((go) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = go;
    port2.postMessage(0);
  });

function begin(file) {
  kernel = new WebAssembly.Module(bytes(file.kernel));
  draw = drawer(new WebAssembly.Module(bytes(file.draw)), file.images);
  counts = file.images.counts;
}

function load(network) {
  const n = counts.calibration;
  engines[network.name] = new Engine(kernel, network, () => ({ images: draw("calibration", n).images, n }));
}

/** Measures on the first of `parts` images, then more; says so after each part. */
async function measure({ id, panel, move, network, config, parts, ranges, method }) {
  const answers = [],
    right = [];
  for (const end of parts) {
    while (answers.length < end) {
      if (panel && moves[panel] !== move) return postMessage({ id, moved: true });
      const first = answers.length,
        last = Math.min(end, first + PART),
        { images, labels } = draw("validation", last);
      for (const answer of engines[network].measure(config, images, first, last, { ranges, method })) {
        right.push(answer === labels[answers.length]);
        answers.push(answer);
      }
      await pause();
    }
    postMessage({ id, ...engines[network].facts(config, method), n: end, answers: [...answers], right: [...right], last: end === parts.at(-1) });
  }
}

onmessage = async ({ data }) => {
  try {
    if (data.engine) begin(data.engine);
    else if (data.load) load(data.load);
    else if (data.rounding) engines[data.network].learnRounding(data.rounding);
    else if (data.draw) postMessage({ id: data.id, ...drawn(data.draw) });
    else {
      if (data.panel) moves[data.panel] = data.move;
      await pause(); // a move that came meanwhile is heard first
      await measure(data);
    }
  } catch (error) {
    postMessage({ id: data.id, error: error.message });
  }
};

function drawn([stream, n]) {
  const { images, labels, pixels } = draw(stream, n);
  return { images: images.slice(0, n * pixels), labels: labels.slice(0, n) };
}
