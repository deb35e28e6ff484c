"""Accuracy with an interval, the paired comparison of two configurations, and the one rule for verdicts.

Only `evaluate` needs torch, and imports it: recorded rows and cards are compared without.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

Z = NormalDist().inv_cdf(0.975)  # 95 % intervals throughout
MARGIN = 2.0  # points: within this, two accuracies count as equal


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy on ``n`` images. ``correct``: bool array ``(n,)``, whether each image was classified
    correctly.
    """

    correct: np.ndarray

    @property
    def n(self) -> int:
        return len(self.correct)

    @property
    def top1(self) -> float:
        """In percent."""
        return 100 * float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval in percent, for the sampling of images."""
        return wilson(float(self.correct.mean()), self.n)

    def __str__(self) -> str:
        return f"{self.top1:.2f} % ({self.interval[0]:.2f} to {self.interval[1]:.2f}, n = {self.n:,})"

    __repr__ = __str__


def wilson(p: float, n: int) -> tuple[float, float]:
    """The 95 % interval (Wilson 1927), in percent, of a share ``p`` (0 to 1) seen in ``n`` images."""
    centre = p + Z * Z / (2 * n)
    half = Z * (p * (1 - p) / n + Z * Z / (4 * n * n)) ** 0.5
    return 100 * max(0.0, (centre - half) / (1 + Z * Z / n)), 100 * min(
        1.0, (centre + half) / (1 + Z * Z / n)
    )


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
    """Top-1 accuracy of ``model`` on batches of (inputs, integer labels ``(n,)``), in evaluation mode. Inputs
    are a tensor ``(n, ...)``, a tuple of several, or a dictionary by name.

    Raises ``ValueError`` naming the batch if there are no images, a batch is not such a pair, does not fit
    the network, or is not finite, if the network's output is not, or if it has no score for a label.
    """
    import torch
    from torch import Tensor

    from .model import run
    from .network.inputs import as_inputs, check_inputs, device_of, device_of_inputs, examples_in, on

    device = device_of(model)
    training = [m for m in model.modules() if m.training]
    correct = []
    model.eval()
    try:
        with torch.inference_mode():
            for i, batch in enumerate(batches):
                pair = isinstance(batch, (tuple, list)) and len(batch) == 2 and batch[1] is not None
                if not pair or not isinstance(batch[0], (Tensor, tuple, list, dict)):
                    raise ValueError(
                        f"evaluation batch {i} must be a pair of inputs and labels, got a "
                        f"{type(batch).__name__}"
                    )
                x = as_inputs(batch[0])
                check_inputs(x, f"evaluation batch {i}")
                n = examples_in(x)
                labels = torch.as_tensor(batch[1], device=device_of_inputs(x))
                if labels.shape != (n,) or labels.is_floating_point():
                    raise ValueError(
                        f"evaluation batch {i}: expected {n} integer labels, "
                        f"got {tuple(labels.shape)} of {labels.dtype}"
                    )
                output = run(model, on(x, device), f"evaluation batch {i}")
                if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != n:
                    what = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
                    raise ValueError(
                        f"evaluation batch {i}: the network gives {what}, not a row of class scores "
                        f"for each of {n} images"
                    )
                if not torch.isfinite(output).all():
                    raise ValueError(f"the network's output for evaluation batch {i} holds NaN or infinity")
                if labels.numel() and not 0 <= labels.min() <= labels.max() < output.shape[1]:
                    raise ValueError(
                        f"evaluation batch {i}: labels run from {labels.min()} to {labels.max()}, but the "
                        "network "
                        f"tells {output.shape[1]} classes apart, 0 to {output.shape[1] - 1}"
                    )
                correct.append((output.argmax(1).cpu() == labels.cpu()).numpy())
    finally:
        for module in training:
            module.training = True
    if not sum(map(len, correct)):
        raise ValueError(
            "there are no images to evaluate: batches is empty (a generator may have been used up already)"
        )
    return Accuracy(np.concatenate(correct))


@dataclass(frozen=True)
class Difference:
    """The accuracy of one configuration minus that of another on the same ``n`` images, in points, with its
    95 % interval.
    """

    points: float
    interval: tuple[float, float]
    n: int

    def verdict(self, claim: str = "greater") -> str:
        return verdict(self.interval, claim)

    def __str__(self) -> str:
        return (
            f"{self.points:+.2f} points ({self.interval[0]:+.2f} to {self.interval[1]:+.2f}, n = {self.n:,})"
        )


def compare(a: Accuracy | Sequence[Accuracy], b: Accuracy | Sequence[Accuracy]) -> Difference:
    """``a`` minus ``b``, paired image by image.

    Either side may be several evaluations of the same images (calibration draws, seeds): an image then counts
    with its mean answer. Raises ``ValueError`` if they were not evaluated on equally many images.

    The interval is Agresti and Min's (2005): half an image is added to each cell of the two-by-two table of
    (in)correct answers, so it has a width even where the two never disagree.
    """
    means = [np.mean([e.correct for e in _same_images(side)], axis=0) for side in (a, b)]
    n = len(means[0])
    if n != len(means[1]):
        raise ValueError(f"a paired comparison needs the same images: {n} against {len(means[1])}")
    difference = means[0] - means[1]
    centre = difference.sum() / (n + 2)
    half = Z * (((difference**2).sum() + 1) / (n + 2) - centre**2) ** 0.5 / (n + 2) ** 0.5
    return Difference(
        100 * float(difference.mean()), (100 * float(centre - half), 100 * float(centre + half)), n
    )


def _same_images(side: Accuracy | Sequence[Accuracy]) -> Sequence[Accuracy]:
    evaluations = [side] if isinstance(side, Accuracy) else list(side)
    if len({e.n for e in evaluations}) != 1:
        raise ValueError(
            f"a paired comparison needs the same images, got evaluations of {[e.n for e in evaluations]} "
            "images"
        )
    return evaluations


def verdict(interval: tuple[float, float], claim: str = "greater") -> str:
    """The one rule: whether a claim holds, given the 95 % paired interval of a difference in points.

    ``claim`` "greater": *holds* if the interval lies above zero, *does not hold* if below, else *undecided
    here*. "less": the mirror image. "no difference": *holds* if it lies within 2 points of zero, else *does
    not hold* if it excludes zero, else undecided.
    """
    low, high = interval if claim != "less" else (-interval[1], -interval[0])
    if claim in ("greater", "less"):
        return "holds" if low > 0 else "does not hold" if high < 0 else "undecided here"
    if claim != "no difference":
        raise ValueError(f"claim must be 'greater', 'less' or 'no difference', got {claim!r}")
    if -MARGIN <= low and high <= MARGIN:
        return "holds"
    return "does not hold" if low > 0 or high < 0 else "undecided here"
