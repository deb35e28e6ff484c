"""Progress of long work, on standard error: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

SECONDS = 10  # between plain lines
Item = TypeVar("Item")


def tracked(
    items: Iterable[Item], what: str, total: int, unit: str = "row", shown: bool = True
) -> Iterator[Item]:
    """``items``, while it is said how many of ``total`` are done and how long the others will take.

    Parameters
    ----------
    items
        Each is done when it is given.
    what
        What is done, before the count.
    total
        Of ``items``.
    unit
        What one of them is.
    shown
        Whether anything is said.
    """
    from tqdm import tqdm

    if not shown or not total:
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit=unit)
    else:
        begun = said = time.monotonic()
        for done, item in enumerate(items, 1):
            now = time.monotonic()
            if now - said >= SECONDS or done == total and said > begun:
                said = now
                left = tqdm.format_interval((now - begun) / done * (total - done))
                print(f"{what}: {done} of {total} {unit}s, {left} left", file=sys.stderr, flush=True)
            yield item
