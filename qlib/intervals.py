"""95 % intervals: of a share, of a mean, of a mean over seeds and examples, of one value more."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

Z = NormalDist().inv_cdf(0.975)


def wilson(p: float, n: int) -> tuple[float, float]:
    """The 95 % interval (Wilson 1927), in percent, of a share ``p`` (0 to 1) seen in ``n`` examples."""
    centre = p + Z * Z / (2 * n)
    half = Z * (p * (1 - p) / n + Z * Z / (4 * n * n)) ** 0.5
    return 100 * max(0.0, (centre - half) / (1 + Z * Z / n)), 100 * min(
        1.0, (centre + half) / (1 + Z * Z / n)
    )


def around(centre: float, values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval (Student 1908) around ``centre`` of a mean of ``values`` ``(n,)``."""
    n = len(values)
    if n == 1 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) / n**0.5
    return centre - half, centre + half


def one_more(values: np.ndarray) -> tuple[float, float]:
    """Between which another value lies with a probability of 95 %, after ``values`` ``(n,)`` of its kind.

    Source
    ------
    The prediction interval of a normal distribution (Hahn and Meeker 1991).
    """
    n = len(values)
    low, high = around(0.0, np.asarray(values, float))
    half = high * (n + 1) ** 0.5
    centre = float(np.mean(values))
    return centre - half, centre + half


def agresti_min(differences: np.ndarray) -> tuple[float, float]:
    """Centre and variance of a paired difference of shares.

    Parameters
    ----------
    differences
        ``(n,)``, of one example each, between -1 and 1.

    Source
    ------
    Agresti and Min (2005): half an example is added to each cell of the two-by-two table of (in)correct
    answers, so the variance is above zero even where the two never disagree.
    """
    n = len(differences) + 2
    centre = float(differences.sum()) / n
    return centre, ((float((differences**2).sum()) + 1) / n - centre**2) / n


def two_way(centre: float, values: np.ndarray, floor: float = 0.0) -> tuple[float, float]:
    """The 95 % interval around ``centre`` of a mean over seeds and examples, both of which are random.

    Parameters
    ----------
    values
        ``(seeds, examples)``: one of each seed and example; of a comparison, the value on one side minus
        that on the other.
    floor
        The least that the variance of the mean may be.

    Source
    ------
    The two-way layout of random effects with one value a cell (Searle, Casella and McCulloch 1992). With the
    variances a of the mean over seeds, b over examples, c of what is left, the variance of the mean is
    a + b - c, here at least a and at least b; degrees of freedom by Satterthwaite (1946), at least those of
    the seeds.
    """
    seeds, n = values.shape
    if seeds == 1 or n == 1 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    from scipy.special import stdtrit

    of_seeds = values.mean(1)
    of_examples = values.mean(0)
    rest = values - of_seeds[:, None] - of_examples + values.mean()
    a = float(of_seeds.var(ddof=1)) / seeds
    b = float(of_examples.var(ddof=1)) / n
    c = float((rest**2).sum()) / ((seeds - 1) * (n - 1)) / (seeds * n)
    variance = max(a + b - c, a, b, floor)
    spread = a**2 / (seeds - 1) + b**2 / (n - 1) + c**2 / ((seeds - 1) * (n - 1))
    freedom = max(seeds - 1, variance**2 / spread) if spread else seeds - 1
    half = float(stdtrit(freedom, 0.975)) * variance**0.5
    return centre - half, centre + half
