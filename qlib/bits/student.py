"""The network that learns bits, made from the one that is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import fx, nn

from ..config import Bits, QuantConfig
from ..footprints import footprint
from ..methods import Work
from ..methods.nearest import Nearest
from ..names import entry
from ..network import Network
from ..network.inputs import device_of, first, inputs_of
from ..network.operations import rows_of
from ..placement import Placement, place
from ..quantization import insert_quantizers, read_verified, round_and_calibrate, save_passes
from ..quantizer import Quantizer
from .settings import LearnerSettings
from .sides import Activations, LearnedQuantizer, Side, Weights

if TYPE_CHECKING:
    from ..benches import Batches


def make_student(
    model: nn.Module | Network, config: QuantConfig, data: Batches, settings: LearnerSettings
) -> tuple[nn.Module, list[Side]]:
    """The network that learns, calibrated with 8 bits on the sides that do, and these sides."""
    fields = [f"{kind}_bits" for kind in settings.targets]
    start = config.replace(**{name: named(config, name) for name in fields})
    inputs = inputs_of(data)
    traced = read_verified(model, start, inputs)
    placement = place(traced, start)
    work = Work(start, traced, placement, inputs)
    work.quantizers = insert_quantizers(traced, start, placement)
    network = traced.module.requires_grad_(False)
    modules = {name: network.get_submodule(name) for name in placement.weight_bits}
    floats = {name: rows_of(module.weight, module).clone() for name, module in modules.items()}
    round_and_calibrate(work, [Nearest()])
    save_passes(traced, work.quantizers)
    layers = footprint(model, first(inputs[0], 1), start).layers
    more = layers, config, settings.parametrization == "log2", device_of(network)
    ends = placement.ends if config.first_last_bits is not None else frozenset()
    sides: list[Side] = []
    if "weight" in settings.targets:
        free = _free_weights(traced, start, ends)
        counts = {name: len(floats[name]) if settings.per_channel else 1 for name in free}
        sides.append(Weights(floats, modules, settings.targets["weight"], counts, *more))
    if "activation" in settings.targets:
        learners = _learners(network, _free_activations(traced, start, ends, placement))
        counts = dict.fromkeys((learner.fixed.name for learner in learners), 1)
        target = settings.targets["activation"]
        sides.append(Activations(learners, settings.learn_ranges, target, counts, *more))
    return network, sides


def _free_weights(network: Network, config: QuantConfig, ends: frozenset[str]) -> list[str]:
    fixed = {
        network.tied.get(name, name)
        for name in network.layers
        if name in ends or entry("weight_bits", config.weight_bits, name) is not None
    }
    return [name for name in network.layers if name not in fixed and name not in network.tied]


def _free_activations(
    network: Network, config: QuantConfig, ends: frozenset[str], placement: Placement
) -> set[str]:
    fixed = {
        o.name
        for o in network.listed()
        if o.node.target in ends or entry("activation_bits", config.activation_bits, o.name) is not None
    }
    maps = {o.name for o in network.listed() if o.counted and placement.feature_maps[o.name] is not None}
    return maps - fixed


def _learners(network: fx.GraphModule, free: set[str]) -> list[LearnedQuantizer]:
    """Put a learner into the place of every quantizer of a tensor whose bits are free."""
    learners = []
    for name, module in list(network.named_modules()):
        if isinstance(module, Quantizer) and module.name in free:
            learners.append(LearnedQuantizer(module))
            network.set_submodule(name, learners[-1])
    return learners


def named(config: QuantConfig, field: str) -> dict[str, Bits]:
    """The layers or tensors to which a field of a configuration gives bits by name."""
    bits = getattr(config, field)
    return {name: b for name, b in bits.items() if name != "default"} if isinstance(bits, Mapping) else {}
