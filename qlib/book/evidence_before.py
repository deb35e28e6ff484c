"""What the rule before November 26, 2026, said of a claim, and why today's says something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qlib.book.evidence import NO_DIFFERENCE, Judged, at_limits, judged, verdict
from qlib.comparison import UNDECIDED, compare
from qlib.intervals import Z, agresti_min
from qlib.metrics import TOP1, Measurement

CHANGED = "2026-11-26"  # claims that are no older were not judged by the rule before
MARGIN_BEFORE = 2.0  # in points
NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Change:
    """What became of a verdict with the rule of today."""

    before: str
    after: str
    interval_before: tuple[float, float] | None
    interval_after: tuple[float, float]
    why: str


def change(claim: dict[str, Any], bench: str) -> Change | None:
    """What the rule before said of a claim, and what that of today says; ``None`` where rows are not
    recorded.
    """
    now, sides = judged(claim, bench), at_limits(claim, bench)
    if now is None or sides is None:
        return None
    if str(claim["since"]) >= CHANGED:
        return Change(NOT_JUDGED, now.verdict, None, now.difference.interval, "")
    kind = claim.get("kind", "greater")
    interval = _interval_before(*sides)
    before = _verdict_before(interval, kind, MARGIN_BEFORE)
    return Change(
        before, now.verdict, interval, now.difference.interval, _why(claim, before, interval, sides, now)
    )


def _why(
    claim: dict[str, Any],
    before: str,
    interval: tuple[float, float],
    sides: list[list[Measurement]],
    now: Judged,
) -> str:
    """What of the new rule changed a verdict; empty where nothing did."""
    if before == now.verdict:
        return ""
    if now.difference.images_only:
        return "fewer than three seeds"
    if now.over_networks:
        of_first = next(iter(now.networks.values()))
        alone = verdict(claim, of_first)
        also = "several networks" if alone != now.verdict else ""
        first = Judged(claim, now.bench, of_first, now.at)
        reasons = [_why(claim, before, interval, sides, first), also]
        return ", then ".join(reason for reason in reasons if reason)
    kind = claim.get("kind", "greater")
    at_the_limit = compare(*sides)
    seeds, margin = "seeds vary", "the margin is narrower"
    reasons = {
        seeds: _verdict_before(at_the_limit.interval, kind, MARGIN_BEFORE) != before,
        margin: _verdict_before(interval, kind, claim.get("margin", TOP1.margin)) != before,
        "compared at equal bits in use": verdict(claim, at_the_limit) != now.verdict,
    }
    alone = [reason for reason, applies in reasons.items() if applies]
    return " and ".join(alone or (seeds, margin))


def _interval_before(a: list[Measurement], b: list[Measurement]) -> tuple[float, float]:
    """Seeds were averaged image by image, and only images were random."""
    means = [np.mean([m.values for m in side], axis=0) for side in (a, b)]
    centre, variance = agresti_min((means[0] - means[1]) / 100)
    half = Z * variance**0.5
    return 100 * (centre - half), 100 * (centre + half)


def _verdict_before(interval: tuple[float, float], kind: str, margin: float) -> str:
    """No difference did not hold where the interval excluded zero and left the margin."""
    low, high = interval
    if kind == NO_DIFFERENCE and -margin <= low and high <= margin:
        return "holds"
    if low > 0:
        return "does not hold" if kind == NO_DIFFERENCE else "holds"
    return "does not hold" if high < 0 else UNDECIDED
