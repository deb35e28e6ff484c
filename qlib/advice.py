"""What a table of `qlib.diagnose` says in words, where its numbers are plain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .config import QuantConfig

if TYPE_CHECKING:
    import pandas as pd

NOISY = 10.0  # decibels: noise of a tenth of the signal's power
WIDE = 8.0  # times the median channel
PEAKED = 15.0  # times the root mean square
CLIPPED = 2.0  # percent
SHIFTED = 25.0  # percent
SMALL = 5.0  # percent of all weights
ENOUGH = 8  # bits, at which a layer that is small is left alone
NAMED = 4  # names in a sentence


def advice(table: pd.DataFrame, config: QuantConfig, corrected: bool = False) -> list[str]:
    """Sentences about what is noisy, each with a choice that would change it; the first one counts.

    Parameters
    ----------
    table : DataFrame
        Of `qlib.diagnose`.
    config : QuantConfig
        What it was made under.
    corrected : bool
        Whether biases were corrected then.
    """
    noisy = table[table.sqnr < NOISY]
    tenth = f"a tenth of its signal ({NOISY:g} dB)"
    total = max(table[table.side == "weight"].elements.sum(), 1)
    if noisy.empty:
        counted = [f"No quantizer makes more noise than {tenth}."]
        return [*counted, *_adding_up(table, corrected), *_small_layers(table, total), *_measured(table)]
    said = [f"{len(noisy)} of {len(table)} quantizers make more noise than {tenth} each."]
    usual = {side: rows.bits.median() for side, rows in table.groupby("side")}
    for side in ("weight", "activation"):
        left = noisy[noisy.side == side].to_dict("records")
        for applies, sentence in _rules(config, side, usual, total):
            concerned = [row for row in left if applies(row)]
            left = [row for row in left if not applies(row)]
            if concerned:
                said.append(f"{_names(concerned)}: {sentence(concerned)}")
    return [*said, *_measured(table)]


def _adding_up(table: pd.DataFrame, corrected: bool) -> list[str]:
    """What is to be said where nothing is noisy by itself, and much noise arrives."""
    drowned = table[table.arriving < NOISY]
    if drowned.empty:
        return []
    first = drowned.sort_values("position").iloc[0]
    loudest = table[:NAMED]
    names = ", ".join(dict.fromkeys(loudest.name))
    shift = loudest[loudest.side == "weight"]["shift"].mean()  # NaN where none is of weights
    mend = (
        f"of what the loudest make ({names}), {shift:.0f} % shifts the means of channels, and method='bias' "
        "takes that back"
        if shift >= SHIFTED and not corrected
        else f"the loudest are {names}"
    )
    return [
        f"Noise adds up: at {len(drowned)} of {len(table)} quantizers the signal is lost in what arrives, "
        f"from {first['name']} on (down to {drowned.arriving.min():.0f} dB); {mend}."
    ]


def _small_layers(table: pd.DataFrame, total: int) -> list[str]:
    """The smallest layers that together hold few of the weights, where more bits cost little."""
    layers = table[(table.side == "weight") & (table.bits < ENOUGH)].sort_values("elements")
    small = layers[100 * layers.elements.cumsum() / total <= SMALL]
    if small.empty:
        return []
    share = 100 * small.elements.sum() / total
    more = ((ENOUGH - small.bits) * small.elements).sum() / total
    names = ", ".join(small.name[::-1][:NAMED])
    others = f" and {len(small) - NAMED} more" if len(small) > NAMED else ""
    return [
        f"{len(small)} layers hold {share:.2g} % of the weights together ({names}{others}): {ENOUGH} bits "
        f"there raise the average by {more:.2f}."
    ]


def _measured(table: pd.DataFrame) -> list[str]:
    """What leaving one quantizer in float gave back, where that was measured."""
    if "back" not in table:
        return []
    sure = table[table.back_low > 0].sort_values("back", ascending=False)
    if sure.empty:
        return ["None of those tried gives anything back for sure."]
    rows = sure[:NAMED].to_dict("records")
    names = ", ".join(f"{row['name']} ({row['side']}) {row['back']:+.2f}" for row in rows)
    return [f"Left in float, these give most back: {names}."]


def _names(rows: list[Mapping[str, Any]]) -> str:
    names = ", ".join(row["name"] for row in rows[:NAMED])
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"{'Weights' if rows[0]['side'] == 'weight' else 'Values'} of {names}{more}"


def _rules(
    config: QuantConfig, side: str, usual: Mapping[str, float], total: int
) -> list[tuple[Callable[[Mapping[str, Any]], bool], Callable[[list[Mapping[str, Any]]], str]]]:
    """What may be wrong with a row, the plainest first, and what to say of the rows of which it is true."""
    per_tensor = getattr(config, f"{side}_granularity") == "per_tensor"
    found = getattr(config, f"{side}_range")
    shared = (
        "weight_granularity='per_channel'" if side == "weight" else "activation_granularity='per_channel'"
    )

    def most(rows: list[Mapping[str, Any]], what: str) -> str:
        return f"{max(row[what] for row in rows):.3g}"

    def cost(rows: list[Mapping[str, Any]]) -> str:
        share = 100 * sum(row["elements"] for row in rows) / total
        return (
            f"they are {share:.2g} % of all weights, so {ENOUGH} bits there cost little, such as "
            f"{rows[0]['name']!r}: {ENOUGH} in weight_bits."
        )

    rules = [
        (
            lambda row: row["bits"] < usual[side],
            lambda rows: f"fewer bits ({most(rows, 'bits')}) than most ({usual[side]:g}); give them as many.",
        ),
        (
            lambda row: per_tensor and row["spread"] >= WIDE,
            lambda rows: (
                f"one channel is up to {most(rows, 'spread')} times as wide as the median one, and sets "
                f"the range of all; {shared} gives each its own."
            ),
        ),
        (
            lambda row: row["peak"] >= PEAKED and found == "minmax",
            lambda rows: (
                f"few values, up to {most(rows, 'peak')} times the root mean square, set the range; "
                f"{side}_range='mse' or 'percentile' leaves them out."
            ),
        ),
        (
            lambda row: row["clipped"] >= CLIPPED,
            lambda rows: (
                f"up to {most(rows, 'clipped')} % of the values lie outside the range; a wider one, "
                f"{side}_range='minmax' or more calibration data, keeps them."
            ),
        ),
    ]
    if side == "weight":
        rules.append((lambda row: row["bits"] < ENOUGH and 100 * row["elements"] / total < SMALL, cost))
    rules.append(
        (lambda row: True, lambda rows: "no cause stands out; more bits, or leave them in float_layers.")
    )
    return rules
