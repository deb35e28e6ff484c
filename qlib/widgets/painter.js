// The bits painter: bars of bits, layer by layer, that the reader drags; sizes follow at once, and accuracy where there is a kernel.
import {
  BARS,
  COLOURS,
  announcer,
  barTop,
  bitBars,
  choice,
  element,
  frame,
  fromAddress,
  permanentLink,
  published,
  responsive,
  shape,
  signed,
} from "./kit.js";
import { ask, named, offer } from "./engine/page.js";
import { accuracy, difference } from "./measuring_answer.js";

const { height: HEIGHT, margin: MARGIN } = BARS,
  BITS = Array.from({ length: 32 }, (_, i) => i + 1);
const UNKNOWN = "How accurate the network is with bits of your own, a kernel can tell: open this lesson in JupyterLab or Colab.";
const SIDES = { weights: "weight", maps: "activation" };
const nearest = (at) => BITS.reduce((best, bits) => (Math.abs(barTop(bits) - at) < Math.abs(barTop(best) - at) ? bits : best));
const size = (bytes) => (bytes >= 1e6 ? `${(bytes / 1e6).toFixed(3)} MB` : `${(bytes / 1e3).toFixed(3)} kB`);

/** The sizes that qlib.footprint gives. `bits`: {weights: [...], maps: [...]}, in the order of `layers`. */
export function sizes(layers, bits) {
  const total = (side) => layers[side].reduce((sum, layer, i) => sum + layer.elements * bits[side][i], 0) / 8;
  const elements = (side) => layers[side].reduce((sum, layer) => sum + layer.elements, 0);
  return {
    weight_bytes: total("weights"),
    average_weight_bits: (8 * total("weights")) / elements("weights"),
    activation_bytes: total("maps"),
    average_activation_bits: (8 * total("maps")) / elements("maps"),
    max_activation_bytes: Math.max(...layers.maps.map((layer, i) => (layer.elements * bits.maps[i]) / 8)),
  };
}

const ROWS = [
  ["weight_bytes", "Weights, total", size],
  ["average_weight_bits", "Weights, average bits", (v) => v.toFixed(2)],
  ["activation_bytes", "Feature maps, total", size],
  ["average_activation_bits", "Feature maps, average bits", (v) => v.toFixed(2)],
  ["max_activation_bytes", "Largest feature map", size],
];

function render({ model, el }) {
  const layers = model.get("layers"),
    presets = model.get("presets"),
    live = model.get("live"), // a kernel listens, and says below how accurate the network is
    measured = published() && model.get("measured"); // else the page may do that, after a click
  const root = frame(el, "Bits painter"),
    spoken = announcer(),
    { link, update } = permanentLink("painter");
  const usual = { weights: encode(presets[0].weights), maps: encode(presets[0].maps), side: model.get("side") },
    at = fromAddress("painter", usual);
  const bits = { weights: decode(at.weights, presets[0].weights), maps: decode(at.maps, presets[0].maps) };
  let side = Object.hasOwn(SIDES, at.side) ? at.side : "weights",
    chosen = 0;
  const picture = element("div"),
    readout = element("p", { style: "min-height: 2.9em" }),
    body = element("tbody"),
    answer = element("p", { role: "status" });
  const names = { weights: "Weights", maps: "Feature maps" };
  const tabs = Object.keys(SIDES).map((name) =>
    element(
      "button",
      {
        type: "button",
        click: () => {
          side = name;
          chosen = 0;
          show(true);
        },
      },
      names[name],
    ),
  );
  const preset = choice("Start from", [["own", "my own bits", true], ...presets.map((p, i) => [i, p.name])], 0, (i) => {
    Object.assign(bits, { weights: [...presets[i].weights], maps: [...presets[i].maps] });
    show(true);
  });

  function show(changed) {
    const which = presets.findIndex((p) => ["weights", "maps"].every((s) => encode(p[s]) === encode(bits[s])));
    preset.set(which < 0 ? "own" : which);
    tabs.forEach((tab, i) => tab.setAttribute("aria-pressed", Object.keys(SIDES)[i] === side));
    const found = sizes(layers, bits);
    body.replaceChildren(
      ...ROWS.map(([name, title, text]) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, title),
          element("td", { "data-name": name, "data-value": found[name] }, text(found[name])),
        ),
      ),
    );
    update({ weights: encode(bits.weights), maps: encode(bits.maps), side }, usual);
    redraw();
    tell();
    if (live && changed) {
      model.set("bits", { weights: [...bits.weights], maps: [...bits.maps] });
      model.save_changes();
    }
    if (live) return;
    const recorded = presets[which]?.recorded ?? "";
    answer.textContent = recorded || (measured ? "" : UNKNOWN);
    if (begun) measure();
  }

  // Measuring in the page
  let begun = false,
    move = 0,
    before = null; // which images were answered rightly with the bits that stood before
  const panel = named(),
    found = element("p", { role: "status" }),
    button = element("button", { type: "button", click: begin }, "Measure the network with these bits, here");

  function begin() {
    button.hidden = true;
    begun = true;
    measure();
  }

  async function measure() {
    const mine = ++move,
      byName = (s) => Object.fromEntries(layers[s].map((layer, i) => [layer.name, bits[s][i]])),
      config = { ...measured.config, weight_bits: byName("weights"), activation_bits: byName("maps"), first_last_bits: null };
    found.textContent = "Measuring ...";
    const say = ({ right, moved, last }) => {
      if (moved || mine !== move) return;
      const { top1, low, high, n } = accuracy(right),
        against = before && difference(right, before);
      const said = `Measured here, ranges of activations by ${measured.config.activation_range}: ${top1.toFixed(2)} % of ${n.toLocaleString("en")} images (95 % interval ${low.toFixed(2)} to ${high.toFixed(2)})`,
        ends = against && `${against.low.toFixed(2)} to ${against.high.toFixed(2)}`;
      found.textContent = said + (against ? `; ${signed(against.points)} points against the bits before (${ends}).` : ".");
      if (last) before = right;
    };
    try {
      say(await ask(measured.network, { panel, move: mine, config, parts: [64, 256, 2000] }, say));
    } catch (error) {
      if (mine !== move) return;
      found.textContent = error.message;
      begun = false;
      button.hidden = false;
    }
  }

  function tell() {
    const layer = layers[side][chosen],
      b = bits[side][chosen];
    readout.textContent = `${layer.name}: ${b} bits for ${layer.elements.toLocaleString("en")} ${side === "weights" ? "weights" : "activations"}, ${size((layer.elements * b) / 8)}`;
  }

  function set(i, b) {
    chosen = i;
    if (bits[side][i] === b) return (redraw(), tell());
    bits[side][i] = b;
    show(true);
  }

  const svg = shape("svg", {
    tabindex: 0,
    role: "slider",
    "aria-orientation": "vertical",
    "aria-valuemin": 1,
    "aria-valuemax": 32,
    style: "touch-action: none; user-select: none; cursor: ns-resize",
    keydown: keys,
    pointermove: (event) => event.buttons && paint(event),
    pointerdown: (event) => {
      svg.setPointerCapture(event.pointerId);
      paint(event);
    },
  });
  picture.append(svg);
  let x = null;

  function paint(event) {
    const box = svg.getBoundingClientRect(),
      at = Math.floor((event.clientX - box.left - MARGIN.left) / (x(1) - x(0)));
    const here = Math.min(layers[side].length - 1, Math.max(0, at)),
      from = event.type === "pointermove" ? chosen : here;
    const b = nearest(event.clientY - box.top);
    for (let i = Math.min(from, here); i <= Math.max(from, here); i++) if (i !== from || i === here) bits[side][i] = b; // all it crossed
    chosen = here;
    show(true);
  }

  const redraw = responsive(picture, (width) => {
    const values = bits[side],
      costs = layers.maps.map((layer, i) => layer.elements * bits.maps[i]),
      largest = Math.max(...costs);
    for (const [name, value] of [
      ["valuenow", values[chosen]],
      ["valuetext", `${values[chosen]} bits`],
      ["label", `Bits of ${layers[side][chosen].name}`],
    ])
      svg.setAttribute(`aria-${name}`, value);
    const look = (i) => ({
      fill: COLOURS[side === "maps" && costs[i] === largest ? 1 : 0],
      "fill-opacity": i === chosen ? 1 : 0.85,
    });
    x = bitBars(svg, width, layers[side], values, { look });
    svg.append(
      shape("rect", {
        x: x(chosen) - 1,
        y: MARGIN.top,
        width: x(1) - x(0) + 1,
        height: HEIGHT - MARGIN.top - MARGIN.bottom,
        fill: "none",
        stroke: "currentColor",
        "stroke-opacity": 0.8,
      }),
    );
  });

  function keys(event) {
    const last = layers[side].length - 1,
      place = BITS.indexOf(bits[side][chosen]);
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -last, End: last }[event.key],
      step = { ArrowUp: 1, ArrowDown: -1, PageUp: 4, PageDown: -4 }[event.key];
    if (move !== undefined) chosen = Math.min(last, Math.max(0, chosen + move));
    else if (step !== undefined)
      return (event.preventDefault(), set(chosen, BITS[Math.min(BITS.length - 1, Math.max(0, place + step))]));
    else if (/^[1-8]$/.test(event.key)) return set(chosen, Number(event.key));
    else return;
    event.preventDefault();
    redraw();
    tell();
    spoken.say(readout.textContent);
  }

  root.append(
    element("div", { class: "controls" }, preset.label),
    element("div", { class: "row" }, ...tabs),
    picture,
    readout,
    element("table", {}, element("caption", {}, "What this costs, per image, without scales and biases"), body),
    answer,
    ...(measured && !live ? [button, found] : []),
    element(
      "p",
      {},
      "Drag over the bars. With keys: left and right choose a layer, up and down or 1 to 8 set its bits. 17 to 32 bits mean float, and count. ",
      "In orange: the largest feature map.",
    ),
    element("p", {}, link),
    spoken.line,
  );
  preset.label.style.gridColumn = "1 / -1";
  if (measured) offer();
  show(false);
}

// Bits as one character each: 1 to 9, then letters, up to w for 32.
const SIGNS = "0123456789abcdefghijklmnopqrstuvw";
const encode = (values) => values.map((b) => SIGNS[b]).join("");
function decode(text, usual) {
  const values = [...String(text)].map((c) => SIGNS.indexOf(c));
  return values.length === usual.length && values.every((b) => b > 0) ? values : [...usual];
}

export default { render };
