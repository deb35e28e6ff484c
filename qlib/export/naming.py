"""Names of an ONNX graph: those of the network's modules, each once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DOT = "|"  # in the place of a dot, which no module's own name may have
NETWORK = "network"  # the module that holds the parameters
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # what a layer becomes, beside nodes that prepare it


class Names:
    """Names that are given once."""

    def __init__(self, taken: Any = ()):
        self.taken = set(taken)

    def free(self, name: str) -> str:
        """``name``, or with a number behind it where it is taken; taken from now on."""
        found = name
        number = 1
        while found in self.taken:
            found = f"{name}_{number}"
            number += 1
        self.taken.add(found)
        return found


def name_graph(graph: Any) -> Names:
    """Name everything in a graph of `write_graph` after the network, in place: a parameter as the network
    does; what an operation became by the operation's name, and nodes beside it by that and their own kind,
    ``NAME/KIND``; the value that a node gives as the node. Placeholders keep what they have.
    """
    _separate(graph)
    names = Names(value.name for value in (*graph.input, *graph.output))
    new: dict[str, str] = {value.name: value.name for value in (*graph.input, *graph.output)}
    constants = _constants(graph)
    for value in constants:
        if value.startswith(f"{NETWORK}."):
            new[value] = names.free(value.removeprefix(f"{NETWORK}."))
    chief = {
        _scope(node): i for i, node in enumerate(graph.node) if node.op_type not in ("Codes", "Constant")
    }
    chief |= {_scope(node): i for i, node in enumerate(graph.node) if node.op_type in PRODUCTS}
    for i, node in enumerate(graph.node):
        if node.op_type == "Codes":
            continue
        scope = _scope(node)
        name = names.free(scope if scope and chief.get(scope) == i else f"{scope}/{node.op_type}".lstrip("/"))
        node.name = name
        for place, value in enumerate(node.output):
            if value and value not in new:
                new[value] = name if place == 0 else names.free(f"{name}_{place}")
        for place, value in enumerate(node.input):
            if value in constants and value not in new:
                new[value] = names.free(f"{name}.constant_{place}")
    for node in graph.node:
        rename(node, new)
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    del graph.value_info[:]  # which speaks of the old names
    return names


def _separate(graph: Any) -> None:
    """Give every bias a constant of its own: torch writes equal ones as one, and Identity for the others."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        tensor = constants.get(node.input[0]) if node.op_type == "Identity" else None
        if tensor is None or len(tensor.dims) > 1:
            kept.append(node)
        else:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = node.output[0]
    del graph.node[:]
    graph.node.extend(kept)


def _constants(graph: Any) -> list[str]:
    """Initializers, and matrices that torch writes as another's, since they are equal."""
    found = [tensor.name for tensor in graph.initializer]
    return found + [n.output[0] for n in graph.node if n.op_type == "Identity" and n.input[0] in found]


def _scope(node: Any) -> str:
    """The name of the operation that a node was traced in; empty outside of all."""
    parts = node.name.split("/")
    return parts[1].replace(DOT, ".") if len(parts) > 2 else ""


def rename(node: Any, new: Mapping[str, str]) -> None:
    """Let a node, and the graphs in it, read and give what ``new`` says, in place."""
    for values in (node.input, node.output):
        for place, value in enumerate(values):
            values[place] = new.get(value, value)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for each in inner.node:
                rename(each, new)
            for value in inner.output:
                value.name = new.get(value.name, value.name)
