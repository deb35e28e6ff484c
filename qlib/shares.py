"""Methods crossed with choices: the share of a variance that either has, and how often an order turns round.

Everything here is of arrays: ``right`` ``(methods, cells, images)`` says which images one network answered
rightly under every method and every cell, a combination of choices. Images are a sample; methods, cells and
levels are those that were planned, so a variance is a mean of squares over them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .comparison import SEEDS, UNDECIDED
from .intervals import Z, around

SCALES = ("points", "logit")
BLOCKS = 20  # of images, of which one at a time is left out


@dataclass(frozen=True)
class Shares:
    """Variances of one network, in squares of the scale, each less what images make by chance (so that one
    may be below zero).

    Parameters
    ----------
    method
        Between methods, each a mean over cells: its first-order part.
    choices
        Between cells, each a mean over methods: the first-order part of all choices jointly.
    interaction
        What is left.
    one_by_one : mapping
        By choice, the part of ``choices`` between its levels.
    with_method : mapping
        By choice, the part of ``interaction`` that is between its levels and methods.
    shape
        How many methods and cells.
    """

    method: float
    choices: float
    interaction: float
    one_by_one: Mapping[str, float]
    with_method: Mapping[str, float]
    shape: tuple[int, int]

    @property
    def total(self) -> float:
        return self.method + self.choices + self.interaction

    def as_method(self, *names: str) -> tuple[float, float]:
        """The first-order parts (of choices, of methods) where choices of these names are part of the
        method.
        """
        moved = sum(self.one_by_one[name] for name in names)
        return self.choices - moved, self.method + moved + sum(self.with_method[name] for name in names)

    def less_luck(self) -> tuple[float, float]:
        """The variances (of choices, of methods) if all of the interaction were the luck of a draw, which
        means over few methods and cells keep a part of: those of the two-way layout of random effects.
        """
        methods, cells = self.shape
        luck = self.interaction * methods * cells / ((methods - 1) * (cells - 1))  # its mean square
        return (
            self.choices * cells / (cells - 1) - luck / methods,
            self.method * methods / (methods - 1) - luck / cells,
        )


def shares(
    right: np.ndarray, levels: Mapping[str, Sequence[Hashable]] | None = None, scale: str = "points"
) -> Shares:
    """The variances of one network.

    Parameters
    ----------
    right
        ``(methods, cells, images)``, bool; two methods and two cells at least.
    levels : mapping, optional
        By choice, its level in every cell. Choices are told apart exactly where cells balance them.
    scale : {"points", "logit"}
        Percent of images; or the empirical logit, log of (right + 1/2) / (wrong + 1/2).

    Returns
    -------
    Shares
        Without bias in points, and in logits up to what a straight line misses.
    """
    if right.ndim != 3 or min(right.shape) < 2:
        raise ValueError(
            f"a network needs two methods, two cells and two images at least, got {right.shape} of them"
        )
    values, noise = _values(right, scale)
    parts = {"method": (1,), "choices": (0,)}
    first = {name: _centred(values, noise, axes) for name, axes in parts.items()}
    rest = tuple(
        x - x.mean(0, keepdims=True) - x.mean(1, keepdims=True) + x.mean((0, 1), keepdims=True)
        for x in (values, noise)
    )
    one_by_one, with_method = {}, {}
    for name, of_cells in (levels or {}).items():
        one_by_one[name] = _variance(*(_by_level(x, of_cells) for x in first["choices"]))
        with_method[name] = _variance(*(_by_level(x, of_cells) for x in rest))
    return Shares(
        _variance(*first["method"]),
        _variance(*first["choices"]),
        _variance(*rest),
        one_by_one,
        with_method,
        right.shape[:2],
    )


def _values(right: np.ndarray, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """On a scale, the value of every method and cell, and what every image adds to it, whose mean is 0."""
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}; got {scale!r}")
    n = right.shape[2]
    mean = right.mean(2)
    noise = right - mean[..., None]
    if scale == "points":
        return 100 * mean, 100 * noise
    yes, no = n * mean + 0.5, n * (1 - mean) + 0.5
    return np.log(yes / no), noise * (n * (1 / yes + 1 / no))[..., None]


def _centred(values: np.ndarray, noise: np.ndarray, over: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Means over an axis, less that over both."""
    return tuple(x.mean(over, keepdims=True) - x.mean((0, 1), keepdims=True) for x in (values, noise))


def _by_level(x: np.ndarray, of_cells: Sequence[Hashable]) -> np.ndarray:
    """Each cell the mean of the cells that have its level."""
    codes = np.unique([str(level) for level in of_cells], return_inverse=True)[1]
    same = (codes[:, None] == codes[None, :]).astype(float)
    return np.einsum("cd,md...->mc...", same / same.sum(1, keepdims=True), x)


def _variance(values: np.ndarray, noise: np.ndarray) -> float:
    """The mean square, less that of what images make by chance."""
    n = noise.shape[2]
    return float((values**2).mean() - (noise**2).sum(2).mean() / (n * (n - 1)))


# ------------------------------------------------------------------------------------------------------------
# The decision


@dataclass(frozen=True)
class Ratio:
    """Logarithms of the variance of choices over that of methods, one a network, and what they say.

    Parameters
    ----------
    networks : mapping
        By network.
    interval
        95 %, of their mean (Student's); NaN for fewer than two.
    least : tuple of str
        Networks of which a variance counted as the least.
    """

    networks: Mapping[str, float]
    interval: tuple[float, float]
    least: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        return float(np.mean(list(self.networks.values())))

    @property
    def verdict(self) -> str:
        """Whether choices matter more than methods do."""
        low, high = self.interval
        if len(self.networks) < SEEDS or not low * high > 0:
            return UNDECIDED
        return "holds" if low > 0 else "does not hold"


def log_ratio(of_networks: Mapping[str, tuple[float, float]], least: float) -> Ratio:
    """From variances (of choices, of methods) by network, each counted as ``least`` where it is below."""
    if not of_networks:
        raise ValueError("there is no network to compare variances of: record rows first")
    found = {
        name: float(np.log(max(choices, least) / max(method, least)))
        for name, (choices, method) in of_networks.items()
    }
    low = tuple(name for name, pair in of_networks.items() if min(pair) < least)
    return Ratio(found, around(float(np.mean(list(found.values()))), np.array(list(found.values()))), low)


def other_images_too(right: Mapping[str, np.ndarray], least: float) -> Ratio:
    """The log ratio, with an interval for other networks and other images: all networks answer the same
    images, so that what these make by chance does not show in how networks differ.

    Parameters
    ----------
    right : mapping
        By network, ``(methods, cells, images)``, bool, of the same images.
    least
        As in `log_ratio`.

    Source
    ------
    The variance of images is that of the jackknife over blocks (Quenouille 1956); it is added to that of
    networks, which holds a part of it already, so that the interval is rather too wide.
    """
    from scipy.special import stdtrit

    def ratio(kept: np.ndarray | slice) -> Ratio:
        found = {name: shares(answers[..., kept]) for name, answers in right.items()}
        return log_ratio({name: (s.choices, s.method) for name, s in found.items()}, least)

    whole, block = ratio(slice(None)), np.arange(next(iter(right.values())).shape[2]) % BLOCKS
    of_images = (BLOCKS - 1) * np.var([ratio(block != i).value for i in range(BLOCKS)])
    of_networks = np.array(list(whole.networks.values()))
    if len(of_networks) < 2:
        return whole
    spread = (of_networks.var(ddof=1) / len(of_networks) + of_images) ** 0.5
    half = float(stdtrit(len(of_networks) - 1, 0.975) * spread)
    return replace(whole, interval=(whole.value - half, whole.value + half))


# ------------------------------------------------------------------------------------------------------------
# Orders


def flip_rate(a: np.ndarray, b: np.ndarray, order: float, together: bool) -> float:
    """How often the order of two methods is another than ``order`` says (its sign), ties counting half.

    Parameters
    ----------
    a, b
        ``(networks, cells)``: what either reaches.
    order
        Above 0 where ``a`` is the better one.
    together
        Whether both run under one cell; else under cells that are drawn independently, within a network.
    """
    difference = a - b if together else a[:, :, None] - b[:, None, :]
    return float(np.mean(0.5 - 0.5 * np.sign(difference) * np.sign(order)))


def sure_flip_rate(a: np.ndarray, b: np.ndarray, order: float, together: bool) -> float:
    """`flip_rate`, of what is certain image by image: how often the 95 % interval of the paired difference
    lies on the other side of 0, so that it turns round by more than images make by chance.

    Parameters
    ----------
    a, b
        ``(networks, cells, images)``, bool: which images either answers rightly.
    """
    n = a.shape[2]
    both = a.astype(np.float32) @ b.astype(np.float32).transpose(0, 2, 1)  # how many images
    a_alone, b_alone = (a.sum(2)[:, :, None] - both) / n, (b.sum(2)[:, None] - both) / n
    difference = a_alone - b_alone
    error = np.sqrt((a_alone + b_alone - difference**2) / (n - 1))
    turned = difference * np.sign(order) < -Z * error
    return float(np.mean(turned.diagonal(axis1=1, axis2=2) if together else turned))


def worth(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """What one level of a choice is worth over the other under every method ``(networks, methods)``, from
    values ``(networks, methods, cells)``; ``first`` says which cells have it.
    """
    return values[:, :, first].mean(2) - values[:, :, ~first].mean(2)
