"""What a learner left of its budget, spent: bits are raised, one choice at a time, where the loss falls most
by a stored bit.

While bits learn, large layers fall together and past the target, and the penalty's gradients are still in
Adam's memory when the loss alone would raise them again. So learning ends below its targets, often far below.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ..metrics import Metric
from ..network.inputs import device_of, on, run
from .sides import Side


def fill(
    network: nn.Module, sides: list[Side], batches: Iterable[tuple[Any, Tensor]], metric: Metric
) -> None:
    """Raise the bits of ``sides`` until no layer's (or channel's) next choice meets the targets.

    In every round each is raised by one choice at most, those first whose gradient, over all images, promises
    the most by a bit that is stored.

    Parameters
    ----------
    network : Module
        The student.
    sides : list of Side
        They meet their targets.
    batches : iterable of pairs
        All images and targets; every round sees them once.
    metric : Metric
        Whose loss is to fall.
    """
    device = device_of(network)
    for side in sides:
        side.apply()
    while any(side.has_room() for side in sides):
        gradients = [0.0] * len(sides)
        for x, y in batches:
            for side in sides:
                side.apply()  # each backward pass needs bits of its own
            network.zero_grad()
            metric.loss(run(network, on(x, device), "a training batch"), y.to(device)).backward()
            gradients = [g + len(y) * side.gradient() for g, side in zip(gradients, sides, strict=True)]
        for side, gradient in zip(sides, gradients, strict=True):
            side.fill(gradient)
            side.apply()
