"""ModelOpt: ``hf_quant_config.json``, or the same settings in ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .found import MAX_GROUP, Found, agreed, number, words

FP8_TENSOR = {
    "weight_bits": 8,
    "quantizer": "non-uniform",
    "weight_symmetric": True,
    "weight_granularity": "per_tensor",
    "activation_bits": 8,
    "activation_symmetric": True,
    "activation_granularity": "per_tensor",
    "activation_dynamic": False,
}
INT4 = {"weight_bits": 4, "quantizer": "uniform", "weight_granularity": "per_group"}
FP4 = {
    "weight_bits": 4,
    "quantizer": "non-uniform",
    "weight_symmetric": True,
    "weight_granularity": "per_group",
}
INT8 = {
    "weight_bits": 8,
    "quantizer": "uniform",
    "weight_symmetric": True,
    "weight_granularity": "per_channel",
}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "FP8": FP8_TENSOR,
    "FP8_PER_CHANNEL_PER_TOKEN": {
        **FP8_TENSOR,
        "weight_granularity": "per_channel",
        "activation_granularity": "per_token",
        "activation_dynamic": True,
    },
    "W4A16": {**INT4, "activation_bits": "float"},
    "W4A16_AWQ": {**INT4, "activation_bits": "float", "technique": "post-training, AWQ"},
    "W4A8_AWQ": {**INT4, "activation_bits": 8, "technique": "post-training, AWQ"},
    "W8A16": {**INT8, "activation_bits": "float"},
    "W8A8_SQ_PER_CHANNEL": {**INT8, "activation_bits": 8, "transform": "smoothing"},
    "NVFP4": {**FP4, "activation_bits": 4, "activation_symmetric": True},
    "NVFP4_AWQ": {**FP4, "activation_bits": 4, "technique": "post-training, AWQ"},
    "MXFP8": {**FP4, "weight_bits": 8, "activation_bits": 8},
}
"""What the names of its algorithms mean: TensorRT-LLM's QuantAlgo."""
CACHES = {"FP8": "float8", "INT8": 8, "NVFP4": "float4"}


def of_modelopt(settings: Mapping[str, Any], about: str) -> Found:
    """What the settings say.

    Parameters
    ----------
    settings : mapping
        The file's: ``producer`` and ``quantization``; or the latter's keys beside ``quant_method``.
    about : str
        The file that they stand in.
    """
    found = Found(about)
    inner = settings.get("quantization", settings)
    inner = inner if isinstance(inner, dict) else {}
    algorithm = words(inner.get("quant_algo"), 60)
    layers = inner.get("quantized_layers")
    if algorithm in ALGORITHMS:
        found.say(f"quant_algo {algorithm}", **ALGORITHMS[algorithm])
        group = found.number("group_size", "group_size", inner.get("group_size"), 1, MAX_GROUP)
        found.say("group_size", group_size=group)
    elif algorithm == "MIXED_PRECISION" and isinstance(layers, dict):
        _of_layers(layers, found)
    elif algorithm:
        found.remark(f"What quant_algo {algorithm} means, this qlib does not know.")
    _of_the_rest(inner, found)
    producer = settings.get("producer")
    if isinstance(producer, dict) and words(producer.get("name")):
        version = words(producer.get("version"), 40) or ""
        found.remark(f"Made by {words(producer['name'])} {version}".strip() + ".")
    return found


def _of_the_rest(inner: Mapping[str, Any], found: Found) -> None:
    shifted = found.truth("weight_symmetric", "has_zero_point", inner.get("has_zero_point"))
    found.say("has_zero_point", weight_symmetric=None if shifted is None else not shifted)
    cache = words(inner.get("kv_cache_quant_algo"), 60)
    if "kv_cache_quant_algo" in inner and inner["kv_cache_quant_algo"] is None:
        found.say("kv_cache_quant_algo null", kv_bits="float")
    found.say("kv_cache_quant_algo", kv_bits=CACHES.get(cache or ""))
    if cache and cache not in CACHES:
        found.remark(f"What kv_cache_quant_algo {cache} means, this qlib does not know.")
    found.say_left("exclude_modules", inner.get("exclude_modules", inner.get("ignore")))


def _of_layers(layers: Mapping[str, Any], found: Found) -> None:
    """Bits layer by layer; of other choices what all layers share."""
    each = {words(name) or "?": entry if isinstance(entry, dict) else {} for name, entry in layers.items()}
    known = {name: ALGORITHMS.get(words(entry.get("quant_algo")) or "") for name, entry in each.items()}
    if not known or None in known.values():
        found.remark("Of quantized_layers some have a quant_algo that this qlib does not know.")
        return
    shared = {name for entry in known.values() for name in entry} - {"weight_bits"}
    alike = {field: agreed(entry.get(field) for entry in known.values()) for field in sorted(shared)}
    found.differ("Quantized layers", quant_algo=(entry.get("quant_algo") for entry in each.values()))
    bits = {name: entry["weight_bits"] for name, entry in known.items()}
    found.say("quantized_layers", weight_bits=bits if len(bits) <= 2000 else "mixed", **alike)
    groups = agreed(number(entry.get("group_size"), 1, MAX_GROUP) for entry in each.values())
    found.say("quantized_layers", group_size=groups)
