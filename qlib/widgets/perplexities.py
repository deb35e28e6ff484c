"""Perplexity of a language model against the bits that its weights take, counted in three ways. It needs no
kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from .. import results
from ..config import QuantConfig
from ..experiments import Experiment, Run
from ..looks import LOOKS
from ..methods import spelled
from ..metrics import PERPLEXITY, Measurement
from .figure import Figure, table

BENCH = "language"
TABLES = ("weight-groups", "gptq")
COUNTS = ("by name", "over all weights", "with scales")  # those of the head have more; and with zero-points
METHODS = {
    spelled("nearest"): "",
    spelled("gptq"): ", GPTQ",
    spelled({"name": "gptq", "order": "natural"}): ", GPTQ, columns as they stand",
}


class Point(NamedTuple):
    """A planned run whose weights alone are quantized."""

    run: Run
    bits: tuple[float, float, float]  # counted as `COUNTS` says
    found: Measurement | None  # its perplexity, once it is recorded

    @property
    def name(self) -> str:
        """What distinguishes it from the others, in words."""
        config = self.run.config
        return f"{config.weight_bits} bits, {sharing(config)}{METHODS.get(self.run.method, self.run.method)}"


def sharing(config: QuantConfig) -> str:
    """Which weights share a range."""
    if config.weight_granularity == "per_group":
        return f"groups of {config.group_size}"
    return config.weight_granularity.replace("_", " ")


def planned(tables: Iterable[str] = TABLES) -> tuple[list[Point], Measurement | None]:
    """Every planned run with quantized weights, and the perplexity in float, with what is recorded of them.

    Sizes are those of SmolLM2-135M, from its shapes alone: its package is not needed.
    """
    grids = [Experiment.load(results.experiments()[f"{BENCH}/{name}"]) for name in tables]
    wanted = [run for grid in grids for run in replace(grid, metric=PERPLEXITY.name).runs()]
    paths = sorted(results.table_path(BENCH, "").parent.glob("*.csv"))  # one of which has the float network
    rows = {results.run_of(row): row for path in paths for row in results.load_rows(path)}
    found = {run: results.measurement_of(row) for run, row in rows.items()}
    points = [Point(run, bits(run.config), found.get(run)) for run in wanted if not run.config.in_float]
    return points, next((one for run, one in found.items() if run.config.in_float), None)


@cache
def bits(config: QuantConfig) -> tuple[float, float, float]:
    """The bits of a weight of SmolLM2-135M, counted as `COUNTS` says."""
    from ..footprints import footprint

    size = footprint(*_outline(), config)
    return float(config.weight_bits), size.average_weight_bits, size.effective_weight_bits


@cache
def _outline() -> tuple[Any, Any]:
    import torch

    from ..benches.language import outline
    from ..network import read

    ids = torch.zeros(1, 2, dtype=torch.long)
    return read(outline(), ids, ()), ids


def perplexity_bits(points: Sequence[Point], in_float: Measurement | None) -> Figure:
    """A figure in which a reader chooses what counts as bits, and sees the same runs move.

    Parameters
    ----------
    points : sequence of Point
        As from `planned`; of what is not recorded the figure shows the size alone, and says so.
    in_float : Measurement, optional
        The perplexity of the float network.

    Returns
    -------
    Figure
        Acts without a kernel.
    """
    state = {
        "points": [_shown(point) for point in points],
        "float": None if in_float is None else _numbers(in_float),
        "counts": COUNTS,
    }
    rows = {
        p.name: f"{p.bits[2]:.2f} bits, {'not recorded yet' if p.found is None else p.found}" for p in points
    }
    return Figure("perplexities", state, table("Perplexity, and bits with scales counted", rows))


def _shown(point: Point) -> dict[str, Any]:
    kind = point.run.config.weight_granularity.replace("_", " ")
    return {
        "name": point.name,
        "bits": [round(bits, 4) for bits in point.bits],
        "colour": LOOKS[kind].colour,
        "nearest": point.run.method == spelled("nearest"),
        "found": None if point.found is None else _numbers(point.found),
    }


def _numbers(found: Measurement) -> list[float]:
    """A value and its interval."""
    return [float(f"{value:.6g}") for value in (found.value, *found.interval)]
