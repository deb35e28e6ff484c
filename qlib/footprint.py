"""What a network costs under a configuration: bits and bytes of weights and feature maps.

Counted as in the paper's table 2: the weights of convolution and linear layers, and as feature maps the outputs of convolution,
addition and linear layers, per image; no scales, no biases. What the placement leaves in float counts 32 bits. Decimal units:
1 MB is 10^6 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from .config import Bits, QuantConfig
from .graph import Kind, Network, read
from .placement import place

FLOAT_BITS = 32


@dataclass(frozen=True)
class Layer:
    """One operation. ``weight_bits``, ``activation_bits``: means over channels; ``counted``: as a feature map."""

    name: str
    kind: str
    weight_elements: int
    weight_bits: float
    activation_elements: int
    activation_bits: float
    counted: bool

    @property
    def weight_bytes(self) -> float:
        return self.weight_elements * self.weight_bits / 8

    @property
    def activation_bytes(self) -> float:
        return self.activation_elements * self.activation_bits / 8


@dataclass(frozen=True)
class Footprint:
    """Sums over ``layers``; bytes are floats, activations are per image. ``in_float``: what computes in float whatever the
    configuration, such as ``LayerNorm`` and ``softmax``."""

    layers: tuple[Layer, ...]
    in_float: tuple[str, ...] = ()

    @property
    def _maps(self) -> list[Layer]:
        return [layer for layer in self.layers if layer.counted]

    @property
    def weight_elements(self) -> int:
        return sum(layer.weight_elements for layer in self.layers)

    @property
    def activation_elements(self) -> int:
        return sum(layer.activation_elements for layer in self._maps)

    @property
    def weight_bytes(self) -> float:
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def activation_bytes(self) -> float:
        return sum(layer.activation_bytes for layer in self._maps)

    @property
    def max_activation_bytes(self) -> float:
        return max(layer.activation_bytes for layer in self._maps)

    @property
    def average_weight_bits(self) -> float:
        """Weighted by the number of elements."""
        return 8 * self.weight_bytes / self.weight_elements

    @property
    def average_activation_bits(self) -> float:
        """Weighted by the number of elements."""
        return 8 * self.activation_bytes / self.activation_elements

    def __str__(self) -> str:
        return (f"weights {self.weight_bytes / 1e6:.3f} MB ({self.average_weight_bits:.3f} bits), feature maps "
                f"{self.activation_bytes / 1e6:.3f} MB ({self.average_activation_bits:.3f} bits), largest "
                f"{self.max_activation_bytes / 1e3:.1f} kB")


def footprint(model: nn.Module, example_input: Tensor, config: QuantConfig) -> Footprint:
    """The cost of ``model`` under ``config``, from shapes alone (nothing is computed).

    ``example_input``: a float batch ``(n, ...)`` of any size; its values do not matter. Raises ``ValueError`` like
    `qlib.quantize`.
    """
    if not isinstance(example_input, Tensor) or example_input.dim() < 2:
        what = tuple(example_input.shape) if isinstance(example_input, Tensor) else f"a {type(example_input).__name__}"
        raise ValueError(f"example_input must be a batch of inputs, a tensor (n, ...), got {what}")
    network = read(model)
    network.module.to("meta")
    placement = place(network, config)
    shapes = _Shapes(network.module)
    shapes.run(example_input.to("meta"))
    images, seen, layers = len(example_input), set(), []
    for operation in network.listed():
        shape = shapes.of.get(operation.result)
        weight_elements, weight_bits = 0, 0.0
        if operation.kind is Kind.WEIGHT and operation.node.target not in seen:
            seen.add(operation.node.target)
            weight = network.module.get_submodule(operation.node.target).weight
            weight_elements, weight_bits = weight.numel(), _mean(placement.weight_bits.get(operation.node.target))
        elements = 0 if shape is None else shape.numel() // images
        bits = _mean(placement.feature_maps[operation.name])
        layers.append(
            Layer(operation.name, operation.kind.value, weight_elements, weight_bits, elements, bits, operation.counted))
    in_float = dict.fromkeys(_called(o.node, network) for o in network.listed() if o.kind is Kind.OTHER)
    return Footprint(tuple(layers), tuple(in_float))


def _called(node: fx.Node, network: Network) -> str:
    if node.op == "call_module":
        return type(network.module.get_submodule(node.target)).__name__
    return node.target if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))


def _mean(bits: Bits | None) -> float:
    if bits is None:
        return FLOAT_BITS
    return sum(bits) / len(bits) if isinstance(bits, tuple) else bits


class _Shapes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.of: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node):
        try:
            result = super().run_node(n)
        except RuntimeError as error:
            raise ValueError(f"the example input does not fit the network at {n.target}: {str(error).splitlines()[0]}") from error
        if isinstance(result, Tensor):
            self.of[n] = result.shape
        return result
