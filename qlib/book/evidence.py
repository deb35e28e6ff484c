"""The evidence page: every claim of ``book/evidence.yaml`` on every bench, from recorded rows, judged by the
one rule, and what the rule before said of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import yaml

from qlib import results
from qlib.book import ROOT
from qlib.comparison import IMAGES_ONLY, UNDECIDED, VERDICTS, Difference, compare
from qlib.intervals import Z, agresti_min
from qlib.metrics import TOP1, Accuracy

BENCHES = {
    "digits": "the bench of the lessons",
    "cifar10-jpeg": "real images, a network that we did not make",
    "imagenet": "the paper's own setting",
}
MARGIN_BEFORE = 2.0  # in points, until 2026-11-26


@dataclass(frozen=True)
class Change:
    """What became of a verdict with the two-way rule."""

    before: str
    after: str
    interval_before: tuple[float, float]
    interval_after: tuple[float, float]
    why: str


def claims() -> list[dict[str, Any]]:
    return yaml.safe_load((ROOT / "book" / "evidence.yaml").read_text("utf8"))


def measured(claim: dict[str, Any], bench: str) -> Difference | None:
    """The paired difference of a claim on a bench, over the seeds or draws that both sides have; ``None``
    where rows are not recorded.
    """
    sides = _sides(claim, bench)
    return sides and compare(*sides)


def _sides(claim: dict[str, Any], bench: str) -> list[list[Accuracy]] | None:
    path = results.table_path(bench, claim["table"])
    if not path.exists():
        return None
    table = results.with_allocation(results.load_table(path))
    plain = [
        a is None and isinstance(b, dict)
        for a, b in zip(table.allocation, table.activation_bits, strict=True)
    ]
    uniform = [b["default"] if p else None for p, b in zip(plain, table.activation_bits, strict=True)]
    table = table.assign(uniform_bits=pd.Series(uniform, index=table.index, dtype=object))
    wanted = [{**claim.get("where", {}), **claim[side]} for side in ("better", "worse")]
    seeds = set.intersection(*(set(_rows(table, where).calibration_seed) for where in wanted))
    if not seeds:  # a part of the table that is still to be recorded
        return None
    table = table[table.calibration_seed.isin(seeds)]
    return [results.accuracies(table, **where) for where in wanted]


def _rows(table: pd.DataFrame, where: dict[str, Any]) -> pd.DataFrame:
    for column, value in where.items():
        table = table[[v == value for v in table[column]]]
    return table


def verdict(claim: dict[str, Any], difference: Difference) -> str:
    return difference.verdict(claim.get("kind", "greater"), claim.get("margin"))


def in_every_seed(claim: dict[str, Any], points: Sequence[float]) -> bool:
    """Whether each seed or draw alone points the way of the claim."""
    if claim.get("kind") == "no difference":
        return all(abs(p) <= claim.get("margin", TOP1.margin) for p in points)
    return all(p > 0 for p in points)


def change(claim: dict[str, Any], bench: str) -> Change | None:
    """What the rule before said of a claim, and what the two-way rule says; ``None`` where rows are not
    recorded.
    """
    sides = _sides(claim, bench)
    if sides is None:
        return None
    difference = compare(*sides)
    kind = claim.get("kind", "greater")
    interval = _interval_before(*sides)
    before = _verdict_before(interval, kind, MARGIN_BEFORE)
    after = verdict(claim, difference)
    if before == after:
        why = ""
    elif difference.images_only:
        why = "fewer than three seeds"
    else:
        of_seeds = _verdict_before(difference.interval, kind, MARGIN_BEFORE) != before
        of_margin = _verdict_before(interval, kind, claim.get("margin", TOP1.margin)) != before
        narrower = "the margin is narrower"
        why = "seeds vary" if of_seeds else narrower if of_margin else f"seeds vary and {narrower}"
    return Change(before, after, interval, difference.interval, why)


def _interval_before(a: list[Accuracy], b: list[Accuracy]) -> tuple[float, float]:
    """Until 2026-11-26: seeds are averaged image by image, and only images are random."""
    means = [np.mean([m.values for m in side], axis=0) for side in (a, b)]
    centre, variance = agresti_min((means[0] - means[1]) / 100)
    half = Z * variance**0.5
    return 100 * (centre - half), 100 * (centre + half)


def _verdict_before(interval: tuple[float, float], kind: str, margin: float) -> str:
    """Until 2026-11-26: no difference did not hold where the interval excluded zero and left the margin."""
    low, high = interval
    if kind == "no difference" and -margin <= low and high <= margin:
        return "holds"
    if low > 0:
        return "does not hold" if kind == "no difference" else "holds"
    return "does not hold" if high < 0 else UNDECIDED


def as_markdown() -> str:
    """The count of verdicts by bench, a table for each observation, and one of what the rule before said."""
    lines = []
    counts = {bench: {} for bench in BENCHES}
    for number in sorted({claim["observation"] for claim in claims()}):
        lines += [
            f"## Observation {number}",
            "",
            "| claim | the paper | bench | difference | seed by seed | verdict |",
        ]
        lines.append("| --- " * 6 + "|")
        for claim in (c for c in claims() if c["observation"] == number):
            for bench in BENCHES:
                found = measured(claim, bench)
                word = verdict(claim, found) if found else "not recorded"
                row = (
                    f"{found} | {_each(found)} | **{word}**{_but(claim, found)}" if found else f" | | {word}"
                )
                lines.append(f"| {claim['claim']} | {claim['paper']} | {bench} | {row} |")
                counts[bench][word] = counts[bench].get(word, 0) + 1
        lines.append("")
    return "\n".join([_headline(counts), "", *_counts(counts), "", *lines, *_changes()])


def _each(difference: Difference) -> str:
    return ", ".join(f"{points:+.1f}" for points in difference.seeds)


def _but(claim: dict[str, Any], difference: Difference) -> str:
    against = verdict(claim, difference) == "holds" and not in_every_seed(claim, difference.seeds)
    return ", but not in every seed" if against else ""


def _headline(counts: dict[str, dict[str, int]]) -> str:
    """What counts: verdicts over at least three seeds."""
    total = {word: sum(found.get(word, 0) for found in counts.values()) for word in VERDICTS}
    judged = sum(number for word, number in total.items() if word != IMAGES_ONLY)
    return (
        f"Of {judged} comparisons over three seeds or more, **{total['holds']} hold**, "
        f"{total['does not hold']} do not, and {total[UNDECIDED]} are undecided here. {total[IMAGES_ONLY]} "
        "more are undecided because fewer seeds are recorded; these are not counted."
    )


def _counts(counts: dict[str, dict[str, int]]) -> list[str]:
    words = (*VERDICTS, "not recorded")
    return [
        "| bench | " + " | ".join(words) + " |",
        "| --- " * (len(words) + 1) + "|",
        *(
            f"| {bench}: {BENCHES[bench]} | " + " | ".join(str(found.get(word, 0)) for word in words) + " |"
            for bench, found in counts.items()
        ),
    ]


def _changes() -> list[str]:
    lines = [
        "## Verdicts before and after the two-way rule",
        "",
        "| claim | bench | before | after | interval before | interval after | why |",
        "| --- " * 7 + "|",
    ]
    for claim in claims():
        for bench in BENCHES:
            found = change(claim, bench)
            if found:
                before, after = (
                    f"{low:+.2f} to {high:+.2f}"
                    for low, high in (found.interval_before, found.interval_after)
                )
                word = f"**{found.after}**" if found.why else found.after
                lines.append(
                    f"| {claim['claim']} | {bench} | {found.before} | {word} | {before} | {after} | "
                    f"{found.why} |"
                )
    return lines
