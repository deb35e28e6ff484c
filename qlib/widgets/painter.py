"""The bits painter: bits by layer that a reader drags, what they cost, and how accurate they are where there is a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..config import MAX_BITS, QuantConfig
from ..footprint import footprint
from .figure import Figure, table

Presets = Mapping[str, tuple[QuantConfig, str]]


def bits_painter(model: nn.Module, example_input: Tensor, presets: Presets) -> Figure:
    """The painter for a page without a kernel: sizes equal those of `qlib.footprint`.

    ``presets``: by name, a configuration whose bits the painter starts from, and what is known of its accuracy (one sentence).
    """
    state = painter_state(model, example_input, presets)
    name, (config, recorded) = next(iter(presets.items()))
    fallback = table(name, {"cost": str(footprint(model, example_input, config)), "accuracy": recorded})
    return Figure("painter", {**state, "live": False}, fallback)


def painter_state(model: nn.Module, example_input: Tensor, presets: Presets) -> dict[str, Any]:
    """The layers with weights and the counted feature maps with their elements, and the bits that each preset gives them."""
    if not presets:
        raise ValueError("the painter needs at least one preset to start from")
    found = []
    for name, (config, recorded) in presets.items():
        layers = footprint(model, example_input, config).layers
        weights, maps = [e for e in layers if e.weight_elements], [e for e in layers if e.counted]
        found.append({"name": name, "recorded": recorded, "weights": [_whole(name, e.name, e.weight_bits) for e in weights],
                      "maps": [_whole(name, e.name, e.activation_bits) for e in maps]})  # fmt: skip
    elements = {"weights": [{"name": e.name, "elements": e.weight_elements} for e in weights],
                "maps": [{"name": e.name, "elements": e.activation_elements} for e in maps]}  # fmt: skip
    return {"layers": elements, "presets": found}


def _whole(preset: str, layer: str, bits: float) -> int:
    """Bits that the painter can draw: 1 to 16, and everything beyond, which stays in float, as 32."""
    if bits != int(bits):
        raise ValueError(f"preset {preset!r} gives channels of {layer!r} bits of their own: the painter has one bar a layer")
    return int(bits) if bits <= MAX_BITS else 32


def painted_config(base: QuantConfig, layers: Mapping[str, Sequence[Mapping[str, Any]]],
                   bits: Mapping[str, Sequence[int]]) -> QuantConfig:  # fmt: skip
    """``base`` with the painter's bits, layer by layer; ``layers`` as in `painter_state`."""
    weights, maps = (dict(zip((e["name"] for e in layers[side]), bits[side], strict=True)) for side in ("weights", "maps"))
    return base.replace(weight_bits=weights, activation_bits=maps, first_last_bits=None)
