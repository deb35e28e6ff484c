"""bitsandbytes: ``quantization_config`` with ``load_in_4bit`` or ``load_in_8bit``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .found import Found, words

METHOD = "the method LLM.int8()"
# bitsandbytes/nn/modules.py: Params4bit, blocksize=None
BLOCK = "not stated: the default of bitsandbytes 0.50"
# transformers/quantizers/base.py: get_keys_to_not_convert
SKIPPED = "not stated: without llm_int8_skip_modules transformers 5.24 leaves the head in float"


def of_bitsandbytes(settings: Mapping[str, Any], about: str) -> Found:
    """What the settings say. The size of a block is not among them, and transformers passes none on."""
    found = Found(about)
    keys = ("load_in_4bit", "load_in_8bit")
    in_4, in_8 = (found.truth("weight_bits", key, settings.get(key)) is True for key in keys)
    found.say_left("llm_int8_skip_modules", settings.get("llm_int8_skip_modules"))
    if in_4 and not in_8:
        _in_4_bits(settings, found)
    elif in_8 and not in_4:
        _in_8_bits(settings, found)
    else:
        found.remark("Whether it is of 4 or 8 bits the settings of bitsandbytes do not say.")
    if settings.get("llm_int8_skip_modules") is None:
        found.say_usual(SKIPPED, head_bits="float")
    return found


def _in_4_bits(settings: Mapping[str, Any], found: Found) -> None:
    kind = words(settings.get("bnb_4bit_quant_type"), 20)
    found.say("load_in_4bit", weight_bits=4, activation_bits="float", weight_granularity="per_group")
    found.say(
        "load_in_4bit", technique="post-training, scales by the largest magnitude", weight_range="minmax"
    )
    found.say_usual(BLOCK, group_size=64)
    if kind in ("nf4", "fp4"):
        found.say(
            "bnb_4bit_quant_type", quantizer="non-uniform", weight_symmetric=True if kind == "fp4" else None
        )
        found.remark(f"Codes of the type {kind}.")
    if settings.get("bnb_4bit_use_double_quant") is True:
        found.remark("Scales are quantized to 8 bits, too (double quantization).")
    _computes(settings, found)


def _in_8_bits(settings: Mapping[str, Any], found: Found) -> None:
    kept = settings.get("llm_int8_has_fp16_weight") is True
    found.say(
        "load_in_8bit",
        weight_bits=None if kept else 8,
        quantizer="uniform",
        technique="post-training, LLM.int8()",
    )
    found.say(
        METHOD,
        activation_bits=8,
        activation_dynamic=True,
        activation_granularity="per_token",
        activation_symmetric=True,
        activation_range="minmax",
        weight_symmetric=True,
        symmetric_grid="restricted",
        weight_granularity="per_channel",
        weight_range="minmax",
    )
    if kept:
        found.remark("Its weights are kept in float beside their codes (llm_int8_has_fp16_weight).")
    threshold = settings.get("llm_int8_threshold")
    if isinstance(threshold, (int, float)) and not isinstance(threshold, bool) and threshold > 0:
        found.remark(f"Columns with activations above {threshold:g} are computed in float.")


def _computes(settings: Mapping[str, Any], found: Found) -> None:
    kind = words(settings.get("bnb_4bit_compute_dtype"), 20)
    if kind:
        found.remark(f"Computes in {kind}.")
