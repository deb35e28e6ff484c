"""Times as ratios: what is timed runs in turn with what it is compared with, so that a slow spell of the
machine meets both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

BLOCK = 0.004  # seconds at least that are timed at once
FEWEST = 7  # ratios


def alternate(
    base: Callable[[], object], others: Iterable[Callable[[], object]], repeats: int
) -> list[list[float]]:
    """Of each of the others, the ratios of its time to that of ``base`` right before it."""
    others = list(others)
    count = runs_of_a_block(base)
    ratios: list[list[float]] = [[] for _ in others]
    for _ in range(repeats):
        for found, other in zip(ratios, others, strict=True):
            before = seconds(base, count)
            found.append(seconds(other, count) / before)
    return ratios


def alternate_for(
    budget: float, base: Callable[[], object], other: Callable[[], object], clock: Callable[[], float]
) -> list[tuple[float, float]]:
    """Seconds of one run of ``base``, and of ``other`` right after it: as many pairs as fit into so many
    seconds, warming up included, and at least `FEWEST`.
    """
    end = time.perf_counter() + budget
    counts = runs_of_a_block(base, clock), runs_of_a_block(other, clock)
    pairs: list[tuple[float, float]] = []
    while len(pairs) < FEWEST or time.perf_counter() < end:
        pairs.append(
            (seconds(base, counts[0], clock) / counts[0], seconds(other, counts[1], clock) / counts[1])
        )
    return pairs


def runs_of_a_block(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> int:
    """How often to run what is timed, so that the clock's steps are small; what is run for it warms up."""
    fastest = seconds(work, 1, clock)
    for _ in range(8 if fastest < BLOCK else 0):
        fastest = min(fastest, seconds(work, 1, clock))
    return max(1, round(BLOCK / max(1e-6, fastest)))


def seconds(work: Callable[[], object], count: int, clock: Callable[[], float] = time.process_time) -> float:
    """Of the processor, so that waiting for other programs does not count: for work on one thread."""
    work()  # what ran before has emptied the caches of it
    start = clock()
    for _ in range(count):
        work()
    return clock() - start


def median_and_interval(ratios: list[float]) -> list[float]:
    """The median and the 95 % interval of it that holds whatever the ratios' distribution is."""
    ordered = sorted(ratios)
    n = len(ordered)
    reach = 0.98 * n**0.5
    low = ordered[max(0, int(n / 2 - reach))]
    high = ordered[min(n - 1, int(n / 2 + reach))]
    return [round(value, 3) for value in (statistics.median(ordered), low, high)]
