"""`explore`: every field of `QuantConfig` as a control, and the accuracy it gives. It needs a kernel:
JupyterLab or Colab.

Measuring runs in a thread of its own, so that the kernel stays free to hear of the next move, which ends it
at its next torch operation. The first answer stands on few images, the last one on all: it is what
`qlib.quantize` and `qlib.evaluate` give.
"""

from __future__ import annotations

import atexit
import contextvars
import dataclasses
import html
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ipywidgets as W
import numpy as np
import torch
from IPython import get_ipython
from IPython.display import display
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..benches import Batches, Bench, network_of, weights_hash
from ..cards import CATEGORIES, FIELDS, SCHEMA, QuantizationCard
from ..choices import choices as stated
from ..config import MAX_BITS, QuantConfig
from ..evaluation import Accuracy, compare, evaluate
from ..footprints import Footprint, footprint
from ..model import quantize
from ..names import suggestion
from ..network import evaluation_copy
from ..network.inputs import inputs_of

DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(QuantConfig)}
WORDS = {name: known.none for name, known in stated(QuantConfig).items() if known.none is not None}
PERCENTILES = (90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 100.0)
FEW = 64  # calibration images of the first answer
# Its validation images: parts are added until so many are seen, or so many seconds spent
FIRST = 256
PART = 64
SOON = 0.25
LIGHT = 1.0  # seconds; a first answer that took fewer is computed by one thread
EVERY = 0.1  # seconds between two answers on the way
# Seconds that a cell waits for the first whole answer where nobody looks, so that a saved notebook holds it
PATIENCE = 600
TOOLTIP = "tooltip" if hasattr(W.IntSlider, "tooltip") else "description_tooltip"  # ipywidgets 8, 7
STYLE = """<style>
.qpanel { font-size: 14px; line-height: 1.5; max-width: 40rem; font-variant-numeric: tabular-nums; }
.qpanel[aria-busy=true] .qold { animation: qpanel-old 0s 0.3s forwards; }
@keyframes qpanel-old { to { opacity: 0.4; } }
.qpanel table { border-collapse: collapse; margin: 0.4em 0; border: 0; }
.qpanel tr, .qpanel th, .qpanel td { background: none !important; border: 0 !important; color: inherit;
  font-size: inherit;
  font-weight: 400; text-align: left; vertical-align: baseline; padding: 0 1.2em 0 0; }
.qpanel td b { font-size: 1.4em; font-weight: 650; }
.qpanel p { margin: 0.3em 0; }
.qpanel .qerror { border-left: 4px solid #D55E00; padding-left: 0.8em; }
.qpanel .qstrip { position: relative; height: 3.6em; margin: 0.4em 1.6em 0; }
.qpanel .qstrip * { position: absolute; }
.qpanel .qaxis { left: 0; right: 0; top: 1.8em; height: 0.4em; opacity: 0.6;
  border: solid currentColor; border-width: 1px 1px 0; }
.qpanel .qrange { top: 1.6em; height: calc(0.4em + 1px); background: #56B4E9; }
.qpanel .qdot { top: 1.3em; width: 1em; height: 1em; margin-left: -0.5em; border-radius: 50%;
  background: #0072B2; }
.qpanel .qfloat { top: 1.2em; height: 1.2em; margin-left: -1px; border-left: 2px solid currentColor; }
.qpanel .qstrip small { transform: translateX(-50%); white-space: nowrap; }
.qpanel pre { white-space: pre-wrap; overflow-wrap: anywhere; background: none; color: inherit;
  padding: 0; margin: 0.5em 0; }
</style>"""


def explore(
    subject: Bench | nn.Module,
    calibration: Iterable | Tensor | None = None,
    validation: Batches | None = None,
    *,
    front: Sequence[str] = ("weight_bits", "activation_bits"),
    choices: Mapping[str, Mapping[str, Any]] | None = None,
    network: str = "base",
    calibration_images: int = 320,
    images: int = 2000,
    **start: Any,
) -> Panel:
    """A panel that quantizes and evaluates a network again whenever a reader moves one of its controls.

    ``subject``: a bench, whose ``network`` is measured on its first ``images`` validation images, with
    ``calibration_images`` of its calibration images; or a network of your own, with ``calibration`` and
    ``validation`` as `quantize` and `evaluate` take them. The panel keeps a copy of the network as it is now.

    ``front``: the fields of `QuantConfig` whose controls stand in front; all others are folded away.
    ``start``: fields that do not start at their default. ``choices``: by field, values to choose from by
    names of yours, in the place of the usual control (bits by layer, for one); it starts with the first.

    The last line of a cell shows the panel. ``panel.config``, ``panel.accuracy`` and ``panel.card`` say what
    it stands at, ``panel.wait()`` returns when that is measured. Raises ``ValueError`` naming a field or
    value that cannot be.
    """
    if isinstance(subject, nn.Module):
        if validation is None:
            raise ValueError(
                "a network of your own needs validation images: explore(model, calibration, validation)"
            )
        known = {"network": type(subject).__name__[:100]}
        return Panel(subject, calibration, validation, front, choices or {}, start, known)
    if calibration is not None or validation is not None or not hasattr(subject, "models"):
        raise ValueError(
            "explore takes a bench, or a torch.nn.Module with its calibration and validation batches; got a "
            f"{type(subject).__name__}"
        )
    model = network_of(subject, network)
    known = {
        "network": f"{network} of the bench {subject.name}",
        "dataset": f"{subject.name}, validation images",
        "data": "training images",
    }
    return Panel(
        model,
        subject.calibration(calibration_images),
        subject.validation(images),
        front,
        choices or {},
        start,
        known,
    )


class Panel:
    """What `explore` makes. ``controls``: a widget by field of `QuantConfig`; ``widget``: these and the
    answer. ``model``, ``calibration``, ``validation``: what it measures, and ``baseline``: in float, ``None``
    while that is not measured yet.
    """

    def __init__(
        self,
        model: nn.Module,
        calibration: Iterable | Tensor | None,
        validation: Batches,
        front: Sequence[str],
        choices: Mapping[str, Mapping[str, Any]],
        start: Mapping[str, Any],
        known: Mapping[str, Any],
    ):
        for name in (*front, *choices, *start):
            if name not in DEFAULTS:
                raise ValueError(f"QuantConfig has no field {name!r}{suggestion(name, DEFAULTS)}")
        start = QuantConfig(
            **{**{name: next(iter(values.values())) for name, values in choices.items()}, **start}
        )
        self.model = evaluation_copy(model)
        one_pass = calibration is not None and not isinstance(calibration, (Tensor, Sequence))
        self.calibration = list(calibration) if one_pass else calibration
        self.validation = validation if isinstance(validation, Sequence) else list(validation)
        if (
            not self.validation
            or not isinstance(self.validation[0], (tuple, list))
            or len(self.validation[0]) != 2
        ):
            raise ValueError("validation must hold at least one batch, a pair of inputs and labels")
        inputs = inputs_of(self.calibration)
        self._few = _first(inputs, FEW)
        self._calibration_images = sum(map(len, inputs))
        self._images = (
            sum(len(y) for _, y in self.validation) if isinstance(self.validation, (list, tuple)) else None
        )
        self._known = {
            "weights_hash": weights_hash(self.model),
            "images": self._calibration_images,
            "labels": "none",
            "steps": 0,
            **known,
        }
        self._in_float: dict[
            Any, np.ndarray
        ] = {}  # which images the float network gets right, by part of the validation images
        self.baseline: Accuracy | None = None
        # A network so small that threads would wait for one another, beside those of the kernel's cells
        self._light = True
        modules = _modules(self.model)
        self.controls = {
            name: _control(name, getattr(start, name), choices.get(name), modules) for name in DEFAULTS
        }
        self._answer = W.HTML()
        self._card = W.HTML()
        self._body = ""
        self.widget = W.VBox(
            [
                W.HTML(STYLE),
                *(self.controls[name] for name in dict.fromkeys(front)),
                self._answer,
                *_folded("all other choices", self._others(front)),
                *_folded("the card of this setting", [self._card]),
            ]
        )
        # The number of the last move, and of the last one that is answered
        self._move = 0
        self._measured = 0
        self._values: dict[str, Any] = {}
        self._accuracy: Accuracy | None = None
        self._size: Footprint | None = None
        self._changed = threading.Condition(threading.RLock())  # guards these five, and what is shown
        self._thread: threading.Thread | None = None
        for control in self.controls.values():
            control.observe(self._moved, "value")
        atexit.register(_stop, weakref.ref(self))
        self._moved()

    def _others(self, front: Sequence[str]) -> list[W.Widget]:
        rows: list[W.Widget] = []
        for category, fields in CATEGORIES.items():
            own = [self.controls[name] for name in fields if name in DEFAULTS and name not in front]
            title = html.escape(SCHEMA["properties"][category]["title"])
            rows += [W.HTML(f'<div class="qpanel"><b>{title}</b></div>'), *own] if own else []
        return rows

    def _ipython_display_(self) -> None:
        display(self.widget)
        self.settle()

    def settle(self) -> None:
        """Where a program runs the notebook, wait for the first whole answer, so that the saved notebook
        holds it.
        """
        if _unattended():
            with self._changed:
                self._changed.wait_for(self._settled, PATIENCE)

    @property
    def config(self) -> QuantConfig:
        """What the controls say. Raises ``ValueError`` where they contradict one another."""
        return QuantConfig(**self._said())

    def _said(self) -> dict[str, Any]:
        """What the controls say, by field."""
        return {
            name: None if control.value == WORDS.get(name, "") else control.value
            for name, control in self.controls.items()
        }

    @property
    def accuracy(self) -> Accuracy | None:
        """Of the present setting on all images; ``None`` while it is not measured yet, or if it cannot be."""
        with self._changed:
            return self._accuracy if self._settled() else None

    @property
    def card(self) -> QuantizationCard:
        """The card of the present setting, with what is measured of it."""
        with self._changed:
            measured = {"accuracy": self.accuracy, "size": self._size if self._settled() else None}
            return QuantizationCard.from_run(self.config, baseline=self.baseline, **measured, **self._known)

    def wait(self, timeout: float | None = None) -> Panel:
        """Return when the present setting is measured, or found to be impossible; ``TimeoutError`` after
        ``timeout`` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(self._settled, timeout):
                raise TimeoutError(f"the panel has not finished within {timeout:g} seconds")
        return self

    def _settled(self) -> bool:
        return self._thread is None

    def _moved(self, change: object = None) -> None:
        """In the kernel's main thread: have the new setting measured, and let go of the old one."""
        values = self._said()
        try:
            acting = _acting(QuantConfig(**values))
        except ValueError:
            acting = set(DEFAULTS)  # the answer says why
        for name, control in self.controls.items():
            control.disabled = name not in acting
        with self._changed:
            self._threads = torch.get_num_threads()
            self._move = self._move + 1
            self._values = values
            self._accuracy = None
            self._size = None
            self._show("Measuring ...", busy=True, old=True)
            if self._thread is None:
                context = (
                    contextvars.copy_context()
                )  # there the kernel keeps which message a widget's messages answer
                self._thread = threading.Thread(
                    target=context.run, args=(self._work,), daemon=True, name="qlib.explore"
                )
                self._thread.start()

    def _work(self) -> None:
        """In a thread of its own: measure the last setting, until there is none after it."""
        while True:
            with self._changed:
                if self._measured == self._move:
                    self._thread = None
                    self._changed.notify_all()
                    return
                move = self._move
                values = self._values
            try:
                self._try(move, values)
            except _Moved:
                continue
            self._measured = move

    def _try(self, move: int, values: Mapping[str, Any]) -> None:
        try:
            with _Until(lambda: self._move != move):
                self._measure(move, values)
        except Exception as error:
            self._say(
                move, f'<p class="qerror"><b>This cannot be done:</b> {html.escape(_reason(error))}</p>'
            )

    def _measure(self, move: int, values: Mapping[str, Any]) -> None:
        config = QuantConfig(**values)
        began = time.monotonic()
        images, _ = self.validation[0]
        try:
            torch.set_num_threads(1 if self._light else self._threads)
            self._first_answer(move, config, began)
        finally:
            torch.set_num_threads(self._threads)
            self._light = self._light and time.monotonic() - began < LIGHT
        size = footprint(self.model, images[:1], config)
        network = quantize(self.model, config, self.calibration)
        calibrated = self._calibration_images
        said = time.monotonic()
        seen = []
        in_float = []
        for i, batch in enumerate(self.validation):
            seen.append(evaluate(network, [batch]).correct)
            in_float.append(self._float(i, [batch]))
            if time.monotonic() - said > EVERY and i + 1 < len(self.validation):
                said = time.monotonic()
                self._say(move, _numbers(seen, in_float, size), self._stands_on(seen, calibrated), busy=True)
        accuracy = Accuracy(np.concatenate(seen))
        self.baseline = Accuracy(np.concatenate(in_float))
        self._images = accuracy.n
        card = QuantizationCard.from_run(config, accuracy, baseline=self.baseline, size=size, **self._known)
        with self._changed:
            self._say(move, _numbers(seen, in_float, size), self._stands_on(seen, calibrated, whole=True))
            self._accuracy = accuracy
            self._size = size
            self._card.value = _code(config) + card.to_html()

    def _first_answer(self, move: int, config: QuantConfig, began: float) -> None:
        """That on few images, the time of which may be up before all of them are seen."""
        network, (images, labels), seen, in_float = (
            quantize(self.model, config, self._few),
            self.validation[0],
            [],
            [],
        )
        for i in range(0, min(FIRST, len(images)), PART):
            part = [(images[i : i + PART], labels[i : i + PART])]
            seen.append(evaluate(network, part).correct)
            in_float.append(self._float(("first", i), part))
            if time.monotonic() - began > SOON:
                break
        self._say(move, _numbers(seen, in_float), self._stands_on(seen, sum(map(len, self._few))), busy=True)

    def _float(self, part: Any, batches: Batches) -> np.ndarray:
        if part not in self._in_float:
            self._in_float[part] = evaluate(self.model, batches).correct
        return self._in_float[part]

    def _say(self, move: int, body: str, note: str = "", busy: bool = False) -> None:
        """Show the answer to a move, if it still is the last one."""
        with self._changed:
            if self._move != move:
                raise _Moved
            self._body = body
            self._show(note, busy)

    def _show(self, note: str, busy: bool, old: bool = False) -> None:
        body = f"<div class=qold>{self._body}</div>" if old else self._body
        self._answer.value = (
            f'<div class="qpanel" role="status" aria-live="polite" aria-busy="{str(busy).lower()}">{body}'
            f"<p>{note}</p></div>"
        )

    def _stands_on(self, seen: Sequence[np.ndarray], calibrated: int, whole: bool = False) -> str:
        """What the numbers shown stand on."""
        n = sum(map(len, seen))
        total = self._images
        ranges = self._calibration_images
        images = f"all {n:,}" if whole else f"{n:,} of {total:,}" if total else f"the first {n:,}"
        calibration = f"all {ranges:,}" if calibrated == ranges else f"{calibrated:,} of {ranges:,}"
        text = f"On {images} validation images" + (
            f", ranges from {calibration} calibration images" if ranges else ""
        )
        return text + ("; 95 % intervals." if whole else " ...")


def _numbers(
    seen: Sequence[np.ndarray], in_float: Sequence[np.ndarray], size: Footprint | None = None
) -> str:
    """The answer as HTML: accuracy and its interval as a picture, and all figures as a table."""
    now = Accuracy(np.concatenate(seen))
    base = Accuracy(np.concatenate(in_float))
    low, high = now.interval
    rows = {
        "Accuracy": f"<b>{now.top1:.2f} %</b> &nbsp;{low:.2f} to {high:.2f}",
        "In float": f"{base.top1:.2f} % &nbsp;{base.interval[0]:.2f} to {base.interval[1]:.2f}",
        "Difference": str(compare(now, base)).split(", n =")[0] + ")",
        "Weights": "...",
        "Feature maps": "...",
    }
    if size is not None:
        rows["Weights"] = f"{size.weight_bytes / 1e6:.3f} MB, {size.average_weight_bits:.2f} bits on average"
        rows["Feature maps"] = (
            f"{size.activation_bytes / 1e6:.3f} MB an image, {size.average_activation_bits:.2f} bits on "
            f"average, largest {size.max_activation_bytes / 1e3:.1f} kB"
        )
    strip = (
        '<span class="qaxis"></span>'
        f'<span class="qrange" style="left:{low:.2f}%;width:{high - low:.2f}%"></span>'
        f'<span class="qfloat" style="left:{base.top1:.2f}%"></span>'
        f'<span class="qdot" style="left:{now.top1:.2f}%"></span>'
        f'<small style="left:{base.top1:.2f}%;top:-0.2em">float</small>'
        '<small style="left:0;top:2.4em">0 %</small><small style="left:100%;top:2.4em">100 %</small>'
    )
    table = "".join(f'<tr><th scope="row">{name}</th><td>{said}</td></tr>' for name, said in rows.items())
    return f'<div class="qstrip" aria-hidden="true">{strip}</div><table>{table}</table>'


def _code(config: QuantConfig) -> str:
    """The configuration as Python that makes it, as HTML."""
    changed = (
        f"{name}={getattr(config, name)!r}"
        for name, default in DEFAULTS.items()
        if getattr(config, name) != default
    )
    return f'<div class="qpanel"><pre>qlib.QuantConfig({html.escape(", ".join(changed))})</pre></div>'


def _reason(error: Exception) -> str:
    said = (str(error).splitlines() or [""])[0]
    return said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"


def _unattended() -> bool:
    """Whether the cell that runs came from a program such as papermill, which says that nobody can be asked
    for input.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and kernel.get_parent("shell").get("content", {}).get("allow_stdin") is False


def _stop(panel: weakref.ref[Panel]) -> None:
    """End what a panel measures before the interpreter goes away beneath it."""
    if (alive := panel()) is not None and (thread := alive._thread) is not None:
        with alive._changed:
            alive._move = alive._measured = alive._move + 1
        thread.join(5)


def _first(inputs: Sequence[Tensor], n: int) -> list[Tensor]:
    """The first ``n`` images of batches."""
    taken: list[Tensor] = []
    for batch in inputs:
        taken += [batch[: n - sum(map(len, taken))]]
    return [batch for batch in taken if len(batch)]


class _Moved(BaseException):
    """A setting was moved, so the computation for the old one ends. Not an `Exception`: nothing that it
    passes may catch it.
    """


class _Until(TorchFunctionMode):
    """Within it, whatever this thread computes ends at the next torch function once ``over()`` is true."""

    def __init__(self, over: Callable[[], bool]):
        super().__init__()
        self.over = over

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if self.over():
            raise _Moved
        return func(*args, **(kwargs or {}))


def _acting(config: QuantConfig) -> set[str]:
    """The fields that mean something beside the others, or would if they named something."""
    card = QuantizationCard.from_run(config, float_layers=config.float_layers or ("any",))
    return {name for name in DEFAULTS if card.acts(name)}


# ------------------------------------------------------------------------------------------------------------
# Controls, of what ipywidgets 7.7 and 8 both have


def _modules(model: nn.Module) -> list[str]:
    """The modules that hold a matrix of weights, and those around them."""
    modules = model.named_modules()
    return [name for name, module in modules if name and any(p.dim() > 1 for p in module.parameters())]


def _control(name: str, value: Any, choices: Mapping[str, Any] | None, modules: Sequence[str]) -> W.Widget:
    """The control of a field of `QuantConfig`, by the kind of its default; or of ``choices``, values by name.
    ``modules``: those that may be left in float.

    ``None`` is a word in its list, for to ipywidgets a value of ``None`` means that nothing is selected."""
    label = {
        "description": FIELDS[name]["title"],
        TOOLTIP: FIELDS[name]["description"],
        "style": {"description_width": "170px"},
        "layout": {"width": "min(34rem, 98%)"},
    }
    default = DEFAULTS[name]
    word = WORDS.get(name)
    value = word if value is None else value
    if choices is not None:
        given = [(text, word if choice is None else choice) for text, choice in choices.items()]
        if value not in [choice for _, choice in given]:
            raise ValueError(
                f"{name} starts at {value!r}, which is not one of its choices: {', '.join(choices)}"
            )
        return W.Dropdown(options=given, value=value, **label)
    if isinstance(default, bool):
        return W.Checkbox(value=value, **label)
    if stated(QuantConfig)[name].values:
        return W.Dropdown(
            options=[(choice.replace("_", " "), choice) for choice in stated(QuantConfig)[name].values],
            value=value,
            **label,
        )
    if isinstance(default, float):
        return W.SelectionSlider(
            options=[(f"{p:g}", p) for p in sorted({*PERCENTILES, value})], value=value, **label
        )
    if default == ():
        return W.SelectMultiple(options=list(dict.fromkeys([*value, *modules])), value=value, rows=4, **label)
    every = range(1, MAX_BITS + 1)
    if isinstance(default, tuple):
        return W.SelectMultiple(options=every, value=value, rows=4, **label)
    if isinstance(default, int):
        options = [*((str(bits), bits) for bits in every), (word, word)]
        options += [("by layer", value)] if isinstance(value, Mapping) else []
        return W.SelectionSlider(options=options, value=value, **label)
    raise TypeError(f"there is no control for QuantConfig.{name}")


def _folded(what: str, children: Sequence[W.Widget]) -> list[W.Widget]:
    """A button that shows and hides widgets. (The header of ipywidgets' own `Accordion` cannot be reached by
    keyboard.)
    """
    button = W.ToggleButton(description=f"Show {what}", layout={"width": "auto", "align_self": "flex-start"})
    box = W.VBox(children, layout={"display": "none"})

    def turn(change: Mapping[str, Any]) -> None:
        box.layout.display = "" if change["new"] else "none"
        button.description = f"{'Hide' if change['new'] else 'Show'} {what}"

    button.observe(turn, "value")
    return [button, box]
