"""Where a network attends: queries, keys and values, found by the softmax between two matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import fx, nn

from .operations import Kind, data_of, known_name, layer_of

if TYPE_CHECKING:
    from .network import Network


def attentions(network: Network) -> Iterator[tuple[fx.Node, fx.Node, fx.Node]]:
    """Of every attention, the nodes that its two products take as queries, keys and values."""
    for node, operation in network.operations.items():
        quantized = operation.kind is Kind.PRODUCT and not operation.in_float
        taken = _operands(node, network) if quantized else []
        for weights, value in (taken, taken[::-1]) if len(taken) == 2 else ():
            softmax = _softmax(weights, network)
            scores = None if softmax is None else _product_before(softmax, network)
            if scores is not None and len(asked := _operands(scores, network)) == 2:
                yield *asked, value


def _operands(product: fx.Node, network: Network) -> list[fx.Node]:
    """The two activations of a product, in the order in which it takes them."""
    return [node for node in product.all_input_nodes if node not in network.aside]


def _softmax(node: fx.Node, network: Network) -> fx.Node | None:
    """The softmax that gave ``node`` its values, if one did."""
    while node is not None and node in network.operations:
        if known_name(node) == "softmax" or isinstance(layer_of(node, network.module), nn.Softmax):
            return node
        if network.operations[node].kind is not Kind.KEEPS_GRID:
            return None
        node = data_of(node)
    return None


def _product_before(node: fx.Node, network: Network) -> fx.Node | None:
    """The product that leads to ``node`` by float operations and additions, such as masks, alone."""
    waiting = list(node.all_input_nodes)
    while waiting:
        before = waiting.pop()
        operation = network.operations.get(before)
        if operation is not None and operation.kind is Kind.PRODUCT:
            return before
        if operation is not None and operation.kind not in (Kind.WEIGHT, Kind.TABLE, Kind.INPUT):
            waiting += before.all_input_nodes
    return None
