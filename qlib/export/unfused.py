"""Which layers ONNX Runtime does not run on its fastest integer kernels, and why."""

from __future__ import annotations

from typing import Any

import numpy as np

from .fusing import LAYERS, MOST, Graph
from .naming import PRODUCTS
from .writer import Writer

IN_FLOAT = "computed in float by ONNX Runtime"


def unfused(writer: Writer) -> list[str]:
    """A line for every reason, with the layers that it meets; nothing where all layers run as fast as they
    can.

    Parameters
    ----------
    writer
        Of a network that is finished.
    """
    graph = Graph(writer)
    found: dict[str, list[str]] = {}
    for node in writer.nodes:
        if node.op_type in PRODUCTS and (reason := _reason(graph, node)) is not None:
            found.setdefault(reason, []).append(node.name)
    return [f"{reason}: {', '.join(layers)}" for reason, layers in found.items()]


def _reason(graph: Graph, node: Any) -> str | None:
    """Why a layer is not fused, or is slow; ``None`` where neither holds."""
    if node.op_type == "ConvTranspose":
        return f"{IN_FLOAT}, which has no integer kernel for transposed convolutions"
    entry, weight = graph.entry(node), graph.dequantizer(node.input[1])
    if entry is None:
        return f"{IN_FLOAT}, since their input has no 8-bit codes"
    if weight is None and graph.array(node.input[1]) is not None:
        return f"{IN_FLOAT}, or rounded to 8 bits by itself, since their weights are in float"
    if weight is None:
        return f"{IN_FLOAT}, since their weights have no 8-bit codes"
    # A product without a bias may give floats
    if node.op_type != "MatMul" and (readers := _before_codes(graph, node)):
        return f"{IN_FLOAT}, since they give floats to {' and '.join(readers)}"
    if _cut(graph, node, entry, weight):
        return (
            "cut to 32 bits by ONNX Runtime where it optimizes graphs, since their bias is too large for them"
        )
    codes, zero_points = graph.array(weight.input[0]), graph.array(weight.input[2])
    if codes is not None and zero_points.any():
        return (
            "on slower integer kernels of ONNX Runtime, which rounds their biases by itself, since their "
            "weights have zero-points (weight_symmetric=False)"
        )
    return None


def _before_codes(graph: Graph, node: Any) -> list[str]:
    """The kinds of what reads the values of a layer before they are codes, such as activation functions."""
    kinds = ["the output" if reader is None else reader.op_type for reader in graph.readers[node.output[0]]]
    return list(dict.fromkeys(kind for kind in kinds if kind != "QuantizeLinear"))


def _cut(graph: Graph, node: Any, entry: Any, weight: Any) -> bool:
    """Whether a layer's bias, which is in float, exceeds the 32-bit codes that it is rounded to."""
    bias = graph.array(node.input[2]) if node.op_type in LAYERS and len(node.input) > 2 else None
    if bias is None:
        return False
    return bool((np.abs(bias / (graph.array(entry.input[1]) * graph.array(weight.input[1]))) > MOST).any())
