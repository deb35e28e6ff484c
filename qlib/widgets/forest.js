// A forest plot: a row for every claim and bench, on one axis of points that is fine around zero.
import { element, frame, published, responsive, scale, shape, signed, signedTick } from "./kit.js";

const HEIGHT = 26,
  TICKS = [-30, -10, -3, -1, 0, 1, 3, 10, 30];
const place = Math.asinh; // like a line near zero, like a logarithm beyond
const SHAPES = {
  holds: (x, y) => shape("circle", { cx: x, cy: y, r: 5.5 }),
  "does not hold": (x, y) => shape("rect", { x: x - 5, y: y - 5, width: 10, height: 10 }),
  "undecided here": (x, y) => shape("path", { d: `M${x} ${y - 6.5}l6.5 6.5-6.5 6.5-6.5-6.5z` }),
  "undecided (images only)": (x, y) => shape("path", { d: `M${x} ${y - 6}l6.5 11h-13z` }),
};

function render({ model, el }) {
  const rows = model.get("rows"),
    looks = model.get("looks"),
    root = frame(el, "Every claim on every bench"),
    ends = rows.flatMap(({ difference: d }) => [d.low, d.high, ...d.seeds]),
    low = place(Math.min(-1.2, ...ends)) - 0.15,
    high = place(Math.max(1.2, ...ends)) + 0.15;
  const info = element("div", { role: "status", class: "info" }),
    list = element("div"),
    buttons = [],
    axes = []; // one under every heading
  let pinned = null;

  const style = element(
    "style",
    {},
    `h3 { font: 600 15px/1.3 system-ui, sans-serif; margin: 1rem 0 0.2rem; }
     .claim { margin: 0.5rem 0 0; }
     .line { display: grid; grid-template-columns: 5.6rem 1fr 3.2rem; align-items: center; width: 100%; border: 0; padding: 0;
       min-height: ${HEIGHT}px; text-align: left; border-radius: 3px; }
     button.line:hover, button.line:focus-visible, button.line[aria-pressed=true] { background: #8883; color: inherit; }
     .dark button.line[aria-pressed=true] { color: inherit; }
     .info { position: sticky; bottom: 0; background: var(--paper); border-top: 2px solid var(--line); padding: 0.4rem 0; min-height: 7.2em; }
     section { --paper: #fff; } section.dark { --paper: #121212; }
     .line > span:first-child { line-height: 1.15; overflow-wrap: anywhere; }
     .count { text-align: right; font-variant-numeric: tabular-nums; }
     .key { display: inline-flex; gap: 0.3rem; align-items: center; }`,
  );

  function tell(row) {
    const { difference: d, verdict } = row,
      networks = Object.entries(row.networks);
    const line = (...parts) => element("p", { style: "margin: 0.15rem 0" }, ...parts);
    const content = [
      line(
        element("b", {}, `${row.bench}: ${verdict}. `),
        `${signed(d.points)} points, 95 % interval ${signed(d.low)} to ${signed(d.high)}. `,
        networks.length < 2 && d.seeds.length > 1 ? `Seeds: ${d.seeds.map((v) => signed(v)).join(", ")}.` : "",
      ),
      line(
        `It holds in ${row.holds_in} networks: `,
        networks.map(([name, [points, said]]) => `${name} ${signed(points)}${said === "holds" ? "" : ` (${said})`}`).join(", "),
        ".",
      ),
      line(`The paper: ${row.paper}. ${row.about}`),
      line("Rows: ", element("code", {}, `book/results/${row.bench}/${row.table}.csv`), networks.length > 1 ? " and that of its name with " : "", networks.length > 1 ? element("code", {}, "-networks") : "", ". "),
    ];
    if (published())
      content.at(-1).append(
        element("a", { href: `${document.documentElement.dataset.content_root}notebooks/${row.lesson}.html` }, "The lesson"),
      );
    info.replaceChildren(...content);
  }

  function draw(width) {
    const x = scale(low, high, 8, width - 8),
      at = (value) => x(place(value));
    const grid = (height) =>
      TICKS.filter((v) => place(v) > low && place(v) < high).map((v) =>
        shape("line", {
          x1: at(v),
          x2: at(v),
          y1: 0,
          y2: height,
          stroke: "currentColor",
          "stroke-opacity": v === 0 ? 0.8 : 0.15,
        }),
      );
    rows.forEach((row, i) => {
      const { difference: d, verdict, band, by } = row,
        y = HEIGHT / 2,
        colour = looks[verdict];
      const svg = shape("svg", { height: HEIGHT, "aria-hidden": "true" }, ...grid(HEIGHT));
      if (band)
        svg.append(
          shape("rect", { x: at(-band), width: at(band) - at(-band), y: 2, height: HEIGHT - 4, fill: "currentColor", "fill-opacity": 0.12 }),
        );
      if (by)
        svg.append(
          shape("line", { x1: at(by), x2: at(by), y1: 0, y2: HEIGHT, stroke: "currentColor", "stroke-dasharray": "3 2", "stroke-width": 1.5 }),
        );
      svg.append(
        shape("line", { x1: at(d.low), x2: at(d.high), y1: y, y2: y, stroke: colour, "stroke-width": 3 }),
        ...(d.seeds.length > 1 ? d.seeds : []).map((v) =>
          shape("circle", { cx: at(v), cy: y + 8, r: 2, fill: "currentColor", "fill-opacity": 0.65 }),
        ),
      );
      if (row.paper_points !== null)
        svg.append(
          shape("path", { d: `M${at(row.paper_points)} 7l4-6h-8z`, fill: "none", stroke: "currentColor", "stroke-width": 1.5 }),
        );
      const mark = SHAPES[verdict](at(d.points), y);
      mark.setAttribute("fill", colour);
      svg.append(mark);
      buttons[i].children[1].replaceChildren(svg);
    });
    for (const axis of axes) {
      const svg = shape("svg", { height: 18 });
      for (const v of TICKS.filter((t) => place(t) > low && place(t) < high))
        svg.append(shape("text", { x: at(v), y: 14, "text-anchor": "middle" }, signedTick(v)));
      axis.children[1].replaceChildren(svg);
    }
  }

  let group, claim;
  rows.forEach((row, i) => {
    if (row.group !== group) {
      axes.push(element("div", { class: "line", "aria-hidden": "true" }, element("span", {}, "points"), element("span"), element("span", { class: "count" }, "holds in")));
      list.append(element("h3", {}, (group = row.group)), axes.at(-1));
    }
    if (row.claim !== claim) list.append(element("p", { class: "claim" }, (claim = row.claim)));
    buttons[i] = element(
      "button",
      {
        type: "button",
        class: "line",
        "aria-pressed": "false",
        "aria-label": `${row.claim}, ${row.bench}: ${row.said}, ${row.verdict}; holds in ${row.holds_in} networks`,
        mouseenter: () => pinned === null && tell(row),
        focus: () => pinned === null && tell(row),
        click: () => {
          pinned = pinned === i ? null : i;
          buttons.forEach((b, j) => b.setAttribute("aria-pressed", String(pinned === j)));
          tell(row);
        },
      },
      element("span", {}, row.bench),
      element("span"),
      element("span", { class: "count" }, row.holds_in.replace(" of ", "/")),
    );
    list.append(buttons[i]);
  });
  const keys = Object.entries(looks).map(([verdict, colour]) => {
    const mark = SHAPES[verdict](8, 8);
    mark.setAttribute("fill", colour);
    return element("span", { class: "key" }, shape("svg", { width: 16, height: 16, style: "width: 16px; flex: none" }, mark), verdict);
  });
  info.append(
    element("p", {}, "Point at a row, or tap it, to see what stands behind it. Dots are networks, or seeds where fewer than three networks were asked; at the right, in how many networks the claim holds; the grey band is where no difference holds; an open triangle is the paper's own number."),
  );
  root.append(style, element("div", { class: "row" }, ...keys), list, info);
  responsive(axes[0].children[1], draw);
}

export default { render };
