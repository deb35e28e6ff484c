// The catalogue's table is sorted and filtered, and a form writes a card. Both work without a kernel; neither sends anything.
"use strict";

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function makeCatalogue(box) {
  const table = box.querySelector("table"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const text = (row, i) => row.cells[i].textContent.trim();
  // On a phone a row becomes a list, and every cell says which column it is.
  for (const row of rows) [...row.cells].forEach((cell, i) => (cell.dataset.label = heads[i].textContent));

  const first = box.dataset.columns?.split(" ").map(Number);
  if (first) {
    const picks = element("div", { class: "catalogue-columns" });
    heads.forEach((head, i) => {
      if (!i) return;
      const tick = element("input", { type: "checkbox" });
      tick.checked = first.includes(i);
      const show = () => [head, ...rows.map((row) => row.cells[i])].forEach((cell) => (cell.hidden = !tick.checked));
      tick.addEventListener("change", show);
      picks.append(element("label", {}, tick, " ", head.textContent));
      show();
    });
    box.before(element("details", { class: "catalogue-pick" }, element("summary", {}, "Choose columns"), picks));
  }

  const filter = element("input", { type: "search", id: "catalogue-filter" });
  const count = element("span", { role: "status" });
  const column = element("select", { id: "catalogue-column" }, element("option", { value: "" }, "any column"));
  heads.forEach((head, i) => column.append(element("option", { value: i }, head.textContent)));
  const show = () => {
    const wanted = filter.value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const where = column.value === "" ? row.textContent : text(row, Number(column.value));
      row.hidden = !where.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length}`;
  };
  filter.addEventListener("input", show);
  column.addEventListener("change", show);
  box.before(element("p", { class: "catalogue-controls" }, element("label", { for: "catalogue-filter" }, "Filter "), filter,
    element("label", { for: "catalogue-column" }, " in "), column, " ", count));

  heads.forEach((head, i) => {
    const button = element("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
      const key = (row) => parseFloat(text(row, i).replaceAll(",", ""));
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // what is no number comes last
        return down * (Number.isNaN(x) ? text(a, i).localeCompare(text(b, i)) : x - y);
      });
      body.append(...rows);
    });
  });
  show();
}

// What was typed: numbers, true, false, lists and mappings as in JSON, "2, 4" as a list, everything else as text.
function typedValue(typed, text) {
  if (text) return typed;
  try {
    return JSON.parse(/^\d+(\s*,\s*\d+)+$/.test(typed) ? `[${typed}]` : typed);
  } catch {
    return typed;
  }
}

// As JSON, which YAML reads; characters that YAML forbids or takes for the end of a line are escaped.
function yaml(value) {
  return JSON.stringify(value).replace(/[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
}

// Whether a value is what a part of the card's schema asks for.
function fits(value, part, schema) {
  if (part.$ref) return fits(value, schema.$defs[part.$ref.split("/").pop()], schema);
  if (part.anyOf) return part.anyOf.some((kind) => fits(value, kind, schema));
  if ("const" in part) return value === part.const;
  if (part.enum) return part.enum.includes(value);
  if (part.type === "string") return typeof value === "string" && value.length >= (part.minLength || 0)
    && value.length <= (part.maxLength || Infinity) && (!part.pattern || new RegExp(part.pattern).test(value));
  if (part.type === "boolean") return typeof value === "boolean";
  if (part.type === "number" || part.type === "integer") return typeof value === "number"
    && (part.type === "number" || Number.isInteger(value)) && value >= (part.minimum ?? -Infinity) && value <= (part.maximum ?? Infinity);
  if (part.type === "array") return Array.isArray(value) && value.length >= (part.minItems || 0) && value.length <= part.maxItems
    && value.every((item) => fits(item, part.items, schema));
  if (value === null || typeof value !== "object" || Array.isArray(value)) return false;
  const known = part.properties || {};
  return (part.required || []).every((name) => name in value) && Object.keys(value).length >= (part.minProperties || 0)
    && Object.keys(value).length <= (part.maxProperties ?? Infinity)
    && Object.entries(value).every(([name, item]) => (known[name] || part.additionalProperties) && fits(item, known[name] || part.additionalProperties, schema));
}

// What a part of the card's schema asks for, in words.
function wanted(part, schema) {
  if (part.$ref) return wanted(schema.$defs[part.$ref.split("/").pop()], schema);
  if (part.anyOf) return [...new Set(part.anyOf.map((kind) => wanted(kind, schema)))].join(", or ");
  if ("const" in part) return String(part.const);
  if (part.enum) return `one of ${part.enum.join(", ")}`;
  if (part.type === "boolean") return "true or false";
  if (part.type === "string") return part.pattern?.includes("http") ? "an address that begins with https://" : `text of at most ${part.maxLength ?? "any"} characters`;
  if (part.type === "array") return "a list, such as 2, 4, 8";
  if (part.type === "object") return "a mapping";
  const ends = [part.minimum !== undefined && `from ${part.minimum}`, part.maximum !== undefined && `to ${part.maximum}`].filter(Boolean).join(" ");
  return `a ${part.type === "integer" ? "whole " : ""}number${ends && ` ${ends}`}`;
}

function makeForm(box, schema) {
  const inputs = [];
  const example = (field) => (field.examples || []).map((e) => (typeof e === "string" ? e : JSON.stringify(e))).join(" or ");
  const resolve = (part) => (part.$ref ? schema.$defs[part.$ref.split("/").pop()] : part);
  const addField = (parent, category, name, field) => {
    const id = `card-${category || "top"}-${name}`;
    const kinds = (field.anyOf || [field]).map(resolve);
    const listed = (kind) => kind.enum || (kind.type === "boolean" ? ["true", "false"] : "const" in kind ? [] : null);
    const choices = kinds.every(listed) ? kinds.flatMap(listed) : []; // a list only where it holds all that may be said
    const input = choices.length
      ? element("select", { id }, element("option", { value: "" }, "not reported"), ...choices.map((c) => element("option", {}, c)))
      : element("input", { id, type: "text", placeholder: example(field) });
    const wrong = element("small", { id: `${id}-wrong`, class: "card-wrong", role: "alert" });
    input.setAttribute("aria-describedby", `${id}-help ${id}-wrong`);
    parent.append(element("div", { class: "card-field" }, element("label", { for: id }, field.title), input,
      element("small", { id: `${id}-help` }, field.description || ""), wrong));
    const text = kinds.every((kind) => kind.enum || "const" in kind || kind.type === "string");
    inputs.push({ category, name, field, input, wrong, text });
  };
  const top = element("fieldset", {}, element("legend", {}, "About"));
  for (const name of ["name", "authors", "link", "remarks"]) addField(top, "", name, schema.properties[name]);
  box.replaceChildren(top);
  for (const [category, entry] of Object.entries(schema.properties).filter(([, e]) => e.properties)) {
    const set = element("fieldset", {}, element("legend", {}, entry.title));
    for (const [name, field] of Object.entries(entry.properties)) addField(set, category, name, field);
    box.append(set);
  }
  const output = element("pre", { id: "card-yaml", tabindex: "0", "aria-label": "The card as YAML" });
  const status = element("p", { role: "status" });
  const save = element("a", { download: "card.yaml", class: "card-save" }, "Save card.yaml");
  const write = () => {
    const lines = [`schema_version: ${schema.properties.schema_version.const}`];
    let last = "";
    let mistakes = 0;
    for (const { category, name, field, input, wrong, text } of inputs) {
      const typed = input.value.trim() || (name === "name" ? "unnamed" : ""), value = typedValue(typed, text);
      const bad = typed !== "" && !fits(value, field, schema);
      mistakes += bad;
      input.setAttribute("aria-invalid", bad);
      const hint = example(field) || (name === "link" ? "https://…" : "a shorter text");
      if (bad !== (wrong.textContent !== "")) wrong.textContent = bad ? `Not what belongs here: expected ${wanted(field, schema)}; for example ${hint}` : "";
      if (!typed) continue;
      if (category && category !== last) lines.push(`${category}:`);
      last = category;
      lines.push(`${category ? "  " : ""}${name}: ${yaml(value)}`);
    }
    status.textContent = mistakes ? `${mistakes} of the fields cannot be read yet.` : "This is a valid card.";
    output.textContent = lines.join("\n") + "\n";
    save.href = "data:text/yaml;charset=utf-8," + encodeURIComponent(output.textContent);
  };
  box.addEventListener("input", write);
  box.append(status, output, element("p", {}, save, " and check it with ", element("code", {}, "qlib card validate card.yaml"), "."));
  write();
}

const table = document.querySelector(".catalogue");
if (table) makeCatalogue(table);
const schema = document.getElementById("card-schema");
if (schema) makeForm(document.getElementById("card-form"), JSON.parse(schema.textContent));
