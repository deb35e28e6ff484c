"""The evidence at a glance: every claim on every bench, with its interval, coloured by verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from ..comparison import VERDICTS, Difference
from ..looks import LOOKS
from .figure import Figure


def forest(rows: Iterable[Mapping[str, Any]]) -> Figure:
    """A forest plot, in which a reader points at a row to see what stands behind it.

    Parameters
    ----------
    rows : iterable of mappings
        Of one claim and bench each, those of a claim together: ``difference`` (`Difference`, in points) and
        ``verdict``; ``networks``, by network its points and verdict; in words ``group``, ``claim``,
        ``paper``, ``bench``, ``said`` (the difference), ``holds_in`` (of how many networks), ``about``,
        ``table`` and ``lesson`` (a page in ``notebooks/``); in points, or ``None``, ``paper_points``,
        ``band`` (half of the band in which a claim of no difference holds) and ``by`` (how much better one
        side is claimed to be).

    Returns
    -------
    Figure
        Acts without a kernel.
    """
    rows = list(rows)
    state = [{**row, "difference": _numbers(row["difference"])} for row in rows]
    looks = {verdict: LOOKS[verdict].colour for verdict in VERDICTS}
    fallback = "".join(
        f"<li>{escape(row['claim'])}, {escape(row['bench'])}: {escape(row['said'])}, "
        f"{escape(row['verdict'])}; holds in {escape(row['holds_in'])} networks</li>"
        for row in rows
    )
    return Figure("forest", {"rows": state, "looks": looks}, f"<ul>{fallback}</ul>")


def _numbers(difference: Difference) -> dict[str, Any]:
    return {
        "points": round(difference.points, 3),
        "low": round(difference.interval[0], 3),
        "high": round(difference.interval[1], 3),
        "seeds": [round(points, 3) for points in difference.seeds],
    }
