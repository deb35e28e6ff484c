"""Activations of a few tokens, one channel of which is an outlier, under ranges of three kinds. It needs no
kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .figure import Figure, table

RANGES = {"per tensor": "one range for all", "per token": "a range for a token", "per group": "for a group"}
GROUP = 8  # channels of a token that share a range, where it is for groups
BITS = (2, 8)


def token_ranges(values: Sequence[Sequence[float]], tokens: Sequence[str], bits: int = 8) -> Figure:
    """A figure in which a reader chooses what shares a range, and the bits, and sees what is left of the
    channels beside the outlier.

    Parameters
    ----------
    values : ``(tokens, channels)``
        What a layer is given.
    tokens : sequence of str
        The words that the rows are of.
    bits : int
        With which it starts.

    Returns
    -------
    Figure
        Acts without a kernel.
    """
    rows = np.asarray(values, float)
    outlier = int(np.abs(rows).max(0).argmax())
    found = {name: f"{100 * lost(rows, bits, name):.1f} % lost" for name in RANGES}
    state = {
        "values": np.round(rows, 5).tolist(),
        "tokens": list(tokens),
        "outlier": outlier,
        "ranges": [list(pair) for pair in RANGES.items()],
        "group": GROUP,
        "bits": [*BITS, bits],
    }
    return Figure("tokens", state, table(f"{bits} bits: of the channels beside the outlier", found))


def quantized(rows: np.ndarray, bits: int, ranges: str) -> np.ndarray:
    """``(tokens, channels)`` on asymmetric grids, a range for what ``ranges``, one of `RANGES`, says."""
    size = {"per tensor": rows.size, "per token": rows.shape[1], "per group": GROUP}[ranges]
    parts = rows.reshape(-1, size)
    low = np.minimum(parts.min(1, keepdims=True), 0)
    scale = (np.maximum(parts.max(1, keepdims=True), 0) - low) / (2**bits - 1)
    scale[scale == 0] = 1
    zero_point = np.round(-low / scale)
    codes = np.clip(np.round(parts / scale) + zero_point, 0, 2**bits - 1)
    return ((codes - zero_point) * scale).reshape(rows.shape)


def lost(rows: np.ndarray, bits: int, ranges: str) -> float:
    """The squared error of the channels beside the outlier, as a share of their squares."""
    others = np.arange(rows.shape[1]) != np.abs(rows).max(0).argmax()
    error = (quantized(rows, bits, ranges) - rows)[:, others]
    return float((error**2).sum() / (rows[:, others] ** 2).sum())
