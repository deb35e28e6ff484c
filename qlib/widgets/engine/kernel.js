// The compiled kernel, its memory, and one function a step of a plan.
import { LANES } from "./plan.js";

const PAGE = 65536,
  FIRST = 2 * PAGE, // what the kernel itself needs lies before
  f32 = Math.fround;
export const GRID = 5 * LANES; // numbers of a grid for a block, see kernel.c

export class Kernel {
  constructor(module) {
    this.memory = new WebAssembly.Memory({ initial: 4 });
    this.wasm = new WebAssembly.Instance(module, { env: { memory: this.memory } }).exports;
    this.top = FIRST;
  }

  /** A place for `n` float32 numbers, at a multiple of 64 bytes. It lasts until `top` is set back. */
  take = (n) => {
    const at = this.top;
    this.top = at + ((4 * n + 63) & ~63);
    const missing = this.top - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / PAGE));
    return at;
  };

  floats(at, n) {
    return new Float32Array(this.memory.buffer, at, n);
  }

  /** Puts images `first`, ... of `count` (uint8, grey) into a block, the last of them also where there are too few. */
  fill(images, first, count, at, n) {
    const pixels = n / LANES,
      to = this.floats(at, n);
    for (let lane = 0; lane < LANES; lane++) {
      const from = (first + Math.min(lane, count - 1)) * pixels;
      for (let i = 0; i < pixels; i++) to[i * LANES + lane] = (images[from + i] - 64) / 128;
    }
  }

  /** Computes a step for block `b`. `layers`: where their weights and biases are; `conv`: which of the two kinds of sums. */
  apply(step, b, { ops }, layers, conv) {
    const { wasm } = this,
      { op, n, quantizer } = step,
      [x, z] = step.inputs.map((input) => input.at + 4 * b * input.n),
      y = step.at + 4 * b * n,
      [into, rows = 1, columns = 1] = op ? ops[op.inputs[0]].shape : [],
      [out, rowsOut = 1, columnsOut = 1] = op ? op.shape : [];
    if (step.kind === "conv") {
      const { at, biasAt } = layers[op.layer];
      wasm[conv](x, at, biasAt, y, rows, columns, into, rowsOut, columnsOut, out, op.size, op.stride, op.pad, step.relu);
    } else if (step.kind === "relu") wasm.relu(x, y, n);
    else if (step.kind === "add") wasm.add(x, z, y, n, step.relu);
    else if (step.kind === "maxpool") wasm.maxpool(x, y, rows, columns, into, rowsOut, columnsOut, op.size, op.stride, op.pad);
    else if (step.kind === "mean") wasm.mean(x, y, rows * columns, into);
    else {
      const { grids, period, byBlock } = quantizer,
        at = grids + (byBlock ? 4 * GRID * period * b : 0);
      wasm[step.kind](x, y, n, period, at, quantizer.authors);
    }
  }

  /** Writes the grids of one image, by channel. */
  writeGrids(at, lane, grids) {
    const to = this.floats(at, GRID * grids.length);
    grids.forEach(({ step, zero, first, last, clip }, channel) => {
      const place = GRID * channel + lane;
      to[place] = f32(1 / step);
      to[place + 8] = clip === null ? first - zero : -clip;
      to[place + 16] = clip === null ? last - zero : clip;
      to[place + 24] = step;
      to[place + 32] = zero;
    });
  }

  /** The smallest and largest values of a block by channel and lane: [period][2][8]. */
  ends(at, n, period) {
    const { top } = this,
      found = this.take(2 * LANES * period);
    this.wasm.ends(at, n, period, found);
    this.top = top;
    return this.floats(found, 2 * LANES * period);
  }

  /** A channel of images `first` to `end` of blocks of `n` numbers at `at`. */
  values(at, n, period, channel, first, end) {
    const { top } = this,
      count = (n / LANES / period) * (end - first),
      to = this.take(count);
    this.wasm.gather(at, n, period, channel, first, end, to);
    this.top = top;
    return this.floats(to, count).slice();
  }

  /** How many of `values` lie in each of `bins` between -extent and extent, added to `counts`. */
  count(values, extent, counts) {
    const { top } = this,
      at = this.take(values.length),
      to = this.take(2 * counts.length),
      place = () => new Float64Array(this.memory.buffer, to, counts.length);
    this.floats(at, values.length).set(values);
    place().set(counts);
    this.wasm.histogram(at, values.length, extent, counts.length, to);
    counts.set(place());
    this.top = top;
  }

  /** A function from a grid to the squared error of `values` on it; where they have weights, weighted. */
  errors(values, weights) {
    const { top } = this,
      n = (values.length + 3) & ~3, // the rest are zeros, without an error on any grid
      at = this.take(n),
      to = weights ? this.take(2 * n) : 0;
    this.floats(at, n).fill(0).set(values);
    if (weights) new Float64Array(this.memory.buffer, to, n).fill(0).set(weights);
    this.top = top; // nothing else is put there before the last error is found
    return ({ step, zero, first, last, clip }) =>
      clip === null
        ? this.wasm.error(at, to, n, f32(1 / step), first - zero, last - zero, step, 0)
        : this.wasm.error(at, to, n, 0, -clip, clip, step, 1);
  }
}
