"""compressed-tensors: ``quantization_config`` with ``config_groups``, read as its files are, old ones too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .found import MAX_GROUP, MOST_ENTRIES, Found, agreed, listed, names, number, truth, words

KINDS = {"int": "uniform", "float": "non-uniform"}
WEIGHT_RANGES = {
    "tensor": "per_tensor",
    "channel": "per_channel",
    "group": "per_group",
    "tensor_group": "per_group",
}
ACTIVATION_RANGES = {"tensor": "per_tensor", "channel": "per_channel", "token": "per_token"}
ORDERS = {
    "group": "activation",
    "dynamic": "activation",
    "weight": "activation, static groups",
    "static": "activation, static groups",
}
OBSERVERS = {"minmax": "minmax", "mse": "mse"}
FLOAT_CODES = {4: "float4", 8: "float8"}
NO_ORDER = "no actorder: columns as they stand, the default of compressed-tensors 0.20"


def of_compressed_tensors(settings: Mapping[str, Any], about: str) -> Found:
    """What the settings say.

    Parameters
    ----------
    settings : mapping
        Schemes by group; a group that is but a list of targets is named after a scheme.
    about : str
        The file that they stand in.
    """
    found = Found(about)
    groups = settings.get("config_groups")
    groups = groups if isinstance(groups, dict) and len(groups) <= MOST_ENTRIES else {}
    schemes = [scheme for scheme in groups.values() if isinstance(scheme, dict)]
    if groups and len(schemes) == len(groups):
        weights = [_part(scheme, "weights") for scheme in schemes]
        _of_weights(weights, schemes, found)
        _of_activations([_part(scheme, "input_activations") for scheme in schemes], found)
    elif groups:
        found.remark(f"Of the schemes {listed(groups)} the file gives no more than names.")
    _of_the_rest(settings, schemes, found)
    return found


def _part(scheme: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    part = scheme.get(name)
    return part if isinstance(part, dict) else None


def _alike(parts: Iterable[Mapping[str, Any]], name: str, meaning: Mapping[str, Any]) -> Any:
    return agreed(meaning.get(words(part.get(name)) or "") for part in parts)


def _of_weights(weights: list[dict[str, Any] | None], schemes: list[dict[str, Any]], found: Found) -> None:
    bits = _bits(weights, "weight_bits", "num_bits", found)
    targets = [names(scheme.get("targets")) or [] for scheme in schemes]
    by_target = {name: width for each, width in zip(targets, bits, strict=True) for name in each}
    once = all(targets) and len(by_target) == sum(map(len, targets)) <= MOST_ENTRIES
    if None not in bits:
        found.say("num_bits", weight_bits=agreed(bits) or (by_target if once else "mixed"))
    if by_target and "Linear" not in by_target:
        found.remark(f"Quantized are {listed(by_target)}.")
    known = [part for part in weights if part is not None]
    if not known:
        return
    found.say("type", quantizer=_alike(known, "type", KINDS))
    symmetric = [found.truth("weight_symmetric", "symmetric", part.get("symmetric")) for part in known]
    groups = [_group(part, found) for part in known]
    found.say("symmetric", weight_symmetric=agreed(symmetric))
    found.say("strategy", weight_granularity=_alike(known, "strategy", WEIGHT_RANGES))
    found.say("group_size", group_size=agreed(groups))
    strategies = [words(part.get("strategy")) for part in known]
    found.differ("Groups of layers", symmetric=symmetric, strategy=strategies, group_size=groups)
    found.say("observer", weight_range=agreed(_observed(part) for part in known))
    order = agreed(_order(part) for part in known)
    found.say(NO_ORDER if order == "natural" else "actorder", column_order=order)
    blocks = agreed(part.get("block_structure") for part in known)
    if blocks is not None:
        found.remark(f"Weights share a scale in blocks of {words(str(blocks), 40)}.")


def _bits(parts: Iterable[dict[str, Any] | None], name: str, key: str, found: Found) -> list[Any]:
    return [
        "float" if part is None else found.number(name, key, part.get("num_bits"), 1, 32) for part in parts
    ]


def _group(part: Mapping[str, Any], found: Found) -> int | None:
    """The weights of a group; -1 is a whole row."""
    size = part.get("group_size")
    whole = size == -1 and isinstance(size, int)
    return None if whole else found.number("group_size", "group_size", size, 1, MAX_GROUP)


def _order(part: Mapping[str, Any]) -> str | None:
    order = part.get("actorder")
    if order is None or order is False:
        return "natural"
    return "activation" if order is True else ORDERS.get(words(order) or "")


def _observed(part: Mapping[str, Any]) -> str | None:
    """The range that an observer finds, static or without memory."""
    name = words(part.get("observer")) or ""
    return OBSERVERS.get(name.removeprefix("static_").removeprefix("memoryless_"))


def _of_activations(activations: list[dict[str, Any] | None], found: Found) -> None:
    bits = _bits(activations, "activation_bits", "input_activations.num_bits", found)
    found.say("input_activations", activation_bits=agreed(bits))
    known = [part for part in activations if part is not None]
    if not known:
        return
    about = "input_activations"
    found.say(
        f"{about}.symmetric", activation_symmetric=agreed(truth(part.get("symmetric")) for part in known)
    )
    found.say(f"{about}.strategy", activation_granularity=_alike(known, "strategy", ACTIVATION_RANGES))
    found.say(f"{about}.dynamic", activation_dynamic=agreed(truth(part.get("dynamic")) for part in known))
    found.say(f"{about}.observer", activation_range=agreed(_observed(part) for part in known))
    if any(part.get("dynamic") == "local" for part in known):
        found.remark("Scales of groups of activations are found as it runs, one of the tensor before.")
    if any(part.get("strategy") in ("group", "tensor_group", "block") for part in known):
        sizes = agreed(number(part.get("group_size"), 1, MAX_GROUP) for part in known)
        found.remark(f"Activations share a scale in groups{f' of {sizes}' if sizes else ''}.")
    if agreed(part.get("type") for part in known) == "float":
        found.remark("Codes of activations are small floating-point numbers.")


def _of_the_rest(settings: Mapping[str, Any], schemes: list[dict[str, Any]], found: Found) -> None:
    found.say_left("ignore", settings.get("ignore"))
    if schemes and all(scheme.get("targets") == ["Linear"] for scheme in schemes):
        found.say("targets: Linear, which a table is not", embedding_bits="float")
    if "kv_cache_scheme" in settings:
        found.say("kv_cache_scheme", kv_bits=cached(settings["kv_cache_scheme"], found))
    transforms = settings.get("transform_config")
    if isinstance(transforms, dict) and isinstance(transforms.get("config_groups"), dict):
        kinds = [part.get("type") for part in transforms["config_groups"].values() if isinstance(part, dict)]
        found.say(
            "transform_config", transform=f"{listed(sorted(set(map(str, kinds)))) or 'some'} transforms"
        )
    sparsity = settings.get("sparsity_config")
    if isinstance(sparsity, dict) and words(sparsity.get("sparsity_structure")):
        found.remark(f"Weights are sparse, too ({words(sparsity['sparsity_structure'])}).")
    status, form = words(settings.get("quantization_status")), words(settings.get("format"))
    if status and status not in ("compressed", "frozen"):
        found.remark(f"quantization_status {status}: its weights may not be quantized yet.")
    if form:
        found.remark(f"Stored as {form}.")


def cached(scheme: Any, found: Found) -> Any:
    """What a scheme says of keys and values: their bits, or that they are small floating-point numbers."""
    if not isinstance(scheme, dict):
        return "float" if scheme is None else None
    bits = found.number("kv_bits", "kv_cache_scheme.num_bits", scheme.get("num_bits"), 1, 32)
    return FLOAT_CODES.get(bits) if scheme.get("type") == "float" else bits
