"""Methods crossed with choices: the plan of that experiment, `book/headline.yaml`, and its grids."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import yaml

from .. import results
from ..experiments import Experiment, Run
from ..methods import spelled


@cache
def plan() -> dict[str, Any]:
    """As ``book/headline.yaml`` has it.

    Raises
    ------
    FileNotFoundError
        There is no clone around.
    """
    return yaml.safe_load((results.clone() / "book" / "headline.yaml").read_text("utf8"))


@cache
def names() -> dict[str, str]:
    """By method as rows spell it, its name."""
    return {spelled(entry["method"]): entry["name"] for entry in plan()["methods"]}


@cache
def grid(table: str) -> Experiment:
    """The grid of a table."""
    return Experiment.load(results.experiments()[f"{plan()['bench']}/{table}"])


@cache
def runs(table: str) -> tuple[Run, ...]:
    """Of the grid of a table."""
    return tuple(grid(table).runs())


@cache
def rows_of(table: str) -> list[dict[str, Any]]:
    """The rows of a table that its grid asks for, as many as there are: none of other draws or images."""
    path = results.table_path(plan()["bench"], table)
    wanted = set(runs(table))
    rows = results.load_rows(path) if path.exists() else []
    return [row for row in rows if results.run_of(row) in wanted]


def minutes(table: str) -> float:
    """The minutes of one processor that a grid is estimated to take: weights, each cell once, and a
    measurement a row.
    """
    seconds = {spelled(entry["method"]): entry["seconds"] for entry in plan()["methods"]}
    weights = {_of_weights(run) for run in runs(table) if not run.config.in_float}
    found = sum(seconds[run.method] for run in weights) + len(runs(table)) * plan()["evaluation_seconds"]
    return found / 60


def _of_weights(run: Run) -> Run:
    return dataclasses.replace(run, config=run.config.of_side("weight"))
