"""The evidence page: every claim of ``book/evidence.yaml`` on every bench, from recorded rows, judged by the
one rule.
"""

from typing import Any

import pandas as pd
import yaml

from qlib import results
from qlib.book import ROOT
from qlib.evaluation import Difference, compare
from qlib.metrics import TOP1

BENCHES = {
    "digits": "the bench of the lessons",
    "cifar10-jpeg": "real images, a network that we did not make",
    "imagenet": "the paper's own setting",
}


def claims() -> list[dict[str, Any]]:
    return yaml.safe_load((ROOT / "book" / "evidence.yaml").read_text("utf8"))


def measured(claim: dict[str, Any], bench: str) -> tuple[Difference, list[float]] | None:
    """The paired difference of a claim on a bench, over the seeds or draws that both sides have, and in
    points for each of these; ``None`` where rows are not recorded.
    """
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
    sides = [results.accuracies(table, **where) for where in wanted]
    return compare(*sides), [a.top1 - b.top1 for a, b in zip(*sides, strict=True)]


def _rows(table: pd.DataFrame, where: dict[str, Any]) -> pd.DataFrame:
    for column, value in where.items():
        table = table[[v == value for v in table[column]]]
    return table


def verdict(claim: dict[str, Any], difference: Difference) -> str:
    return difference.verdict(claim.get("kind", "greater"))


def in_every_seed(claim: dict[str, Any], points: list[float]) -> bool:
    """Whether each seed or draw alone points the way of the claim."""
    return all(abs(p) <= TOP1.margin if claim.get("kind") == "no difference" else p > 0 for p in points)


def as_markdown() -> str:
    """A table for each observation, and the count of verdicts by bench."""
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
                each = ", ".join(f"{points:+.1f}" for points in found[1]) if found else ""
                word = verdict(claim, found[0]) if found else "not recorded"
                but = (
                    ", but not in every seed"
                    if word == "holds" and not in_every_seed(claim, found[1])
                    else ""
                )
                row = f"{found[0]} | {each} | **{word}**{but}" if found else f" | | {word}"
                lines.append(f"| {claim['claim']} | {claim['paper']} | {bench} | {row} |")
                counts[bench][word] = counts[bench].get(word, 0) + 1
        lines.append("")
    words = ("holds", "undecided here", "does not hold", "not recorded")
    summary = ["| bench | " + " | ".join(words) + " |", "| --- " * 5 + "|"]
    summary += [
        f"| {bench}: {BENCHES[bench]} | " + " | ".join(str(found.get(word, 0)) for word in words) + " |"
        for bench, found in counts.items()
    ]
    return "\n".join([*summary, "", *lines])
