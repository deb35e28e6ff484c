"""Cross-layer equalization: channels with small weights are made larger, and the next layer undoes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..choices import choice
from .bias import add_to_bias
from .method import Method, Work

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..network.chains import Chain


@dataclass(frozen=True)
class Equalize(Method):
    """Between two layers with only ReLU and the like between them, each channel is scaled so that its weights
    in the first have the range of its weights in the second; pair by pair, until nothing changes any more.
    The network computes what it did, and one range fits all channels better.

    Of what several layers read, the largest range counts. Layers behind which another activation function
    stands (ReLU6, GELU) are left as they are, which a warning says. Then biases are absorbed: where a channel
    is hardly ever below a value above 0, before a ReLU, that value is taken from its bias and given to the
    next layer's, unless that one pads with zeros.

    Parameters
    ----------
    sweeps : int
        Through all pairs at most. Published: until nothing changes.
    absorb : bool
        Whether biases are absorbed, which looks at calibration data.
    deviations : float
        The value that is absorbed is the mean less so many standard deviations. Published: 3.

    Source
    ------
    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", sections 4.1
    and 4.1.3, with means and deviations that are measured rather than those of batch norm.
    """

    stage: ClassVar[str] = "before ranges"
    words: ClassVar[Mapping[str, Any]] = {"technique": "layers equalized"}
    sweeps: int = choice(50, "Sweeps", "Through all pairs of layers at most.", least=1)
    absorb: bool = choice(True, "Biases absorbed", "Whether the next layer takes over high biases.")
    deviations: float = choice(
        3.0, "Deviations", "By which what is absorbed lies below the mean.", least=0, most=100
    )

    def apply(self, work: Work) -> None:
        import torch

        from ..network.chains import inputs_first, largest, rescale, rows_of, scalable

        self.ask(work, data=self.absorb)
        module = work.network.module
        chains = scalable(work.network, "equalize", norms=False)
        with torch.no_grad():
            for _ in range(self.sweeps):
                change = 0.0
                for chain in chains:
                    layer = module.get_submodule(chain.before)
                    here = largest(rows_of(layer.weight.data, layer))
                    after = [inputs_first(module.get_submodule(name), len(here)) for name in chain.after]
                    there = torch.stack([largest(weights) for weights in after]).amax(0)
                    factor = (here / there).sqrt()
                    change = max(change, (factor.nan_to_num(1, 1) - 1).abs().amax().item())
                    rescale(work.network, chain, factor)
                if change < 1e-3:
                    break
            if self.absorb:
                self._absorb(work, chains)

    def card(self) -> dict[str, Any]:
        """Whether biases are absorbed."""
        return {"technique": "layers equalized" + (", high biases absorbed" if self.absorb else "")}

    def _absorb(self, work: Work, chains: list[Chain]) -> None:
        fit = {chain.before: chain for chain in chains if self._fits(work, chain)}
        heights = self._heights(work, set(fit))
        for name, height in ((name, height) for name, height in heights.items() if height.any()):
            add_to_bias(work.network.module.get_submodule(name), -height)
            for after in fit[name].after:
                layer = work.network.module.get_submodule(after)
                add_to_bias(layer, _constant(layer, height))

    def _fits(self, work: Work, chain: Chain) -> bool:
        """Whether a constant that is taken away before comes back whole: a ReLU lies between, and no
        padding.
        """
        from ..network.operations import TRANSPOSED, is_relu

        module = work.network.module
        relus = [is_relu(node, module) for node in chain.between]
        after = [module.get_submodule(name) for name in chain.after]
        padded = (isinstance(layer, TRANSPOSED) or _pads(layer) for layer in after)
        return bool(relus) and all(relus) and not any(padded)

    def _heights(self, work: Work, layers: set[str]) -> dict[str, Tensor]:
        """By layer, what nearly all values of each output channel are above, 0 or more."""
        from ..network.steps import first_calls
        from ..quantizer import rows_by_channel

        sums: dict[str, list[Any]] = {}
        for batch in work.batches:
            for name, node, (run,) in first_calls(work.network, [batch], layers):
                rows = rows_by_channel(run.env[node], work.network.channels.get(node))
                so_far = sums.get(name, [0, 0, 0])
                more = rows.shape[1], rows.sum(1), rows.square().sum(1)
                sums[name] = [a + b for a, b in zip(so_far, more, strict=True)]
        found = {}
        for name, (count, total, squares) in sums.items():
            mean = total / count
            deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
            found[name] = (mean - self.deviations * deviation).clamp(min=0)
        return found


def _pads(layer: nn.Module) -> bool:
    return any(getattr(layer, "_reversed_padding_repeated_twice", ()))


def _constant(layer: nn.Module, height: Tensor) -> Tensor:
    """What a layer without padding makes of channels that are constant."""
    from ..network.operations import rows_of

    groups = getattr(layer, "groups", 1)
    rows = rows_of(layer.weight.data, layer).double()
    rows = rows.reshape(groups, -1, rows.shape[1], rows[0, 0].numel()).sum(3)
    each = height.repeat_interleave(rows.shape[2] * groups // len(height)).reshape(groups, -1, 1)
    return (rows @ each).flatten()
