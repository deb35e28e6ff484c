// What the interactive figures share. No dependencies; every figure is one module that exports {render}, as anywidget wants it.

export const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B6B6B", "#8A5A00"]; // as qlib/looks.py

const STYLE = `
:host { display: block; }
* { box-sizing: border-box; }
section { font: 14px/1.45 system-ui, sans-serif; color: inherit; max-width: 46rem; --accent: #0b5cad; --line: #8886; }
section.dark { --accent: #8ab8ff; color-scheme: dark; }
.controls { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); gap: 0.5rem 1.2rem;
  margin: 0 0 0.6rem; align-items: end; }
label { display: block; min-width: 0; }
label[hidden] { display: none; }
label.tick { display: flex; align-items: center; gap: 0.5rem; min-height: 32px; }
label > span { display: flex; justify-content: space-between; gap: 0.5rem; }
output { font-variant-numeric: tabular-nums; font-weight: 600; }
input[type=range] { width: 100%; height: 28px; margin: 0; accent-color: var(--accent); }
input[type=checkbox] { width: 20px; height: 20px; accent-color: var(--accent); margin: 0; }
select, button { font: inherit; color: inherit; background: transparent; border: 1px solid #888; border-radius: 4px;
  min-height: 32px; padding: 0.1rem 0.4rem; max-width: 100%; }
select { width: 100%; }
option { color: #1a1a1a; background: #fff; }
.dark option { color: #eee; background: #222; }
option:disabled { color: #767676; }
button { cursor: pointer; padding: 0.1rem 0.8rem; }
button[aria-pressed=true] { background: var(--accent); color: #fff; border-color: var(--accent); }
.dark button[aria-pressed=true] { color: #111; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0.2rem 0; }
th, td { text-align: left; padding: 0.15rem 0.6rem 0.15rem 0; border-top: 1px solid var(--line); font-weight: 400; vertical-align: top; }
thead th { font-weight: 600; }
td, li { overflow-wrap: anywhere; }
svg { display: block; width: 100%; overflow: visible; }
svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
p { margin: 0.4rem 0; }
a { color: var(--accent); }
.row { display: flex; flex-wrap: wrap; gap: 0.4rem 1rem; align-items: center; }
.quiet { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.scroll { overflow-x: auto; }
`;

/** An HTML element; attributes that are functions become listeners. */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** A place for a figure inside `el`, apart from the styles of its page, and following its theme. */
export function frame(el, label) {
  const host = element("div");
  el.replaceChildren(host);
  const section = element("section", { "aria-label": label });
  host.attachShadow({ mode: "open" }).append(element("style", {}, STYLE), section);
  host.addEventListener("keydown", (event) => event.stopPropagation()); // JupyterLab takes arrow keys away from sliders
  const theme = () => section.classList.toggle("dark", lightness(getComputedStyle(host).color) > 0.5);
  const watch = new MutationObserver(theme);
  for (const place of [document.documentElement, document.body]) watch.observe(place, { attributes: true });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
  requestAnimationFrame(theme);
  return section;
}

function lightness(colour) {
  const [r, g, b] = colour.match(/[\d.]+/g).map(Number);
  return (0.299 * r + 0.587 * g + 0.114 * b) / 255;
}

/** Calls `draw(width)` now and whenever the width of `box` changes. */
export function responsive(box, draw) {
  let width = 0;
  new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now && now !== width) draw((width = now));
  }).observe(box);
  return () => width && draw(width);
}

/** A slider: {label, set, value}. `change(number)` while it moves. */
export function slider(text, { min, max, step = 1 }, value, change, show = String) {
  const input = element("input", { type: "range", min, max, step, "aria-label": text });
  const shown = element("output", { "aria-hidden": "true" });
  const set = (to) => {
    input.value = to;
    shown.textContent = show(Number(input.value));
    input.setAttribute("aria-valuetext", show(Number(input.value)));
  };
  input.addEventListener("input", () => {
    set(input.value);
    change(Number(input.value));
  });
  set(value);
  return {
    label: element("label", {}, element("span", {}, text, shown), input),
    input,
    set,
    get value() {
      return Number(input.value);
    },
  };
}

/** A button that moves a slider from where it stands (from its end: from its start) to its end within so many seconds. */
export function player(slider, seconds, show) {
  let timer = null;
  const button = element("button", { type: "button", click: () => (timer ? stop() : start()) }, "Play");
  function start() {
    const last = Number(slider.input.max);
    if (slider.value === last) slider.set(0);
    const from = slider.value,
      began = performance.now();
    button.textContent = "Stop";
    timer = setInterval(() => {
      slider.set(Math.min(last, from + Math.round(((performance.now() - began) / 1000 / seconds) * last)));
      if (slider.value === last) stop();
      show();
    }, 40);
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  }
  return {
    button,
    stop,
    get playing() {
      return timer !== null;
    },
  };
}

/** A list to choose from: options are [value, text, disabled]. A value that is not there becomes the first. */
export function choice(text, options, value, change) {
  const input = element("select", { change: () => change(input.value) });
  const set = (to, from = options) => {
    input.replaceChildren(...from.map(([v, t, disabled]) => element("option", { value: v, disabled }, t)));
    input.value = from.some(([v]) => String(v) === String(to)) ? to : from[0][0];
  };
  set(value);
  return {
    label: element("label", {}, element("span", {}, text), input),
    input,
    set,
    get value() {
      return input.value;
    },
  };
}

/** A tick box. */
export function tick(text, value, change) {
  const input = element("input", { type: "checkbox", change: () => change(input.checked) });
  input.checked = value;
  return {
    label: element("label", { class: "tick" }, input, text),
    input,
    set: (to) => (input.checked = to),
    get value() {
      return input.checked;
    },
  };
}

/** Whether this is a page of the book, so that its address can hold a setting. */
export const published = () => document.documentElement.dataset.content_root !== undefined;

/** `usual`, with what the page's address says under `name.` instead. Types stay those of `usual`. */
export function fromAddress(name, usual) {
  const values = { ...usual },
    given = new URLSearchParams(published() ? location.search : "");
  for (const [key, value] of Object.entries(usual)) {
    const text = given.get(`${name}.${key}`);
    if (text === null) continue;
    if (typeof value !== "number") values[key] = typeof value === "boolean" ? text === "true" : text;
    else if (text !== "" && Number.isFinite(Number(text))) values[key] = Number(text);
  }
  return values;
}

/** A link to this page with values that are not the usual ones; `update(values, usual)` after every change. */
export function permanentLink(name) {
  const link = element("a", { href: "#" }, "Link to this setting"),
    place = element("span", {}, published() ? link : "");
  let asked = [...new URLSearchParams(published() ? location.search : "")].filter(([key]) => key.startsWith(`${name}.`));
  const update = (values, usual) => {
    const missing = asked.filter(([key, text]) => {
      const value = values[key.slice(name.length + 1)];
      return String(value) !== text && (typeof value !== "number" || Number(text) !== value);
    });
    if (missing.length)
      place.prepend(
        `The link that led here asks for ${missing.map((pair) => pair.join(" = ")).join(", ")}, which is not there. `,
      );
    asked = [];
    const address = new URL(location.href);
    for (const key of [...address.searchParams.keys()]) if (key.startsWith(`${name}.`)) address.searchParams.delete(key);
    for (const [key, value] of Object.entries(values))
      if (value !== usual[key]) address.searchParams.set(`${name}.${key}`, value);
    link.href = address;
  };
  link.addEventListener("click", (event) => {
    event.preventDefault();
    history.replaceState(null, "", link.href);
    navigator.clipboard?.writeText(link.href).then(
      () => {
        link.textContent = "Link copied, and in the address bar";
        setTimeout(() => (link.textContent = "Link to this setting"), 2500);
      },
      () => {},
    );
  });
  return { link: place, update };
}

/** A line for screen readers, read out once changes have come to rest. */
export function announcer() {
  const line = element("p", { class: "quiet", role: "status" });
  let timer;
  return {
    line,
    say(text) {
      clearTimeout(timer);
      timer = setTimeout(() => (line.textContent = text), 600);
    },
  };
}

/** Round numbers that divide [low, high] into about `count` parts. */
export function ticks(low, high, count = 5) {
  const rough = (high - low) / count,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((k) => k * power >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

/** A number of any size, to four digits. */
export const four = (value) => Number(value.toPrecision(4)).toLocaleString("en-US");

/** A difference with its sign. */
export const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);

/** The same of a tick, as short as it is. */
export const signedTick = (value) => (value > 0 ? `+${value}` : String(value).replace("-", "−"));

/** 1, 2 and 5 times powers of ten between two numbers. */
export function decades(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const k of [1, 2, 5]) if (k * 10 ** power >= low && k * 10 ** power <= high) found.push(Number(`${k}e${power}`));
  return found.length > 8 ? found.filter((value) => Number.isInteger(Math.log10(value))) : found;
}

/** A linear map from [low, high] to [a, b]. */
export const scale = (low, high, a, b) => (value) => a + ((value - low) / (high - low)) * (b - a);

/** Axes of a chart of `width` x `height` inside `margin`: lines, ticks and names. `x`, `y`: scales. */
export function axes({ width, height, margin, x, y, xTicks, yTicks, xName, yName, xText = String, yText = String }) {
  const bottom = height - margin.bottom,
    right = width - margin.right,
    group = shape("g", { "aria-hidden": "true" });
  for (const value of yTicks) {
    group.append(
      shape("line", { x1: margin.left, x2: right, y1: y(value), y2: y(value), stroke: "currentColor", "stroke-opacity": 0.15 }),
      shape("text", { x: margin.left - 6, y: y(value) + 4, "text-anchor": "end" }, yText(value)),
    );
  }
  for (const value of xTicks) group.append(shape("text", { x: x(value), y: bottom + 17, "text-anchor": "middle" }, xText(value)));
  group.append(
    shape("line", { x1: margin.left, x2: right, y1: bottom, y2: bottom, stroke: "currentColor", "stroke-opacity": 0.6 }),
    shape("text", { x: (margin.left + right) / 2, y: height - 3, "text-anchor": "middle" }, xName),
    shape("text", { x: margin.left, y: margin.top - 8, "text-anchor": "start" }, yName),
  );
  return group;
}

export const BARS = { height: 260, margin: { left: 34, right: 6, top: 26, bottom: 26 } };

/** Where the top of a bar of so many bits is, in a chart of bits up to `most`: a scale that doubles. */
export const barTop = (bits, most = 32) =>
  scale(-0.5, Math.log2(most), BARS.height - BARS.margin.bottom, BARS.margin.top)(Math.log2(bits));

/** Draws a chart of bits, a bar a layer, into `svg`; returns where bars begin. `look(i)`: attributes of the i-th bar. */
export function bitBars(svg, width, layers, bits, { look = () => ({}), most = 32 } = {}) {
  const { margin, height } = BARS,
    x = scale(0, layers.length, margin.left, width - margin.right),
    y = (b) => barTop(b, most);
  svg.setAttribute("height", height);
  svg.replaceChildren(
    axes({
      width,
      height,
      margin,
      x,
      y,
      xTicks: [],
      yTicks: [1, 2, 4, 8, 16, 32].filter((b) => b <= most),
      xName: "layers, in the order in which they run",
      yName: "bits",
    }),
    ...bits.map((b, i) =>
      shape(
        "rect",
        {
          x: x(i),
          y: y(b),
          width: Math.max(1, x(1) - x(0) - 1),
          height: height - margin.bottom - y(b),
          fill: COLOURS[0],
          ...look(i),
        },
        shape("title", {}, `${layers[i].name}: ${b} bits`),
      ),
    ),
  );
  return x;
}

/** Round half to even, as torch does. */
export function roundEven(value) {
  const floor = Math.floor(value),
    rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** The grid of codes over a range, as qlib.affine.make_grid makes it. */
export function makeGrid(low, high, bits, symmetric, kind) {
  const f32 = Math.fround,
    count = 2 ** bits,
    nonzero = (s) => (Number.isFinite(f32(1 / s)) ? s : 1);
  [low, high] = [Math.min(low, 0), Math.max(high, 0)];
  if (!symmetric) {
    const step = nonzero(f32(f32(high - low) / (count - 1)));
    return { step, zero: Math.min(Math.max(-roundEven(f32(low / step)), 0), count - 1), first: 0, last: count - 1, clip: null };
  }
  const m = Math.max(-low, high);
  if (kind === "restricted")
    return { step: nonzero(f32(m / (count / 2 - 1))), zero: 0, first: 1 - count / 2, last: count / 2 - 1, clip: null };
  const step = nonzero(f32(f32(2 * m) / (count - 1)));
  return {
    step,
    zero: 0,
    first: -count / 2,
    last: kind === "authors" ? count / 2 : count / 2 - 1,
    clip: kind === "authors" ? m : null,
  };
}

/** Little-endian float32 numbers from base64. */
export function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)),
    view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}
