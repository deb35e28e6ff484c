"""What is counted of a quantizer while examples pass: its noise against the signal, and what it is given.

Noise is looked at channel by channel, and decibels are averaged over channels: where all channels share one
range, the loudest would else hide what happens to the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .affine import Grid
from .affine import quantize as codes_of
from .quantizer import rows_by_channel

MOST = 120.0  # decibels: what is quieter counts as no noise


@dataclass
class Noise:
    """Sums over examples of squares by channel, float64 ``(channels,)``: of the float signal, of its own
    quantizer's noise, and of the noise that is there in the quantized network; and the sum of its own noise.
    ``axis`` is that of channels.
    """

    axis: int | None
    signal: Tensor | float = 0.0
    own: Tensor | float = 0.0
    arriving: Tensor | float = 0.0
    drift: Tensor | float = 0.0
    count: int = 0

    def hear(self, signal: Tensor, own: Tensor) -> None:
        """What the float network gives, and its own quantizer makes of it."""
        noise = self.rows(own - signal)
        self.signal = self.signal + self.rows(signal).square().sum(1)
        self.own = self.own + noise.square().sum(1)
        self.drift = self.drift + noise.sum(1)
        self.count += noise.shape[1]

    def arrive(self, signal: Tensor, given: Tensor) -> None:
        """What the float network gives, and the quantized one."""
        self.arriving = self.arriving + self.rows(given - signal).square().sum(1)

    def shift(self) -> float:
        """Percent of its own noise that is a constant of each channel, the mean over channels."""
        noise = torch.as_tensor(self.own)
        noisy = noise > 0
        if not noisy.any():
            return 0.0
        constant = torch.as_tensor(self.drift)[noisy].square() / self.count
        return 100 * (constant / noise[noisy]).mean().item()

    def rows(self, x: Tensor) -> Tensor:
        """``(channels, values)``."""
        return rows_by_channel(x, self.axis)

    def decibels(self, noise: Tensor | float) -> float:
        """The mean over channels that carry a signal; NaN where none does."""
        signal = torch.as_tensor(self.signal)
        alive = signal > 0
        least = signal[alive] * 10 ** (-MOST / 10)
        ratios = 10 * torch.log10(signal[alive] / torch.maximum(torch.as_tensor(noise)[alive], least))
        return ratios.mean().item() if len(ratios) else float("nan")


@dataclass
class Values:
    """What is known of a tensor's values beside the range that they get."""

    low: float = 0.0
    high: float = 0.0
    count: int = 0
    clipped: int = 0
    squares: float = 0.0
    largest: Tensor = field(default_factory=lambda: torch.zeros(1))  # magnitude by channel
    codes: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.bool))  # which have occurred

    def add(self, x: Tensor, rows: Tensor, grid: Grid) -> None:
        """``x`` with a grid that broadcasts against it; ``rows``: the same by channel."""
        low, high = (
            (-grid.clip, grid.clip)
            if grid.clip is not None
            else ((end - grid.zero_point) * grid.scale for end in (grid.code_min, grid.code_max))
        )
        half = grid.scale / 2
        self.clipped += int(((x < low - half) | (x > high + half)).sum())
        occurred = torch.bincount((codes_of(x, grid) - grid.code_min.int()).flatten()) > 0
        longer = max(len(occurred), len(self.codes))
        self.codes = _padded(self.codes, longer) | _padded(occurred, longer)
        self.largest = torch.maximum(self.largest, rows.abs().amax(1))
        self.low, self.high = min(self.low, x.min().item()), max(self.high, x.max().item())
        self.count += x.numel()
        self.squares += x.double().square().sum().item()

    def to_dict(self) -> dict[str, float]:
        alive = self.largest[self.largest > 0]
        largest, rms = max(-self.low, self.high), (self.squares / max(self.count, 1)) ** 0.5
        return {
            "clipped": 100 * self.clipped / max(self.count, 1),
            "codes": int(self.codes.sum()),
            "low": self.low,
            "high": self.high,
            "peak": largest / rms if rms else 1.0,
            "spread": (alive.max() / alive.median()).item() if len(alive) else 1.0,
            "elements": self.count,
        }


def _padded(x: Tensor, length: int) -> Tensor:
    return nn.functional.pad(x, (0, length - len(x)))
