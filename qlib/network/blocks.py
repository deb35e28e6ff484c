"""A network as blocks: stretches between places that all later values pass through."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from .network import Network
from .operations import Kind, data_of, is_activation


@dataclass
class Block:
    """Operations that follow one another, with a layer among them.

    Parameters
    ----------
    nodes
        In execution order, inputs of the network aside.
    ends
        What of it is read behind it: one value, but for a last block that gives several.
    layers
        The layers that it calls.
    """

    nodes: list[fx.Node] = field(default_factory=list)
    ends: list[fx.Node] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)


def blocks(network: Network) -> list[Block]:
    """The smallest blocks with layers, in execution order: from addition to addition in a residual network,
    layer by layer in a chain.

    A block ends where one value is all that later operations read of what layers gave; the activation
    function that directly follows, and what quantizes it, are part of it. ``network`` may hold quantizers.
    Operations behind the last layer's block are in none.
    """
    *nodes, output = network.module.graph.nodes
    place = {node: i for i, node in enumerate([*nodes, output])}
    last = {node: max((place[user] for user in node.users), default=-1) for node in nodes}
    weights = {node for node, o in network.operations.items() if o.kind is Kind.WEIGHT and not o.in_float}
    computed: set[fx.Node] = set()  # from what layers gave
    alive: list[list[fx.Node]] = []
    for i, node in enumerate(nodes):
        if node not in network.aside and (node in weights or computed.intersection(node.all_input_nodes)):
            computed.add(node)
        before = alive[-1] if alive else []
        alive.append([n for n in [*before, node] if n in computed and last[n] > i])
    found: list[Block] = []
    block = Block()
    for i, node in enumerate(nodes):
        if node.op != "placeholder":
            block.nodes.append(node)
        if node in weights:
            block.layers.append(node.target)
        goes_on = i + 1 < len(nodes) and len(alive[i + 1]) == 1 and _belongs(nodes[i + 1], node, network)
        if block.layers and (node is nodes[-1] or len(alive[i]) == 1 and not goes_on):
            block.ends = alive[i]
            found.append(block)
            block = Block()
    return found


def _belongs(after: fx.Node, node: fx.Node, network: Network) -> bool:
    """Whether an operation is the activation function that directly follows another, or quantizes it."""
    added = after not in network.operations and after.op == "call_module"
    return data_of(after) is node and (added or is_activation(after, network.module))
