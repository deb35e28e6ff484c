"""What an ONNX file shows of its quantization: bits, grids, granularity, where quantizers sit. Needs the
extra ``onnx``. What a graph cannot show, such as data, accuracy or how ranges were found, is not among it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .fields import NOT_REPORTED
from .onnx_codes import ONLY, UNREAD, CodeGrid, Stored
from .onnx_graph import Graph
from .onnx_operators import INTEGER, ON_CODES
from .onnx_places import additions, input_bits, output_quantized, pooling
from .onnx_values import Layer

MOST_ENTRIES = 2000  # that a card has room for


def from_onnx(path: str | Path) -> dict[str, Any]:
    """The fields of a quantized ONNX model's card, as far as its graph shows them.

    Bits by layer are given where layers other than the first and the last differ. Symmetric weights that
    reach further down than up, and yet end before the lowest code, are on the restricted grid. Where layers
    differ in any other choice, or where the graph does not say, it is ``not reported``.

    Raises
    ------
    ValueError
        In one line, for a file that is no such model.
    OSError
        If it cannot be read.
    """
    try:
        graph = Graph(path)
    except (ValueError, OSError):
        raise
    except Exception as error:  # operators of others are not checked when a file is loaded
        raise ValueError(f"{path} holds an operator that cannot be read ({type(error).__name__})") from None
    if not graph.layers and not graph.unread:
        raise ValueError("the graph has no convolution and no linear layer with constant weights")
    grids = [grid for _, grid in graph.quantizers]
    met = additions(graph)
    separate = any(node.op_type == "BatchNormalization" for node in graph.nodes)
    fields = {
        "activation_bits": _activation_bits(graph),
        "activation_symmetric": _agreed_sets([_part(grid, "symmetric") for grid in grids]),
        "activation_granularity": _agreed_sets([_part(grid, "granularity") for grid in grids]),
        "activation_dynamic": _agreed(_part(grid, "dynamic") for grid in grids),
        "quantize_skip": _agreed(skip for skip, _ in met),
        "quantize_residual": _agreed(residual for _, residual in met),
        "pooling": pooling(graph),
        "input_bits": input_bits(graph),
        "quantize_output": output_quantized(graph),
        # A norm that was folded leaves no trace, and neither does one that never was
        "batch_norm": "separate" if separate else "folded or none",
        "bias": _agreed(map(_word, graph.biases.values())),
        "embedding_bits": _agreed(map(_meant, graph.tables)),
    }
    if graph.unread or any(layer.weights.codes == UNREAD for layer in graph.layers):
        return fields  # a side that is not known whole
    return {**fields, **_of_weights(graph)}


def _of_weights(graph: Graph) -> dict[str, Any]:
    layers = graph.layers
    once = list({layer.weights.name: layer.weights for layer in layers}.values())
    quantized = [weights for weights in once if isinstance(weights.codes, CodeGrid)]
    elements = sum(weights.elements for weights in once)
    bits = sum(weights.elements * weights.bits for weights in once)
    granularity = _agreed_sets([weights.codes.granularity for weights in quantized])
    in_groups = granularity == "per_group"
    symmetric = _agreed_sets([weights.codes.symmetric for weights in quantized])
    fields = {
        "quantizer": "uniform" if quantized or graph.quantizers else NOT_REPORTED,
        "accumulator_bits": _agreed(_sum_bits(graph, layer) for layer in layers),
        "weight_bits": _bits({layer.name: _meant(layer.weights) for layer in layers}),
        "first_last_bits": _ends(graph),
        "weight_symmetric": symmetric,
        "symmetric_grid": _grid(quantized) if symmetric is True else NOT_REPORTED,
        "weight_granularity": granularity,
        "group_size": _agreed(w.codes.group_size for w in quantized) if in_groups else NOT_REPORTED,
        # Without such an order groups may still have been rounded in another one
        "column_order": "activation" if {layer.reordered for layer in layers} == {True} else NOT_REPORTED,
        "weight_bytes": bits / 8,  # as they lie there
    }
    if not elements or any(weights.narrow for weights in quantized):
        return fields
    return fields | {
        "average_weight_bits": round(bits / elements, 4),
        "effective_weight_bits": round((bits + _bits_beside(quantized, symmetric)) / elements, 4),
    }


def _sum_bits(graph: Graph, layer: Layer) -> Any:
    """In which a layer adds up its products: 32 where an operator multiplies codes, or where the bias beside
    quantized weights and inputs has so many, to which they are added.
    """
    if layer.operator in (*ON_CODES, *INTEGER):
        return 32
    on_grids = isinstance(layer.inputs, CodeGrid) and isinstance(layer.weights.codes, CodeGrid)
    return 32 if on_grids and _word(graph.biases.get(layer.name)) == 32 else UNREAD


def _bits_beside(quantized: list[Stored], symmetric: Any) -> int:
    """Of scales, each once, and of zero-points that must be stored: those of symmetric codes are known."""
    parts = [weights.scale for weights in quantized]
    if symmetric is not True:  # else one that is the middle code may be so by chance
        parts += [weights.zero for weights in quantized if weights.codes.symmetric != ONLY[True]]
    return sum({part.name: (part.bits or 0) * part.elements for part in parts if part is not None}.values())


def _part(grid: CodeGrid | str, name: str) -> Any:
    """What a grid is; where that cannot be told, what agrees with nothing."""
    return getattr(grid, name) if isinstance(grid, CodeGrid) else frozenset() if name != "dynamic" else UNREAD


def _agreed(values: Iterable[Any]) -> Any:
    """The one value that all have; ``not reported`` if they differ, or if one is not known."""
    found = set(values)
    return found.pop() if len(found) == 1 and not found & {UNREAD, None} else NOT_REPORTED


def _agreed_sets(possible: list[frozenset[Any]]) -> Any:
    """The one value that all may have. Of a symmetric grid and another, it is what all are; of one block in
    every channel, channels.
    """
    found = frozenset.intersection(*possible) if possible else frozenset()
    for fact in ({True, False}, {"per_channel", "per_group"}):
        if found == fact:
            found = found - {False, "per_group"}
    return next(iter(found)) if len(found) == 1 else NOT_REPORTED


def _grid(quantized: list[Stored]) -> str:
    """Of weights that do not tell, the others decide."""
    return _agreed({weights.grid for weights in quantized} - {None})


def _word(what: Stored | CodeGrid | str | None) -> Any:
    """Bits as a card has them."""
    codes = what.codes if isinstance(what, Stored) else what
    if codes == UNREAD:  # of a bias beside its layer, whose type says it
        return what.width if isinstance(what, Stored) and what.width else UNREAD
    return "float" if codes is None else codes.bits


def _meant(stored: Stored) -> Any:
    """Bits of weights, which are open where all codes fit into fewer than their type has: it does not tell
    how many were meant.
    """
    return UNREAD if stored.narrow else _word(stored)


def _bits(by_name: dict[str, Any]) -> Any:
    """The bits that all layers have, the first and the last aside; else those of each."""
    every = list(by_name.values())
    if UNREAD in every or not every:
        return NOT_REPORTED
    if every[0] == every[-1] and len(set(every[1:-1])) == 1:  # the ends are told of by first_last_bits
        every = every[1:-1]
    if len(set(every)) == 1:
        return every[0]
    return by_name if len(by_name) <= MOST_ENTRIES else "mixed"


def _activation_bits(graph: Graph) -> Any:
    """Those of all tensors but the network's input and what the first and the last layer give, if these
    agree; else of what enters each layer.
    """
    layers = graph.layers
    inner = _given_by(graph, _inner(graph))
    if len(inner) == 1 and UNREAD not in inner and all(layer.inputs is not None for layer in layers[1:-1]):
        return inner.pop()
    return _bits({layer.name: _word(layer.inputs) for layer in layers})


def _ends_of(graph: Graph) -> set[str]:
    return {layer.name for layer in (*graph.layers[:1], *graph.layers[-1:])}


def _inner(graph: Graph) -> set[str]:
    """What gives the tensors that are neither an input nor what the first and the last layer give."""
    return {source for source, _ in graph.quantizers} - {*graph.input_kinds, *_ends_of(graph)}


def _given_by(graph: Graph, sources: set[str]) -> set[Any]:
    """The bits of the quantizers of what these give."""
    return {_word(grid) for source, grid in graph.quantizers if source in sources}


def _ends(graph: Graph) -> Any:
    """The bits of the first and the last layer, on the side on which they differ from the rest, or from each
    other.
    """
    ends = _ends_of(graph)
    weights = [
        {_meant(layer.weights) for layer in graph.layers if (layer.name in ends) == among} for among in (1, 0)
    ]
    given = [_given_by(graph, ends), _given_by(graph, _inner(graph))]
    if any(UNREAD in found for found in (*weights, *given)):
        return NOT_REPORTED
    sides = [(first, rest) for first, rest in (weights, given) if first and rest]
    apart = [first for first, rest in sides if first != rest or len(first) > 1]
    return _agreed(set.union(*apart)) if apart else "like the rest"
