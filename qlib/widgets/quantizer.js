// The quantizer explorer: a tensor, its histogram and the grid of codes. Computes as qlib does: float32, half to even.
import {
  COLOURS,
  announcer,
  axes,
  choice,
  element,
  floats,
  frame,
  fromAddress,
  makeGrid,
  permanentLink,
  responsive,
  roundEven,
  scale,
  shape,
  slider,
  tick,
  ticks,
} from "./kit.js";

const f32 = Math.fround,
  HEIGHT = 280,
  MARGIN = { left: 52, right: 10, top: 28, bottom: 42 },
  BARS = 80;
const USUAL = { tensor: 0, channel: "all", bits: 4, percentile: 100, symmetric: false, grid: "full", granularity: "per_tensor" };
const GRIDS = [
  ["full", "full: 2^B codes"],
  ["restricted", "restricted: 2^B − 1 codes"],
  ["authors", "authors: the paper's code"],
];

// The share that is clipped falls tenfold with every hundred places, and the last place clips nothing.
const LAST = 310,
  placeOf = (percentile) => (percentile >= 100 ? LAST : Math.round(Math.min(LAST - 1, Math.max(0, 100 * (1 - Math.log10(100 - percentile)))))),
  percentileAt = (place) => (place === LAST ? 100 : Number((100 - 10 ** (1 - place / 100)).toFixed(4)));

/** A slider of percentiles that is fine towards 100. A value that was given stays what it is until the slider moves. */
function percentiles(given, change) {
  let value = Math.min(100, Math.max(90, given));
  const settle = (place) => {
    if (place !== placeOf(value)) value = percentileAt(place);
    return String(value);
  };
  const control = slider("Clipping percentile", { min: 0, max: LAST }, placeOf(value), change, settle);
  return {
    ...control,
    set(percentile) {
      value = percentile;
      control.set(placeOf(percentile));
    },
    get value() {
      return value;
    },
  };
}

/** The range of sorted values between two percentiles, interpolated, as qlib.ranges.Percentile finds it. */
function findRange(sorted, percentile) {
  const fromTop = (1 - percentile / 100) * (sorted.length - 1),
    above = Math.floor(fromTop),
    share = fromTop - above;
  const last = sorted.length - 1,
    at = (i) => sorted[Math.min(Math.max(i, 0), last)];
  const high = at(last - above) + (at(last - above - 1) - at(last - above)) * share;
  const low = -(-at(above) + (-at(above + 1) + at(above)) * share);
  return [f32(low), f32(high)];
}

/** Code relative to the zero-point, and the value it stands for, as qlib.affine.fake_quantize gives them. */
function quantize(x, grid, inverse) {
  const code =
    grid.clip != null
      ? roundEven(f32(Math.min(Math.max(x, -grid.clip), grid.clip) / grid.step))
      : Math.min(Math.max(roundEven(f32(x * inverse)), grid.first - grid.zero), grid.last - grid.zero);
  return [code, f32(code * grid.step)];
}

/** What a quantizer does to a tensor: `rows`, its channels; a range for each channel or for all; counted over the shown channels. */
export function measure(rows, { channel, bits, percentile, symmetric, grid, granularity }) {
  const sorted = (values) => Float32Array.from(values).sort();
  const one = granularity === "per_tensor" ? findRange(sorted(rows.flatMap((row) => [...row])), percentile) : null;
  const found = { scales: [], zeros: [], used: [], n: 0, outside: 0, rounding: 0, clipping: 0, signal: 0 };
  rows.forEach((row, i) => {
    if (channel !== "all" && Number(channel) !== i) return;
    const range = one || findRange(sorted(row), percentile),
      codes = makeGrid(...range, bits, symmetric, grid);
    const inverse = f32(1 / codes.step),
      used = one && found.used.length ? found.used[0] : new Set();
    const [lowest, highest] = [codes.first, codes.last].map((code) => f32((code - codes.zero) * codes.step));
    for (const x of row) {
      const [code, value] = quantize(x, codes, inverse),
        square = (value - x) ** 2,
        outside = x < lowest || x > highest;
      used.add(code);
      found.outside += outside;
      found[outside ? "clipping" : "rounding"] += square;
      found.signal += x * x;
      found.n += 1;
    }
    if (!found.used.includes(used)) found.used.push(used);
    found.scales.push(codes.step);
    found.zeros.push(codes.zero);
    Object.assign(found, { range, codes });
  });
  const error = (found.rounding + found.clipping) / found.n;
  return {
    ...found,
    numbers: {
      scale: [Math.min(...found.scales), Math.max(...found.scales)],
      zero_point: [Math.min(...found.zeros), Math.max(...found.zeros)],
      levels: found.used.reduce((sum, used) => sum + used.size, 0) / found.used.length,
      clipped: (100 * found.outside) / found.n,
      error,
      rounding: found.rounding / found.n,
      clipping: found.clipping / found.n,
      snr: 10 * Math.log10(found.signal / found.n / error),
    },
  };
}

const six = (x) =>
  x === 0 ? "0" : !Number.isFinite(x) ? "no error" : Math.abs(x) < 1e-4 ? x.toExponential(5) : String(Number(x.toPrecision(6)));
const ends = ([a, b]) => (a === b ? six(a) : `${six(a)} to ${six(b)}`);
const ROWS = [
  ["scale", "Scale", ends],
  ["zero_point", "Zero-point", ends],
  ["levels", "Levels used", null],
  ["clipped", "Values clipped", (x) => `${six(x)} %`],
  ["error", "Mean squared error", six],
  ["rounding", "by rounding", six],
  ["clipping", "by clipping", six],
  ["snr", "Signal to noise", (x) => (Number.isFinite(x) ? `${six(x)} dB` : "no error")],
];

function render({ model, el }) {
  const tensors = model.get("tensors").map((t) => ({ ...t, rows: split(floats(t.values), t.channels) }));
  const usual = { ...USUAL, ...model.get("start") },
    at = fromAddress("quantizer", usual);
  const root = frame(el, "Quantizer explorer"),
    { link, update } = permanentLink("quantizer"),
    spoken = announcer();
  const picture = element("div"),
    body = element("tbody");
  const change = () => {
    sync();
    show();
  };

  const controls = {
    tensor: choice(
      "Tensor",
      tensors.map((t, i) => [i, t.name]),
      at.tensor,
      () => {
        controls.channel.set("all", channels());
        change();
      },
    ),
    channel: choice("Channel shown", [["all", "all"]], "all", change),
    bits: slider("Bits", { min: 1, max: 8 }, at.bits, change),
    percentile: percentiles(at.percentile, change),
    granularity: choice(
      "A range for",
      [
        ["per_tensor", "the whole tensor"],
        ["per_channel", "each channel"],
      ],
      at.granularity,
      change,
    ),
    symmetric: tick("Symmetric", at.symmetric, change),
    grid: choice("Symmetric grid", GRIDS, at.grid, change),
  };
  const tensor = () => tensors[controls.tensor.value];
  const channels = () => [["all", `all ${tensor().channels}`], ...tensor().rows.map((_, i) => [i, `${i + 1}`])];
  const values = () =>
    Object.fromEntries(
      Object.entries(controls).map(([name, c]) => [name, typeof usual[name] === "number" ? Number(c.value) : c.value]),
    );
  function sync() {
    // a symmetric grid needs two bits, and its kind means nothing without it
    controls.grid.input.disabled = !controls.symmetric.value;
    controls.bits.input.min = controls.symmetric.value ? 2 : 1;
    controls.bits.set(controls.bits.value);
    update(values(), usual);
  }

  function show() {
    const now = values(),
      found = measure(tensor().rows, now);
    const total = found.codes.last - found.codes.first + 1;
    body.replaceChildren(
      ...ROWS.map(([name, title, text]) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, title),
          element(
            "td",
            { "data-name": name, "data-value": JSON.stringify(found.numbers[name]) },
            text
              ? text(found.numbers[name])
              : `${six(found.numbers.levels)} of ${total}${found.used.length > 1 ? ", on average over channels" : ""}`,
          ),
        ),
      ),
    );
    redraw();
    spoken.say(`Mean squared error ${six(found.numbers.error)}, ${six(found.numbers.levels)} of ${total} levels used`);
  }

  const redraw = responsive(picture, (width) => {
    const now = values(),
      found = measure(tensor().rows, now),
      { codes, range } = found;
    const shown = now.channel === "all" ? tensor().rows.flatMap((row) => [...row]) : [...tensor().rows[now.channel]];
    const single = found.scales.length === 1 || now.granularity === "per_tensor";
    let [low, high] = [
      Math.min(0, ...(shown.length ? [shown.reduce((a, b) => Math.min(a, b))] : [])),
      shown.reduce((a, b) => Math.max(a, b), 0),
    ];
    if (single)
      [low, high] = [
        Math.min(low, (codes.first - codes.zero) * codes.step),
        Math.max(high, (codes.last - codes.zero) * codes.step),
      ];
    if (low === high) high = low + 1;
    const counts = new Array(BARS).fill(0),
      bar = (high - low) / BARS;
    for (const x of shown) counts[Math.min(BARS - 1, Math.floor((x - low) / bar))] += 1;
    const x = scale(low, high, MARGIN.left, width - MARGIN.right),
      top = Math.max(...counts),
      logTop = Math.log10(top) || 1;
    const y = (count) =>
      count <= 0 ? HEIGHT - MARGIN.bottom : scale(-0.15, logTop, HEIGHT - MARGIN.bottom, MARGIN.top)(Math.log10(count));
    const svg = shape("svg", { height: HEIGHT, role: "img", "aria-label": describe(now, found) });
    const powers = Array.from({ length: Math.floor(logTop) + 1 }, (_, i) => 10 ** i);
    svg.append(
      axes({
        width,
        height: HEIGHT,
        margin: MARGIN,
        x,
        y,
        xTicks: ticks(low, high, width / 110),
        yTicks: powers,
        xName: "value",
        yName: "how many values (logarithmic)",
      }),
    );
    counts.forEach(
      (count, i) =>
        count &&
        svg.append(
          shape("rect", {
            x: x(low + i * bar),
            y: y(count),
            width: Math.max(1, x(low + bar) - x(low) - 0.5),
            height: HEIGHT - MARGIN.bottom - y(count),
            fill: "currentColor",
            "fill-opacity": 0.35,
          }),
        ),
    );
    if (single) {
      const used = found.used[0];
      svg.append(
        shape("rect", {
          x: x(range[0]),
          y: MARGIN.top,
          width: Math.max(1, x(range[1]) - x(range[0])),
          height: HEIGHT - MARGIN.top - MARGIN.bottom,
          fill: COLOURS[0],
          "fill-opacity": 0.08,
        }),
      );
      for (let code = codes.first; code <= codes.last; code++) {
        const at = x((code - codes.zero) * codes.step),
          taken = used.has(code - codes.zero);
        svg.append(
          shape("line", {
            x1: at,
            x2: at,
            y1: MARGIN.top,
            y2: HEIGHT - MARGIN.bottom,
            stroke: taken ? COLOURS[1] : "currentColor",
            "stroke-width": codes.last - codes.first > 32 ? 0.7 : 1.8,
            "stroke-opacity": taken ? 1 : 0.6,
            "stroke-dasharray": taken ? null : "2 4",
          }),
        );
      }
    }
    picture.replaceChildren(svg);
  });

  function describe(now, found) {
    const whole = now.channel === "all" ? "all channels" : `channel ${Number(now.channel) + 1}`;
    const grid = `${now.bits} bits, ${now.symmetric ? `symmetric (${now.grid})` : "asymmetric"}, a range ${now.granularity === "per_tensor" ? "for the whole tensor" : "for each channel"}`;
    return `Histogram of ${tensor().name}, ${whole}, and the values of the codes: ${grid}. ${six(found.numbers.levels)} levels used.`;
  }

  controls.tensor.label.style.gridColumn = "1 / -1";
  root.append(
    element("div", { class: "controls" }, ...Object.values(controls).map((c) => c.label)),
    picture,
    element(
      "p",
      {},
      "Orange lines: the value of a code that occurs. Dotted: a code that no value uses. Shaded: the clipping range. ",
      "With a range for each channel, the lines appear when one channel is shown.",
    ),
    element("table", {}, element("caption", {}, "The values shown, quantized"), body),
    element("p", {}, link),
    spoken.line,
  );
  controls.channel.set(at.channel, channels());
  sync();
  show();
}

function split(values, channels) {
  const length = values.length / channels;
  return Array.from({ length: channels }, (_, i) => values.subarray(i * length, (i + 1) * length));
}

export default { render };
