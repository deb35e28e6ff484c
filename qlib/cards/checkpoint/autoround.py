"""AutoRound writes its checkpoints in the form of GPTQ's or AWQ's, with settings of its own among theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .found import Found, number

VERSION = "autoround_version"


def say_autoround(settings: Mapping[str, Any], found: Found) -> bool:
    """State how AutoRound made it; ``False`` if it did not."""
    if VERSION not in settings:
        return False
    steps = found.number("steps", "iters", settings.get("iters"), 0, 10**9)
    found.say(VERSION, technique="post-training, AutoRound")
    found.say("iters", steps=steps, rounding=None if steps is None else "learned" if steps else "nearest")
    found.say("nsamples", images=number(settings.get("nsamples"), 1, 10**9) if steps else None)
    return True
