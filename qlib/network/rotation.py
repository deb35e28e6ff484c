"""Features turned by an orthogonal matrix before a layer, and its weights alike: what is computed stays."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx, nn

from .network import Network, Operation
from .operations import Kind, data_of, layer_of
from .rewrite import free_name


class Rotation(nn.Module):
    """Multiplies features, the last axis, by random signs, and then blocks of them by a Hadamard matrix.

    ``features``: how many there are; a block is the largest power of two that divides that.
    """

    def __init__(self, features: int, seed: int):
        super().__init__()
        self.block = features & -features
        drawn = np.random.PCG64([seed, features]).random_raw(features)
        self.register_buffer("signs", torch.from_numpy(np.where(drawn >> 63, 1.0, -1.0)).float())
        self.register_buffer("matrix", hadamard(self.block), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return ((x * self.signs).unflatten(-1, (-1, self.block)) @ self.matrix).flatten(-2)


def hadamard(size: int) -> Tensor:
    """The orthogonal matrix of a power of two whose entries differ by their sign alone."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5


def rotate_inputs(network: Network, seed: int) -> list[str]:
    """Turn what enters every linear layer that is quantized, and has its weight for itself, in place; layers
    that are given one tensor share a turning. The layers that were turned.
    """
    made: dict[fx.Node, fx.Node] = {}
    turned = {}
    for node in list(network.operations):
        layer = layer_of(node, network.module)
        if not _can_turn(node, layer, network):
            continue
        given = data_of(node)
        if given not in made:
            made[given] = _insert(network, given, Rotation(layer.in_features, seed).to(layer.weight.device))
        node.replace_input_with(given, made[given])
        turned[node.target] = network.module.get_submodule(made[given].target)
    for name, rotation in turned.items():
        weight = network.module.get_submodule(name).weight
        weight.data = rotation(weight.data)
    order = {node: i for i, node in enumerate(network.module.graph.nodes)}
    network.operations = dict(sorted(network.operations.items(), key=lambda item: order[item[0]]))
    network.module.recompile()
    return list(turned)


def _can_turn(node: fx.Node, layer: nn.Module | None, network: Network) -> bool:
    operation = network.operations[node]
    shared = {*network.tied, *network.tied.values()}
    linear = operation.kind is Kind.WEIGHT and isinstance(layer, nn.Linear) and not operation.in_float
    return linear and node.target not in shared and layer.in_features % 2 == 0


def _insert(network: Network, given: fx.Node, rotation: Rotation) -> fx.Node:
    """A rotation behind ``given``: it takes it in float, and what it gives is quantized in its place."""
    name = free_name(network.module, f"rotation_{given.name}")
    network.module.add_submodule(name, rotation)
    with network.module.graph.inserting_after(given):
        node = network.module.graph.call_module(name, (given,))
    network.operations[node] = Operation(node, Kind.ROTATION, name, node)
    network.channels[node] = -1
    return node
