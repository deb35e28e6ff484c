"""The claims of ``book/correlations.yaml`` about a network of sentences, from recorded rows, judged by the
one rule.
"""

from __future__ import annotations

from typing import Any

import yaml

from qlib.book import ROOT
from qlib.book.evidence import question
from qlib.comparison import verdict

BENCH = "sentences"


def claims() -> list[dict[str, Any]]:
    return yaml.safe_load((ROOT / "book" / "correlations.yaml").read_text("utf8"))


def as_rows() -> list[tuple[str, str, str, str]]:
    """A row a claim: its words, the difference in points, what these pairs of sentences say, the verdict."""
    return [_row(claim) for claim in claims()]


def _row(claim: dict[str, Any]) -> tuple[str, str, str, str]:
    found = question(BENCH, claim["table"], claim["better"], claim["worse"], **claim["where"])
    if found is None:
        return claim["claim"], "not recorded yet", "", ""
    difference = found.difference
    said = str(difference).replace(", images only", " pairs")
    return claim["claim"], said, verdict(difference.interval), found.verdict.replace("images", "pairs")
