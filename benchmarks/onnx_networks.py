"""Two small networks as ONNX graphs under any choices of a card: one of convolutions with residual additions,
pooling and a linear layer at its end, and one of linear layers as a transformer has them.

Written out by hand rather than with `qlib export`, since ONNX can say more than `qlib` quantizes. Weights are
random numbers: only what a runtime makes of the graph counts here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

USUAL = {  # what integer kernels like best; every other network differs from it in what a statement says
    "quantizer": "uniform",
    "weight_bits": 8,
    "activation_bits": 8,
    "weight_symmetric": True,
    "activation_symmetric": False,
    "symmetric_grid": "full",
    "weight_granularity": "per_channel",
    "activation_granularity": "per_tensor",
    "activation_dynamic": False,
    "quantize_skip": True,
    "quantize_residual": True,
    "pooling": "high_precision",
    "input_bits": 8,
    "quantize_output": True,
    "batch_norm": "folded",
    "bias": "float",
    "first_last_bits": 8,
    # And what no card says
    "function": "Relu",
    "depthwise": False,
}
BITS = ("weight_bits", "activation_bits", "input_bits", "first_last_bits")
FLOAT = {**USUAL, **dict.fromkeys(BITS, "float")}
GROUP = 32
CHANNELS, PIXELS, BLOCKS, CLASSES = 64, 32, 2, 100
FEATURES, TOKENS, LAYERS = 512, 8, 4


class NoType(ValueError):
    """ONNX has no integer type of so many bits."""


def residual(choices: Mapping[str, Any]) -> onnx.ModelProto:
    """Convolutions, additions, pooling, a linear layer. Input ``(1, 3, 32, 32)``."""
    graph = Graph(choices, axis=1)
    of = graph.choices
    ends, bits = of["first_last_bits"], of["weight_bits"]
    x = graph.quantized("input", 3, "float" if ends == "float" else of["input_bits"])
    function, positive = of["function"], of["function"] == "Relu"
    before = graph.op(function, graph.convolution(x, 3, ends))
    x = graph.quantized(before, CHANNELS, positive=positive)
    for _ in range(BLOCKS):
        inner = graph.op(function, graph.convolution(x, CHANNELS, bits))
        branch = graph.convolution(graph.quantized(inner, CHANNELS, positive=positive), CHANNELS, bits)
        branch = graph.quantized(branch, CHANNELS) if of["quantize_residual"] else branch
        before = graph.op(function, graph.op("Add", branch, x if of["quantize_skip"] else before))
        x = graph.quantized(before, CHANNELS, positive=positive)
    y = graph.linear(graph.pooled(x), (CHANNELS, CLASSES), ends)
    y = graph.quantized(y, CLASSES) if of["quantize_output"] and ends != "float" else y
    return graph.model(y, (1, 3, PIXELS, PIXELS), (1, CLASSES))


def linear(choices: Mapping[str, Any]) -> onnx.ModelProto:
    """Four linear layers. Input ``(1, 8, 512)``: three axes and no ReLU, as in a transformer."""
    graph = Graph(choices, axis=2)
    x = graph.quantized("input", FEATURES, graph.choices["input_bits"])
    for _ in range(LAYERS):
        y = graph.linear(x, (FEATURES, FEATURES), graph.choices["weight_bits"])
        x = graph.quantized(y, FEATURES)
    return graph.model(x, (1, TOKENS, FEATURES), (1, TOKENS, FEATURES))


class Graph:
    """Nodes and constants of a graph that is being written. What a method takes and gives is the name of a
    tensor; channels are on the ``axis`` of its activations.
    """

    def __init__(self, choices: Mapping[str, Any], axis: int):
        self.choices = {**USUAL, **choices}
        self.axis = axis
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.random = np.random.default_rng(0)
        self.grids: dict[str, tuple[str, str]] = {}  # scale and zero-point of what is quantized

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node's output, or its outputs."""
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, values: Any, kind: int = TensorProto.FLOAT) -> str:
        array = np.asarray(values).astype(helper.tensor_dtype_to_np_dtype(kind))
        name = f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def pair(self, x: str, scale: str, zero: str) -> str:
        """``x`` behind QuantizeLinear and DequantizeLinear."""
        axis = {"axis": self.axis} if self.constants[scale].dims else {}
        codes = self.op("QuantizeLinear", x, scale, zero, **axis)
        name = self.op("DequantizeLinear", codes, scale, zero, **axis)
        self.grids[name] = (scale, zero)
        return name

    def grid(self, channels: int, bits: int | str, positive: bool) -> tuple[str, str]:
        """Scale and zero-point of activations."""
        symmetric = self.choices["activation_symmetric"]
        shape = channels if self.choices["activation_granularity"] == "per_channel" else ()
        zero = 0 if symmetric or positive else 2 ** (bits - 1)
        kind = integer(bits, symmetric)
        return self.constant(np.full(shape, 8 / 2**bits)), self.constant(np.full(shape, zero), kind)

    def quantized(self, x: str, channels: int, bits: int | str | None = None, positive: bool = False) -> str:
        """``x`` on a grid, if it has a static one; ``positive`` behind a ReLU."""
        bits = self.choices["activation_bits"] if bits is None else bits
        if bits == "float" or self.choices["activation_dynamic"]:
            return x
        grid = self.grid(channels, bits, positive)
        if self.choices["activation_symmetric"] and self.choices["symmetric_grid"] == "restricted":
            x = self.op("Max", x, self.constant(8 / 2**bits - 4))  # one code less than the type has
        return self.pair(x, *grid)

    def weight(self, shape: tuple[int, ...], bits: int | str, out: int) -> tuple[str, str, str]:
        """Codes, scale and zero-point of a weight; ``out`` is the axis of its output channels."""
        values = self.random.normal(size=shape) / np.sqrt(np.prod(shape) / shape[out])
        symmetric = self.choices["weight_symmetric"]
        kind = integer(bits, symmetric)
        step = 2 * np.abs(values).max() / 2**bits
        zero = 0 if symmetric else 2 ** (bits - 1)
        lowest = zero - 2 ** (bits - 1) + (self.choices["symmetric_grid"] == "restricted")
        codes = np.clip(np.round(values / step) + zero, lowest, zero + 2 ** (bits - 1) - 1)
        groups = tuple(n if axis == out else n // GROUP for axis, n in enumerate(shape))
        ranges = {"per_tensor": (), "per_channel": shape[out], "per_group": groups}
        size = ranges[self.choices["weight_granularity"]]
        grid = self.constant(np.full(size, step)), self.constant(np.full(size, zero), kind)
        return self.constant(codes, kind), *grid

    def dequantized(self, shape: tuple[int, ...], bits: int | str, out: int) -> str:
        """A weight as an ordinary operator takes it: behind a DequantizeLinear, if it has codes."""
        if bits == "float":
            return self.constant(self.random.normal(size=shape) / np.sqrt(np.prod(shape) / shape[out]))
        axes = {"per_channel": {"axis": out}, "per_group": {"axis": 1 - out, "block_size": GROUP}}
        axis = axes.get(self.choices["weight_granularity"], {})
        return self.op("DequantizeLinear", *self.weight(shape, bits, out), **axis)

    def convolution(self, x: str, channels: int, bits: int | str) -> str:
        """Three by three, with a bias; each channel by itself in a block that is ``depthwise``."""
        groups = channels if self.choices["depthwise"] and channels == CHANNELS else 1
        shape = (CHANNELS, channels // groups, 3, 3)
        if self.choices["activation_dynamic"] and bits != "float":
            y = self.dynamic("ConvInteger", x, self.weight(shape, bits, 0), pads=[1] * 4)
            return self.op("Add", y, self.constant(np.full((CHANNELS, 1, 1), 0.01)))
        weight = self.dequantized(shape, bits, 0)
        y = self.op("Conv", x, weight, self.bias(x, weight, CHANNELS), pads=[1] * 4, group=groups)
        if self.choices["batch_norm"] == "separate":
            y = self.op("BatchNormalization", y, *[self.constant(np.ones(CHANNELS)) for _ in range(4)])
        return y

    def linear(self, x: str, shape: tuple[int, int], bits: int | str) -> str:
        """A linear layer: the classifier with a bias, as Gemm; others as MatMul alone."""
        if self.choices["activation_dynamic"] and bits != "float":
            return self.dynamic("MatMulInteger", x, self.weight(shape, bits, 1))
        weight = self.dequantized(shape, bits, 1)
        if shape[1] == CLASSES:
            return self.op("Gemm", x, weight, self.bias(x, weight, CLASSES))
        return self.op("MatMul", x, weight)

    def dynamic(self, kind: str, x: str, weight: tuple[str, str, str], **attributes: Any) -> str:
        """An operator on codes whose range is found when it runs, and its result in float."""
        codes, scale, zero = self.op("DynamicQuantizeLinear", x, outputs=3)
        values, steps, zeros = weight
        if kind == "ConvInteger":
            if self.choices["weight_symmetric"]:  # one zero does for all channels
                zeros = self.constant(0, self.constants[values].data_type)
            if self.constants[steps].dims:
                steps = self.constant(numpy_helper.to_array(self.constants[steps]).reshape(-1, 1, 1))
        products = self.op(kind, codes, values, zero, zeros, **attributes)
        return self.op("Mul", self.op("Cast", products, to=TensorProto.FLOAT), self.op("Mul", scale, steps))

    def bias(self, x: str, weight: str, channels: int) -> str:
        """In float, or as 32-bit codes on the grid of the layer's sums."""
        if self.choices["bias"] == "float":
            return self.constant(np.full(channels, 0.01))
        made = next(node for node in self.nodes if node.output[0] == weight)
        names = (made.input[1], *self.grids.get(x, ())[:1])  # of an input in float there is no scale
        scale = math.prod(numpy_helper.to_array(self.constants[name]) for name in names)
        steps = self.constant(np.broadcast_to(scale, channels))
        codes = self.constant(np.full(channels, 100), TensorProto.INT32)
        return self.op("DequantizeLinear", codes, steps, axis=0)

    def pooled(self, x: str) -> str:
        """The averages of all channels, flat, and on a grid again behind Flatten, so that what follows sees
        codes.
        """
        y = self.op("GlobalAveragePool", x)
        if x not in self.grids or self.choices["pooling"] == "float":
            return self.op("Flatten", y)
        finer = self.choices["pooling"] == "high_precision"
        grid = self.grid(CHANNELS, self.choices["activation_bits"], True) if finer else self.grids[x]
        return self.pair(self.op("Flatten", self.pair(y, *grid)), *grid)

    def model(self, output: str, shape: tuple[int, ...], shape_out: tuple[int, ...]) -> onnx.ModelProto:
        """The whole model, checked."""
        kinds = {TensorProto.DataType.Name(tensor.data_type) for tensor in self.constants.values()}
        opset, version = (25, 13) if kinds & {"INT2", "UINT2"} else (21, 10)
        ends = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, size)]
            for name, size in (("input", shape), (output, shape_out))
        ]
        graph = helper.make_graph(self.nodes, "network", *ends, list(self.constants.values()))
        opsets = [helper.make_opsetid("", opset)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=version)
        onnx.checker.check_model(made)
        return made


def integer(bits: int | str, signed: bool) -> int:
    """ONNX's type of so many bits."""
    kind = getattr(TensorProto, f"{'' if signed else 'U'}INT{bits}", None)
    if kind is None:
        raise NoType(f"ONNX has no integer type of {bits} bits")
    return kind
