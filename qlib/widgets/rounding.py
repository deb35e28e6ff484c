"""The weights of one output channel on their way to a grid, step by step, by several methods. It needs no
kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .figure import Figure, table


class Way(NamedTuple):
    """How a method comes to its rounding.

    Attributes
    ----------
    values
        ``(steps, weights)``: those of the channel after each step; the last are values of codes.
    outputs
        ``(steps,)``, the mean squared error of what the channel gives, in any unit.
    words
        What a step is called, such as ``"column"``.
    """

    values: np.ndarray
    outputs: np.ndarray
    words: str = "step"


def rounding_ways(weights: Sequence[float], levels: Sequence[float], ways: Mapping[str, Way]) -> Figure:
    """A figure in which a reader chooses a method and moves through its steps.

    Parameters
    ----------
    weights : sequence of float
        Of one output channel, in float.
    levels : sequence of float
        The values of its grid.
    ways : mapping
        By name of a method. Errors are shown as a share of that of the first one at its end.

    Returns
    -------
    Figure
        Acts without a kernel.

    Raises
    ------
    ValueError
        A method ends at values that are not among ``levels``.
    """
    weights = np.asarray(weights, float)
    levels = np.asarray(levels, float)
    shown = {}
    first = next(iter(ways.values()))
    of_weights, of_outputs = _apart(first.values[-1], weights), float(first.outputs[-1])
    for name, way in ways.items():
        values = np.asarray(way.values, float)
        away = np.abs(values[-1][:, None] - levels).min(1).max()
        if away > 1e-4 * np.ptp(levels):
            raise ValueError(f"{name!r} ends at values that the grid does not have, by up to {away:.3g}")
        shown[name] = {
            "values": np.round(values, 5).tolist(),
            "weights": [round(_apart(now, weights) / of_weights, 4) for now in values],
            "outputs": np.round(np.asarray(way.outputs, float) / of_outputs, 4).tolist(),
            "words": way.words,
        }
    fallback = table(
        "Errors, as a share of those of the first method",
        {
            name: f"weights {way['weights'][-1]:.2f}, outputs {way['outputs'][-1]:.2f}"
            for name, way in shown.items()
        },
    )
    state = {"floats": np.round(weights, 5).tolist(), "levels": np.round(levels, 5).tolist(), "ways": shown}
    return Figure("rounding", state, fallback)


def _apart(values: np.ndarray, weights: np.ndarray) -> float:
    return float(((values - weights) ** 2).mean())
