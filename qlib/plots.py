"""One visual style for every figure: a thing's own colour and marker (`qlib.looks`), intervals drawn,
captions outside the axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib_inline.backend_inline import set_matplotlib_formats
from torch import Tensor

from .affine import Grid, dequantize, quantize
from .comparison import Difference
from .looks import COLOURS, LOOKS, MARKERS
from .looks import colours as colours
from .metrics import TOP1, Metric


class Series(NamedTuple):
    """What a value of a choice is called in figures and tables, and its colour there."""

    name: str
    colour: str


def _series(name: str) -> Series:
    return Series(name, LOOKS[name].colour)


PLACEMENTS = {  # by (quantize_skip, quantize_residual)
    (False, False): _series("inputs only"),
    (True, False): _series("skip quantized"),
    (True, True): _series("everything quantized"),
    (False, True): _series("residual quantized"),
}
GRIDS = {  # by (symmetric, symmetric_grid)
    (False, "full"): _series("asymmetric"),
    (True, "full"): _series("symmetric, full"),
    (True, "restricted"): _series("symmetric, restricted"),
    (True, "authors"): _series("symmetric, authors"),
}
GRANULARITIES = {  # by weight_granularity
    "per_channel": _series("per channel"),
    "per_tensor": _series("per tensor"),
}


def use_style() -> None:
    """Set matplotlib's and seaborn's defaults for the notebook, where figures are drawn as SVG."""
    if get_ipython() is not None:
        set_matplotlib_formats("svg")
    sns.set_theme(context="notebook", style="whitegrid", font_scale=1.05)
    plt.rcParams.update(
        {
            "figure.figsize": (5.8, 4),
            "figure.dpi": 110,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "savefig.facecolor": "white",
        }
    )


def accuracy_curves(
    summary: pd.DataFrame,
    x: str,
    series: str,
    colours: Mapping[str, str],
    xlabel: str,
    baseline: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Accuracy against a column of a summary, with bars that are the 95 % intervals in ``low`` and ``high``.

    Parameters
    ----------
    summary : DataFrame
        As `qlib.results.summary` gives it; values in percent.
    x : str
        The column along the axis.
    series : str
        The column of whose values each has a line.
    colours : mapping
        By value of ``series``, in the order of lines.
    xlabel : str
        Of the axis.
    baseline : float, optional
        The float accuracy, drawn as a line; in percent.
    ax : Axes, optional
        Where to draw; ``None`` for a figure of its own.

    Returns
    -------
    Axes
        With the curves.
    """
    ax = ax or plt.subplots()[1]
    names = [name for name in colours if name in set(summary[series])]
    sns.lineplot(
        summary,
        x=x,
        y="value",
        hue=series,
        style=series,
        hue_order=names,
        style_order=names,
        palette=dict(colours),
        markers={name: _marker(name, i) for i, name in enumerate(names)},
        dashes=False,
        markersize=7,
        ax=ax,
    )
    for name, rows in summary[summary[series].isin(names)].groupby(series):
        ax.vlines(rows[x], rows["low"], rows["high"], color=colours[name], linewidth=2)
    if baseline is not None:
        ax.axhline(baseline, color=COLOURS["grey"], linestyle="--", linewidth=1.2)
        ax.annotate(
            "float",
            (ax.get_xlim()[0], baseline),
            xytext=(4, 4),
            textcoords="offset points",
            color=COLOURS["grey"],
        )
    ax.set(xlabel=xlabel, ylabel=_metric(summary).label, **_ticks(summary[x]))
    ax.legend(title=None)
    return ax


def _marker(name: str, i: int) -> str:
    """A thing's own marker, else the i-th."""
    return LOOKS[name].marker if name in LOOKS else MARKERS[i]


def _ticks(x: Sequence[float]) -> dict[str, list[float]]:
    """At the settings that there are, where these are whole numbers; bits in use are not."""
    places = sorted(set(x))
    return {"xticks": places} if all(float(place).is_integer() for place in places) else {}


def _metric(summary: pd.DataFrame) -> Metric:
    """Of whose values a summary is made."""
    return summary.attrs.get("metric", TOP1)


def _difference(gains: Mapping[str, Sequence[Difference]]) -> str:
    """The label of an axis of differences."""
    (unit, *_) = {d.unit for differences in gains.values() for d in differences} or {""}
    return f"difference ({unit})" if unit else "difference"


def residual_placements(
    modes: Sequence[tuple[bool, bool]] = ((True, True), (True, False), (False, False)),
) -> Figure:
    """A residual block, and where its quantizers (Q) sit.

    Parameters
    ----------
    modes : sequence of (bool, bool)
        A block for each, under ``(quantize_skip, quantize_residual)``.

    Returns
    -------
    Figure
        Its blocks side by side.

    Source
    ------
    Figure 1.
    """
    figure, axes = plt.subplots(1, len(modes), figsize=(3.1 * len(modes), 4.6))
    for ax, mode in zip(axes, modes, strict=True):
        _draw_block(ax, *mode)
    figure.tight_layout()
    return figure


def _draw_block(ax: Axes, skip: bool, residual: bool) -> None:
    placement = PLACEMENTS[skip, residual]

    def box(
        x: float, y: float, text: str, face: str = "white", edge: str = "#444444", width: float = 1.5
    ) -> None:
        ax.add_patch(
            FancyBboxPatch(
                (x - width / 2, y - 0.25),
                width,
                0.5,
                boxstyle="round,pad=0.03",
                facecolor=face,
                edgecolor=edge,
            )
        )
        ax.text(
            x, y, text, ha="center", va="center", fontsize=9, color="white" if face != "white" else "black"
        )

    def quantizer(x: float, y: float) -> None:
        box(x, y, "Q", face=placement.colour, edge=placement.colour, width=0.5)

    def arrow(*points: tuple[float, float]) -> None:
        for a, b in zip(points, points[1:], strict=False):
            style = "-|>" if b is points[-1] else "-"
            ax.add_patch(
                FancyArrowPatch(
                    a, b, arrowstyle=style, mutation_scale=9, color="#444444", shrinkA=0, shrinkB=0
                )
            )

    branch = 1.0
    path = 3.0
    top = 7.4
    arrow((2, top + 0.5), (2, top), (branch, top), (branch, 6.2))
    box(branch, 5.95, "convolutions")
    arrow((branch, 5.7), (branch, 3.2), (1.85, 3.2))
    arrow((2, top), (path, top), (path, 3.2), (2.15, 3.2))
    ax.text(branch - 0.15, 5.1, "residual", rotation=90, ha="right", va="center", fontsize=8)
    ax.text(path + 0.15, 5.1, "skip", rotation=90, ha="left", va="center", fontsize=8)
    ax.text(2, 3.2, "+", ha="center", va="center", fontsize=13)
    ax.add_patch(plt.Circle((2, 3.2), 0.2, fill=False, color="#444444"))
    arrow((2, 3.0), (2, 2.65))
    box(2, 2.4, "ReLU", width=1)
    arrow((2, 2.15), (2, 0.8))
    if not skip:
        quantizer(branch, 6.75)  # at the input of the convolution
    if residual:
        quantizer(branch, 4.3)
    if skip:
        quantizer(2, 1.5)
        quantizer(2, top + 0.5)
    ax.set(xlim=(-0.1, 4.1), ylim=(0.6, 8.3), aspect="equal")
    ax.axis("off")
    label = {"ha": "center", "va": "top", "fontsize": 10, "fontweight": "bold"}
    ax.text(2, 0.55, placement.name, color=placement.colour, **label)


def paired_gains(
    x: Sequence[float],
    gains: Mapping[str, Sequence[Difference]],
    colours: Sequence[str],
    xlabel: str = "activation bits",
    ax: Axes | None = None,
) -> Axes:
    """Paired differences in points, with their 95 % intervals; where there are several seeds, each as a dot.

    Parameters
    ----------
    x : sequence of float
        Where the differences stand.
    gains : mapping
        By name, differences, one for each of ``x``; each entry has a line.
    colours : sequence of str
        Of the lines.
    xlabel : str
        Of the axis.
    ax : Axes, optional
        Where to draw; ``None`` for a figure of its own.

    Returns
    -------
    Axes
        With the lines.
    """
    ax = ax or plt.subplots()[1]
    for i, ((name, differences), colour) in enumerate(zip(gains.items(), colours, strict=True)):
        at = [v + 0.06 * (i - (len(gains) - 1) / 2) for v in x]
        points = [d.value for d in differences]
        ends = [
            [p - d.interval[0] for p, d in zip(points, differences, strict=True)],
            [d.interval[1] - p for p, d in zip(points, differences, strict=True)],
        ]
        ax.errorbar(
            at, points, yerr=ends, color=colour, marker=_marker(name, i), markersize=6, capsize=3, label=name
        )
        for place, difference in zip(at, differences, strict=True):
            if len(difference.seeds) > 1:
                ax.plot([place] * len(difference.seeds), difference.seeds, ".", color=colour, alpha=0.5)
    ax.axhline(0, color=COLOURS["grey"], linewidth=1)
    ax.set(xlabel=xlabel, ylabel=_difference(gains), **_ticks(x))
    ax.legend()
    return ax


def codes_on_histogram(x: Tensor, grid: Grid, name: str, colour: str, ax: Axes | None = None) -> Axes:
    """A histogram of values and a line at the value of every code, dotted grey where none uses the code.

    Used codes and all codes are counted in the label.

    Parameters
    ----------
    x : Tensor
        The values.
    grid : Grid
        One range for all of ``x``.
    name : str
        Of the grid, in the label.
    colour : str
        Of lines where some value uses the code.
    ax : Axes, optional
        Where to draw; ``None`` for a figure of its own.

    Returns
    -------
    Axes
        With histogram and lines.
    """
    ax = ax or plt.subplots()[1]
    codes = range(int(grid.code_min), int(grid.code_max) + 1)
    used = set(quantize(x, grid).unique().tolist())
    ax.hist(x.flatten().numpy(), bins=80, log=True, color="#BDBDBD", linewidth=0)
    for code in codes:
        style = {"color": colour} if code in used else {"color": COLOURS["grey"], "linestyle": ":"}
        ax.axvline(float(dequantize(code, grid)), linewidth=1.8 if len(codes) <= 32 else 0.7, **style)
    ax.text(
        1,
        1.02,
        f"{name}: {len(used)} of {len(codes)} codes used",
        transform=ax.transAxes,
        ha="right",
        va="bottom",
    )
    ax.grid(False)
    ax.set(ylabel="values")
    return ax


def spread_curves(
    summary: pd.DataFrame,
    x: str,
    series: str,
    colours: Mapping[str, str],
    xlabel: str,
    ax: Axes | None = None,
) -> Axes:
    """Mean accuracy against a column of a summary, on a logarithmic scale, with bars that are the standard
    deviations over draws in ``spread``, in points.

    Parameters
    ----------
    summary, x, series, colours, xlabel, ax
        As for `accuracy_curves`.

    Returns
    -------
    Axes
        With the curves.
    """
    ax = ax or plt.subplots()[1]
    for i, (name, colour) in enumerate(colours.items()):
        rows = summary[summary[series] == name]
        at = rows[x] * 1.08 ** (i - (len(colours) - 1) / 2)
        ax.errorbar(
            at,
            rows["value"],
            yerr=rows["spread"],
            color=colour,
            marker=_marker(name, i),
            markersize=6,
            capsize=3,
            label=name,
        )
    ax.set_xscale("log")
    ax.set_xticks(sorted(set(summary[x])), [f"{v:,}" for v in sorted(set(summary[x]))])
    ax.minorticks_off()
    ax.set(xlabel=xlabel, ylabel=_metric(summary).label)
    ax.legend()
    return ax


def noise_along(table: pd.DataFrame, named: int = 3, ax: Axes | None = None) -> Axes:
    """Signal-to-noise ratios along a network: of each quantizer by itself, and of what arrives there.

    Parameters
    ----------
    table : DataFrame
        Of `qlib.diagnose`.
    named : int
        How many of the noisiest are numbered, with their names below.
    ax : Axes, optional
        Where to draw; ``None`` for a figure of its own.

    Returns
    -------
    Axes
        With the points.
    """
    ax = ax or plt.subplots()[1]
    table = table.assign(place=table.position.rank(method="dense"))
    along = table.sort_values("place")
    ax.plot(along.place, along.arriving, color=COLOURS["grey"], linewidth=1.5, label="as it arrives")
    for side, name in (("weight", "weights"), ("activation", "activations")):
        rows = table[table.side == side]
        if len(rows):
            look = LOOKS[name]
            ax.plot(rows.place, rows.sqnr, look.marker, color=look.colour, label=f"{name}, by themselves")
    above = 0.05 * (table.sqnr.max() - min(table.arriving.min(), 0))
    for number, row in enumerate(table[:named].to_dict("records"), 1):
        mark = {"marker": f"${number}$", "color": COLOURS["grey"], "linestyle": "none"}
        ax.plot(row["place"], row["sqnr"] + above, **mark, markersize=8, label=f"{row['side']} {row['name']}")
    ax.axhline(0, color=COLOURS["grey"], linestyle=":", linewidth=1)
    ax.set(xlabel="quantizers, in order of execution", ylabel="signal to noise (dB)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, fontsize=9)
    return ax
