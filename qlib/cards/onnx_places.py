"""Where quantizers sit in an ONNX graph: at additions, at average pooling, at its inputs and outputs."""

from __future__ import annotations

from typing import Any

from .fields import NOT_REPORTED
from .onnx_codes import UNREAD, CodeGrid
from .onnx_graph import Graph
from .onnx_operators import ACTIVATIONS, ADDITIONS, KEEP_GRID, POOLINGS


def additions(graph: Graph) -> list[tuple[Any, Any]]:
    """Of every addition where a branch meets the connection that skips it, whether the skip and whether the
    residual operand enter quantized. The residual is the operand with more layers on its own branch.
    """
    found = []
    for node in graph.nodes:
        if node.op_type not in ADDITIONS or not graph.knows_paths:
            continue
        operands = [graph.given(node, place) for place in (0, ADDITIONS[node.op_type])]
        if not all(value.live for value in operands) or not operands[0].behind & operands[1].behind:
            continue  # a bias, or a mask that comes from elsewhere
        own = [(a.behind & ~b.behind).bit_count() for a, b in zip(operands, operands[::-1], strict=True)]
        if not any(own):
            continue  # both come from the same layers: no connection skips one
        quantized = [_on_grid(value.grid) for value in operands]
        residual = int(own[1] > own[0])
        found.append((quantized[1 - residual], quantized[residual]))
    return found


def _on_grid(grid: CodeGrid | str | None) -> bool | str:
    return NOT_REPORTED if grid == UNREAD else grid is not None


def pooling(graph: Graph) -> str:
    """How average pooling computes, if all does it alike."""
    modes = set()
    for node in graph.nodes:
        if node.op_type.startswith("QLinear") and node.op_type.removeprefix("QLinear") in POOLINGS:
            modes.add("low_precision" if node.input[1:3] == node.input[3:5] else "high_precision")
        elif node.op_type in POOLINGS and graph.value(node.output[0]).live:
            scales = {after.input[1] for after in _quantizers_after(graph, node)}
            source = graph.producer.get(node.input[0])
            pair = source is not None and source.op_type == "DequantizeLinear"
            same = pair and scales == set(source.input[1:2])
            modes.add("float" if not scales else "low_precision" if same else "high_precision")
    return modes.pop() if len(modes) == 1 else NOT_REPORTED


def _quantizers_after(graph: Graph, node: Any) -> list[Any]:
    """The quantizers of what a node gives, seen through what changes no value or only limits it."""
    found = []
    waiting = [node]
    seen = set()
    while waiting:
        for after in graph.users.get(waiting.pop().output[0], ()):
            if after.op_type == "QuantizeLinear" and len(after.input) > 1:
                found.append(after)
            elif after.op_type in (*ACTIVATIONS, *KEEP_GRID) and after.output[0] not in seen:
                seen.add(after.output[0])
                waiting.append(after)
    return found


def input_bits(graph: Graph) -> Any:
    """Of the inputs that are no whole numbers such as tokens, unless they are codes; ``not reported`` if they
    differ, or if one enters quantized and in float.
    """
    found = set()
    for name, kind in graph.input_kinds.items():
        entries = set(graph.entries.get(name, ()))
        in_float = any(layer.source == name and layer.inputs is None for layer in graph.layers)
        if "FLOAT" in kind and (in_float or not entries):
            entries.add("float")
        found |= entries
    bits = found.pop() if len(found) == 1 else NOT_REPORTED
    return NOT_REPORTED if bits == UNREAD else bits


def output_quantized(graph: Graph) -> Any:
    """Whether all outputs lie on a grid."""
    found = {_on_grid(graph.value(name).grid) for name in graph.outputs}
    return NOT_REPORTED if NOT_REPORTED in found else all(found)
