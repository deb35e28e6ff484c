"""What recorded times say of a choice: how often as long a network takes with it as without."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..comparison import verdict
from .grid import Cell
from .record_latency import TABLE, load
from .roofline import explained

MARGIN = 1.1  # times as long counts as no difference


@dataclasses.dataclass(frozen=True)
class Cost:
    """How often as long one network takes with choices as with others.

    Parameters
    ----------
    network
        Its name.
    value, interval
        The quotient of their times, and its 95 % interval over processes (Welch 1947, of the logarithms).
    busy
        Whether other programs ran while one of them was timed, or nobody knows.
    """

    network: str
    value: float
    interval: tuple[float, float]
    busy: bool

    def verdict(self, claim: str) -> str:
        """Whether it is ``"greater"`` or ``"less"`` than 1, or ``"no difference"``, see `qlib.verdict`."""
        low, high = np.log(self.interval)
        return verdict((float(low), float(high)), claim, float(np.log(MARGIN)))

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.interval[0]:.2f} to {self.interval[1]:.2f})"


def tables(folder: Path = TABLE.parent) -> list[dict[str, Any]]:
    """The rows of all machines, of ``latency.csv`` and of ``latency-NAME.csv``, each with its ``table``."""
    paths = sorted(folder.glob("latency*.csv"))
    return [{**row, "table": path} for path in paths for row in load(path).to_dict("records")]


def find(
    rows: Iterable[Mapping[str, Any]], choices: Mapping[str, Any], batch: int = 1, threads: int = 1
) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The rows of choices, by network and processor."""
    return {
        (row["network"], row["hardware"]): row
        for row in rows
        if row["choices"] == choices and (row["batch"], row["threads"]) == (batch, threads)
    }


def costs(
    rows: Iterable[Mapping[str, Any]],
    choices: Mapping[str, Any],
    than: Mapping[str, Any],
    batch: int = 1,
    threads: int = 1,
) -> list[Cost]:
    """What choices cost beside others, on every network that one processor has run with both."""
    rows = list(rows)
    a, b = (find(rows, each, batch, threads) for each in (choices, than))
    return [cost(a[key], b[key]) for key in a if key in b]


def cost(a: Mapping[str, Any], b: Mapping[str, Any]) -> Cost:
    """How often as long the network of one row takes as that of another."""
    value, interval = quotient(a["ratios"], b["ratios"])
    return Cost(a["network"], value, interval, any(row["busy"] is not False for row in (a, b)))


def quotient(a: Iterable[float], b: Iterable[float]) -> tuple[float, tuple[float, float]]:
    """The quotient of two geometric means, each over processes, and its 95 % interval.

    Source
    ------
    Welch (1947), of the logarithms.
    """
    from scipy.special import stdtrit

    sides = [np.log(np.asarray(list(side), float)) for side in (a, b)]
    centre = sides[0].mean() - sides[1].mean()
    parts = [side.var(ddof=1) / len(side) for side in sides]
    spread = sum(part**2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True))
    freedom = sum(parts) ** 2 / spread if spread else 1.0
    half = float(stdtrit(freedom, 0.975)) * sum(parts) ** 0.5
    return float(np.exp(centre)), (float(np.exp(centre - half)), float(np.exp(centre + half)))


def missing(
    rows: Iterable[Mapping[str, Any]], asked: Iterable[Cell], refused: Mapping[str, str]
) -> list[Cell]:
    """The cells that have neither a row nor a reason why there is none."""
    known = {Cell(row["network"], row["choices"], row["batch"], row["threads"]).key for row in rows}
    return [cell for cell in asked if cell.key not in known and cell.key not in refused]


def total(work: Mapping[str, Mapping[str, float]], part: str) -> float:
    """The sum over operators of one part of `qlib.kernels.work.work`."""
    return sum(done[part] for done in work.values())


def modelled_ratio(
    row: Mapping[str, Any], in_float: Mapping[str, Any], machine: Mapping[str, float]
) -> float:
    """The ratio that the model gives (`qlib.kernels.roofline`)."""
    a, b = (sum(each["model"] for each in explained(each["work"], machine)) for each in (row, in_float))
    return a / b


def missed(row: Mapping[str, Any], machine: Mapping[str, float]) -> list[str]:
    """The operators that the model misses, in words, the longest first."""
    return [
        f"{each['operator']} {each['milliseconds']:.2f} ms, by the model {each['model']:.2f} ms"
        for each in explained(row["work"], machine)
        if each["missed"]
    ]
