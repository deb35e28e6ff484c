"""Weights and activations of 8 bits in floating point: ``quant_method: fp8`` or ``fbgemm_fp8``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .compressed_tensors import cached
from .found import Found, listed, number, words

FLOAT8 = {"quantizer": "non-uniform", "weight_bits": 8, "weight_symmetric": True}
SCHEMES = {"dynamic": True, "static": False}
# transformers/quantizers/base.py: get_keys_to_not_convert
SKIPPED = "not stated: without modules_to_not_convert transformers 5.24 leaves the head in float"
STORED = ("weight_bits", "weight_bytes", "average_weight_bits", "effective_weight_bits")


def of_fp8(settings: Mapping[str, Any], about: str) -> Found:
    """What the settings say, where ``ignored_layers`` may stand for ``modules_to_not_convert``."""
    found = Found(about)
    found.say("quant_method", **FLOAT8, activation_bits=8, activation_symmetric=True)
    found.remark("Codes are small floating-point numbers (float8).")
    scheme = words(settings.get("activation_scheme"), 20)
    dynamic = SCHEMES.get((scheme or "").lower())
    found.say("activation_scheme", activation_dynamic=dynamic)
    if dynamic is None:
        found.wrong("activation_dynamic", "activation_scheme", settings.get("activation_scheme"))
    _of_blocks(settings.get("weight_block_size"), found)
    if settings.get("expert_dtype") == "fp4":
        found.open |= {*STORED}
        found.remark("Weights of experts are floating-point numbers of 4 bits (expert_dtype).")
    if "kv_cache_scheme" in settings:
        found.say("kv_cache_scheme", kv_bits=cached(settings["kv_cache_scheme"], found))
    _say_left(settings, found)
    return found


def of_fbgemm_fp8(settings: Mapping[str, Any], about: str) -> Found:
    """What the settings say, and the method: a range for each row of weights and for each token."""
    found = Found(about)
    found.say("quant_method", **FLOAT8, weight_granularity="per_channel")
    # transformers/integrations/fbgemm_fp8.py: quantize_fp8_per_row, of weights and of what a layer is given
    found.say(
        "the method",
        activation_bits=8,
        activation_symmetric=True,
        activation_dynamic=True,
        activation_granularity="per_token",
    )
    found.remark("Codes are small floating-point numbers (float8).")
    most = settings.get("activation_scale_ub")
    if isinstance(most, (int, float)) and not isinstance(most, bool):
        found.remark(f"Activations are clipped at {most:g} (activation_scale_ub).")
    _say_left(settings, found)
    return found


def _of_blocks(sizes: Any, found: Found) -> None:
    known = isinstance(sizes, list) and len(sizes) == 2 and None not in (number(s, 1, 2**20) for s in sizes)
    if known:
        found.remark(f"Weights share a scale in blocks of {sizes[0]} by {sizes[1]}.")
    else:
        found.wrong("weight_granularity", "weight_block_size", sizes)


def _say_left(settings: Mapping[str, Any], found: Found) -> None:
    key = "modules_to_not_convert" if settings.get("modules_to_not_convert") is not None else "ignored_layers"
    found.say_left(key, settings.get(key))
    if settings.get(key) is None:
        found.say_usual(SKIPPED, head_bits="float")
    more = settings.get("modules_to_convert")
    if isinstance(more, list) and listed(more):
        found.remark(f"Quantized are {listed(more)}, too (modules_to_convert).")
