// A card of a file of a checkpoint that a reader drops here, and what a label of GGUF files stands for. Nothing leaves the page.
import { announcer, element, frame } from "./kit.js";
import { commas, Fault, general, isMap, words } from "./checkpoint_found.js";
import { labelIn, ofGguf } from "./checkpoint_gguf.js";
import { readJson } from "./checkpoint_json.js";
import { ofSettings } from "./checkpoint_settings.js";

const UNKNOWN = "not reported";
const STYLE = `
.drop { border: 2px dashed #888; border-radius: 6px; padding: 0.6rem; margin: 0 0 0.6rem; }
.drop.over { border-color: var(--accent); background: #8882; }
input[type=file], input[type=text] { font: inherit; color: inherit; max-width: 100%; min-height: 32px; }
input[type=text] { width: 100%; background: transparent; border: 1px solid #888; border-radius: 4px; padding: 0.1rem 0.4rem; }
tbody th { width: 45%; }
p, caption, summary { overflow-wrap: anywhere; }`;

async function read(file, data) {
  if (file.name.endsWith(".gguf")) return ofGguf(file, data);
  if (file.name.endsWith(".json")) return ofSettings(await readJson(file, data.limits), file.name, data);
  throw new Fault("this page reads .gguf and .json alone; qlib card from-checkpoint reads the folder");
}

/** The card's values: 32 bits of weights or activations are float. */
function values(found, fields) {
  const word = (bits) => (bits === 32 ? "float" : bits);
  const said = fields.filter(({ name }) => name in found.fields).map((field) => [field, found.fields[field.name]]);
  return said.map(([field, value]) => {
    if (!field.float) return [field, value];
    return [field, isMap(value) ? new Map([...value].map(([name, bits]) => [name, word(bits)])) : word(value)];
  });
}

/** A value in words, as qlib/cards/render.py has it. */
function shown({ words: enumerated }, value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (isMap(value)) {
    if (value.size <= 4) return [...value].map(([name, bits]) => `${name}: ${shown({ words: enumerated }, bits)}`).join(", ");
    const all = [...value.values()],
      numbers = all.filter((bits) => typeof bits === "number"),
      float = all.includes("float") ? " and float" : "",
      span = numbers.length ? `${Math.min(...numbers)} to ${Math.max(...numbers)}${float}` : "in words";
    return `by layer, ${span} (${value.size} entries)`;
  }
  if (Array.isArray(value))
    return value.slice(0, 16).join(", ") + (value.length > 16 ? ` and ${value.length - 16} more` : "") || "none";
  if (typeof value === "string") return enumerated.includes(value) ? value.replaceAll("_", " ") : value;
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const six = general(value);
  return six.includes("e") ? six : Number(six).toLocaleString("en", { maximumSignificantDigits: 6 });
}

/** What is wrong with the file, as qlib/cards/render.py has it. */
function faultLine({ kind, field, said }, fields) {
  const written = (value) => (Number.isInteger(value) || typeof value !== "number" ? String(value) : general(value)),
    title = field ? `${fields.find(({ name }) => name === field).title}: ` : "";
  return `${kind}: ${title}${said.map(({ value, source }) => `${written(value)} (${source})`).join(" against ")}`;
}

const wrongIn = (found, { fields, limits }) =>
  found.faults.slice(0, limits.faults).map((fault) => faultLine(fault, fields));

const row = (title, text, attributes = {}) =>
  element("tr", {}, element("th", { scope: "row" }, title), element("td", attributes, text));

const folded = (title, ...lines) =>
  element("details", {}, element("summary", {}, title), element("ul", {}, ...lines.map((line) => element("li", {}, line))));

function cardOf(name, found, data) {
  const said = values(found, data.fields),
    known = new Set(said.map(([field]) => field.name)),
    missing = data.fields.filter((field) => !known.has(field.name)),
    parts = [];
  for (const category of new Set(said.map(([field]) => field.category))) {
    const heading = element("th", { colspan: 2, scope: "colgroup" }, category),
      rows = said.filter(([field]) => field.category === category);
    parts.push(
      element("thead", {}, element("tr", {}, heading)),
      element(
        "tbody",
        {},
        ...rows.map(([field, value]) =>
          row(field.name === "first_last_bits" && known.has("head_bits") ? `${field.title} of the blocks` : field.title, shown(field, value), {
            "data-name": field.name,
            "data-value": JSON.stringify(isMap(value) ? Object.fromEntries(value) : value),
          }),
        ),
      ),
    );
  }
  const more = found.faults.length - data.limits.faults,
    all = [...(more > 0 ? [`Left out are ${commas(more)} more faults.`] : []), ...found.remarks].join(" "),
    most = data.limits.remarks,
    remarks = [...all].length > most ? `${[...all].slice(0, most - 1).join("")}…` : all,
    { authors } = found.fields;
  const wrong = wrongIn(found, data);
  return [
    ...(wrong.length ? [element("ul", { "data-name": "faults" }, ...wrong.map((line) => element("li", {}, line)))] : []),
    element("table", {}, element("caption", {}, element("b", {}, name)), ...parts),
    ...(authors ? [element("p", {}, `${data.headings.authors}: ${authors}`)] : []),
    ...(remarks ? [element("p", { "data-name": "remarks" }, `${data.headings.remarks}: ${remarks}`)] : []),
    folded(data.headings.sources, ...said.map(([field]) => `${field.title}: ${found.sources[field.name]}`)),
    folded(`Not reported: ${missing.length} more fields`, ...missing.map((field) => field.title)),
  ];
}

/** What a label, a type of tensors, or a file's name with one of them, stands for: rows of a name and a value. */
function decoded(text, { file_types: fileTypes, tensor_types: tensorTypes }) {
  const kinds = new Map(Object.values(tensorTypes).map((kind) => [kind.name, kind])),
    labels = new Map([...kinds.keys()].map((name) => [name, name]));
  for (const { label, type } of Object.values(fileTypes)) labels.set(label, type);
  const label = labelIn(text, [...labels.keys()]);
  if (!label) return null;
  const kind = kinds.get(labels.get(label)),
    yes = (value) => (value === null ? UNKNOWN : value ? "yes" : "no"),
    rows = [
      ["Type of tensors", kind.name],
      ["Bits of a weight", general(kind.code_bits)],
    ];
  if (typeof kind.bits !== "number") return { label, rows: [...rows, ["Quantized", "no"]] };
  return {
    label,
    rows: [
      ...rows,
      ["Bits of a weight with scales", general((8 * kind.bytes) / kind.block)],
      ["Weights in a block", String(kind.block)],
      ["Weights that share a scale", String(kind.group)],
      ["Symmetric", yes(kind.symmetric)],
      ...(kind.grid ? [["Grid", kind.grid]] : []),
      ["Quantizer", kind.quantizer],
    ],
  };
}

function render({ model, el }) {
  const data = model.get("data"),
    root = frame(el, "The card of a checkpoint"),
    spoken = announcer(),
    fault = element("p", { role: "alert" }),
    result = element("div", { class: "result" }),
    told = element("div", { "aria-live": "polite" });
  let latest = 0;

  async function take(files) {
    const mine = ++latest,
      [file] = files;
    fault.textContent = "";
    result.replaceChildren();
    result.ariaBusy = String(Boolean(file));
    if (!file) return;
    const name = words(file.name) ?? "The file";
    try {
      if (files.length > 1) throw new Fault("one file at a time; qlib card from-checkpoint reads the folder");
      const found = await read(file, data);
      if (mine !== latest) return;
      const stem = data.settings.includes(file.name) ? null : words(file.name.replace(/\.\w+$/, ""));
      result.replaceChildren(...cardOf(stem ?? "a checkpoint", found, data));
      spoken.say(`The card of ${name}: ${result.querySelectorAll("td").length} fields. ${wrongIn(found, data).join(". ")} ${found.remarks.join(" ")}`);
    } catch (error) {
      if (mine === latest) fault.textContent = `${name}: ${error instanceof Fault ? error.message : "it cannot be read"}.`;
    }
    if (mine === latest) result.ariaBusy = "false";
  }

  const pick = element("input", { type: "file", accept: ".gguf,.json", change: () => take(pick.files) }),
    drop = element(
      "div",
      {
        class: "drop",
        dragover: (event) => {
          event.preventDefault();
          drop.classList.add("over");
        },
        dragleave: () => drop.classList.remove("over"),
        drop: (event) => {
          event.preventDefault();
          drop.classList.remove("over");
          take(event.dataTransfer.files);
        },
      },
      element("label", {}, element("span", {}, "Choose a GGUF file or config.json, or drop it here"), pick),
      element(
        "p",
        {},
        `Settings may also be in ${data.settings.slice(1).join(", ")}. The file stays on this machine: of a GGUF file its header is read, no weight.`,
      ),
    );
  const tell = () => {
    const found = label.value.trim() ? decoded(label.value, data.gguf) : undefined;
    if (!found) told.replaceChildren(found === null ? "No label that this qlib knows, such as Q4_K_M or IQ3_XXS." : "");
    else
      told.replaceChildren(
        element(
          "table",
          {},
          element("caption", {}, `${found.label} names this type; other tensors of a file may have other types.`),
          element("tbody", {}, ...found.rows.map(([title, text]) => row(title, text))),
        ),
      );
  };
  const label = element("input", { type: "text", autocomplete: "off", spellcheck: "false", maxlength: 300, input: tell });
  label.value = data.start;
  root.append(
    element("style", {}, STYLE),
    drop,
    fault,
    result,
    element("label", {}, element("span", {}, "Decode this label"), label),
    told,
    spoken.line,
  );
  tell();
}

export default { render };
