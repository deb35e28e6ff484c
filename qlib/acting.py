"""When a choice acts, by what a card says of the others; one that does not is left out of a card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

NOT_REPORTED = "not reported"
Acts = Callable[[Mapping[str, Any]], bool]


def unlike(field: str, value: Any) -> Acts:
    """When a choice acts: where ``field`` has another value."""
    return lambda card: card[field] != value


def mixed(card: Mapping[str, Any]) -> bool:
    """Whether bits are given by layer: not one number for each side."""
    return not isinstance(card["weight_bits"], int) or not isinstance(card["activation_bits"], (int, str))


def symmetric(card: Mapping[str, Any]) -> bool:
    """Whether a side is quantized on a symmetric grid."""
    weights = card["weight_bits"] != "float" and card["weight_symmetric"] is True
    return weights or card["activation_bits"] != "float" and card["activation_symmetric"] is not False


def percentile(card: Mapping[str, Any]) -> bool:
    """Whether a side is quantized whose ranges are found by a percentile."""
    sides = ("weight", "activation")
    return any(card[f"{side}_bits"] != "float" and card[f"{side}_range"] == "percentile" for side in sides)


def grouped(card: Mapping[str, Any]) -> bool:
    """Whether a size of groups is asked for, or stated where nobody says what shares a range."""
    given = card["weight_granularity"]
    return given == "per_group" or given == NOT_REPORTED != card["group_size"]


def of_language(field: str, usual: str) -> Acts:
    """When a choice about language models acts: where perplexity is measured, or where it is stated."""
    return lambda card: card.get("metric") == "perplexity" or card[field] not in (usual, NOT_REPORTED)


def quantized(card: Mapping[str, Any]) -> bool:
    """Whether a side is."""
    return card["weight_bits"] != "float" or card["activation_bits"] != "float"
