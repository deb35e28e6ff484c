"""Activations of a few tokens, a channel or a token of which is loud, under ranges of three kinds. It needs
no kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .figure import Figure, table

RANGES = {"per tensor": "one range for all", "per token": "a range for a token", "per group": "for a group"}
GROUP = 8  # channels of a token that share a range, where it is for groups
BITS = (2, 8)


def token_ranges(samples: Mapping[str, tuple[Sequence[str], np.ndarray]], bits: int = 8) -> Figure:
    """A figure in which a reader chooses what shares a range, and the bits, and sees what is left of the
    values beside the loud ones.

    Parameters
    ----------
    samples : mapping
        By name, tokens as words, and what a layer is given for them ``(tokens, channels)``.
    bits : int
        With which it starts.

    Returns
    -------
    Figure
        Acts without a kernel.
    """
    shown = {
        name: {"tokens": list(tokens), "values": np.round(np.asarray(values, float), 5).tolist()}
        for name, (tokens, values) in samples.items()
    }
    found = {
        f"{name}, {ranges}": f"{100 * lost(np.asarray(sample['values']), bits, ranges):.1f} % lost"
        for name, sample in shown.items()
        for ranges in RANGES
    }
    state = {
        "samples": shown,
        "ranges": [list(pair) for pair in RANGES.items()],
        "group": GROUP,
        "bits": [*BITS, bits],
    }
    return Figure("tokens", state, table(f"{bits} bits: of the values beside the loud ones", found))


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
    """The squared error of the values beside the loudest channel and token, as a share of their squares."""
    beside = others(rows)
    error = (quantized(rows, bits, ranges) - rows)[beside]
    return float((error**2).sum() / (rows[beside] ** 2).sum())


def others(rows: np.ndarray) -> np.ndarray:
    """Whether each value is of neither the loudest channel nor the loudest token."""
    token, channel = np.unravel_index(np.abs(rows).argmax(), rows.shape)
    return (np.arange(len(rows)) != token)[:, None] & (np.arange(rows.shape[1]) != channel)
