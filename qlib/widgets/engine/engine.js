// Quantizes a network under a configuration and answers images with it, as qlib.quantize and qlib.evaluate do.
import { floats, makeGrid, roundEven } from "../kit.js";
import { biases } from "./bias.js";
import { complete, weightBits } from "./choices.js";
import { footprint } from "./footprint.js";
import { GRID, Kernel } from "./kernel.js";
import { LANES, layOut, placed, steps } from "./plan.js";
import { collector, findRange } from "./ranges.js";
import { foldedLayers, pack, upsByLayer } from "./weights.js";

const f32 = Math.fround,
  KEPT = 12; // calibrations, and corrected biases, of the last settings

export class Engine {
  /** `module`: kernel.wasm; `network`: as qlib.widgets.engine.bundle.network; `calibration()`: {images, n}. */
  constructor(module, network, calibration) {
    Object.assign(this, { graph: network.graph, fields: network.fields, calibration, shipped: shippedRanges(network.ranges, network.graph.ops) });
    this.kernel = new Kernel(module);
    this.layers = foldedLayers(network);
    for (const layer of Object.values(this.layers)) {
      layer.at = this.kernel.take(layer.weight.length);
      layer.biasAt = this.kernel.take(layer.rows);
    }
    this.base = this.kernel.top;
    this.known = new Map();
    this.roundings = {};
  }

  /** Learns to round as a method did in Python. `file`: as qlib.widgets.engine.roundings.content. */
  learnRounding({ method, needs, ups }) {
    this.roundings[method] = { needs, ups: upsByLayer(this.layers, ups) };
  }

  /** The answers to images `first` to `end`. `ranges`: by tensor, [low, high], each a number or one a channel; else they are found. */
  measure(given, images, first, end, { method = "nearest", ranges = {} } = {}) {
    const config = complete(given, this.fields, this.graph),
      corrected = method === "bias" && !(config.weight_bits === null && config.activation_bits === null);
    this.checkMethod(method, config);
    const grids = this.gridsOf(config, ranges),
      shifted = corrected ? this.remember(["bias", config, ranges], () => biases(this, config, grids)) : {};
    this.setWeights(config, shifted, method);
    const answers = new Uint8Array(end - first),
      plan = this.prepare(config, grids, 1);
    this.run(plan, images, first, end, (index, best) => (answers[index - first] = best));
    return answers;
  }

  checkMethod(method, config) {
    if (method === "nearest" || method === "bias") return;
    if (!Object.hasOwn(this.roundings, method)) throw new Error(`the method ${JSON.stringify(method)} needs the package with this network`);
    for (const [name, value] of Object.entries(this.roundings[method].needs))
      if (config[name] !== value)
        throw new Error(`with the method ${method}, ${name} must be ${JSON.stringify(value)} here, for which it was learned; others need the package`);
  }

  /** Its cost under a configuration; and whether ranges are qlib's to the last digit, or found here. */
  facts(given, method = "nearest") {
    const config = complete(given, this.fields, this.graph),
      fixed = config.activation_bits === null || (!config.activation_dynamic && this.shippedFor(config) !== null);
    return { size: footprint(this.graph, this.layers, config), exact: fixed && method !== "bias" };
  }

  /** What was found under a key before; of the last settings only. */
  remember(parts, find) {
    const key = JSON.stringify(parts),
      value = this.known.get(key) ?? find();
    this.known.delete(key);
    this.known.set(key, value);
    if (this.known.size > KEPT) this.known.delete(this.known.keys().next().value);
    return value;
  }

  // Weights

  /** Has every layer compute with its weights as `config` and a method quantize them; `biases`: by layer, others than its own. */
  setWeights(config, biases = {}, method = "nearest") {
    const rounding = this.roundings[method];
    for (const [name, layer] of Object.entries(this.layers)) {
      this.kernel.floats(layer.biasAt, layer.rows).set(biases[name] ?? layer.bias);
      const bits = weightBits(config, this.graph, name),
        { weight_symmetric, weight_granularity, weight_range, symmetric_grid, percentile } = config,
        key = [bits, weight_symmetric, weight_granularity, weight_range, symmetric_grid, percentile, rounding && method].join();
      if (layer.key === key) continue;
      layer.key = key;
      const weight = bits === null ? layer.weight : this.quantizedWeight(layer, config, bits, rounding?.ups[name]);
      pack(weight, layer.shape, this.kernel.floats(layer.at, weight.length));
    }
  }

  quantizedWeight({ weight, rows }, config, bits, up) {
    const per = weight.length / (config.weight_granularity === "per_channel" ? rows : 1),
      quantized = new Float32Array(weight.length),
      make = (low, high) => makeGrid(low, high, bits, config.weight_symmetric, config.symmetric_grid);
    for (let start = 0; start < weight.length; start += per) {
      const row = weight.subarray(start, start + per),
        range = findRange(row, config.weight_range, config.percentile, make, this.kernel);
      quantizeRow(row, make(...range), quantized.subarray(start, start + per), up && ((i) => up(start + i)));
    }
    return quantized;
  }

  // Plans

  /** A plan that is ready to run on `blocks` blocks at a time, with these grids by quantizer. */
  prepare(config, grids, blocks, join = true) {
    this.kernel.top = this.base;
    const plan = layOut(steps(this.graph, placed(this.graph, config), join), this.graph, this.kernel.take, blocks);
    plan.conv = "conv";
    for (const quantizer of plan.quantizers.values()) {
      this.describe(quantizer, config);
      quantizer.byBlock = grids === null || quantizer.dynamic;
      quantizer.grids = this.kernel.take(GRID * quantizer.period * (quantizer.byBlock ? blocks : 1));
      if (!quantizer.byBlock) for (let lane = 0; lane < LANES; lane++) this.writeGrids(quantizer, 0, lane, grids.get(quantizer.id));
    }
    return plan;
  }

  describe(quantizer, config) {
    quantizer.period = config.activation_granularity === "per_channel" ? this.graph.ops[quantizer.id].shape[0] : 1;
    quantizer.authors = Number(config.activation_symmetric && config.symmetric_grid === "authors");
    quantizer.make = (low, high) => makeGrid(low, high, quantizer.bits, config.activation_symmetric, config.symmetric_grid);
    quantizer.dynamic = config.activation_dynamic;
    quantizer.find = (values) => findRange(values, config.activation_range, config.percentile, quantizer.make, this.kernel);
    quantizer.byEnds = config.activation_range === "minmax"; // which the kernel finds
    return quantizer;
  }

  writeGrids(quantizer, block, lane, grids) {
    this.kernel.writeGrids(quantizer.grids + 4 * GRID * quantizer.period * block, lane, grids);
  }

  /**
   * Runs a plan on images `first` to `end`. `answer(index, class)` hears what it answers; `before(step, count, plan)`
   * and `after(step, count, plan)` are called around every step, for so many images.
   */
  run(plan, images, first, end, answer, { before, after } = {}) {
    for (let start = first; start < end; start += plan.blocks * LANES) {
      const count = Math.min(plan.blocks * LANES, end - start),
        blocks = Math.ceil(count / LANES);
      for (const step of plan.steps) {
        before?.(step, count, plan);
        for (let b = 0; b < blocks; b++) {
          if (step.kind === "input") this.kernel.fill(images, start + b * LANES, count - b * LANES, step.at + 4 * b * step.n, step.n);
          else {
            if (step.kind === "quantize" && step.quantizer.dynamic) this.findGrids(step, b);
            this.kernel.apply(step, b, this.graph, this.layers, plan.conv);
          }
        }
        after?.(step, count, plan);
      }
      for (let i = 0; answer && i < count; i++) answer(start + i, this.answer(plan.result, i));
    }
  }

  answer({ at, n }, i) {
    const scores = this.kernel.floats(at + 4 * n * Math.floor(i / LANES), n);
    let best = i % LANES;
    for (let at = best; at < n; at += LANES) if (scores[at] > scores[best]) best = at;
    return Math.floor(best / LANES);
  }

  /** The grids of the images of a block, where ranges are dynamic. */
  findGrids({ quantizer, inputs: [{ at, n }] }, block) {
    const { period, byEnds, find, make } = quantizer,
      from = at + 4 * n * block,
      ends = byEnds && this.kernel.ends(from, n, period).slice();
    for (let lane = 0; lane < LANES; lane++) {
      const range = (channel) =>
        byEnds ? [ends[16 * channel + lane], ends[16 * channel + 8 + lane]] : find(this.kernel.values(from, n, period, channel, lane, lane + 1));
      const grids = Array.from({ length: period }, (_, channel) => make(...range(channel)));
      this.writeGrids(quantizer, block, lane, grids);
    }
  }

  // Ranges of activations

  /** The grids of a configuration by quantizer, where they are static; from `given` ranges, from those shipped, or found here. */
  gridsOf(config, given) {
    const { quantizers } = placed(this.graph, config);
    for (const name of Object.keys(given))
      if (config.activation_dynamic || ![...quantizers.values()].some((quantizer) => quantizer.name === name))
        throw new Error(`ranges: no tensor ${JSON.stringify(name)} has a static range here`);
    if (config.activation_dynamic || !quantizers.size) return new Map();
    const missing = [...quantizers.values()].some(({ name }) => !Object.hasOwn(given, name)),
      found = missing && this.rangesOf(config);
    return new Map(
      [...quantizers].map(([id, quantizer]) => {
        this.describe(quantizer, config);
        const { name, period, make } = quantizer,
          ends = Object.hasOwn(given, name) ? byChannel(name, given[name], period) : found.get(id);
        return [id, ends.map((range) => make(...range))];
      }),
    );
  }

  /** By quantizer, the ranges of its channels, or the one that they share. */
  rangesOf(config) {
    if (config.calibration_upstream === "quantized")
      return this.remember(["quantized upstream", config], () => this.calibratedQuantized(config));
    const { activation_granularity: granularity, activation_range: range, percentile } = config,
      { quantizers } = placed(this.graph, config),
      shipped = this.shippedFor(config);
    if (shipped) return shipped;
    const byBits = range === "mse" || range === "aciq"; // else ranges are found for all tensors at once, whichever a placement quantizes
    if (byBits && granularity === "per_tensor") {
      const seen = this.remember(["histograms", range], () => this.calibrated(config, this.everyTensor(), (collected) => collected)),
        rangeOf = (quantizer) => seen.get(quantizer.id).map((collected) => collected.range(this.describe(quantizer, config).make));
      return new Map([...quantizers].map(([id, quantizer]) => [id, rangeOf(quantizer)]));
    }
    const wanted = byBits ? quantizers : this.everyTensor(),
      bits = [...quantizers.values()].map((quantizer) => [quantizer.id, quantizer.bits]),
      part = byBits ? [bits, config.activation_symmetric, config.symmetric_grid] : range === "percentile" && percentile;
    return this.remember(["float upstream", range, granularity, part], () => this.calibrated(config, wanted));
  }

  /** The ranges of all quantizers from Python, where it found them; else null. */
  shippedFor(config) {
    if (config.calibration_upstream === "quantized") return null;
    const { quantizers } = placed(this.graph, config),
      found = new Map([...quantizers].map(([id, { bits }]) => [id, this.shipped(config, id, bits)]));
    return [...found.values()].every(Boolean) ? found : null;
  }

  /** Every tensor that some configuration quantizes; their bits do not matter. */
  everyTensor() {
    return new Map(this.graph.placements.flatMap((placement) => placement.quantizers.map(([id]) => [id, { id }])));
  }

  /** Ranges found while all layers compute in float, or what `give` makes of what was collected of a channel. */
  calibrated(config, quantizers, give) {
    const found = new Map();
    for (const quantizer of quantizers.values()) this.describe(quantizer, config);
    this.listen({ ...config, weight_bits: null, activation_bits: null }, null, {
      after: (step, count, plan) => {
        for (const quantizer of quantizers.values())
          if (plan.values[quantizer.id] === step.to) found.set(quantizer.id, this.seen(quantizer, step, count, config, give).at(-1));
      },
    });
    return found;
  }

  /** Ranges found while layers compute quantized: each batch of images on the grid of all that was seen so far. */
  calibratedQuantized(config) {
    const found = new Map();
    this.listen(config, null, {
      before: ({ kind, quantizer, inputs: [input] }, count) => {
        if (kind !== "quantize") return;
        const ranges = this.seen(quantizer, input, count, config),
          grids = ranges.map((channels) => channels.map((range) => quantizer.make(...range)));
        found.set(quantizer.id, ranges.at(-1));
        for (let i = 0; i < Math.ceil(count / LANES) * LANES; i++) {
          const batch = Math.min(grids.length - 1, Math.floor(i / this.graph.batch));
          this.writeGrids(quantizer, Math.floor(i / LANES), i % LANES, grids[batch]);
        }
      },
    });
    return found;
  }

  /** Runs all calibration images at once, with care for the last digit. */
  listen(config, grids, hooks, join = true) {
    const { images, n } = this.calibration();
    this.setWeights(config);
    const plan = this.prepare(config, grids, Math.ceil(n / LANES), join);
    this.run(Object.assign(plan, { conv: "conv_fused" }), images, 0, n, null, hooks);
  }

  /** By batch of calibration images, the ranges of a tensor's channels over all that was seen so far. */
  seen({ period, make }, { at, n }, count, config, give = (collected) => collected.range(make)) {
    const batches = Array.from({ length: Math.ceil(count / this.graph.batch) }, () => []),
      total = (n / LANES / period) * count;
    for (let channel = 0; channel < period; channel++) {
      const collected = collector(config.activation_range, config.percentile, total, this.kernel);
      batches.forEach((ranges, i) => {
        collected.update(this.kernel.values(at, n, period, channel, i * this.graph.batch, Math.min(count, (i + 1) * this.graph.batch)));
        if (config.calibration_upstream === "quantized" || i === batches.length - 1) ranges.push(give(collected));
      });
    }
    return batches;
  }
}

/** `[low, high]`, each a number or one for every channel, as pairs. */
function byChannel(name, [low, high], period) {
  const ends = [low, high].map((end) => (typeof end === "number" ? [end] : Array.from(end)));
  if (ends.some((end) => end.length !== period))
    throw new Error(`ranges: ${name} needs ${period} numbers for either end, got ${ends.map((end) => end.length).join(" and ")}`);
  return ends[0].map((each, channel) => [f32(each), f32(ends[1][channel])]);
}

/** A function that gives the ranges of a tensor's channels that Python found, where it did. */
function shippedRanges({ ids, rules }, ops) {
  const known = Object.fromEntries(Object.entries(rules).map(([rule, ends]) => [rule, byTensor(rule, floats(ends))]));
  return ({ activation_granularity: granularity, activation_range: range, activation_symmetric: symmetric, symmetric_grid, percentile }, id, bits) => {
    const ofGrid = ` ${bits}${symmetric ? ` ${symmetric_grid}` : ""}`,
      detail = { percentile: ` ${percentile}`, mse: ofGrid, aciq: ofGrid }[range] ?? "";
    return known[`${granularity} ${range}${detail}`]?.get(id);
  };

  function byTensor(rule, ends) {
    let at = 0;
    const pairs = (n) => Array.from({ length: n }, () => [ends[at++], ends[at++]]);
    return new Map(ids.map((id) => [id, pairs(rule.startsWith("per_channel") ? ops[id].shape[0] : 1)]));
  }
}

/** To the nearest codes; or to that below or above each value, as `up(i)` says. */
function quantizeRow(row, { step, zero, first, last, clip }, to, up) {
  const inverse = f32(1 / step),
    low = first - zero,
    high = last - zero;
  for (let i = 0; i < row.length; i++) {
    if (clip !== null) to[i] = roundEven(f32(Math.min(Math.max(row[i], -clip), clip) / step)) * step;
    else {
      const steps = f32(row[i] * inverse),
        code = up ? Math.floor(steps) + up(i) : roundEven(steps);
      to[i] = Math.min(Math.max(code, low), high) * step;
    }
  }
}
