// Analytic clipping (ACIQ), as qlib.aciq finds it: by the Laplace or normal distribution that fits the values of a row.
const f32 = Math.fround,
  STEPS = 400, // ranges that are tried
  REACH = 20, // standard deviations to the farthest of them
  BETWEEN = (Math.SQRT1_2 + Math.sqrt(2 / Math.PI)) / 2; // mean over root mean square deviation: of Laplace, of normal

/** The range of `values` from `low` to `high` that expects the least squared error. `shares`: how often each occurs; up to `zero` values are 0. */
export function analyticRange(values, shares, [low, high], make, zero = 0) {
  const half = low >= 0,
    share = (i) => (half && values[i] <= zero ? 0 : shares ? shares[i] : 1),
    sum = (of) => values.reduce((total, value, i) => total + share(i) * of(value), 0),
    count = Math.max(sum(() => 1), 1e-300),
    centre = half ? 0 : sum((value) => value) / count,
    mean = sum((value) => Math.abs(value - centre)) / count,
    deviation = Math.sqrt(sum((value) => (value - centre) ** 2) / count),
    beyond = mean < BETWEEN * deviation ? (distance) => ofLaplace(distance, mean) : (distance) => ofNormal(distance, deviation);
  let best = Infinity,
    found = [low, high];
  for (let i = 1; i <= STEPS; i++) {
    const reach = i * (REACH / STEPS) * deviation,
      range = [f32(Math.max(centre - reach, low)), f32(Math.min(centre + reach, high))],
      { step, zero: at, first, last, clip } = make(...range),
      [start, end] = clip === null ? [f32((first - at) * step), f32((last - at) * step)] : [-clip, clip],
      above = beyond(Math.max(end - centre, 0)),
      error = (step * step) / 12 + above + (half ? above : beyond(Math.max(centre - start, 0)));
    if (error < best) [best, found] = [error, range];
  }
  return found;
}

/** The expected squared error of what lies farther than `distance` above the centre and is clipped there, by the mean deviation. */
const ofLaplace = (distance, mean) => (mean > 0 ? mean * mean * Math.exp(-distance / mean) : 0);

/** The same of a normal distribution, by its standard deviation. */
function ofNormal(distance, deviation) {
  if (!(deviation > 0)) return 0;
  const t = distance / deviation,
    density = Math.exp((-t * t) / 2) / Math.sqrt(2 * Math.PI);
  return deviation * deviation * ((1 + t * t) * 0.5 * erfc(t * Math.SQRT1_2) - t * density);
}

/** The complementary error function of t >= 0: Taylor's series, then the continued fraction. */
function erfc(t) {
  if (t < 3) {
    let term = t,
      sum = t;
    for (let n = 1; Math.abs(term) > 1e-17 * sum; n++) sum += (term *= (-t * t) / n) / (2 * n + 1);
    return 1 - (2 / Math.sqrt(Math.PI)) * sum;
  }
  let below = t;
  for (let k = 60; k > 0; k--) below = t + k / 2 / below;
  return Math.exp(-t * t) / Math.sqrt(Math.PI) / below;
}
