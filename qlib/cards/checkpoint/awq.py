"""AWQ: ``quantization_config`` with ``quant_method: awq``, or AutoAWQ's ``quant_config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .autoround import VERSION, say_autoround
from .found import Found, say_group, truth, words

OLD_KEYS = (("bits", "w_bit"), ("group_size", "q_group_size"))  # those of AutoAWQ second
# AwqQuantizer of transformers 5.24: get_modules_to_not_convert(..., add_default_skips=True)
BLOCKS = "not stated: transformers 5.24 leaves the head of such a checkpoint in float"


def of_awq(settings: Mapping[str, Any], about: str) -> Found:
    """What the settings say; of clipping and calibration they say nothing.

    transformers writes the settings of GPTQ among them, which nobody reads: of these only ``sym`` is spoken
    of, where it contradicts ``zero_point``.
    """
    found = Found(about)
    found.say("quant_method awq: of weights alone", quantizer="uniform", activation_bits="float")
    if not say_autoround(settings, found):
        found.say("quant_method", technique="post-training, AWQ")
    bits, group = (key if key in settings else other for key, other in OLD_KEYS)
    found.say(bits, weight_bits=found.number("weight_bits", bits, settings.get(bits), 1, 16))
    say_group(settings.get(group), found, group)
    shifted = found.truth("weight_symmetric", "zero_point", settings.get("zero_point"))
    found.say("zero_point", weight_symmetric=None if shifted is None else not shifted)
    if shifted is not None and truth(settings.get("sym")) is shifted:
        said = str(shifted).lower()
        found.remark(f"sym: {said} stands beside zero_point: {said}, its contrary, which is what AWQ reads.")
    found.say_left("modules_to_not_convert", settings.get("modules_to_not_convert"))
    if VERSION not in settings:
        found.say_usual(BLOCKS, head_bits="float")
    version = words(settings.get("version"))
    if version:
        found.remark(f"Packed for {version}.")
    return found
