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

// What was typed, as YAML: numbers, true, false, lists and mappings as they stand, everything else in quotes.
function scalar(typed) {
  try {
    return JSON.stringify(JSON.parse(typed));
  } catch {
    return JSON.stringify(typed);
  }
}

function makeForm(box, schema) {
  const inputs = [];
  const resolve = (part) => (part.$ref ? schema.$defs[part.$ref.split("/").pop()] : part);
  const addField = (parent, category, name, field) => {
    const id = `card-${category || "top"}-${name}`;
    const kinds = (field.anyOf || [field]).map(resolve);
    const choices = kinds.flatMap((kind) => kind.enum || (kind.type === "boolean" ? ["true", "false"] : []));
    const input = choices.length
      ? element("select", { id }, element("option", { value: "" }, "not reported"), ...choices.map((c) => element("option", {}, c)))
      : element("input", { id, type: "text", placeholder: (field.examples || []).map((e) => JSON.stringify(e)).join(" or ") || "not reported" });
    input.setAttribute("aria-describedby", `${id}-help`);
    parent.append(element("div", { class: "card-field" }, element("label", { for: id }, field.title), input,
      element("small", { id: `${id}-help` }, field.description || "")));
    inputs.push({ category, name, input, quoted: kinds.every((kind) => kind.type !== "boolean" && !kind.anyOf && kind.type !== "number"
      && kind.type !== "integer" && kind.type !== "array") });
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
  const save = element("a", { download: "card.yaml", class: "card-save" }, "Save card.yaml");
  const write = () => {
    const lines = [`schema_version: ${schema.properties.schema_version.const}`];
    let last = "";
    for (const { category, name, input, quoted } of inputs) {
      const typed = input.value.trim();
      if (!typed && name !== "name") continue;
      if (category && category !== last) lines.push(`${category}:`);
      last = category;
      lines.push(`${category ? "  " : ""}${name}: ${quoted ? JSON.stringify(typed || "unnamed") : scalar(typed)}`);
    }
    output.textContent = lines.join("\n") + "\n";
    save.href = "data:text/yaml;charset=utf-8," + encodeURIComponent(output.textContent);
  };
  box.addEventListener("input", write);
  box.append(output, element("p", {}, save, " and check it with ", element("code", {}, "qlib card validate card.yaml"), "."));
  write();
}

const table = document.querySelector(".catalogue");
if (table) makeCatalogue(table);
const schema = document.getElementById("card-schema");
if (schema) makeForm(document.getElementById("card-form"), JSON.parse(schema.textContent));
