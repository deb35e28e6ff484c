"""What is measured: top-1, agreement with the float network, squared error, or a metric of one's own.

A metric gives every example a value, or the parts of one; the value of a network is their mean, or what the
metric makes of the means of the parts. Intervals and paired comparisons (`qlib.comparison`) need nothing but
a value an example, so one rule serves every metric: what is not a mean brings jackknife values.

Nothing here imports torch before a network is measured: recorded rows are compared without.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .intervals import around, wilson
from .names import suggestion
from .own import is_spec, named
from .scores import divergence, pairs, perplexity, rank_correlation, token_losses

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """What is measured of a network.

    Parameters
    ----------
    name
        As rows and command lines have it.
    each
        A function of (outputs, targets), as the network and the batch give them, to a value ``(n,)`` for each
        example, or parts ``(n, k)`` of one. Where ``against`` is ``"reference"``, of (outputs, outputs of the
        reference).
    title
        In words, for axes and cards.
    unit
        Of a value, such as ``"%"``.
    greater_is_better
        Which way is up.
    margin
        Within which two values count as equal, in ``unit``; ``None`` where none is known.
    against : {"targets", "reference"}
        What ``each`` looks at beside the outputs.
    whole
        From means of parts ``(..., k)`` to values ``(...)``, where a value is not a mean over examples.
    of_all
        From the parts of all examples ``(n, k)`` to the value, and to the values without each example
        ``(n,)``, where it does not follow from means either, such as a correlation of ranks.
    loss
        Of (outputs, targets) to a scalar with a gradient, for what learns; less is better.
    """

    name: str
    each: Callable[[Any, Any], Tensor]
    title: str = ""
    unit: str = ""
    greater_is_better: bool = True
    margin: float | None = None
    against: str = "targets"
    whole: Callable[[np.ndarray], np.ndarray] | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    of_all: Callable[[np.ndarray], tuple[float, np.ndarray]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """What is built in is found by its name, so that a copy is the same one."""
        if METRICS.get(self.name) is self:
            return find_metric, (self.name,)
        return Metric, tuple(getattr(self, field.name) for field in fields(self))

    @property
    def of_classes(self) -> bool:
        """Whether its targets are classes; to learn by, probabilities of classes will do as well."""
        return self.loss is _cross_entropy

    @property
    def in_parts(self) -> bool:
        """Whether an example has parts, and not a value."""
        return self.whole is not None or self.of_all is not None

    @property
    def label(self) -> str:
        """For an axis: its title and unit."""
        return f"{self.title or self.name}{f' ({self.unit})' if self.unit else ''}"

    def number(self, value: float, sign: str = "") -> str:
        """A value to read: to two decimals where it has a unit, else to four digits."""
        return format(value, f"{sign}.2f" if self.unit else f"{sign}.4g")

    def shown(self, value: float) -> str:
        """A value with its unit."""
        return f"{self.number(value)}{f' {self.unit}' if self.unit else ''}"

    def measure(self, parts: np.ndarray) -> Measurement:
        """What examples amount to.

        Parameters
        ----------
        parts
            What ``each`` gave, ``(n,)`` or ``(n, k)``.
        """
        if not self.in_parts:
            return Measurement(self, float(np.mean(parts)), parts)
        n = len(parts)
        value, without = self._with_and_without(parts)
        if n == 1 or not np.isfinite(value):
            return Measurement(self, value, np.full(n, value))
        return Measurement(self, value, n * value - (n - 1) * without)

    def _with_and_without(self, parts: np.ndarray) -> tuple[float, np.ndarray]:
        """The value, and what it is without each example."""
        if self.of_all is not None:
            return self.of_all(parts)
        value = float(self.whole(parts.mean(0)))
        if len(parts) == 1 or not np.isfinite(value):
            return value, parts[:, 0]
        return value, self.whole((parts.sum(0) - parts) / (len(parts) - 1))


@dataclass(frozen=True, eq=False)
class Measurement:
    """A metric of a network on ``n`` examples.

    Attributes
    ----------
    metric
        The `Metric`.
    value
        In its unit.
    values
        One an example ``(n,)``, in its unit: their mean is ``value``, or, where that is no mean, close to it
        (jackknife values).
    label
        What distinguishes it from others of one setting, and pairs it with one of another setting: a seed,
        or, where several factors vary, a tuple of their labels, the outermost first, such as (network, seed).
    """

    metric: Metric
    value: float
    values: np.ndarray
    label: Hashable = None

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def yes_or_no(self) -> bool:
        """Whether every example either has it (100 %) or has not (0 %)."""
        return self.metric.unit == "%" and bool(np.isin(self.values, (0.0, 100.0)).all())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, in the metric's unit, for the sampling of examples: Wilson's where an example
        either has it or has not, else Student's. One example has no interval of the latter kind: NaN.
        """
        if self.yes_or_no:
            return wilson(float(np.mean(self.values / 100)), self.n)
        return around(self.value, self.values)

    def __str__(self) -> str:
        low, high = map(self.metric.number, self.interval)
        return f"{self.metric.shown(self.value)} ({low} to {high}, n = {self.n:,})"

    __repr__ = __str__


class Accuracy(Measurement):
    """Top-1 accuracy on ``n`` images: the view of a measurement of `TOP1`, one label an image.

    Parameters
    ----------
    correct
        Bool ``(n,)``, whether each image was classified correctly.
    label
        As of a `Measurement`.
    """

    def __init__(self, correct: np.ndarray, label: Hashable = None):
        correct = np.asarray(correct, dtype=bool)
        super().__init__(TOP1, 100 * float(correct.mean()), np.where(correct, 100.0, 0.0), label)

    @property
    def correct(self) -> np.ndarray:
        """Whether each image was classified correctly, bool ``(n,)``."""
        return self.values == 100

    @property
    def top1(self) -> float:
        """In percent."""
        return self.value


# ------------------------------------------------------------------------------------------------------------
# Built in


def _among_best(k: int, outputs: Tensor, labels: Tensor) -> Tensor:
    """Percent of an example's labels (one, or one a place of a map) among the ``k`` best classes."""
    labels = _labels(outputs, labels)
    best = outputs.argmax(1, keepdim=True) if k == 1 else outputs.topk(min(k, outputs.shape[1]), 1).indices
    return _shares((best == labels[:, None]).any(1))


def _labels(outputs: Tensor, labels: Tensor) -> Tensor:
    """The labels, which fit class scores; ``ValueError`` if they do not."""
    import torch

    n = len(outputs) if isinstance(outputs, torch.Tensor) and outputs.dim() else 0
    if not isinstance(outputs, torch.Tensor) or outputs.dim() < 2:
        what = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else f"a {type(outputs).__name__}"
        raise ValueError(
            f"the network gives {what}, not a row of class scores for each example: pass a metric of your "
            "own, a function of (outputs, targets)"
        )
    places = (n, *outputs.shape[2:])
    if not isinstance(labels, torch.Tensor) or labels.shape != places or labels.is_floating_point():
        got = (
            f"{tuple(labels.shape)} of {labels.dtype}"
            if isinstance(labels, torch.Tensor)
            else f"{labels!r:.80}"
        )
        wanted = f"{n} integer labels"
        if len(places) > 1:
            wanted = f"integer labels of shape {places} for the network's {tuple(outputs.shape)}"
        raise ValueError(f"expected {wanted}, got {got}")
    if labels.numel() and not 0 <= labels.min() <= labels.max() < outputs.shape[1]:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, but the network "
            f"tells {outputs.shape[1]} classes apart, 0 to {outputs.shape[1] - 1}"
        )
    return labels


def _shares(right: Tensor) -> Tensor:
    """From bool ``(n, ...)`` to percent ``(n,)``."""
    return 100 * _rows(right).mean(1)


def _rows(values: Tensor) -> Tensor:
    """``(n, ...)`` as float64 ``(n, values)``."""
    return (values.flatten(1) if values.dim() > 1 else values[:, None]).double()


def _agreement(outputs: Tensor, reference: Tensor) -> Tensor:
    """Percent of an example's answers (one, or one for every place of a map) that are the reference's."""
    _alike(outputs, reference, "the reference's outputs")
    if outputs.dim() < 2:
        raise ValueError(f"the network gives {tuple(outputs.shape)}, not class scores along axis 1")
    return _shares(outputs.argmax(1) == reference.argmax(1))


def _energies(outputs: Any, reference: Any) -> Tensor:
    """Squared size of the reference's outputs, and of the difference to them ``(n, 2)``."""
    import torch
    from torch.utils import _pytree as pytree

    leaves = [pytree.tree_leaves(given) for given in (outputs, reference)]
    if len(leaves[0]) != len(leaves[1]):
        raise ValueError(f"the network gives {len(leaves[0])} outputs, but the reference {len(leaves[1])}")
    pairs = list(zip(*leaves, strict=True))
    for a, b in pairs:
        _alike(a, b, "the reference's outputs")
    flat = [(_rows(a), _rows(b)) for a, b in pairs]
    signal = sum(b.square().sum(1) for _, b in flat)
    noise = sum((a - b).square().sum(1) for a, b in flat)
    return torch.stack([signal, noise], 1)


def _decibels(energies: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 10 * np.log10(energies[..., 0] / energies[..., 1])


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean over an example's outputs of the squared difference to its targets."""
    _alike(outputs, targets, "the targets")
    return (_rows(outputs) - _rows(targets)).square().mean(1)


def _alike(outputs: Any, other: Any, what: str) -> None:
    """Refuse tensors that would be broadcast against one another."""
    shapes = [tuple(t.shape) if hasattr(t, "shape") else type(t).__name__ for t in (outputs, other)]
    if shapes[0] != shapes[1] or not isinstance(shapes[0], tuple):
        raise ValueError(f"the network gives {shapes[0]}, but {what} are {shapes[1]}")


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    import torch.nn.functional as F

    return F.cross_entropy(outputs, targets)


def _answer_of_reference(outputs: Tensor, reference: Tensor) -> Tensor:
    return _cross_entropy(outputs, reference.argmax(1))


def _mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    _alike(outputs, targets, "the targets")
    return (outputs - targets).square().mean()


TOP1 = Metric("top1", partial(_among_best, 1), "top-1 accuracy", "%", margin=1.0, loss=_cross_entropy)
TOP5 = Metric("top5", partial(_among_best, 5), "top-5 accuracy", "%", margin=1.0, loss=_cross_entropy)
AGREEMENT = Metric(
    "agreement",
    _agreement,
    "agreement with float",
    "%",
    margin=1.0,
    against="reference",
    loss=_answer_of_reference,
)
SQNR = Metric(
    "sqnr",
    _energies,
    "signal to quantization noise",
    "dB",
    margin=1.0,
    against="reference",
    whole=_decibels,
    loss=_mean_squared_error,
)
MSE = Metric("mse", _squared_error, "squared error", greater_is_better=False, loss=_mean_squared_error)
PERPLEXITY = Metric("perplexity", token_losses, "perplexity", greater_is_better=False, whole=perplexity)
SPEARMAN = Metric("spearman", pairs, "rank correlation", "%", of_all=rank_correlation)
KL = Metric("kl", divergence, "divergence from float in nats", greater_is_better=False, against="reference")
METRICS = {m.name: m for m in (TOP1, TOP5, AGREEMENT, SQNR, MSE, PERPLEXITY, SPEARMAN, KL)}


def description(name: str) -> str | dict[str, Any]:
    """What a row says of the metric it has a value of: its name, or, of one of the reader's own, all that is
    to be known to compare values of it.
    """
    metric = find_metric(name)
    if name in METRICS:
        return name
    return {
        "name": name,
        "title": metric.title or metric.name,
        "unit": metric.unit,
        "greater_is_better": metric.greater_is_better,
        "margin": metric.margin,
    }


def described(said: str | Mapping[str, Any]) -> Metric:
    """The metric of a row, by its `description`. What is not built in cannot be measured again: a row may
    come from a stranger, and names no code that would be run.

    Raises
    ------
    ValueError
        It is no description.
    """
    given = {"name": said} if isinstance(said, str) else said
    known = ("name", "title", "unit", "greater_is_better", "margin")
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str) or set(given) - set(known):
        raise ValueError(f"{said!r:.80} describes no metric: a name, or a mapping of {', '.join(known)}")
    return METRICS.get(given["name"]) or Metric(each=_unknown, **given)


def _unknown(outputs: Any, targets: Any) -> Tensor:
    raise ValueError("a metric that was read from a row is only described there: find it by find_metric")


def find_metric(metric: str | Metric | Callable[[Any, Any], Tensor]) -> Metric:
    """A metric by its name, by ``FILE.py:NAME``, as it is, or of a function.

    Parameters
    ----------
    metric
        A name of `METRICS`, where one of your own stands, a `Metric`, or a function of (outputs, targets) to
        a value ``(n,)`` an example; more of it is better.

    Raises
    ------
    ValueError
        There is no such metric.
    """
    if is_spec(metric):
        found = find_metric(named(metric, "metric"))
        if METRICS.get(found.name) is found:
            return found
        return replace(found, name=metric, title=found.title or found.name)  # rows name it like this, too
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric not in METRICS:
            raise ValueError(f"there is no metric {metric!r}{suggestion(metric, METRICS)}")
        return METRICS[metric]
    if callable(metric) and not isinstance(metric, type):
        return Metric(getattr(metric, "__name__", type(metric).__name__), metric)
    raise ValueError(
        f"a metric is a name ({', '.join(METRICS)}), a Metric, or a function of (outputs, targets) to a "
        f"value an example; got {metric!r:.80}"
    )
