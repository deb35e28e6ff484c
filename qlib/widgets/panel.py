"""`explore`: every field of `QuantConfig` as a control, and the accuracy it gives. It needs a kernel:
JupyterLab or Colab.

Measuring runs in a thread of its own, so that the kernel stays free to hear of the next move, which ends it
at its next torch operation. The first answer stands on few images, the last one on all: it is what
`qlib.quantize` and `qlib.evaluate` give.
"""

from __future__ import annotations

import atexit
import contextvars
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
from ..cards import CATEGORIES, SCHEMA, QuantizationCard
from ..choices import choices as stated
from ..config import QuantConfig
from ..diagnosis import diagnose
from ..evaluation import examples, measured
from ..footprints import Footprint, footprint
from ..methods import spelled, unspelled, words
from ..metrics import Measurement, Metric, find_metric
from ..network import Network, evaluation_copy, read
from ..network.inputs import as_inputs, examples_in, first, inputs_of, picked
from ..quantization import quantize
from .answer import STYLE, code, impossible, numbers
from .controls import control_of, control_of_method, folded, modules_with_weights, value_of
from .diagnosed import diagnosed

FEW = 64  # calibration images of the first answer
# Its validation images: parts are added until so many are seen, or so many seconds spent
FIRST = 256
PART = 64
SOON = 0.25
LIGHT = 1.0  # seconds; a first answer that took fewer is computed by one thread
EVERY = 0.1  # seconds between two answers on the way
# Seconds that a cell waits for the first whole answer where nobody looks, so that a saved notebook holds it
PATIENCE = 600


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
    method: Any = "nearest",
    metric: Any = None,
    config_class: type[QuantConfig] = QuantConfig,
    **start: Any,
) -> Panel:
    """A panel that quantizes and measures a network again whenever a reader moves one of its controls.

    The last line of a cell shows the panel. ``panel.config``, ``panel.method``, ``panel.accuracy`` (what the
    metric says) and ``panel.card`` say what it stands at; ``panel.wait()`` returns when that is measured.

    Parameters
    ----------
    subject
        A bench, or a network of your own. The panel keeps a copy of the network as it is now.
    calibration, validation
        For a network of your own, as `quantize` and `evaluate` take them.
    front
        The fields of the configuration whose controls stand in front; all others are folded away.
    choices
        By field, values to choose from by names of yours, in the place of the usual control (bits by layer,
        for one); it starts with the first.
    network, calibration_images, images
        Of a bench: which of its networks, how many images of either kind.
    method
        With which it starts: a name, ``FILE.py:NAME``, a mapping of name and settings, or a list of such.
    metric
        What is measured, as for `evaluate`; top-1, or what the bench says, unless given.
    config_class
        Of the configurations, for choices beside those of `QuantConfig`.
    start
        Fields that do not start at their default.

    Raises
    ------
    ValueError
        Naming a field or value that cannot be.
    """
    more = {"front": front, "choices": choices or {}, "start": start, "config_class": config_class}
    more |= {"method": spelled(method), "metric": find_metric(metric or getattr(subject, "metric", "top1"))}
    if isinstance(subject, nn.Module):
        if validation is None:
            raise ValueError(
                "a network of your own needs validation images: explore(model, calibration, validation)"
            )
        return Panel(subject, calibration, validation, {"network": type(subject).__name__[:100]}, **more)
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
    return Panel(model, subject.calibration(calibration_images), subject.validation(images), known, **more)


class Panel:
    """What `explore` makes.

    Attributes
    ----------
    controls
        A widget by field of the configuration.
    widget
        These, and the answer.
    model, calibration, validation
        What it measures.
    metric
        What is measured of it.
    baseline
        In float; ``None`` while that is not measured yet, or where the metric measures against it.
    """

    def __init__(
        self,
        model: nn.Module,
        calibration: Iterable | Tensor | None,
        validation: Batches,
        known: Mapping[str, Any],
        *,
        front: Sequence[str],
        choices: Mapping[str, Mapping[str, Any]],
        start: Mapping[str, Any],
        method: str,
        metric: Metric,
        config_class: type[QuantConfig],
    ):
        self.config_class = config_class
        self._defaults = config_class.defaults()
        config_class.refuse_unknown((*front, *choices, *start), ValueError)
        first_of = {name: next(iter(values.values())) for name, values in choices.items()}
        start = config_class(**{**first_of, **start})
        self.metric = metric
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
        self._calibration_images = sum(map(examples_in, inputs))
        self._images: int | None = None
        if isinstance(self.validation, (list, tuple)):
            self._images = sum(examples_in(as_inputs(x)) for x, _ in self.validation)
        self._known = {
            "weights_hash": weights_hash(self.model),
            "images": self._calibration_images,
            "labels": "none",
            "steps": 0,
            **known,
        }
        self._in_float: dict[Any, np.ndarray] = {}  # what the float network gives, by part of the images
        self.baseline: Measurement | None = None
        self._networks: dict[tuple[str, ...], Network] = {}
        # A network so small that threads would wait for one another, beside those of the kernel's cells
        self._light = True
        modules = modules_with_weights(self.model)
        self.controls = {
            name: control_of(
                name, known, self._defaults[name], getattr(start, name), choices.get(name), modules
            )
            for name, known in stated(config_class).items()
        }
        self._methods = control_of_method(method)
        self._answer = W.HTML()
        self._diagnosis = W.HTML()
        which = W.Button(description="Which layer hurts?", icon="stethoscope")
        which.on_click(self._diagnose)
        self._card = W.HTML()
        self._body = ""
        self.widget = W.VBox(
            [
                W.HTML(STYLE),
                *(self.controls[name] for name in dict.fromkeys(front)),
                self._answer,
                *folded("all other choices", self._others(front)),
                *folded("the card of this setting", [self._card]),
                which,
                self._diagnosis,
            ]
        )
        # The number of the last move, and of the last one that is answered
        self._move = 0
        self._measured = 0
        self._values: dict[str, Any] = {}
        self._accuracy: Measurement | None = None
        self._size: Footprint | None = None
        self._changed = threading.Condition(threading.RLock())  # guards these five, and what is shown
        self._thread: threading.Thread | None = None
        for control in (*self.controls.values(), self._methods):
            control.observe(self._moved, "value")
        atexit.register(_stop, weakref.ref(self))
        self._moved()

    def _others(self, front: Sequence[str]) -> list[W.Widget]:
        rows: list[W.Widget] = []
        for category in CATEGORIES:
            own = [self._methods] if category == "method" else []
            known = {name: choice for name, choice in stated(self.config_class).items() if name not in front}
            own += [self.controls[name] for name, choice in known.items() if choice.category == category]
            title = html.escape(SCHEMA["properties"][category]["title"])
            rows += [W.HTML(f'<div class="qpanel"><b>{title}</b></div>'), *own] if own else []
        return rows

    def _diagnose(self, button: object = None) -> None:
        """Say which quantizers are noisy under the present setting, on the few images of a first answer."""
        self._diagnosis.value = '<div class="qpanel">Listening ...</div>'
        try:
            found = diagnose(
                self.model, self.config, self._few, method=unspelled(self.method), progress=False
            )
            self._diagnosis.value = diagnosed(found)
        except ValueError as error:
            self._diagnosis.value = impossible(error)

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
        """What the controls say.

        Raises
        ------
        ValueError
            They contradict one another.
        """
        return self.config_class(**self._said())

    @property
    def method(self) -> str:
        """How codes and ranges are found, as `qlib.methods.spelled` has it."""
        return self._methods.value

    def _said(self) -> dict[str, Any]:
        """What the controls say, by field."""
        none = {name: choice.none for name, choice in stated(self.config_class).items()}
        return {name: value_of(control, none[name]) for name, control in self.controls.items()}

    @property
    def accuracy(self) -> Measurement | None:
        """What the metric says of the present setting on all images; ``None`` while it is not measured yet,
        or if it cannot be.
        """
        with self._changed:
            return self._accuracy if self._settled() else None

    @property
    def card(self) -> QuantizationCard:
        """The card of the present setting, with what is measured of it."""
        with self._changed:
            measured = {"accuracy": self.accuracy, "size": self._size if self._settled() else None}
            return self._card_of(self.config, self.method, **measured)

    def _card_of(self, config: QuantConfig, method: str, **measured: Any) -> QuantizationCard:
        known = {**self._known, **words(unspelled(method))} if not config.in_float else self._known
        return QuantizationCard.from_run(config, baseline=self.baseline, **measured, **known)

    def wait(self, timeout: float | None = None) -> Panel:
        """Return when the present setting is measured, or found to be impossible.

        Parameters
        ----------
        timeout : float, optional
            In seconds.

        Raises
        ------
        TimeoutError
            It takes longer.
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
            acting = _acting(self.config_class(**values))
        except ValueError:
            acting = set(self.controls)  # the answer says why
        for name, control in self.controls.items():
            control.disabled = name not in acting
        with self._changed:
            self._threads = torch.get_num_threads()
            self._move = self._move + 1
            self._values = values
            self._method = self.method
            self._accuracy = None
            self._size = None
            self._show("Measuring ...", busy=True, old=True)
            if self._thread is None:
                # There the kernel keeps which message a widget's messages answer.
                context = contextvars.copy_context()
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
                method = self._method
            try:
                self._try(move, values, method)
            except _Moved:
                continue
            self._measured = move

    def _try(self, move: int, values: Mapping[str, Any], method: str) -> None:
        try:
            with _Until(lambda: self._move != move):
                self._measure(move, self.config_class(**values), method)
        except Exception as error:
            self._say(move, impossible(error))

    def _measure(self, move: int, config: QuantConfig, method: str) -> None:
        began = time.monotonic()
        try:
            torch.set_num_threads(1 if self._light else self._threads)
            self._first_answer(move, config, method, began)
        finally:
            torch.set_num_threads(self._threads)
            self._light = self._light and time.monotonic() - began < LIGHT
        size = footprint(self._read(config), first(as_inputs(self.validation[0][0]), 1), config)
        network = quantize(self._read(config), config, self.calibration, unspelled(method))
        calibrated = self._calibration_images
        said = time.monotonic()
        seen = []
        in_float = []
        for i, batch in enumerate(self.validation):
            seen.append(self._found(network, [batch]))
            in_float += self._float(i, [batch])
            if time.monotonic() - said > EVERY and i + 1 < len(self.validation):
                said = time.monotonic()
                self._say(
                    move,
                    numbers(self.metric, seen, in_float, size),
                    self._stands_on(seen, calibrated),
                    busy=True,
                )
        accuracy = measured(self.metric, np.concatenate(seen))
        self.baseline = measured(self.metric, np.concatenate(in_float)) if in_float else None
        self._images = accuracy.n
        card = self._card_of(config, method, accuracy=accuracy, size=size)
        with self._changed:
            self._say(
                move,
                numbers(self.metric, seen, in_float, size),
                self._stands_on(seen, calibrated, whole=True),
            )
            self._accuracy = accuracy
            self._size = size
            self._card.value = code(config, method) + card.to_html()

    def _first_answer(self, move: int, config: QuantConfig, method: str, began: float) -> None:
        """That on few images, the time of which may be up before all of them are seen."""
        network = quantize(self._read(config), config, self._few or None, unspelled(method))
        inputs, targets = self.validation[0]
        inputs = as_inputs(inputs)
        seen = []
        in_float = []
        for i in range(0, min(FIRST, examples_in(inputs)), PART):
            part = [(picked(inputs, i, i + PART), picked(targets, i, i + PART))]
            seen.append(self._found(network, part))
            in_float += self._float(("first", i), part)
            if time.monotonic() - began > SOON:
                break
        calibrated = sum(map(examples_in, self._few))
        said = numbers(self.metric, seen, in_float)
        self._say(move, said, self._stands_on(seen, calibrated), busy=True)

    def _read(self, config: QuantConfig) -> nn.Module | Network:
        """The float network, read once for the layers that are left in float; unread where all is."""
        if config.in_float:
            return self.model
        if config.float_layers not in self._networks:
            examples = self._few[0] if self._few else None
            self._networks = {config.float_layers: read(self.model, examples, config.float_layers)}
        return self._networks[config.float_layers]

    def _found(self, network: nn.Module, batches: Batches) -> np.ndarray:
        return examples(network, batches, self.metric, self.model)

    def _float(self, part: Any, batches: Batches) -> list[np.ndarray]:
        """What the float network gives; nothing where that is what the metric measures against."""
        if self.metric.against == "reference":
            return []
        if part not in self._in_float:
            self._in_float[part] = self._found(self.model, batches)
        return [self._in_float[part]]

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
            alive._move += 1
            alive._measured = alive._move
        thread.join(5)


def _first(inputs: Sequence[Any], n: int) -> list[Any]:
    """The inputs of the first ``n`` images of batches."""
    taken: list[Any] = []
    for batch in inputs:
        taken.append(first(batch, n - sum(map(examples_in, taken))))
    return [batch for batch in taken if examples_in(batch)]


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
    named = {"float_layers": ("any",), "embedding_bits": 8, "kv_bits": 8}
    card = QuantizationCard.from_run(config, **{k: getattr(config, k) or v for k, v in named.items()})
    return {name for name in config.defaults() if card.acts(name)}
