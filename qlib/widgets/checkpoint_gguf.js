// The header of a GGUF file and what it says, as qlib/cards/checkpoint/gguf_header.py and gguf.py have it.
import {
  agreed,
  commas,
  Fault,
  fixed,
  Float,
  Found,
  general,
  listed,
  MOST_ENTRIES,
  number,
  sum,
  words,
} from "./checkpoint_found.js";

const SCALARS = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 }, // bytes, by type of a value
  TEXT = 8,
  ARRAY = 9,
  EMBEDDING = "token_embd.weight",
  HEAD = "output.weight",
  NORM = "output_norm.weight";
const FIRST = 1 << 20; // bytes that are read at first

class More extends Error {}

/** The card's fields, sources and remarks of a GGUF file, of which only the beginning is read. */
export async function ofGguf(file, data) {
  const most = data.limits.header;
  for (let size = FIRST; ; size *= 4) {
    const some = Math.min(size, most, file.size);
    try {
      return ofHeader(new Cursor(await file.slice(0, some).arrayBuffer(), data.limits).header(file.size, data), file.name, data);
    } catch (error) {
      if (!(error instanceof More)) throw error;
      if (some === file.size) throw new Fault("it ends within its header");
      if (some === most) throw new Fault(`its header is longer than ${commas(most)} bytes`);
    }
  }
}

class Cursor {
  constructor(buffer, limits) {
    Object.assign(this, { buffer, limits, view: new DataView(buffer), at: 0, little: true, items: limits.items });
  }

  skip(count) {
    const start = this.at;
    this.at += Number(count);
    if (this.at > this.buffer.byteLength) throw new More();
    return start;
  }

  u32() {
    return this.view.getUint32(this.skip(4), this.little);
  }

  u64() {
    return this.view.getBigUint64(this.skip(8), this.little);
  }

  count(what, most) {
    const found = this.u64();
    if (found > most) throw new Fault(`it claims ${commas(found)} ${what}, more than ${commas(most)}`);
    return Number(found);
  }

  text(count, fatal) {
    const start = this.skip(count);
    return new TextDecoder("utf-8", { fatal, ignoreBOM: true }).decode(new Uint8Array(this.buffer, start, count));
  }

  name() {
    try {
      return this.text(this.count("bytes of a name", this.limits.name), true);
    } catch (error) {
      throw error instanceof TypeError ? new Fault("it has names that are not text") : error;
    }
  }

  scalar(kind) {
    const at = this.skip(SCALARS[kind]),
      { view, little } = this;
    if (kind === 7) return view.getUint8(at) !== 0;
    if (kind === 6) return new Float(view.getFloat32(at, little));
    if (kind === 12) return new Float(view.getFloat64(at, little));
    const bits = 8 * SCALARS[kind],
      sign = kind === 1 || kind === 3 || kind === 5 || kind === 11 ? "Int" : "Uint";
    return Number(view[`get${bits === 64 ? "Big" : ""}${sign}${bits}`](at, little));
  }

  /** A value; of an array its length. */
  value(kind, depth = 0) {
    if (kind in SCALARS) return this.scalar(kind);
    if (kind === TEXT) {
      const length = this.count("bytes of a text", this.limits.header),
        kept = Math.min(length, this.limits.kept),
        found = this.text(kept, false);
      this.skip(length - kept);
      return found;
    }
    if (kind !== ARRAY) throw new Fault(`a value of type ${kind}, which there is not`);
    if (depth === this.limits.depth) throw new Fault("arrays nested too deeply");
    const inner = this.u32(),
      length = Number(this.u64());
    if (inner in SCALARS) {
      this.skip(length * SCALARS[inner]);
      return length;
    }
    this.items -= length;
    if (this.items < 0) throw new Fault(`its arrays hold more than ${commas(this.limits.items)} texts`);
    for (let i = 0; i < length; i++) {
      if (inner === TEXT) this.skip(this.u64());
      else this.value(inner, depth + 1);
    }
    return length;
  }

  tensor(types) {
    const name = this.name(),
      dimensions = this.u32(),
      short = `the tensor '${[...name].slice(0, 60).join("")}'`;
    if (dimensions > this.limits.dimensions) throw new Fault(`${short} has ${commas(dimensions)} dimensions`);
    const sizes = Array.from({ length: dimensions }, () => Number(this.u64())),
      kind = this.u32(),
      offset = Number(this.u64()),
      known = types[kind];
    if (!known) throw new Fault(`${short} is of type ${kind}, which this qlib does not know`);
    const elements = sizes.reduce((product, size) => product * size, 1);
    if (!(elements <= 2 ** 48) || (sizes[0] ?? 1) % known.block)
      throw new Fault(`${short} has sizes that ${known.name} does not allow`);
    const bytes = Math.floor(elements / known.block) * known.bytes;
    return { name, dimensions, kind: known, elements, bytes, end: offset + bytes };
  }

  header(size, data) {
    if (!this.buffer.byteLength) throw new Fault("it is empty");
    if (this.text(Math.min(4, this.buffer.byteLength), false) !== "GGUF") throw new Fault("it does not begin with GGUF");
    const versions = this.limits.versions,
      start = this.at;
    let version = this.u32();
    if (!versions.includes(version) && versions.includes(this.view.getUint32(start, false))) {
      this.little = false;
      version = this.view.getUint32(start, false);
    }
    if (!versions.includes(version)) throw new Fault(`version ${version}, not ${versions.join(" or ")}`);
    const count = this.count("tensors", this.limits.tensors),
      metadata = new Map();
    for (let keys = this.count("keys", this.limits.keys); keys > 0; keys--) {
      const key = this.name();
      if (metadata.has(key)) throw new Fault(`the key '${[...key].slice(0, 60).join("")}' stands there twice`);
      metadata.set(key, this.value(this.u32()));
    }
    const tensors = Array.from({ length: count }, () => this.tensor(data.gguf.tensor_types));
    if (new Set(tensors.map((tensor) => tensor.name)).size < count) throw new Fault("two of its tensors have one name");
    const stated = metadata.has("general.alignment") ? metadata.get("general.alignment") : 32,
      align = Number.isInteger(stated) && stated > 0 ? stated : 1,
      weights = Math.ceil(this.at / align) * align;
    return { metadata, tensors, complete: tensors.every((tensor) => weights + tensor.end <= size) && weights <= size };
  }
}

function ofHeader({ metadata, tensors, complete }, file, data) {
  const found = new Found("GGUF header", data);
  if (!tensors.length) throw new Fault("it holds no weights");
  const parts = number(metadata.get("split.count"), 2, 10_000);
  if (parts) found.remark(`One of ${parts} parts of a checkpoint: of the others nothing is known.`);
  else {
    const tables = new RegExp(`^(?:${data.lookups})`),
      matrices = tensors.filter((tensor) => tensor.dimensions > 1 && tensor.elements);
    ofTensors(tensors, matrices, tables, found);
    if (matrices.length) averages(tensors, matrices, found);
    ofLabels(matrices, metadata, file, found, data);
  }
  ofMetadata(metadata, found);
  found.say("its first bytes", { container: "GGUF" });
  if (!complete) found.broken("it ends before the weights that its header names");
  return found;
}

const total = (tensors, what) => sum(tensors.map((tensor) => tensor[what]));

function ofTensors(tensors, matrices, tables, found) {
  const inner = matrices.filter(({ name }) => !tables.test(name) && name !== HEAD),
    quantized = inner.filter(({ kind }) => typeof kind.bits === "number"),
    of = (name) => tensors.findLast((tensor) => tensor.name === name)?.kind.bits,
    source = "the types of its tensors",
    types = new Map();
  for (const { kind } of tensors) types.set(kind.name, (types.get(kind.name) ?? 0) + 1);
  const common = [...types].sort(([, a], [, b]) => b - a);
  found.remark(`Types of its tensors: ${common.map(([kind, n]) => `${n} ${kind}`).join(", ")}.`);
  if (inner.every(({ kind }) => kind.bits !== null)) {
    const bits = new Map(inner.map(({ name, kind }) => [words(name) ?? "?", kind.bits])),
      alike = agreed(bits.values());
    const said = alike ?? (bits.size && bits.size > MOST_ENTRIES ? "mixed" : bits.size ? bits : null);
    found.say(source, { weight_bits: said, first_last_bits: typeof said === "number" ? "like the rest" : null });
  }
  if (quantized.length) {
    const all = (what) => agreed(quantized.map(({ kind }) => kind[what])),
      blocks = [...new Set(quantized.map(({ kind }) => kind.group))].sort((a, b) => a - b);
    found.say(`${source}: a scale for each block of weights`, {
      weight_granularity: "per_group",
      group_size: all("group"),
      quantizer: all("quantizer"),
      weight_symmetric: all("symmetric"),
      symmetric_grid: all("grid"),
    });
    if (blocks.length > 1) found.remark(`Weights that share a scale: ${blocks.join(" or ")}.`);
  }
  const lookedUp = matrices.filter(({ name }) => tables.test(name));
  found.say(listed(lookedUp.map(({ name }) => name)), { embedding_bits: agreed(lookedUp.map(({ kind }) => kind.bits)) });
  if (of(HEAD) !== undefined) found.say(HEAD, { head_bits: of(HEAD) });
  else if (of(EMBEDDING) !== undefined && of(NORM) !== undefined)
    found.say(`there is no ${HEAD}: llama.cpp takes ${EMBEDDING} for it`, { head_bits: of(EMBEDDING) });
  const biases = tensors.filter(({ name }) => name.endsWith(".bias"));
  found.say("the types of its biases", { bias: agreed(biases.map(({ kind }) => kind.bits)) });
}

const codesOf = (tensors) => sum(tensors.map((tensor) => tensor.elements * tensor.kind.code_bits));
const rounded = (value) => Number(fixed(value, 6));

function averages(tensors, matrices, found) {
  const codes = codesOf(matrices),
    weights = total(matrices, "elements"),
    allOfThem = (8 * total(tensors, "bytes")) / total(tensors, "elements"),
    over = `over the ${commas(weights)} weights of its ${commas(matrices.length)} matrices, embedding and head among them`;
  found.say(`${over}; without scales`, { weight_bytes: codes / 8, average_weight_bits: rounded(codes / weights) });
  found.say(`${over}; over all its tensors ${fixed(allOfThem, 6)}`, {
    effective_weight_bits: rounded((8 * total(matrices, "bytes")) / weights),
  });
}

/** The last label in a name, where labels stand. */
export function labelIn(text, labels) {
  const anyOf = [...labels].sort((a, b) => b.length - a.length).join("|");
  return (
    text
      .toUpperCase()
      .match(new RegExp(`(?<![A-Z0-9])(?:${anyOf})(?![A-Z0-9_])`, "g"))
      ?.at(-1) ?? null
  );
}

/** Hold what the file calls itself against its tensors. */
function ofLabels(matrices, metadata, file, found, { slack, gguf }) {
  const { file_types: fileTypes, tensor_types: tensorTypes } = gguf,
    promised = new Map(Object.values(fileTypes).map(({ label, type }) => [label, type])),
    kinds = new Map(Object.values(tensorTypes).map((kind) => [kind.name, kind])),
    labels = new Map([["general.file_type", fileTypes[metadata.get("general.file_type")]?.label]]);
  for (const [where, text] of [
    ["the file's name", file],
    ["general.name", metadata.get("general.name")],
  ])
    labels.set(where, typeof text === "string" ? labelIn(text, [...promised.keys()]) : null);
  const said = [...labels].filter(([, label]) => label),
    different = new Set(said.map(([, label]) => label)),
    weights = total(matrices, "elements"),
    average = codesOf(matrices) / weights;
  if (different.size > 1)
    found.contradict(said.map(([where, label]) => [label, `${found.about}: ${where}`]));
  for (const label of weights ? different : []) {
    const kind = kinds.get(promised.get(label)),
      share =
        total(
          matrices.filter((tensor) => tensor.kind.name === kind.name),
          "elements",
        ) / weights,
      beside = average - kind.code_bits,
      verdict = Math.abs(beside) <= slack ? "" : `, ${beside > 0 ? "more" : "fewer"} than the label names`;
    found.remark(
      `The label ${label} names ${kind.name}, ${general(kind.code_bits)} bits a weight; ` +
        `${fixed(100 * share, 1)} % of the weights in matrices are of that type, and all have ${fixed(average, 2)} ` +
        `bits${verdict}, ${fixed((8 * total(matrices, "bytes")) / weights, 2)} with scales.`,
    );
  }
}

function ofMetadata(metadata, found) {
  found.say("general.name", { network: words(metadata.get("general.name")) });
  found.say("general.quantized_by", { authors: words(metadata.get("general.quantized_by")) });
  const base = [...metadata].filter(([key]) => /^general\.base_model\.\d+\.name$/.test(key)).map(([, value]) => value);
  if (listed(base)) found.remark(`Base model: ${listed(base)}.`);
  if (metadata.get("tokenizer.ggml.add_bos_token") === true)
    found.remark("Its tokenizer puts a mark at the beginning of a text.");
  if ([...metadata.keys()].some((key) => key.startsWith("quantize.imatrix."))) {
    found.say("quantize.imatrix", { technique: "post-training, weighted by an importance matrix" });
    found.say("quantize.imatrix.dataset", { data: words(metadata.get("quantize.imatrix.dataset")) });
    found.say("quantize.imatrix.chunks_count", { images: number(metadata.get("quantize.imatrix.chunks_count"), 1, 10 ** 9) });
  }
}
