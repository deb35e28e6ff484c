// What is found in a checkpoint, as qlib/cards/checkpoint/found.py has it, and how Python writes numbers and texts. Mappings are Maps.

export class Fault extends Error {}

/** A number that a file writes with a point or an exponent: no whole number for Python, whatever its value. */
export class Float {
  constructor(value) {
    this.value = value;
  }
}

export const MOST_ENTRIES = 2000;

export class Found {
  constructor(about, data) {
    Object.assign(this, { about, head: new RegExp(`^(?:${data.head})$`), fields: {}, sources: {}, remarks: [], faults: [] });
    this.open = new Set();
  }

  /** State fields, all by one source in the file; what is null or undefined is not stated. */
  say(source, fields) {
    for (const [name, value] of Object.entries(fields)) {
      if (value === null || value === undefined || value === "not reported") continue;
      this.fields[name] = value;
      this.sources[name] = [...`${this.about}: ${source}`].slice(0, 1000).join("");
    }
  }

  /** State what the file does not say and its writer does unless told otherwise. */
  sayUsual(source, fields) {
    this.say(source, Object.fromEntries(Object.entries(fields).filter(([name]) => !(name in this.fields))));
  }

  number(name, key, value, least, most) {
    const found = number(value, least, most);
    if (found === null) this.wrong(name, key, value);
    return found;
  }

  truth(name, key, value) {
    if (typeof value !== "boolean") this.wrong(name, key, value);
    return truth(value);
  }

  /** A key holds what a field cannot be: the field is left open. */
  wrong(name, key, value) {
    if (value === null) return;
    this.open.add(name);
    const source = [...`${this.about}: ${key}`].slice(0, 1000).join("");
    this.faults.push({ kind: "no value", field: name, said: [{ value: plain(value, true), source }] });
  }

  broken(text) {
    this.faults.push({ kind: "broken file", said: [{ value: text, source: this.about }] });
  }

  contradict(said) {
    this.faults.push({ kind: "contradiction", said: said.map(([value, source]) => ({ value: plain(value), source })) });
  }

  differ(what, values) {
    for (const [key, every] of Object.entries(values)) {
      const kinds = [...new Set(every.filter((value) => value !== null).map((value) => String(plain(value))))].sort();
      if (kinds.length > 1) this.remark(`${what} differ in ${key}: ${listed(kinds)}.`);
    }
  }

  unsay(...names) {
    for (const name of names) {
      delete this.fields[name];
      delete this.sources[name];
    }
  }

  sayLeft(source, value) {
    const left = names(value);
    if (left) this.say(source, { float_layers: left, head_bits: left.some((name) => this.head.test(name)) ? "float" : null });
    else if (Array.isArray(value))
      this.remark(`${source}: ${commas(value.length)} entries, which no card has room for, are left in float.`);
  }

  remark(text) {
    this.remarks.push(text);
  }
}

/** A stranger's text in one line of characters that can be printed; null for what is no text. */
export function words(value, most = 200) {
  if (typeof value !== "string") return null;
  const plain = [...value.slice(0, 8 * most)].slice(0, 4 * most).join("");
  const line = [...plain.replace(/[\p{C}\p{Z}]+/gu, " ").trim()];
  return (line.length <= most ? line.join("") : `${line.slice(0, most - 1).join("")}…`) || null;
}

/** A value as a fault names it. */
function plain(value, quoted = false) {
  if (Array.isArray(value)) return `a list of ${commas(value.length)} entries`;
  if (isMap(value)) return `a mapping of ${commas(value.size)} entries`;
  if (typeof value === "boolean") return value;
  const amount = value instanceof Float ? value.value : value;
  if (typeof amount !== "number") return quoted ? JSON.stringify(words(value, 100) ?? "") : (words(value, 100) ?? "");
  if (!(Math.abs(amount) < 2 ** 53)) return "a number beyond 2^53";
  return quoted && value instanceof Float ? `the float ${general(amount)}` : amount;
}

export function listed(values, most = 5) {
  const texts = [...values].map((value) => words(value)).filter(Boolean);
  return texts.slice(0, most).join(", ") + (texts.length > most ? ` and ${texts.length - most} more` : "");
}

/** A list of names as a card has it; null for what is no such list, or too long for one. */
export function names(value) {
  if (!Array.isArray(value) || value.length > MOST_ENTRIES) return null;
  const plain = value.map((name) => words(name));
  return plain.includes(null) ? null : [...new Set(plain)].sort();
}

export const number = (value, least, most) => (Number.isInteger(value) && least <= value && value <= most ? value : null);
export const truth = (value) => (typeof value === "boolean" ? value : null);
export const isMap = (value) => value instanceof Map;
export const get = (map, name) => (isMap(map) ? (map.get(name) ?? null) : null);

export function same(a, b) {
  [a, b] = [a, b].map((value) => (value instanceof Float ? value.value : (value ?? null)));
  if (isMap(a) && isMap(b)) return a.size === b.size && [...a].every(([name, value]) => b.has(name) && same(value, b.get(name)));
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((value, i) => same(value, b[i]));
  return a === b;
}

/** The one value that all have; null if there is none, or if they differ. */
export function agreed(values) {
  const [first, ...rest] = values;
  return rest.every((other) => same(first, other)) ? (first ?? null) : null;
}

export const commas = (value) => value.toLocaleString("en", { maximumSignificantDigits: 21 });
export const sum = (values) => values.reduce((total, value) => total + value, 0);

/** So many digits after the point; half goes to even, as in Python. */
export function fixed(value, digits) {
  const exact = value.toFixed(100),
    cut = exact.length - 100 + digits;
  const even = /[02468]\.?$/.test(exact.slice(0, cut));
  return even && /^50*$/.test(exact.slice(cut)) ? exact.slice(0, cut) : value.toFixed(digits);
}

/** Six digits that count, as Python's format "g" has them. */
export function general(value) {
  const [digits, exponent] = value.toExponential(5).split("e");
  if (value === 0 || (exponent >= -4 && exponent < 6)) return String(Number(value.toPrecision(6)));
  return `${Number(digits)}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
}
