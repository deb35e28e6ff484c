// A panel that quantizes the built-in network in the page and measures it: every choice is a control. Nothing is loaded before a click.
import { announcer, choice, element, fromAddress, frame, permanentLink, published, signed, slider, tick } from "./kit.js";
import { ask, named, offer } from "./engine/page.js";
import { accuracy, acting, cardText, difference, inWords } from "./measuring_answer.js";

const FLOAT = { weight_bits: null, activation_bits: null },
  EXACT = "Ranges are those that qlib finds.",
  PART = "These are the first images of the 10,000 that recorded tables have, so the same setting may stand there some tenths of a point away.",
  METHOD = "How codes are found: nearest rounds; bias also corrects the mean of what layers give; adaround and blocks learn which way to round.",
  FOUND_HERE =
    "Ranges or biases of this setting are found here, in the page: qlib in Python finds them up to the last digit, so some answers may differ.",
  ELSEWHERE = "On the published page this measures by itself. Where there is a kernel, qlib.explore does.";

const two = (value) => value.toFixed(2),
  images = (n) => `${n.toLocaleString("en")} images`,
  interval = ({ low, high }, show = two) => `${show(low)} to ${show(high)}`;

function render({ model, el }) {
  const controls = model.get("controls"),
    networks = model.get("networks"),
    methods = model.get("methods"),
    shipped = model.get("shipped"),
    counts = model.get("counts"),
    front = model.get("front");
  const usual = { network: model.get("network"), method: "nearest", ...textOf(model.get("start")) },
    at = fromAddress("measuring", usual),
    root = frame(el, "Quantize the built-in network and measure it"),
    spoken = announcer(),
    { link, update } = permanentLink("measuring"),
    panel = named();
  let move = 0,
    loaded = false,
    stood = null, // the last setting that was answered on all images
    setFor = "", // the choices that a method has set, in words
    now = null;
  const inFloat = {}; // by network, which images the float network answers rightly

  const made = {};
  for (const [name, control] of Object.entries(controls)) made[name] = controlOf(control, at[name], model.get("start")[name], moved);
  const listed = (title, name, known, change) => {
    const given = Object.hasOwn(known, at[name]) ? at[name] : usual[name];
    return choice(title, Object.keys(known).map((each) => [each, each]), given, change);
  };
  const network = listed("Network", "network", networks, moved),
    method = listed("Method", "method", methods, () => {
      const { network: only, ...needs } = shipped[method.value] ?? {};
      if (only) network.set(only);
      const others = Object.entries(needs).filter(([name, value]) => JSON.stringify(made[name].value) !== JSON.stringify(value));
      for (const [name, value] of others) made[name].set(value); // for which it was learned
      setFor = others.map(([name, value]) => `${controls[name].title} ${text(controls[name], value)}`).join(", ");
      moved();
    });
  explained(method, METHOD);
  const button = element("button", { type: "button", click: begin }, `Load the network and measure (about ${networks[network.value].megabytes} MB)`),
    answer = element("div", { style: "min-height: 3em", tabindex: -1 }),
    card = element("pre", { tabindex: 0, style: "overflow-x: auto; font-size: 12px; max-height: 24rem" }),
    copy = element("button", { type: "button", click: () => navigator.clipboard?.writeText(card.textContent).then(() => (copy.textContent = "Copied")) }, "Copy the card"),
    cardBox = element("details", { hidden: true }, element("summary", {}, "The card of this setting"), copy, card);

  /** The values of the controls, as a configuration. */
  const values = () => Object.fromEntries(Object.entries(made).map(([name, control]) => [name, control.value]));
  /** What address and link say of a setting. */
  const state = () => ({ network: network.value, method: method.value, ...textOf(values()) });
  function textOf(fields) {
    return Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, text(controls[name], value)]));
  }

  function moved() {
    const acts = acting(controls, values());
    for (const [name, { input }] of Object.entries(made)) input.disabled = !acts.has(name);
    update(state(), usual);
    if (loaded) measure();
  }

  async function begin() {
    button.disabled = true;
    loaded = true;
    answer.focus(); // which the button loses
    await measure();
  }

  async function measure() {
    const mine = ++move,
      question = { panel, move: mine, config: values(), method: method.value, parts: counts },
      asked = network.value;
    answer.setAttribute("aria-busy", "true");
    answer.style.opacity = 0.5;
    if (!now) answer.textContent = "Loading ...";
    const show = (found) => {
      if (mine !== move || found.moved) return;
      button.hidden = true;
      now = { ...found, asked, config: question.config, method: question.method };
      tell();
      if (!found.last) return;
      if (inFloat[asked]) say(); // or else when that is known
      stood = { before: stood?.found, found: now };
    };
    try {
      show(await ask(asked, question, show));
      if (mine === move && !inFloat[asked]) {
        inFloat[asked] = (await ask(asked, { config: FLOAT, method: "nearest", parts: [counts.at(-1)] })).right;
        if (mine === move) say();
      }
    } catch (error) {
      if (mine === move) fail(error);
    }
  }

  /** Shows the present setting, and says it in one sentence a line. */
  function say() {
    tell();
    spoken.say([...answer.querySelectorAll("p, tr")].map((line) => [...(line.cells ?? [line])].map((part) => part.textContent).join(": ")).join(". "));
  }

  function fail(error) {
    answer.style.opacity = 1;
    answer.setAttribute("aria-busy", "false");
    answer.replaceChildren(element("p", { role: "alert" }, element("b", {}, "This cannot be done: "), error.message));
    cardBox.hidden = true;
    spoken.say("");
    if (now && !error.again) return;
    loaded = Boolean(now);
    button.hidden = button.disabled = false;
    button.textContent = "Try again";
  }

  /** Shows what is known of the present setting. */
  function tell() {
    const { right, size, last, exact, asked, config } = now,
      found = accuracy(right),
      before = stood?.found === now ? stood.before : stood?.found,
      float = inFloat[asked],
      rows = [];
    const paired = (others) => {
      const { points, ...rest } = difference(right, others);
      return `${signed(points)} points (${interval(rest, signed)}), on the same ${images(rest.n)}`;
    };
    const { rounding, technique } = methods[now.method];
    const set = setFor && `; set for it: ${setFor}`;
    if (now.method !== "nearest") rows.push(["Method", `${now.method}: ${now.method in shipped ? rounding : technique}${set}`]);
    if (before) rows.push(["Against what stood before", paired(before.right)]);
    if (float) rows.push(["In float", `${two(accuracy(float).top1)} %; against it ${paired(float)}`]);
    rows.push(["Weights", `${(size.weight_bytes / 1e6).toFixed(3)} MB, ${two(size.average_weight_bits)} bits on average`]);
    const maps = `${(size.activation_bytes / 1e6).toFixed(3)} MB an image, ${two(size.average_activation_bits)} bits on average`;
    rows.push(["Feature maps", `${maps}, largest ${(size.max_activation_bytes / 1e3).toFixed(1)} kB`]);
    const line = ([name, said]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, said));
    answer.style.opacity = 1;
    answer.setAttribute("aria-busy", String(!last));
    answer.replaceChildren(
      element(
        "p",
        {},
        element("b", { style: "font-size: 1.6em", "data-top1": found.top1 }, `${two(found.top1)} %`),
        ` of ${images(found.n)} right${last ? "" : " so far"} (95 % interval ${interval(found)})`,
      ),
      element("table", {}, element("tbody", {}, ...rows.map(line))),
      element("p", {}, [config.weight_bits ?? config.activation_bits ? (exact ? EXACT : FOUND_HERE) : "", PART].join(" ")),
    );
    cardBox.hidden = !last;
    copy.textContent = "Copy the card";
    if (!last) return;
    const known = { controls, values: config, method: methods[now.method], network: networks[asked] };
    card.textContent = cardText(model.get("card"), { ...known, found, size, float: float && accuracy(float) });
  }

  const others = Object.entries(model.get("categories")).flatMap(([category, title]) => {
    const own = Object.keys(controls).filter((name) => controls[name].category === category && !front.includes(name));
    const labels = [...own.map((name) => made[name].label), ...(category === "method" ? [method.label] : [])];
    return labels.length ? [element("p", {}, element("b", {}, title)), element("div", { class: "controls" }, ...labels)] : [];
  });
  root.append(
    element("div", { class: "controls" }, ...front.map((name) => made[name].label), network.label),
    element(
      "details",
      { open: Object.keys(at).some((name) => !front.includes(name) && name !== "network" && String(at[name]) !== String(usual[name])) },
      element("summary", {}, "All other choices"),
      ...others,
      element("p", {}, "What is greyed does nothing beside the other choices."),
    ),
    published() ? button : element("p", {}, ELSEWHERE),
    answer,
    cardBox,
    element("p", {}, link),
    spoken.line,
  );
  offer();
  moved();
}

/** A control with what it is about, on hover and for those who hear it. */
function explained(control, help) {
  control.label.title = help;
  control.input.setAttribute("aria-description", help);
  return control;
}

/** A value as text, for lists and addresses. */
function text(control, value) {
  if (control.kind === "bits") return value !== null && typeof value === "object" ? "by layer" : String(inWords(control, value));
  return value;
}

/** The control of a choice, of the kind that Python says; its `value` is one of the configuration's. */
function controlOf(control, asked, start, change) {
  const { title, help, kind } = control,
    values = start !== null && typeof start === "object" ? [...control.values, start] : control.values,
    words = values.map((each) => text(control, each)),
    index = (wanted) => words.findIndex((word) => String(word) === String(wanted)),
    value = index(asked) < 0 ? text(control, start) : asked;
  let made;
  if (kind === "switch") made = tick(title, value, change);
  else if (kind === "words") made = choice(title, values.map((word) => [word, word.replaceAll("_", " ")]), value, change);
  else {
    const inner = slider(title, { min: 0, max: values.length - 1 }, index(value), change, (i) => String(words[i]));
    made = { label: inner.label, input: inner.input, set: (wanted) => inner.set(index(text(control, wanted))), get value() { return values[inner.value]; } };
  }
  return explained(made, help);
}

export default { render };
