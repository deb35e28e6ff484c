"""A league table of methods, in which a reader gives one of them another choice and watches it reorder."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..headline import Crossing, as_recorded, beside, in_float, methods_of, own_cards, plan
from ..looks import LOOKS
from .figure import Figure, table


def league_table() -> Figure:
    """From the recorded rows of methods crossed with choices, as many as there are. It acts without a kernel.

    Returns
    -------
    Figure
        With a list of choices, one of levels a method, and two buttons: all alike, and as each card has it.
    """
    from scipy.special import stdtrit

    found = [as_recorded(name, methods_of(name, "with nearest")) for name in plan()["settings"]]
    settings = [_setting(crossing) for crossing in found if crossing.networks]
    counts = {len(setting["networks"]) for setting in settings} - {1}
    state = {
        "settings": settings,
        "quantiles": {str(n): round(float(stdtrit(n - 1, 0.975)), 4) for n in counts},
        "missing": "No network has all of its rows yet: this table fills as they are recorded.",
    }
    if not settings:
        return Figure("league", state, f"<p>{state['missing']}</p>")
    first = settings[0]
    means = {
        m["name"]: f"{np.mean(lost):.1f}" for m, lost in zip(first["methods"], first["all"], strict=True)
    }
    caption = f"Points lost, {first['name']}, a mean over choices"
    return Figure(
        "league", state, table(caption, dict(sorted(means.items(), key=lambda item: float(item[1]))))
    )


def _setting(found: Crossing) -> dict[str, Any]:
    """What the page needs of a setting: points lost, by method and network, for each level of a choice."""
    usual = np.array([in_float(found.setting)[name] for name in found.networks])
    lost = usual[:, None, None] - found.values
    choices = []
    for name, of_cells in found.levels.items():
        levels = list(dict.fromkeys(of_cells))
        here = [[level == each for each in of_cells] for level in levels]
        choices.append(
            {"name": name, "levels": levels, "lost": [_rounded(lost[:, :, h].mean(2)) for h in here]}
        )
    own = own_cards(found) if found.networks else []
    bits = plan()["settings"][found.setting]
    networks, _, _ = found.setting.rpartition(" ")  # such as "ResNets" of "ResNets W4A8"
    of = f"{networks}: " if networks else ""
    return {
        "name": found.setting,
        "title": f"{of}{bits['weight_bits']}-bit weights, {bits['activation_bits']}-bit activations",
        "cards": bool(beside(found.setting, [plan()["cards"]])),
        "networks": list(found.networks),
        "waiting": list(found.waiting),
        "cells": len(found.cells),
        "methods": [{"name": name, "colour": LOOKS[name].colour} for name in found.methods],
        "all": _rounded(lost.mean(2)),
        "choices": choices,
        "own": {one.method: np.round(usual - one.filled, 3).tolist() for one in own},
    }


def _rounded(lost: np.ndarray) -> list[list[float]]:
    """By method and network."""
    return np.round(lost.T, 3).tolist()
