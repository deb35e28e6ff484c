"""What an integer chip does beside multiplying: scales as a multiplier and a shift, accumulators of so many
bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

MULTIPLIER_BITS = 31  # of a positive 32-bit integer
MOST_SHIFT = 62  # of a 64-bit product
OVERFLOWS = ("wrap", "saturate")
BIASES = ("kept", "rounded")


def multipliers(factors: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Positive factors as integers over one power of two, ``factor = multiplier / 2**shift``, up to a
    relative 2**-31 of the largest.

    Parameters
    ----------
    factors : sequence of Tensor
        float64, of shapes that broadcast: one for each term of a sum.

    Returns
    -------
    list of Tensor, Tensor
        int64: the multipliers, of at most 31 bits, and the shift, 1 to 62.
    """
    largest = torch.stack(torch.broadcast_tensors(*factors)).amax(0)
    shift = (MULTIPLIER_BITS - torch.frexp(largest).exponent).clamp(1, MOST_SHIFT)
    most = 2**MULTIPLIER_BITS - 1
    power = (1 << shift.long()).double()
    return [(factor * power).round().clamp(max=most).long() for factor in factors], shift.long()


def shifted(x: Tensor, shift: Tensor) -> Tensor:
    """int64 ``x / 2**shift``, rounded half to even as the simulation and ONNX's QuantizeLinear round."""
    below = x & ((1 << shift) - 1)
    half = 1 << (shift - 1)
    down = x >> shift
    return down + ((below > half) | ((below == half) & (down & 1 == 1))).long()


def largest_of(x: Tensor) -> int:
    """The largest magnitude; 0 where there is nothing."""
    return int(x.abs().max()) if x.numel() else 0


def limits(bits: int) -> tuple[int, int]:
    """The lowest and the highest signed integer of so many bits."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def bits_for(low: int, high: int) -> int:
    """The bits of a signed integer that holds all from ``low`` to ``high``."""
    return 1 + max(max(high, 0).bit_length(), max(-low - 1, 0).bit_length())


def wrapped(sums: Tensor, bits: int) -> Tensor:
    """What an accumulator of so many bits holds of ``sums`` when it wraps around: the same whatever the order
    of additions.
    """
    low, _ = limits(bits)
    return ((sums - low) & (2**bits - 1)) + low


def saturated(start: Tensor, terms: Iterable[Tensor], bits: int) -> tuple[Tensor, int, int]:
    """What an accumulator holds that begins at ``start``, adds one term after the other and stops at its
    lowest and highest number.

    Returns
    -------
    Tensor, int, int
        The sums; and the lowest and the highest of all sums on the way, were it wide enough.
    """
    ends = limits(bits)
    held = start.clamp(*ends)
    exact = start
    low, high = (int(end) for end in torch.aminmax(start))
    for term in terms:
        held = (held + term).clamp_(*ends)
        exact = exact + term
        ends_now = torch.aminmax(exact)
        low, high = min(low, int(ends_now.min)), max(high, int(ends_now.max))
    return held, low, high
