"""Methods crossed with choices: the plan of that experiment, `book/headline.yaml`, and its grids."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cache
from pathlib import Path
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


def address(table: str) -> str:
    """``<bench>/<table>`` of a table of the plan, which says no bench where it is the usual one."""
    return table if "/" in table else f"{plan()['bench']}/{table}"


def bench_of(setting: str) -> str:
    """Where a setting is measured."""
    return address(plan()["settings"][setting]["tables"][0]).split("/")[0]


def beside(setting: str, tables: Iterable[str]) -> list[str]:
    """Those tables that have networks of the bench of a setting."""
    return [table for table in tables if address(table).split("/")[0] == bench_of(setting)]


@cache
def grid(table: str) -> Experiment:
    """The grid of a table."""
    return Experiment.load(results.experiments()[address(table)])


def path_of(table: str) -> Path:
    """Where a table lies."""
    return results.table_path(*address(table).split("/"))


@cache
def runs(table: str) -> tuple[Run, ...]:
    """Of the grid of a table."""
    return tuple(grid(table).runs())


@cache
def rows_of(table: str) -> list[dict[str, Any]]:
    """The rows of a table that its grid asks for, as many as there are: none of other draws or images."""
    path = path_of(table)
    wanted = set(runs(table))
    rows = results.load_rows(path) if path.exists() else []
    return [row for row in rows if results.run_of(row) in wanted]


def minutes(table: str) -> float:
    """The minutes of one processor that a grid is estimated to take: weights, each cell once, and a
    measurement a row.
    """
    factor = plan()["slower"].get(address(table).split("/")[0], 1)
    seconds = {spelled(entry["method"]): entry["seconds"] for entry in plan()["methods"]}
    weights = {_of_weights(run) for run in runs(table) if not run.config.in_float}
    found = sum(seconds[run.method] for run in weights) + len(runs(table)) * plan()["evaluation_seconds"]
    return factor * found / 60


def _of_weights(run: Run) -> Run:
    return dataclasses.replace(run, config=run.config.of_side("weight"))
