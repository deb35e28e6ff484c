"""The ranges of activations that the page need not find itself, as `qlib.quantize` finds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from torch import Tensor, fx, inference_mode

from ...config import SYMMETRIC_GRIDS, QuantConfig
from ...network import Network
from ...quantizer import Quantizer
from ..controls import PERCENTILES

USUAL = QuantConfig()
RULES = {
    "per_tensor minmax": {"activation_range": "minmax"},
    **{
        f"per_tensor percentile {p:g}": {"activation_range": "percentile", "percentile": p}
        for p in PERCENTILES
    },
    "per_tensor mse": {"activation_range": "mse"},
    "per_tensor aciq": {"activation_range": "aciq"},
    "per_channel minmax": {"activation_range": "minmax", "activation_granularity": "per_channel"},
    f"per_channel percentile {USUAL.percentile:g}": {
        "activation_range": "percentile",
        "activation_granularity": "per_channel",
    },
}
BITS = range(1, 9)  # for which the least squared error, seen or expected, is found
GRIDS = {  # and the grids, by what is added to the rule's name
    "": {"activation_symmetric": False},
    **{f" {grid}": {"activation_symmetric": True, "symmetric_grid": grid} for grid in SYMMETRIC_GRIDS},
}

Range = tuple[Tensor, Tensor]


def usual_ranges(
    network: Network, nodes: Iterable[fx.Node], batches: Sequence[tuple[Tensor, Any]]
) -> dict[str, dict[fx.Node, Range]]:
    """By rule and node, the ends ``(1,)`` or ``(channels,)`` of what the node gives: found with layers
    upstream in float, so that they hold under every placement. A rule is such as ``"per_tensor minmax"``,
    ``"per_tensor percentile 99.9"``, ``"per_tensor mse 4"`` for 4 asymmetric bits or ``"per_tensor mse 4
    full"`` for symmetric ones, ``"per_channel minmax"``.
    """
    observers = {
        node: {
            rule: Quantizer(QuantConfig(**fields), node.name, 8, network.channels.get(node))
            for rule, fields in RULES.items()
        }
        for node in nodes
    }
    every = [quantizer for each in observers.values() for quantizer in each.values()]
    for quantizer in every:
        quantizer.start()
    examples = sum(len(x) for x, _ in batches)
    with inference_mode():
        for x, _ in batches:
            for quantizer in every:
                quantizer.share = (len(x), examples)
            _Observed(network.module, observers).run(x)
        found = {node: _found(each) for node, each in observers.items()}
    rules = next(iter(found.values()))
    return {rule: {node: ranges[rule] for node, ranges in found.items()} for rule in rules}


def _found(observers: Mapping[str, Quantizer]) -> dict[str, Range]:
    ranges = {}
    for rule, quantizer in observers.items():
        if quantizer.config.activation_range not in ("mse", "aciq"):
            ranges[rule] = quantizer.collector.range()
            continue
        usual = quantizer.config
        for (grid, fields), bits in product(GRIDS.items(), BITS):
            if bits == 1 and fields["activation_symmetric"]:
                continue
            quantizer.config, quantizer.bits = usual.replace(**fields), bits  # of the grids that are tried
            ranges[f"{rule} {bits}{grid}"] = quantizer.collector.range()
    return ranges


class _Observed(fx.Interpreter):
    """Shows what nodes give to their observers."""

    def __init__(self, module: fx.GraphModule, observers: Mapping[fx.Node, Mapping[str, Quantizer]]):
        super().__init__(module)
        self.observers = observers

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for quantizer in self.observers.get(n, {}).values():
            quantizer(result)
        return result
