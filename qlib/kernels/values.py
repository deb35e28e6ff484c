"""What stands in an integer network where the simulation has a float tensor, and how one becomes another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from math import inf

import torch
from torch import Tensor

from ..affine import Grid, quantize
from .arithmetic import largest_of, multipliers, shifted


class Cause(str, Enum):
    """Why an integer network differs from its simulation: what sets it apart, one thing after the other."""

    FLOAT32 = "float32, in which the simulation computes, rounds sums and scales"
    BIAS = "biases are rounded to integers"
    MULTIPLIER = "scales are rounded to a multiplier and a shift"
    OVERFLOW = "sums exceed the accumulator"


CAUSES = tuple(Cause)


def acts(cause: Cause, through: Cause) -> bool:
    """Whether a cause is among those up to ``through``."""
    return CAUSES.index(cause) <= CAUSES.index(through)


@dataclass(frozen=True)
class Floats:
    """Inputs that no quantizer has seen yet."""

    values: Tensor

    def floats(self, through: Cause) -> Tensor:
        return self.values


@dataclass(frozen=True)
class Codes:
    """Integer codes of one grid, ``counts`` (int64) from its zero-point: padding by 0 pads with the code of
    0.
    """

    counts: Tensor
    grid: Grid

    def floats(self, through: Cause) -> Tensor:
        return self.counts * self.grid.scale


@dataclass(frozen=True)
class Part:
    """Integer sums (int64), what an accumulator ``held`` of them, and what one of them is worth (float64,
    broadcasts against them).
    """

    sums: Tensor
    factor: Tensor
    held: Tensor


@dataclass(frozen=True)
class Sums:
    """A sum of parts, on no grid yet.

    Parameters
    ----------
    parts
        Each times its factor.
    name
        Of the operation that added.
    left
        What the rounding of a bias left out, float64.
    keeps_left
        Whether that is added to the product with the multiplier, instead of being lost.
    low, high
        Values beyond are cut there, as by a ReLU.
    """

    parts: tuple[Part, ...]
    name: str
    left: Tensor = field(default_factory=partial(torch.zeros, (), dtype=torch.float64))
    keeps_left: bool = False
    low: float = -inf
    high: float = inf

    def cut(self, low: float, high: float) -> Sums:
        """With what lies beyond the ends at them."""
        return replace(self, low=max(low, self.low), high=max(low, min(high, self.high)))

    def floats(self, through: Cause) -> Tensor:
        return self._values(through).clamp(self.low, self.high).float()

    def _values(self, through: Cause) -> Tensor:
        """Exact but for float64; its integers are sums below 2**53."""
        found = sum(ints * part.factor for ints, part in self._integers(through))
        return found + self._left(through)

    def _left(self, through: Cause) -> Tensor:
        kept = self.keeps_left or not acts(Cause.BIAS, through)
        return self.left if kept else torch.zeros_like(self.left)

    def _integers(self, through: Cause) -> list[tuple[Tensor, Part]]:
        return [(part.held if acts(Cause.OVERFLOW, through) else part.sums, part) for part in self.parts]

    def counted(self, unit: Tensor, through: Cause) -> Tensor:
        """How many of ``unit`` (float32, one value) the sums are, rounded half to even: int64."""
        if not acts(Cause.MULTIPLIER, through):
            return (self._values(through) / unit.double()).round().clamp(-(2.0**62), 2.0**62).long()
        scaled, shift = multipliers([part.factor / unit.double() for part in self.parts])
        power = 1 << shift
        constant = (self._left(through) / unit.double() * power).round().long()
        integers = [(ints, m) for (ints, _), m in zip(self._integers(through), scaled, strict=True)]
        if any(largest_of(ints) >= 2**31 for ints, _ in integers):  # before an accumulator cuts them
            return ((sum(ints.double() * m for ints, m in integers) + constant) / power).round().long()
        return shifted(sum(ints * m for ints, m in integers) + constant, shift)

    def on(self, grid: Grid, through: Cause) -> Codes:
        """Requantized. A cut of values is one of codes: rounding keeps order."""
        zero_point = grid.zero_point.long()
        codes = self.counted(grid.scale, through) + zero_point
        low, high = (quantize(torch.tensor(end), grid).long() for end in (self.low, self.high))
        return Codes(codes.clamp(low, high) - zero_point, grid)


@dataclass(frozen=True)
class Joined:
    """A concatenation of values that are on no common grid yet."""

    values: tuple[Codes | Sums, ...]
    axis: int

    def floats(self, through: Cause) -> Tensor:
        return torch.cat([value.floats(through) for value in self.values], self.axis)

    def on(self, grid: Grid, through: Cause) -> Codes:
        """Each requantized."""
        found = [as_sums(value, "").on(grid, through).counts for value in self.values]
        return Codes(torch.cat(found, self.axis), grid)


Value = Floats | Codes | Sums | Joined


def as_sums(value: Codes | Sums, name: str) -> Sums:
    """Codes as a sum of one part."""
    if isinstance(value, Sums):
        return value
    return Sums((Part(value.counts, value.grid.scale.double(), value.counts),), name)
