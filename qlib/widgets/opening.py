"""The front page's figure: two papers, the same bits, and one choice that neither reports."""

from __future__ import annotations

from html import escape
from typing import Any

import yaml

from .. import results
from ..comparison import compare, mean_of
from ..looks import LOOKS
from .figure import Figure


def opening_figure() -> Figure:
    """From the recorded rows that ``opening`` in ``book/explorer.yaml`` names. It acts without a kernel."""
    plan = yaml.safe_load((results.clone() / "book" / "explorer.yaml").read_text("utf8"))["opening"]
    choices = [_choice(entry) for entry in plan]
    first = choices[0]["points"][0]
    fallback = "".join(
        f"<p>One paper {escape(paper['says'])}: {top1:.1f} %.</p>"
        for paper, (top1, *_) in zip(choices[0]["papers"], first["papers"], strict=True)
    )
    return Figure("opening", {"choices": choices}, fallback)


def _choice(entry: dict[str, Any]) -> dict[str, Any]:
    table = results.load_table(results.table_path("digits", entry["table"]))
    both = [{**entry.get("where", {}), **entry[paper]["where"]} for paper in "ab"]
    points = []
    for bits in sorted({bits for bits in table[entry["x"]] if bits is not None}):
        sides = [results.accuracies(table, **{entry["x"]: bits}, **where) for where in both]
        difference = compare(*sides)
        papers = []
        for side in sides:
            mean = mean_of(side)
            papers.append([round(number, 3) for number in (mean.value, *mean.interval)])
        points.append(
            {
                "bits": bits,
                "papers": papers,
                "draws": [len(side) for side in sides],
                "n": difference.n,
                "difference": [round(v, 3) for v in (difference.points, *difference.interval)],
            }
        )
    kind = "activations" if entry["x"] == "activation_bits" else "weights"
    papers = [{"says": entry[paper]["says"], "colour": LOOKS[entry[paper]["thing"]].colour} for paper in "ab"]
    return {
        "title": entry["title"],
        "of": kind,
        "same": entry.get("same", "network"),
        "papers": papers,
        "points": points,
    }
