// A league table of methods: one of them gets another choice, and the order may turn round.
import { announcer, choice, element, frame, responsive, scale, shape, ticks } from "./kit.js";

const ROW = 46,
  AXIS = 34,
  mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

function render({ model, el }) {
  const settings = model.get("settings"),
    quantiles = model.get("quantiles"),
    root = frame(el, "A league table of methods"),
    spoken = announcer();
  if (!settings.length) {
    root.append(element("p", { role: "status" }, model.get("missing")));
    return;
  }
  const board = element("div", { class: "board" }),
    axis = element("div", { class: "line" }, element("span"), element("span", { class: "picture" }), element("span")),
    sentence = element("p", { style: "font-size: 1.05rem; min-height: 4.4em" }),
    note = element("p");
  const style = element(
    "style",
    {},
    `.board { position: relative; }
     .line { display: grid; grid-template-columns: minmax(6.2rem, 9rem) 1fr minmax(5.6rem, 8.4rem); gap: 0.5rem; align-items: center; }
     .board .line { position: absolute; left: 0; right: 0; height: ${ROW}px; transition: top 0.5s; }
     @media (prefers-reduced-motion: reduce) { .board .line { transition: none; } }
     .line > span:first-child { line-height: 1.15; }
     @media (max-width: 460px) { .line { grid-template-columns: 5.6rem 1fr 5.2rem; gap: 0.3rem; font-size: 12px; } .line > span:first-child { line-height: 1; } }`,
  );
  const bySetting = choice("Bits", settings.map((s, i) => [i, s.title]), 0, begin);
  const byChoice = choice("What is seldom reported", [["", ""]], "", alike);
  const same = element("button", { type: "button", click: alike }, "All alike"),
    papers = element("button", { type: "button", click: asCards }, "As each paper ran it");
  let rows = [],
    own = false;

  const setting = () => settings[bySetting.value];
  const chosen = () => setting().choices[byChoice.value];

  function begin() {
    byChoice.set(
      Math.max(0, setting().choices.findIndex((c) => c.name === "granularity")),
      setting().choices.map((c, i) => [i, c.name]),
    );
    papers.disabled = Object.keys(setting().own).length < 2;
    board.style.height = `${setting().methods.length * ROW}px`;
    rows = setting().methods.map((method, i) => {
      const level = choice("", [["", ""]], "", () => {
        own = false;
        show();
      });
      level.input.setAttribute("aria-label", `${method.name}: level of the choice`);
      const place = element("span", {}),
        picture = element("span", { class: "picture" });
      return { method, i, level, place, picture, line: element("div", { class: "line" }, place, picture, level.input) };
    });
    board.replaceChildren(...rows.map((row) => row.line));
    alike();
  }

  function alike() {
    own = false;
    for (const row of rows) row.level.set(0, chosen().levels.map((text, i) => [i, text]));
    show();
  }

  function asCards() {
    own = true;
    show();
  }

  /** Points lost by network, and the range of means that a card leaves open. */
  function lost(row) {
    const fills = own && setting().own[row.method.name];
    if (fills) {
      const means = fills.map(mean);
      const all = fills[0].map((_, n) => mean(fills.map((fill) => fill[n])));
      return { values: all, open: [Math.min(...means), Math.max(...means)] };
    }
    return { values: own ? setting().all[row.i] : chosen().lost[row.level.value][row.i], open: null };
  }

  function interval(values) {
    const m = mean(values),
      n = values.length,
      spread = Math.sqrt(values.reduce((s, v) => s + (v - m) ** 2, 0) / (n - 1)),
      half = n > 1 ? (quantiles[n] * spread) / Math.sqrt(n) : NaN;
    return [m - half, m + half];
  }

  function show() {
    same.setAttribute("aria-pressed", String(!own && rows.every((row) => row.level.value === rows[0].level.value)));
    papers.setAttribute("aria-pressed", String(own));
    for (const row of rows) Object.assign(row, lost(row), { name: row.method.name });
    const order = [...rows].sort((a, b) => mean(a.values) - mean(b.values));
    const usual = own ? setting().all : chosen().lost[0],
      alikeOrder = [...rows].sort((a, b) => mean(usual[a.i]) - mean(usual[b.i])),
      moved = order.filter((row, place) => alikeOrder[place] !== row).length;
    order.forEach((row, place) => {
      row.line.style.top = `${place * ROW}px`;
      row.place.replaceChildren(element("b", {}, `${place + 1}. `), row.name, own && !setting().own[row.name] ? " (no card)" : "");
      row.level.input.disabled = own;
    });
    const [first, second] = order,
      ahead = first.values.map((value, n) => second.values[n] - value),
      [low, high] = interval(ahead),
      networks = setting().networks.length;
    sentence.replaceChildren(
      element("b", {}, first.name),
      ` loses least, ${mean(first.values).toFixed(1)} points of accuracy; `,
      element("b", {}, second.name),
      ` is ${mean(ahead).toFixed(2)} behind`,
      networks > 1 ? ` (95 % interval over ${networks} networks ${low.toFixed(2)} to ${high.toFixed(2)}, ` : " (one network, ",
      networks > 1 && low > 0 ? "so the order is certain here)." : "so the order is not certain).",
      moved ? ` ${moved} of ${rows.length} stand elsewhere than ${own ? "by their means over all cells" : `where all have ${chosen().levels[0]}`}.` : "",
      own ? " Each stands as its card has it, at these bits and as far as it speaks of these choices; without a card, at its mean over all cells. Thick lines: what a card leaves open." : ` Each is a mean over the cells that have its ${chosen().name}.`,
    );
    spoken.say(sentence.textContent);
    note.replaceChildren(
      papers.disabled && setting().cards ? "Rows of each method under its own card are still to come. " : "",
      setting().waiting.length ? `Still to come: ${setting().waiting.join(", ")}. ` : "",
      `${networks} network${networks > 1 ? "s" : ""}, ${setting().cells} cells of choices that all of these methods have.`,
    );
    redraw();
  }

  const redraw = responsive(axis.children[1], (width) => {
    const s = setting(),
      every = [...s.all, ...s.choices.flatMap((c) => c.lost.flat()), ...Object.values(s.own).flat()];
    const ends = every.flatMap((values) => [mean(values), ...(values.length > 1 ? interval(values) : [])]),
      low = Math.min(0, ...ends),
      high = Math.max(1, ...ends),
      x = scale(low, high, 6, width - 6);
    const marks = ticks(low, high, width < 240 ? 3 : 6);
    const grid = (height) => marks.map((v) => shape("line", { x1: x(v), x2: x(v), y1: 0, y2: height, stroke: "currentColor", "stroke-opacity": 0.15 }));
    for (const row of rows) {
      const y = ROW / 2,
        m = mean(row.values),
        ends = row.values.length > 1 ? interval(row.values) : [m, m];
      const svg = shape("svg", { height: ROW, role: "img", "aria-label": `${row.name}: ${m.toFixed(1)} points lost` }, ...grid(ROW));
      if (row.open)
        svg.append(shape("line", { x1: x(row.open[0]), x2: x(row.open[1]), y1: y, y2: y, stroke: row.method.colour, "stroke-width": 9, "stroke-opacity": 0.45, "stroke-linecap": "round" }));
      svg.append(
        shape("line", { x1: x(ends[0]), x2: x(ends[1]), y1: y, y2: y, stroke: row.method.colour, "stroke-width": 3 }),
        ...row.values.map((v) => shape("circle", { cx: x(v), cy: y + 9, r: 2, fill: "currentColor", "fill-opacity": 0.6 })),
        shape("circle", { cx: x(m), cy: y, r: 6, fill: row.method.colour }),
      );
      row.picture.replaceChildren(svg);
    }
    const svg = shape("svg", { height: AXIS, "aria-hidden": "true" });
    for (const v of marks) svg.append(shape("text", { x: x(v), y: 12, "text-anchor": "middle" }, String(v)));
    svg.append(shape("text", { x: width / 2, y: 29, "text-anchor": "middle" }, width < 240 ? "points lost" : "points of accuracy lost (dots: networks)"));
    axis.children[1].replaceChildren(svg);
  });

  root.append(
    style,
    element("div", { class: "controls" }, byChoice.label, bySetting.label),
    element("div", { class: "row" }, same, papers),
    board,
    axis,
    sentence,
    note,
    spoken.line,
  );
  begin();
}

export default { render };
