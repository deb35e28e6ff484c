"""What a network costs under a configuration: bits and bytes of weights and feature maps.

Counted as in the paper's table 2: the weights of convolution and linear layers, and as feature maps the
outputs of convolution, addition and linear layers, per image; no scales, no biases. Effective bits count the
scales of weights, too, and the zero-points of codes that are not symmetric (of those that are they are known,
and need not be stored). What the placement leaves in float counts 32 bits. Decimal units: 1 MB is 10^6 bytes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from .config import MAX_BITS, Bits, QuantConfig
from .network import Kind, Network, Operation, read
from .network.inputs import call, check_inputs, copied, device_of, examples_in, on, one_line
from .network.operations import label, layer_of, rows_of, same_tensor
from .placement import place

FLOAT_BITS = 32


@dataclass(frozen=True)
class Layer:
    """One operation.

    Parameters
    ----------
    name : str
        By which a configuration gives it bits.
    kind : str
        What it is, in words.
    weight_elements : int
        How many weights it has.
    weight_bits, activation_bits : float
        A mean over channels.
    activation_elements : int
        How many values an image it gives.
    counted : bool
        As a feature map.
    scales, zero_points : int
        How many its weights have, if they are quantized.
    """

    name: str
    kind: str
    weight_elements: int
    weight_bits: float
    activation_elements: int
    activation_bits: float
    counted: bool
    scales: int = 0
    zero_points: int = 0

    @property
    def scale_bytes(self) -> float:
        """Scales in float, and zero-points at the weights' bits."""
        quantized = self.weight_bits <= MAX_BITS
        return (FLOAT_BITS * self.scales + self.weight_bits * self.zero_points) / 8 if quantized else 0.0

    @property
    def weight_bytes(self) -> float:
        return self.weight_elements * self.weight_bits / 8

    @property
    def activation_bytes(self) -> float:
        return self.activation_elements * self.activation_bits / 8


@dataclass(frozen=True)
class Footprint:
    """Sums over layers; bytes are floats, activations are per image.

    Parameters
    ----------
    layers : tuple of Layer
        What is summed.
    in_float : tuple of str
        What computes in float whatever the configuration, such as ``LayerNorm`` and ``softmax``.
    folded : tuple of str
        The layers that a batch norm is folded into when they are quantized.
    """

    layers: tuple[Layer, ...]
    in_float: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()

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
    def scale_bytes(self) -> float:
        """What the scales and zero-points of the weights take."""
        return sum(layer.scale_bytes for layer in self.layers)

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
    def effective_weight_bits(self) -> float:
        """`average_weight_bits` with scales and zero-points counted."""
        return 8 * (self.weight_bytes + self.scale_bytes) / self.weight_elements

    @property
    def average_activation_bits(self) -> float:
        """Weighted by the number of elements."""
        return 8 * self.activation_bytes / self.activation_elements

    def __str__(self) -> str:
        return (
            f"weights {self.weight_bytes / 1e6:.3f} MB ({self.average_weight_bits:.3f} bits), feature maps "
            f"{self.activation_bytes / 1e6:.3f} MB ({self.average_activation_bits:.3f} bits), largest "
            f"{self.max_activation_bytes / 1e3:.1f} kB"
        )


def footprint(model: nn.Module | Network, example_input: Any, config: QuantConfig) -> Footprint:
    """The cost of ``model`` under ``config``, from shapes alone.

    Nothing is computed where shapes follow from shapes, and nothing is compared: whether the network was read
    rightly is seen by `qlib.quantize`.

    Parameters
    ----------
    model : nn.Module or Network
        The float network.
    example_input : Tensor, tuple or dict
        A batch ``(n, ...)`` of any size, or several inputs; values do not matter.
    config : QuantConfig
        The choices.

    Returns
    -------
    Footprint
        A row for each operation. What ``float_layers`` leave in float counts 32 bits: modules that are looked
        into, a row for each of their operations; others, such as recurrent layers, one for their weights and
        output.

    Raises
    ------
    ValueError
        Like `qlib.quantize`.

    Source
    ------
    Table 2.
    """
    check_inputs(
        example_input,
        "example_input",
        "a batch of inputs, a tensor (n, ...), or a tuple or dictionary of such",
    )
    if not examples_in(example_input):
        raise ValueError("example_input holds no examples: pass a batch of one or more")
    network = read(model, example_input, config.float_layers)
    placement = place(network, config)
    shapes = _shapes(network.module, example_input)
    examples = examples_in(example_input)
    seen = set()
    layers = []
    for operation in network.listed():
        weights = [w for w in network.weights_of(operation) if same_tensor(w) not in seen]
        seen.update(map(same_tensor, weights))
        weight_bits = _mean(placement.weight_bits.get(operation.node.target)) if weights else 0.0
        scales = sum(_ranges(w, operation, network, config) for w in weights)
        elements = sum(shape.numel() for shape in shapes.get(operation.result, ())) // examples
        bits = _mean(placement.feature_maps[operation.name])
        layers.append(
            Layer(
                operation.name,
                kind_in_words(operation),
                sum(w.numel() for w in weights),
                weight_bits,
                elements,
                bits,
                operation.counted,
                scales,
                0 if config.weight_symmetric else scales,
            )
        )
    in_float = dict.fromkeys(_called(o.node, network) for o in network.listed() if o.kind is Kind.OTHER)
    return Footprint(tuple(layers), tuple(in_float), tuple(network.folds))


def _ranges(weight: Tensor, operation: Operation, network: Network, config: QuantConfig) -> int:
    layer = layer_of(operation.node, network.module)
    if config.weight_granularity == "per_tensor" or layer is None:
        return 1
    rows = rows_of(weight, layer).flatten(1)
    return len(rows) * (
        -(-rows.shape[1] // config.group_size) if config.weight_granularity == "per_group" else 1
    )


def kind_in_words(operation: Operation) -> str:
    """What an operation is, and whether it was left in float."""
    return "left in float" if operation.in_float else operation.kind.value


def _called(node: fx.Node, network: Network) -> str:
    layer = layer_of(node, network.module)
    return label(node) if layer is None else type(layer).__name__


def _mean(bits: Bits | None) -> float:
    if bits is None:
        return FLOAT_BITS
    return sum(bits) / len(bits) if isinstance(bits, tuple) else bits


class _Shapes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.of: dict[fx.Node, tuple[torch.Size, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except (RuntimeError, TypeError, IndexError) as error:
            raise ValueError(
                f"the example input does not fit the network at {n.target}: {one_line(error)}"
            ) from error
        self.of[n] = tuple(t.shape for t in pytree.tree_leaves(result) if isinstance(t, Tensor))
        return result


def _shapes(module: fx.GraphModule, example_input: Any) -> dict[fx.Node, tuple[torch.Size, ...]]:
    """The shapes of the tensors that every node gives, found without computing, or by computing where values
    decide.
    """
    names = [n.target for n in module.graph.nodes if n.op == "placeholder"]
    found = _Shapes(copy.deepcopy(module).to("meta"))
    try:
        with torch.no_grad(), torch.device("meta"):
            call(found.run, on(example_input, torch.device("meta")), names)
    except ValueError:
        found = _Shapes(module)
        with torch.no_grad():
            call(found.run, copied(on(example_input, device_of(module))), names)
        return found.of
    there = dict(zip(found.module.graph.nodes, module.graph.nodes, strict=True))
    return {there[node]: shapes for node, shapes in found.of.items()}
