"""Block reconstruction: AdaRound's rounding, learned together for all layers between two additions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..choices import choice
from .adaround import TINY, Soft, penalty
from .method import Method, Work

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..reconstruction import Reconstruction, Replaced


@dataclass(frozen=True)
class Blocks(Method):
    """Block by block it is learned which weights are rounded up and which down, so that the squared error of
    what the block gives, against the float network, is least.

    Blocks are found from the graph (`qlib.network.blocks`): from addition to addition in a residual network,
    layer by layer in a chain, activation function and quantizer included. Activations are quantized
    meanwhile where they are at all. In memory are, at a time, what one block of either network is given and
    gives for all calibration data.

    Parameters
    ----------
    steps : int
        Of Adam, for every block. Published: 20,000.
    rate : float
        Of Adam. Published: 0.001.
    batch : int
        Examples that a step looks at. Published: 32.
    strength : float
        Of the penalty for a value between two codes, where the error that rounding to nearest makes is 1 a
        weight. Published: 0.01, beside an error in the square of the block's unit.
    inputs : {"quantized", "float"}
        What blocks are given: what the network quantized so far gives, as published, or the float network.
    drop : float
        The share of all elements of activations that are left in float while it learns, by chance and anew in
        every step; with it a block is also given that share of its inputs as in the float network. 0 is
        BRECQ; QDrop, published, has 0.5.
    seed : int
        Of what is drawn.

    Source
    ------
    Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", with the
    plain squared error of its code; Wei et al. 2022, "QDrop: Randomly Dropping Quantization for Extremely
    Low-bit Post-Training Quantization". Steps of activations are not learned here: see the method
    ``ranges``.
    """

    steps: int = choice(500, "Steps", "For every block.", least=1)
    rate: float = choice(0.03, "Learning rate", "Of Adam.", above=0, most=1)
    batch: int = choice(32, "Batch", "Examples that a step looks at.", least=1)
    strength: float = choice(10.0, "Strength", "Of the penalty for values between codes.", above=0)
    inputs: str = choice(
        "quantized",
        "Inputs",
        "What blocks are given while they are rounded: what the network quantized so far gives, or in float.",
        values=("quantized", "float"),
    )
    drop: float = choice(0.0, "Drop", "Share of activations left in float while it learns.", least=0, most=1)
    seed: int = choice(0, "Seed", "Of what is drawn.", least=0)

    def apply(self, work: Work) -> None:
        import torch

        from ..network.inputs import split
        from ..reconstruction import in_blocks

        self.ask(work)
        if self.drop and work.config.activation_bits is None:
            raise ValueError(
                "the method 'blocks' drops the quantization of activations, but activation_bits=None leaves "
                "them in float: give them bits, or set drop=0"
            )
        generator = torch.Generator().manual_seed(self.seed)
        parts = [part for batch in work.batches for part in split(batch, self.batch)]
        left = {name: Soft(*weight) for name, weight in work.of_layers()}
        with torch.no_grad():
            for turn in in_blocks(work.floats, work.network, parts, "rounding"):
                names = [work.network.tied.get(name, name) for name in turn.block.layers]
                weights = {name: left.pop(name) for name in dict.fromkeys(names) if name in left}
                if weights:
                    self._learn(work, turn, weights, generator)
                for name, weight in weights.items():
                    work.put_weight(name, weight.rounded())

    def card(self) -> dict[str, Any]:
        """With its steps."""
        said = f"learned by blocks from {self.inputs} inputs"
        said += f", {self.drop:.0%} of activation quantization dropped" if self.drop else ""
        return {"rounding": said, "steps": self.steps}

    def _learn(
        self, work: Work, turn: Reconstruction, weights: dict[str, Soft], generator: torch.Generator
    ) -> None:
        import torch

        from ..reconstruction import error

        share = 1.0 if self.inputs == "float" else self.drop
        free = [weight.free for weight in weights.values()]
        rounded = self._replaced(work, weights, Soft.rounded)
        unit = sum(error(turn.outputs(p, rounded), turn.outputs(p, {})) for p in range(len(turn.values)))
        unit = (unit / len(turn.values)).clamp(min=TINY) / sum(parameter.numel() for parameter in free)
        adam = torch.optim.Adam(free, self.rate)
        for step in range(self.steps):
            part = int(torch.randint(len(turn.values), (), generator=generator))
            with torch.enable_grad():
                replaced = self._replaced(work, weights, Soft.values) | self._dropping(work, generator)
                loss = turn.error(part, replaced, turn.mixed(part, share, generator)) / unit
                loss = loss + self.strength * penalty(weights.values(), step / self.steps)
                for parameter, slope in zip(free, torch.autograd.grad(loss, free), strict=True):
                    parameter.grad = slope
            adam.step()

    def _replaced(self, work: Work, weights: dict[str, Soft], form: Callable[[Soft], Tensor]) -> Replaced:
        """Layers with their weights in a form, the same ones for all that share them."""
        from ..reconstruction import with_weight

        module = work.network.module
        rows = {name: form(weight) for name, weight in weights.items()}
        first = {name: work.network.tied.get(name, name) for name in work.placement.weight_bits}
        return {
            name: partial(with_weight, module.get_submodule(name), rows[other])
            for name, other in first.items()
            if other in rows
        }

    def _dropping(self, work: Work, generator: torch.Generator) -> Replaced:
        """Quantizers that leave a share of elements as they are."""
        import torch

        from ..reconstruction import drawn

        def dropping(quantizer: Any, x: Tensor, *more: Any) -> Tensor:
            return torch.where(drawn(x, self.drop, generator), x, quantizer(x, *more))

        if not self.drop:
            return {}
        found = {id(quantizer) for quantizer in work.quantizers.values()}
        modules = work.network.module.named_modules()
        return {name: partial(dropping, module) for name, module in modules if id(module) in found}
