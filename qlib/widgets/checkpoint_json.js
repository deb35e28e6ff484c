// JSON as qlib/cards/checkpoint/files.py takes it: bounded, no key twice, and whole numbers told from those with a point.
import { commas, Fault, Float, isMap } from "./checkpoint_found.js";

/** The mapping that a file holds, as a Map. */
export async function readJson(file, limits) {
  if (file.size > limits.bytes) throw new Fault(`larger than ${commas(limits.bytes)} bytes`);
  return parse(decoded(await file.arrayBuffer()), limits);
}

function decoded(buffer) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(buffer);
  } catch {
    throw new Fault("not a text file in UTF-8");
  }
}

function parse(text, limits) {
  const token =
    /[ \t\n\r]*(?:([{}[\],:])|("[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*")|(-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?)|(true|false|null)|($))/y;
  if ((text.match(/[{[]/g) ?? []).length > limits.parts || (text.match(/,/g) ?? []).length > limits.values)
    throw new Fault(`more than ${commas(limits.parts)} lists and mappings, or ${commas(limits.values)} values`);
  const fault = () => new Fault(`not JSON, line ${text.slice(0, token.lastIndex).split("\n").length}`);
  const next = () => {
    const start = token.lastIndex,
      found = token.exec(text);
    if (found) return found;
    token.lastIndex = start;
    throw fault();
  };
  const plain = (quoted) => {
    try {
      return JSON.parse(quoted);
    } catch {
      throw fault();
    }
  };
  const value = (found, depth) => {
    const [, mark, quoted, digits, point, exponent, word] = found;
    if (quoted !== undefined) return plain(quoted);
    if (digits !== undefined) return point || exponent ? new Float(Number(digits)) : Number(digits);
    if (word !== undefined) return JSON.parse(word);
    if (mark !== "{" && mark !== "[") throw fault();
    if (depth === limits.json_depth) throw new Fault("nested too deeply");
    return mark === "{" ? mapping(depth + 1) : list(depth + 1);
  };
  const more = (end) => {
    const mark = next()[1];
    if (mark !== "," && mark !== end) throw fault();
    return mark === ",";
  };
  const list = (depth) => {
    const made = [];
    let found = next();
    if (found[1] === "]") return made;
    for (; ; found = next()) {
      made.push(value(found, depth));
      if (!more("]")) return made;
    }
  };
  const mapping = (depth) => {
    const made = new Map();
    let found = next();
    if (found[1] === "}") return made;
    for (; ; found = next()) {
      if (found[2] === undefined) throw fault();
      const key = plain(found[2]);
      if (made.has(key)) throw new Fault(`'${[...key].slice(0, 60).join("")}' stands there twice`);
      if (next()[1] !== ":") throw fault();
      made.set(key, value(next(), depth));
      if (!more("}")) return made;
    }
  };
  const whole = value(next(), 0);
  if (next()[7] === undefined) throw fault();
  if (!isMap(whole)) throw new Fault("holds no mapping of settings");
  return whole;
}
