// What settings of a quantization say, as the readers in qlib/cards/checkpoint/ have it.
import {
  agreed,
  commas,
  Fault,
  Float,
  Found,
  general,
  get,
  isMap,
  listed,
  MOST_ENTRIES,
  names,
  number,
  same,
  truth,
  words,
} from "./checkpoint_found.js";

const MAX_GROUP = 2 ** 20;

/** What a file of settings says: of a network, of its quantization, or of both. */
export function ofSettings(settings, file, data) {
  const places = [settings, get(settings, "text_config")],
    keys = ["quantization_config", "compression_config"],
    inner = places.flatMap((place) => keys.map((key) => get(place, key))).find(isMap);
  const parts = [];
  if (!inner && file === "config.json") {
    const kind = words(get(settings, settings.has("dtype") ? "dtype" : "torch_dtype"), 20),
      inside = kind ? `: its weights are ${kind}, or what another file says` : "";
    parts.push(remarking(`config.json says nothing of quantization${inside}.`, data));
  }
  else parts.push(quantized(inner ?? settings, file, data));
  if (settings.has("model_type")) parts.push(ofNetwork(settings, file, data));
  const [whole, ...others] = parts;
  for (const part of others) {
    Object.assign(whole.fields, part.fields);
    Object.assign(whole.sources, part.sources);
    whole.remarks.push(...part.remarks);
  }
  whole.unsay(...whole.open);
  return whole;
}

function remarking(text, data) {
  const found = new Found("", data);
  found.remark(text);
  return found;
}

function quantized(settings, name, data) {
  const told = words(get(settings, "quant_method"), 40),
    method = told ?? Object.entries(data.telling).find(([key]) => settings.has(key))?.[1];
  if (data.methods.includes(method) && !Object.hasOwn(READERS, method))
    throw new Fault(`its quantization (${method}) is of a kind that this page does not read; qlib card from-checkpoint does`);
  if (!data.methods.includes(method)) {
    const about = method ? `Its quantization (${method}) is of a kind` : "Its settings are of a kind";
    return remarking(`${about} that this qlib does not read.`, data);
  }
  const found = new Found(name, data);
  READERS[method](settings, found, data);
  found.say(told ? "quant_method" : "its keys", { container: data.containers[method] });
  return found;
}

function ofNetwork(config, name, data) {
  const found = new Found(name, data),
    path = words(get(config, "_name_or_path")),
    kinds = get(config, "architectures");
  if (path && /^[\p{L}\p{N}_.-]+(\/[\p{L}\p{N}_.-]+)?$/u.test(path) && !path.startsWith("."))
    found.say("_name_or_path", { network: path });
  const kind = words(get(config, "model_type"));
  if (Array.isArray(kinds) && kinds.length) found.remark(`Architecture ${words(kinds[0]) ?? "None"}.`);
  else if (!found.fields.network && kind) found.remark(`Architecture ${kind}.`);
  return found;
}

const READERS = {
  gptq: ofGptq,
  awq: ofAwq,
  bitsandbytes: ofBitsandbytes,
  "compressed-tensors": ofCompressedTensors,
  modelopt: ofModelopt,
};

function ofGptq(settings, found, { usual }) {
  const bits = found.number("weight_bits", "bits", get(settings, "bits"), 1, 16);
  found.say("quant_method gptq: of weights alone", { quantizer: "uniform", activation_bits: "float" });
  found.say("sym", { weight_symmetric: found.truth("weight_symmetric", "sym", get(settings, "sym")) });
  sayGroup(get(settings, "group_size"), found);
  ofModules(settings, bits, found, usual);
  if (!sayAutoround(settings, found)) {
    found.say("quant_method", { technique: "post-training, GPTQ" });
    ofOrder(settings, found);
  }
  ofData(settings, found);
  const rotation = words(get(settings, "rotation"));
  found.say("rotation", { transform: rotation && `rotation: ${rotation}` });
  const key = settings.has("checkpoint_format") ? "checkpoint_format" : "format",
    form = words(get(settings, key));
  if (form === "gptq_v2") found.remark(`${key} gptq_v2: zero-points are stored as they are, not less one.`);
  else if (form && form !== "gptq") found.remark(`Stored as ${form} (${key}).`);
}

function sayGroup(size, found, key = "group_size") {
  if (size === -1) found.say(key, { weight_granularity: "per_channel" });
  else {
    const group = found.number("group_size", key, size, 1, MAX_GROUP);
    found.say(key, { group_size: group, weight_granularity: group && "per_group" });
  }
}

function sayAutoround(settings, found) {
  if (!settings.has("autoround_version")) return false;
  const steps = found.number("steps", "iters", get(settings, "iters"), 0, 10 ** 9);
  found.say("autoround_version", { technique: "post-training, AutoRound" });
  found.say("iters", { steps, rounding: steps === null ? null : steps ? "learned" : "nearest" });
  found.say("nsamples", { images: steps ? number(get(settings, "nsamples"), 1, 10 ** 9) : null });
  return true;
}

/** A setting, which GPTQModel may keep under `meta`. */
const either = (settings, name) => get(settings, name) ?? get(get(settings, "meta"), name);

function ofModules(settings, bits, found, usual) {
  const dynamic = get(settings, "dynamic"),
    plain = new Map(isMap(dynamic) ? [...dynamic].map(([name, entry]) => [words(name) ?? "?", entry]) : []),
    without = (name, mark) => (name.startsWith(mark) ? name.slice(2) : name),
    skipped = [...plain.keys()].filter((name) => name.startsWith("-:")).map((name) => without(name, "-:")),
    changes = [...plain].filter(([, entry]) => isMap(entry)),
    own = new Map(
      changes
        .filter(([name, entry]) => !name.startsWith("-:") && entry.has("bits") && !same(entry.get("bits"), bits))
        .map(([name, entry]) => [without(name, "+:"), found.number("weight_bits", "dynamic", entry.get("bits"), 1, 16)]),
    );
  if (!own.size) found.say("bits", { weight_bits: bits });
  else if (bits && ![...own.values()].includes(null)) {
    const each = new Map([["default", bits], ...own]);
    found.say("bits and dynamic", { weight_bits: each.size <= MOST_ENTRIES ? each : "mixed" });
  }
  const changed = new Set(changes.flatMap(([, entry]) => [...entry.keys()]));
  changed.delete("bits");
  if (changed.has("group_size")) found.unsay("group_size", "weight_granularity");
  if (changed.has("sym")) found.unsay("weight_symmetric");
  if (changed.size) found.remark(`Some modules have their own ${listed([...changed].sort())} (dynamic).`);
  found.sayLeft("dynamic", skipped.length ? skipped : null);
  const head = found.truth("head_bits", "lm_head", get(settings, "lm_head"));
  found.say("lm_head", { head_bits: head === null ? null : head ? bits : "float" });
  if (!settings.has("autoround_version") && ![...plain.keys()].some((name) => found.head.test(without(name, "+:"))))
    found.sayUsual(usual.gptq, { head_bits: "float" });
  const inside = get(settings, "modules_in_block_to_quantize");
  if (Array.isArray(inside)) found.remark(`Only these modules of a block are quantized: ${listed(inside.flat(1), 16)}.`);
  found.sayLeft("modules_to_not_convert", get(settings, "modules_to_not_convert"));
}

function ofOrder(settings, found) {
  found.say("true_sequential", { sequential: found.truth("sequential", "true_sequential", either(settings, "true_sequential")) });
  const damp = either(settings, "damp_percent");
  if (damp instanceof Float) found.remark(`Damping: ${general(damp.value)} of the mean of the diagonal.`);
  const byActivation = found.truth("column_order", "desc_act", get(settings, "desc_act")),
    fixed = found.truth("column_order", "static_groups", either(settings, "static_groups"));
  if (byActivation) {
    const order = fixed === null ? null : fixed ? "activation, static groups" : "activation";
    found.say("desc_act and static_groups", { column_order: order });
    if (!order) found.remark("desc_act, and whether groups are static is not said.");
  } else if (either(settings, "act_group_aware") === true)
    found.remark("act_group_aware: columns are ordered by activations group by group.");
  else if (byActivation === false) found.say("desc_act", { column_order: "natural" });
}

function ofData(settings, found) {
  const data = get(settings, "dataset"),
    length = number(get(settings, "model_seqlen"), 1, 2 ** 30),
    producer = [either(settings, "quantizer")].flat(1);
  if (Array.isArray(data) && data.length) found.say("dataset", { images: data.length, data: "texts of one's own" });
  else found.say("dataset", { data: words(data) });
  if (length) found.remark(`Sequences of at most ${commas(length)} tokens calibrated it (model_seqlen).`);
  if (listed(producer)) found.remark(`Made by ${listed(producer)}.`);
}

function ofAwq(settings, found, { usual }) {
  const bits = settings.has("bits") ? "bits" : "w_bit",
    group = settings.has("group_size") ? "group_size" : "q_group_size";
  found.say("quant_method awq: of weights alone", { quantizer: "uniform", activation_bits: "float" });
  if (!sayAutoround(settings, found)) found.say("quant_method", { technique: "post-training, AWQ" });
  found.say(bits, { weight_bits: found.number("weight_bits", bits, get(settings, bits), 1, 16) });
  sayGroup(get(settings, group), found, group);
  const shifted = found.truth("weight_symmetric", "zero_point", get(settings, "zero_point"));
  found.say("zero_point", { weight_symmetric: shifted === null ? null : !shifted });
  if (shifted !== null && get(settings, "sym") === shifted)
    found.remark(`sym: ${shifted} stands beside zero_point: ${shifted}, its contrary, which is what AWQ reads.`);
  found.sayLeft("modules_to_not_convert", get(settings, "modules_to_not_convert"));
  if (!settings.has("autoround_version")) found.sayUsual(usual.awq, { head_bits: "float" });
  const version = words(get(settings, "version"));
  if (version) found.remark(`Packed for ${version}.`);
}

function ofBitsandbytes(settings, found, { usual }) {
  const [in4, in8] = ["load_in_4bit", "load_in_8bit"].map((key) => found.truth("weight_bits", key, get(settings, key)) === true);
  found.sayLeft("llm_int8_skip_modules", get(settings, "llm_int8_skip_modules"));
  if (in4 && !in8) in4Bits(settings, found, usual);
  else if (in8 && !in4) in8Bits(settings, found);
  else found.remark("Whether it is of 4 or 8 bits the settings of bitsandbytes do not say.");
  if (get(settings, "llm_int8_skip_modules") === null) found.sayUsual(usual.bitsandbytes, { head_bits: "float" });
}

function in4Bits(settings, found, usual) {
  const kind = words(get(settings, "bnb_4bit_quant_type"), 20),
    computes = words(get(settings, "bnb_4bit_compute_dtype"), 20);
  found.say("load_in_4bit", {
    weight_bits: 4,
    activation_bits: "float",
    weight_granularity: "per_group",
    technique: "post-training, scales by the largest magnitude",
    weight_range: "minmax",
  });
  found.sayUsual(usual.block, { group_size: 64 });
  if (kind === "nf4" || kind === "fp4") {
    found.say("bnb_4bit_quant_type", { quantizer: "non-uniform", weight_symmetric: kind === "fp4" ? true : null });
    found.remark(`Codes of the type ${kind}.`);
  }
  if (get(settings, "bnb_4bit_use_double_quant") === true)
    found.remark("Scales are quantized to 8 bits, too (double quantization).");
  if (computes) found.remark(`Computes in ${computes}.`);
}

function in8Bits(settings, found) {
  const kept = get(settings, "llm_int8_has_fp16_weight") === true;
  found.say("load_in_8bit", {
    weight_bits: kept ? null : 8,
    quantizer: "uniform",
    technique: "post-training, LLM.int8()",
  });
  found.say("the method LLM.int8()", {
    activation_bits: 8,
    activation_dynamic: true,
    activation_granularity: "per_token",
    activation_symmetric: true,
    activation_range: "minmax",
    weight_symmetric: true,
    symmetric_grid: "restricted",
    weight_granularity: "per_channel",
    weight_range: "minmax",
  });
  if (kept) found.remark("Its weights are kept in float beside their codes (llm_int8_has_fp16_weight).");
  const stated = get(settings, "llm_int8_threshold"),
    threshold = stated instanceof Float ? stated.value : stated;
  if (typeof threshold === "number" && threshold > 0)
    found.remark(`Columns with activations above ${general(threshold)} are computed in float.`);
}

function ofCompressedTensors(settings, found, data) {
  const stated = get(settings, "config_groups"),
    groups = isMap(stated) && stated.size <= MOST_ENTRIES ? stated : new Map(),
    schemes = [...groups.values()].filter(isMap),
    parts = (name) => schemes.map((scheme) => get(scheme, name)).map((part) => (isMap(part) ? part : null));
  if (groups.size && schemes.length === groups.size) {
    ofWeights(parts("weights"), schemes, found, data.compressed);
    ofActivations(parts("input_activations"), found, data.compressed);
  } else if (groups.size) found.remark(`Of the schemes ${listed(groups.keys())} the file gives no more than names.`);
  ofTheRest(settings, schemes, found, data.compressed);
}

const widths = (parts, name, key, found) =>
  parts.map((part) => (part ? found.number(name, key, get(part, "num_bits"), 1, 32) : "float"));
const all = (parts, name, meaning = (value) => value) => agreed(parts.map((part) => meaning(get(part, name))));
const among = (table) => (name) => (Object.hasOwn(table, words(name) ?? "") ? table[words(name)] : null);
const group = (size) => number(size, 1, MAX_GROUP);
const observed = (table) => (name) => among(table)((words(name) ?? "").replace(/^static_/, "").replace(/^memoryless_/, ""));

function ofWeights(weights, schemes, found, tables) {
  const bits = widths(weights, "weight_bits", "num_bits", found),
    targets = schemes.map((scheme) => names(get(scheme, "targets")) ?? []),
    byTarget = new Map(targets.flatMap((each, i) => each.map((name) => [name, bits[i]]))),
    once = targets.every((each) => each.length) && byTarget.size === targets.flat().length && byTarget.size <= MOST_ENTRIES;
  if (!bits.includes(null)) found.say("num_bits", { weight_bits: agreed(bits) ?? (once ? byTarget : "mixed") });
  if (byTarget.size && !byTarget.has("Linear")) found.remark(`Quantized are ${listed(byTarget.keys())}.`);
  const known = weights.filter(Boolean);
  if (!known.length) return;
  found.say("type", { quantizer: all(known, "type", among(tables.kinds)) });
  const symmetric = known.map((part) => found.truth("weight_symmetric", "symmetric", get(part, "symmetric"))),
    sizes = known.map((part) => get(part, "group_size")),
    grouped = sizes.map((size) => (size === -1 ? null : found.number("group_size", "group_size", size, 1, MAX_GROUP)));
  found.say("symmetric", { weight_symmetric: agreed(symmetric) });
  found.say("strategy", { weight_granularity: all(known, "strategy", among(tables.weight_ranges)) });
  found.say("group_size", { group_size: agreed(grouped) });
  const strategy = known.map((part) => words(get(part, "strategy")));
  found.differ("Groups of layers", { symmetric, strategy, group_size: grouped });
  found.say("observer", { weight_range: all(known, "observer", observed(tables.observers)) });
  const ordered = (order) =>
      order === null || order === false ? "natural" : order === true ? "activation" : among(tables.orders)(order),
    order = all(known, "actorder", ordered),
    blocks = all(known, "block_structure");
  found.say(order === "natural" ? tables.no_order : "actorder", { column_order: order });
  if (blocks !== null) {
    const said = Array.isArray(blocks) ? `[${blocks.join(", ")}]` : String(blocks);
    found.remark(`Weights share a scale in blocks of ${words(said, 40)}.`);
  }
}

function ofActivations(activations, found, tables) {
  const about = "input_activations",
    known = activations.filter(Boolean);
  found.say(about, { activation_bits: agreed(widths(activations, "activation_bits", `${about}.num_bits`, found)) });
  if (!known.length) return;
  found.say(`${about}.symmetric`, { activation_symmetric: all(known, "symmetric", truth) });
  found.say(`${about}.strategy`, { activation_granularity: all(known, "strategy", among(tables.activation_ranges)) });
  found.say(`${about}.dynamic`, { activation_dynamic: all(known, "dynamic", truth) });
  found.say(`${about}.observer`, { activation_range: all(known, "observer", observed(tables.observers)) });
  if (known.some((part) => get(part, "dynamic") === "local"))
    found.remark("Scales of groups of activations are found as it runs, one of the tensor before.");
  if (known.some((part) => ["group", "tensor_group", "block"].includes(get(part, "strategy")))) {
    const sizes = all(known, "group_size", group);
    found.remark(`Activations share a scale in groups${sizes ? ` of ${sizes}` : ""}.`);
  }
  if (all(known, "type") === "float") found.remark("Codes of activations are small floating-point numbers.");
}

function ofTheRest(settings, schemes, found, tables) {
  found.sayLeft("ignore", get(settings, "ignore"));
  if (schemes.length && schemes.every((scheme) => same(get(scheme, "targets"), ["Linear"])))
    found.say("targets: Linear, which a table is not", { embedding_bits: "float" });
  if (settings.has("kv_cache_scheme")) {
    const cache = get(settings, "kv_cache_scheme");
    found.say("kv_cache_scheme", { kv_bits: cached(cache, found, tables.float_codes) });
  }
  const transforms = get(get(settings, "transform_config"), "config_groups");
  if (isMap(transforms)) {
    const kinds = [...transforms.values()].filter(isMap).map((part) => String(get(part, "type") ?? "None"));
    found.say("transform_config", { transform: `${listed([...new Set(kinds)].sort()) || "some"} transforms` });
  }
  const sparsity = words(get(get(settings, "sparsity_config"), "sparsity_structure")),
    status = words(get(settings, "quantization_status")),
    form = words(get(settings, "format"));
  if (sparsity) found.remark(`Weights are sparse, too (${sparsity}).`);
  if (status && status !== "compressed" && status !== "frozen")
    found.remark(`quantization_status ${status}: its weights may not be quantized yet.`);
  if (form) found.remark(`Stored as ${form}.`);
}

function cached(scheme, found, floats) {
  if (!isMap(scheme)) return scheme === null ? "float" : null;
  const bits = found.number("kv_bits", "kv_cache_scheme.num_bits", get(scheme, "num_bits"), 1, 32);
  return get(scheme, "type") === "float" ? floats[bits] : bits;
}

function ofModelopt(settings, found, { modelopt: { algorithms, caches } }) {
  const stated = settings.has("quantization") ? get(settings, "quantization") : settings,
    inner = isMap(stated) ? stated : new Map(),
    algorithm = words(get(inner, "quant_algo"), 60),
    layers = get(inner, "quantized_layers");
  if (Object.hasOwn(algorithms, algorithm ?? "")) {
    found.say(`quant_algo ${algorithm}`, algorithms[algorithm]);
    found.say("group_size", { group_size: found.number("group_size", "group_size", get(inner, "group_size"), 1, MAX_GROUP) });
  } else if (algorithm === "MIXED_PRECISION" && isMap(layers)) ofLayers(layers, found, algorithms);
  else if (algorithm) found.remark(`What quant_algo ${algorithm} means, this qlib does not know.`);
  const shifted = found.truth("weight_symmetric", "has_zero_point", get(inner, "has_zero_point")),
    cache = "kv_cache_quant_algo",
    producer = get(settings, "producer");
  found.say("has_zero_point", { weight_symmetric: shifted === null ? null : !shifted });
  if (inner.has(cache) && inner.get(cache) === null) found.say(`${cache} null`, { kv_bits: "float" });
  const kind = words(get(inner, cache), 60);
  found.say(cache, { kv_bits: among(caches)(kind) });
  if (kind && !Object.hasOwn(caches, kind)) found.remark(`What ${cache} ${kind} means, this qlib does not know.`);
  found.sayLeft("exclude_modules", get(inner, inner.has("exclude_modules") ? "exclude_modules" : "ignore"));
  const maker = words(get(producer, "name"));
  if (maker) found.remark(`Made by ${maker} ${words(get(producer, "version"), 40) ?? ""}`.trim() + ".");
}

/** Bits layer by layer; of other choices what all layers share. */
function ofLayers(layers, found, algorithms) {
  const each = [...layers].map(([name, entry]) => [words(name) ?? "?", among(algorithms)(get(entry, "quant_algo")), entry]);
  if (!each.length || each.some(([, known]) => known === null)) {
    found.remark("Of quantized_layers some have a quant_algo that this qlib does not know.");
    return;
  }
  found.differ("Quantized layers", { quant_algo: each.map(([, , entry]) => get(entry, "quant_algo")) });
  const bits = new Map(each.map(([name, known]) => [name, known.weight_bits])),
    shared = new Set(each.flatMap(([, known]) => Object.keys(known)));
  const alike = Object.fromEntries([...shared].map((name) => [name, agreed(each.map(([, known]) => known[name]))]));
  found.say("quantized_layers", {
    ...alike,
    weight_bits: bits.size <= MOST_ENTRIES ? bits : "mixed",
    group_size: agreed(each.map(([, , entry]) => group(get(entry, "group_size")))),
  });
}
