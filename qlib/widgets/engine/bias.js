// Bias correction, as qlib.methods.bias does it: every layer's mean is that of the float network, each after those before it.
import { LANES } from "./plan.js";

/** By layer, its corrected bias. `grids`: of the quantizers, by their place. */
export function biases(engine, config, grids) {
  const wanted = engine.remember(["float means"], () => {
      const means = {};
      listen(engine, { ...config, weight_bits: null, activation_bits: null }, new Map(), (layer, found) => (means[layer] ??= found));
      return means;
    }),
    corrected = {};
  listen(engine, config, grids, (layer, found, again) => {
    if (corrected[layer]) return;
    corrected[layer] = engine.layers[layer].bias.map((bias, row) => bias + Math.fround(wanted[layer][row] - found[row]));
    engine.kernel.floats(engine.layers[layer].biasAt, found.length).set(corrected[layer]);
    again(); // as it will be: a sum made otherwise may be rounded to another code
  });
  return corrected;
}

/** Runs all calibration images; `hear(layer, means, again)` gets the mean of each output channel behind every layer. */
function listen(engine, config, grids, hear) {
  const { kernel, graph, layers } = engine;
  const after = (step, count, { conv }) => {
    if (step.kind !== "conv") return;
    hear(step.op.layer, means(kernel, step, count), () => {
      for (let b = 0; b * LANES < count; b++) kernel.apply(step, b, graph, layers, conv);
    });
  };
  engine.listen(config, grids, { after }, false);
}

function means(kernel, { at, n, op }, count) {
  const [channels] = op.shape,
    { top } = kernel,
    place = kernel.take(2 * LANES * channels),
    total = new Float64Array(channels);
  for (let b = 0; b * LANES < count; b++) {
    kernel.wasm.sums(at + 4 * n * b, n, channels, place);
    const found = new Float64Array(kernel.memory.buffer, place, LANES * channels);
    for (let i = 0; i < found.length; i++) if (b * LANES + (i % LANES) < count) total[Math.floor(i / LANES)] += found[i];
  }
  kernel.top = top;
  return total.map((sum) => sum / (count * (n / LANES / channels)));
}
