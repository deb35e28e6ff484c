// What a network costs under a configuration, as qlib.footprint counts it.
import { statedActivationBits, statedWeightBits } from "./choices.js";
import { placement } from "./plan.js";

const FLOAT_BITS = 32,
  MAX_BITS = 16; // finer grids are float, and have no scales

/** `layers`: {weight, rows} by name. */
export function footprint(graph, layers, config) {
  const weights = Object.entries(layers).map(([name, { weight, rows }]) => {
    const bits = statedWeightBits(config, graph, name) ?? FLOAT_BITS,
      scales = bits > MAX_BITS ? 0 : config.weight_granularity === "per_channel" ? rows : 1;
    return [weight.length, bits, FLOAT_BITS * scales + (config.weight_symmetric ? 0 : bits * scales)];
  });
  const stored = new Set(config.activation_bits === null ? [] : placement(graph, config).stored),
    maps = graph.maps.map(([id, elements]) => [elements, stored.has(id) ? statedActivationBits(config, graph, graph.ops[id]) : FLOAT_BITS]);
  const sum = (rows, value) => rows.reduce((total, row) => total + value(row), 0),
    elements = ([n]) => n,
    bits = ([n, b]) => n * b;
  return {
    weight_bytes: sum(weights, bits) / 8,
    average_weight_bits: sum(weights, bits) / sum(weights, elements),
    effective_weight_bits: (sum(weights, bits) + sum(weights, ([, , beside]) => beside)) / sum(weights, elements),
    activation_bytes: sum(maps, bits) / 8,
    average_activation_bits: sum(maps, bits) / sum(maps, elements),
    max_activation_bytes: Math.max(...maps.map((map) => bits(map) / 8)),
  };
}
