// What a layer is given for a few tokens, a channel or a token of which is loud, on grids whose ranges are for all, for a token, or for a group.
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

/** Where the largest value stands: its token and channel. */
export function loudest(rows) {
  let at = [0, 0];
  rows.forEach((row, i) => row.forEach((value, j) => Math.abs(value) > Math.abs(rows[at[0]][at[1]]) && (at = [i, j])));
  return at;
}

/** The squared error beside the loudest channel and token as a share of the squares there, and the share of values there that became 0. */
export function measure(rows, now, [token, channel]) {
  let error = 0,
    whole = 0,
    zeros = 0,
    count = 0;
  rows.forEach((row, i) =>
    row.forEach((value, j) => {
      if (i === token || j === channel) return;
      error += (now[i][j] - value) ** 2;
      whole += value ** 2;
      zeros += now[i][j] === 0;
      count += 1;
    }),
  );
  return { lost: error / whole, zeros: zeros / count };
}

function render({ model, el }) {
  const [samples, ranges, group, [least, most, start]] = ["samples", "ranges", "group", "bits"].map((name) => model.get(name)),
    names = Object.keys(samples);
  const root = frame(el, "One loud channel, one loud token"),
    spoken = announcer(),
    { link, update } = permanentLink("tokens"),
    usual = { where: names[0], ranges: ranges[0][0], bits: start },
    given = fromAddress("tokens", usual),
    picture = element("div"),
    sentence = element("p", { style: "min-height: 2.9em" });
  const where = choice("Where", names.map((name) => [name, name]), given.where, () => show());
  const kind = choice("Ranges", ranges.map(([name, words]) => [name, `${name}: ${words}`]), given.ranges, () => show());
  const bits = slider("Bits", { min: least, max: most }, given.bits, () => show());
  let now = [];

  function show() {
    const rows = samples[where.value].values,
      width = rows[0].length,
      size = { "per tensor": rows.length * width, "per token": width, "per group": group }[kind.value];
    now = quantized(rows, bits.value, size);
    const { lost, zeros } = measure(rows, now, loudest(rows));
    sentence.replaceChildren(
      element("b", {}, `${kind.value}, ${bits.value} bits`),
      ": beside the loudest channel and token, ",
      element("b", {}, `${(100 * lost).toFixed(1)} %`),
      ` of what the values hold is lost, and ${Math.round(100 * zeros)} % of them have become 0.`,
    );
    update({ where: where.value, ranges: kind.value, bits: bits.value }, usual);
    spoken.say(sentence.textContent);
    redraw();
  }

  const svg = shape("svg", { role: "img", height: CELL * Math.max(...names.map((name) => samples[name].tokens.length)) + 24 });
  const redraw = responsive(picture, (width) => {
    const { tokens, values: rows } = samples[where.value],
      [, loud] = loudest(rows),
      wide = (width - LEFT) / rows[0].length,
      beside = rows.flatMap((row) => row.filter((_, j) => j !== loud).map(Math.abs)).sort((a, b) => a - b),
      typical = beside[beside.length >> 1];
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
            "fill-opacity": value === 0 ? 0.25 : Math.min(1, 0.15 + Math.abs(value) / (4 * typical)),
          }),
        ),
      ),
      shape("text", { x: LEFT + (loud + 0.5) * wide, y: CELL * rows.length + 16, "text-anchor": "middle", "font-size": 12 }, "▲ loud"),
    );
  });
  picture.append(svg);

  root.append(
    element("div", { class: "controls" }, where.label, kind.label, bits.label),
    sentence,
    picture,
    element("p", {}, `A row is a token, a column a channel. Orange: above 0; blue: below; grey: 0 after rounding. A group is ${group} neighbouring channels of a token.`),
    element("p", {}, link),
    spoken.line,
  );
  show();
}

export default { render };
