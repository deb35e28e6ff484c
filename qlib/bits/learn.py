"""`learn_bitwidths`: the bits of every layer as continuous parameters (paper, appendix A).

They are rounded in the forward pass, and the gradient passes the rounding straight through (`sides`). The
loss is the metric's (of top-1: cross-entropy) plus ``penalty`` times the hinge of the average weight bits and
the average activation bits over their targets; the network's own parameters are frozen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..config import QuantConfig
from ..evaluation import evaluate, examples, measured
from ..footprints import footprint
from ..metrics import TOP1, Measurement, Metric, find_metric
from ..network import Network
from ..network.inputs import device_of, first, inputs_of, on, run, split
from ..quantization import quantize, read_verified
from .data import check_output, classes, draw, pool
from .fill import fill
from .settings import LearnerSettings, check_config
from .sides import Activations, Side
from .student import make_student, named

if TYPE_CHECKING:
    import pandas as pd

AVERAGED = 10  # steps that the exponential average of accuracy (0.9, 0.1) looks back on
EVALUATED = 250  # images evaluated at a time


@dataclass(frozen=True)
class LearnedBitwidths:
    """What `learn_bitwidths` found.

    Parameters
    ----------
    config : QuantConfig
        The configuration with bits by layer.
    average_weight_bits, average_activation_bits : float
        Those of its `footprint`.
    accuracy : Measurement
        What the metric says of ``quantize(model, config, batches, ranges=ranges)`` on the images it learned
        from.
    history : DataFrame
        One row a step: ``loss``, ``accuracy`` (percent, of the batch; of another metric under its name),
        ``average_weight_bits``, ``average_activation_bits`` and ``feasible`` after rounding, and a column for
        every layer or tensor that learns, ``weight:NAME`` or ``activation:NAME``, with its bits before
        rounding (a mean over channels).
    step : int
        The one whose bits were kept.
    feasible : bool
        Whether the targets are met.
    ranges : dict, optional
        Learned (low, high) by tensor name.
    """

    config: QuantConfig
    average_weight_bits: float
    average_activation_bits: float
    accuracy: Measurement
    history: pd.DataFrame
    step: int
    feasible: bool
    ranges: Mapping[str, tuple[float, float]] | None = None


def learn_bitwidths(
    model: nn.Module | Network,
    config: QuantConfig,
    batches: Iterable[tuple[Tensor, Tensor]],
    target_weight_bits: float | None = None,
    target_activation_bits: float | None = None,
    steps: int = LearnerSettings.steps,
    seed: int = 0,
    *,
    metric: str | Metric = "top1",
    progress: bool = True,
    compile: bool = False,
    **settings: Any,
) -> LearnedBitwidths:
    """The bits by layer with the least loss at an average of at most the targets.

    Bits start at 8 and stay among ``config.bit_choices`` (without 1 on a symmetric grid), each value rounding
    to the nearest choice, ties to the lower. First and last layer keep ``config.first_last_bits`` unless that
    is ``None``, and what a bits dictionary names keeps those. Averages count as `footprint` does: fixed
    layers at their bits, the image and poolings not. With ``mse`` ranges or a quantized calibration upstream,
    activations keep the ranges of 8 bits while they learn.

    Parameters
    ----------
    model : nn.Module or Network
        The float network; it is left as it is.
    config : QuantConfig
        Everything but the bits that are learned.
    batches : iterable of pairs
        Float inputs ``(n, ...)`` and targets, also the calibration data. Of top-1 these are int classes
        ``(n,)``, or probabilities ``(n, classes)`` (`pseudo_labels`); a metric against a reference needs
        none. They are pooled: every step draws images from all, each once before any comes again.
    target_weight_bits, target_activation_bits : float, optional
        The most bits on average. A side without a target keeps the bits of ``config``.
    steps : int
        Steps of Adam.
    seed : int
        What the order of the images is made from.
    metric : str or Metric
        What is to be kept up: its loss is what bits are learned by. A reference is the float network.
    progress : bool
        Whether a bar is shown.
    compile : bool
        Whether the network is compiled; it pays where thousands of steps follow.
    **settings
        Other fields of `LearnerSettings`: ``learning_rate``, ``penalty``, ``parametrization``,
        ``per_channel``, ``learn_ranges``, ``checkpoint``, ``batch_size``, ``allow_infeasible``.

    Returns
    -------
    LearnedBitwidths

    Raises
    ------
    ValueError
        For a setting out of its bounds, a metric without a loss, targets that no choice of bits can meet,
        data that is empty, of one class or not finite, a loss that is not a number, and, unless
        ``allow_infeasible``, when no step met the targets (it names the closest averages).
    TypeError
        For a setting that is not there, with a suggestion.

    Source
    ------
    Appendix A and section 2.3.
    """
    settings = LearnerSettings(target_weight_bits, target_activation_bits, steps, **settings)
    check_config(settings, config)
    metric = find_metric(metric)
    images, labels = pool(batches, metric, model.module if isinstance(model, Network) else model)
    data = list(zip(split(images, EVALUATED), labels.split(EVALUATED), strict=True))
    network = read_verified(model, config, inputs_of(data))
    student, sides = make_student(network, config, data, settings)
    forward = torch.compile(student) if compile else student
    drawn = draw(images, labels, settings.batch_size, steps, seed)
    kept, history = _train(student, forward, sides, drawn, settings, metric, progress)
    if settings.checkpoint == "fill" and kept.feasible:
        kept.restore(sides)
        small = split(images, settings.batch_size), labels.split(settings.batch_size)
        fill(student, sides, list(zip(*small, strict=True)), metric)
        kept.keep(kept.step, sides)
    if not kept.feasible and not settings.allow_infeasible:
        reached = " and ".join(
            f"{history[f'average_{side.kind}_bits'][kept.step]:.3f} {side.kind} bits (target {side.target:g})"
            for side in sides
        )
        raise ValueError(
            f"in {steps} steps the targets were never met; the closest averages were {reached}: allow more "
            "steps, a larger learning_rate or penalty, or pass allow_infeasible=True"
        )
    fields = {f"{kind}_bits": bits for kind, bits in kept.bits.items()}
    learned = config.replace(**{name: {**named(config, name), **bits} for name, bits in fields.items()})
    size = footprint(network, first(images, 1), learned)
    quantized = quantize(network, learned, data, ranges=kept.ranges)
    return LearnedBitwidths(
        config=learned,
        average_weight_bits=size.average_weight_bits,
        average_activation_bits=size.average_activation_bits,
        accuracy=_evaluated(quantized, data, metric),
        history=history,
        step=kept.step,
        feasible=kept.feasible,
        ranges=kept.ranges,
    )


def _evaluated(network: nn.Module, data: Iterable[tuple[Any, Tensor]], metric: Metric) -> Measurement:
    if metric.against == "reference":  # whose outputs are the targets that were learned from
        metric = replace(metric, against="targets")
        return measured(metric, examples(network, data, metric))
    return evaluate(network, [(x, classes(y) if metric.of_classes else y) for x, y in data], metric)


def _train(
    student: nn.Module,
    forward: nn.Module,
    sides: list[Side],
    batches: Iterable[tuple[Any, Tensor]],
    settings: LearnerSettings,
    metric: Metric,
    progress: bool,
) -> tuple[_Checkpoint, pd.DataFrame]:
    """``forward``: the student, or the student compiled."""
    import pandas as pd
    from tqdm import tqdm

    optimizer = torch.optim.Adam([p for side in sides for p in side.parameters], lr=settings.learning_rate)
    device = device_of(student)
    kept = _Checkpoint(settings.checkpoint, 0.0 if metric is TOP1 else None)
    rows = []
    name = "accuracy" if metric is TOP1 else metric.name
    with tqdm(
        batches,
        desc="learning bitwidths",
        unit="step",
        total=settings.steps,
        disable=None if progress else True,
    ) as bar:
        for step, (x, y) in enumerate(bar):
            for side in sides:
                side.apply()
            loss, value = _forward(forward, on(x, device), y.to(device), metric, step)
            student.zero_grad()
            optimizer.zero_grad()  # ends of ranges are no parameters of the network
            loss.backward()
            kept.see(step, value if metric.greater_is_better else -value, sides)
            averages = {f"average_{side.kind}_bits": side.average() for side in sides}
            rows.append(
                {
                    "step": step,
                    "loss": loss.item(),
                    name: value,
                    "feasible": all(side.meets_target() for side in sides),
                    **averages,
                    **{f"{side.kind}:{layer}": b for side in sides for layer, b in side.by_name().items()},
                }
            )
            for side in sides:
                side.set_gradient(settings.penalty)
            optimizer.step()
            for side in sides:
                side.project()
            shown = {key.removeprefix("average_"): f"{average:.2f}" for key, average in averages.items()}
            bar.set_postfix(loss=f"{loss.item():.3f}", **{name: metric.shown(value)}, **shown)
    return kept, pd.DataFrame(rows)


def _forward(network: nn.Module, x: Any, y: Tensor, metric: Metric, step: int) -> tuple[Tensor, float]:
    """The loss, and what the metric says, of a batch."""
    output = run(network, x, f"training batch {step}")
    if metric.of_classes:
        check_output(output, y)
    loss = metric.loss(output, y)
    if not torch.isfinite(loss):
        raise ValueError(
            f"the loss is {loss.item()} at step {step}: look for NaN in the labels, or lower learning_rate"
        )
    if metric is TOP1:
        return loss, 100 * (output.argmax(1) == classes(y)).float().mean().item()
    with torch.no_grad():
        parts = metric.each(output.detach(), classes(y) if metric.of_classes else y)
    return loss, metric.measure(parts.cpu().double().numpy()).value


class _Checkpoint:
    """Which step's bits are kept."""

    def __init__(self, rule: str, start: float | None = 0.0):
        """``start``: of the published rule's average; its first value where 0 would say something."""
        self.rule = rule
        self.feasible = False
        self.step = -1
        self.bits = {}
        self.ranges = None
        self.states = []
        self.average = start
        self.seen = 0
        self.best = -math.inf
        self.excess = math.inf

    def see(self, step: int, accuracy: float, sides: list[Side]) -> None:
        feasible = all(side.meets_target() for side in sides)
        if self.rule == "authors":
            before = accuracy if self.average is None else self.average
            self.average = 0.1 * accuracy + 0.9 * before
        elif feasible:
            self.average = 0.1 * accuracy + 0.9 * self.average if self.seen else accuracy
        if not feasible:
            excess = sum(max(0.0, side.average() - side.target) for side in sides)
            if not self.feasible and excess < self.excess:
                self.excess = excess
                self.keep(step, sides)
            return
        self.seen += 1
        warming_up = self.rule in ("average", "fill") and self.seen <= AVERAGED
        if not self.feasible or warming_up or self.rule == "last" or self.average > self.best:
            self.keep(step, sides)
            self.best = self.average
            self.feasible = True

    def keep(self, step: int, sides: list[Side]) -> None:
        """What ``sides`` have now."""
        self.step = step
        self.bits = {side.kind: side.chosen() for side in sides}
        self.ranges = next((side.ranges() for side in sides if isinstance(side, Activations)), None)
        self.states = [side.state() for side in sides]

    def restore(self, sides: list[Side]) -> None:
        """Give ``sides`` what was kept."""
        for side, state in zip(sides, self.states, strict=True):
            side.restore(state)
