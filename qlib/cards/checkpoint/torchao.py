"""torchao: ``quantization_config`` with ``quant_type``, a configuration of torchao, or an old name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .found import MAX_GROUP, Found, agreed, number, words

FLOAT8 = {"quantizer": "non-uniform", "weight_symmetric": True, "weight_bits": 8}
INT8 = {"quantizer": "uniform", "weight_symmetric": True, "weight_bits": 8}
INT4 = {"quantizer": "uniform", "weight_bits": 4, "weight_granularity": "per_group"}
INTX = {"quantizer": "uniform"}
ROWS = {"weight_granularity": "per_channel"}  # where nothing else is said
WEIGHTS_ALONE = {"activation_bits": "float"}
DYNAMIC = {"activation_bits": 8, "activation_dynamic": True}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "Int4WeightOnlyConfig": {**INT4, **WEIGHTS_ALONE},
    "Int8WeightOnlyConfig": {**INT8, **ROWS, **WEIGHTS_ALONE},
    "Float8WeightOnlyConfig": {**FLOAT8, **WEIGHTS_ALONE},
    "IntxWeightOnlyConfig": {**INTX, **WEIGHTS_ALONE},
    "Int8DynamicActivationInt4WeightConfig": {**INT4, **DYNAMIC, "activation_granularity": "per_token"},
    "Int8DynamicActivationIntxWeightConfig": {**INTX, **DYNAMIC, "activation_granularity": "per_token"},
    "Int8DynamicActivationInt8WeightConfig": {
        **INT8,
        **ROWS,
        **DYNAMIC,
        "activation_granularity": "per_token",
    },
    "Int8StaticActivationInt8WeightConfig": {**INT8, **DYNAMIC, "activation_dynamic": False},
    "Float8DynamicActivationFloat8WeightConfig": {**FLOAT8, **DYNAMIC},
    "Float8DynamicActivationInt4WeightConfig": {**INT4, **DYNAMIC},
}
"""What torchao's documentation says of them whatever their settings are."""
OLD_NAMES = {
    "int4_weight_only": "Int4WeightOnlyConfig",
    "int8_weight_only": "Int8WeightOnlyConfig",
    "int8_dynamic_activation_int8_weight": "Int8DynamicActivationInt8WeightConfig",
    "float8_weight_only": "Float8WeightOnlyConfig",
    "float8_dynamic_activation_float8_weight": "Float8DynamicActivationFloat8WeightConfig",
}
GRANULARITIES = {"PerTensor": "per_tensor", "PerRow": "per_channel", "PerAxis": "per_channel"}
MAPPINGS = {"SYMMETRIC": True, "ASYMMETRIC": False}
BY_MODULE = ("FqnToConfig", "ModuleFqnToConfig")


def of_torchao(settings: Mapping[str, Any], about: str) -> Found:
    """What the settings say.

    Parameters
    ----------
    settings : mapping
    about : str
        The file that they stand in.
    """
    found = Found(about)
    kind = settings.get("quant_type")
    if isinstance(kind, str):
        kwargs = settings.get("quant_type_kwargs")
        data = kwargs if isinstance(kwargs, dict) else {}
        kind = {"_type": OLD_NAMES.get(kind, kind), "_data": data}
    elif isinstance(kind, dict):
        kind = kind.get("default")
    name, data = _entry(kind)
    if name in BY_MODULE:
        _by_module(data, found)
    elif name in CONFIGURATIONS:
        found.say(f"quant_type {name}", **_fields(name, data))
        found.number("group_size", f"{name}.group_size", data.get("group_size"), 1, MAX_GROUP)
    else:
        found.remark(f"What quant_type {name or 'it has'} means, this qlib does not know.")
    found.say_left("modules_to_not_convert", settings.get("modules_to_not_convert"))
    if settings.get("include_input_output_embeddings") is False:
        found.say("include_input_output_embeddings", embedding_bits="float")
    return found


def _entry(value: Any) -> tuple[str | None, dict[str, Any]]:
    """The type and the settings of what torchao has written."""
    value = value if isinstance(value, dict) else {}
    data = value.get("_data")
    return words(value.get("_type"), 60), data if isinstance(data, dict) else {}


def _fields(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a card from a configuration's settings, where it has them."""
    found = dict(CONFIGURATIONS[name])
    width = re.fullmatch(r"u?int([1-8])", _name(data.get("weight_dtype")))
    if width and "weight_bits" not in found:
        found["weight_bits"] = int(width[1])
    for key in ("weight_mapping_type", "mapping_type"):
        if _name(data.get(key)) in MAPPINGS:
            found["weight_symmetric"] = MAPPINGS[_name(data[key])]
    if _name(data.get("act_mapping_type")) in MAPPINGS:
        found["activation_symmetric"] = MAPPINGS[_name(data["act_mapping_type"])]
    found |= _group(data.get("group_size"))
    weights = data.get("weight_granularity", data.get("granularity"))
    both = weights if isinstance(weights, list) and len(weights) == 2 else [weights, weights]
    found |= _granularity(both[1])
    if found["activation_bits"] != "float" and "weight_granularity" not in data:
        on_activations = _granularity(both[0]).get("weight_granularity")
        rows = {"per_channel": "per_token"}.get(on_activations, on_activations)
        found |= {"activation_granularity": rows} if rows else {}
    if data.get("reduce_range") is True:  # fewer codes than their type has
        found |= {"weight_bits": None, "activation_bits": None}
    return found


def _name(value: Any) -> str:
    """An enumeration's member or a type, which torchao writes as a mapping."""
    value = value.get("_data") if isinstance(value, dict) else value
    return (words(value, 40) or "").removeprefix("torch.")


def _granularity(value: Any) -> dict[str, Any]:
    name, data = _entry(value)
    if name == "PerGroup":
        return _group(data.get("group_size"))
    if name == "PerAxis" and data.get("axis") != 0:
        return {}
    return {"weight_granularity": GRANULARITIES[name]} if name in GRANULARITIES else {}


def _group(size: Any) -> dict[str, Any]:
    group = number(size, 1, MAX_GROUP)
    return {"weight_granularity": "per_group", "group_size": group} if group else {}


def _by_module(data: Mapping[str, Any], found: Found) -> None:
    """Configurations by name of a module; ``null`` leaves it in float."""
    each = data.get("fqn_to_config") or data.get("module_fqn_to_config")
    each = each if isinstance(each, dict) and len(each) <= 2000 else {}
    left = sorted(words(name) or "?" for name, entry in each.items() if entry is None)
    entries = {words(name) or "?": _entry(entry) for name, entry in each.items() if entry is not None}
    if not entries or any(name not in CONFIGURATIONS for name, _ in entries.values()):
        found.remark("Of the configurations by module some are such that this qlib does not know.")
        return
    fields = {module: _fields(name, settings) for module, (name, settings) in entries.items()}
    shared = {name for part in fields.values() for name in part} - {"weight_bits"}
    alike = {name: agreed(part.get(name) for part in fields.values()) for name in sorted(shared)}
    bits = {module: part.get("weight_bits") for module, part in fields.items()}
    if None not in bits.values():
        alike["weight_bits"] = agreed(bits.values()) or {
            "default" if module == "_default" else module: width for module, width in bits.items()
        }
    named = ("weight_granularity", "group_size", "weight_symmetric", "activation_bits")
    found.differ("Modules", **{name: [part.get(name) for part in fields.values()] for name in named})
    found.say("configurations by module", **alike)
    found.say_left("configurations by module", left or None)
