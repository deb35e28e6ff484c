"""What two cards differ in, which observation speaks about each choice, and what it was worth on the recorded bench."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ..evaluate import Difference, compare
from .card import CATEGORY_OF, FIELDS, NOT_REPORTED, SCHEMA, QuantizationCard
from .render import shown


@dataclass(frozen=True)
class Worth:
    """What a choice was worth when nothing else changed: ``better`` minus ``worse``, in points, on recorded rows of ``table``."""

    field: str
    table: str
    better: str
    worse: str
    condition: str
    points: Difference

    def __str__(self) -> str:
        return f"{self.better} over {self.worse}, {self.condition}: {self.points} ({self.table})"


@dataclass(frozen=True)
class Choice:
    """One field in which two cards differ, or that one of them does not report (``confound``): then nobody can say."""

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
        worth = [{"better": w.better, "worse": w.worse, "condition": w.condition, "table": w.table, "points": w.points.points,
                  "low": w.points.interval[0], "high": w.points.interval[1], "n": w.points.n} for w in self.worth]  # fmt: skip
        return {"field": self.field, "category": self.category, "observation": self.observation, "a": self.a, "b": self.b,
                "confound": self.confound, "worth": worth}  # fmt: skip

    def __str__(self) -> str:
        about = f", observation {self.observation}" if self.observation else ""
        values = " | ".join(shown(self.field, value) for value in (self.a, self.b))
        line = f"{FIELDS[self.field]['title']}: {values}  ({self.category}{about})"
        return "\n".join([line, *(f"    {worth}" for worth in self.worth)])


def differences(a: QuantizationCard, b: QuantizationCard, measure: bool = True) -> list[Choice]:
    """The design choices in which the cards differ, reported ones first, then those that either card leaves open. What follows
    from choices (sizes, times, accuracies) is not among them.

    ``measure``: look up what each was worth in the recorded results, if they are at hand (in a clone)."""
    found = [Choice(name, a[name], b[name]) for name, field in FIELDS.items()
             if not field.get("outcome") and (a[name] != b[name] or NOT_REPORTED in (a[name], b[name]))]  # fmt: skip
    if measure:
        known = worths()
        found = [Choice(c.field, c.a, c.b, tuple(w for w in known if w.field == c.field)) for c in found]
    return sorted(found, key=lambda choice: choice.confound)


def gap(a: QuantizationCard, b: QuantizationCard) -> float | None:
    """Accuracy of ``a`` minus that of ``b`` in points, where both report a number."""
    both = [card["accuracy"]["top1"] if isinstance(card["accuracy"], Mapping) else card["accuracy"] for card in (a, b)]
    return both[0] - both[1] if all(isinstance(value, (int, float)) for value in both) else None


def report(a: QuantizationCard, b: QuantizationCard, found: Iterable[Choice]) -> str:
    """`differences` for a terminal."""
    found, apart = list(found), gap(a, b)
    lines = [f"{a.name} | {b.name}" + ("" if apart is None else f": {abs(apart):.1f} points apart")]
    for title, part in (("They differ in", [c for c in found if not c.confound]),
                        ("Not reported on one side or both, so possible confounds", [c for c in found if c.confound])):
        if part:
            lines += ["", f"{title}:", *(f"  {line}" for choice in part for line in str(choice).splitlines())]
    text = "\n".join(lines)
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


@cache
def worths() -> tuple[Worth, ...]:
    """Every comparison of ``worth.yaml``, from recorded rows; empty where there is no clone with results."""
    from .. import results

    try:
        results.clone()
    except FileNotFoundError:
        return ()
    found = []
    for entry in yaml.safe_load(files(__package__).joinpath("worth.yaml").read_text("utf8")):
        bench, name = entry["table"].split("/")
        path = results.table_path(bench, name)
        if path.exists():
            table = results.with_allocation(results.load_table(path))
            sides = [results.accuracies(table, **entry.get("where", {}), **entry[side]) for side in ("better", "worse")]
            found.append(Worth(entry["field"], entry["table"], entry["names"][0], entry["names"][1], entry["condition"],
                               compare(*sides)))  # fmt: skip
    return tuple(found)
