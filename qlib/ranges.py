"""How a clipping range is found from data: min/max, percentile, least squared error (paper, sections 2 and
4.1) or analytic clipping (`qlib.aciq`).

`find_range` looks at a tensor once (weights, or activations whose range is dynamic). The collectors see
calibration batches one after the other in bounded memory: `MinMax` and `Percentile` are exact, `SquaredError`
and `Analytic` work on a fine histogram.

Throughout, data is a matrix ``(rows, values)`` with one range per row: one row for a whole tensor, a row per
channel, or a row per image. Ranges are two float32 tensors ``low, high`` of shape ``(rows,)``, in the unit of
the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .aciq import analytic_range
from .affine import Grid, fake_quantize

MakeGrid = Callable[[Tensor, Tensor], Grid]
SHRINK_STEPS = 100
BINS = 8192
GROUP = 1 << 19  # values looked at together on a CPU: few enough to stay in cache
SAMPLED = 64  # one value of so many
WIDE = 1 << 24  # and on other devices: enough to be worth a launch; also the most that a float32 counts to
FILTERED = 1 << 26  # there, for percentiles: of every part the device is waited for


def collector(method: str, percentile: float, make_grid: MakeGrid) -> MinMax | Percentile | SquaredError:
    """A fresh collector.

    Parameters
    ----------
    method : {"minmax", "percentile", "mse", "aciq"}
        How a range is found.
    percentile : float
        Of the method of that name.
    make_grid : callable
        ``make_grid(low, high)`` is the grid whose squared error ``mse`` minimises, and ``aciq`` expects.

    Returns
    -------
    MinMax, Percentile, SquaredError or Analytic
        Has seen nothing yet.
    """
    if method == "minmax":
        return MinMax()
    if method == "percentile":
        return Percentile(percentile)
    return SquaredError(make_grid) if method == "mse" else Analytic(make_grid)


def find_range(x: Tensor, method: str, percentile: float, make_grid: MakeGrid) -> tuple[Tensor, Tensor]:
    """The range of each row of ``x``, exactly.

    Parameters
    ----------
    x : Tensor
        ``(rows, values)``.
    method, percentile, make_grid
        As for `collector`.

    Returns
    -------
    low, high : Tensor
        ``(rows,)``, in the unit of ``x``.
    """
    if method == "mse":
        return _shrink(x, x.amin(1), x.amax(1), make_grid, lambda errors: errors.mean(-1))
    if method == "aciq":
        return analytic_range(x, x.new_ones(()), x.amin(1), x.amax(1), make_grid)
    found = collector(method, percentile, make_grid)
    found.update(x, total=x.shape[1])
    return found.range()


def check_span(low: Tensor, high: Tensor, what: str) -> None:
    """Raises ``ValueError`` where a range is so wide that float32 holds no step for it."""
    widest = torch.maximum(-low, high).amax()
    if torch.isfinite(widest) and not torch.isfinite(2 * widest):
        raise ValueError(
            f"{what} reach {widest.item():.3g}, and float32 holds no range of twice that: scale them down"
        )


class MinMax:
    """Smallest and largest value seen."""

    def __init__(self):
        self.low = None
        self.high = None

    def update(self, x: Tensor, total: int) -> None:
        low, high = torch.aminmax(x, dim=1) if len(x) > 1 else (e.reshape(1) for e in torch.aminmax(x))
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def range(self) -> tuple[Tensor, Tensor]:
        return self.low, self.high


class Percentile:
    """The p-th and (100 - p)-th percentile of all values (signed), linearly interpolated; exact, holding only
    the tails.

    NaN where values reach NaN or infinity, however few. Of ``total`` values a row, the p-th percentile
    lies between two of the ``ceil((1 - p / 100) * (total - 1)) + 1`` largest, so only these are kept, and
    as many of the smallest. ``total`` is what all updates together will bring; one that changes on the
    way, as with images of different sizes, is a ``ValueError``.
    """

    def __init__(self, percentile: float):
        self.percentile = percentile
        self.seen = 0
        self.total = None
        # Of the values, of the negated values
        self.tails: list[Tensor | None] = [None, None]

    def update(self, x: Tensor, total: int) -> None:
        if self.total not in (None, total):
            raise ValueError("percentiles need calibration images of one size")
        self.total = total
        keep = math.ceil((1 - self.percentile / 100) * (total - 1)) + 2
        self.seen += x.shape[1]
        for side in (0, 1):
            self.tails[side] = self._merge(self.tails[side], x, keep, negate=bool(side))

    @staticmethod
    def _merge(tail: Tensor | None, x: Tensor, keep: int, negate: bool) -> Tensor:
        start = 0
        group = max((GROUP if x.device.type == "cpu" else FILTERED) // len(x), 2 * keep)
        while start < x.shape[1]:
            part = x[:, start : start + group]
            start += group
            if tail is not None and tail.shape[1] == keep and len(x) == 1:
                least = -tail.amin() if negate else tail.amin()
                part = part[~(part >= least if negate else part <= least)][None]  # most falls away; NaN stays
                if part.numel() == 0:
                    continue
            part = -part if negate else part
            tail = part if tail is None else torch.cat([tail, part], 1)
            tail = largest(tail, keep)
        return tail

    def range(self) -> tuple[Tensor, Tensor]:
        from_top = (1 - self.percentile / 100) * (self.seen - 1)
        above = min(int(from_top), self.seen - 1)
        share = from_top - above
        ends = []
        for tail in self.tails:
            tail = tail.sort(descending=True).values  # NaN first
            upper = tail[:, above].double()
            lower = tail[:, min(above + 1, tail.shape[1] - 1)].double()
            end = (upper + (lower - upper) * share).float()
            ends.append(end.where(tail[:, 0].isfinite(), torch.nan))  # clipping would hide it
        return -ends[1], ends[0]


def largest(x: Tensor, keep: int) -> Tensor:
    """The largest values of each row of ``x`` ``(rows, values)``, in any order: ``keep`` of them, or all.

    Exact; NaN is above all. Of a long row most values fall away against one of a sample of it, which leaves
    little to compare.
    """
    rows, n = x.shape
    rank = 2 * keep // SAMPLED + 8  # of the sample: above it there are most likely more than are kept
    if rows > 1 or 2 * rank * SAMPLED >= n:
        return x.topk(min(keep, n), dim=1, sorted=False).values
    least = x[0, ::SAMPLED].topk(rank, sorted=False).values.amin()
    above = x[~(x <= least)]
    short = keep - len(above)
    if short <= 0:
        return above.topk(keep, sorted=False).values[None]
    if (x == least).sum() < short:  # the sample has misled
        return x.topk(keep, dim=1, sorted=False).values
    return torch.cat([above, least.expand(short)])[None]


class SquaredError:
    """The range, shrunk at both ends by one factor (the best of 100), whose grid has the least squared error.

    Approximate: errors are taken at the centres of a histogram of 8,192 bins, whose width doubles whenever a
    value falls outside (counts of neighbours are then added, so no value is lost).
    """

    def __init__(self, make_grid: MakeGrid):
        self.make_grid = make_grid
        self.extent = None
        self.ends = MinMax()

    def update(self, x: Tensor, total: int) -> None:
        self.ends.update(x, total)
        check_span(*self.ends.range(), "its values")
        needed = (
            torch.maximum(-self.ends.low, self.ends.high).clamp(min=torch.finfo(torch.float32).tiny).double()
        )
        if self.extent is None:
            self.extent = needed
            self.counts = torch.zeros(len(x), BINS, dtype=torch.float64, device=x.device)
        while (outside := needed > self.extent).any():
            pairs = self.counts.reshape(len(x), BINS // 2, 2).sum(2)
            self.counts[outside] = torch.nn.functional.pad(pairs, (BINS // 4, BINS // 4))[outside]
            self.extent = torch.where(outside, 2 * self.extent, self.extent)
        for row, values in enumerate(x):
            extent = self.extent[row].item()
            for part in values.split(WIDE):  # histc counts in float32
                self.counts[row] += torch.histc(part, BINS, -extent, extent)

    def seen(self) -> tuple[Tensor, Tensor]:
        """The centres of bins with values, and their share of all values, ``(rows, bins)``."""
        centres = (torch.arange(BINS, device=self.counts.device) + 0.5) * (2 / BINS) - 1
        seen = self.counts.any(0)
        x = (centres * self.extent[:, None]).float()[:, seen]
        return x, (self.counts / self.counts.sum(1, keepdim=True))[:, seen]

    def range(self) -> tuple[Tensor, Tensor]:
        x, weight = self.seen()
        return _shrink(x, *self.ends.range(), self.make_grid, lambda errors: (errors * weight).sum(-1))


class Analytic(SquaredError):
    """The range of least expected squared error (`qlib.aciq`), from the same histogram; 0 falls into the bin
    above it.
    """

    def range(self) -> tuple[Tensor, Tensor]:
        width = self.extent[:, None] * (2 / BINS)
        return analytic_range(*self.seen(), *self.ends.range(), self.make_grid, width)


def _shrink(
    x: Tensor, low: Tensor, high: Tensor, make_grid: MakeGrid, mean: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """``low * f, high * f`` per row with ``f`` of 1, 0.99, ... 0.01 where the squared error of ``x`` is
    least: its ``mean``, that of a tensor ``(factors, rows, values)`` over values.
    """
    best = torch.full_like(low, math.inf, dtype=torch.float64)
    factor = torch.ones_like(low)
    factors = torch.tensor([step / SHRINK_STEPS for step in range(SHRINK_STEPS, 0, -1)], device=x.device)[
        :, None
    ]
    for some in factors.split(max(1, (GROUP if x.device.type == "cpu" else WIDE) // x.numel())):
        grids = make_grid(low * some, high * some).reshape(len(some), -1, 1)
        now, at = mean(fake_quantize(x, grids).sub_(x).square_()).double().min(0)
        factor = torch.where(now < best, some[at, 0], factor)
        best = torch.minimum(best, now)
    return low * factor, high * factor
