"""AutoRound: settings of its own, or its keys among GPTQ's or AWQ's, in whose form it writes, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .found import MOST_ENTRIES, Found, listed, number, say_group, words

VERSION = "autoround_version"


def say_autoround(settings: Mapping[str, Any], found: Found) -> bool:
    """State how AutoRound made it; ``False`` if it did not."""
    if VERSION not in settings:
        return False
    _of_learning(settings, VERSION, found)
    return True


def of_autoround(settings: Mapping[str, Any], about: str) -> Found:
    """What the settings of ``quant_method: auto-round`` say."""
    found = Found(about)
    _of_learning(settings, "quant_method", found)
    bits = found.number("weight_bits", "bits", settings.get("bits"), 1, 16)
    found.say("sym", weight_symmetric=found.truth("weight_symmetric", "sym", settings.get("sym")))
    say_group(settings.get("group_size"), found)
    kind, packing = words(settings.get("data_type"), 40), words(settings.get("packing_format"))
    found.say("data_type", quantizer="uniform" if kind == "int" else "non-uniform" if kind else None)
    of_activations = found.number("activation_bits", "act_bits", settings.get("act_bits"), 1, 32)
    found.say("act_bits", activation_bits=of_activations if of_activations != 16 else "float")
    dynamic = found.truth("activation_dynamic", "act_dynamic", settings.get("act_dynamic"))
    found.say("act_dynamic", activation_dynamic=dynamic if of_activations != 16 else None)
    _of_modules(settings.get("extra_config"), bits, found)
    found.say("dataset", data=words(settings.get("dataset")))
    if packing:
        found.remark(f"Packed as {packing}.")
    return found


def _of_learning(settings: Mapping[str, Any], source: str, found: Found) -> None:
    steps = found.number("steps", "iters", settings.get("iters"), 0, 10**9)
    found.say(source, technique="post-training, AutoRound")
    found.say("iters", steps=steps, rounding=None if steps is None else "learned" if steps else "nearest")
    found.say("nsamples", images=number(settings.get("nsamples"), 1, 10**9) if steps else None)


def _of_modules(own: Any, bits: int | None, found: Found) -> None:
    """Bits, and the modules that have others; with 16 or more they are in float."""
    own = own if isinstance(own, dict) else {}
    plain = {words(name) or "?": entry for name, entry in own.items() if isinstance(entry, dict)}
    said = {name: number(entry["bits"], 1, 32) for name, entry in plain.items() if "bits" in entry}
    left = sorted(name for name, width in said.items() if width is not None and width >= 16)
    others = {name: width for name, width in said.items() if name not in left and width != bits}
    if not others:
        found.say("bits", weight_bits=bits)
    elif bits and None not in others.values():
        each = {"default": bits, **others}
        found.say("bits and extra_config", weight_bits=each if len(each) <= MOST_ENTRIES else "mixed")
    found.say_left("extra_config", left or None)
    changed = {key for name, entry in plain.items() if name not in left for key in entry} - {"bits"}
    if changed:
        found.unsay("group_size", "weight_granularity", "weight_symmetric")
        found.remark(f"Some modules have their own {listed(sorted(changed))} (extra_config).")
