// A configuration as the page takes it: that of qlib.QuantConfig, checked by what is stated about its fields.

const MAX_BITS = 16, // finer grids are not exact in float32
  MAX_LAYER_BITS = 32; // 17 to 32 pass through as float

/** `given` with what it leaves out as usual. What the page cannot do is refused by name. `fields`: from Python. */
export function complete(given, fields, graph) {
  for (const name of Object.keys(given))
    if (!Object.hasOwn(fields, name)) throw new Error(`QuantConfig has no field ${JSON.stringify(name)}`);
  const config = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, given[name] === undefined ? field.default : given[name]]));
  for (const [name, { default: usual, values, fixed, above, most }] of Object.entries(fields)) {
    const value = config[name];
    if (fixed && value !== usual) refuse(name, value, `${usual} here: no network of the page looks tokens up or attends to them`);
    if (values?.length && !values.includes(value)) refuse(name, value, `one of ${values.join(", ")}`);
    if (typeof usual === "boolean" && typeof value !== "boolean") refuse(name, value, "true or false");
    if (above !== null && !(value > above && value <= most)) refuse(name, value, `a number above ${above} and at most ${most}`);
  }
  if (config.float_layers.length) refuse("float_layers", config.float_layers, "empty here: layers left in float by name need the package");
  const least = { weight_bits: config.weight_symmetric ? 2 : 1, activation_bits: config.activation_symmetric ? 2 : 1 },
    activations = config.activation_bits === null ? 1 : least.activation_bits;
  checkSide(config, "weight_bits", least.weight_bits, graph.layers);
  checkSide(config, "activation_bits", least.activation_bits, graph.tensors);
  if (config.input_bits !== null) checkBits("input_bits", config.input_bits, activations, MAX_BITS);
  const ends = config.weight_bits === null ? activations : Math.max(activations, least.weight_bits);
  if (config.first_last_bits !== null) checkBits("first_last_bits", config.first_last_bits, ends, MAX_BITS);
  return config;
}

function checkSide(config, field, least, known) {
  const value = config[field];
  if (value === null) return;
  if (typeof value !== "object") return checkBits(field, value, least, MAX_BITS);
  for (const [name, bits] of Object.entries(value)) {
    if (name !== "default" && !known.includes(name)) refuse(field, name, "names of the network's layers and tensors, written out, and 'default'");
    if (Array.isArray(bits)) refuse(`${field}[${name}]`, bits, "one number here: bits by channel need the package");
    checkBits(`${field}[${name}]`, bits, least, MAX_LAYER_BITS);
    if (field === "activation_bits" && bits === MAX_LAYER_BITS && config.weight_bits?.[name] === MAX_LAYER_BITS)
      refuse(`${field}[${name}]`, bits, "other than 32 where its weights have 32: a layer left in float whole needs the package");
  }
}

function checkBits(name, bits, least, most) {
  if (!Number.isInteger(bits) || bits < least || bits > most) refuse(name, bits, `a whole number of bits from ${least} to ${most}`);
}

function refuse(name, value, allowed) {
  throw new Error(`${name} must be ${allowed}, got ${JSON.stringify(value)}`);
}

/** The bits of a layer's weights; null where they stay in float. */
export const weightBits = (config, graph, layer) => quantized(statedWeightBits(config, graph, layer));

/** The bits of the tensor that an operation makes; null where it stays in float. */
export const activationBits = (config, graph, op) => quantized(statedActivationBits(config, graph, op));

const quantized = (bits) => (bits > MAX_BITS ? null : bits);

/** The same, with which they are counted: 17 to 32 are float. */
export function statedWeightBits(config, graph, layer) {
  return config.weight_bits?.[layer] ?? usual(config, "weight_bits", isEnd(graph, layer));
}

/** The same of a tensor. */
export function statedActivationBits(config, graph, op) {
  if (op.kind === "input") {
    const alone = config.first_last_bits !== null && !config.quantize_skip && !config.quantize_residual; // it is the first layer's input
    return alone ? Math.min(config.input_bits, config.first_last_bits) : config.input_bits;
  }
  return config.activation_bits[op.name] ?? usual(config, "activation_bits", isEnd(graph, op.layer));
}

const isEnd = (graph, layer) => layer !== undefined && (layer === graph.layers[0] || layer === graph.layers.at(-1));

function usual(config, field, end) {
  const given = config[field];
  if (given === null) return null;
  if (end && config.first_last_bits !== null) return config.first_last_bits;
  return typeof given === "object" ? (given.default ?? 8) : given;
}
