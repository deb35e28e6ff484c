"""How a written network differs from the quantized one that it was written from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ONE_CODE_MORE = "what lies below the grid may get the code below its lowest"
ROUNDED_BIAS = (
    "the bias is rounded to 32-bit codes (before values are quantized, which may move them by a code)"
)


@dataclass(frozen=True)
class Change:
    """A change of the values of one tensor.

    Parameters
    ----------
    tensor
        The name of a quantized tensor, or of a layer for what it gives before it is quantized.
    what
        What is changed, in words.
    most
        By how much a value can differ at most, in its own unit, where what is before it is the same; of a
        layer before it is quantized, which may make a whole code of it.
    """

    tensor: str
    what: str
    most: float


def in_words(changes: Iterable[Change]) -> list[str]:
    """A line for every kind of change, with the tensors that it meets and the most that it does."""
    kinds: dict[str, list[Change]] = {}
    for change in changes:
        kinds.setdefault(change.what, []).append(change)
    return [
        f"{what}, which changes a value by at most {max(c.most for c in found):.2g}: "
        f"{', '.join(c.tensor for c in found)}"
        for what, found in kinds.items()
    ]
