// The weights of one output channel on their way to a grid: a choice of methods, and a slider over the steps of each.
import { announcer, choice, element, frame, fromAddress, permanentLink, player, responsive, scale, shape, slider } from "./kit.js";

const HEIGHT = 230,
  BAR = 22,
  SECONDS = 6; // that a way takes when it is played
const percent = (share) => `${Math.round(100 * share)} %`;

function render({ model, el }) {
  const [floats, levels, ways] = ["floats", "levels", "ways"].map((name) => model.get(name)),
    names = Object.keys(ways),
    low = Math.min(...levels, ...floats),
    high = Math.max(...levels, ...floats),
    most = Math.max(1, ...names.flatMap((name) => [ways[name].weights, ways[name].outputs].map((errors) => errors.at(-1))));
  const root = frame(el, "What a method does to one channel"),
    spoken = announcer(),
    { link, update } = permanentLink("rounding"),
    usual = { method: names[0], step: 0 },
    given = fromAddress("rounding", usual);
  const picture = element("div"),
    sentence = element("p", { style: "min-height: 2.9em" });
  const method = choice("Method", names.map((name) => [name, name]), given.method, () => {
    play.stop();
    bounds();
    show();
  });
  const step = slider("Step", { min: 0, max: 1 }, 0, () => {
    play.stop();
    show();
  });
  const way = () => ways[method.value];
  const play = player(step, SECONDS, () => show());

  function bounds(to = 0) {
    step.input.max = way().values.length - 1;
    step.set(Math.min(to, way().values.length - 1));
  }

  function show() {
    const { values, weights, outputs, words } = way(),
      i = step.value,
      last = values.length - 1;
    sentence.replaceChildren(
      element("b", {}, method.value),
      `, ${words} ${i} of ${last}: the error of the weights is ${percent(weights[i])}, that of what the channel gives `,
      element("b", {}, percent(outputs[i])),
      ` of ${names[0] === method.value && i === last ? "itself" : `${names[0]}'s`}.`,
    );
    update({ method: method.value, step: i }, usual);
    if (!play.playing) spoken.say(sentence.textContent);
    redraw();
  }

  const svg = shape("svg", { role: "img", height: HEIGHT + 3 * BAR });
  const redraw = responsive(picture, (width) => {
    const { values, weights, outputs } = way(),
      now = values[step.value],
      x = scale(-0.5, floats.length - 0.5, 8, width - 8),
      y = scale(low, high, HEIGHT - 12, 12),
      across = scale(0, most, 0, width - 190);
    svg.setAttribute("aria-label", sentence.textContent);
    svg.replaceChildren(
      ...levels.map((level) =>
        shape("line", { x1: 8, x2: width - 8, y1: y(level), y2: y(level), stroke: "currentColor", "stroke-opacity": 0.2 }),
      ),
      ...floats.flatMap((value, i) => [
        shape("line", { x1: x(i), x2: x(i), y1: y(value), y2: y(now[i]), stroke: "#D55E00", "stroke-width": 1.5 }),
        shape("circle", { cx: x(i), cy: y(value), r: 3.2, fill: "none", stroke: "currentColor" }),
        shape("circle", { cx: x(i), cy: y(now[i]), r: 3, fill: "#0072B2", class: "now" }),
      ]),
      ...[
        ["weights", weights, "#6B6B6B"],
        ["what it gives", outputs, "#009E73"],
      ].flatMap(([name, errors, colour], row) => {
        const top = HEIGHT + 6 + row * BAR;
        return [
          shape("text", { x: 0, y: top + 12 }, `error, ${name}`),
          shape("rect", { x: 130, y: top, width: across(Math.min(errors[step.value], most)), height: 15, fill: colour }),
          shape("line", { x1: 130 + across(1), x2: 130 + across(1), y1: top - 3, y2: top + 18, stroke: "currentColor" }),
          shape("text", { x: 136 + across(Math.max(1, Math.min(errors[step.value], most))), y: top + 12 }, percent(errors[step.value])),
        ];
      }),
    );
  });
  picture.append(svg);

  root.append(
    element("div", { class: "controls" }, method.label, step.label),
    element("div", { class: "row" }, play.button),
    sentence,
    picture,
    element(
      "p",
      {},
      `Open circles: weights in float; dots: now; lines: the values of the grid. The marks across the bars are the errors of ${names[0]}.`,
    ),
    element("p", {}, link),
    spoken.line,
  );
  bounds(given.step);
  show();
}

export default { render };
