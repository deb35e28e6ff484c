"""HQQ: ``quantization_config`` with ``quant_method: hqq``, one configuration, or one by kind of layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .found import MAX_GROUP, MOST_ENTRIES, Found, agreed, words

WEIGHTS = "weight_quant_params"
PARAMETERS = ("scale_quant_params", "zero_quant_params")


def of_hqq(settings: Mapping[str, Any], about: str) -> Found:
    """What the settings say: scales and zero-points in groups along an axis, found without data."""
    found = Found(about)
    found.say("quant_method", technique="post-training, HQQ", quantizer="uniform", activation_bits="float")
    found.say("the method HQQ, which has zero-points", weight_symmetric=False)
    config = settings.get("quant_config")
    config = config if isinstance(config, dict) and len(config) <= MOST_ENTRIES else {}
    each = {"": config} if WEIGHTS in config else config
    layers = {words(name) or "": part.get(WEIGHTS) for name, part in each.items() if isinstance(part, dict)}
    known = {name: part for name, part in layers.items() if isinstance(part, dict)}
    if known and len(known) == len(each):
        _of_layers(known, found)
    if any(isinstance(part, dict) and part.get(key) for part in each.values() for key in PARAMETERS):
        found.remark("Scales or zero-points are quantized, too.")
    found.say_left("skip_modules", settings.get("skip_modules"))
    return found


def _of_layers(layers: Mapping[str, Mapping[str, Any]], found: Found) -> None:
    bits = {
        name: found.number("weight_bits", "nbits", part.get("nbits"), 1, 8) for name, part in layers.items()
    }
    groups = [
        found.number("group_size", "group_size", part.get("group_size"), 1, MAX_GROUP)
        for part in layers.values()
    ]
    if None not in bits.values():
        found.say("nbits", weight_bits=agreed(bits.values()) or bits)
    axes = [part.get("axis") for part in layers.values()]
    found.differ("Layers", group_size=groups, axis=axes)
    if axes == [1] * len(axes):
        whole = [part.get("group_size") is None for part in layers.values()]
        size = {True: "per_channel", False: "per_group"}.get(agreed(whole))
        found.say("group_size", weight_granularity=size, group_size=agreed(groups))
    elif 0 in axes:
        found.remark("Weights share a scale across outputs (axis 0).")
