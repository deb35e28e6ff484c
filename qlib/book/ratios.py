"""The claims of ``book/ratios.yaml`` about perplexities, from recorded rows: one over another, paired window
by window, judged by the one rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
import yaml

from qlib import results
from qlib.book import ROOT
from qlib.comparison import Difference, compare, verdict
from qlib.metrics import PERPLEXITY, Measurement, described

BENCH = "language"
LOSS = described({"name": "loss", "title": "loss of a token", "unit": "nats", "greater_is_better": False})
ALIKE = 1e-4  # nats, between a mean over windows and the loss of the whole


@dataclass(frozen=True)
class Ratio:
    """A perplexity over another.

    Parameters
    ----------
    losses : Difference
        In nats a token: its logarithm.
    """

    losses: Difference

    @property
    def value(self) -> float:
        return exp(self.losses.value)

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, for the sampling of windows."""
        low, high = self.losses.interval
        return exp(low), exp(high)

    def verdict(self, most: float | None = None, least: float | None = None) -> str:
        """Whether it is below ``most``, or above ``least``: see `qlib.comparison.Difference.verdict`."""
        difference, way = self._held_against(most, least)
        return difference.verdict(way)

    def on_windows(self, most: float | None = None, least: float | None = None) -> str:
        """The same of this one network and rounding, where windows alone are random."""
        difference, way = self._held_against(most, least)
        return verdict(difference.interval, way)

    def _held_against(self, most: float | None, least: float | None) -> tuple[Difference, str]:
        if most is not None:
            return self.losses.less(log(most)), "less"
        return self.losses.less(log(least)), "greater"

    def __str__(self) -> str:
        value, low, high = (f"{each:.4g}" for each in (self.value, *self.interval))
        return f"{value} ({low} to {high}, n = {self.losses.n} windows)"


def ratio(a: list[Measurement], b: list[Measurement]) -> Ratio:
    """The perplexity of ``a`` over that of ``b``, paired as by `qlib.compare`; errors as of it, and
    of `losses`.
    """
    return Ratio(compare(*([losses(each) for each in side] for side in (a, b))))


def losses(measured: Measurement) -> Measurement:
    """Of a perplexity the mean loss of a token, in nats, for every window.

    The values of a perplexity are jackknife values: what it is without a window follows from them, and from
    that the window's loss, where all windows have equally many tokens.

    Raises
    ------
    ValueError
        It is no perplexity, of a single window, or of windows that are not equally long.
    """
    n, whole = measured.n, log(measured.value)
    if measured.metric is not PERPLEXITY or n < 2:
        raise ValueError(
            f"a ratio needs perplexities of two windows or more, got {measured.metric.name} of {n}"
        )
    without = (n * measured.value - measured.values) / (n - 1)
    each = n * whole - (n - 1) * np.log(without)
    if not abs(each.mean() - whole) < ALIKE:
        raise ValueError("windows of unequal length are not compared: record them at one context")
    return Measurement(LOSS, whole, each, measured.label)


def claims() -> list[dict[str, Any]]:
    return yaml.safe_load((ROOT / "book" / "ratios.yaml").read_text("utf8"))


def judged(claim: Mapping[str, Any]) -> tuple[Ratio, str, str] | None:
    """The ratio that a claim is about, what these windows alone say of the claim, and its verdict; ``None``
    where rows of a side are not recorded.
    """
    sides = [_measured(**claim[side]) for side in ("of", "over")]
    if not all(sides):
        return None
    found, bounds = ratio(*sides), (claim.get("most"), claim.get("least"))
    return found, found.on_windows(*bounds), found.verdict(*bounds).replace("images", "windows")


def as_rows() -> list[tuple[str, Any, str, str]]:
    """A row a claim: its words, the ratio, what these windows say, the verdict."""
    return [(claim["claim"], *(judged(claim) or ("not recorded yet", "", ""))) for claim in claims()]


def _measured(table: str, bench: str = BENCH, **where: Any) -> list[Measurement]:
    path = results.table_path(bench, table)
    return results.measured(results.load_rows(path) if path.exists() else [], where)
