// A box for an answer that checks itself against recorded numbers.
import { element, frame } from "./kit.js";

function render({ model, el }) {
  const root = frame(el, "Exercise"),
    fields = model.get("fields"),
    hint = model.get("hint"),
    right = model.get("right"),
    said = element("p", { role: "status" });
  const inputs = fields.map(({ label, options }) =>
    options
      ? element("select", { "aria-label": label }, element("option", { value: "" }, "choose"), ...options.map((o, i) => element("option", { value: i }, o)))
      : element("input", { type: "text", inputmode: "decimal", size: 8, autocomplete: "off", "aria-label": label, style: "font: inherit; padding: 0.2rem 0.4rem; width: 7rem" }),
  );
  const number = (text) => Number(text.trim().replace(",", ".").replace("−", "-").replace(/\s*%$/, ""));

  function check(event) {
    event.preventDefault();
    const given = inputs.map((input) => input.value);
    if (given.some((text) => text.trim() === "")) return (said.textContent = "Waiting for your answer.");
    const unread = given.findIndex((text, i) => !fields[i].options && !Number.isFinite(number(text)));
    if (unread >= 0) return (said.textContent = `“${given[unread]}” is not a number.`);
    const fits = fields.every(({ answer, within }, i) => Math.abs(number(given[i]) - answer) <= within + 1e-9);
    said.textContent = fits ? `Right. ${right}` : `Not yet: ${hint}`;
  }

  const form = element(
    "form",
    { class: "row", submit: check },
    ...fields.map(({ label }, i) => element("label", {}, element("span", {}, label), inputs[i])),
    element("button", { type: "submit" }, "Check"),
  );
  root.append(form, said);
}

export default { render };
