"""Where the recorded rows come from: processors, versions, and sessions with uncommitted changes."""

from __future__ import annotations

from collections import Counter
from typing import Any

from qlib import results
from qlib.book import ROOT

DIRTY = "with local changes"


def sessions() -> list[tuple[str, dict[str, Any]]]:
    """Every recording session of every table, ``<bench>/<table>`` first."""
    folder = ROOT / "book" / "results"
    paths = sorted(folder.glob("*/*.csv"))
    return [(f"{p.parent.name}/{p.stem}", session) for p in paths for session in results.provenance(p)]


def as_markdown() -> str:
    found = [session for _, session in sessions()]
    counts = Counter((_machine(session), session["torch"]) for session in found)
    dirty = Counter(
        (table, s["date"][:10], s["commit"].split()[0][:12])
        for table, s in sessions()
        if DIRTY in s["commit"]
    )
    mixed = [
        table
        for table in dict.fromkeys(table for table, _ in sessions())
        if len({(_machine(s), s["torch"]) for t, s in sessions() if t == table}) > 1
    ]
    return "\n".join(
        [
            f"{len(found)} sessions recorded the tables, {dirty.total()} of them from a working tree with "
            "uncommitted changes: their code is not exactly that of the commit that they name. Sessions of "
            f"one table ran on unlike machines or versions in {len(mixed)} "
            f"{'table' if len(mixed) == 1 else 'tables'}{': ' + ', '.join(mixed) if mixed else ''}.",
            "",
            "| machine | torch | sessions |",
            "| --- | --- | --- |",
            *(f"| {machine} | {torch} | {n} |" for (machine, torch), n in counts.most_common()),
            "",
            "````{dropdown} Sessions with uncommitted changes",
            "| table | date | commit | sessions |",
            "| --- | --- | --- | --- |",
            *(f"| {table} | {date} | `{commit}` | {n} |" for (table, date, commit), n in dirty.items()),
            "````",
        ]
    )


def _machine(session: dict[str, Any]) -> str:
    processor = session["hardware"].partition(",")[0]
    return f"{processor} with {session['device']}" if session.get("device") else processor
