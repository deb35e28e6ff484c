"""Bits from sizes alone: what fits where no feature map may be larger than a limit (observation 6)."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..config import MAX_LAYER_BITS, QuantConfig
from ..footprints import Layer, footprint
from ..network import Network, read
from ..placement import place


def analytic_bitwidths(
    model: nn.Module | Network, example_input: Any, config: QuantConfig, max_activation_bytes: float
) -> QuantConfig:
    """The most activation bits per tensor that keep every feature map within a size per image.

    Poolings are held to the limit too. The last layer keeps ``config.first_last_bits`` unless that is
    ``None``; the first, whose map is among the largest, does not. ``config.bit_choices`` do not bind these
    bits. Equal maxima hide very different totals: compare `footprint`.

    Parameters
    ----------
    model : nn.Module or Network
        The float network.
    example_input : Tensor, tuple or dict
        A float batch ``(n, ...)``; its values do not matter.
    config : QuantConfig
        Everything but the activation bits.
    max_activation_bytes : float
        The limit.

    Returns
    -------
    QuantConfig
        ``config`` with activation bits by tensor, 32 at most; 17 and more stay in float and count at their
        bits.

    Raises
    ------
    ValueError
        Naming the tensor, if one does not fit, or stays in float.

    Source
    ------
    Observation 6 and appendix B.
    """
    network = read(model, example_input, config.float_layers)
    placement = place(network, config)
    least = 1 + config.activation_symmetric
    left = {o.name for o in network.listed() if o.node in placement.in_float}
    last = next(o.name for o in network.listed() if o.node.target == placement.last)
    bits = {}
    for layer in footprint(network, example_input, config).layers:
        if placement.feature_maps[layer.name] is None:
            if layer.counted and layer.name not in left:
                raise ValueError(
                    f"{layer.name!r} stays in float under this configuration: it has no bits to choose"
                )
            continue
        fitting = min(int(8 * max_activation_bytes / layer.activation_elements + 1e-9), MAX_LAYER_BITS)
        kept = config.first_last_bits if layer.name == last else None
        bits[layer.name] = kept or fitting
        needed = max(bits[layer.name], least)
        if fitting < needed:
            raise ValueError(_too_large(layer, needed, max_activation_bytes))
    return config.replace(activation_bits=bits)


def _too_large(layer: Layer, bits: int, limit: float) -> str:
    return (
        f"the feature map of {layer.name!r} has {layer.activation_elements:,} values, at {bits} bit(s) "
        f"{layer.activation_elements * bits / 8:,.0f} bytes: more than the {limit:,.0f} allowed"
    )
