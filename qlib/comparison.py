"""What several measurements amount to: means over seeds, paired differences, and the one rule for verdicts.

Nothing here needs torch: recorded rows and cards are compared without.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from .intervals import Z, agresti_min, around, two_way, wilson
from .metrics import TOP1, Measurement, Metric

T = TypeVar("T")
SEEDS = 3  # fewer say nothing about other seeds
UNDECIDED = "undecided here"
IMAGES_ONLY = "undecided (images only)"
VERDICTS = ("holds", UNDECIDED, IMAGES_ONLY, "does not hold")


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

    def __str__(self) -> str:
        low, high = map(self.metric.number, self.interval)
        return f"{self.metric.shown(self.value)} ({low} to {high}, n = {self.n:,}, {self.seeds} seeds)"


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
    of_seeds = np.array([_averaged(group, lambda m: m.values) for group in groups])
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

    def less(self, amount: float) -> Difference:
        """By how much it exceeds ``amount``, in its unit."""
        low, high = self.interval
        shifted = (low - amount, high - amount)
        seeds = tuple(v - amount for v in self.seeds)
        return replace(self, value=self.value - amount, interval=shifted, seeds=seeds)

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
        the others differences are averaged, the innermost first. Seeds with identical answers on both sides
        count as one.

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
    seeds = tuple(float(_averaged(group, lambda pair: pair[0].value - pair[1].value)) for group in groups)
    differences = np.array(
        [_averaged(group, lambda pair: pair[0].values - pair[1].values) for group in groups]
    )
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


def _distinct(
    labelled: Sequence[tuple[Hashable, T]], answers: Callable[[T], Any]
) -> list[list[tuple[tuple[Hashable, ...], T]]]:
    """What shares the outermost factor of its label, together, each with the other factors; of groups with
    identical answers, one.
    """
    groups: dict[Hashable, list[tuple[tuple[Hashable, ...], T]]] = {}
    for i, (label, item) in enumerate(labelled):
        outermost, *others = label if isinstance(label, tuple) else (("", i),)
        groups.setdefault(outermost, []).append((tuple(others), item))
    found = {tuple(sorted(answers(item) for _, item in group)): group for group in groups.values()}
    return list(found.values())


def _averaged(group: Sequence[tuple[tuple[Hashable, ...], T]], of: Callable[[T], Any]) -> Any:
    """The mean of a value over a group, factor by factor from the innermost."""
    if not all(factors for factors, _ in group):
        return np.mean([of(item) for _, item in group], axis=0)
    inner: dict[Hashable, list[tuple[tuple[Hashable, ...], T]]] = {}
    for (first, *others), item in group:
        inner.setdefault(first, []).append((tuple(others), item))
    return np.mean([_averaged(several, of) for several in inner.values()], axis=0)


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
