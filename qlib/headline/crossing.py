"""Recorded rows as one array: what networks answered under every method and every cell that all have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from .. import results
from ..choices import same
from ..comparison import SEEDS
from ..methods import spelled
from ..shares import Ratio, Shares, log_ratio, other_images_too, shares
from .plan import beside, grid, names, path_of, plan, rows_of, runs

Cell = tuple[str, ...]  # the level of every choice, in words
SETS = ("published", "with nearest", "quick")


@dataclass(frozen=True)
class Crossing:
    """A setting, as far as it is recorded.

    Parameters
    ----------
    setting : str
        Such as ``"W4A8"``.
    methods : tuple of str
        Their names.
    networks : tuple of str
        Those of which all rows are there, or refused.
    cells : tuple of tuples of str
        Those that every method of every such network has.
    right
        ``(networks, methods, cells, images)``, bool.
    waiting : tuple of str
        Networks of which rows are still to come.
    refused : tuple of tuples
        (network, method, cell) without a row, though recording has ended: no method has this cell here.
    """

    setting: str
    methods: tuple[str, ...]
    networks: tuple[str, ...]
    cells: tuple[Cell, ...]
    right: np.ndarray
    waiting: tuple[str, ...] = ()
    refused: tuple[tuple[str, str, Cell], ...] = ()

    @property
    def values(self) -> np.ndarray:
        """Accuracies in percent ``(networks, methods, cells)``."""
        return 100 * self.right.mean(3)

    def only(self, methods: Sequence[str]) -> Crossing:
        """Some of the methods, on the same cells."""
        here = [self.methods.index(name) for name in methods]
        return replace(self, methods=tuple(methods), right=self.right[:, here])

    @property
    def levels(self) -> dict[str, list[str]]:
        """By choice that varies here, its level in every cell."""
        found = zip(plan()["choices"], zip(*self.cells, strict=True), strict=True) if self.cells else ()
        return {name: list(levels) for name, levels in found if len(set(levels)) > 1}

    def shares(self, scale: str = "points") -> dict[str, Shares]:
        """By network."""
        return {
            name: shares(right, self.levels, scale)
            for name, right in zip(self.networks, self.right, strict=True)
        }

    def ratio(self, scale: str = "points", as_method: Sequence[str] = (), less_luck: bool = False) -> Ratio:
        """The log of the variance of choices over that of methods; ``as_method``: choices that count as part
        of the method; ``less_luck``: as if all of the interaction were the luck of a draw.
        """
        least = plan()["least"] if scale == "points" else plan()["least"] / 18.75**2  # at 75 %
        found = self.shares(scale).items()
        return log_ratio(
            {name: s.less_luck() if less_luck else s.as_method(*as_method) for name, s in found}, least
        )

    def ratio_of_other_images(self) -> Ratio:
        """`ratio`, with an interval that holds for other images, too."""
        return other_images_too(dict(zip(self.networks, self.right, strict=True)), plan()["least"])


def methods_of(setting: str, which: str = "published") -> tuple[str, ...]:
    """The names of methods that a setting has: the published ones, these and rounding to nearest, or those
    that are both published and quick, which have all cells.
    """
    if which not in SETS:
        raise ValueError(f"which must be one of {', '.join(SETS)}; got {which!r}")
    published = {entry["name"] for entry in plan()["methods"] if entry["published"]}
    quick, *_ = planned = [
        {names()[run.method] for run in runs(table)} for table in plan()["settings"][setting]["tables"]
    ]
    there = set.union(*planned)
    wanted = {"published": published & there, "with nearest": there, "quick": published & quick}[which]
    return tuple(name for name in names().values() if name in wanted)


def crossed(setting: str, methods: Sequence[str]) -> Crossing:
    """The rows of a setting, of methods of these names.

    Raises
    ------
    ValueError
        There is no such method or setting.
    """
    if setting not in plan()["settings"]:
        raise ValueError(f"setting must be one of {', '.join(plan()['settings'])}; got {setting!r}")
    if unknown := [name for name in methods if name not in names().values()]:
        raise ValueError(f"there is no method {unknown[0]!r} in the plan")
    tables = plan()["settings"][setting]["tables"]
    planned = _planned(setting)
    common = set.intersection(*({c for _, m, c in planned if m == method} for method in methods))
    there = {key: right for table in tables for key, right in answers(setting, table).items()}
    ended = all(map(_ended, tables))
    networks = grid(tables[0]).networks
    order = [cell for cell in dict.fromkeys(c for *_, c in planned) if cell in common]
    lacking = [key for key in product(networks, methods, order) if key not in there]
    waiting = () if ended else tuple(n for n in networks if any(key[0] == n for key in lacking))
    refused = tuple(key for key in lacking if key[0] not in waiting)
    valid = tuple(cell for cell in order if cell not in {key[2] for key in refused})
    complete = tuple(n for n in networks if n not in waiting) if valid else ()
    right = np.zeros((0, len(methods), len(valid), 0), bool)
    if complete:
        right = np.array([[[there[n, m, c] for c in valid] for m in methods] for n in complete])
    return Crossing(setting, tuple(methods), complete, valid, right, waiting, refused)


def other_draws(crossing: Crossing) -> np.ndarray:
    """Accuracies in percent ``(networks, methods, cells)`` of a crossing under other draws of images and
    other roundings; NaN where there is no row.
    """
    tables = beside(crossing.setting, plan()["draws"])
    there = {key: right for table in tables for key, right in answers(crossing.setting, table).items()}
    found = np.array(
        [
            [[100 * there[n, m, c].mean() if (n, m, c) in there else np.nan for c in crossing.cells]
             for m in crossing.methods]
            for n in crossing.networks
        ]
    )  # fmt: skip
    return found.reshape(crossing.values.shape)


def level_words(row: Mapping[str, Any]) -> Cell:
    """The levels of a row, in the order of the plan's choices.

    Raises
    ------
    ValueError
        It has a level that is not in the plan.
    """
    return tuple(_level(name, row) for name in plan()["choices"])


@cache
def values_of(choice: str) -> dict[str, dict[str, Any]]:
    """By level of a choice, what columns of a row have there."""
    column, levels = (plan()["choices"][choice][part] for part in ("column", "levels"))
    if isinstance(column, list):
        return {word: dict(zip(column, values, strict=True)) for word, values in levels.items()}
    return {word: {column: value} for value, word in levels.items()}


def _level(choice: str, row: Mapping[str, Any]) -> str:
    for word, values in values_of(choice).items():
        if all(same(row[column], value) for column, value in values.items()):
            return word
    raise ValueError(f"a row has a level of {choice!r} that is not in the plan")


def planned_cells(setting: str) -> list[Cell]:
    """The cells of a setting, of whatever method."""
    return list(dict.fromkeys(cell for *_, cell in _planned(setting)))


@cache
def _planned(setting: str) -> tuple[tuple[str, str, Cell], ...]:
    """(network, method, cell) of the runs of a setting."""
    found = []
    for run in (run for table in plan()["settings"][setting]["tables"] for run in runs(table)):
        row = {**run.config.to_dict(), "calibration_images": run.calibration_images}
        if _of_setting(setting, row):
            found.append((run.network, names()[run.method], level_words(row)))
    return tuple(found)


def _of_setting(setting: str, row: Mapping[str, Any]) -> bool:
    return all(row[side] == plan()["settings"][setting][side] for side in ("weight_bits", "activation_bits"))


@cache
def answers(setting: str, table: str) -> dict[tuple[str, str, Cell], np.ndarray]:
    """By (network, method, cell), which images were answered rightly."""
    return {
        (row["network"], _name(row["method"]), level_words(row)): results.accuracy_of(row).correct
        for row in rows_of(table)
        if _of_setting(setting, row)
    }


def _name(method: Any) -> str:
    return names()[spelled(method)]


def _ended(table: str) -> bool:
    """Whether every run of a grid has a row, or has failed."""
    failed = results.failures(path_of(table))
    return len(rows_of(table)) + len(failed) >= len(runs(table))


def as_recorded(setting: str, methods: Sequence[str]) -> Crossing:
    """`crossed`; of the quick ones among these methods alone while fewer than three networks have the rows of
    all, and more have those of the quick ones: so that a page says what it can.
    """
    found = crossed(setting, methods)
    quick = [name for name in methods if name in methods_of(setting, "quick") or not _published(name)]
    fewer = crossed(setting, quick)
    return found if len(found.networks) >= min(SEEDS, len(fewer.networks)) else fewer


def _published(name: str) -> bool:
    return any(entry["published"] for entry in plan()["methods"] if entry["name"] == name)


@cache
def in_float(setting: str) -> dict[str, float]:
    """By network of a setting, its accuracy in float on the images of the plan, in percent."""
    tables = beside(setting, (of["tables"][0] for of in plan()["settings"].values()))
    return {
        row["network"]: row["top1"]
        for row in (row for table in tables for row in rows_of(table))
        if row["weight_bits"] is None and row["activation_bits"] is None
    }
