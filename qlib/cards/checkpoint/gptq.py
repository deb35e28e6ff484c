"""GPTQ: ``quantize_config.json``, or ``quantization_config`` with ``quant_method: gptq``, as AutoGPTQ,
GPTQModel and transformers write it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .autoround import VERSION, say_autoround
from .found import HEAD, MOST_ENTRIES, Found, listed, number, say_group, words

# GPTQConfig.block_name_to_quantize: what is quantized are the blocks of a network
BLOCKS = "not stated: GPTQ quantizes the layers of blocks alone, as transformers 5.24 documents it"


def of_gptq(settings: Mapping[str, Any], about: str) -> Found:
    """What the settings say.

    Parameters
    ----------
    settings : mapping
    about : str
        The file that they stand in.
    """
    found = Found(about)
    bits = found.number("weight_bits", "bits", settings.get("bits"), 1, 16)
    found.say("quant_method gptq: of weights alone", quantizer="uniform", activation_bits="float")
    found.say("sym", weight_symmetric=found.truth("weight_symmetric", "sym", settings.get("sym")))
    say_group(settings.get("group_size"), found)
    _of_modules(settings, bits, found)
    if not say_autoround(settings, found):
        found.say("quant_method", technique="post-training, GPTQ")
        _of_order(settings, found)
    _of_data(settings, found)
    found.say("rotation", transform=_rotation(settings.get("rotation")))
    _of_format(settings, found)
    return found


def _of_format(settings: Mapping[str, Any], found: Found) -> None:
    """How codes are packed, which transformers 5 calls ``format``."""
    key = "checkpoint_format" if "checkpoint_format" in settings else "format"
    form = words(settings.get(key))
    if form == "gptq_v2":
        found.remark(f"{key} gptq_v2: zero-points are stored as they are, not less one.")
    elif form and form != "gptq":
        found.remark(f"Stored as {form} ({key}).")


def _either(settings: Mapping[str, Any], name: str) -> Any:
    """A setting, which GPTQModel may keep under ``meta``."""
    meta = settings.get("meta")
    inner = meta.get(name) if isinstance(meta, dict) else None
    return settings.get(name) if settings.get(name) is not None else inner


def _of_modules(settings: Mapping[str, Any], bits: int | None, found: Found) -> None:
    """Bits, and where they are others: ``dynamic`` has patterns, with +: what is changed, with -: skipped."""
    dynamic = settings.get("dynamic")
    plain = (
        {words(name) or "?": entry for name, entry in dynamic.items()} if isinstance(dynamic, dict) else {}
    )
    skipped = sorted(name.removeprefix("-:") for name in plain if name.startswith("-:"))
    own = {
        name.removeprefix("+:"): found.number("weight_bits", "dynamic", entry.get("bits"), 1, 16)
        for name, entry in plain.items()
        if isinstance(entry, dict) and not name.startswith("-:") and entry.get("bits", bits) != bits
    }
    if not own:
        found.say("bits", weight_bits=bits)
    elif bits and None not in own.values():
        each = {"default": bits, **own}
        found.say("bits and dynamic", weight_bits=each if len(each) <= MOST_ENTRIES else "mixed")
    changed = {key for entry in plain.values() if isinstance(entry, dict) for key in entry} - {"bits"}
    if "group_size" in changed:
        found.unsay("group_size", "weight_granularity")
    if "sym" in changed:
        found.unsay("weight_symmetric")
    if changed:
        found.remark(f"Some modules have their own {listed(sorted(changed))} (dynamic).")
    found.say_left("dynamic", skipped or None)
    head = found.truth("head_bits", "lm_head", settings.get("lm_head"))
    found.say("lm_head", head_bits=None if head is None else bits if head else "float")
    if VERSION not in settings and not any(HEAD.fullmatch(name.removeprefix("+:")) for name in plain):
        found.say_usual(BLOCKS, head_bits="float")
    if isinstance(settings.get("modules_in_block_to_quantize"), list):
        inside = settings["modules_in_block_to_quantize"]
        flat = [name for part in inside for name in (part if isinstance(part, list) else [part])]
        found.remark(f"Only these modules of a block are quantized: {listed(flat, 16)}.")
    found.say_left("modules_to_not_convert", settings.get("modules_to_not_convert"))


def _of_order(settings: Mapping[str, Any], found: Found) -> None:
    """``act_group_aware`` orders columns, too, where ``desc_act`` does not."""
    by_one = found.truth("sequential", "true_sequential", _either(settings, "true_sequential"))
    found.say("true_sequential", sequential=by_one)
    damp = _either(settings, "damp_percent")
    if isinstance(damp, float):
        found.remark(f"Damping: {damp:g} of the mean of the diagonal.")
    by_activation = found.truth("column_order", "desc_act", settings.get("desc_act"))
    static = found.truth("column_order", "static_groups", _either(settings, "static_groups"))
    if by_activation:
        order = {True: "activation, static groups", False: "activation"}.get(static)
        found.say("desc_act and static_groups", column_order=order)
        if order is None:
            found.open.add("column_order")
            found.remark("desc_act, and whether groups are static is not said.")
    elif _either(settings, "act_group_aware") is True:
        found.remark("act_group_aware: columns are ordered by activations group by group.")
    elif by_activation is False:
        found.say("desc_act", column_order="natural")


def _of_data(settings: Mapping[str, Any], found: Found) -> None:
    data = settings.get("dataset")
    if isinstance(data, list) and data:
        found.say("dataset", images=len(data), data="texts of one's own")
    else:
        found.say("dataset", data=words(data))
    length = number(settings.get("model_seqlen"), 1, 2**30)
    if length:
        found.remark(f"Sequences of at most {length:,} tokens calibrated it (model_seqlen).")
    producer = _either(settings, "quantizer")
    producer = producer if isinstance(producer, list) else [producer]
    if listed(producer):
        found.remark(f"Made by {listed(producer)}.")


def _rotation(name: Any) -> str | None:
    known = words(name)
    return f"rotation: {known}" if known else None
