"""What two cards differ in, which observation speaks about each choice, and what it was worth on the recorded
bench.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ..evaluation import Difference, compare
from .card import CATEGORY_OF, FIELDS, NOT_REPORTED, SCHEMA, QuantizationCard
from .render import shown
from .schema import same


@dataclass(frozen=True)
class Worth:
    """What a choice was worth when nothing else changed: the accuracy with ``a`` minus that with ``b``, in
    points, on recorded rows of ``table`` under ``condition``.
    """

    field: str
    table: str
    a: Any
    b: Any
    condition: str
    points: Difference

    def __str__(self) -> str:
        values = " over ".join(shown(self.field, value) for value in (self.a, self.b))
        return f"worth on our bench, {values}, {self.condition}: {self.points} ({self.table})"


@dataclass(frozen=True)
class Choice:
    """One field in which two cards differ, or that one of them does not report (``confound``): then nobody
    can say.
    """

    field: str
    a: Any
    b: Any
    worth: tuple[Worth, ...] = ()

    @property
    def confound(self) -> bool:
        return NOT_REPORTED in (self.a, self.b)

    @property
    def category(self) -> str:
        return SCHEMA["properties"][CATEGORY_OF[self.field]]["title"]

    @property
    def observation(self) -> int | None:
        """The number of the paper's observation about this choice."""
        return FIELDS[self.field].get("observation")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        worth = [
            {
                "a": w.a,
                "b": w.b,
                "condition": w.condition,
                "table": w.table,
                "points": w.points.points,
                "low": w.points.interval[0],
                "high": w.points.interval[1],
                "n": w.points.n,
            }
            for w in self.worth
        ]
        return {
            "field": self.field,
            "category": self.category,
            "observation": self.observation,
            "a": self.a,
            "b": self.b,
            "confound": self.confound,
            "worth": worth,
        }

    def __str__(self) -> str:
        about = f", observation {self.observation}" if self.observation else ""
        values = " | ".join(shown(self.field, value) for value in (self.a, self.b))
        line = f"{FIELDS[self.field]['title']}: {values}  ({self.category}{about})"
        return "\n".join([line, *(f"    {worth}" for worth in self.worth)])


def differences(a: QuantizationCard, b: QuantizationCard, measure: bool = True) -> list[Choice]:
    """The design choices in which the cards differ, reported ones first, then those that either card leaves
    open. What follows from choices (sizes, times, accuracies) is not among them, nor what does not act on
    either card (`QuantizationCard.acts`).

    ``measure``: look up what each was worth in the recorded results, if they are at hand (in a clone)."""
    names = [
        name for name, field in FIELDS.items() if not field.get("outcome") and (a.acts(name) or b.acts(name))
    ]
    bits = {
        side: a[side]
        for side in ("weight_bits", "activation_bits")
        if isinstance(a[side], int) and a[side] == b[side]
    }
    alike = (
        a["dataset"] == b["dataset"]
    )  # accuracies on two data sets do not say which network is the better one
    found = [
        Choice(
            name,
            a[name],
            b[name],
            worth(name, a[name], b[name], bits) if measure and (alike or name != "float_accuracy") else (),
        )
        for name in names
        if a[name] != b[name] or NOT_REPORTED in (a[name], b[name])
    ]
    return sorted(found, key=lambda choice: choice.confound)


def gap(a: QuantizationCard, b: QuantizationCard) -> float | None:
    """Accuracy of ``a`` minus that of ``b`` in points, where both report a number."""
    both = [_number(card["accuracy"]) for card in (a, b)]
    return None if None in both else both[0] - both[1]


def report(a: QuantizationCard, b: QuantizationCard, found: Iterable[Choice]) -> str:
    """`differences` for a terminal."""
    found = list(found)
    apart = gap(a, b)
    lines = [f"{a.name} | {b.name}" + ("" if apart is None else f": {_apart(apart, found)}")]
    if apart is not None:
        lines.append(
            f"{FIELDS['accuracy']['title']}: {shown('accuracy', a['accuracy'])} | "
            f"{shown('accuracy', b['accuracy'])}"
        )
    for title, part in (
        ("They differ in", [c for c in found if not c.confound]),
        ("Not reported on one side or both, so possible confounds", [c for c in found if c.confound]),
    ):
        if part:
            lines += ["", f"{title}:", *(f"  {line}" for choice in part for line in str(choice).splitlines())]
    text = "\n".join(lines)
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def _apart(points: float, found: Iterable[Choice]) -> str:
    """How far apart, and the choice that alone was surely worth most."""
    line = f"{abs(points):.1f} points apart"
    ends = {}
    for worth in (
        w for choice in found for w in choice.worth if w.points.interval[0] * w.points.interval[1] > 0
    ):
        ends[worth] = sorted(abs(end) for end in worth.points.interval)
    if not ends:
        return line
    most = max(ends, key=lambda w: abs(w.points.points))
    link, way = ("of which", "") if most.points.points * points > 0 else ("although", " the other way")
    worth = f"{abs(most.points.points):.1f}{way} on our bench ({ends[most][0]:.1f} to {ends[most][1]:.1f})"
    return f"{line}, {link} {FIELDS[most.field]['title'].lower()} alone was worth {worth}"


def worth(field: str, a: Any, b: Any, bits: Mapping[str, int] | None = None) -> tuple[Worth, ...]:
    """What ``a`` was worth over ``b`` in a field, wherever rows of exactly these two values are recorded
    (``worth.yaml``).

    ``bits``: the ``weight_bits`` or ``activation_bits`` at which to look, where rows with them are
    recorded.
    """
    if field == "float_accuracy":
        a, b = _order(a, b)
    found = []
    for i, entry in enumerate(_entries()):
        places = [
            next((i for i, (value, *_) in enumerate(entry["values"]) if same(value, wanted)), None)
            for wanted in (a, b)
        ]
        if entry["field"] == field and None not in places and places[0] != places[1]:
            wanted = tuple(
                (side, n)
                for side, n in (bits or {}).items()
                if side in entry.get("where", {}) and side != field
            )
            found.append((wanted and _measured(i, *places, wanted)) or _measured(i, *places))
    return tuple(w for w in found if w)


def worths() -> tuple[Worth, ...]:
    """For each field of ``worth.yaml``, its first value over its second; empty where there is no clone with
    results.
    """
    return tuple(w for w in (_measured(i, 0, 1) for i in range(len(_entries()))) if w)


@cache
def _entries() -> list[dict[str, Any]]:
    return yaml.safe_load(files(__package__).joinpath("worth.yaml").read_text("utf8"))


@cache
def _measured(i: int, a: int, b: int, bits: tuple[tuple[str, int], ...] = ()) -> Worth | None:
    """Of the i-th entry, its a-th value over its b-th; ``None`` if such rows are not recorded."""
    from .. import results

    entry = _entries()[i]
    field = entry["field"]
    name = entry["table"]
    condition = entry["condition"]
    where = dict(entry.get("where", {}))
    for side, n in bits:
        condition = condition.replace(f"{where[side]}-bit", f"{n}-bit")
        where[side] = n
    try:
        rows = [
            {**row, **(row["allocation"] or {})}
            for row in results.load_rows(results.table_path(*name.split("/")))
        ]
    except (FileNotFoundError, ValueError):  # the package alone, without the book
        return None
    values = [entry["values"][place] for place in (a, b)]
    wanted = [{**where, **(own[0] if own else {field: value})} for value, *own in values]
    sides = [
        [results.accuracy_of(row) for row in rows if all(row.get(name) == v for name, v in choices.items())]
        for choices in wanted
    ]
    if not all(sides):  # other bits than were tried
        return None
    return Worth(field, name, *(value for value, *_ in values), condition, compare(*sides))


def _order(a: Any, b: Any) -> tuple[Any, Any]:
    """Which of two accuracies is the better one, where their intervals leave no doubt; else as they are."""
    x, y = (_number(value) for value in (a, b))
    known = [value for value in (a, b) if isinstance(value, Mapping)]
    overlap = len(known) == 2 and max(v["low"] for v in known) <= min(v["high"] for v in known)
    return (
        (a, b)
        if x is None or y is None or x == y or overlap
        else ("better", "worse")
        if x > y
        else ("worse", "better")
    )


def _number(accuracy: Any) -> float | None:
    accuracy = accuracy["top1"] if isinstance(accuracy, Mapping) else accuracy
    return accuracy if isinstance(accuracy, (int, float)) else None
