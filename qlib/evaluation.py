"""Measuring a network, the paired comparison of two configurations, and the one rule for verdicts.

Only `evaluate` needs torch, and imports it: recorded rows and cards are compared without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .intervals import Z, around, wilson
from .metrics import TOP1, Accuracy, Measurement, Metric, find_metric

if TYPE_CHECKING:
    from torch import Tensor, nn


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    metric: str | Metric | Callable[[Any, Any], Tensor] = "top1",
    reference: nn.Module | None = None,
) -> Measurement:
    """A metric of ``model`` on batches, in evaluation mode.

    Parameters
    ----------
    model
        Any network.
    batches
        Pairs of inputs and targets. Inputs are a tensor ``(n, ...)``, a tuple of several, or a dictionary by
        name; targets are what the metric understands: for ``"top1"`` integer labels ``(n,)``, or ``(n,
        height, width)`` for maps of class scores ``(n, classes, height, width)``. A metric against a
        reference looks at no targets: they may be ``None``.
    metric
        ``"top1"``, ``"top5"``, ``"mse"``, ``"agreement"`` and ``"sqnr"`` (these two against ``reference``), a
        `qlib.metrics.Metric`, or a function of (outputs, targets) to a value ``(n,)``.
    reference
        The float network.

    Returns
    -------
    Measurement
        A `Measurement`; an `Accuracy` where the metric is top-1 and an example has one label.

    Raises
    ------
    ValueError
        Naming the batch: there are no examples, a batch is not such a pair, does not fit the network, or is
        not finite; the network's output is not; or the metric cannot be computed of it.
    """
    metric = find_metric(metric)
    return measured(metric, examples(model, batches, metric, reference))


def measured(metric: Metric, parts: np.ndarray) -> Measurement:
    """What the parts of `examples` amount to; several may be joined along axis 0."""
    found = metric.measure(parts)
    return Accuracy(parts == 100) if metric is TOP1 and found.yes_or_no else found


def examples(
    model: nn.Module, batches: Iterable[tuple[Any, Any]], metric: Metric, reference: nn.Module | None = None
) -> np.ndarray:
    """What ``metric`` finds of each example, ``(n,)`` or parts ``(n, k)``; arguments and errors as of
    `evaluate`.
    """
    import torch

    if metric.against == "reference" and reference is None:
        raise ValueError(
            f"{metric.name!r} is measured against a reference: pass reference=, the float network"
        )
    networks = [model] if reference is None or metric.against != "reference" else [model, reference]
    training = [module for network in networks for module in network.modules() if module.training]
    found = []
    for network in networks:
        network.eval()
    try:
        with torch.inference_mode():
            for i, batch in enumerate(batches):
                part = _of_batch(networks, batch, metric, f"evaluation batch {i}")
                found.append(part.cpu().double().numpy())
    finally:
        for module in training:
            module.training = True
    if not sum(map(len, found)):
        raise ValueError(
            "there are no images to evaluate: batches is empty (a generator may have been used up already)"
        )
    return np.concatenate(found)


def _of_batch(networks: Sequence[nn.Module], batch: Any, metric: Metric, what: str) -> Tensor:
    import torch
    from torch import Tensor
    from torch.utils import _pytree as pytree

    from .network.inputs import as_inputs, as_targets, check_inputs, device_of, examples_in, on, one_line, run

    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if not pair or not isinstance(batch[0], (Tensor, tuple, list, dict)):
        raise ValueError(f"{what} must be a pair of inputs and labels, got a {type(batch).__name__}")
    if batch[1] is None and metric.against == "targets":
        raise ValueError(f"{what} has no targets, which {metric.name!r} looks at")
    x = as_inputs(batch[0])
    check_inputs(x, what)
    model, *references = networks
    copies = pytree.tree_map(torch.clone, x) if references else None  # networks may overwrite what they get
    outputs = _finite(run(model, on(x, device_of(model)), what), what)
    if references:
        against = _finite(run(references[0], on(copies, device_of(references[0])), what), what, "reference")
    else:
        against = as_targets(batch[1])
    device = device_of(model)
    against = pytree.tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, against)
    try:
        found = metric.each(outputs, against)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    except Exception as error:  # of the reader's function
        said = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{what}: the metric {metric.name!r} fails: {said}") from error
    n = examples_in(x)
    shape = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
    wanted = f"({n},)" if metric.whole is None else f"({n}, parts)"
    if not isinstance(found, Tensor) or found.dim() != (1 if metric.whole is None else 2) or len(found) != n:
        raise ValueError(f"{what}: the metric {metric.name!r} gives {shape}, not a tensor {wanted}")
    if not torch.isfinite(found).all():
        raise ValueError(f"{what}: the metric {metric.name!r} gives NaN or infinity")
    return found


def _finite(outputs: Any, what: str, whose: str = "network") -> Any:
    import torch
    from torch.utils import _pytree as pytree

    for output in pytree.tree_leaves(outputs):
        if isinstance(output, torch.Tensor) and not torch.isfinite(output).all():
            raise ValueError(f"the {whose}'s output for {what} holds NaN or infinity")
    return outputs


@dataclass(frozen=True)
class Mean:
    """What several measurements of the same examples (seeds, draws) are on average.

    Attributes
    ----------
    metric, value, n
        As of a `Measurement`.
    interval
        95 %, for the sampling of examples.
    spread
        Standard deviation over seeds; NaN for one.
    seeds
        How many measurements.
    """

    metric: Metric
    value: float
    interval: tuple[float, float]
    spread: float
    seeds: int
    n: int


def mean_of(several: Sequence[Measurement]) -> Mean:
    """The mean of measurements of the same examples.

    Parameters
    ----------
    several : sequence of Measurement
        One a seed or draw.

    Returns
    -------
    Mean
        With its interval and its spread.

    Raises
    ------
    ValueError
        They were not measured on equally many examples, or by one metric.
    """
    found = _same_examples(several)
    values = [m.value for m in found]
    value = float(np.mean(values))
    first = found[0]
    if all(m.yes_or_no for m in found):
        interval = wilson(value / 100, first.n)
    else:
        interval = around(value, np.mean([m.values for m in found], axis=0))
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Mean(first.metric, value, interval, spread, len(values), first.n)


@dataclass(frozen=True)
class Difference:
    """The value of one configuration minus that of another on the same examples.

    Parameters
    ----------
    value : float
        In the unit of ``metric``.
    interval : (float, float)
        95 %, in that unit.
    n : int
        How many examples.
    metric : Metric
        What was measured.
    """

    value: float
    interval: tuple[float, float]
    n: int
    metric: Metric = TOP1

    @property
    def unit(self) -> str:
        """Of the difference: points where values are percent."""
        return "points" if self.metric.unit == "%" else self.metric.unit

    @property
    def points(self) -> float:
        """The value, where it is in percent."""
        if self.metric.unit != "%":
            raise AttributeError(f"a difference in {self.metric.name} has no points: its value is .value")
        return self.value

    def verdict(self, claim: str = "greater", margin: float | None = None) -> str:
        """Whether a claim holds; see `verdict`. ``"better"`` and ``"worse"`` are the metric's."""
        way = {"better": ("less", "greater"), "worse": ("greater", "less")}
        claim = way[claim][self.metric.greater_is_better] if claim in way else claim
        return verdict(self.interval, claim, self.metric.margin if margin is None else margin)

    def __str__(self) -> str:
        value, low, high = (self.metric.number(v, "+") for v in (self.value, *self.interval))
        return f"{value}{f' {self.unit}' if self.unit else ''} ({low} to {high}, n = {self.n:,})"


def compare(a: Measurement | Sequence[Measurement], b: Measurement | Sequence[Measurement]) -> Difference:
    """``a`` minus ``b``, paired example by example.

    Parameters
    ----------
    a, b : Measurement or sequence of Measurement
        Either side may be several measurements of the same examples (calibration draws, seeds): an example
        then counts with its mean value.

    Returns
    -------
    Difference
        With its 95 % interval.

    Raises
    ------
    ValueError
        They were not measured on equally many examples, or by one metric, or are not finite.

    Source
    ------
    Where an example either has it or has not, the interval is Agresti and Min's (2005): half an example is
    added to each cell of the two-by-two table of (in)correct answers, so it has a width even where the two
    never disagree. Else Student's.
    """
    sides = [_same_examples(side) for side in (a, b)]
    means = [np.mean([m.values for m in side], axis=0) for side in sides]
    metric = sides[0][0].metric
    n = len(means[0])
    if n != len(means[1]):
        raise ValueError(f"a paired comparison needs the same images: {n} against {len(means[1])}")
    if metric.name != sides[1][0].metric.name:
        raise ValueError(f"{metric.name} cannot be compared with {sides[1][0].metric.name}")
    if not all(np.isfinite(mean).all() for mean in means):
        raise ValueError(f"{metric.name} is not finite: there is no difference to speak of")
    if all(m.yes_or_no for side in sides for m in side):
        difference = (means[0] - means[1]) / 100
        centre = difference.sum() / (n + 2)
        half = Z * (((difference**2).sum() + 1) / (n + 2) - centre**2) ** 0.5 / (n + 2) ** 0.5
        interval = (100 * float(centre - half), 100 * float(centre + half))
        return Difference(100 * float(difference.mean()), interval, n, metric)
    value = float(np.mean([m.value for m in sides[0]]) - np.mean([m.value for m in sides[1]]))
    return Difference(value, around(value, means[0] - means[1]), n, metric)


def _same_examples(side: Measurement | Sequence[Measurement]) -> Sequence[Measurement]:
    found = [side] if isinstance(side, Measurement) else list(side)
    if len({m.n for m in found}) != 1:
        raise ValueError(
            f"a paired comparison needs the same images, got evaluations of {[m.n for m in found]} images"
        )
    if len({m.metric.name for m in found}) != 1:
        raise ValueError(f"one side of a comparison has one metric, not {[m.metric.name for m in found]}")
    return found


def verdict(interval: tuple[float, float], claim: str = "greater", margin: float | None = TOP1.margin) -> str:
    """The one rule: whether a claim holds, given the 95 % paired interval of a difference.

    Parameters
    ----------
    interval : (float, float)
        In the metric's unit.
    claim : {"greater", "less", "no difference"}
        ``"greater"`` *holds* if the interval lies above zero, *does not hold* if below, else *undecided
        here*; ``"less"`` is the mirror image. ``"no difference"`` *holds* if the interval lies within
        ``margin`` of zero, else *does not hold* if it excludes zero, else undecided.
    margin : float, optional
        In the metric's unit.

    Returns
    -------
    str
        ``"holds"``, ``"does not hold"`` or ``"undecided here"``.

    Raises
    ------
    ValueError
        There is no such claim, or no margin for it.
    """
    low, high = interval if claim != "less" else (-interval[1], -interval[0])
    if claim in ("greater", "less"):
        return "holds" if low > 0 else "does not hold" if high < 0 else "undecided here"
    if claim != "no difference":
        raise ValueError(f"claim must be 'greater', 'less' or 'no difference', got {claim!r}")
    if margin is None:
        raise ValueError("this metric has no margin within which values count as equal: pass margin=")
    if -margin <= low and high <= margin:
        return "holds"
    return "does not hold" if low > 0 or high < 0 else "undecided here"
