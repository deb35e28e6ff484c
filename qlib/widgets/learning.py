"""Bits by layer while they are learned, step by step. It needs no kernel."""

from __future__ import annotations

import numpy as np

from ..bits.learn import LearnedBitwidths
from .figure import Figure, table


def learning_steps(learned: LearnedBitwidths, limit: float, kind: str = "weight") -> Figure:
    """A figure with a slider over the steps of learning, which begins at the step that was kept.

    Parameters
    ----------
    learned : LearnedBitwidths
        Its ``history`` has the steps.
    limit : float
        Of the average bits.
    kind : {"weight", "activation"}
        Whose bits; rounded as the learner rounds them, of a layer with bits by channel their mean.

    Returns
    -------
    Figure
        Acts without a kernel.

    Raises
    ------
    ValueError
        No bits of that kind were learned.
    """
    history = learned.history
    config = learned.config
    layers = [column.split(":", 1)[1] for column in history if column.startswith(f"{kind}:")]
    if not layers:
        raise ValueError(
            f"no {kind} bits were learned; columns of history are {', '.join(history.columns[:8])} ..."
        )
    # Symmetric grids need two bits
    choices = np.array([b for b in config.bit_choices if b > getattr(config, f"{kind}_symmetric")])
    values = history[[f"{kind}:{name}" for name in layers]].to_numpy(float)
    bits = choices[np.searchsorted((choices[1:] + choices[:-1]) / 2, values)].tolist()
    average = history[f"average_{kind}_bits"]
    kept = history.iloc[learned.step]
    fallback = table(
        f"Step {learned.step}, the one that was kept",
        {
            "loss": f"{kept.loss:.3f}",
            "average bits": f"{average[learned.step]:.3f}",
            **{name: f"{b} bits" for name, b in zip(layers, bits[learned.step], strict=True)},
        },
    )
    return Figure(
        "learning",
        {
            "layers": [{"name": name} for name in layers],
            "of": f"{kind}s",
            "bits": bits,
            "loss": history.loss.round(4).tolist(),
            "average": average.round(4).tolist(),
            "feasible": history.feasible.astype(int).tolist(),
            "limit": limit,
            "kept": learned.step,
        },
        fallback,
    )
