"""Two papers, the same bits, and one choice that neither reports: the front page's figure, and the first of
most lessons.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import yaml

from .. import results
from ..comparison import compare, mean_of
from ..config import QuantConfig
from ..equal_bits import TARGET, at_equal_bits
from ..looks import LOOKS
from ..names import suggestion
from .figure import Figure

BENCH = "digits"


def opening_figure(lesson: str | None = None) -> Figure:
    """From the recorded rows that ``opening`` in ``book/explorer.yaml`` names. It acts without a kernel.

    Parameters
    ----------
    lesson : str, optional
        Whose choice it is about, such as ``"03-skip-and-residual"``; ``None`` for the front page's choices.

    Returns
    -------
    Figure
        With a slider of bits and, where there are several, a list of choices.

    Raises
    ------
    ValueError
        No choice of the file belongs to ``lesson``.
    """
    plan = yaml.safe_load((results.clone() / "book" / "explorer.yaml").read_text("utf8"))["opening"]
    lessons = [entry["lesson"] for entry in plan]
    if lesson is not None and lesson not in lessons:
        raise ValueError(f"no opening in book/explorer.yaml is of {lesson!r}{suggestion(lesson, lessons)}")
    chosen = [entry for entry in plan if entry["lesson"] == lesson or (lesson is None and entry.get("front"))]
    choices = [_choice(entry) for entry in chosen]
    first = choices[0]["points"][0]
    fallback = "".join(
        f"<p>One paper {escape(paper['says'])}: {top1:.1f} %.</p>"
        for paper, (top1, *_) in zip(choices[0]["papers"], first["papers"], strict=True)
    )
    return Figure("opening", {"choices": choices}, fallback)


def _choice(entry: dict[str, Any]) -> dict[str, Any]:
    rows = results.flat_rows(BENCH, entry["table"])
    papers = [{"says": entry[paper]["says"], "colour": LOOKS[entry[paper]["thing"]].colour} for paper in "ab"]
    return {
        "title": entry["title"],
        "of": entry["bits"],
        "same": entry.get("same", "network"),
        "start": entry.get("start", 4),
        "papers": papers,
        "points": [_point(rows, entry, x) for x in entry["values"]],
    }


def _point(rows: list[dict[str, Any]], entry: dict[str, Any], x: float) -> dict[str, Any]:
    wanted = [_with({**entry.get("where", {}), **entry[paper]["where"]}, x) for paper in "ab"]
    if all(TARGET in where for where in wanted):
        equal = at_equal_bits(rows, *wanted)
        if equal is None:
            raise ValueError(f"no rows of {entry['table']} lie around equal bits under {x:g}")
        sides, at = [equal.a, equal.b], str(equal)
        settings = [None]
    else:
        sides = [results.measured(rows, where) for where in wanted]
        at = _in_use(*([row for row in rows if results.fits(row, where)] for where in wanted))
        settings = [_setting(rows, where) for where in wanted]
    difference = compare(*sides)
    means = [mean_of(side) for side in sides]
    return {
        "bits": x,
        "at": at,
        "papers": [[round(number, 3) for number in (m.value, *m.interval)] for m in means],
        "draws": [len(side) for side in sides],
        "n": difference.n,
        "settings": None if None in settings else settings,
        "difference": [round(v, 5) for v in (difference.points, *difference.interval)],
    }


def _setting(rows: list[dict[str, Any]], where: Mapping[str, Any]) -> dict[str, Any] | None:
    """The network and the configuration that rows are of, which the page can measure again: not where bits
    were learned.
    """
    row = next(row for row in rows if results.fits(row, where))
    config = {name: row[name] for name, usual in QuantConfig().to_dict().items() if row[name] != usual}
    return None if row["allocation"] else {"network": row["network"], "config": config}


def _with(where: Any, x: float) -> Any:
    """``where`` with ``x`` in the place of that letter."""
    if isinstance(where, dict):
        return {name: _with(value, x) for name, value in where.items()}
    return x if where == "x" else where


def _in_use(*sides: list[dict[str, Any]]) -> str:
    """The bits in use, where a side has learned ones."""
    used = [[row["average_weight_bits"] for row in side if row[TARGET]] for side in sides]
    said = [
        f"Paper {paper} uses {np.mean(bits):.2f} bits" for paper, bits in zip("AB", used, strict=True) if bits
    ]
    return ", ".join(said)
