"""What a method was worth over another on recorded rows, under choices that both had alike.

``methods.json`` is written by `qlib.book.worths` from the tables, so that the package alone, without the
book, answers as a clone does.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


def method_worth(a: str, b: str) -> list[str]:
    """What the method of one card was worth over that of another, in a line a setting; none where it was not
    measured.

    Parameters
    ----------
    a, b : str
        Names of cards.
    """
    found = []
    for record in recorded():
        if {record["a"], record["b"]} == {a, b} and a != b:
            sign = 1 if record["a"] == a else -1
            low, high = sorted(sign * end for end in record["interval"])
            found.append(
                f"{a} over {b}, {record['setting']} on {record['bench']}, all else alike: "
                f"{sign * record['points']:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}, "
                f"{record['networks']} networks, {record['cells']} combinations of choices)"
            )
    return found


@cache
def recorded() -> list[dict[str, Any]]:
    return json.loads(files(__package__).joinpath("methods.json").read_text("utf8"))
