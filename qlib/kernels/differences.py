"""Where and why a network in integers is not what its simulation gives: answer by answer, and layer by layer
from the same codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..affine import Grid
from ..metrics import AGREEMENT
from ..network.inputs import call, copied, examples_in, inputs_of, picked_from, run
from ..quantizer import OnCodes, Quantizer
from .integers import IntegerNetwork
from .run import Run, given_names
from .sums import Seen
from .values import CAUSES, Cause, Codes, Value


@dataclass
class Differences:
    """Answers of a network in integers beside those of its simulation.

    Parameters
    ----------
    examples : int
        How many there are.
    differing : list of int
        The examples whose answers differ, by their place.
    causes : Counter
        By cause, how many of these it explains: the last one with which the answer became what it is.
    layers : dict of Seen
        The sums of every convolution and linear layer and matrix product, by name, with the bits that they
        need (``.bits``) and the bound on these (``.bound``).
    """

    examples: int = 0
    differing: list[int] = field(default_factory=list)
    causes: Counter[Cause] = field(default_factory=Counter)
    layers: dict[str, Seen] = field(default_factory=dict)

    @property
    def equal(self) -> float:
        """The answers that are the simulation's, in percent."""
        return 100 - 100 * len(self.differing) / self.examples

    def __str__(self) -> str:
        why = "".join(f"; {count} since {cause.value}" for cause, count in self.causes.items() if count)
        return f"{len(self.differing)} of {self.examples} answers differ from the simulation's{why}"


def against_simulation(quantized: nn.Module, batches: Iterable | Tensor, **settings: Any) -> Differences:
    """Run a quantized network as it is, in float32, and in integers.

    An answer is the class with the highest score along axis 1; of a map, all its places. Each that differs
    has one cause: between the simulation and the integers stand networks in which only the first cause acts,
    the first two, and so on, and the cause is the last one that changed the answer to what it is.

    Parameters
    ----------
    quantized : nn.Module
        What `qlib.quantize` gives.
    batches
        Inputs, or pairs of inputs and labels, which are not looked at.
    **settings
        Of the `IntegerNetwork`: ``accumulator_bits``, ``overflow``, ``bias``.

    Raises
    ------
    ValueError
        As `IntegerNetwork`; or there are no examples, or outputs are no class scores.
    """
    integers = IntegerNetwork(quantized, **settings)
    found = Differences()
    for i, inputs in enumerate(inputs_of(batches, "evaluation")):
        with torch.no_grad():
            simulated = run(quantized, copied(inputs), f"evaluation batch {i}")
        passed = Run(integers)
        answers = passed.outputs(inputs)
        apart = _differ(simulated, answers).nonzero().flatten()
        if apart.numel():
            few = picked_from(inputs, apart)
            stages = [simulated[apart], *(Run(integers, cause).outputs(few) for cause in CAUSES[:-1])]
            found.causes += _last_changes([_differ(stage, answers[apart]) for stage in stages])
        found.differing += [found.examples + int(place) for place in apart]
        found.examples += examples_in(inputs)
        for name, seen in passed.seen.items():
            found.layers.setdefault(name, Seen(name, seen.products, 0)).add(seen)
    if not found.examples:
        raise ValueError(
            "there are no examples: batches is empty (a generator may have been used up already)"
        )
    return found


def _differ(outputs: Tensor, others: Tensor) -> Tensor:
    """Whether examples have other answers, ``(n,)``."""
    return AGREEMENT.each(outputs, others) < 100


def _last_changes(before: Sequence[Tensor]) -> Counter[Cause]:
    """How often every cause was the last that changed something. ``before``: for every cause, what differs
    from the end without it and those behind it.
    """
    found: Counter[Cause] = Counter()
    open_ = before[0]
    for cause, differs in zip(reversed(CAUSES), reversed(before), strict=True):
        found[cause] = int((open_ & differs).sum())
        open_ = open_ & ~differs
    return found


@dataclass(frozen=True)
class LayerDifferences:
    """Codes that a layer gives in integers beside those of the simulation, from the same codes.

    Parameters
    ----------
    name : str
        Of the quantized tensor.
    codes : int
        How many there are.
    differing : int
        How many differ.
    most : int
        By how many steps of the grid, at most.
    causes : Counter
        As of `Differences`, of codes.
    """

    name: str
    codes: int
    differing: int
    most: int
    causes: Counter[Cause]


def layer_differences(quantized: nn.Module, inputs: Any, **settings: Any) -> list[LayerDifferences]:
    """What every layer, addition and pooling gives in integers where it gets the simulation's codes; in
    execution order.

    Parameters
    ----------
    quantized, **settings
        As for `against_simulation`.
    inputs
        One batch, as the network takes it.
    """
    integers = IntegerNetwork(quantized, **settings)
    simulation = _Simulation(quantized)
    with torch.no_grad():
        call(simulation.run, copied(inputs), given_names(quantized, inputs))
    passed = _FromSameCodes(integers, simulation.counts)
    passed.outputs(inputs)
    return passed.found


class _Simulation(fx.Interpreter):
    """Keeps the codes behind every quantizer, counted from its zero-point."""

    def __init__(self, quantized: fx.GraphModule):
        super().__init__(quantized)
        self.counts: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        layer = self.module.get_submodule(n.target) if n.op == "call_module" else None
        source = layer.source if isinstance(layer, OnCodes) and layer.back else layer
        if isinstance(source, Quantizer) and source.scale is not None:
            self.counts[n] = (value / source.scale).round().long()
        return value


class _FromSameCodes(Run):
    """Goes on with the simulation's codes behind every quantizer."""

    def __init__(self, network: IntegerNetwork, counts: dict[fx.Node, Tensor]):
        super().__init__(network)
        self.counts = counts
        self.found: list[LayerDifferences] = []

    def requantized(self, node: fx.Node, quantizer: Quantizer, value: Value, through: Cause) -> Codes:
        stages = [Run.requantized(self, node, quantizer, value, cause).counts for cause in CAUSES]
        return self._compared(node, quantizer.name, quantizer.grid, stages)

    def rounded_mean(self, node: fx.Node, grid: Grid, value: Value, through: Cause) -> Codes:
        stages = [Run.rounded_mean(self, node, grid, value, cause).counts for cause in CAUSES]
        return self._compared(node, str(node.all_input_nodes[0].target), grid, stages)

    def _compared(self, node: fx.Node, name: str, grid: Grid, stages: list[Tensor]) -> Codes:
        simulated = self.counts[node]
        final = stages[-1]
        steps = (final - simulated).abs()
        causes = _last_changes([stage != final for stage in (simulated, *stages[:-1])])
        most = int(steps.max()) if steps.numel() else 0
        self.found.append(LayerDifferences(name, steps.numel(), int((steps > 0).sum()), most, causes))
        return Codes(simulated, grid)
