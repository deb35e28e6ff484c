"""Bits by layer while they are learned, step by step. It needs no kernel."""

from __future__ import annotations

from collections.abc import Mapping

from ..bitwidths import LearnedBitwidths
from .figure import Figure, table

KINDS = {"weight": "weights", "activation": "activations"}


def learning_steps(learned: LearnedBitwidths, elements: Mapping[str, int], limit: float) -> Figure:
    """A figure with a slider over the steps of ``learned.history``, which begins at the step that was kept.

    ``elements``: how many weights each layer has, or activations each feature map, by name. It shows the kind that ``elements``
    names. ``limit``: of the average bits. Raises ``ValueError`` where ``elements`` names no layer that learned.
    """
    history = learned.history
    found = {kind: [c for c in history if c.startswith(f"{kind}:") and c.split(":", 1)[1] in elements] for kind in KINDS}
    kind = max(found, key=lambda kind: len(found[kind]))
    layers = [column.split(":", 1)[1] for column in found[kind]]
    if not layers:
        raise ValueError(f"elements names none of the layers whose bits were learned, such as {history.columns[-1]!r}")
    bits = history[found[kind]].round().astype(int)
    average = history[f"average_{kind}_bits"]
    kept = history.iloc[learned.step]
    fallback = table(f"Step {learned.step}, the one that was kept", {
        "loss": f"{kept.loss:.3f}", "average bits": f"{average[learned.step]:.3f}",
        **{name: f"{b} bits" for name, b in zip(layers, bits.iloc[learned.step], strict=True)}})  # fmt: skip
    return Figure("learning", {"layers": [{"name": name, "elements": elements[name]} for name in layers], "of": KINDS[kind],
                               "bits": bits.to_numpy().tolist(), "loss": history.loss.round(4).tolist(),
                               "average": average.round(4).tolist(), "feasible": history.feasible.astype(int).tolist(),
                               "limit": limit, "kept": learned.step}, fallback)  # fmt: skip
