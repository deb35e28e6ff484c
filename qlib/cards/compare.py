"""What two cards differ in, which observation speaks about each choice, and what it was worth on the recorded
bench.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ..choices import same
from ..comparison import Difference, compare
from .fields import NOT_REPORTED, PLAIN, Card, Fields
from .render import shown

DECIDED = ("holds", "does not hold")


@dataclass(frozen=True)
class Worth:
    """What a choice was worth when nothing else changed.

    Parameters
    ----------
    field : str
        The choice.
    table : str
        Of recorded rows.
    a, b
        One of its two values.
    condition : str
        Under which the rows were recorded.
    points : Difference
        The accuracy with ``a`` minus that with ``b``, in points.
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

    Parameters
    ----------
    field : str
        Its name.
    a, b
        Its value on the first card, on the second.
    worth : tuple of Worth
        What it was worth on recorded rows.
    fields : Fields
        Among which it is.
    """

    field: str
    a: Any
    b: Any
    worth: tuple[Worth, ...] = ()
    fields: Fields = dataclasses.field(default=PLAIN, repr=False, compare=False)

    @property
    def confound(self) -> bool:
        return NOT_REPORTED in (self.a, self.b)

    @property
    def category(self) -> str:
        return self.fields.heading(self.fields.category_of[self.field])

    @property
    def observation(self) -> int | None:
        """The number of the paper's observation about this choice."""
        return self.fields[self.field].get("observation")

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
        values = " | ".join(shown(self.field, value, self.fields) for value in (self.a, self.b))
        line = f"{self.fields[self.field]['title']}: {values}  ({self.category}{about})"
        return "\n".join([line, *(f"    {worth}" for worth in self.worth)])


def union(*cards: Card) -> dict[str, Fields]:
    """The names of all fields that any of the cards has, category by category, each with the fields of the
    first card that has it.
    """
    found: dict[str, Fields] = {}
    for card in cards:
        found |= {name: card.fields for name in card.fields if name not in found}
    order = list(PLAIN.categories)
    return dict(sorted(found.items(), key=lambda item: order.index(item[1].category_of[item[0]])))


def value(card: Card, name: str) -> Any:
    """What a card says in a field, which it may not have."""
    return card[name] if name in card.fields else NOT_REPORTED


def acts(card: Card, name: str) -> bool:
    """Whether a field means anything on a card, which may not have it."""
    return name in card.fields and card.acts(name)


def differences(a: Card, b: Card, measure: bool = True) -> list[Choice]:
    """The design choices in which the cards differ, reported ones first, then those that either card leaves
    open. What follows from choices (sizes, times, accuracies) is not among them, nor what does not act on
    either card (`QuantizationCard.acts`).

    ``measure``: look up what each was worth in the recorded results, if they are at hand (in a clone)."""
    known = {
        name: fields
        for name, fields in union(a, b).items()
        if not fields[name].get("outcome") and (acts(a, name) or acts(b, name))
    }
    bits = {
        side: a[side]
        for side in ("weight_bits", "activation_bits")
        if isinstance(a[side], int) and a[side] == b[side]
    }
    alike = a["dataset"] == b["dataset"]  # or else accuracies do not say which network is the better one
    found = []
    for name, fields in known.items():
        both = (value(a, name), value(b, name))
        if not same(*both) or NOT_REPORTED in both:
            measured = measure and (alike or name != "float_accuracy")
            found.append(Choice(name, *both, worth(name, *both, bits) if measured else (), fields))
    return sorted(found, key=lambda choice: choice.confound)


def gap(a: Card, b: Card) -> float | None:
    """Accuracy of ``a`` minus that of ``b`` in points, where both report a number in percent."""
    both = [_number(card["accuracy"]) for card in (a, b)]
    return None if None in both else both[0] - both[1]


def report(a: Card, b: Card, found: Iterable[Choice]) -> str:
    """`differences` for a terminal."""
    found = list(found)
    apart = gap(a, b)
    lines = [f"{a.name} | {b.name}" + ("" if apart is None else f": {_apart(apart, found)}")]
    if apart is not None:
        lines.append(
            f"{PLAIN['accuracy']['title']}: {shown('accuracy', a['accuracy'])} | "
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
    """How far apart, and the choice that alone was surely worth most; fewer than three seeds leave no choice
    sure.
    """
    line = f"{abs(points):.1f} points apart"
    ends = {}
    for worth in (w for choice in found for w in choice.worth if w.points.verdict() in DECIDED):
        ends[worth] = sorted(abs(end) for end in worth.points.interval)
    if not ends:
        return line
    most = max(ends, key=lambda w: abs(w.points.points))
    link, way = ("of which", "") if most.points.points * points > 0 else ("although", " the other way")
    worth = f"{abs(most.points.points):.1f}{way} on our bench ({ends[most][0]:.1f} to {ends[most][1]:.1f})"
    return f"{line}, {link} {PLAIN[most.field]['title'].lower()} alone was worth {worth}"


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
    usual = {"metric": "top1", "method": "nearest"}
    wanted = [{**usual, **where, **(own[0] if own else {field: value})} for value, *own in values]
    sides = [
        [results.accuracy_of(row) for row in rows if all(same(row.get(n), v) for n, v in choices.items())]
        for choices in wanted
    ]
    if not all(sides):  # other bits than were tried
        return None
    return Worth(field, name, *(value for value, *_ in values), condition, compare(*sides))


def _order(a: Any, b: Any) -> tuple[Any, Any]:
    """Which of two accuracies is the better one, where their intervals leave no doubt; else as they are."""
    x, y = (_number(value) for value in (a, b))
    known = [value for value in (a, b) if isinstance(value, Mapping) and "top1" in value]
    overlap = len(known) == 2 and max(v["low"] for v in known) <= min(v["high"] for v in known)
    return (
        (a, b)
        if x is None or y is None or x == y or overlap
        else ("better", "worse")
        if x > y
        else ("worse", "better")
    )


def _number(accuracy: Any) -> float | None:
    accuracy = accuracy.get("top1") if isinstance(accuracy, Mapping) else accuracy  # None: another metric
    return accuracy if isinstance(accuracy, (int, float)) else None
