"""What is not in integers, refused with its name and the choices that leave it in float."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from torch import fx

from ..affine import Grid
from ..config import MAX_BITS, QuantConfig
from ..network.operations import WEIGHT_LAYERS, is_instance, label, layer_of
from ..network.trace import TOP, place_of
from ..quantization import MADE_UNDER
from ..quantizer import Quantizer
from .sums import IntegerLayer

FLOATS = {  # by choice, the value that leaves no floats between the codes
    "quantize_residual": True,
    "quantize_skip": True,
    "quantize_output": True,
    "pooling": "high_precision",
    "input_bits": 8,
    "activation_bits": 8,
    "weight_bits": 8,
    "float_layers": (),
}


def integer_layers(quantized: fx.GraphModule) -> dict[str, IntegerLayer]:
    """By name, the convolution and linear layers, whose weights must have codes."""
    found = {}
    for node in quantized.graph.nodes:
        layer = layer_of(node, quantized)
        if layer is None or not is_instance(layer, WEIGHT_LAYERS) or node.target in found:
            continue
        grid = getattr(layer, "weight_grid", None)
        if grid is None:
            refuse(node.target, "has weights in float", quantized)
        _refuse_authors(f"the weights of {node.target!r}", grid)
        if quantized.meta[MADE_UNDER].weight_granularity == "per_group":
            raise ValueError(
                f"{node.target!r} has a range for every group of weights, over which integers cannot sum: "
                "use weight_granularity='per_channel' or 'per_tensor'"
            )
        found[node.target] = IntegerLayer(node.target, layer, grid)
    return found


def check_quantizers(quantized: fx.GraphModule) -> None:
    """Raises the error of a grid of activations that is not one, known beforehand, for the whole tensor."""
    quantizers = [m for m in quantized.modules() if isinstance(m, Quantizer)]
    if not quantizers:
        raise ValueError("activations are in float, which integers cannot: give them activation_bits")
    for quantizer in quantizers:
        if quantizer.config.activation_dynamic:
            raise ValueError(
                f"{quantizer.name!r} has a range for every example, which integers know only after they have "
                "the values: use activation_dynamic=False"
            )
        if quantizer.scale is None:  # it has seen no floats
            continue
        _refuse_authors(repr(quantizer.name), quantizer.grid)
        if max(part.numel() for part in quantizer.grid[:4]) > 1:
            raise ValueError(
                f"{quantizer.name!r} has a range for every channel, over which integers cannot sum: use "
                "activation_granularity='per_tensor', and one number of bits"
            )


def _refuse_authors(what: str, grid: Grid) -> None:
    if grid.clip is not None:
        raise ValueError(
            f"{what}: the grid 'authors' has more codes than so many bits have integers: use "
            "symmetric_grid='full' or 'restricted'"
        )


def refuse(name: str, what: str, quantized: fx.GraphModule) -> NoReturn:
    """Raises the error of what is not in integers, with the choices that leave it in float."""
    config = quantized.meta[MADE_UNDER]
    ways = [f"{field}={value!r}" for field, value in FLOATS.items() if _leaves_floats(config, field, value)]
    if _has_wide_bits(config):
        ways.append(f"{MAX_BITS} bits or fewer")
    raise ValueError(f"{name!r} {what}, which integers cannot{': use ' if ways else ''}{', '.join(ways)}")


def _has_wide_bits(config: QuantConfig) -> bool:
    """Whether a layer or tensor has so many bits that it stays in float."""
    tables = (t for t in (config.weight_bits, config.activation_bits) if isinstance(t, Mapping))
    return any(isinstance(bits, int) and bits > MAX_BITS for table in tables for bits in table.values())


def _leaves_floats(config: QuantConfig, field: str, value: Any) -> bool:
    given = getattr(config, field)
    return given is None if field.endswith("_bits") else given != value and given != "low_precision"


def name_of(node: fx.Node) -> str:
    """The layer's path, or the module's path and the operation's name."""
    if node.op == "call_module":
        return node.target
    place = place_of(node)
    return f"{'' if place == TOP else place + '.'}{label(node) or node.name}"
