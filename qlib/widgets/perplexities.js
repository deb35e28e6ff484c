// Perplexity of a language model against the bits of its weights, counted in three ways.
import {
  announcer,
  axes,
  choice,
  decades,
  element,
  four,
  frame,
  fromAddress,
  permanentLink,
  responsive,
  scale,
  shape,
  ticks,
} from "./kit.js";

const FAR = 60; // times the least perplexity: what lies beyond stands on the edge, with its number

function render({ model, el }) {
  const [points, float, counts] = ["points", "float", "counts"].map((name) => model.get(name)),
    named = [...new Set(points.map((p) => p.bits[0]))].sort((a, b) => a - b),
    root = frame(el, "Perplexity and bits"),
    spoken = announcer(),
    { link, update } = permanentLink("perplexities"),
    usual = { count: "0", bits: "all" },
    given = fromAddress("perplexities", usual),
    picture = element("div"),
    sentence = element("p", { style: "min-height: 4.4em" }),
    list = element("tbody");
  const count = choice(
    "Count the bits",
    counts.map((text, i) => [i, text]),
    given.count,
    show,
  );
  const only = choice("Show", [["all", "all"], ...named.map((b) => [b, `those named ${b} bits`])], given.bits, show);
  const at = (point) => point.bits[count.value];
  const shown = () => points.filter((p) => only.value === "all" || p.bits[0] === Number(only.value));

  const redraw = responsive(picture, (width) => {
    const height = 320,
      margin = { left: 52, right: 12, top: 26, bottom: 40 },
      bottom = height - margin.bottom,
      every = shown().flatMap((p) => p.bits),
      least = Math.min(...every) - 0.2,
      most = Math.max(...every) + 0.2,
      x = scale(least, most, margin.left, width - margin.right),
      known = [...shown().flatMap((p) => (p.found ? [p.found[0], p.found[2]] : [])), ...(float ? [float[0]] : [])],
      low = known.length ? Math.min(...known) / 1.3 : 10,
      high = known.length ? Math.min(FAR * low, Math.max(...known) * 1.3) : 1000,
      log = scale(Math.log(low), Math.log(high), bottom - 14, margin.top),
      y = (value) => log(Math.log(Math.min(high, Math.max(low, value))));
    const svg = shape("svg", { height, role: "img", "aria-label": sentence.textContent });
    svg.append(
      axes({
        width,
        height,
        margin,
        x,
        y,
        xTicks: ticks(least, most, width < 450 ? 4 : 8),
        yTicks: decades(low, high),
        xName: `bits of a weight, ${counts[count.value]}`,
        yName: "perplexity",
        yText: (value) => value.toLocaleString("en-US"),
      }),
    );
    if (float)
      svg.append(
        shape("line", {
          x1: margin.left,
          x2: width - margin.right,
          y1: y(float[0]),
          y2: y(float[0]),
          stroke: "currentColor",
          "stroke-dasharray": "4 3",
          "stroke-opacity": 0.6,
        }),
        shape("text", { x: margin.left + 4, y: y(float[0]) - 5 }, `float, ${four(float[0])}`),
      );
    for (const point of shown()) {
      const { name, colour, nearest, found } = point,
        across = x(at(point)),
        up = found ? y(found[0]) : bottom,
        look = { fill: found ? colour : "none", stroke: colour, "stroke-width": 2 };
      if (found && found[0] > high) svg.append(shape("text", { x: across + 10, y: up + 4 }, `${four(found[0])} ↑`));
      if (found)
        svg.append(
          shape("line", { x1: across, x2: across, y1: y(found[1]), y2: y(found[2]), stroke: colour, "stroke-width": 2 }),
        );
      svg.append(
        nearest
          ? shape("circle", { cx: across, cy: up, r: 6, ...look }, shape("title", {}, name))
          : shape("path", { d: `M${across} ${up - 7}l7 12h-14z`, ...look }, shape("title", {}, name)),
      );
    }
    picture.replaceChildren(svg);
  });

  function show() {
    const spans = named
      .map((b) => [
        b,
        shown()
          .filter((p) => p.bits[0] === b)
          .map(at),
      ])
      .filter(([, sizes]) => sizes.length)
      .map(([b, sizes]) => [b, ...[Math.min(...sizes), Math.max(...sizes)].map((size) => size.toFixed(2))]);
    const said = spans.map(([b, least, most]) => `“${b} bits” are ${least === most ? least : `${least} to ${most}`}`);
    const missing = shown().filter((p) => !p.found).length;
    sentence.replaceChildren(
      `Counted ${counts[count.value]}: `,
      element("b", {}, `${said.join(", ")}.`),
      missing
        ? ` ${missing} of ${shown().length} are not recorded yet: their hollow marks stand on the axis and show the size alone.`
        : "",
    );
    list.replaceChildren(
      ...shown().map((point) =>
        element(
          "tr",
          {},
          element(
            "th",
            { scope: "row" },
            element("b", { style: `color: ${point.colour}`, "aria-hidden": "true" }, point.nearest ? "● " : "▲ "),
            point.name,
          ),
          element("td", { style: "overflow-wrap: normal" }, at(point).toFixed(2)),
          element(
            "td",
            {},
            point.found ? `${four(point.found[0])} (${four(point.found[1])} to ${four(point.found[2])})` : "not recorded yet",
          ),
        ),
      ),
    );
    update({ count: count.value, bits: only.value }, usual);
    spoken.say(sentence.textContent);
    redraw();
  }

  const head = ["weights", "bits", "perplexity"].map((text) => element("th", { scope: "col" }, text));
  root.append(
    element("div", { class: "controls" }, count.label, only.label),
    sentence,
    picture,
    element(
      "p",
      {},
      "Over all weights: the table of tokens, which is the head too, and the first layer have 8 bits. Scales: with zero-points. Circle: rounded to nearest; triangle: GPTQ. Green: a range for an output channel; orange: for a group of its weights; purple: for a whole tensor. Bars: 95 % over windows.",
    ),
    element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...head)), list)),
    element("p", {}, link),
    spoken.line,
  );
  show();
}

export default { render };
