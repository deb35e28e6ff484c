// Two cards side by side, and what a target says about the first. What differs is found here; what it was worth, qlib has looked up.
import { announcer, choice, element, frame, fromAddress, permanentLink } from "./kit.js";

const UNKNOWN = "not reported";

function render({ model, el }) {
  const [fields, cards, pairs, targets] = ["fields", "cards", "pairs", "targets"].map((name) => model.get(name));
  const root = frame(el, "Two cards compared"),
    spoken = announcer(),
    { link, update } = permanentLink("cards");
  const usual = model.get("start"),
    at = fromAddress("cards", usual);
  const named = cards.map((card, i) => [i, card.name]);
  const picks = {
    a: choice("First card", named, at.a, () => show()),
    b: choice("Second card", named, at.b, () => show()),
    target: choice(
      "Chip or runtime",
      targets.map((t, i) => [i, t.title]),
      at.target,
      () => show(),
    ),
  };
  const head = element("p", { style: "font-size: 1.05rem; font-weight: 600" }),
    listed = (lines) => element("ul", {}, ...lines.map((text) => element("li", {}, text))),
    alone = element("div"),
    tables = element("div"),
    fits = element("div");

  function show() {
    const [a, b] = [cards[picks.a.value], cards[picks.b.value]],
      { head: said, methods, worth, open } = pairs[`${picks.a.value} ${picks.b.value}`];
    const parts = { differ: [], open: [] };
    fields.forEach((field, i) => {
      const values = [a.values[i], b.values[i]];
      if (!a.acts[i] && !b.acts[i]) return;
      if (open.includes(field.name)) parts.open.push([field, values]);
      else if (!values.includes(UNKNOWN) && a.which[i] !== b.which[i]) parts.differ.push([field, values]);
    });
    head.textContent = said;
    alone.replaceChildren(
      ...(methods.length ? [element("p", {}, "Their methods alone:"), listed(methods)] : []),
    );
    tables.replaceChildren(
      table(`They differ in ${parts.differ.length} choices`, parts.differ, worth, [a.name, b.name]),
      table(`Not reported by one or both, so ${parts.open.length} possible confounds`, parts.open, {}, [a.name, b.name]),
    );
    const { title, findings } = targets[picks.target.value];
    fits.replaceChildren(
      ...[...new Set([picks.a.value, picks.b.value])].flatMap((i) => [
        element("p", {}, element("b", {}, `${cards[i].name} on ${title}`)),
        listed(findings[i]),
      ]),
    );
    update(Object.fromEntries(Object.entries(picks).map(([name, pick]) => [name, Number(pick.value)])), usual);
    spoken.say(`${said}. ${parts.differ.length} choices differ, ${parts.open.length} are not reported by one or both.`);
  }

  function table(title, rows, worth, names) {
    if (!rows.length) return element("p", {}, title);
    const headings = ["Choice", ...names, "Observation"].map((text) => element("th", { scope: "col" }, text));
    const body = rows.flatMap(([field, values]) => [
      element(
        "tr",
        { "data-field": field.name },
        element("th", { scope: "row" }, field.title),
        ...values.map((v) => element("td", {}, v)),
        element("td", {}, field.observation ? String(field.observation) : "none"),
      ),
      ...(worth[field.name] || []).map((text) =>
        element(
          "tr",
          {},
          element(
            "td",
            { colspan: 4, style: "border: 0; padding-left: 1.2rem" },
            element("div", { style: "max-width: min(42rem, 72vw)" }, text),
          ),
        ),
      ),
    ]);
    return element(
      "details",
      { open: true },
      element("summary", {}, title),
      element(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
        element(
          "table",
          { style: "min-width: 32rem" },
          element("thead", {}, element("tr", {}, ...headings)),
          element("tbody", {}, ...body),
        ),
      ),
    );
  }

  root.append(
    element("div", { class: "controls" }, ...Object.values(picks).map((pick) => pick.label)),
    head,
    alone,
    tables,
    fits,
    element("p", {}, link),
    spoken.line,
  );
  show();
}

export default { render };
