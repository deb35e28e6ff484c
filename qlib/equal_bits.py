"""Settings whose bits are learned, compared at equal bits in use: learning ends below its limit, and two
settings under one limit seldom use the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .metrics import Measurement
from .results import fits, measurement_of, seed_of

TARGET = "target_weight_bits"
CLOSE = 0.01  # bits that count as equal

Curve = Sequence[tuple[float, Measurement]]


@dataclass(frozen=True)
class Equal:
    """Two sides at equal bits in use.

    Parameters
    ----------
    a, b : list of Measurement
        One a seed on either side, labelled by it.
    bits : tuple of float
        Average weight bits in use, one a seed; those of ``b`` where ``a`` has more by the claim.
    between : int
        In how many seeds a side lies between recorded points.
    left_out : int
        Seeds in which no recorded points lie around the bits of the other side.
    """

    a: list[Measurement]
    b: list[Measurement]
    bits: tuple[float, ...]
    between: int
    left_out: int

    def __str__(self) -> str:
        low, high = (f"{end(self.bits):.2f}" for end in (min, max))
        said = f"{low if low == high else f'{low} to {high}'} bits used"
        seeds = "seed" if len(self.bits) == 1 else "seeds"
        if self.between:
            said += f", in {self.between} of {len(self.bits)} {seeds} between recorded points"
        return said + (f"; {self.left_out} left out" if self.left_out else "")


def at_equal_bits(
    rows: Iterable[Mapping[str, Any]],
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    more: float = 0.0,
    **where: Any,
) -> Equal | None:
    """The rows that have ``a`` and those that have ``b``, seed by seed at equal average weight bits in use.

    Of the two sides the one with fewer bits is raised to the bits of the other, along its own curve: the rows
    of the same seed under other limits. Between two recorded points stands the mean of their answers, image
    by image, weighted by how near either is. Where that side has no point above, the other is lowered.

    Parameters
    ----------
    rows : iterable of mappings
        Of learned bits, as `qlib.results.flat` gives them.
    a, b : mapping
        A value by column or field of an allocation, for either side; the limit (``target_weight_bits``) is
        among these or ``where``.
    more : float
        Bits that ``a`` is to have more than ``b``.
    **where
        A value by column, for both sides.

    Returns
    -------
    Equal or None
        ``None`` if in no seed both sides have such rows.
    """
    rows = list(rows)
    sides = [{**where, **side} for side in (a, b)]
    limits = [_by_seed(rows, side) for side in sides]
    curves = [_by_seed(rows, {k: v for k, v in side.items() if k != TARGET}) for side in sides]
    found: list[list[Measurement]] = [[], []]
    bits: list[float] = []
    between = left_out = 0
    for seed in sorted(set(limits[0]) & set(limits[1])):
        (at_a, _), (at_b, _) = (of_side[seed][0] for of_side in limits)
        for level in sorted((at_a - more, at_b), reverse=True):
            pair = [at_bits(curve[seed], x) for curve, x in zip(curves, (level + more, level), strict=True)]
            if None not in pair:
                break
        else:
            left_out += 1
            continue
        bits.append(level)
        between += not all(m.yes_or_no for m in pair)
        for side, measurement in zip(found, pair, strict=True):
            side.append(measurement)
    return Equal(*found, tuple(bits), between, left_out) if bits else None


def at_bits(curve: Curve, bits: float) -> Measurement | None:
    """What a setting measures with so many bits.

    Parameters
    ----------
    curve : sequence of (float, Measurement)
        Recorded points of one seed: bits in use, and what was measured, on the same examples.
    bits : float
        Between the fewest and the most of these.

    Returns
    -------
    Measurement or None
        Of the point with these bits; else the mean of its neighbours, example by example, weighted by how
        near they are. ``None`` outside of the curve.
    """
    below = [x for x, _ in curve if x <= bits + CLOSE]
    above = [x for x, _ in curve if x >= bits - CLOSE]
    if not below or not above:
        return None
    low, high = max(below), min(above)
    share = 0.0 if high - low <= 2 * CLOSE else (bits - low) / (high - low)
    first = curve[0][1]
    values = sum(
        weight * np.mean([m.values for x, m in curve if abs(x - end) <= CLOSE], axis=0)
        for weight, end in ((1 - share, low), (share, high))
        if weight
    )
    return Measurement(first.metric, float(np.mean(values)), values, first.label)


def _by_seed(rows: Iterable[Mapping[str, Any]], where: Mapping[str, Any]) -> dict[str, Curve]:
    points: dict[str, list[tuple[float, Measurement]]] = {}
    for row in (row for row in rows if row["average_weight_bits"] is not None and fits(row, where)):
        point = float(row["average_weight_bits"]), measurement_of(row)
        points.setdefault(str(seed_of(row)), []).append(point)
    return points
