// The same images answered twice: what both got right says nothing of their difference; what only one got right does.
import { announcer, element, frame, responsive, scale, shape, signed, signedTick, slider } from "./kit.js";

function render({ model, el }) {
  const names = model.get("names"),
    colours = model.get("colours"),
    steps = model.get("images"),
    points = model.get("points"),
    root = frame(el, "An interval of a difference"),
    spoken = announcer();
  const picture = element("div"),
    said = element("p");
  const images = slider("Images", { min: 0, max: steps.length - 1 }, 2, () => show(), (i) => steps[i].toLocaleString("en"));
  const seeds = slider("Seeds", { min: 1, max: model.get("seeds") }, 1, () => show());
  const now = () => points[`${steps[images.value]} ${seeds.value}`];
  const every = Object.values(points).flatMap((p) => p.difference.slice(1)),
    low = Math.min(-2, ...every.filter((v) => v > -15)),
    high = Math.max(2, ...every.filter((v) => v < 20));

  const redraw = responsive(picture, (width) => {
    const p = now(),
      n = steps[images.value],
      x = scale(0, n, 2, width - 2),
      text = (at, y, words, anchor = "start") => shape("text", { x: at, y, "text-anchor": anchor }, words);
    const svg = shape("svg", { height: 250, role: "img", "aria-label": said.textContent });
    const fills = ["currentColor", colours[0], colours[1], "currentColor"],
      faint = [0.25, 1, 1, 0.08];
    let from = 0;
    svg.append(text(2, 14, `the answers to ${n.toLocaleString("en")} images, first seed`));
    p.cells.forEach((count, i) => {
      svg.append(
        shape("rect", { x: x(from), y: 22, width: Math.max(0, x(from + count) - x(from)), height: 30, fill: fills[i], "fill-opacity": faint[i] },
          shape("title", {}, `${count} images`)),
      );
      from += count;
    });
    svg.append(
      text(x(p.cells[0] / 2), 42, "both right", "middle"),
      text(2, 72, `only “${names[0]}” right: ${p.cells[1].toLocaleString("en")}`),
      text(2, 90, `only “${names[1]}” right: ${p.cells[2].toLocaleString("en")}`),
      shape("rect", { x: width - 14, y: 62, width: 12, height: 12, fill: colours[0] }),
      shape("rect", { x: width - 14, y: 80, width: 12, height: 12, fill: colours[1] }),
    );
    const s = scale(low, high, 12, width - 12),
      y = 160;
    svg.append(text(2, 124, "the difference in points: interval, and every seed as a dot"));
    for (const v of [-10, -5, 0, 5, 10, 15].filter((v) => v >= low && v <= high))
      svg.append(
        shape("line", { x1: s(v), x2: s(v), y1: 136, y2: 206, stroke: "currentColor", "stroke-opacity": v === 0 ? 0.8 : 0.15 }),
        text(s(v), 222, signedTick(v), "middle"),
      );
    const [value, a, b] = p.difference,
      inside = (v) => Math.min(high, Math.max(low, v));
    svg.append(
      shape("line", { x1: s(inside(a)), x2: s(inside(b)), y1: y, y2: y, stroke: "currentColor", "stroke-width": 4 }),
      shape("circle", { cx: s(inside(value)), cy: y, r: 6, fill: "currentColor" }),
      ...p.seeds.map((v) => shape("circle", { cx: s(inside(v)), cy: y + 24, r: 4, fill: colours[0] })),
    );
    picture.replaceChildren(svg);
  });

  function show() {
    const p = now(),
      [value, low, high] = p.difference,
      few = seeds.value < 3;
    said.replaceChildren(
      element("b", {}, `${signed(value)} points, 95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}: ${p.verdict}. `),
      few
        ? "With fewer than three seeds the interval is for images only, and decides nothing."
        : "It is for seeds and images, both.",
      ` Alone, the two reach ${p.alone.map(([v, l, h]) => `${v.toFixed(1)} % (${l.toFixed(1)} to ${h.toFixed(1)})`).join(" and ")}.`,
    );
    spoken.say(said.textContent);
    redraw();
  }

  root.append(element("div", { class: "controls" }, images.label, seeds.label), picture, said, spoken.line);
  show();
}

export default { render };
