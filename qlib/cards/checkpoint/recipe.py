"""``recipe.yaml`` of llm-compressor: which modifiers made a checkpoint, and with what settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .found import Found, agreed, listed, number, truth

PRESET = re.compile(r"W(\d{1,2})A(\d{1,2})(?:_ASYM)?")
METHODS = {
    "GPTQModifier": "GPTQ",
    "AWQModifier": "AWQ",
    "SmoothQuantModifier": "SmoothQuant",
    "SpinQuantModifier": "SpinQuant",
    "QuIPModifier": "QuIP",
    "AutoRoundModifier": "AutoRound",
}
TRANSFORMS = ("SmoothQuantModifier", "SpinQuantModifier", "QuIPModifier")


def of_recipe(recipe: Any, about: str = "recipe.yaml") -> Found:
    """What a recipe says.

    Parameters
    ----------
    recipe
        Plain data: modifiers by name, at whatever depth.
    about : str
        The file that it stands in.
    """
    found = Found(about)
    modifiers = list(_modifiers(recipe))
    used = [METHODS[name] for name, _ in modifiers if name in METHODS]
    if modifiers:
        found.say("modifiers", technique=f"post-training, {' and '.join(used) if used else 'rounding'}")
    if [name for name, _ in modifiers] == ["QuantizationModifier"]:
        found.say("QuantizationModifier alone", rounding="nearest")
    smoothed = [
        settings.get("smoothing_strength") for name, settings in modifiers if name == "SmoothQuantModifier"
    ]
    strength = agreed(smoothed)
    if isinstance(strength, float) and 0 <= strength <= 1:
        found.say("smoothing_strength", transform=f"smoothing, strength {strength:g}")
    elif any(name in TRANSFORMS for name, _ in modifiers):
        found.say("modifiers", transform=listed(METHODS[name] for name, _ in modifiers if name in TRANSFORMS))
    for name, settings in modifiers:
        _of_settings(name, settings, found)
    return found


def _modifiers(part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every modifier with its settings; their depth is bounded by the reader of the file."""
    inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for name, value in inner:
        if isinstance(name, str) and re.fullmatch(r"\w+Modifier", name):
            yield name, value if isinstance(value, dict) else {}
        else:
            yield from _modifiers(value)


def _of_settings(name: str, settings: Mapping[str, Any], found: Found) -> None:
    scheme = settings.get("scheme")
    preset = PRESET.fullmatch(scheme) if isinstance(scheme, str) else None
    if preset:
        sides = [number(int(width), 1, 16) for width in preset.groups()]
        sides[1] = "float" if sides[1] == 16 else sides[1]
        found.say(f"{name}.scheme", weight_bits=sides[0], activation_bits=sides[1])
    if name == "GPTQModifier":
        found.say(f"{name}.sequential_update", sequential=truth(settings.get("sequential_update")))
        damp = settings.get("dampening_frac")
        if isinstance(damp, float):
            found.remark(f"Damping: {damp:g} of the mean of the diagonal.")
