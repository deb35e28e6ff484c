"""Learned ranges: steps of activations and weights are moved until blocks give what they do in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..choices import choice
from .adaround import TINY
from .method import Method, Work

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..affine import Grid
    from ..quantizer import Quantizer
    from ..reconstruction import Reconstruction, Replaced


@dataclass(frozen=True)
class Ranges(Method):
    """Block by block (`qlib.network.blocks`) a factor is learned for the step of every grid, so that the
    squared error of what the block gives, against the float network, is least. Codes of weights and
    zero-points stay as they are, so both ends of a range move by one factor. Where that does not make the
    error over all calibration data less, a block keeps its ranges.

    Tensors whose codes are averaged (``pooling="low_precision"``) keep theirs.

    Parameters
    ----------
    steps : int
        Of Adam, for every block. Published: BRECQ 5,000; LSQ, with labels, 90 epochs.
    rate : float
        Of Adam, for the logarithm of a factor. Published: BRECQ 0.00004, for the step itself.
    batch : int
        Examples that a step looks at. Published: 32.
    weights : bool
        Whether the steps of weights are learned, too. Published: LSQ yes, BRECQ no.
    seed : int
        Of what is drawn.

    Source
    ------
    Esser et al. 2020, "Learned Step Size Quantization", for the gradient; Li et al. 2021, "BRECQ", for
    learning by blocks, without labels.
    """

    stage: ClassVar[str] = "after"
    words: ClassVar[Mapping[str, Any]] = {"technique": "ranges learned by blocks"}
    steps: int = choice(300, "Steps", "For every block.", least=1)
    rate: float = choice(0.003, "Learning rate", "Of Adam.", above=0, most=1)
    batch: int = choice(32, "Batch", "Examples that a step looks at.", least=1)
    weights: bool = choice(True, "Of weights, too", "Whether the steps of weights are learned, too.")
    seed: int = choice(0, "Seed", "Of what is drawn.", least=0)

    def apply(self, work: Work) -> None:
        import torch

        from ..network.inputs import split
        from ..reconstruction import in_blocks

        self._refuse(work)
        generator = torch.Generator().manual_seed(self.seed)
        parts = [part for batch in work.batches for part in split(batch, self.batch)]
        learned: set[str] = set()
        with torch.no_grad():
            for turn in in_blocks(work.floats, work.network, parts, "learning ranges"):
                names = {work.network.tied.get(name, name) for name in turn.block.layers} & work.grids.keys()
                scales = _Scales(work, turn, sorted(names - learned) if self.weights else [])
                learned |= names
                if scales.factors:
                    self._learn(turn, scales, generator)

    def card(self) -> dict[str, Any]:
        """With its steps, and of what."""
        alone = "" if self.weights else ", those of activations alone"
        return {"technique": f"ranges learned by blocks{alone}", "steps": self.steps}

    def _refuse(self, work: Work) -> None:
        config = work.config
        self.ask(work, "weight" if self.weights and config.activation_bits is None else "activation")
        if config.activation_dynamic and config.activation_bits is not None:
            raise ValueError(
                "the method 'ranges' learns static ranges, but activation_dynamic=True finds one for each "
                "example: set activation_dynamic=False, or leave out 'ranges'"
            )
        if self.weights and config.weight_symmetric and config.symmetric_grid == "authors":
            raise ValueError(
                "the method 'ranges' scales codes of weights, and symmetric_grid='authors' has no codes that "
                "keep: set weights=False, or another grid"
            )

        if self.weights and config.weight_granularity == "per_group":
            raise ValueError(
                "the method 'ranges' learns a step for every channel or tensor of weights, and "
                "weight_granularity='per_group' has more: set weights=False, or another granularity"
            )

    def _learn(self, turn: Reconstruction, scales: _Scales, generator: torch.Generator) -> None:
        import torch

        before = turn.mean_error({})
        adam = torch.optim.Adam(scales.factors, self.rate)
        for _ in range(self.steps):
            part = int(torch.randint(len(turn.values), (), generator=generator))
            with torch.enable_grad():
                loss = turn.error(part, scales.replaced()) / before.clamp(min=TINY)
                slopes = torch.autograd.grad(loss, scales.factors, allow_unused=True)
            for factor, slope in zip(scales.factors, slopes, strict=True):
                factor.grad = slope
            adam.step()
        if turn.mean_error(scales.replaced()) < before:
            scales.keep()


class _Scales:
    """The logarithms of factors for the steps in a block, at first 0."""

    def __init__(self, work: Work, turn: Reconstruction, layers: list[str]):
        import torch

        from ..quantizer import OnCodes, Quantizer

        self.work = work
        modules = [
            (node.target, work.network.module.get_submodule(node.target))
            for node in turn.block.nodes
            if node.op == "call_module"
        ]
        averaged = {id(m.source) for m in work.network.module.modules() if isinstance(m, OnCodes)}
        self.quantizers = {
            name: (module, torch.zeros_like(module.scale).requires_grad_())
            for name, module in modules
            if isinstance(module, Quantizer) and module.scale is not None and id(module) not in averaged
        }
        self.layers = {name: torch.zeros_like(work.grids[name].scale).requires_grad_() for name in layers}

    @property
    def factors(self) -> list[Tensor]:
        return [factor for _, factor in self.quantizers.values()] + list(self.layers.values())

    def replaced(self) -> Replaced:
        """Quantizers and layers with steps as they are now."""
        from ..network.operations import rows_of
        from ..reconstruction import with_weight

        module = self.work.network.module
        found: dict[str, Any] = {
            name: partial(_scaled, quantizer, factor.exp())
            for name, (quantizer, factor) in self.quantizers.items()
        }
        for name, factor in self.layers.items():
            layer = module.get_submodule(name)
            rows = rows_of(layer.weight.detach(), layer) * factor.exp()
            found |= {n: partial(with_weight, module.get_submodule(n), rows) for n in self._sharing(name)}
        return found

    def keep(self) -> None:
        """Give quantizers and layers these steps."""
        from ..affine import dequantize
        from ..network.operations import rows_of

        for quantizer, factor in self.quantizers.values():
            quantizer.range = tuple(end * factor.exp().flatten() for end in quantizer.range)
            quantizer.grid = _times(quantizer.grid, factor.exp())
        for name, factor in self.layers.items():
            layer = self.work.network.module.get_submodule(name)
            grid = self.work.grids[name]
            codes = (rows_of(layer.weight.data, layer) / grid.scale).round() + grid.zero_point
            grid = _times(grid, factor.exp())
            self.work.grids |= dict.fromkeys(self._sharing(name), grid)
            self.work.put_weight(name, dequantize(codes, grid))

    def _sharing(self, name: str) -> list[str]:
        """The layers with one weight."""
        tied = self.work.network.tied
        return [name, *(other for other, first in tied.items() if first == name)]


def _scaled(quantizer: Quantizer, factor: Tensor, x: Tensor, *more: Any) -> Tensor:
    """What a quantizer with another step gives; the gradient of the step is that of LSQ."""
    return quantizer(x / factor, *more) * factor if x.is_floating_point() else x


def _times(grid: Grid, factor: Tensor) -> Grid:
    factor = factor.detach()
    return grid._replace(scale=grid.scale * factor, clip=None if grid.clip is None else grid.clip * factor)
