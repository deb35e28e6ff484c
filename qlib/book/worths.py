"""What choices were worth, from the recorded tables into the package: ``python -m qlib.book.worths`` after
rows were recorded, or ``qlib/cards/worth.yaml`` was changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

from qlib import headline, results
from qlib.cards import catalogue
from qlib.cards.worth import BENCHES, entries
from qlib.comparison import SEEDS, compare
from qlib.equal_bits import TARGET, at_equal_bits
from qlib.files import write_whole

PATH = Path(str(files("qlib.cards"))) / "worths.json"
METHODS = PATH.with_name("methods.json")
USUAL = {"metric": "top1", "method": "nearest"}


def as_json() -> str:
    """All records, a line each."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records())
    return f"[\n{lines}\n]\n"


def methods_as_json() -> str:
    """What methods of the catalogue were worth over one another, a line each."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in method_records())
    return f"[\n{lines}\n]\n" if lines else "[]\n"


def method_records() -> Iterator[dict[str, Any]]:
    """For every two methods of the catalogue that were crossed with choices, at every setting that three
    networks have: what the first was worth over the second.
    """
    cards = {m["name"]: catalogue()[m["card"]].name for m in headline.plan()["methods"] if "card" in m}
    for setting in headline.plan()["settings"]:
        rows = headline.as_recorded(setting, headline.methods_of(setting))
        for order in headline.flips(rows) if len(rows.networks) >= SEEDS else ():
            if order.a in cards and order.b in cards:
                yield {
                    "a": cards[order.a],
                    "b": cards[order.b],
                    "bench": headline.bench_of(setting),
                    "setting": setting,
                    "points": round(order.difference, 4),
                    "interval": [round(end, 4) for end in order.interval],
                    "networks": len(rows.networks),
                    "cells": len(rows.cells),
                }


def records() -> Iterator[dict[str, Any]]:
    """For every two values of an entry of ``worth.yaml``, on every bench, at all bits at which rows of both
    are recorded: what the first was worth over the second.
    """
    for entry in entries():
        for bench in BENCHES:
            for a, b in combinations(range(len(entry["values"])), 2):
                for bits in _bits(entry, bench):
                    found = measured(entry, a, b, bench, bits)
                    if found is not None:
                        about = {"field": entry["field"], "table": entry["table"], "a": a, "b": b}
                        yield {**about, "bench": bench, "bits": bits, **found}


def measured(entry: Mapping[str, Any], a: int, b: int, bench: str, bits: float) -> dict[str, Any] | None:
    """Of an entry, its a-th value over its b-th; ``None`` if such rows are not recorded."""
    wanted = [
        {**USUAL, **{name: bits if value == "bits" else value for name, value in where.items()}}
        for where in (_where(entry, place) for place in (a, b))
    ]
    rows = _rows(bench, entry["table"])
    condition = entry["condition"].format(bits=bits)
    if all(TARGET in where for where in wanted):
        found = at_equal_bits(rows, *wanted)
        sides = [found.a, found.b] if found else [[]]
        condition += f", {found}"
    else:
        pair = ([row for row in rows if results.fits(row, where)] for where in wanted)
        sides = [results.measurements_of(side) for side in results.of_common_seeds(*pair)]
    if not all(sides):
        return None
    points = compare(*sides)
    of = {
        "value": points.value,
        "interval": list(points.interval),
        "n": points.n,
        "seeds": list(points.seeds),
    }
    return {"condition": condition, **of}


def _where(entry: Mapping[str, Any], place: int) -> dict[str, Any]:
    """What rows of a value have."""
    value, *own = entry["values"][place]
    return {**entry.get("where", {}), **(own[0] if own else {entry["field"]: value})}


def _bits(entry: Mapping[str, Any], bench: str) -> list[float]:
    """All that rows have where the entry speaks of bits."""
    wheres = [_where(entry, place) for place in range(len(entry["values"]))]
    names = {name for where in wheres for name, value in where.items() if value == "bits"}
    found = {row.get(name) for row in _rows(bench, entry["table"]) for name in names}
    return sorted(bits for bits in found if isinstance(bits, (int, float)))


@cache
def _rows(bench: str, table: str) -> list[dict[str, Any]]:
    """None where there is no such table."""
    try:
        return results.flat_rows(bench, table)
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    write_whole(PATH, as_json())
    write_whole(METHODS, methods_as_json())
    print(f"wrote {PATH} and {METHODS}")
