// What a layer is given for a few tokens, one channel of which is an outlier, on grids whose ranges are for all, for a token, or for a group.
import { announcer, choice, element, frame, fromAddress, permanentLink, responsive, roundEven, shape, slider } from "./kit.js";

const CELL = 15,
  LEFT = 96;

/** Values on asymmetric grids, `size` neighbours to a range. */
export function quantized(rows, bits, size) {
  const flat = rows.flat(),
    most = 2 ** bits - 1,
    found = [];
  for (let at = 0; at < flat.length; at += size) {
    const part = flat.slice(at, at + size),
      low = Math.min(0, ...part),
      scale = (Math.max(0, ...part) - low) / most || 1,
      zero = -roundEven(low / scale);
    for (const value of part) found.push((Math.min(most, Math.max(0, roundEven(value / scale) + zero)) - zero) * scale);
  }
  const width = rows[0].length;
  return rows.map((_, i) => found.slice(i * width, (i + 1) * width));
}

/** The squared error of the channels beside the outlier as a share of their squares, and the share of their values that became 0. */
export function measure(rows, now, outlier) {
  let error = 0,
    whole = 0,
    zeros = 0,
    count = 0;
  rows.forEach((row, i) =>
    row.forEach((value, j) => {
      if (j === outlier) return;
      error += (now[i][j] - value) ** 2;
      whole += value ** 2;
      zeros += now[i][j] === 0;
      count += 1;
    }),
  );
  return { lost: error / whole, zeros: zeros / count };
}

function render({ model, el }) {
  const [rows, tokens, outlier, ranges, group, [least, most, start]] = ["values", "tokens", "outlier", "ranges", "group", "bits"].map((name) => model.get(name)),
    sizes = { "per tensor": rows.length * rows[0].length, "per token": rows[0].length, "per group": group };
  const root = frame(el, "One loud channel"),
    spoken = announcer(),
    { link, update } = permanentLink("tokens"),
    usual = { ranges: ranges[0][0], bits: start },
    given = fromAddress("tokens", usual),
    picture = element("div"),
    sentence = element("p", { style: "min-height: 2.9em" });
  const kind = choice("Ranges", ranges.map(([name, words]) => [name, `${name}: ${words}`]), given.ranges, () => show());
  const bits = slider("Bits", { min: least, max: most }, given.bits, () => show());
  const others = rows.map((row) => row.filter((_, j) => j !== outlier)),
    typical = Math.sqrt(others.flat().reduce((sum, value) => sum + value ** 2, 0) / others.flat().length);
  let now = rows;

  function show() {
    now = quantized(rows, bits.value, sizes[kind.value]);
    const { lost, zeros } = measure(rows, now, outlier);
    sentence.replaceChildren(
      element("b", {}, `${kind.value}, ${bits.value} bits`),
      ": beside the loud channel ",
      element("b", {}, `${(100 * lost).toFixed(1)} %`),
      ` of what the other channels hold is lost, and ${Math.round(100 * zeros)} % of their values have become 0.`,
    );
    update({ ranges: kind.value, bits: bits.value }, usual);
    spoken.say(sentence.textContent);
    redraw();
  }

  const svg = shape("svg", { role: "img", height: CELL * rows.length + 24 });
  const redraw = responsive(picture, (width) => {
    const wide = (width - LEFT) / rows[0].length;
    svg.setAttribute("aria-label", sentence.textContent);
    svg.replaceChildren(
      ...tokens.map((token, i) => shape("text", { x: LEFT - 6, y: i * CELL + 12, "text-anchor": "end", "font-size": 12 }, token.trim() || "␣")),
      ...now.flatMap((row, i) =>
        row.map((value, j) =>
          shape("rect", {
            x: LEFT + j * wide,
            y: i * CELL,
            width: wide - 1,
            height: CELL - 1,
            fill: value === 0 ? "#9A9A9A" : value > 0 ? "#D55E00" : "#0072B2",
            "fill-opacity": value === 0 ? 0.25 : Math.min(1, 0.15 + Math.abs(value) / (3 * typical)),
          }),
        ),
      ),
      shape("text", { x: LEFT + (outlier + 0.5) * wide, y: CELL * rows.length + 16, "text-anchor": "middle", "font-size": 12 }, "▲ loud"),
    );
  });
  picture.append(svg);

  root.append(
    element("div", { class: "controls" }, kind.label, bits.label),
    sentence,
    picture,
    element("p", {}, `A row is a token, a column a channel. Orange: above 0; blue: below; grey: 0 after rounding. A group is ${group} neighbouring channels of a token.`),
    element("p", {}, link),
    spoken.line,
  );
  show();
}

export default { render };
