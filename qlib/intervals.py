"""95 % intervals: of a share, of a mean."""

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
