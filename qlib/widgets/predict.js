// A question that a reader answers with a click before reading on, and the answer again beside what was measured.
import { element, frame } from "./kit.js";

const key = (name) => `qlib.predict.${name}`;

function read(name) {
  try {
    return localStorage.getItem(key(name));
  } catch {
    return null; // storage may be switched off
  }
}

function render({ model, el }) {
  const name = model.get("name"),
    options = model.get("options"),
    measured = model.get("measured");
  return measured === null ? ask(el, name, options) : tell(el, name, options, measured, model.get("said"));
}

function ask(el, name, options) {
  const root = frame(el, "Your prediction"),
    kept = element("p", { role: "status" });
  let chosen = read(name);
  const buttons = options.map((text, i) =>
    element(
      "button",
      { type: "button", style: "display: block; width: 100%; text-align: left; margin: 0.25rem 0; padding: 0.35rem 0.8rem", click: () => choose(String(i)) },
      text,
    ),
  );
  function show() {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(chosen === String(i))));
    kept.textContent = chosen === null ? "Click before you read on." : "Kept: it stands beside the result further down.";
  }
  function choose(i) {
    chosen = i;
    try {
      localStorage.setItem(key(name), i);
    } catch {
      // kept on this page only
    }
    window.dispatchEvent(new CustomEvent(key(name), { detail: i }));
    show();
  }
  root.append(...buttons, kept);
  show();
}

function tell(el, name, options, measured, said) {
  const root = frame(el, "Your prediction and the measurement"),
    yours = element("p", { role: "status" });
  const show = (chosen) => {
    const i = chosen === null ? -1 : Number(chosen);
    yours.replaceChildren(
      element("b", {}, "You predicted: "),
      options[i] ?? "nothing yet; go back up and choose",
      options[i] === undefined ? "" : i === measured ? " That is what was measured." : "",
    );
  };
  root.append(yours, element("p", {}, element("b", {}, "Measured: "), `${options[measured]} ${said}`));
  window.addEventListener(key(name), (event) => show(event.detail));
  show(read(name));
}

export default { render };
