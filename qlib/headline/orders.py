"""How often the order of two methods turns round, what cards make of it, and what a choice is worth under
each method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from ..cards import catalogue
from ..cards.fields import NOT_REPORTED
from ..choices import choices, same
from ..config import QuantConfig
from ..intervals import around
from ..shares import flip_rate, sure_flip_rate, worth
from .crossing import Cell, Crossing, answers, other_draws, planned_cells, values_of
from .plan import beside, plan


@dataclass(frozen=True)
class Order:
    """Two methods.

    Parameters
    ----------
    a, b : str
        Their names.
    difference, interval
        a minus b in points, over common cells and networks, and its 95 % interval over networks.
    apart, together, drawn
        How often the order turns round when both run under cells drawn independently; under a common cell;
        and under a common cell with other draws for one of the two (``None``: not recorded).
    undrawn
        How often in the cells of ``drawn`` without.
    sure_apart, sure_together
        How often by more than images make by chance.
    """

    a: str
    b: str
    difference: float
    interval: tuple[float, float]
    apart: float
    together: float
    drawn: float | None
    undrawn: float | None
    sure_apart: float
    sure_together: float

    @property
    def certain(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval[0] * self.interval[1] > 0


def flips(crossing: Crossing) -> list[Order]:
    """Every two methods of a crossing."""
    values, other = crossing.values, other_draws(crossing)
    found = []
    for i, j in combinations(range(len(crossing.methods)), 2):
        a, b = values[:, i], values[:, j]
        of_networks = (a - b).mean(1)
        difference = float(of_networks.mean())
        cells = ~np.isnan(other[:, [i, j]]).any((0, 1))  # in which both were drawn anew, of every network
        pairs = ((a, other[:, j]), (other[:, i], b)) if cells.any() else ()
        anew = [flip_rate(x[:, cells], y[:, cells], difference, True) for x, y in pairs]
        drawn = float(np.mean(anew)) if anew else None
        undrawn = flip_rate(a[:, cells], b[:, cells], difference, True) if anew else None
        rates = (flip_rate(a, b, difference, together) for together in (False, True))
        answers_of = crossing.right[:, i], crossing.right[:, j]
        sure = (sure_flip_rate(*answers_of, difference, together) for together in (False, True))
        interval = around(difference, of_networks)
        names = crossing.methods[i], crossing.methods[j]
        found.append(Order(*names, difference, interval, *rates, drawn, undrawn, *sure))
    return found


@dataclass(frozen=True)
class Swapped:
    """A method under its own card.

    Parameters
    ----------
    method : str
        Its name.
    filled
        Accuracy in percent for every way to fill in what its card does not report ``(ways, networks)``.
    common
        Its mean over the cells that all methods have ``(networks,)``.
    """

    method: str
    filled: np.ndarray
    common: np.ndarray

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the most that its mean over networks may be."""
        means = self.filled.mean(1)
        return float(means.min()), float(means.max())


def own_cards(crossing: Crossing) -> list[Swapped]:
    """The methods that have a card in the catalogue, as far as every filling of it is recorded."""
    there = {}
    own = beside(crossing.setting, [plan()["cards"]])
    for table in (*own, *plan()["settings"][crossing.setting]["tables"]):
        there |= answers(crossing.setting, table)
    found = []
    for entry in (entry for entry in plan()["methods"] if "card" in entry):
        method = entry["name"]
        cells = own_cells(crossing.setting, entry)
        keys = [[(network, method, cell) for network in crossing.networks] for cell in cells]
        if method in crossing.methods and keys[0] and all(key in there for some in keys for key in some):
            filled = np.array([[100 * there[key].mean() for key in some] for some in keys])
            common = crossing.values[:, crossing.methods.index(method)].mean(1)
            found.append(Swapped(method, filled, common))
    return found


def own_cells(setting: str, method: Mapping[str, Any]) -> list[Cell]:
    """Every cell of a setting that the card of a method of the plan allows: what it does not report, or
    reports as none of the levels, may have each.
    """
    card = catalogue()[method["card"]]
    columns = [
        column for name in plan()["choices"] for values in values_of(name).values() for column in values
    ]
    said = {c: card["images" if c == "calibration_images" else c] for c in columns} | method.get("reads", {})
    seen = zip(*planned_cells(setting), strict=True)
    levels = [_allowed(name, said, set(of)) for name, of in zip(plan()["choices"], seen, strict=True)]
    return list(product(*levels))


def _allowed(choice: str, said: Mapping[str, Any], seen: set[str]) -> list[str]:
    """The levels of a choice that a card allows, of those that a setting has."""
    words = {name: known.word for name, known in choices(QuantConfig).items()}
    found = []
    for level, values in values_of(choice).items():
        asked = {c: words.get(c) if v is None else v for c, v in values.items()}
        if level in seen and all(said[c] == NOT_REPORTED or same(said[c], v) for c, v in asked.items()):
            found.append(level)
    return found or [level for level in values_of(choice) if level in seen]


def section_5(crossing: Crossing, choice: str) -> dict[str, np.ndarray]:
    """By method, what the first level of a choice of two is worth over the second, in points, one value a
    network.
    """
    levels = list(plan()["choices"][choice]["levels"].values())
    first = np.array([level == levels[0] for level in crossing.levels[choice]])
    found = worth(crossing.values, first)
    return dict(zip(crossing.methods, found.T, strict=True))
