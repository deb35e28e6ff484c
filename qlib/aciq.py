"""Analytic clipping: the range that would have the least squared error if values came from the Laplace or
normal distribution that fits them.

Source: Banner et al. 2019, "Post Training 4-bit Quantization of Convolutional Networks for Rapid-Deployment"
(ACIQ), section 3. Its equations are solved for the grid that is used, where the paper has a table by bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .affine import Grid

STEPS = 400  # ranges that are tried
REACH = 20.0  # standard deviations to the farthest of them
BETWEEN = (0.5**0.5 + (2 / math.pi) ** 0.5) / 2  # mean over root mean square deviation: of Laplace, of normal


def analytic_range(
    x: Tensor,
    share: Tensor,
    low: Tensor,
    high: Tensor,
    make_grid: Callable[[Tensor, Tensor], Grid],
    zero: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The range of each row, as wide on either side of the mean as the fitted distribution asks, and no wider
    than the data.

    Rows without negative values are what a ReLU leaves: the distribution is fitted to their positive values,
    as its half above 0.

    Parameters
    ----------
    x : Tensor
        Values ``(rows, values)``.
    share : Tensor
        How often each occurs; broadcasts against ``x``.
    low, high : Tensor
        The smallest and the largest value of each row, ``(rows,)``.
    make_grid : callable
        ``make_grid(low, high)`` is the grid of a range.
    zero : Tensor or float
        Up to here values count as 0.

    Returns
    -------
    low, high : Tensor
        float32 ``(rows,)``, in the unit of ``x``.
    """
    half = low >= 0
    counted = (share * torch.where(half[:, None], x > zero, True)).double()
    counted = counted / counted.sum(1, keepdim=True).clamp(min=1e-300)
    centre = torch.where(half, 0.0, (x * counted).sum(1))
    away = (x - centre[:, None]).abs()
    mean = (away * counted).sum(1)
    deviation = (away.square() * counted).sum(1).sqrt()
    reach = torch.arange(1, STEPS + 1, device=x.device)[:, None] * (REACH / STEPS) * deviation
    lows = torch.maximum(centre - reach, low).float()
    highs = torch.minimum(centre + reach, high).float()
    grid = make_grid(lows, highs).reshape(STEPS, -1)
    codes = (grid.code_min, grid.code_max)
    ends = ((code - grid.zero_point) * grid.scale for code in codes)
    if grid.clip is not None:
        ends = (-grid.clip, grid.clip)
    below, above = (
        _clipped((sign * (end - centre)).clamp(min=0), mean, deviation)
        for sign, end in zip((-1, 1), ends, strict=True)
    )
    error = grid.scale.double().square() / 12 + torch.where(half, 2 * above, below + above)
    best = error.min(0).indices
    rows = torch.arange(len(x), device=x.device)
    return lows[best, rows], highs[best, rows]


def _clipped(distance: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """The expected squared error of what lies farther than ``distance`` above the centre and is clipped
    there, of the better fitting distribution with such deviations from its centre.
    """
    tiny = torch.finfo(torch.float64).tiny
    laplace = mean.square() * torch.exp(-distance / mean.clamp(min=tiny))
    t = distance / deviation.clamp(min=tiny)
    beyond = 0.5 * torch.special.erfc(t / 2**0.5)
    density = torch.exp(-t.square() / 2) / (2 * math.pi) ** 0.5
    normal = deviation.square() * ((1 + t.square()) * beyond - t * density)
    return torch.where(mean < BETWEEN * deviation, laplace, normal)
