"""AWQ: ``quantization_config`` with ``quant_method: awq``, or AutoAWQ's ``quant_config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .autoround import say_autoround
from .found import Found, number, truth, words
from .gptq import say_group


def of_awq(settings: Mapping[str, Any], about: str) -> Found:
    """What the settings say; of clipping and calibration they say nothing.

    transformers writes the settings of GPTQ among them, which nobody reads: of these only ``sym`` is spoken
    of, where it contradicts ``zero_point``.
    """
    found = Found(about)
    found.say("quant_method awq: of weights alone", quantizer="uniform", activation_bits="float")
    if not say_autoround(settings, found):
        found.say("quant_method", technique="post-training, AWQ")
    found.say("bits", weight_bits=number(settings.get("bits", settings.get("w_bit")), 1, 16))
    say_group(settings.get("group_size", settings.get("q_group_size")), found)
    shifted = truth(settings.get("zero_point"))
    found.say("zero_point", weight_symmetric=None if shifted is None else not shifted)
    if shifted is not None and truth(settings.get("sym")) is shifted:
        said = str(shifted).lower()
        found.remark(f"sym: {said} stands beside zero_point: {said}, its contrary, which is what AWQ reads.")
    found.say_left("modules_to_not_convert", settings.get("modules_to_not_convert"))
    version = words(settings.get("version"))
    if version:
        found.remark(f"Packed for {version}.")
    return found
