"""Measuring a network, the paired comparison of two configurations, and the one rule for verdicts.

Only `evaluate` needs torch, and imports it: recorded rows and cards are compared without.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .intervals import Z, agresti_min, around, two_way, wilson
from .metrics import TOP1, Accuracy, Measurement, Metric, find_metric

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")
SEEDS = 3  # fewer say nothing about other seeds
UNDECIDED = "undecided here"
IMAGES_ONLY = "undecided (images only)"
VERDICTS = ("holds", UNDECIDED, IMAGES_ONLY, "does not hold")


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
        raise ValueError(f"{what} has no labels or other targets, which {metric.name!r} looks at")
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
        95 %: of three seeds or more for the sampling of seeds and of examples, of fewer for that of examples
        alone.
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

    Its interval takes seeds and examples as random, both, where there are three seeds or more; with fewer it
    is for the sampling of examples alone. Seeds whose values are identical count as one for it, and of labels
    that are tuples the first factor counts (see `compare`).

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

    Source
    ------
    `qlib.intervals.two_way`; where an example either has it or has not, its variance is at least what one
    more example of each kind would leave. Of fewer seeds Wilson's (1927), else Student's.
    """
    found = _same_examples(several)
    values = [m.value for m in found]
    value = float(np.mean(values))
    first = found[0]
    groups = _distinct([(m.label, m) for m in found], lambda m: m.values.tobytes())
    of_seeds = np.array([np.mean([m.values for m in group], axis=0) for group in groups])
    yes_or_no = all(m.yes_or_no for m in found)
    if len(of_seeds) >= SEEDS:
        one_of_each = np.append(of_seeds.mean(0), (0.0, 100.0))
        floor = float(one_of_each.var()) / len(one_of_each) if yes_or_no else 0.0
        interval = two_way(value, of_seeds, floor)
        if yes_or_no:
            interval = (max(0.0, interval[0]), min(100.0, interval[1]))
    elif yes_or_no:
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
    seeds : tuple of float
        The difference of each seed; one where there are no seeds.
    """

    value: float
    interval: tuple[float, float]
    n: int
    metric: Metric = TOP1
    seeds: tuple[float, ...] = ()

    @property
    def images_only(self) -> bool:
        """Whether the interval is for the sampling of examples alone: there are fewer than three seeds."""
        return len(self.seeds) < SEEDS

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
        """Whether a claim holds; see `verdict`. ``"better"`` and ``"worse"`` are the metric's. What would be
        decided by fewer than three seeds is *undecided (images only)*.
        """
        way = {"better": ("less", "greater"), "worse": ("greater", "less")}
        claim = way[claim][self.metric.greater_is_better] if claim in way else claim
        found = verdict(self.interval, claim, self.metric.margin if margin is None else margin)
        return IMAGES_ONLY if self.images_only and found != UNDECIDED else found

    def __str__(self) -> str:
        value, low, high = (self.metric.number(v, "+") for v in (self.value, *self.interval))
        n = f"n = {self.n:,}"
        of = f"{n}, images only" if self.images_only else f"{len(self.seeds)} seeds, {n}"
        return f"{value}{f' {self.unit}' if self.unit else ''} ({low} to {high}, {of})"


def compare(a: Measurement | Sequence[Measurement], b: Measurement | Sequence[Measurement]) -> Difference:
    """``a`` minus ``b``, paired example by example and seed by seed.

    Seeds and examples are both random: of three seeds or more the interval covers either, of fewer examples
    only, and says so.

    Parameters
    ----------
    a, b : Measurement or sequence of Measurement
        A measurement, or several of the same examples (seeds, calibration draws). They are paired by their
        labels, whatever their order; a single one is paired with every one of the other side. Without labels,
        equally many are paired in order. Of labels that are tuples the first factor counts as the seed; over
        the others differences are averaged. Seeds with identical answers on both sides count as one.

    Returns
    -------
    Difference
        With its 95 % interval.

    Raises
    ------
    ValueError
        They were not measured on equally many examples, or by one metric, are not finite, or cannot be
        paired: it names the labels.

    Source
    ------
    `qlib.intervals.two_way`; where an example either has it or has not, its variance is at least Agresti and
    Min's (2005). Of fewer than three seeds Agresti and Min's interval, else Student's.
    """
    left, right = (_same_examples(side) for side in (a, b))
    metric = left[0].metric
    n = left[0].n
    if n != right[0].n:
        raise ValueError(f"a paired comparison needs the same images: {n} against {right[0].n}")
    if _bare(metric) != _bare(right[0].metric):
        raise ValueError(f"{metric.name} cannot be compared with {right[0].metric.name}")
    if not all(np.isfinite(m.values).all() for m in (*left, *right)):
        raise ValueError(f"{metric.name} is not finite: there is no difference to speak of")
    groups = _distinct(_pairs(left, right), lambda pair: tuple(m.values.tobytes() for m in pair))
    seeds = tuple(float(np.mean([x.value - y.value for x, y in group])) for group in groups)
    differences = np.array([np.mean([x.values - y.values for x, y in group], axis=0) for group in groups])
    interval = _interval(seeds, differences, all(m.yes_or_no for m in (*left, *right)))
    return Difference(float(np.mean(seeds)), interval, n, metric, seeds)


def _interval(seeds: Sequence[float], differences: np.ndarray, yes_or_no: bool) -> tuple[float, float]:
    value = float(np.mean(seeds))
    of_examples = differences.mean(0)
    centre, variance = agresti_min(of_examples / 100)
    if len(seeds) >= SEEDS:
        return two_way(value, differences, 100**2 * variance if yes_or_no else 0.0)
    if not yes_or_no:
        return around(value, of_examples)
    half = Z * variance**0.5
    return 100 * (centre - half), 100 * (centre + half)


def _pairs(
    a: Sequence[Measurement], b: Sequence[Measurement]
) -> list[tuple[Hashable, tuple[Measurement, Measurement]]]:
    """Pairs of measurements, each with its label."""
    if len(a) == 1:
        return [(y.label, (a[0], y)) for y in b]
    if len(b) == 1:
        return [(x.label, (x, b[0])) for x in a]
    labels = [[m.label for m in side] for side in (a, b)]
    if not any(label is not None for label in (*labels[0], *labels[1])):
        if len(a) != len(b):
            raise ValueError(
                f"{len(a)} measurements cannot be paired with {len(b)}: label them by their seeds, or pass "
                "equally many in the same order"
            )
        return [(None, pair) for pair in zip(a, b, strict=True)]
    if None in (*labels[0], *labels[1]):
        raise ValueError("some of the measurements have no label: label all by their seeds, or none")
    for side in labels:
        twice = [label for i, label in enumerate(side) if label in side[:i]]
        if twice:
            raise ValueError(
                f"one side of a comparison has {_named(twice)} twice: select the measurements of one setting"
            )
    alone = [label for side, other in (labels, labels[::-1]) for label in side if label not in other]
    if alone:
        raise ValueError(
            f"only one side of the comparison has {_named(alone)}: pairs need the same labels on both sides"
        )
    of_b = dict(zip(labels[1], b, strict=True))
    return [(x.label, (x, of_b[x.label])) for x in a]


def _named(labels: Sequence[Hashable]) -> str:
    said = [repr(label) for label in labels[:5]]
    return f"{'label' if len(labels) == 1 else 'labels'} {', '.join(said)}{', ...' if labels[5:] else ''}"


def _distinct(labelled: Sequence[tuple[Hashable, T]], answers: Callable[[T], Any]) -> list[list[T]]:
    """What shares the outermost factor of its label, together; of groups with identical answers, one."""
    groups: dict[Hashable, list[T]] = {}
    for i, (label, item) in enumerate(labelled):
        groups.setdefault(label[0] if isinstance(label, tuple) else ("", i), []).append(item)
    return list({tuple(sorted(map(answers, group))): group for group in groups.values()}.values())


def _bare(metric: Metric) -> str:
    """Its name without the file that it was found in, which a row has and a metric at hand has not."""
    return metric.name.rpartition(":")[2]


def _same_examples(side: Measurement | Sequence[Measurement]) -> Sequence[Measurement]:
    found = [side] if isinstance(side, Measurement) else list(side)
    if len({m.n for m in found}) != 1:
        raise ValueError(
            f"a paired comparison needs the same images, got evaluations of {[m.n for m in found]} images"
        )
    if len({_bare(m.metric) for m in found}) != 1:
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
        ``margin`` of zero, *does not hold* if it lies wholly outside, else *undecided here*.
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
        return "holds" if low > 0 else "does not hold" if high < 0 else UNDECIDED
    if claim != "no difference":
        raise ValueError(f"claim must be 'greater', 'less' or 'no difference', got {claim!r}")
    if margin is None:
        raise ValueError("this metric has no margin within which values count as equal: pass margin=")
    if -margin <= low and high <= margin:
        return "holds"
    return "does not hold" if low > margin or high < -margin else UNDECIDED
