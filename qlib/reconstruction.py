"""Block by block, what a network gives as it is quantized is brought near to what it gives in float."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from .network import Network
from .network.blocks import Block, blocks
from .network.inputs import copied
from .network.operations import weight_of_rows
from .network.steps import Steps
from .progress import tracked

Replaced = Mapping[str, Callable[..., Tensor]]  # by name of a module, what is called in its place


class _Through(fx.Interpreter):
    """Runs operations again on values that are there, with modules replaced."""

    def __init__(self, network: Network, replaced: Replaced):
        super().__init__(network.module, garbage_collect_values=False)
        self.replaced = replaced
        self.in_float = {node.target for node, o in network.operations.items() if o.in_float}

    def call_module(self, target: Any, args: tuple, kwargs: dict) -> Any:
        if target in self.replaced:
            return self.replaced[target](*args, **kwargs)
        if target in self.in_float:  # which may work in place
            args, kwargs = copied(args), copied(kwargs)
        return super().call_module(target, args, kwargs)

    def outputs(self, block: Block, values: Mapping[fx.Node, Any]) -> list[Tensor]:
        self.env = dict(values)
        for node in block.nodes:
            self.env[node] = self.run_node(node)
        return [self.env[end] for end in block.ends]


@dataclass
class Reconstruction:
    """A block whose turn it is.

    Parameters
    ----------
    block
        In the network that is quantized.
    network
        That one.
    values
        By part of the data, the values that are there before the block, by node.
    floats
        The same in the float network, by the same nodes, where it has such a value.
    wanted
        By part, what the block gives in the float network at its ends.
    """

    block: Block
    network: Network
    values: list[dict[fx.Node, Any]]
    floats: list[dict[fx.Node, Any]]
    wanted: list[list[Tensor]]

    def outputs(
        self, part: int, replaced: Replaced, values: Mapping[fx.Node, Any] | None = None
    ) -> list[Tensor]:
        """What the block gives on a part of the data, or on other ``values`` before it."""
        return _Through(self.network, replaced).outputs(
            self.block, self.values[part] if values is None else values
        )

    def error(self, part: int, replaced: Replaced, values: Mapping[fx.Node, Any] | None = None) -> Tensor:
        """The mean squared difference of that to what is wanted."""
        return error(self.outputs(part, replaced, values), self.wanted[part])

    def mean_error(self, replaced: Replaced) -> Tensor:
        """Over all parts, however many examples they have."""
        return sum(self.error(part, replaced) for part in range(len(self.values))) / len(self.values)

    def mixed(self, part: int, share: float, generator: torch.Generator) -> dict[fx.Node, Any]:
        """The values before the block, a ``share`` of their elements as in the float network."""
        found = dict(self.values[part])
        for node, value in self.floats[part].items() if share else ():
            here = found[node]
            if isinstance(here, Tensor) and here.is_floating_point() and here.shape == value.shape:
                found[node] = torch.where(drawn(here, share, generator), value, here)
        return found


def drawn(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A ``share`` of the elements of ``x``, by chance; nothing is drawn where that is all of them."""
    if share == 1:
        return torch.ones_like(x, dtype=torch.bool)
    return (torch.rand(x.shape, generator=generator) < share).to(x.device)


def error(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """The mean squared difference of outputs."""
    pairs = [(a, b) for a, b in zip(found, wanted, strict=True) if b.is_floating_point()]
    return sum((a - b).square().sum() for a, b in pairs) / sum(b.numel() for _, b in pairs)


def in_blocks(floats: Network, network: Network, parts: list[Any], what: str) -> Iterator[Reconstruction]:
    """The blocks of ``network`` in the order of execution, each after those before it are as they shall be.

    Parameters
    ----------
    floats, network
        The float network, and a copy of it that is quantized.
    parts
        Of the calibration inputs.
    what
        Is done, for whom it takes long.
    """
    there = {node.name: node for node in floats.module.graph.nodes}
    clean = [Steps(floats.module, part) for part in parts]
    runs = [Steps(network.module, part) for part in parts]
    for side in (clean, runs):
        for node in side[0].module.graph.nodes if side else ():
            if node.op == "placeholder":
                for run in side:
                    run.step(node)
    waiting = [node for node in there.values() if node.op not in ("placeholder", "output")]
    found = blocks(network)
    for block in tracked(found, what, len(found), "block"):
        before = [_counterparts(run, other, there) for run, other in zip(runs, clean, strict=True)]
        ends = [_in_float(end, there) for end in block.ends]
        while not all(end in clean[0].env for end in ends):
            _step(clean, waiting.pop(0))
        wanted = [[run.env[end] for end in ends] for run in clean]
        yield Reconstruction(block, network, [dict(run.env) for run in runs], before, wanted)
        for node in block.nodes:
            _step(runs, node)


def _step(runs: list[Steps], node: fx.Node) -> None:
    for run in runs:
        run.step(node)
        run.forget(node)


def _in_float(node: fx.Node, there: Mapping[str, fx.Node]) -> fx.Node:
    """The node of the float network that gives what a quantizer, or another operation, gives."""
    while node.name not in there:
        node = node.all_input_nodes[0]
    return there[node.name]


def _counterparts(run: Steps, clean: Steps, there: Mapping[str, fx.Node]) -> dict[fx.Node, Any]:
    """By node of which there are values in ``run``, the value in the float network, where it has one."""
    pairs = {node: _in_float(node, there) for node in run.env if node.all_input_nodes or node.name in there}
    return {node: clean.env[other] for node, other in pairs.items() if other in clean.env}


def with_weight(layer: nn.Module, rows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What a layer gives with another weight, as rows ``(out channels, ...)``."""
    return functional_call(layer, {"weight": weight_of_rows(rows, layer)}, args, kwargs)
