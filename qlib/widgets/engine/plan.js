// From the network's graph and a configuration to steps, and where in memory their results lie.
import { activationBits } from "./choices.js";

export const LANES = 8; // images a block
const OVERWRITES = ["quantize", "relu", "codes", "values"]; // steps that may put their result in the place of what they read

/** What qlib.placement says for these choices. */
export function placement(graph, config) {
  const { quantize_skip: skip, quantize_residual: residual, quantize_output: output } = config;
  return graph.placements[graph.index[[skip, residual, config.pooling !== "float", output, config.input_bits !== null].join()]];
}

/** The quantizers that qlib.placement puts, by the operation that they follow, and the means of codes with theirs. */
export function placed(graph, config) {
  if (config.activation_bits === null) return { quantizers: new Map(), means: new Map() };
  const found = placement(graph, config);
  const quantizers = new Map(
    found.quantizers
      .map(([id, producer, consumers]) => {
        const op = graph.ops[producer];
        return { id, name: op.name, bits: activationBits(config, graph, op), consumers: new Set(consumers) };
      })
      .filter(({ bits }) => bits !== null)
      .map((quantizer) => [quantizer.id, quantizer]),
  );
  const means = new Map();
  if (config.pooling === "low_precision")
    for (const [pool, source] of found.means) {
      if (!quantizers.has(source)) continue;
      means.set(pool, quantizers.get(source));
      quantizers.delete(pool);
    }
  return { quantizers, means };
}

/**
 * The steps of a network with these quantizers, and in which value they end. A value `v3` is what operation 3 gives, `q3` the
 * same quantized. With `join`, convolutions and additions do the work of a ReLU behind them.
 */
export function steps({ ops, output }, { quantizers, means }, join = true) {
  const all = [],
    values = ops.map((_, id) => `v${id}`),
    taken = (consumer, n) => (quantizers.get(n)?.consumers.has(consumer) ? `q${n}` : values[n]);
  ops.forEach((op, id) => {
    const from = op.inputs.map((n) => taken(id, n)),
      quantizer = means.get(id),
      pooled = op.inputs[0];
    if (op.kind === "view") values[id] = from[0]; // the same memory
    else if (quantizer)
      all.push(
        { kind: "codes", from, to: `c${id}`, id: pooled, quantizer },
        { kind: "mean", from: [`c${id}`], to: `m${id}`, id, op },
        { kind: "values", from: [`m${id}`], to: `v${id}`, id, quantizer },
      );
    else all.push({ kind: op.kind, from, to: `v${id}`, id, op, relu: 0 });
    if (quantizers.has(id)) all.push({ kind: "quantize", from: [values[id]], to: `q${id}`, id, quantizer: quantizers.get(id) });
  });
  return { steps: join ? joined(all) : all, values, end: taken(ops.length, output), quantizers };
}

function joined(all) {
  const readers = new Map(),
    found = [];
  for (const value of all.flatMap((step) => step.from)) readers.set(value, (readers.get(value) ?? 0) + 1);
  for (const step of all) {
    const before = found.at(-1);
    if (step.kind === "relu" && ["conv", "add"].includes(before.kind) && before.to === step.from[0] && readers.get(before.to) === 1)
      Object.assign(before, { to: step.to, id: step.id, relu: 1 });
    else found.push(step);
  }
  return found;
}

/** Gives the results of a plan's steps their places for `blocks` blocks of images. A place is free again once nobody reads it. */
export function layOut(plan, { ops }, take, blocks) {
  const lastRead = new Map([[plan.end, Infinity]]),
    places = new Map(),
    free = new Map();
  plan.steps.forEach((step, i) => {
    for (const value of step.from) lastRead.set(value, Math.max(lastRead.get(value) ?? 0, i));
    step.n = LANES * ops[step.id].shape.reduce((a, b) => a * b, 1);
  });
  plan.steps.forEach((step, i) => {
    const over = (value) => lastRead.get(value) === i && places.get(value);
    let at;
    if (OVERWRITES.includes(step.kind) && over(step.from[0])) at = places.get(step.from[0]).at;
    else at = free.get(step.n)?.pop() ?? take(step.n * blocks);
    step.inputs = step.from.map((value) => places.get(value));
    step.at = at;
    for (const value of new Set(step.from))
      if (over(value) && places.get(value).at !== at) {
        const { n, at: left } = places.get(value);
        if (!free.has(n)) free.set(n, []);
        free.get(n).push(left);
      }
    places.set(step.to, { at, n: step.n });
  });
  return Object.assign(plan, { blocks, result: places.get(plan.end) });
}
