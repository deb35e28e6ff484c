"""The bits painter: bits by layer that a reader drags, what they cost, and how accurate they are where there
is a kernel.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import anywidget
import ipywidgets as W
import traitlets
from torch import Tensor, nn

from .. import results
from ..benches import Bench, is_packaged
from ..config import QuantConfig
from ..footprints import footprint
from .engine.bundle import BENCH
from .figure import Figure, module, table
from .panel import explore

Presets = Mapping[str, tuple[QuantConfig, str]]
_ALIKE = QuantConfig(first_last_bits=None)


def bits_painter(
    model: nn.Module,
    example_input: Tensor,
    presets: Presets,
    side: str = "weights",
    measured: str | None = None,
    **start: Any,
) -> Figure:
    """The painter for a page without a kernel: sizes equal those of `qlib.footprint`.

    Parameters
    ----------
    model : nn.Module
        The float network.
    example_input : Tensor
        A batch ``(n, ...)``; its values do not matter.
    presets : mapping
        By name, a configuration whose bits the painter starts from, and what is known of its accuracy (one
        sentence).
    side : {"weights", "maps"}
        Whose bars are shown at first.
    measured : str, optional
        The network of the bench ``digits`` that ``model`` is, if it is one: the published page then measures
        it with the painted bits, after a click.
    **start
        Other fields of the configuration that is measured, which else is that of the first preset.

    Returns
    -------
    Figure
        Acts without a kernel.
    """
    state = painter_state(model, example_input, presets, side)
    name, (config, recorded) = next(iter(presets.items()))
    fallback = table(name, {"cost": str(footprint(model, example_input, config)), "accuracy": recorded})
    here = measured and {"network": measured, "config": config.replace(**start).to_dict()}
    return Figure("painter", {**state, "live": False, "measured": here}, fallback)


def painter_state(
    model: nn.Module, example_input: Tensor, presets: Presets, side: str = "weights"
) -> dict[str, Any]:
    """The layers with weights and the counted feature maps with their elements, and the bits that each preset
    gives them.
    """
    if not presets:
        raise ValueError("the painter needs at least one preset to start from")
    if side not in ("weights", "maps"):
        raise ValueError(f"side must be 'weights' or 'maps', got {side!r}")
    found = []
    for name, (config, recorded) in presets.items():
        layers = footprint(model, example_input, config).layers
        weights = [e for e in layers if e.weight_elements]
        maps = [e for e in layers if e.counted]
        found.append(
            {
                "name": name,
                "recorded": recorded,
                "weights": [_whole(name, e.name, e.weight_bits) for e in weights],
                "maps": [_whole(name, e.name, e.activation_bits) for e in maps],
            }
        )
    elements = {
        "weights": [{"name": e.name, "elements": e.weight_elements} for e in weights],
        "maps": [{"name": e.name, "elements": e.activation_elements} for e in maps],
    }
    return {"layers": elements, "presets": found, "side": side}


def _whole(preset: str, layer: str, bits: float) -> int:
    if bits != int(bits):
        raise ValueError(
            f"preset {preset!r} gives channels of {layer!r} bits of their own: the painter has one bar a "
            "layer"
        )
    return int(bits)


def painted_config(
    base: QuantConfig, layers: Mapping[str, Sequence[Mapping[str, Any]]], bits: Mapping[str, Sequence[int]]
) -> QuantConfig:
    """``base`` with the painter's bits, layer by layer; ``layers`` as in `painter_state`. What has no bar,
    such as a pooled map, gets 8 bits, as when bits are learned.
    """
    weights, maps = (
        dict(zip((e["name"] for e in layers[side]), bits[side], strict=True)) for side in ("weights", "maps")
    )
    return base.replace(weight_bits=weights, activation_bits=maps, first_last_bits=None)


def recorded_presets(bench: str) -> Presets:
    """Presets of a bench's network ``base``: uniform bits, and the recorded rows of seed 0 in which weights
    were learned under 3 bits and feature maps got as many bits as fit under a largest map of 4.
    """
    presets = {"uniform: 4 bits everywhere": (_ALIKE.replace(weight_bits=4, activation_bits=4), "")}
    every = f"bit_choices={list(_ALIKE.bit_choices)}"
    for name, experiment, side, where in (
        ("learned: weights under 3 bits on average", "allowed-bitwidths", 0, ["target_weight_bits=3", every]),
        (
            "analytic: the largest feature map has 4 bits, all others what fits",
            "largest-map",
            1,
            ["largest_map_bits=4"],
        ),
    ):
        row = results.select(
            results.load_table(results.table_path(bench, experiment)), [*where, "calibration_seed=0"]
        ).iloc[0]
        bits = {layer: int(pair[side]) for layer, pair in row["bits"].items() if pair[side]}
        config = _ALIKE.replace(
            **{("weight_bits", "activation_bits")[side]: bits, "activation_range": row["activation_range"]}
        )
        presets[name] = (
            config,
            f"Recorded with these bits, ranges by {row['activation_range']}: {results.accuracy_of(row)}.",
        )
    return presets


class _Widget(anywidget.AnyWidget):
    """The painter where there is a kernel: ``bits`` follow the reader's hand."""

    _esm = module("painter")
    layers = traitlets.Dict().tag(sync=True)
    presets = traitlets.List().tag(sync=True)
    bits = traitlets.Dict().tag(sync=True)
    side = traitlets.Unicode().tag(sync=True)
    live = traitlets.Bool().tag(sync=True)


class Painter:
    """What `paint_bits` makes: ``config`` is what is painted, ``panel`` measures it (`qlib.explore`),
    ``figure`` is for pages without a kernel.
    """

    def __init__(self, bench: Bench, network: str, presets: Presets, side: str, **start: Any):
        known = network if bench.name == BENCH and is_packaged(bench) else None
        example = bench.validation(1)[0][0]
        self.figure = bits_painter(bench.models[network], example, presets, side, known, **start)
        self._base = next(iter(presets.values()))[0].replace(**start)
        state = {name: value for name, value in self.figure.state.items() if name != "measured"}
        self._widget = _Widget(**{**state, "live": True})
        painted = self._painted(self._widget.presets[0])
        choices = {name: {"painted": getattr(painted, name)} for name in ("weight_bits", "activation_bits")}
        self.panel = explore(
            bench, network=network, front=(), choices=choices, **{**start, "first_last_bits": None}
        )
        self._widget.observe(self._moved, "bits")
        self.widget = W.VBox([self._widget, self.panel.widget])

    @property
    def config(self) -> QuantConfig:
        return self.panel.config

    def _painted(self, bits: Mapping[str, Sequence[int]]) -> QuantConfig:
        return painted_config(self._base, self._widget.layers, bits)

    def _moved(self, change: Mapping[str, Any]) -> None:
        painted = self._painted(change["new"])
        for name in ("weight_bits", "activation_bits"):
            self.panel.controls[name].options = [("painted", getattr(painted, name))]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The widget, and the figure where no kernel will answer; Colab is not given the choice."""
        self.panel.settle()
        html = {} if "google.colab" in sys.modules else {"text/html": self.figure.to_html()}
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        return {"text/plain": "bits painter", "application/vnd.jupyter.widget-view+json": view, **html}


def paint_bits(
    bench: Bench, network: str = "base", presets: Presets | None = None, side: str = "weights", **start: Any
) -> Painter:
    """Bars of bits by layer to drag, with sizes at once and, where there is a kernel, accuracy below.

    Parameters
    ----------
    bench : Bench
        Whose network is painted.
    network : str
        Its name.
    presets, side
        As for `bits_painter`; without presets, those recorded on the bench.
    **start
        Other fields of `QuantConfig`.

    Returns
    -------
    Painter
        A notebook shows it as a cell's last value.
    """
    return Painter(bench, network, presets or recorded_presets(bench.name), side, **start)
