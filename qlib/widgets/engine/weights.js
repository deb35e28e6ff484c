// The weights of a network: read, with batch norm folded in, and in the order in which the kernel wants them.
const f32 = Math.fround;

/** The layers of a network by name, {shape, rows, weight, bias}. `file`: {layers, weights}, the latter float16 in base64. */
export function foldedLayers(file) {
  const next = reader(file.weights);
  return Object.fromEntries(
    file.layers.map(({ name, shape, bias, eps }) => {
      const rows = shape[0],
        layer = { shape, rows, weight: next(shape.reduce((a, b) => a * b, 1)), bias: bias ? next(rows) : new Float32Array(rows) };
      if (eps !== null) fold(layer, f32(eps), { scale: next(rows), shift: next(rows), mean: next(rows), variance: next(rows) });
      return [name, layer];
    }),
  );
}

/** In float32 and in the order of torch.nn.utils.fusion. */
function fold({ rows, weight, bias }, eps, { scale, shift, mean, variance }) {
  const per = weight.length / rows;
  for (let row = 0; row < rows; row++) {
    const inverse = f32(1 / f32(Math.sqrt(f32(variance[row] + eps)))),
      factor = f32(scale[row] * inverse);
    for (let i = row * per; i < (row + 1) * per; i++) weight[i] *= factor;
    bias[row] = f32(f32(f32(f32(bias[row] - mean[row]) * inverse) * scale[row]) + shift[row]);
  }
}

/** A function that gives the next `n` numbers of float16 ones in base64, as float32. */
function reader(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)),
    view = new DataView(bytes.buffer),
    table = Float32Array.from({ length: 65536 }, (_, half) => float16(half));
  let at = 0;
  return (n) => {
    const numbers = new Float32Array(n);
    for (let i = 0; i < n; i++, at += 2) numbers[i] = table[view.getUint16(at, true)];
    return numbers;
  };
}

function float16(half) {
  const sign = half & 0x8000 ? -1 : 1,
    exponent = (half >> 10) & 31,
    fraction = half & 1023;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15)); // all are finite
}

/** Writes a weight (out, in, rows, columns) to `to` as (out / 4, rows, columns, in, 4). */
export function pack(weight, [out, into, ...size], to) {
  const area = size.reduce((a, b) => a * b, 1);
  let at = 0;
  for (let o = 0; o < out; o += 4)
    for (let k = 0; k < area; k++) for (let i = 0; i < into; i++) for (let j = 0; j < 4; j++) to[at++] = weight[((o + j) * into + i) * area + k];
}

/** By layer, which of its weights are rounded up: a function of the weight's place. `ups`: eight a byte, in base64, layer by layer. */
export function upsByLayer(layers, ups) {
  const bytes = Uint8Array.from(atob(ups), (c) => c.charCodeAt(0));
  let start = 0;
  return Object.fromEntries(
    Object.entries(layers).map(([name, { weight }]) => {
      const from = start;
      start += weight.length;
      return [name, (i) => (bytes[(from + i) >> 3] >> (7 - ((from + i) & 7))) & 1];
    }),
  );
}
