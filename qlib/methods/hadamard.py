"""A rotation: the values that enter a layer are mixed, so that none of them is far from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..choices import choice
from .method import Method, Work


@dataclass(frozen=True)
class Hadamard(Method):
    """What enters every linear layer is turned by a random Hadamard matrix, in blocks of the largest power
    of two that divides its features, and the layer's weights are turned alike. The network computes what it
    did, and a few large values have become many of middling size. The turning is in float, while the network
    runs; what is turned is quantized behind it, and not before it, with the bits that it had.

    Layers that are given one tensor share a turning. Layers that share a weight with another, or with a
    table, and inputs of an odd number of features are left as they are.

    Parameters
    ----------
    seed : int
        Of the signs by which features are multiplied first.

    Source
    ------
    Ashkboos et al. 2024, "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs": its rotations that are done
    while the network runs, before every layer; none is hidden in the weights of the layer before.
    """

    stage: ClassVar[str] = "before ranges"
    seed: int = choice(0, "Seed", "Of the signs by which features are multiplied first.", least=0)

    def apply(self, work: Work) -> None:
        from ..network.rotation import rotate_inputs
        from ..placement import place

        if not rotate_inputs(work.network, self.seed):
            raise ValueError(
                "the method 'hadamard' turns what enters linear layers that have their weight for "
                "themselves, and an even number of inputs, of which there is none here: leave it out"
            )
        work.placement = place(work.network, work.config)

    def card(self) -> dict[str, Any]:
        """With its seed."""
        said = f"Hadamard rotation of what enters linear layers, seed {self.seed}"
        return {"transform": said, "technique": "rotation"}
