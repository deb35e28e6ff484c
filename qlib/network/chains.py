"""Where a channel can be made smaller in one layer and larger in the next, so that a network computes what it
did: nothing but positively homogeneous operations, which let a factor pass, lies between.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from .network import Network
from .operations import (
    Kind,
    argument,
    data_of,
    is_activation,
    is_instance,
    known_name,
    label,
    layer_of,
    moves_channels,
    rows_of,
    weight_of_rows,
)

HOMOGENEOUS = ("relu", "leaky_relu")  # activation functions f with f(s x) = s f(x) for s > 0
SCALED_NORMS = (nn.LayerNorm, nn.RMSNorm)


@dataclass
class Chain:
    """A layer, or a norm with weights of its own, and all layers that read what it gives.

    Parameters
    ----------
    before
        Its name.
    after
        Their names.
    between
        The operations that lie between.
    broken
        What else reads it, or lets no factor pass: the name of a module or function; empty where there is
        nothing such.
    activation
        Whether that is an activation function.
    """

    before: str
    after: list[str] = field(default_factory=list)
    between: list[fx.Node] = field(default_factory=list)
    broken: str = ""
    activation: bool = False


def chains(network: Network) -> list[Chain]:
    """A chain, perhaps broken, for every layer and norm that might be scaled, in execution order."""
    calls = Counter(node.target for node in network.module.graph.nodes if node.op == "call_module")
    alone = {
        node
        for node, operation in network.operations.items()
        if node.op == "call_module"
        and calls[node.target] == 1
        and not operation.in_float
        and node.target not in {*network.tied, *network.tied.values()}
    }
    found = []
    for node in (node for node in network.operations if node in alone):
        layer = layer_of(node, network.module)
        if network.operations[node].kind is Kind.WEIGHT or _is_scaled_norm(layer):
            chain = Chain(node.target)
            _follow(node, isinstance(layer, nn.modules.conv._ConvNd), network, alone, chain)
            found.append(chain)
    return found


def _is_scaled_norm(layer: nn.Module | None) -> bool:
    return is_instance(layer, SCALED_NORMS) and layer.weight is not None and len(layer.normalized_shape) == 1


def _follow(node: fx.Node, image: bool, network: Network, alone: set[fx.Node], chain: Chain) -> None:
    """Walk on from ``node`` to the layers; ``image``: whether channels are axis 1."""
    for user in node.users:
        operation = network.operations.get(user)
        if operation is not None and operation.kind is Kind.WEIGHT:
            chain.after.append(user.target)
            if user not in alone or data_of(user) is not node:
                chain.broken = chain.broken or f"{user.target!r}, which is used several times,"
        elif _lets_pass(user, image, network):
            chain.between.append(user)
            _follow(user, image, network, alone, chain)
        else:
            layer = layer_of(user, network.module)
            chain.activation |= not chain.broken and is_activation(user, network.module)
            chain.broken = chain.broken or (label(user) or user.op if layer is None else type(layer).__name__)


def _lets_pass(node: fx.Node, image: bool, network: Network) -> bool:
    """Whether a factor above 0 of a channel may be taken before an operation or after it."""
    layer = layer_of(node, network.module)
    if is_activation(node, network.module):
        return isinstance(layer, (nn.ReLU, nn.LeakyReLU, nn.PReLU)) or known_name(node) in HOMOGENEOUS
    if is_flatten(node, network):
        users = [network.operations.get(user) for user in node.users]
        return image and all(user is not None and user.kind is Kind.WEIGHT for user in users)
    operation = network.operations.get(node)
    if operation is None or operation.in_float or moves_channels(node, network.module):
        return False
    kept = (nn.Identity, nn.modules.dropout._DropoutNd)
    if isinstance(layer, kept) or known_name(node) in ("dropout", "contiguous"):
        return True
    name = known_name(node) or type(layer).__name__.lower()
    pools = operation.kind is Kind.POOL or operation.kind is Kind.KEEPS_GRID and "pool" in name
    return image and (pools or isinstance(layer, nn.modules.padding._ConstantPadNd) and layer.value == 0)


def scalable(network: Network, method: str, norms: bool) -> list[Chain]:
    """The chains that can be scaled, with ``norms`` or of layers alone. Which layers are left because of the
    activation function behind them is said in a warning.

    Raises
    ------
    ValueError
        There are none, so that ``method`` would do nothing.
    """
    found = [chain for chain in chains(network) if norms or chain.before in network.layers]
    fine = [chain for chain in found if chain.after and not chain.broken]
    functions = {chain.before: chain.broken for chain in found if chain.activation}
    said = "; ".join(
        f"behind {', '.join(n for n, other in functions.items() if other == function)} stands {function}"
        for function in dict.fromkeys(functions.values())
    )
    if not fine:
        why = f": {said}" if said else ""
        raise ValueError(
            f"the method {method!r} scales channels between two layers with nothing between them but "
            f"operations that let a factor pass, such as ReLU, and the network has no such layers{why}"
        )
    if said:
        warnings.warn(f"the method {method!r} leaves layers as they are: {said}", stacklevel=2)
    return fine


def is_flatten(node: fx.Node, network: Network) -> bool:
    """Whether an operation puts all places of a channel of an image side by side."""
    layer = layer_of(node, network.module)
    if isinstance(layer, nn.Flatten):
        return (layer.start_dim, layer.end_dim) == (1, -1)
    ends = argument(node, 1, "start_dim", 0), argument(node, 2, "end_dim", -1)
    return known_name(node) == "flatten" and ends == (1, -1)


def inputs_first(layer: nn.Module, channels: int) -> Tensor:
    """A layer's weight as ``(channels of the input, ...)``; those of a linear layer behind an image hold
    several places a channel.
    """
    groups = getattr(layer, "groups", 1)
    rows = rows_of(layer.weight.data, layer).unflatten(0, (groups, -1)).transpose(1, 2)
    return rows.reshape(channels, -1)


def scale_inputs(layer: nn.Module, factor: Tensor) -> None:
    """Multiply what a layer makes of each input channel."""
    groups = getattr(layer, "groups", 1)
    rows = rows_of(layer.weight.data, layer)
    factor = factor.repeat_interleave(rows.shape[1] * groups // len(factor))
    factor = factor.reshape(groups, 1, -1, *[1] * (rows.dim() - 2))
    scaled = (rows.unflatten(0, (groups, -1)) * factor).flatten(0, 1)
    layer.weight.data.copy_(weight_of_rows(scaled, layer))


def scale_outputs(layer: nn.Module, factor: Tensor) -> None:
    """Multiply each output channel of a layer or norm."""
    rows = layer.weight.data if isinstance(layer, SCALED_NORMS) else rows_of(layer.weight.data, layer)
    scaled = rows * factor.reshape(-1, *[1] * (rows.dim() - 1))
    layer.weight.data.copy_(scaled if rows.dim() == 1 else weight_of_rows(scaled, layer))
    if getattr(layer, "bias", None) is not None:
        layer.bias.data.mul_(factor)


def largest(x: Tensor) -> Tensor:
    """The largest magnitude in each row."""
    return x.abs().flatten(1).amax(1)


def rescale(network: Network, chain: Chain, factor: Tensor) -> None:
    """Divide the outputs of a chain's first layer by ``factor``, and multiply the inputs of its last ones."""
    factor = torch.where(torch.isfinite(factor) & (factor > 0), factor, 1.0)
    scale_outputs(network.module.get_submodule(chain.before), 1 / factor)
    for name in chain.after:
        scale_inputs(network.module.get_submodule(name), factor)
