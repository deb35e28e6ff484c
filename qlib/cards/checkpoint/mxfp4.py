"""MXFP4: ``quant_method: mxfp4``, of the experts of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .found import Found


def of_mxfp4(settings: Mapping[str, Any], about: str) -> Found:
    """What the settings say, which name no more than the layers in float, and the format."""
    found = Found(about)
    found.say(
        "the format MXFP4, of weights alone",
        weight_bits=4,
        quantizer="non-uniform",
        weight_symmetric=True,
        weight_granularity="per_group",
        group_size=32,
        activation_bits="float",
    )
    # transformers/integrations/mxfp4.py: replace_with_mxfp4_linear
    found.remark("transformers 5.24 quantizes the weights of experts alone.")
    found.say_left("modules_to_not_convert", settings.get("modules_to_not_convert"))
    return found
