"""What a tradeoff buys: points of accuracy that a choice moves, against the time that it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .. import results
from ..comparison import Difference, compare
from ..kernels.costs import find
from .figure import Figure, table

BENCH = "digits"


class Traded(NamedTuple):
    """A choice that has been timed, and where the accuracy of both its sides is recorded."""

    name: str
    choices: Mapping[str, Any]  # as `qlib.kernels.grid` has them
    table: str
    bits: str  # the column
    where: Mapping[str, Any]
    than: Mapping[str, Any]  # the other side


WEIGHTS = {"weight_granularity": "per_channel", "weight_symmetric": True}
PLACES = {"quantize_skip": True, "quantize_residual": True}
TRADED = (
    Traded(
        "zero-points of weights",
        {"weight_symmetric": False},
        "weight-granularity",
        "weight_bits",
        {**WEIGHTS, "weight_symmetric": False},
        WEIGHTS,
    ),
    Traded(
        "one range a weight tensor",
        {"weight_granularity": "per_tensor"},
        "weight-granularity",
        "weight_bits",
        {**WEIGHTS, "weight_granularity": "per_tensor"},
        WEIGHTS,
    ),
    Traded(
        "symmetric activations",
        {"activation_symmetric": True},
        "symmetric-activations",
        "activation_bits",
        {"activation_symmetric": True, "symmetric_grid": "restricted"},
        {"activation_symmetric": False},
    ),
    Traded(
        "residual in float",
        {"quantize_residual": False},
        "skip-residual",
        "activation_bits",
        {**PLACES, "quantize_residual": False},
        PLACES,
    ),
    Traded(
        "skip in float",
        {"quantize_skip": False},
        "skip-residual",
        "activation_bits",
        {**PLACES, "quantize_skip": False},
        PLACES,
    ),
    Traded(
        "inputs only",
        {"quantize_skip": False, "quantize_residual": False},
        "skip-residual",
        "activation_bits",
        {"quantize_skip": False, "quantize_residual": False},
        PLACES,
    ),
    Traded(
        "pooling in float",
        {"pooling": "float"},
        "pooling",
        "activation_bits",
        {"pooling": "float"},
        {"pooling": "high_precision"},
    ),
)


def gains(bits: Iterable[int] = range(3, 9)) -> dict[str, dict[int, Difference]]:
    """By choice and bits, the accuracy with it minus that without, on the built-in bench, as recorded."""
    found: dict[str, dict[int, Difference]] = {}
    names = {traded.table for traded in TRADED}
    recorded = {name: results.load_rows(results.table_path(BENCH, name)) for name in names}
    for name, _, experiment, column, where, than in TRADED:
        rows = recorded[experiment]
        sides = {
            number: [results.measured(rows, {column: number, **side}) for side in (where, than)]
            for number in bits
        }
        found[name] = {number: compare(*pair) for number, pair in sides.items() if all(pair)}
    return found


def tradeoff_costs(rows: Iterable[Mapping[str, Any]]) -> Figure:
    """Every choice as a point, with both intervals, and bits as a slider; it acts without a kernel.

    Parameters
    ----------
    rows : iterable of mappings
        Recorded times, from `qlib.kernels.costs.tables`. Without any, the figure shows points alone and says
        that times are missing.
    """
    moved = gains()
    settings = _settings(list(rows))
    state = {
        "names": [traded.name for traded in TRADED],
        "bits": sorted({bits for each in moved.values() for bits in each}),
        "gains": {
            name: {bits: _numbers(difference) for bits, difference in each.items()}
            for name, each in moved.items()
        },
        "settings": settings,
    }
    least = min(state["bits"])
    fallback = {name: str(each[least]) for name, each in moved.items() if least in each}
    return Figure("costs", state, table(f"Points that a choice moves at {least} bits", fallback))


def _numbers(difference: Difference) -> dict[str, Any]:
    low, high = difference.interval
    rounded = [round(value, 3) for value in (difference.points, low, high)]
    return {"points": rounded, "images_only": difference.images_only}


def _settings(rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a reader picks: processor, network, images and threads, where the base has been timed."""
    kinds = list(dict.fromkeys((row["batch"], row["threads"]) for row in rows))
    found = []
    for batch, threads in kinds:
        base = find(rows, {}, batch, threads)
        timed = {traded.name: find(rows, traded.choices, batch, threads) for traded in TRADED}
        for key, row in base.items():
            found.append(
                {
                    "network": key[0],
                    "chip": key[1],
                    "how": f"{batch} image{'s' * (batch > 1)}, {threads} thread{'s' * (threads > 1)}",
                    "runtime": row["runtime"].partition(",")[0],
                    "base": _time(row),
                    "times": {name: _time(each[key]) for name, each in timed.items() if key in each},
                }
            )
    return found


def _time(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"ratio": [row["ratio"], row["low"], row["high"]], "busy": row["busy"] is not False}
