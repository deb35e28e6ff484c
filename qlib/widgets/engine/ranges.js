// How a clipping range is found, as qlib.ranges does it: of one array of values, or of several that come one after the other.
import { analyticRange } from "./analytic.js";

const f32 = Math.fround,
  BINS = 8192,
  STEPS = 100,
  TINY = 1.1754943508222875e-38; // float32's smallest normal number

/** The range of `values`, exactly. `kernel`: see Engine; `make(low, high)`: the grid whose squared error is least. */
export function findRange(values, method, percentile, make, kernel) {
  const exact = { mse: (ends) => shrink(values, null, ends, make, kernel), aciq: (ends) => analyticRange(values, null, ends, make) }[method],
    found = collector(exact ? "minmax" : method, percentile, values.length);
  found.update(values);
  return exact ? exact(found.range()) : found.range();
}

/** Finds the range of `total` values that come in parts. */
export function collector(method, percentile, total, kernel) {
  if (method === "minmax") return new MinMax();
  if (method === "percentile") return new Percentile(percentile, total);
  if (method === "mse") return new SquaredError(kernel);
  if (method === "aciq") return new Analytic(kernel);
  throw new Error(`the page finds no range by ${JSON.stringify(method)}`);
}

class MinMax {
  low = Infinity;
  high = -Infinity;

  update(values) {
    let { low, high } = this;
    for (let i = 0; i < values.length; i++) {
      const value = values[i];
      if (value < low) low = value;
      if (value > high) high = value;
    }
    Object.assign(this, { low, high });
  }

  range() {
    return [this.low, this.high];
  }
}

/** The largest values seen, `keep` of them. */
class Tail {
  constructor(keep) {
    this.keep = keep;
    this.values = new Float32Array(Math.max(2 * keep, 64));
    this.n = 0;
    this.least = -Infinity; // what a value must be above to be kept
  }

  update(values, sign) {
    for (let i = 0; i < values.length; i++) {
      const value = sign * values[i];
      if (value <= this.least) continue;
      this.values[this.n++] = value;
      if (this.n === this.values.length) this.cut();
    }
  }

  cut() {
    const surplus = Math.max(0, this.n - this.keep);
    this.values.subarray(0, this.n).sort().copyWithin(0, surplus);
    this.n -= surplus;
    if (this.n === this.keep) this.least = this.values[0];
  }

  /** The value that `above` others lie over, and `share` of the way to the next. */
  at(above, share) {
    this.cut();
    const upper = this.values[this.n - 1 - above],
      lower = this.values[Math.max(0, this.n - 2 - above)];
    return f32(upper + (lower - upper) * share);
  }
}

class Percentile {
  constructor(percentile, total) {
    this.share = 1 - percentile / 100;
    const keep = Math.min(total, Math.ceil(this.share * (total - 1)) + 2);
    this.tails = [new Tail(keep), new Tail(keep)];
    this.seen = 0;
  }

  update(values) {
    this.seen += values.length;
    this.tails[0].update(values, 1);
    this.tails[1].update(values, -1);
  }

  range() {
    const fromTop = this.share * (this.seen - 1),
      above = Math.min(Math.floor(fromTop), this.seen - 1),
      [high, low] = this.tails.map((tail) => tail.at(above, fromTop - above));
    return [-low, high];
  }
}

/** Least squared error on a histogram, whose width doubles whenever a value falls outside. */
class SquaredError {
  ends = new MinMax();
  extent = null;
  counts = new Float64Array(BINS);

  constructor(kernel) {
    this.kernel = kernel;
  }

  update(values) {
    this.ends.update(values);
    const needed = Math.max(-this.ends.low, this.ends.high, TINY);
    this.extent ??= needed;
    while (needed > this.extent) this.widen();
    this.kernel.count(values, f32(this.extent), this.counts);
  }

  widen() {
    const wider = new Float64Array(BINS);
    for (let i = 0; i < BINS / 2; i++) wider[BINS / 4 + i] = this.counts[2 * i] + this.counts[2 * i + 1];
    this.counts = wider;
    this.extent *= 2;
  }

  /** The centres of bins with values, and their share of all values. */
  seen() {
    const total = this.counts.reduce((a, b) => a + b, 0),
      centres = [],
      shares = [];
    this.counts.forEach((count, i) => {
      if (!count) return;
      centres.push(f32(f32(f32(f32(i + 0.5) * (2 / BINS)) - 1) * this.extent));
      shares.push(count / total);
    });
    return [Float32Array.from(centres), shares];
  }

  range(make) {
    return shrink(...this.seen(), this.ends.range(), make, this.kernel);
  }
}

/** Least expected squared error, from the same histogram; 0 falls into the bin above it. */
class Analytic extends SquaredError {
  range(make) {
    return analyticRange(...this.seen(), this.ends.range(), make, this.extent * (2 / BINS));
  }
}

/** A range, shrunk at both ends by the one factor of 1, 0.99, ... whose grid has the least squared error. */
function shrink(values, weights, [low, high], make, kernel) {
  const error = kernel.errors(values, weights);
  let best = Infinity,
    factor = 1;
  for (let step = STEPS; step > 0; step--) {
    const now = f32(step / STEPS),
      found = error(make(f32(low * now), f32(high * now)));
    if (found < best) [best, factor] = [found, now];
  }
  return [f32(low * factor), f32(high * factor)];
}
