"""What the panel says: figures of a setting as HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import numpy as np

from ..comparison import compare
from ..config import QuantConfig
from ..evaluation import measured
from ..footprints import Footprint
from ..methods import unspelled
from ..metrics import Measurement, Metric

STYLE = """<style>
.qpanel { font-size: 14px; line-height: 1.5; max-width: 40rem; font-variant-numeric: tabular-nums; }
.qpanel[aria-busy=true] .qold { animation: qpanel-old 0s 0.3s forwards; }
@keyframes qpanel-old { to { opacity: 0.4; } }
.qpanel table { border-collapse: collapse; margin: 0.4em 0; border: 0; }
.qpanel tr, .qpanel th, .qpanel td { background: none !important; border: 0 !important; color: inherit;
  font-size: inherit;
  font-weight: 400; text-align: left; vertical-align: baseline; padding: 0 1.2em 0 0; }
.qpanel td b { font-size: 1.4em; font-weight: 650; }
.qpanel p { margin: 0.3em 0; }
.qpanel .qerror { border-left: 4px solid #D55E00; padding-left: 0.8em; }
.qpanel .qstrip { position: relative; height: 3.6em; margin: 0.4em 1.6em 0; }
.qpanel .qstrip * { position: absolute; }
.qpanel .qaxis { left: 0; right: 0; top: 1.8em; height: 0.4em; opacity: 0.6;
  border: solid currentColor; border-width: 1px 1px 0; }
.qpanel .qrange { top: 1.6em; height: calc(0.4em + 1px); background: #56B4E9; }
.qpanel .qdot { top: 1.3em; width: 1em; height: 1em; margin-left: -0.5em; border-radius: 50%;
  background: #0072B2; }
.qpanel .qfloat { top: 1.2em; height: 1.2em; margin-left: -1px; border-left: 2px solid currentColor; }
.qpanel .qstrip small { transform: translateX(-50%); white-space: nowrap; }
.qpanel pre { white-space: pre-wrap; overflow-wrap: anywhere; background: none; color: inherit;
  padding: 0; margin: 0.5em 0; }
</style>"""


def numbers(
    metric: Metric, seen: Sequence[np.ndarray], in_float: Sequence[np.ndarray], size: Footprint | None = None
) -> str:
    """The answer: the metric and its interval (of percent also as a picture), and all figures as a table.

    Parameters
    ----------
    seen, in_float
        What `qlib.evaluation.examples` found of the images so far, quantized and in float; the latter is
        empty where float is what the metric measures against.
    """
    now = measured(metric, np.concatenate(seen))
    rows = {_title(metric): f"<b>{metric.shown(now.value)}</b> &nbsp;{_interval(now)}"}
    base = measured(metric, np.concatenate(in_float)) if in_float else None
    if base is not None:
        rows["In float"] = f"{metric.shown(base.value)} &nbsp;{_interval(base)}"
        rows["Difference"] = re.sub(r"n = [\d,]+, ", "", str(compare(now, base)))
    rows |= {"Weights": "...", "Feature maps": "..."}
    if size is not None:
        rows["Weights"] = f"{size.weight_bytes / 1e6:.3f} MB, {size.average_weight_bits:.2f} bits on average"
        rows["Feature maps"] = (
            f"{size.activation_bytes / 1e6:.3f} MB an image, {size.average_activation_bits:.2f} bits on "
            f"average, largest {size.max_activation_bytes / 1e3:.1f} kB"
        )
    table = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{said}</td></tr>' for name, said in rows.items()
    )
    return f"{_strip(now, base) if metric.unit == '%' else ''}<table>{table}</table>"


def _title(metric: Metric) -> str:
    return "Accuracy" if metric.name == "top1" else (metric.title or metric.name).capitalize()


def _interval(found: Measurement) -> str:
    low, high = map(found.metric.number, found.interval)
    return f"{low} to {high}"


def _strip(now: Measurement, base: Measurement | None) -> str:
    """Percent as a picture: a dot on its interval, and a line where float is."""
    low, high = now.interval
    strip = (
        '<span class="qaxis"></span>'
        f'<span class="qrange" style="left:{low:.2f}%;width:{high - low:.2f}%"></span>'
    )
    if base is not None:
        strip += (
            f'<span class="qfloat" style="left:{base.value:.2f}%"></span>'
            f'<small style="left:{base.value:.2f}%;top:-0.2em">float</small>'
        )
    strip += (
        f'<span class="qdot" style="left:{now.value:.2f}%"></span>'
        '<small style="left:0;top:2.4em">0 %</small><small style="left:100%;top:2.4em">100 %</small>'
    )
    return f'<div class="qstrip" aria-hidden="true">{strip}</div>'


def code(config: QuantConfig, method: str) -> str:
    """The setting as Python that makes it."""
    changed = [f"{n}={getattr(config, n)!r}" for n, v in config.defaults().items() if getattr(config, n) != v]
    name = "qlib.QuantConfig" if type(config) is QuantConfig else type(config).__name__
    made = f"{name}({', '.join(changed)})"
    said = (
        made
        if method == "nearest"
        else f"qlib.quantize(model, {made}, calibration, method={unspelled(method)!r})"
    )
    return f'<div class="qpanel"><pre>{html.escape(said)}</pre></div>'


def impossible(error: Exception) -> str:
    """Why a setting cannot be measured."""
    said = (str(error).splitlines() or [""])[0]
    reason = said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"
    return f'<p class="qerror"><b>This cannot be done:</b> {html.escape(reason)}</p>'
