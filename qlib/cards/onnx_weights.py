"""Constants of an ONNX graph on their way to a layer: dequantized, turned, reshaped, packed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .onnx_codes import (
    UNREAD,
    CodeGrid,
    Stored,
    blocks_of,
    codes_of,
    dequantized,
    on_axis,
    rounded,
    stored_of,
    unread,
)
from .onnx_file import Constant
from .onnx_operators import INTEGER, KEEP_AXIS, KEEP_STORED, ON_CODES

if TYPE_CHECKING:
    from .onnx_graph import Graph


def attribute(node: Any, name: str, default: Any) -> Any:
    """An attribute of a node, where it has one of that name and of the default's type."""
    import onnx

    for given in node.attribute:
        if given.name == name:
            value = onnx.helper.get_attribute_value(given)
            return value if isinstance(value, type(default)) else default
    return default


def constant_value(graph: Graph, node: Any, name: str, place: int) -> Stored | None:
    """What a node makes that depends on no input of the network."""
    first = graph.given(node, 0).stored
    if not any(graph.value(given).stored for given in node.input):
        return None
    if first is None:
        return unread(name)
    if node.op_type in KEEP_STORED:
        return replace(first, axis=_moved(node, first), rank=_rank(node, first))
    if node.op_type == "QuantizeLinear" and first.codes is None:
        return _rounded(graph, node, first)
    if node.op_type == "DequantizeLinear":
        return _dequantized(graph, node, first)
    if node.op_type in ("Quant", "IntQuant", "BipolarQuant") and first.codes is None:
        scale = graph.constant(node, 1)
        codes = quant(graph, node)
        axis = None if scale is None else next((i for i, n in enumerate(scale.dims) if n > 1), None)
        return replace(first, codes=codes, scale=scale, axis=axis)
    if node.op_type == "Clip" and isinstance(first.codes, CodeGrid):  # a grid narrower than its type
        limited = graph.limited(node, first.codes)
        return replace(first, codes=limited, narrow=first.narrow if limited == first.codes else None)
    return unread(name)


def _rank(node: Any, stored: Stored) -> int:
    return stored.rank if node.op_type in (*KEEP_AXIS, "Transpose") else 0


def _moved(node: Any, stored: Stored) -> int | None:
    """Where the axis of the ranges goes; ``None`` where that is not followed."""
    if stored.axis is None or node.op_type in KEEP_AXIS:
        return stored.axis
    if node.op_type != "Transpose":
        return None
    order = list(attribute(node, "perm", [])) or list(range(stored.rank))[::-1]
    return order.index(stored.axis) if stored.axis in order else None


def _rounded(graph: Graph, node: Any, stored: Stored) -> Stored:
    """A constant in float that is quantized as the file runs."""
    kind = graph.kind_given(node, 2)
    given, scale, zero = (graph.constant(node, place) for place in range(3))
    if kind is None or given is None or attribute(node, "block_size", 0):
        return unread(stored.name)
    return rounded(given, kind, scale, zero, attribute(node, "axis", 1))


def _dequantized(graph: Graph, node: Any, stored: Stored) -> Stored:
    if isinstance(stored.codes, CodeGrid):  # quantized as the file runs
        return stored
    codes, scale, zero = (graph.constant(node, place) for place in range(3))
    if codes is None or graph.has(node, 2) and zero is None:
        return unread(stored.name)
    return dequantized(codes, scale, zero, attribute(node, "axis", 1), attribute(node, "block_size", 0))


def quant(graph: Graph, node: Any) -> CodeGrid | str:
    """The grid of QONNX's quantizers: scale, zero-point and bits are numbers among what they are given."""
    scale, zero, bits = graph.constant(node, 1), graph.constant(node, 2), graph.number(node, 3)
    if node.op_type == "BipolarQuant" or scale is None or zero is None or zero.values is None:
        return UNREAD  # two codes and no zero, or computed
    if bits is None or not 1 <= bits <= 32 or bits != int(bits):
        return UNREAD
    signed = bool(attribute(node, "signed", 1))
    middle = 0 if signed else 2 ** (int(bits) - 1)
    symmetric = frozenset([bool((zero.values == middle).all())])
    return replace(codes_of((int(bits), signed), scale, None), symmetric=symmetric)


def table_of(graph: Graph, node: Any) -> Stored | None:
    """The table of Gather; of codes that are dequantized after they are looked up, what they tell alone."""
    table = graph.constant(node, 0)
    codes = table is not None and table.integer
    return dequantized(table, None, None, 0) if codes else graph.given(node, 0).stored


def packed_table(graph: Graph, node: Any) -> Stored:
    """The table of GatherBlockQuantized, of types of 4 bits or of packed bytes."""
    table = graph.constant(node, 0)
    if table is None or table.bits is None or not table.integer:
        return unread(node.op_type)
    bits = min(table.bits, attribute(node, "bits", 4))
    codes = CodeGrid(bits, frozenset(), frozenset(["per_group"]), attribute(node, "block_size", 128))
    return replace(stored_of(table), codes=codes, elements=table.elements * table.bits // bits)


def weights_of(graph: Graph, node: Any, place: int) -> Stored:
    """The weights that a layer is given at a place."""
    kind = node.op_type
    axis = _output_axis(node, place)
    stored = graph.given(node, place).stored
    codes = graph.constant(node, place)
    if kind == "MatMulNBits":
        said = [attribute(node, name, default) for name, default in (("N", 0), ("K", 0), ("bits", 4))]
        parts = {"codes": codes, "scale": graph.constant(node, 2), "zero": graph.constant(node, 3)}
        if graph.has(node, 3) and parts["zero"] is None:
            return unread(node.output[0])
        return blocks_of(parts, *said, attribute(node, "block_size", 0))
    if kind in ON_CODES or kind in INTEGER:
        scale, zero = (place + 1, place + 2) if kind in ON_CODES else INTEGER[kind]
        if codes is None or graph.has(node, zero) and graph.constant(node, zero) is None:
            return unread(node.output[0])
        ranges = graph.constant(node, scale) if scale is not None else _scale_after(graph, node)
        return dequantized(codes, ranges, graph.constant(node, zero), axis if axis is not None else -1)
    return on_axis(stored, axis) if stored is not None else unread(node.output[0])


def _output_axis(node: Any, place: int) -> int | None:
    """The axis of a layer's output channels in its weights; ``None`` where that is not known."""
    kind = node.op_type
    if kind in ("Conv", "FusedConv", "QLinearConv", "ConvInteger"):
        return 0
    if kind == "ConvTranspose":
        return 1
    if kind in ("Gemm", "FusedGemm", "QGemm"):
        turned = attribute(node, "transB" if place else "transA", 0)
        return int((not turned) == bool(place))
    if kind in ("FusedMatMul", "Einsum"):
        return None
    return -1 if place else -2


def _scale_after(graph: Graph, node: Any) -> Constant | None:
    """The constant scale that is multiplied with the run-time one behind a layer of integers."""
    for cast in graph.users.get(node.output[0], ()):
        for product in graph.users.get(cast.output[0], ()) if cast.op_type == "Cast" else ():
            for name in product.input if product.op_type == "Mul" else ():
                made = graph.producer.get(name)
                for scale in made.input if made is not None and made.op_type == "Mul" else ():
                    if scale in graph.constants:
                        return graph.constants[scale]
    return None


def reordered(graph: Graph, node: Any) -> bool | None:
    """Whether the groups of packed weights follow another order than their inputs."""
    if node.op_type != "MatMulNBits":
        return None
    order = graph.constant(node, 4)
    if order is None:
        return None if graph.has(node, 4) else False
    return None if order.values is None else bool((np.diff(order.values.ravel()) < 0).any())
