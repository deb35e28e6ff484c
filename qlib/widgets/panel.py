"""Sliders that quantize a network again whenever they move. They need a kernel: JupyterLab or Colab."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import ipywidgets as W
from torch import nn

from ..benches import Batches
from ..config import QuantConfig
from ..evaluate import Accuracy, evaluate
from ..footprint import footprint
from ..model import quantize


class LivePanel:
    """A panel of controls for fields of `QuantConfig`; a moved one quantizes and evaluates ``model`` again.

    ``controls``: widget by field name. ``fixed``: the other fields. ``calibration``, ``validation``: batches as a bench gives.
    The footprint stands below. ``accuracy`` holds the result for the controls' present values. Show it with
    ``display(panel.widget)``. An error appears in the panel.
    """

    def __init__(self, model: nn.Module, calibration: Batches, validation: Batches, controls: Mapping[str, W.Widget],
                 **fixed: Any):  # fmt: skip
        self.model, self.calibration, self.validation = model, calibration, validation
        self.controls, self.fixed = dict(controls), fixed
        self.baseline = evaluate(model, validation)
        self.accuracy: Accuracy | None = None
        self.answer = W.HTML()
        for control in self.controls.values():
            control.observe(self.update, "value")
        self.widget = W.VBox([*self.controls.values(), self.answer])
        self.update()

    @property
    def config(self) -> QuantConfig:
        """What the controls say now."""
        return QuantConfig(**{**self.fixed, **{name: control.value for name, control in self.controls.items()}})

    def update(self, change: object = None) -> None:
        """Quantize, calibrate and evaluate for the present values, and show the answer."""
        self.answer.value = "measuring ..."
        try:
            self.accuracy = evaluate(quantize(self.model, self.config, self.calibration), self.validation)
            size = footprint(self.model, self.validation[0][0][:1], self.config)
            self.answer.value = f"<b>{self.accuracy}</b><br>float: {self.baseline}<br>{size}"
        except ValueError as error:
            self.accuracy = None
            self.answer.value = f"<b>cannot be done:</b> {html.escape(str(error))}"


def slider(value: float, low: float, high: float, step: float, label: str) -> W.Widget:
    """A slider that acts when it is let go."""
    kind = W.IntSlider if all(isinstance(v, int) for v in (value, low, high, step)) else W.FloatSlider
    return kind(value=value, min=low, max=high, step=step, description=label, continuous_update=False,
                readout_format="d" if kind is W.IntSlider else ".2f", style={"description_width": "initial"})  # fmt: skip


def switch(value: bool, label: str) -> W.Widget:
    """A tick box."""
    return W.Checkbox(value=value, description=label, indent=False)
