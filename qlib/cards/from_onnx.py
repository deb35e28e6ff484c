"""What an ONNX file shows of its quantization: bits, grids, granularity, where quantizers sit. Needs the
extra ``onnx``. What a graph cannot show, such as data, accuracy or how ranges were found, is not among it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .fields import NOT_REPORTED
from .onnx_graph import FLOAT, Codes, Graph, Layer


def from_onnx(path: str | Path) -> dict[str, Any]:
    """The fields of a quantized ONNX model's card, as far as its graph shows them.

    Bits by layer are given where layers other than the first and the last differ; 32 stands for float then.
    Symmetric weights that never use the lowest code are on the restricted grid. Where layers differ in any
    other choice it is ``not reported``.

    Raises
    ------
    ValueError
        In one line, for a file that is no such model.
    OSError
        If it cannot be read.
    """
    graph = Graph(path)
    layers = graph.layers
    activations = graph.activations()
    quantized = [layer.weights for layer in layers if layer.weights is not None]
    entry = [
        node
        for node in graph.nodes
        if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")
        and graph.constant(node.input[0]) is None
        and graph.origin(node) == ""
    ]
    additions = graph.additions()
    elements = sum(layer.elements for layer in layers)
    weight_bits = sum(layer.elements * (layer.weights.bits if layer.weights else FLOAT) for layer in layers)
    fields: dict[str, Any] = {
        "quantizer": "uniform",
        "weight_bits": _bits((layer.name, layer.weights) for layer in layers),
        "activation_bits": _activation_bits(graph, layers),
        "weight_symmetric": _agreed(codes.symmetric for codes in quantized),
        "activation_symmetric": _agreed(codes.symmetric for codes in activations),
        "weight_granularity": _agreed(
            "per_channel" if codes.per_channel else "per_tensor" for codes in quantized
        ),
        "activation_granularity": _agreed(
            "per_channel" if codes.per_channel else "per_tensor" for codes in activations
        ),
        "activation_dynamic": _agreed(codes.dynamic for codes in activations),
        "quantize_skip": _agreed(skip for skip, _ in additions),
        "quantize_residual": _agreed(residual for _, residual in additions),
        "pooling": graph.pooling(),
        "first_last_bits": _ends(layers),
        "input_bits": _entry_bits(graph, entry[0]) if entry else "float",
        "quantize_output": all(
            graph.producer[v.name].op_type == "DequantizeLinear"
            for v in graph.graph.output
            if v.name in graph.producer
        ),
        "batch_norm": "separate" if any(n.op_type == "BatchNormalization" for n in graph.nodes) else "folded",
        "weight_bytes": weight_bits / 8,
        "average_weight_bits": round(weight_bits / elements, 4),
    }
    if fields["weight_symmetric"] is True:
        fields["symmetric_grid"] = "full" if any(layer.lowest for layer in layers) else "restricted"
    return fields


def _entry_bits(graph: Graph, node: Any) -> int:
    if node.op_type == "DynamicQuantizeLinear":
        return 8
    return graph.codes(node.input[1], node.input[2] if len(node.input) > 2 else None).bits


def _agreed(values: Iterable[Any]) -> Any:
    """The one value that all have; ``not reported`` if they differ or there is none."""
    found = set(values)
    return found.pop() if len(found) == 1 else NOT_REPORTED


def _bits(layers: Iterable[tuple[str, Codes | None]]) -> Any:
    by_name = {name: codes.bits if codes else FLOAT for name, codes in layers}
    every = list(by_name.values())
    if every[0] == every[-1] and len(set(every[1:-1])) == 1:  # the ends are told of by first_last_bits
        every = every[1:-1]
    return by_name if len(set(every)) > 1 else "float" if every[0] == FLOAT else every[0]


def _activation_bits(graph: Graph, layers: list[Layer]) -> Any:
    """Those of all tensors but the network's input and what the first and the last layer give, if these
    agree; else of what enters each layer.
    """
    inner = {codes.bits for codes in graph.activations(between=(layers[0].name, layers[-1].name))}
    if len(inner) == 1 and all(layer.inputs is not None for layer in layers[1:-1]):
        return inner.pop()
    return _bits((layer.name, layer.inputs) for layer in layers)


def _ends(layers: list[Layer]) -> Any:
    ends, rest = (
        {layer.weights.bits if layer.weights else "float" for layer in part}
        for part in ([layers[0], layers[-1]], layers[1:-1])
    )
    if ends == rest or not rest:
        return "like the rest"
    return ends.pop() if len(ends) == 1 else NOT_REPORTED
