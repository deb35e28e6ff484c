// The tradeoff explorer: what a bench measures against bits, from recorded rows, a line for each set of choices.
import {
  COLOURS,
  announcer,
  axes,
  choice,
  decades,
  element,
  four,
  frame,
  fromAddress,
  permanentLink,
  published,
  responsive,
  scale,
  shape,
  ticks,
} from "./kit.js";

const HEIGHT = 340,
  MARGIN = { left: 40, right: 12, top: 28, bottom: 44 },
  ALL = "compare all",
  MOST = COLOURS.length;
const MARKS = [
  // one a line, so that colour is not the only difference
  (x, y) => shape("circle", { cx: x, cy: y, r: 4.5 }),
  (x, y) => shape("rect", { x: x - 4, y: y - 4, width: 8, height: 8 }),
  (x, y) => shape("path", { d: `M${x} ${y - 5}l5 9h-10z` }),
  (x, y) => shape("path", { d: `M${x} ${y - 6}l6 6-6 6-6-6z` }),
  (x, y) => shape("path", { d: `M${x} ${y + 5}l5-9h-10z` }),
  (x, y) => shape("path", { d: `M${x - 5} ${y - 2}h3v-3h4v3h3v4h-3v3h-4v-3h-3z` }),
  (x, y) => shape("rect", { x: x - 5, y: y - 3, width: 10, height: 6 }),
  (x, y) => shape("rect", { x: x - 3, y: y - 5, width: 6, height: 10 }),
];
const hundredths = (value) => value.toFixed(2);

function render({ model, el }) {
  const tables = model.get("tables"),
    root = frame(el, "Tradeoff explorer"),
    spoken = announcer(),
    { link, update } = permanentLink("tradeoffs");
  const first = fromAddress("tradeoffs", { table: tables[0].table, bench: "" });
  const number = (t) => (t.observation ? `${t.observation}: ` : "beside: ");
  const byTable = choice(
    "Observation",
    tables.map((t) => [t.table, number(t) + t.title]),
    first.table,
    () => begin(),
  );
  const byBench = choice("Bench", benchesOf(tables.find((t) => t.table === byTable.value)), first.bench, () =>
    begin(byBench.value, chosen()),
  );
  const fields = element("div", { class: "controls" }),
    picture = element("div"),
    legend = element("div", { class: "row" });
  const said = element("blockquote", { style: "margin: 0.4rem 0; padding-left: 0.8rem; border-left: 3px solid #8888" });
  const about = element("p"),
    held = element("p"),
    head = element("tr"),
    body = element("tbody");
  const save = element("button", { type: "button", click: download }, "Download these rows");
  let controls = {};

  const table = () => tables.find((t) => t.table === byTable.value);
  const data = () => table().benches[byBench.value];
  const measure = () => data().measure;
  const read = (value) => (measure().unit ? hundredths : four)(value);
  const measured = () => measure().label;
  const capital = (text) => text[0].toUpperCase() + text.slice(1);
  const chosen = () => Object.fromEntries(Object.entries(controls).map(([name, c]) => [name, c.value]));
  const visible = (given = chosen()) =>
    data().lines.filter((line) => Object.entries(given).every(([name, v]) => v === ALL || (line.fields[name] ?? "") === v));
  function benchesOf(t) {
    return tables
      .flatMap((other) => Object.keys(other.benches))
      .filter((b, i, every) => every.indexOf(b) === i)
      .map((b) => [b, Object.hasOwn(t.benches, b) ? b : `${b} (not recorded)`, !Object.hasOwn(t.benches, b)]);
  }
  const usual = () => ({
    table: tables[0].table,
    bench: Object.keys(table().benches)[0],
    ...Object.fromEntries(Object.keys(controls).map((n) => [n, table().start[n] ?? ALL])),
  });

  function begin(bench = byBench.value, given = {}) {
    byBench.set(Object.hasOwn(table().benches, bench) ? bench : Object.keys(table().benches)[0], benchesOf(table()));
    const names = [...new Set(data().lines.flatMap((line) => Object.keys(line.fields)))];
    controls = {};
    for (const name of names) {
      const start = fromAddress("tradeoffs", { [name]: given[name] ?? table().start[name] ?? ALL })[name];
      controls[name] = choice(name, [[ALL, ALL], ...valuesOf(name).map((v) => [v, v])], start, show);
    }
    fields.replaceChildren(byBench.label, ...Object.values(controls).map((c) => c.label));
    show();
  }
  const valuesOf = (name) => [...new Set(data().lines.map((line) => line.fields[name] ?? ""))].sort();

  function show() {
    for (const [name, control] of Object.entries(controls)) {
      // what would leave no line, beside the other choices, cannot be chosen
      control.set(control.value, [
        [ALL, ALL],
        ...valuesOf(name).map((v) => {
          const none = !visible({ ...chosen(), [name]: v }).length;
          return [v, none ? `${v} (not recorded with the rest)` : v, none];
        }),
      ]);
    }
    const lines = visible(),
      looks = looksOf(lines.slice(0, MOST)),
      t = table();
    said.hidden = !t.statement;
    said.replaceChildren(t.statement ? `Observation ${t.observation}: ${t.statement}` : "");
    const page = `${document.documentElement.dataset.content_root}notebooks/${t.lesson}.html`;
    about.replaceChildren(
      ...(published() && !location.pathname.includes(t.lesson)
        ? [
            element("a", { href: page }, "The lesson"),
            " explains it, and compares example by example, which gives narrower intervals.",
          ]
        : []),
    );
    held.replaceChildren(
      element("b", {}, "The same in every line: "),
      Object.entries(data().same)
        .map(([k, v]) => `${k.toLowerCase()} ${v}`)
        .join("; ") + ".",
    );
    head.replaceChildren(
      ...["Line", t.x, capital(measured()), "95 % interval", "Seeds", "Examples"].map((h) => element("th", { scope: "col" }, h)),
    );
    body.replaceChildren(
      ...lines.flatMap((line) =>
        line.points.map((p) =>
          element(
            "tr",
            {},
            element("th", { scope: "row" }, nameOf(line)),
            ...[p.x, read(p.value), `${read(p.low)} to ${read(p.high)}`, spread(p), p.n.toLocaleString("en")].map((v) =>
              element("td", {}, String(v)),
            ),
          ),
        ),
      ),
    );
    legend.replaceChildren(
      ...lines.slice(0, MOST).map((line, i) =>
        element(
          "span",
          { class: "row", style: "gap: 0.35rem" },
          shape(
            "svg",
            {
              width: 22,
              height: 14,
              style: "width: 22px; flex: none",
              "aria-hidden": "true",
              fill: looks[i][0],
              stroke: looks[i][0],
            },
            shape("line", { x1: 0, x2: 22, y1: 7, y2: 7, "stroke-width": 2 }),
            MARKS[looks[i][1]](11, 7),
          ),
          nameOf(line),
        ),
      ),
      ...(lines.length > MOST
        ? [element("span", {}, `and ${lines.length - MOST} more in the table below; choose above to see fewer`)]
        : []),
    );
    update({ table: byTable.value, bench: byBench.value, ...chosen() }, usual());
    redraw();
    const way = measure().greater ? 1 : -1,
      best = lines.flatMap((line) => line.points.map((p) => [p.value, nameOf(line), p.x])).sort((a, b) => way * (b[0] - a[0]))[0];
    spoken.say(
      `${lines.length} lines on ${byBench.value}. Best: ${best[1]}, ${measured()} ${read(best[0])} at ${best[2]} ${t.x}.`,
    );
  }

  /** The colour and marker of every line: those of the first thing that tells it from others and has its own, else the next free. */
  function looksOf(lines) {
    const looks = model.get("looks"),
      taken = new Set();
    const own = lines.map((line) => {
      const thing = telling(line).find((v) => Object.hasOwn(looks, v) && !taken.has(String(looks[v])));
      if (thing) taken.add(String(looks[thing]));
      return thing && looks[thing];
    });
    const colours = COLOURS.filter((c) => !own.some((look) => look?.[0] === c));
    return own.map((look, i) => look ?? [colours.shift() ?? COLOURS[i], i]);
  }
  const telling = (line) =>
    Object.entries(line.fields)
      .filter(([name, v]) => visible().some((other) => other.fields[name] !== v))
      .map(([, v]) => v);
  const nameOf = (line) => telling(line).join(", ") || Object.values(line.fields).join(", ") || "all rows";
  const spread = (p) =>
    p.seeds.length < 2
      ? "1"
      : `${p.seeds.length}, ${Math.min(...p.seeds.map(([, t]) => t)).toFixed(1)} to ${Math.max(...p.seeds.map(([, t]) => t)).toFixed(1)}`;

  const redraw = responsive(picture, (width) => {
    const lines = visible().slice(0, MOST),
      looks = looksOf(lines),
      every = lines.flatMap((line) => line.points),
      floats = Object.entries(data().float).sort((a, b) => b[1] - a[1]);
    const place = table().log ? Math.log2 : (v) => v,
      xs = [...new Set(every.map((p) => p.x))].sort((a, b) => a - b);
    const [left, right] = [place(xs[0]), place(xs.at(-1))],
      room = Math.max(0.25, (right - left) / 20);
    const log = measure().log,
      values = [...every.map((p) => p.value), ...floats.map(([, v]) => v)],
      ends = [...every.flatMap((p) => [p.low, p.high]), ...values],
      percent = measure().unit === "%",
      // ends of intervals may lie below 0, where a logarithm has no place
      top = log ? 1.5 * Math.max(...values) : Math.min(percent ? 100 : Infinity, Math.max(...ends) + 1),
      least = Math.min(...ends),
      low = log ? Math.min(...values) / 1.5 : least < 0 ? least - 2 : Math.max(0, least - 2);
    const sx = scale(left - room, right + room, MARGIN.left, width - MARGIN.right),
      x = (v) => sx(place(v)),
      up = log ? Math.log : (v) => v,
      sy = scale(up(low), up(top), HEIGHT - MARGIN.bottom, MARGIN.top),
      y = (v) => sy(up(Math.min(top, Math.max(low, v))));
    const svg = shape("svg", {
      height: HEIGHT,
      role: "img",
      "aria-label": `${capital(measured())} against ${table().x} on ${byBench.value}, ${lines.length} lines: ${lines.map(nameOf).join("; ")}. The table below has the numbers.`,
    });
    svg.append(
      axes({
        width,
        height: HEIGHT,
        margin: MARGIN,
        x,
        y,
        xTicks: table().log ? xs : ticks(xs[0], xs.at(-1), 6).filter((v) => xs.at(-1) - xs[0] < 2 || Number.isInteger(v)),
        yTicks: (log ? decades : ticks)(low, top),
        xName: table().x,
        yName: `${measured()}, bars: 95 % interval`,
        yText: (v) => (v >= 1e4 ? v.toExponential().replace("+", "") : v.toLocaleString("en-US")),
      }),
    );
    floats.forEach(([name, value], i) => {
      const close = i && y(value) - y(floats[i - 1][1]) < 18; // two lines of text
      svg.append(
        shape("line", {
          x1: MARGIN.left,
          x2: width - MARGIN.right,
          y1: y(value),
          y2: y(value),
          stroke: "currentColor",
          "stroke-dasharray": "5 4",
          "stroke-opacity": 0.7,
        }),
        shape(
          "text",
          { x: width - MARGIN.right, y: y(value) + (close ? 14 : -4), "text-anchor": "end" },
          floats.length > 1 ? `float, ${name}` : "float",
        ),
      );
    });
    lines.forEach((line, i) => {
      const group = shape("g", { fill: looks[i][0], stroke: looks[i][0] });
      group.append(
        shape("polyline", {
          points: line.points.map((p) => `${x(p.x)},${y(p.value)}`).join(" "),
          fill: "none",
          "stroke-width": 2,
        }),
      );
      for (const p of line.points)
        group.append(
          shape("line", { x1: x(p.x), x2: x(p.x), y1: y(p.low), y2: y(p.high), "stroke-width": 2 }),
          shape(
            "g",
            {},
            MARKS[looks[i][1]](x(p.x), y(p.value)),
            shape(
              "title",
              {},
              `${nameOf(line)}: ${measured()} ${read(p.value)} (${read(p.low)} to ${read(p.high)}) at ${p.x} ${table().x}`,
            ),
          ),
        );
      svg.append(group);
    });
    picture.replaceChildren(svg);
  });

  function download() {
    const names = Object.keys({ ...data().same, ...chosen() }),
      quote = (v) => (/[",\n]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : v);
    const rows = visible().flatMap((line) =>
      line.points.flatMap((p) =>
        p.seeds.map(([seed, ...accuracy]) => [
          byBench.value,
          table().table,
          ...names.map((name) => line.fields[name] ?? data().same[name] ?? ""),
          p.x,
          seed,
          p.n,
          ...accuracy,
        ]),
      ),
    );
    const text =
      [["bench", "table", ...names, table().x, "seed", "examples", measure().name, "low", "high"], ...rows]
        .map((row) => row.map(quote).join(","))
        .join("\n") + "\n";
    const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    element("a", { href: address, download: `${byBench.value}-${table().table}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  byTable.label.style.gridColumn = "1 / -1";
  root.append(
    element("div", { class: "controls" }, byTable.label),
    fields,
    said,
    picture,
    legend,
    about,
    held,
    element("div", { class: "row" }, save, link),
    element(
      "details",
      {},
      element("summary", {}, "The numbers"),
      element(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "The numbers" },
        element(
          "table",
          {},
          element(
            "caption",
            {},
            "Mean over seeds; the interval is for seeds and examples, of fewer than three seeds for examples only",
          ),
          element("thead", {}, head),
          body,
        ),
      ),
    ),
    spoken.line,
  );
  begin(first.bench);
}

export default { render };
