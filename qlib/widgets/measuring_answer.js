// What a panel says of an answer: accuracy with its interval, the paired difference to another one, cost, and the card.
const Z = 1.959963984540054; // of a 95 % interval

/** The 95 % interval (Wilson), in percent, of a share seen in `n` images, as qlib.intervals.wilson. */
export function wilson(p, n) {
  const centre = p + (Z * Z) / (2 * n),
    half = Z * Math.sqrt((p * (1 - p)) / n + (Z * Z) / (4 * n * n)),
    whole = 1 + (Z * Z) / n;
  return [100 * Math.max(0, (centre - half) / whole), 100 * Math.min(1, (centre + half) / whole)];
}

/** Accuracy in percent of images of which it is known whether they are answered rightly. */
export function accuracy(right) {
  const value = right.filter(Boolean).length / right.length,
    [low, high] = wilson(value, right.length);
  return { top1: 100 * value, low, high, n: right.length };
}

/** The paired difference in points over the images that both have seen, as qlib.compare of single runs (Agresti and Min). */
export function difference(right, before) {
  const n = Math.min(right.length, before.length),
    gains = right.slice(0, n).map((now, i) => now - before[i]),
    sum = gains.reduce((a, b) => a + b, 0),
    centre = sum / (n + 2),
    variance = ((gains.reduce((a, b) => a + b * b, 0) + 1) / (n + 2) - centre * centre) / (n + 2),
    half = Z * Math.sqrt(variance);
  return { points: (100 * sum) / n, low: 100 * (centre - half), high: 100 * (centre + half), n };
}

/** Which of the controls mean anything beside the others. */
export function acting(controls, values) {
  const kind = (value) => (typeof value === "number" ? "number" : value !== null && typeof value === "object" ? "object" : String(value)),
    said = (name) => kind(inWords(controls[name], values[name]));
  return new Set(Object.keys(controls).filter((name) => controls[name].acting.acts.includes(controls[name].acting.reads.map(said).join())));
}

/** A value as a card has it: with a word for none. */
export const inWords = (control, value) => (value === null ? (control.none ?? "none") : value);

/** To two decimals, or four digits where that says more. */
const rounded = (value) => (Math.abs(value) >= 1 ? Number(value.toFixed(2)) : Number(value.toPrecision(4)));

const measured = ({ top1, low, high, n }) => ({ top1: rounded(top1), low: rounded(low), high: rounded(high), n });

/** The card of a setting as YAML, as qlib.QuantizationCard.from_run has it. `template`: one of another setting. */
export function cardText(template, { controls, values, method, network, found, size, float }) {
  const card = structuredClone(template),
    inFloat = values.weight_bits === null && values.activation_bits === null;
  const set = (fields) => {
    for (const [name, value] of Object.entries(fields)) Object.values(card).find((part) => part && Object.hasOwn(part, name))[name] = value;
  };
  set(Object.fromEntries(Object.entries(values).map(([name, value]) => [name, inWords(controls[name], value)])));
  const { average_weight_bits, average_activation_bits, effective_weight_bits, ...bytes } = size,
    four = (sizes) => Object.fromEntries(Object.entries(sizes).map(([name, value]) => [name, Number(value.toFixed(4))]));
  set(four({ average_weight_bits, average_activation_bits, effective_weight_bits, ...bytes }));
  const byLayer = [values.weight_bits, values.activation_bits].some((bits) => bits !== null && typeof bits === "object");
  set({ allocation: byLayer ? "by layer" : "uniform" });
  set(inFloat ? { technique: "none: float", quantizer: "not reported", rounding: "not reported", batch_norm: "separate" } : method);
  set({ network: network.network, weights_hash: network.weights_hash, metric: "top1", seeds: 1, examples: found.n });
  set({ accuracy: measured(found), ...(float ? { float_accuracy: measured(float) } : {}) });
  return yaml(card);
}

/** Plain YAML of nested objects; what JSON can write is YAML, too. */
function yaml(value, indent = "") {
  return Object.entries(value)
    .map(([name, inner]) => {
      const nested = inner && typeof inner === "object" && !Array.isArray(inner) && Object.keys(inner).length;
      return `${indent}${name}:${nested ? `\n${yaml(inner, `${indent}  `)}` : ` ${JSON.stringify(inner)}\n`}`;
    })
    .join("");
}
