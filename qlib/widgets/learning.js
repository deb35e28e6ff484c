// Bits by layer while they are learned: a slider over the steps.
import { announcer, bitBars, element, frame, fromAddress, permanentLink, player, responsive, shape, slider } from "./kit.js";

const SECONDS = 8; // that a run takes when it is played

function render({ model, el }) {
  const [layers, bits, loss, average, feasible, kept] = ["layers", "bits", "loss", "average", "feasible", "kept"].map((name) =>
      model.get(name),
    ),
    last = bits.length - 1,
    most = bits.reduce((highest, row) => Math.max(highest, ...row), 8);
  const root = frame(el, "Bits while they are learned"),
    spoken = announcer(),
    { link, update } = permanentLink("learning"),
    usual = { step: kept };
  const picture = element("div"),
    sentence = element("p", { style: "min-height: 2.9em" });
  const step = slider("Step", { min: 0, max: last }, fromAddress("learning", usual).step, () => {
    play.stop();
    show();
  });
  const play = player(step, SECONDS, () => show());
  const back = element(
    "button",
    {
      type: "button",
      click: () => {
        play.stop();
        step.set(kept);
        show();
      },
    },
    "The step that was kept",
  );

  function show() {
    const i = step.value;
    sentence.replaceChildren(
      `Step ${i} of ${last}${i === kept ? ", the one that was kept" : ""}: loss ${loss[i].toFixed(3)}, `,
      element("b", {}, `${average[i].toFixed(2)} bits on average`),
      feasible[i] ? `, which meets the limit of ${model.get("limit")}.` : `, above the limit of ${model.get("limit")}.`,
    );
    update({ step: i }, usual);
    if (!play.playing) spoken.say(sentence.textContent);
    redraw();
  }

  const svg = shape("svg", { role: "img" });
  const redraw = responsive(picture, (width) => {
    svg.setAttribute("aria-label", `Bits of ${layers.length} layers. ${sentence.textContent}`);
    bitBars(svg, width, layers, bits[step.value], { most });
  });
  picture.append(svg);

  step.label.style.gridColumn = "1 / -1";
  root.append(
    element("div", { class: "controls" }, step.label),
    element("div", { class: "row" }, play.button, back),
    sentence,
    picture,
    element("p", {}, `Every bar is a layer with ${model.get("of")}; its bits are rounded to those that it may have.`),
    element("p", {}, link),
    spoken.line,
  );
  show();
}

export default { render };
