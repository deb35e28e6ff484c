"""What lets ONNX Runtime put its integer kernels in the place of pairs and of what stands between them.

It fuses an operator whose inputs all come straight from DequantizeLinear, a bias as 32-bit codes included,
and whose output goes straight to QuantizeLinear. On x86 it does so for unsigned activations alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .changes import ROUNDED_BIAS, Change
from .writer import Codes, Writer, read_by

LAYERS = ("Conv", "Gemm")  # with a bias of their own
ON_CODES = ("MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice")
MOST = 2**31 - 1


def unsigned(codes: Codes) -> Codes:
    """The same grid of an activation in an unsigned type, whose zero-point is then in the middle."""
    if not codes.signed or codes.bits != 8 or codes.values is not None:
        return codes
    return replace(codes, signed=False, zero_point=codes.zero_point + 128, lowest=codes.lowest + 128)


def let_fuse(writer: Writer) -> list[Change]:
    """Change the nodes of ``writer`` so that ONNX Runtime fuses them; what that changes in the values.

    Raises ``ValueError`` naming the tensor for 4-bit values that it cannot load.
    """
    _refuse_4_bits(writer)
    _measure_codes(writer)
    _quantize_sooner(writer)
    _limit_codes(writer)
    _keep_codes(writer)
    return _round_biases(writer)


class Graph:
    """Who gives and who reads a value."""

    def __init__(self, writer: Writer):
        self.array = writer.array
        self.constants = writer.constants
        self.givers = {value: node for node in writer.nodes for value in node.output}
        self.readers: dict[str, list[Any]] = {value.name: [None] for value in writer.graph.output}
        for node in writer.nodes:
            for value in read_by(node):
                self.readers.setdefault(value, []).append(node)

    def reader(self, value: str) -> Any:
        """The one node that reads a value; ``None`` where there are more."""
        readers = self.readers.get(value, [])
        return readers[0] if len(readers) == 1 else None

    def dequantizer(self, value: str) -> Any:
        """The DequantizeLinear that gives ``value``, of 8 bits or none."""
        node = self.givers.get(value)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return node if self.has_8_bits(node) else None

    def entry(self, node: Any) -> Any:
        """The DequantizeLinear, of 8 bits, that a layer has before it, or ``None``. ONNX Runtime takes
        padding by zeros into a convolution behind it.
        """
        value = node.input[0]
        pad = self.givers.get(value)
        if node.op_type == "Conv" and self.reader(value) is node and pad is not None and self._zeros(pad):
            value = pad.input[0]
        return self.dequantizer(value)

    def _zeros(self, pad: Any) -> bool:
        """Whether a node pads by zeros."""
        from onnx import numpy_helper

        if pad.op_type != "Pad" or any(a.name == "mode" and a.s != b"constant" for a in pad.attribute):
            return False
        value = pad.input[2] if len(pad.input) > 2 else ""
        giver = self.givers.get(value)
        constant = giver is not None and giver.op_type == "Constant"
        array = numpy_helper.to_array(giver.attribute[0].t) if constant else self.array(value)
        return not value or (array is not None and not array.any())

    def between_4_bits(self, node: Any) -> bool:
        """Whether a layer goes from values of fewer than 8 bits to such, an activation function included."""
        given, reader = self.givers.get(node.input[0]), self.reader(node.output[0])
        if reader is not None and reader.op_type in ("Relu", "Clip"):
            reader = self.reader(reader.output[0])
        kinds = [getattr(one, "op_type", None) for one in (given, reader)]
        if kinds != ["DequantizeLinear", "QuantizeLinear"]:
            return False
        return not self.has_8_bits(given) and not self.has_8_bits(reader)

    def has_8_bits(self, node: Any) -> bool:
        """Whether a node quantizes to 8 bits, or from them."""
        from onnx import TensorProto

        return self.constants[node.input[2]].data_type in (TensorProto.INT8, TensorProto.UINT8)


def _refuse_4_bits(writer: Writer) -> None:
    """ONNX Runtime 1.32 fails where it optimizes max-pooling of 4-bit values, a clip before these, or a
    convolution from such values to such values with weights of 8 bits.
    """
    graph = Graph(writer)
    for node in writer.nodes:
        before = graph.givers.get(node.input[0]) if node.input else None
        if before is None:
            continue
        if node.op_type == "Conv" and graph.between_4_bits(node) and graph.dequantizer(node.input[1]):
            raise ValueError(
                f"ONNX Runtime cannot load {node.name!r} with 8-bit weights between 4-bit activations: give "
                "its weights 4 bits, or what enters or leaves it 8 bits in activation_bits, or write it "
                "exactly and run it without graph optimizations"
            )
        pooled = node.op_type == "MaxPool" and before.op_type == "DequantizeLinear"
        clipped = node.op_type == "QuantizeLinear" and before.op_type == "Clip"
        pair = before if pooled else node
        if (pooled or clipped) and not graph.has_8_bits(pair):
            raise ValueError(
                f"ONNX Runtime cannot load {pair.name.rpartition('/')[0]!r} with 4 bits, since "
                f"{(node if pooled else before).name!r} is beside it: give it 8 bits in activation_bits, or "
                "write it exactly and run it without graph optimizations"
            )


def _measure_codes(writer: Writer) -> None:
    """Let what asks for the shape of a value ask for that of its codes: nothing else may need the value."""
    graph = Graph(writer)
    codes: dict[str, str] = {}
    for node in writer.nodes:
        if node.op_type == "QuantizeLinear" and graph.has_8_bits(node):
            codes.setdefault(node.input[0], node.output[0])
        elif graph.dequantizer(node.output[0]) is node:
            codes[node.output[0]] = node.input[0]
        elif node.op_type == "Shape":
            node.input[0] = codes.get(node.input[0], node.input[0])


def _quantize_sooner(writer: Writer) -> None:
    """Let what keeps a grid, right before a quantizer, come behind it and work on codes: the same codes, and
    the operator before has its quantizer next to it.
    """
    graph = Graph(writer)
    order = list(writer.nodes)
    for node in reversed(writer.nodes):  # the last of several in a row comes first
        quantizer = graph.reader(node.output[0]) if node.op_type in ON_CODES else None
        given = graph.givers.get(node.input[0]) if node.input else None
        if quantizer is None or quantizer.op_type != "QuantizeLinear" or given is None:
            continue
        if given.op_type == "DequantizeLinear" or not graph.has_8_bits(quantizer):
            continue
        if len(node.output) > 1 or graph.array(quantizer.input[1]).ndim:
            continue
        before, between, codes = node.input[0], node.output[0], quantizer.output[0]
        quantizer.input[0], quantizer.output[0] = before, writer.names.free(f"{between}_before")
        node.input[0], node.output[0] = quantizer.output[0], codes
        order.remove(quantizer)
        order.insert(order.index(node), quantizer)
        graph.readers[before] = [r for r in graph.readers[before] if r is not node] + [quantizer]
    writer.nodes = order


def _limit_codes(writer: Writer) -> None:
    """Let what limits values right before a quantizer, such as a ReLU, limit their codes instead, or leave it
    out where the type does: the same codes, since rounding keeps order, and nothing stands between an
    operator and its quantizer.
    """
    graph = Graph(writer)
    limited: dict[str, tuple[str, list[int]]] = {}  # by quantizer, what limits its codes
    nodes = []
    for node in writer.nodes:
        if (quantizer := _quantizer_behind_limit(graph, node)) is not None:
            quantizer.input[0] = node.input[0]
            limits = [_code(graph, limit, quantizer) for limit in _limits(graph, node)]
            limited[quantizer.name] = node.name, limits
            continue
        nodes.append(node)
        if node.name in limited:
            nodes += _limit(writer, node, *limited[node.name])
    writer.nodes = nodes


def _quantizer_behind_limit(graph: Graph, node: Any) -> Any:
    """The one reader of a node that limits values, if it is a quantizer to 8 bits; else ``None``."""
    if node.op_type not in ("Relu", "Clip") or _limits(graph, node) is None:
        return None
    reader = graph.reader(node.output[0])
    if reader is None or reader.op_type != "QuantizeLinear":
        return None
    return reader if graph.has_8_bits(reader) else None


def _limits(graph: Graph, node: Any) -> list[float] | None:
    """The lowest and the highest value that a node lets through; ``None`` where they are computed."""
    limits = [0.0, np.inf] if node.op_type == "Relu" else [-np.inf, np.inf]
    for place, value in enumerate(node.input[1:]):
        if value:
            if (given := graph.array(value)) is None:
                return None
            limits[place] = float(given)
    return limits


def _code(graph: Graph, value: float, quantizer: Any) -> int:
    """As QuantizeLinear finds it."""
    scale, zero_point = (graph.array(name) for name in quantizer.input[1:])
    allowed = np.iinfo(zero_point.dtype)
    return int(np.clip(np.rint(np.float32(value) / scale) + zero_point, allowed.min, allowed.max))


def _limit(writer: Writer, quantizer: Any, name: str, limits: list[int]) -> list[Any]:
    """Nodes that limit the codes of a quantizer, where its type does not do so."""
    from onnx import helper

    kind = writer.constants[quantizer.input[2]].data_type
    allowed = np.iinfo(helper.tensor_dtype_to_np_dtype(kind))
    if limits == [allowed.min, allowed.max]:
        return []
    codes = quantizer.output[0]
    quantizer.output[0] = writer.names.free(f"{codes}_before_{name}")
    bounds = [
        writer.constant(f"{codes}_{word}", kind, code)
        for word, code in zip(("lowest", "highest"), limits, strict=True)
    ]
    return [helper.make_node("Clip", [quantizer.output[0], *bounds], [codes], name=name)]


def _keep_codes(writer: Writer) -> None:
    """Let what keeps a grid work on codes, so that what follows has DequantizeLinear before it."""
    graph = Graph(writer)
    outputs = {value.name for value in writer.graph.output}
    nodes, writer.nodes = writer.nodes, []
    for node in nodes:
        writer.nodes.append(node)
        if node.op_type not in ON_CODES or len(node.output) > 1 or outputs.intersection(node.output):
            continue
        before = graph.dequantizer(node.input[0])
        if before is None or graph.array(before.input[1]).ndim:
            continue
        value = node.output[0]
        node.input[0] = before.input[0]
        node.output[0] = writer.names.free(f"{value}_codes")
        behind = _dequantized(writer, before, node, value)
        writer.nodes.append(behind)
        graph.givers[value] = behind


def _dequantized(writer: Writer, before: Any, node: Any, value: str) -> Any:
    """A DequantizeLinear as ``before``, of the codes that ``node`` gives."""
    from onnx import helper

    name = writer.names.free(f"{node.name}/DequantizeLinear")
    return helper.make_node("DequantizeLinear", [node.output[0], *before.input[1:]], [value], name=name)


def _round_biases(writer: Writer) -> list[Change]:
    """Write biases as 32-bit codes on the grid of input times weight, as integer kernels add them."""
    graph = Graph(writer)
    changes = []
    nodes, writer.nodes = writer.nodes, []
    for node in nodes:
        scale = _scale_of_bias(graph, node)
        if scale is not None:
            bias = graph.array(node.input[2])
            codes = np.rint(bias / scale.astype(np.float64))
            if np.abs(codes).max() <= MOST:
                node.input[2] = _bias(writer, node.input[2], codes, scale)
                # As integer kernels add it, and as DequantizeLinear gives it
                found = codes * scale.astype(np.float64), codes.astype(np.float32) * scale
                most = max(float(np.abs(values - bias.astype(np.float64)).max()) for values in found)
                changes.append(Change(node.name, ROUNDED_BIAS, most))
        writer.nodes.append(node)
    return [change for change in changes if change.most > 0]


def _bias(writer: Writer, name: str, codes: np.ndarray, scale: np.ndarray) -> str:
    """The name of what DequantizeLinear gives for a bias."""
    return writer.weight(name, Codes(scale, np.zeros(scale.shape), 32, True, -MOST - 1, 0, codes))


def _scale_of_bias(graph: Graph, node: Any) -> np.ndarray | None:
    """That of the sums to which a layer adds its bias; ``None`` where nothing would be fused: where input or
    weight is no 8-bit code, or what it gives is not quantized; and where channels of the weight have other
    zero-points, of which ONNX Runtime rounds the bias itself.
    """
    if node.op_type not in LAYERS or len(node.input) < 3:
        return None
    entry, weight = graph.entry(node), graph.dequantizer(node.input[1])
    bias = graph.array(node.input[2])
    if entry is None or weight is None or bias is None or bias.ndim != 1:
        return None
    scale, zero_points = graph.array(entry.input[1]), graph.array(weight.input[2])
    reader = graph.reader(node.output[0])
    quantized = reader is not None and reader.op_type == "QuantizeLinear"
    if scale.ndim or np.unique(zero_points).size > 1 or not quantized:
        return None
    return (scale * graph.array(weight.input[1])).astype(np.float32)
