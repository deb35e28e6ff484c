// Two papers with the same bits that differ in one choice.
import { announcer, choice, element, frame, fromAddress, published, responsive, scale, shape, slider } from "./kit.js";
import { ask, offer } from "./engine/page.js";
import { accuracy, difference } from "./measuring_answer.js";

const HEIGHT = 190,
  LEFT = 4,
  RIGHT = 68,
  NAMES = ["Paper A", "Paper B"];

function render({ model, el }) {
  const choices = model.get("choices"),
    root = frame(el, "Two papers, one choice apart"),
    spoken = announcer();
  const at = fromAddress("opening", { choice: 0, bits: choices[0].start });
  const picture = element("div"),
    sentence = element("p", { style: "font-size: 1.05rem" }),
    button = element("button", { type: "button", click: measure }, "Measure both here"),
    found = element("p", { role: "status" });
  let move = 0;
  const which = choice(
    "What neither abstract says",
    choices.map((c, i) => [i, c.title]),
    at.choice,
    () => begin(now().point.bits),
  );
  // the slider's steps are the settings that were measured
  const settings = () => choices[which.value].points;
  const bits = slider("Bits", { min: 0, max: 1 }, 0, () => show(), (i) => String(settings()[i].bits));
  const now = () => ({ ...choices[which.value], point: settings()[bits.value] });
  function begin(wanted) {
    bits.input.max = settings().length - 1;
    bits.set(Math.max(0, settings().findLastIndex((p) => p.bits <= wanted)));
    show();
  }

  function show() {
    const { of, same, point, papers } = now(),
      [points, low, high] = point.difference,
      clear = low > 0 || high < 0;
    const better = points >= 0 ? 0 : 1,
      turned = better ? [-high, -low] : [low, high]; // the better over the other
    const draws = Math.min(...point.draws),
      images = `${point.n.toLocaleString("en")} images`,
      on = draws < 3 ? `${images}, for images only` : `${images} and ${draws} draws`;
    sentence.replaceChildren(
      `Same ${same}, same images, `,
      element("b", {}, of.replace("{bits}", point.bits)),
      clear ? ". One choice that neither reports puts " : ". Here it is undecided which of the two is better: ",
      clear ? element("b", {}, `${Math.abs(points).toFixed(1)} points`) : `${Math.abs(points).toFixed(2)} points`,
      clear ? ` between them: ${NAMES[better]} ${papers[better].says}.` : " lie between them.",
      ` (Paired on ${on}, 95 % interval ${turned.map((end) => end.toFixed(2)).join(" to ")}${point.at && `; ${point.at}`}.)`,
    );
    spoken.say(sentence.textContent);
    redraw();
    move++;
    button.hidden = !published() || !point.settings;
    found.textContent = "";
  }

  // Both settings, measured in the page
  async function measure() {
    const mine = ++move,
      { settings, bits: of } = now().point;
    found.textContent = "Measuring ...";
    try {
      const rights = [];
      for (const { network, config } of settings) rights.push((await ask(network, { config, method: "nearest", parts: [2000] })).right);
      if (mine !== move) return;
      const [a, b] = rights.map((right) => accuracy(right).top1.toFixed(2)),
        { points, low, high, n } = difference(...rights);
      found.textContent =
        `Measured here, now, on ${n.toLocaleString("en")} images with ${of} bits: Paper A ${a} %, Paper B ${b} %; ` +
        `A minus B is ${points.toFixed(2)} points (95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}, for images only).`;
    } catch (error) {
      if (mine === move) found.textContent = error.message;
    }
  }

  const redraw = responsive(picture, (width) => {
    const { point, papers } = now(),
      x = scale(0, 100, LEFT, width - RIGHT);
    const svg = shape("svg", {
      height: HEIGHT,
      role: "img",
      "aria-label": papers.map((p, i) => `${NAMES[i]} ${p.says}: ${point.papers[i][0].toFixed(1)} %`).join(". "),
    });
    papers.forEach(({ says, colour }, i) => {
      const [top1, low, high] = point.papers[i],
        y = 30 + i * 82,
        words = `${NAMES[i]} ${says}`;
      svg.append(
        shape("text", { x: LEFT, y: y - 6, style: `font-size: ${width < 420 ? 12 : 14}px` }, words),
        shape("rect", { x: LEFT, y, width: x(100) - LEFT, height: 34, fill: "currentColor", "fill-opacity": 0.07 }),
        shape("rect", { x: LEFT, y, width: Math.max(1, x(top1) - LEFT), height: 34, fill: colour, class: "bar" }),
        shape("line", { x1: x(low), x2: x(high), y1: y + 17, y2: y + 17, stroke: "currentColor", "stroke-width": 3 }),
        shape("text", { x: x(100) + 6, y: y + 22, style: "font-size: 15px; font-weight: 600" }, `${top1.toFixed(1)} %`),
      );
    });
    svg.append(shape("text", { x: LEFT, y: HEIGHT - 8 }, "top-1 accuracy, 0 to 100 %"));
    picture.replaceChildren(svg);
  });

  for (const control of [which, bits]) control.label.style.gridColumn = "1 / -1";
  which.label.hidden = choices.length < 2;
  root.append(element("div", { class: "controls" }, which.label, bits.label), picture, sentence, button, found, spoken.line);
  if (published()) offer();
  begin(at.bits);
}

export default { render };
