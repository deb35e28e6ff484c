"""AdaRound: whether a weight is rounded up or down is learned, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..choices import choice
from .method import Method, Turn, Work

if TYPE_CHECKING:
    from torch import Tensor

    from ..affine import Grid

TINY = 1e-30  # an error that counts as none


class Soft:
    """A weight on its way to a grid: each value between the two of the grid that are next to it."""

    def __init__(self, rows: Tensor, grid: Grid):
        import torch

        steps = rows * (1 / grid.scale)
        self.scale = grid.scale
        self.down = steps.floor()
        if grid.clip is None:
            self.low, self.high = (end - grid.zero_point for end in (grid.code_min, grid.code_max))
        else:  # the code of the end itself, which rounding decides
            self.high = (grid.clip / grid.scale).round()
            self.low = -self.high
        self.free = torch.logit((steps - self.down + 0.1) / 1.2).requires_grad_()

    def up(self) -> Tensor:
        """How much of the way up each value is, 0 to 1; at first where it is in float."""
        return (self.free.sigmoid() * 1.2 - 0.1).clamp(0, 1)

    def values(self) -> Tensor:
        """In the unit of the weight."""
        return (self.down + self.up()).clamp(self.low, self.high) * self.scale

    def rounded(self) -> Tensor:
        """To the nearer end: values of codes."""
        return ((self.down + (self.up() >= 0.5)).clamp(self.low, self.high) * self.scale).detach()


def penalty(weights: Iterable[Soft], done: float) -> Tensor | float:
    """The sum of ``1 - |2 up - 1|^beta``, so that values end up at either end: after the first fifth of all
    steps, with ``beta`` from 20 to 2. ``done``: the share of steps that lie behind.
    """
    if done < 0.2:
        return 0.0
    beta = 2 + 18 * (1 - done) / 0.8
    return sum((1 - (2 * weight.up() - 1).abs().pow(beta)).sum() for weight in weights)


@dataclass(frozen=True)
class AdaRound(Method):
    """Layer by layer it is learned which weights are rounded up and which down, so that the squared error of
    the layer's outputs over the calibration data, against those of the float network, is least.

    The error is that before the activation function. It depends on the data by the means of inputs by inputs
    and of outputs by inputs alone, so these are gathered once, and every step looks at all of the data:
    nothing is drawn, and the number of examples costs no time.

    Parameters
    ----------
    inputs : {"quantized", "float"}
        What layers are given: what the network quantized so far gives, as published, or the float network.
    steps : int
        Of Adam, for every layer. Published: 10,000, with 32 images drawn in each.
    rate : float
        Of Adam. Published: 0.001.
    strength : float
        Of the penalty for a value between two codes, where the error that rounding to nearest makes is 1 a
        weight. Published: 0.01, beside an error in the square of the layer's unit.

    Source
    ------
    Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization": equation 25 with its
    penalty, less the activation function.
    """

    inputs: str = choice(
        "quantized",
        "Inputs",
        "What layers are given while they are rounded: what the network quantized so far gives, or in float.",
        values=("quantized", "float"),
    )
    steps: int = choice(500, "Steps", "For every layer.", least=1)
    rate: float = choice(0.03, "Learning rate", "Of Adam.", above=0, most=1)
    strength: float = choice(10.0, "Strength", "Of the penalty for values between codes.", above=0)

    def apply(self, work: Work) -> None:
        import torch

        self.ask(work)
        with torch.no_grad():
            for turn in work.in_turn(self.inputs):
                work.put_weight(turn.name, self._learned(turn))

    def card(self) -> dict[str, Any]:
        """With its steps."""
        return {"rounding": f"AdaRound, layer by layer from {self.inputs} inputs", "steps": self.steps}

    def _learned(self, turn: Turn) -> Tensor:
        import torch

        from ..network.columns import moments

        inputs, outputs = (part.float() for part in moments(turn.layer, turn.given, turn.wanted))
        weight = Soft(turn.rows, turn.grid)
        shift = (weight.rounded() - turn.rows).reshape(outputs.shape)
        nearest = ((shift @ inputs) * shift).sum().clamp(min=TINY)
        adam = torch.optim.Adam([weight.free], self.rate)
        for step in range(self.steps):
            with torch.enable_grad():
                values = weight.values()
                slope = 2 * (values.detach().reshape(outputs.shape) @ inputs - outputs) / nearest
                loss = values.numel() * (values * slope.reshape(values.shape)).sum()
                loss = loss + self.strength * penalty([weight], step / self.steps)
                (weight.free.grad,) = torch.autograd.grad(loss, [weight.free])
            adam.step()
        return weight.rounded()
