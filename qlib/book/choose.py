"""What a choice was worth here, for the pages that lead from a reader's question to a choice. The marks are

``<!-- worth: FIELD -->``
    the field's first value over its second on the recorded rows of ``qlib/cards/worth.yaml``
``<!-- points: FIELD -->``
    the same in whole points, with its condition but not its interval, for running text
``<!-- claim: WORDS -->``
    the claim of ``book/evidence.yaml`` that begins with these words, on every bench
``<!-- ratio: WORDS -->``, ``<!-- correlation: WORDS -->``
    the claim of ``book/ratios.yaml`` or ``book/correlations.yaml`` that begins with these words
``<!-- time: NAME -->``
    how often as long networks take with a choice of `qlib.kernels.grid.NAMED` as with all in codes
``<!-- worth: all at 4 bits -->``
    a table of all fields at these bits, the most valuable first
"""

import re
from typing import Any

from qlib.book import correlations, cost_statements, evidence, ratios
from qlib.cards import FIELDS
from qlib.cards.render import shown
from qlib.cards.worth import Worth, worths
from qlib.kernels.costs import costs, tables
from qlib.kernels.grid import NAMED

MARK = re.compile(r"<!-- (worth|points|claim|ratio|correlation|time): (.+?) -->")


def fill(text: str) -> str:
    """``text`` with every mark replaced. A field or a claim that has no recorded rows is an error."""
    return MARK.sub(lambda match: KINDS[match.group(1)](match.group(2)), text)


def _time(name: str) -> str:
    found = costs(tables(), NAMED[name], {})
    if not found:
        return "a time that is not recorded yet"
    busy = " (timed while other programs ran)" if any(cost.busy for cost in found) else ""
    where = "ONNX Runtime, one thread of an x86 processor, one image"
    return f"**{cost_statements.spread(found)}** times as long as all in codes ({where}){busy}"


def _worth(field: str) -> str:
    at = re.fullmatch(r"all at (\d+) bits", field)
    return _table(int(at[1])) if at else _sentence(_recorded(field))


def _points(field: str) -> str:
    worth = _recorded(field)
    only = ", images only" if worth.points.images_only else ""
    return f"{worth.points.points:.0f} points ({worth.condition}{only})"


def _recorded(field: str) -> Worth:
    found = [worth for worth in worths() if worth.field == field]
    if not found:
        raise ValueError(f"no entry of qlib/cards/worth.yaml with recorded rows is about {field!r}")
    return found[0]


def _values(worth: Worth) -> str:
    return " over ".join(f"*{shown(worth.field, value)}*" for value in (worth.a, worth.b))


def _sentence(worth: Worth) -> str:
    return f"{FIELDS[worth.field]['title'].lower()}: {_values(worth)}, {worth.condition}: **{worth.points}**"


def _table(bits: int) -> str:
    lines = ["| choice | value | at | worth |", "| --- | --- | --- | --- |"]
    for worth in sorted(worths(bits), key=lambda worth: -worth.points.points):
        lines.append(
            f"| {FIELDS[worth.field]['title']} | {_values(worth)} | {worth.condition} | {worth.points} |"
        )
    return "\n".join(lines)


def claim(words: str) -> str:
    """The claim of ``book/evidence.yaml`` that begins with these words, on every bench, and in how many of
    its networks it holds.
    """
    found = [claim for claim in evidence.claims() if claim["claim"].startswith(words)]
    judged = [evidence.judged(claim, bench) for claim in found for bench in evidence.BENCHES]
    said = [_judged(one) for one in judged if one]
    if len(found) != 1 or not said:
        raise ValueError(
            f"{len(found)} claims of book/evidence.yaml begin with {words!r}, not one, or it has no recorded "
            "rows"
        )
    return f"{found[0]['claim']}: {'; '.join(said)}"


def _of_texts(rows: list[tuple[str, Any, str, str]], examples: str, words: str) -> str:
    found = [row for row in rows if row[0].startswith(words)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} claims about {examples} begin with {words!r}, not one")
    ((claim, value, on_these, _),) = found
    return f"{claim}: **{value}**" + (f", *{on_these}* on these {examples}" if on_these else "")


def _ratio(words: str) -> str:
    return _of_texts(ratios.as_rows(), "windows", words)


def _correlation(words: str) -> str:
    return _of_texts(correlations.as_rows(), "pairs of sentences", words)


def _judged(found: evidence.Judged) -> str:
    text = f"**{found.said}** on {found.bench}, *{found.verdict}*"
    if not found.over_networks:
        return text
    low, high = found.further
    return f"{text} (in {found.holds_in} networks; another of this kind may show {low:+.1f} to {high:+.1f})"


KINDS = {
    "worth": _worth,
    "points": _points,
    "claim": claim,
    "ratio": _ratio,
    "correlation": _correlation,
    "time": _time,
}
