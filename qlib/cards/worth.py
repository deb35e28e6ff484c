"""What a choice was worth on recorded rows, when nothing else changed.

``worth.yaml`` says which rows, ``worths.json`` what they amount to: `qlib.book.worths` writes it from the
tables, so that the package alone, without the book, answers as a clone does.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ..choices import same
from ..comparison import Difference
from .render import shown

BENCHES = ("digits", "cifar10-jpeg", "imagenet")


@dataclass(frozen=True)
class Worth:
    """What a choice was worth when nothing else changed.

    Parameters
    ----------
    field : str
        The choice.
    bench, table : str
        Of the recorded rows.
    a, b
        One of its two values.
    condition : str
        Under which the rows were recorded.
    points : Difference
        The accuracy with ``a`` minus that with ``b``, in points.
    """

    field: str
    bench: str
    table: str
    a: Any
    b: Any
    condition: str
    points: Difference

    def __str__(self) -> str:
        values = " over ".join(shown(self.field, value) for value in (self.a, self.b))
        return f"worth on {self.bench}, {values}, {self.condition}: {self.points} ({self.table})"


def worth(field: str, a: Any, b: Any, bits: Mapping[str, Collection[float]]) -> tuple[Worth, ...]:
    """What ``a`` was worth over ``b`` in a field, on every bench where rows of exactly these two values and
    bits are recorded.

    Parameters
    ----------
    field : str
        Of a card.
    a, b
        Two of its values; of ``float_accuracy`` only the order counts.
    bits : mapping
        Those of ``"weight"`` and of ``"activation"`` at which to look.

    Returns
    -------
    tuple of Worth
        Empty where nothing was measured.
    """
    found = []
    for entry in entries():
        places = _places(entry, field, a, b)
        if places:
            wanted = [(bench, n) for bench in BENCHES for n in bits.get(entry["side"], ())]
            found += [_measured(entry, *places, bench, n) for bench, n in wanted]
    return tuple(w for w in found if w)


def known(field: str, a: Any, b: Any) -> bool:
    """Whether rows of exactly these two values were recorded, at whatever bits."""
    return any(_places(entry, field, a, b) for entry in entries())


def worths(bits: float | None = None) -> tuple[Worth, ...]:
    """For each field its first value over its second on the built-in bench, at those bits at which the choice
    says most or, where given, at ``bits``.
    """
    every = (_measured(entry, 0, 1, BENCHES[0], bits or entry["bits"]) for entry in entries())
    return tuple(w for w in every if w)


def better_network(a: Any, b: Any) -> tuple[Any, Any]:
    """``"better"`` and ``"worse"`` in the place of two float accuracies whose intervals leave no doubt; else
    they as they are.
    """
    x, y = (number(value) for value in (a, b))
    intervals = [value for value in (a, b) if isinstance(value, Mapping) and "top1" in value]
    overlap = len(intervals) == 2 and max(v["low"] for v in intervals) <= min(v["high"] for v in intervals)
    if x is None or y is None or x == y or overlap:
        return a, b
    return ("better", "worse") if x > y else ("worse", "better")


def number(accuracy: Any) -> float | None:
    """An accuracy in percent, if it is one."""
    accuracy = accuracy.get("top1") if isinstance(accuracy, Mapping) else accuracy  # None: another metric
    return accuracy if isinstance(accuracy, (int, float)) else None


@cache
def entries() -> list[dict[str, Any]]:
    """Of ``worth.yaml``, whose first lines say what they hold."""
    return yaml.safe_load(files(__package__).joinpath("worth.yaml").read_text("utf8"))


def _places(entry: Mapping[str, Any], field: str, a: Any, b: Any) -> tuple[int, int] | None:
    """Where among the values of an entry two values stand."""
    if entry["field"] != field:
        return None
    if field == "float_accuracy":
        a, b = better_network(a, b)
    values = [value for value, *_ in entry["values"]]
    places = [next((i for i, v in enumerate(values) if same(v, wanted)), None) for wanted in (a, b)]
    return None if None in places or places[0] == places[1] else (places[0], places[1])


def _measured(entry: Mapping[str, Any], a: int, b: int, bench: str, bits: float) -> Worth | None:
    """Of an entry, its a-th value over its b-th; ``None`` if such rows are not recorded."""
    first, second = sorted((a, b))
    found = _recorded().get((entry["field"], entry["table"], first, second, bench, bits))
    if found is None:  # other bits than were tried
        return None
    points = Difference(found["value"], tuple(found["interval"]), found["n"], seeds=tuple(found["seeds"]))
    values = (entry["values"][place][0] for place in (a, b))
    points = points if a < b else _reversed(points)
    return Worth(entry["field"], bench, entry["table"], *values, found["condition"], points)


def _reversed(points: Difference) -> Difference:
    low, high = points.interval
    seeds = tuple(0.0 - value for value in points.seeds)
    return replace(points, value=0.0 - points.value, interval=(0.0 - high, 0.0 - low), seeds=seeds)


@cache
def _recorded() -> dict[tuple[Any, ...], dict[str, Any]]:
    """By field, table, the places of two values, bench and bits: what the first was worth over the second."""
    known = json.loads(files(__package__).joinpath("worths.json").read_text("utf8"))
    return {
        tuple(record[key] for key in ("field", "table", "a", "b", "bench", "bits")): record
        for record in known
    }
