"""Figures of methods crossed with choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from ..looks import COLOURS, LOOKS
from ..shares import Ratio
from .crossing import Crossing, in_float
from .orders import flips
from .said import shares_of


def strips(rows: Crossing, by: str, ax: Axes | None = None) -> Axes:
    """A line a method: points lost in every cell, means over networks, coloured by the level of a choice."""
    ax = ax or plt.subplots()[1]
    lost = _lost(rows).mean(0)
    levels = rows.levels[by]
    names = list(dict.fromkeys(levels))
    for i, level in enumerate(names):
        here = np.array([each == level for each in levels])
        colour, marker = _look(level, i)
        for j in range(len(rows.methods)):
            values = lost[j, here]
            at = j + 0.16 * (i - (len(names) - 1) / 2) * 2
            ax.plot(
                values,
                np.full(len(values), at),
                marker,
                color=colour,
                alpha=0.7,
                label=level if j == 0 else None,
            )
    for j, values in enumerate(lost):
        ax.plot([values.mean()] * 2, [j - 0.35, j + 0.35], color=COLOURS["grey"], linewidth=2)
    ax.set(yticks=range(len(rows.methods)), yticklabels=rows.methods, xlabel=f"points lost, {rows.setting}")
    ax.invert_yaxis()
    ax.legend(ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def _lost(rows: Crossing) -> np.ndarray:
    """Points lost ``(networks, methods, cells)``."""
    return np.array([in_float(rows.setting)[name] for name in rows.networks])[:, None, None] - rows.values


def _look(level: str, i: int) -> tuple[str, str]:
    fallback = list(LOOKS.values())[i]
    look = LOOKS.get(level, fallback)
    return look.colour, look.marker


def shares_by_setting(found: Mapping[str, Crossing], ax: Axes | None = None) -> Axes:
    """A bar a setting: shares of methods, of choices and of their interaction, means over networks; how many
    methods and networks these are is written beside it. What image noise leaves below zero has no length.
    """
    ax = ax or plt.subplots(figsize=(5.8, 1.2 + 0.6 * len(found)))[1]
    for i, rows in enumerate(found.values()):
        left = 0.0
        shares = shares_of(rows)
        for part in ("method", "choices", "interaction"):
            share = max(0.0, 100 * float(shares[part].mean()))
            ax.barh(i, share, left=left, color=LOOKS[part].colour, label=part if i == 0 else None)
            if share > 6:
                ax.text(left + share / 2, i, f"{share:.0f}", ha="center", va="center", color="white")
            left += share
    labels = [_label(rows) for rows in found.values()]
    ax.set(yticks=range(len(found)), yticklabels=labels, xlabel="share of the variance of points lost (%)")
    ax.invert_yaxis()
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def _label(rows: Crossing) -> str:
    networks = len(rows.networks)
    return f"{rows.setting}\n{len(rows.methods)} methods, {networks} network{'s' * (networks > 1)}"


def one_by_one(rows: Crossing, ax: Axes | None = None) -> Axes:
    """The share that methods have, and each choice alone; dots are networks."""
    ax = ax or plt.subplots()[1]
    shares = shares_of(rows)
    names = ["method", *sorted(rows.levels, key=lambda name: -shares[name].mean())]
    for i, name in enumerate(names):
        colour = LOOKS["method" if name == "method" else "choices"].colour
        ax.barh(i, 100 * shares[name].mean(), color=colour, alpha=0.8)
        ax.plot(100 * shares[name], np.full(len(shares[name]), i), ".", color="black", alpha=0.6)
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel=f"share of the variance (%), {rows.setting}")
    ax.invert_yaxis()
    return ax


def ratios(found: Mapping[str, Ratio], ax: Axes | None = None) -> Axes:
    """The variance of choices over that of methods: networks as dots, and the interval of their mean."""
    ax = ax or plt.subplots(figsize=(5.8, 1.4 + 0.5 * len(found)))[1]
    for i, ratio in enumerate(found.values()):
        values = np.exp(list(ratio.networks.values()))
        ax.plot(values, np.full(len(values), i + 0.18), ".", color="black", alpha=0.6)
        colour = LOOKS[ratio.verdict].colour
        if len(values) > 1:
            ax.plot(np.exp(ratio.interval), [i, i], color=colour, linewidth=3)
        ax.plot(np.exp(ratio.value), i, LOOKS[ratio.verdict].marker, color=colour, markersize=9)
    ax.axvline(1, color=COLOURS["grey"], linestyle="--", linewidth=1.2)
    ax.set(xscale="log", yticks=range(len(found)), yticklabels=list(found))
    ax.set(xlabel="variance of choices over that of methods", ylim=(len(found) - 0.5, -0.5))
    return ax


def flip_map(rows: Crossing, ax: Axes | None = None) -> Axes:
    """How often the order of two methods turns round under choices that are drawn apart, in percent; in
    brackets where it is not certain to begin with.
    """
    ax = ax or plt.subplots()[1]
    size = len(rows.methods)
    values = np.full((size, size), np.nan)
    for order in flips(rows):
        i, j = rows.methods.index(order.a), rows.methods.index(order.b)
        values[j, i] = 100 * order.apart
        text = f"{100 * order.apart:.0f}" if order.certain else f"({100 * order.apart:.0f})"
        ax.text(i, j, text, ha="center", va="center", color="white" if order.apart > 0.3 else "black")
    ax.imshow(values, cmap="viridis_r", vmin=0, vmax=50)
    ax.set(xticks=range(size - 1), xticklabels=rows.methods[:-1], yticks=range(1, size))
    ax.set(yticklabels=rows.methods[1:], xlim=(-0.5, size - 1.5), ylim=(size - 0.5, 0.5))
    plt.setp(ax.get_xticklabels(), rotation=30, ha="right")
    ax.set_title(rows.setting)
    ax.grid(visible=False)
    return ax


def interaction_lines(rows: Crossing, choices: Sequence[str]) -> Sequence[Axes]:
    """For each choice of two levels, a line a method from one level to the other: points lost, means over
    cells and networks. Where lines are parallel nothing interacts.
    """
    axes = plt.subplots(1, len(choices), figsize=(3.4 * len(choices), 3.6), sharey=True)[1]
    lost = _lost(rows).mean(0)
    for ax, choice in zip(np.atleast_1d(axes), choices, strict=True):
        levels = list(dict.fromkeys(rows.levels[choice]))
        here = [np.array([each == level for each in rows.levels[choice]]) for level in levels]
        for name, of_cells in zip(rows.methods, lost, strict=True):
            look = LOOKS[name]
            means = [of_cells[some].mean() for some in here]
            ax.plot(range(len(levels)), means, color=look.colour, marker=look.marker, label=name)
        ax.set(xticks=range(len(levels)), xticklabels=levels, title=choice, xlim=(-0.2, len(levels) - 0.8))
    axes = np.atleast_1d(axes)
    axes[0].set(ylabel=f"points lost, {rows.setting}")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return axes
