// What a tradeoff buys: a point for every choice, points of accuracy that it moves against the time that it takes.
import { announcer, axes, choice, COLOURS, element, frame, responsive, scale, shape, signed, signedTick, slider } from "./kit.js";

const TICKS = [-60, -30, -10, -3, -1, 0, 1, 3, 10, 30, 60];
const place = Math.asinh; // like a line near zero, like a logarithm beyond
const ACCURACY = "Points: on the network of the built-in images, with as many bits as the slider says.";
const unique = (values) => [...new Set(values)];
const options = (values) => values.map((value) => [value, value]);

function render({ model, el }) {
  const names = model.get("names"),
    gains = model.get("gains"),
    settings = model.get("settings"),
    steps = model.get("bits"),
    root = frame(el, "What a tradeoff buys"),
    spoken = announcer();
  const picture = element("div"),
    said = element("p"),
    list = element("tbody");
  const bits = slider("Bits", { min: steps[0], max: steps.at(-1) }, 4, () => show());
  const chips = unique(settings.map((s) => s.chip));
  const chip = choice("Chip", chips.length ? options(chips) : [["", "none timed yet"]], chips[0], () => show());
  const networks = unique(settings.map((s) => s.network));
  const network = choice("Network", networks.length ? options(networks) : [["", "none timed yet"]], networks[0], () => show());
  const hows = unique(settings.map((s) => s.how));
  const how = choice("At once", hows.length ? options(hows) : [["", "none timed yet"]], hows[0], () => show());

  const setting = () => settings.find((s) => s.chip === chip.value && s.network === network.value && s.how === how.value);
  const every = Object.values(gains).flatMap((each) => Object.values(each).flatMap((g) => g.points)),
    low = place(Math.min(-1.2, ...every)) - 0.2,
    high = place(Math.max(1.2, ...every)) + 0.2;

  function points() {
    const now = setting();
    return names.map((name, i) => ({ name, number: i + 1, colour: COLOURS[i % COLOURS.length], gain: gains[name][bits.value], time: now?.times[name] }));
  }

  const redraw = responsive(picture, (width) => {
    const margin = { left: 40, right: 14, top: 26, bottom: 40 },
      height = 330,
      now = setting(),
      shown = points().filter((p) => p.gain && p.time);
    const most = Math.max(1.1, ...(now ? Object.values(now.times).map((t) => Math.min(3, t.ratio[2])) : [])),
      x = scale(0, most, margin.left, width - margin.right),
      y = scale(low, high, height - margin.bottom, margin.top),
      at = (value) => y(place(value)),
      within = (value) => x(Math.min(most, Math.max(0, value)));
    const svg = shape("svg", { height, role: "img", "aria-label": said.textContent });
    svg.append(
      axes({
        width,
        height,
        margin,
        x,
        y: at,
        xTicks: [0, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3].filter((v) => v <= most),
        yTicks: TICKS.filter((v) => place(v) > low && place(v) < high),
        xName: "time, as a share of the float network's",
        yName: "points of accuracy that the choice moves",
        yText: signedTick,
      }),
      shape("line", { x1: x(1), x2: x(1), y1: margin.top, y2: height - margin.bottom, stroke: "currentColor", "stroke-dasharray": "4 3", "stroke-opacity": 0.6 }),
      shape("line", { x1: margin.left, x2: width - margin.right, y1: at(0), y2: at(0), stroke: "currentColor", "stroke-opacity": 0.6 }),
    );
    if (now) svg.append(shape("rect", { x: x(now.base.ratio[0]) - 5, y: at(0) - 5, width: 10, height: 10, fill: "currentColor" }, shape("title", {}, "the base: all in codes, weights symmetric")));
    for (const { name, number, colour, gain, time } of shown) {
      const [points, below, above] = gain.points,
        [ratio, left, right] = time.ratio;
      svg.append(
        shape("line", { x1: within(ratio), x2: within(ratio), y1: at(below), y2: at(above), stroke: colour, "stroke-width": 2 }),
        shape("line", { x1: within(left), x2: within(right), y1: at(points), y2: at(points), stroke: colour, "stroke-width": 2 }),
        shape("circle", { cx: within(ratio), cy: at(points), r: 6, fill: colour }, shape("title", {}, name)),
        ratio > most
          ? shape("text", { x: within(ratio) - 9, y: at(points) - 7, "text-anchor": "end", style: "font-weight: 600" }, `${number}: ${ratio.toFixed(1)} →`)
          : shape("text", { x: within(ratio) + 9, y: at(points) - 7, style: "font-weight: 600" }, String(number)),
      );
    }
    if (!shown.length) svg.append(shape("text", { x: width / 2, y: height / 2 - 30, "text-anchor": "middle" }, "no times are recorded for this setting yet"));
    picture.replaceChildren(svg);
  });

  function show() {
    const now = setting();
    list.replaceChildren(
      ...points().map(({ name, number, colour, gain, time }) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, element("b", { style: `color: ${colour}` }, `${number} `), name),
          element("td", {}, gain ? `${signed(gain.points[0])} (${signed(gain.points[1])} to ${signed(gain.points[2])}${gain.images_only ? ", images only" : ""})` : "not recorded"),
          element("td", {}, time ? `${time.ratio[0].toFixed(2)} (${time.ratio[1].toFixed(2)} to ${time.ratio[2].toFixed(2)})${time.busy ? ", busy" : ""}` : "not recorded"),
        ),
      ),
    );
    said.replaceChildren(
      now
        ? `Time: ${now.network} with 8 bits (fewer make nothing faster here); with all in codes and symmetric weights (the square) it takes ${now.base.ratio[0].toFixed(2)} of its float time (${now.runtime}, ${now.how}${now.base.busy ? ", on a busy machine" : ""}). ${ACCURACY}`
        : `Times are not recorded yet for this setting. ${ACCURACY}`,
    );
    spoken.say(`${bits.value} bits. ${said.textContent}`);
    redraw();
  }

  const head = ["choice", "points moved", "time"].map((text) => element("th", { scope: "col" }, text));
  root.append(
    element("div", { class: "controls" }, bits.label, network.label, chip.label, how.label),
    picture,
    said,
    element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...head)), list)),
    spoken.line,
  );
  show();
}

export default { render };
