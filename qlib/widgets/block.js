// A residual block: two switches move its quantizers; accuracy and memory follow.
import { announcer, element, frame, fromAddress, permanentLink, responsive, scale, shape, slider, tick } from "./kit.js";

const USUAL = { bits: 4, skip: true, residual: true };

function render({ model, el }) {
  const bitsThere = model.get("bits"),
    settings = model.get("settings"),
    top = model.get("float"),
    root = frame(el, "A residual block and its quantizers"),
    spoken = announcer(),
    { link, update } = permanentLink("block"),
    at = fromAddress("block", USUAL);
  const picture = element("div", { style: "max-width: 15rem; flex: 1 1 12rem" }),
    numbers = element("div", { style: "flex: 2 1 16rem; min-width: 0" }),
    said = element("p");
  const bits = slider("Activation bits", { min: bitsThere[0], max: bitsThere.at(-1) }, at.bits, () => show());
  const skip = tick("quantize the skip connection", at.skip, () => show());
  const residual = tick("quantize the residual", at.residual, () => show());
  const most = Math.max(...Object.values(settings).flatMap((s) => s.points.map((p) => p.bytes)));
  const now = () => settings[`${skip.value} ${residual.value}`];
  const point = () => now().points[bitsThere.indexOf(bits.value)];

  function block() {
    const x = (v) => 20 + v * 50,
      y = (v) => 20 + (8.3 - v) * 38;
    const svg = shape("svg", { viewBox: "0 0 245 330", role: "img", "aria-label": `A residual block, ${now().name}` });
    const line = (...points) =>
      shape("polyline", { points: points.map(([a, b]) => `${x(a)},${y(b)}`).join(" "), fill: "none", stroke: "currentColor", "stroke-width": 1.5 });
    const box = (a, b, text, width = 75) => [
      shape("rect", { x: x(a) - width / 2, y: y(b) - 12, width, height: 24, rx: 3, fill: "var(--paper, Canvas)", stroke: "currentColor" }),
      shape("text", { x: x(a), y: y(b) + 4, "text-anchor": "middle" }, text),
    ];
    const q = (a, b) => [
      shape("rect", { x: x(a) - 13, y: y(b) - 12, width: 26, height: 24, rx: 4, fill: now().colour }),
      shape("text", { x: x(a), y: y(b) + 4, "text-anchor": "middle", style: "fill: #fff; font-weight: 700" }, "Q"),
    ];
    svg.append(
      line([2, 8.3], [2, 7.4], [1, 7.4], [1, 3.2], [1.8, 3.2]),
      line([2, 7.4], [3, 7.4], [3, 3.2], [2.2, 3.2]),
      line([2, 3], [2, 0.9]),
      shape("circle", { cx: x(2), cy: y(3.2), r: 9, fill: "none", stroke: "currentColor", "stroke-width": 1.5 }),
      shape("text", { x: x(2), y: y(3.2) + 5, "text-anchor": "middle", style: "font-size: 16px" }, "+"),
      ...box(1, 5.6, "convolutions", 88),
      ...box(2, 2.3, "ReLU", 52),
      shape("text", { x: x(1) - 18, y: y(3.5), "text-anchor": "end" }, "residual"),
      shape("text", { x: x(3) + 8, y: y(5.2) }, "skip"),
      ...(skip.value ? [...q(2, 7.9), ...q(2, 1.4)] : q(1, 6.6)),
      ...(residual.value ? q(1, 4.4) : []),
    );
    picture.replaceChildren(svg);
  }

  const redraw = responsive(numbers, (width) => {
    const p = point(),
      rows = [
        ["accuracy", p.top1, 100, `${p.top1.toFixed(1)} %`, [p.low, p.high], top],
        ["memory of all feature maps", p.bytes, most, `${(p.bytes / 1000).toFixed(0)} kB`],
      ];
    const svg = shape("svg", { height: 150, role: "img", "aria-label": `${p.top1.toFixed(1)} % accuracy, ${(p.bytes / 1000).toFixed(0)} kB` });
    rows.forEach(([name, value, end, text, interval, line], i) => {
      const x = scale(0, end, 2, width - 70),
        y = 24 + i * 68;
      svg.append(
        shape("text", { x: 2, y: y - 6 }, name),
        shape("rect", { x: 2, y, width: x(end) - 2, height: 28, fill: "currentColor", "fill-opacity": 0.07 }),
        shape("rect", { x: 2, y, width: x(value) - 2, height: 28, fill: now().colour, "fill-opacity": i ? 0.6 : 1 }),
        shape("text", { x: x(end) + 6, y: y + 19, style: "font-size: 14px; font-weight: 600" }, text),
      );
      if (interval) svg.append(shape("line", { x1: x(interval[0]), x2: x(interval[1]), y1: y + 14, y2: y + 14, stroke: "currentColor", "stroke-width": 3 }));
      if (line)
        svg.append(
          shape("line", { x1: x(line), x2: x(line), y1: y - 2, y2: y + 30, stroke: "currentColor", "stroke-dasharray": "4 3" }),
          shape("text", { x: x(line), y: y + 42, "text-anchor": "middle" }, "float"),
        );
    });
    numbers.replaceChildren(svg);
  });

  function show() {
    const p = point();
    block();
    redraw();
    said.replaceChildren(
      element("b", {}, `${now().name}, ${bits.value} bits: ${p.top1.toFixed(1)} %`),
      ` (95 % interval ${p.low.toFixed(1)} to ${p.high.toFixed(1)}, ${p.draws} draws, ${model.get("n").toLocaleString("en")} images), ${p.average.toFixed(1)} bits a value on average with what stays in float counted at 32.`,
    );
    spoken.say(said.textContent);
    update({ bits: bits.value, skip: skip.value, residual: residual.value }, USUAL);
  }

  bits.label.style.gridColumn = "1 / -1";
  root.append(
    element("div", { class: "controls" }, skip.label, residual.label, bits.label),
    element("div", { class: "row", style: "align-items: center" }, picture, numbers),
    said,
    element("div", { class: "row" }, link),
    spoken.line,
  );
  show();
}

export default { render };
