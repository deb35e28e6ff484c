"""What recorded rows say of the paper's sentence, in words and tables; what is still missing, too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from ..choices import choices
from ..comparison import SEEDS
from ..config import QuantConfig
from ..intervals import around
from ..shares import Ratio, log_ratio
from .crossing import Crossing, as_recorded, crossed, methods_of, values_of
from .orders import Order, Swapped, flips, own_cards, section_5
from .plan import address, plan, rows_of, runs

HEADS = ["setting", "compared", "choices over methods, variances", "verdict"]
DECISION_HEADS = [*HEADS, "standard deviation of methods, and of choices (points)"]
KIND_HEADS = ["choices over methods", "among those in one pass", "among those that learn", "among all"]
OF_WEIGHTS = "choices that act on weights alone"
NOTHING = "no network has all of its rows yet"


def choice_rows() -> tuple[list[str], list[list[str]]]:
    """Of a table of choices and their levels, heads and rows."""
    rows = []
    for name, of in plan()["choices"].items():
        by_name = isinstance(of["column"], list)  # else by value
        rows.append([name, ", ".join(of["levels"] if by_name else of["levels"].values())])
    return ["choice", "levels"], rows


def missing() -> str:
    """How much of the plan is recorded; empty where all is."""
    counts = {table: (len(rows_of(table)), len(runs(table))) for table in plan()["order"]}
    lacking = [
        f"`{address(table)}` has {there} of {all_}" for table, (there, all_) in counts.items() if there < all_
    ]
    if not lacking:
        return ""
    return f"Rows still to come, or refused: {', '.join(lacking)}. What follows is of those that are there."


def decisions() -> dict[str, tuple[Crossing, Ratio | None]]:
    """By setting, the primary comparison: the rows, and the ratio where a network has all of them."""
    found = {setting: crossed(setting, methods_of(setting)) for setting in plan()["settings"]}
    return {setting: (rows, rows.ratio() if rows.networks else None) for setting, rows in found.items()}


def decision_rows() -> list[list[str]]:
    """Of a table of the primary comparison, the cells below `DECISION_HEADS`."""
    return [
        [setting, _of(rows), said(ratio), _verdict(rows, ratio) if ratio else NOTHING, _moves(rows)]
        for setting, (rows, ratio) in decisions().items()
    ]


def _moves(rows: Crossing) -> str:
    """How far methods and choices move the accuracy: standard deviations of a network, by the mean of
    variances.
    """
    found = rows.shares().values()
    means = (
        [sum(getattr(s, part) for s in found) / len(found) for part in ("method", "choices")] if found else []
    )
    return " and ".join(f"{max(0.0, mean) ** 0.5:.1f}" for mean in means)


def _verdict(rows: Crossing, ratio: Ratio) -> str:
    """The verdict; until all networks of the plan are there, it is not the last word."""
    return f"**{ratio.verdict}**{' so far' if rows.waiting else ''}"


def beside_rows(setting: str) -> list[list[str]]:
    """Of a table of what stands beside the decision, the cells below `HEADS`."""
    return [
        [setting, f"{name}: {_of(rows)}", said(ratio), ratio.verdict]
        for name, rows, ratio in _beside(setting)
    ]


def _beside(setting: str) -> Iterator[tuple[str, Crossing, Ratio]]:
    published = crossed(setting, methods_of(setting))
    others = [("with nearest", "with nearest"), ("quick methods", "quick")]
    for name, which in others:
        rows = crossed(setting, methods_of(setting, which))
        if rows.networks:
            yield name, rows, rows.ratio()
    if published.networks:
        quick, learned = _kinds(published)
        if len(rows.cells) > len(published.cells):
            yield "quick methods on the cells of all", quick, quick.ratio()
        if learned.methods:
            yield "learned rounding alone", learned, learned.ratio()
        yield "clipping is part of the method", published, published.ratio(as_method=["clipping"])
        yield "other images too", published, published.ratio_of_other_images()
        yield "logits", published, published.ratio("logit")
        yield "less the luck of draws", published, published.ratio(less_luck=True)
        largest = _largest(published)
        yield f"without {largest} (moves most)", published, _without(published, largest)
        if _acting_on("activation", published):
            of_weights = _acting_on("weight", published)
            others = [name for name in published.levels if name not in _acting_on("activation", published)]
            yield OF_WEIGHTS, published, _one_by_one(published, of_weights)
            yield "choices that act on weights or on both sides", published, _one_by_one(published, others)


def _kinds(rows: Crossing) -> tuple[Crossing, Crossing]:
    """On the same cells: the methods that are quick, and those that learn how to round."""
    learn = {entry["name"] for entry in plan()["methods"] if entry.get("learns")}
    parts = ([name for name in rows.methods if (name in learn) == kind] for kind in (False, True))
    quick, learned = map(rows.only, parts)
    return quick, learned


def kind_rows() -> list[list[str]]:
    """Of a table of what moves more among methods of one kind, and among those of both, the cells below
    `KIND_HEADS`.
    """
    found = {setting: rows for setting, (rows, _) in decisions().items() if rows.networks}
    return [[setting, *map(_ratio_of, (*_kinds(rows), rows))] for setting, rows in found.items()]


def _ratio_of(rows: Crossing) -> str:
    return f"{len(rows.methods)} methods: {said(rows.ratio())}" if rows.methods else ""


def _acting_on(side: str, rows: Crossing) -> list[str]:
    """The choices that act on one side alone; end layers and images act on both."""
    known = choices(QuantConfig)
    columns = {name: next(iter(values_of(name).values())) for name in rows.levels}
    return [name for name, of in columns.items() if all(c in known and known[c].side == side for c in of)]


def _one_by_one(rows: Crossing, names: Sequence[str]) -> Ratio:
    """The ratio for these choices, one by one."""
    found = {n: (sum(s.one_by_one[name] for name in names), s.method) for n, s in rows.shares().items()}
    return log_ratio(found, plan()["least"])


def _largest(rows: Crossing) -> str:
    """The choice that moves most, over networks."""
    found = rows.shares().values()
    return max(rows.levels, key=lambda name: sum(s.one_by_one[name] for s in found))


def _without(rows: Crossing, choice: str) -> Ratio:
    """The ratio as if a choice had one level."""
    found = {n: (s.choices - s.one_by_one[choice], s.method) for n, s in rows.shares().items()}
    return log_ratio(found, plan()["least"])


def said(ratio: Ratio | None) -> str:
    """A ratio of variances, with its interval over networks."""
    if ratio is None:
        return ""
    low, high = map(math.exp, ratio.interval)
    least = f"; one of the two is next to nothing in {', '.join(ratio.least)}" if ratio.least else ""
    of = f"{len(ratio.networks)} network{'s' * (len(ratio.networks) > 1)}"
    if len(ratio.networks) < SEEDS:
        few = "decides" if len(ratio.networks) == 1 else "decide"
        return f"{_number(math.exp(ratio.value))} ({of}, which {few} nothing{least})"
    return f"{_number(math.exp(ratio.value))} ({_number(low)} to {_number(high)}, {of}{least})"


def _number(times: float) -> str:
    """Of two digits; of three next to 1, on which a verdict hangs."""
    short = f"{times:.0f}" if times >= 10 else f"{times:.2g}"
    return f"{times:.2f}" if short == "1" else short


def _of(rows: Crossing) -> str:
    refused = f", {len(rows.refused)} runs refused" if rows.refused else ""
    return f"{len(rows.methods)} methods, {len(rows.cells)} cells{refused}"


def outcome() -> str:
    """The paper's sentence, judged, in one line."""
    found = {setting: pair for setting, pair in decisions().items() if pair[1]}
    if not found:
        return "The sentence is not judged yet: no network has all of the rows that the plan asks for."
    parts = [
        f"{_verdict(rows, ratio)} at {setting}: {said(ratio)}{_aside(rows)}"
        for setting, (rows, ratio) in found.items()
    ]
    waiting = [setting for setting in plan()["settings"] if setting not in found]
    more = f" Still to come: {', '.join(waiting)}." if waiting else ""
    return (
        '"Tradeoffs may have a larger impact than methods", judged by the variance of choices over that of '
        f"published methods: {'; '.join(parts)}.{more}"
    )


def _aside(rows: Crossing) -> str:
    """What belongs beside a verdict where choices of activations vary: all methods here round weights."""
    if not _acting_on("activation", rows):
        return ""
    return f", but for {OF_WEIGHTS} {said(_one_by_one(rows, _acting_on('weight', rows)))}"


def beside_sentence(setting: str) -> str:
    """To which verdict every other way of looking at a setting comes; none of them decides."""
    found: dict[str, list[str]] = {}
    for name, _, ratio in _beside(setting):
        found.setdefault(ratio.verdict, []).append(name)
    parts = [f"*{verdict}*: {', '.join(names)}" for verdict, names in found.items()]
    return f"{setting}, beside the decision: {'; '.join(parts)}."


def shares_of(rows: Crossing, scale: str = "points") -> dict[str, np.ndarray]:
    """By part (method, choices, interaction) and by choice, its share of the variance, one a network."""
    every = list(rows.shares(scale).values())
    parts = {name: [getattr(s, name) for s in every] for name in ("method", "choices", "interaction")}
    parts |= {name: [s.one_by_one[name] for s in every] for name in rows.levels}
    total = np.array([s.total for s in every])
    return {name: np.array(values) / total for name, values in parts.items()}


def flip_rates(orders: Sequence[Order]) -> dict[str, float | None]:
    """Means over the pairs whose order is certain: under cells drawn apart, under one cell, and with other
    draws, of those pairs that have such; of the first two, how often by more than images make by chance.
    ``None`` where there is none.
    """
    sure = [order for order in orders if order.certain]
    found = {}
    for kind in ("apart", "together", "drawn", "undrawn", "sure_apart", "sure_together"):
        values = [value for order in sure if (value := getattr(order, kind)) is not None]
        found[kind] = float(np.mean(values)) if values else None
    return found


def flip_sentence(rows: Crossing) -> str:
    """How often the order of two published methods turns round."""
    if len(rows.networks) < SEEDS:
        return (
            f"{rows.setting}: fewer than {SEEDS} networks have all of their rows, so no order is certain yet."
        )
    orders = flips(rows)
    sure = sum(order.certain for order in orders)
    rates = flip_rates(orders)
    of = f"Of {len(orders)} pairs, {sure} have an order that is certain over {len(rows.networks)} networks."
    if not sure:
        return f"{rows.setting}: {of}"
    drawn = ""
    if rates["drawn"] is not None:
        there = sum(order.certain and order.drawn is not None for order in orders)
        of_few = f"of {there} pairs, " if there < sure else ""
        drawn = (
            f", with another draw for one of the two in {rates['drawn']:.0%} ({of_few}in the cells drawn "
            f"anew; {rates['undrawn']:.0%} without)"
        )
    return (
        f"{rows.setting}: {of} Where two papers pick their choices independently, it turns round in "
        f"**{rates['apart']:.0%}** of cases, under the same choices in {rates['together']:.0%}{drawn}. By "
        f"more than images make by chance it does so in {rates['sure_apart']:.0%} and "
        f"{rates['sure_together']:.0%}."
    )


def swap_rows(rows: Crossing) -> list[list[str]]:
    """A line for every two methods that have a card: a minus b when all are alike, and the bounds that their
    own cards leave, in points.
    """
    found = own_cards(rows)
    return [_swap(a, b) for a, b in combinations(found, 2)]


def _swap(a: Swapped, b: Swapped) -> list[str]:
    alike = a.common - b.common
    (a_low, a_high), (b_low, b_high) = a.bounds, b.bounds
    least, most = a_low - b_high, a_high - b_low
    low, high = around(float(alike.mean()), alike) if len(alike) >= SEEDS else (0.0, 0.0)
    same = "as alike" if least * alike.mean() > 0 else "turned round"
    order = same if least * most > 0 else "left open"
    order = order if low * high > 0 else "not certain when all are alike"
    return [
        f"{a.method} minus {b.method}",
        _over(alike),
        f"{least:+.1f}" if least == most else f"{least:+.1f} to {most:+.1f}",
        order,
    ]


def worth_rows(rows: Crossing, choice: str) -> list[list[str]]:
    """A line a method: what the first level of a choice is worth over the second, and how that differs from
    rounding to nearest, with intervals over networks.
    """
    found = section_5(rows, choice)
    return [
        [name, _over(values), _over(values - found["nearest"])]
        for name, values in found.items()
        if name != "nearest"
    ]


def _over(values: np.ndarray) -> str:
    if len(values) < SEEDS:
        return f"{values.mean():+.2f} ({len(values)} of {SEEDS} networks that an interval needs)"
    low, high = around(float(values.mean()), values)
    return f"{values.mean():+.2f} ({low:+.2f} to {high:+.2f})"


def shown(which: str = "with nearest") -> Mapping[str, Crossing]:
    """By setting that has a network, as many methods as are recorded."""
    found = {setting: as_recorded(setting, methods_of(setting, which)) for setting in plan()["settings"]}
    return {setting: rows for setting, rows in found.items() if rows.networks}
