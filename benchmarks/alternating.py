"""Times as ratios: what is timed runs in turn with what it is compared with, so that a slow spell of the
machine meets both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable


def alternate(
    base: Callable[[], object], others: Iterable[Callable[[], object]], repeats: int
) -> list[list[float]]:
    """Of each of the others, the ratios of its time to that of ``base`` right before it."""
    others = list(others)
    count = max(1, round(0.004 / min(seconds(base, 1) for _ in range(9))))
    ratios: list[list[float]] = [[] for _ in others]
    for _ in range(repeats):
        for found, other in zip(ratios, others, strict=True):
            before = seconds(base, count)
            found.append(seconds(other, count) / before)
    return ratios


def seconds(work: Callable[[], object], count: int) -> float:
    """Of the processor, so that waiting for other programs does not count: for work on one thread."""
    work()  # what ran before has emptied the caches of it
    start = time.process_time()
    for _ in range(count):
        work()
    return time.process_time() - start


def median_and_interval(ratios: list[float]) -> list[float]:
    """The median and the 95 % interval of it that holds whatever the ratios' distribution is."""
    ordered = sorted(ratios)
    n = len(ordered)
    reach = 0.98 * n**0.5
    low = ordered[max(0, int(n / 2 - reach))]
    high = ordered[min(n - 1, int(n / 2 + reach))]
    return [round(value, 3) for value in (statistics.median(ordered), low, high)]
