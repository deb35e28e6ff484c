"""The graph of an ONNX file, and what it shows of quantization. Needs the extra ``onnx``.

Both ways in which ONNX writes quantization are read: pairs of QuantizeLinear and DequantizeLinear around
ordinary operators (QDQ), and operators on codes (QLinearConv and its kin, MatMulInteger and ConvInteger
behind DynamicQuantizeLinear).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .fields import NOT_REPORTED

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Inputs: x, its scale and zero-point, w, its scale and zero-point
CODE_LAYERS = ("QLinearConv", "QLinearMatMul", "QGemm")
DYNAMIC_LAYERS = ("ConvInteger", "MatMulInteger")
WEIGHTED = (*LAYERS, *CODE_LAYERS, *DYNAMIC_LAYERS)
ADDITIONS = ("Add", "QLinearAdd")
POOLINGS = (
    "AveragePool",
    "GlobalAveragePool",
    "ReduceMean",
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
)
KEEP_GRID = ("MaxPool", "Flatten", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Transpose", "Pad")
LIMITS = ("Clip", "Max", "Min")  # what a grid that is narrower than its type needs before it
FLOAT = 32


@dataclass(frozen=True)
class Codes:
    """A grid of codes: its bits, whether its zero-point is 0 by type and value, and whether it has a scale
    per channel.
    """

    bits: int
    symmetric: bool
    per_channel: bool
    dynamic: bool = False


@dataclass(frozen=True)
class Layer:
    """A layer with weights: the codes of its input and of its weights, ``None`` for float, and its number of
    weights.
    """

    name: str
    inputs: Codes | None
    weights: Codes | None
    elements: int
    lowest: bool  # whether some weight has the lowest code that its bits allow


class Graph:
    """An ONNX graph, with questions that it can answer."""

    def __init__(self, path: str | Path):
        try:
            import onnx
        except ImportError:
            raise ValueError(
                'reading ONNX needs the package onnx: pip install "quantization-tradeoffs[onnx]"'
            ) from None
        try:
            model = onnx.load(str(path), load_external_data=False)  # never follow a path that the file names
            # So that nodes have their inputs and there is no circle among them
            onnx.checker.check_model(model)
            nodes = list(model.graph.node)
        except OSError:
            raise
        except Exception as error:  # whatever the parser makes of a stranger's bytes
            raise ValueError(f"{path} is not an ONNX model ({type(error).__name__})") from None
        if not nodes:
            raise ValueError(f"{path} is not an ONNX model: its graph is empty")
        self.onnx = onnx
        self.graph = model.graph
        self.nodes = nodes
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                self.constants[node.output[0]] = node.attribute[0].t
        self.producer = {output: node for node in nodes for output in node.output}
        self.inputs = {value.name for value in model.graph.input} - set(self.constants)

    def constant(self, name: str) -> Any:
        """The tensor that ``name`` stands for, seen through Identity; ``None`` if it is computed."""
        while (
            name not in self.constants and name in self.producer and self.producer[name].op_type == "Identity"
        ):
            name = self.producer[name].input[0]
        return self.constants.get(name)

    def array(self, name: str) -> np.ndarray | None:
        tensor = self.constant(name)
        if tensor is None or tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            return None
        return self.onnx.numpy_helper.to_array(tensor)

    def bits(self, tensor: Any) -> tuple[int, bool]:
        """Bits and signedness of an integer type; 8 bits without sign, ONNX's default, if there is none."""
        name = self.onnx.TensorProto.DataType.Name(tensor.data_type) if tensor is not None else "UINT8"
        digits = name.lstrip("UINT")
        if not digits.isdigit():
            raise ValueError(f"codes of type {name} are not integers: a card cannot describe them")
        return int(digits), name.startswith("INT")

    def codes(self, scale: str, zero_point: str | None, dynamic: bool = False) -> Codes:
        zeros = self.array(zero_point or "")
        tensor = self.constant(zero_point or "")
        scales = self.constant(scale)
        bits, signed = self.bits(tensor)
        symmetric = signed and (zeros is None or not zeros.astype(np.int64).any())
        return Codes(bits, symmetric, scales is not None and int(np.prod(scales.dims)) > 1, dynamic)

    def quantized(self, tensor: str) -> Codes | None:
        """The codes of an ordinary operator's input; ``None`` if it is float."""
        node = self.producer.get(tensor)
        while node is not None and node.op_type in KEEP_GRID:
            node = self.producer.get(node.input[0])
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return self.codes(node.input[1], node.input[2] if len(node.input) > 2 else None)

    @cached_property
    def layers(self) -> list[Layer]:
        found = [self._layer(node) for node in self.nodes if node.op_type in WEIGHTED]
        found = [layer for layer in found if layer is not None]
        if not found:
            raise ValueError("the graph has no convolution and no linear layer with constant weights")
        return found

    def _layer(self, node: Any) -> Layer | None:
        name = node.name or node.output[0]
        if node.op_type in CODE_LAYERS:
            weight = node.input[3]
            inputs = self.codes(*node.input[1:3])
            weights = self.codes(*node.input[4:6])
        elif node.op_type in DYNAMIC_LAYERS:
            weight = node.input[1]
            weights = self.codes(
                self._dynamic_scale(node) or "", node.input[3] if len(node.input) > 3 else None
            )
            inputs = self.codes("", node.input[2] if len(node.input) > 2 else None, dynamic=True)
        else:
            inputs = self.quantized(node.input[0])
            weights = self.quantized(node.input[1])
            weight = node.input[1]
            if weights is not None:
                weight = self.producer[weight].input[0]
                made = self.producer.get(weight)
                if made is not None and made.op_type == "QuantizeLinear":
                    weight = made.input[0]
        tensor = self.constant(weight)
        if tensor is None:  # a product of two activations
            return None
        values = self.array(weight)
        lowest = (
            values is not None
            and values.dtype.kind == "i"
            and bool((values == np.iinfo(values.dtype).min).any())
        )
        return Layer(name, inputs, weights, int(np.prod(tensor.dims)), lowest)

    def _dynamic_scale(self, node: Any) -> str | None:
        """The constant scale that is multiplied with the run-time one of a dynamically quantized layer."""
        ranges = self.producer.get(node.input[0])
        for other in self.nodes:
            if ranges is not None and other.op_type == "Mul" and ranges.output[1] in other.input:
                (scale,) = [name for name in other.input if name != ranges.output[1]] or [None]
                if scale is not None and scale.rsplit("_", 1)[0] == node.input[1].rsplit("_", 1)[0]:
                    return scale
        return None

    def origin(self, node: Any) -> str:
        """The layer, or other node, whose values a node quantizes, seen through activation functions; "" for
        the input.
        """
        while node is not None and node.op_type in (
            "QuantizeLinear",
            "DynamicQuantizeLinear",
            "Relu",
            *LIMITS,
            *KEEP_GRID,
        ):
            node = self.producer.get(node.input[0])
        return "" if node is None else node.name or node.output[0]

    def before(self, tensor: str) -> dict[int, Any]:
        """Every node that ``tensor`` depends on, by identity."""
        found = {}
        waiting = [tensor]
        while waiting:
            node = self.producer.get(waiting.pop())
            if node is not None and id(node) not in found:
                found[id(node)] = node
                waiting += node.input
        return found

    def additions(self) -> list[tuple[bool, bool]]:
        """Of every addition of two activations, whether the skip and whether the residual operand enter
        quantized. The residual is the operand with more layers on its own branch.
        """
        found = []
        for node in self.nodes:
            if node.op_type not in ADDITIONS:
                continue
            operands = [node.input[0], node.input[3 if node.op_type == "QLinearAdd" else 1]]
            paths = [self.before(name) for name in operands]
            needed = [
                {name, *(i for n in path.values() for i in n.input)}
                for name, path in zip(operands, paths, strict=True)
            ]
            if not all(self.inputs & names for names in needed):
                continue  # a bias, or another constant
            own = [
                sum(n.op_type in WEIGHTED for key, n in path.items() if key not in other)
                for path, other in zip(paths, paths[::-1], strict=True)
            ]
            quantized = [
                node.op_type == "QLinearAdd" or self.quantized(name) is not None for name in operands
            ]
            residual = int(own[1] > own[0])
            found.append((quantized[1 - residual], quantized[residual]))
        return found

    def pooling(self) -> str:
        modes = set()
        for node in self.nodes:
            if node.op_type.startswith("QLinear") and node.op_type in POOLINGS:
                modes.add("low_precision" if node.input[1:3] == node.input[3:5] else "high_precision")
            elif node.op_type in POOLINGS:
                after = [n for n in self.nodes if node.output[0] in n.input]
                after += [
                    n
                    for limit in after
                    if limit.op_type in LIMITS
                    for n in self.nodes
                    if limit.output[0] in n.input
                ]
                scales = {n.input[1] for n in after if n.op_type == "QuantizeLinear"}
                source = self.producer.get(node.input[0])
                same = (
                    source is not None
                    and source.op_type == "DequantizeLinear"
                    and scales == {source.input[1]}
                )
                modes.add("float" if not scales else "low_precision" if same else "high_precision")
        return modes.pop() if len(modes) == 1 else NOT_REPORTED

    def activations(self, between: tuple[str, str] | None = None) -> list[Codes]:
        """The codes of every tensor that is quantized at run time, and not constant; if the first and the
        last layer are given in ``between``, without the network's input and what these two give.
        """
        found = []
        for node in self.nodes:
            if between is not None and node.op_type != "QLinearAdd" and self.origin(node) in ("", *between):
                continue
            if node.op_type == "QuantizeLinear" and self.constant(node.input[0]) is None:
                found.append(self.codes(node.input[1], node.input[2] if len(node.input) > 2 else None))
            elif node.op_type.startswith("QLinear"):
                # The output's scale and zero-point follow those of the operands
                i = 3 if node.op_type in POOLINGS else 6
                found.append(self.codes(*node.input[i : i + 2]))
            elif node.op_type == "DynamicQuantizeLinear":
                found.append(Codes(8, False, False, dynamic=True))
        return found
