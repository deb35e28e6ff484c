"""SmoothQuant: channels with large activations are made smaller, and the weights that read them larger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..choices import choice
from .method import Method, Work

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Smooth(Method):
    """Where a norm, or a layer with only ReLU and the like behind it, is read by layers alone, each channel
    is divided by ``a ** strength / w ** (1 - strength)``, and the weights that read it are multiplied: ``a``
    is the channel's largest magnitude over the calibration data, ``w`` that of these weights. The network
    computes what it did, and activations fit one range better.

    Layers behind which another activation function stands are left as they are, which a warning says.

    Parameters
    ----------
    strength : float
        How much of the spread of activations goes over to weights: 0 none of it, 1 all. Published: 0.5.

    Source
    ------
    Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
    Models", equation 4.
    """

    stage: ClassVar[str] = "before ranges"
    words: ClassVar[Mapping[str, Any]] = {"technique": "activations scaled into weights"}
    strength: float = choice(
        0.5, "Strength", "How much of the spread of activations goes over to weights.", least=0, most=1
    )

    def apply(self, work: Work) -> None:
        import torch

        from ..network.chains import inputs_first, largest, rescale, scalable

        self.ask(work, "activation")
        module = work.network.module
        chains = scalable(work.network, "smooth", norms=True)
        with torch.no_grad():
            given = _largest_inputs(work, {name for chain in chains for name in chain.after})
            for chain in chains:
                channels = _outputs(module.get_submodule(chain.before))
                after = [inputs_first(module.get_submodule(name), channels) for name in chain.after]
                weights = torch.stack([largest(rows) for rows in after]).amax(0)
                activations = torch.stack(
                    [given[name].reshape(channels, -1).amax(1) for name in chain.after]
                ).amax(0)
                rescale(work.network, chain, activations**self.strength / weights ** (1 - self.strength))


def _outputs(layer: Any) -> int:
    """How many channels a layer or norm gives."""
    from ..network.operations import rows_of

    return len(rows_of(layer.weight, layer))


def _largest_inputs(work: Work, layers: set[str]) -> dict[str, Tensor]:
    """By layer, the largest magnitude of each channel that it is given."""
    import torch
    from torch import nn

    from ..network.operations import data_of
    from ..network.steps import first_calls
    from ..quantizer import rows_by_channel

    found: dict[str, Tensor] = {}
    for batch in work.batches:
        for name, node, (run,) in first_calls(work.network, [batch], layers):
            axis = -1 if isinstance(work.network.module.get_submodule(name), nn.Linear) else 1
            here = rows_by_channel(run.env[data_of(node)], axis).abs().amax(1).float()
            found[name] = torch.maximum(found[name], here) if name in found else here
    return found
