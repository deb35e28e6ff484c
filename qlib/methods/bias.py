"""Bias correction: quantization shifts the mean of what a layer gives, and its bias takes the shift back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .method import Method, Work

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Bias(Method):
    """The bias of every quantized layer is changed so that the mean of each output channel over the
    calibration data is that of the float network, layer by layer in execution order, each after those before
    it.

    A layer that is called several times is corrected where it is first called. In memory are, at a time,
    those activations of all calibration data that are still needed.

    Source
    ------
    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2,
    with means that are measured (appendix D).
    """

    stage: ClassVar[str] = "after"
    words: ClassVar[Mapping[str, Any]] = {"technique": "biases corrected"}

    def apply(self, work: Work) -> None:
        import torch

        from ..network.steps import first_calls

        if not work.batches:
            raise ValueError("bias correction compares means over calibration data: pass at least one batch")
        with torch.no_grad():
            wanted = _means(work)
            for name, node, runs in first_calls(work.network, work.batches, set(wanted)):
                outputs = [run.env[node] for run in runs]
                shift = wanted[name] - _mean(outputs, work.network.channels.get(node))
                add_to_bias(work.network.module.get_submodule(name), shift)
                for run in runs:  # as it will be: a sum made otherwise may be rounded to another code
                    run.step(node)


def _means(work: Work) -> dict[str, Tensor]:
    """By layer that is quantized, the mean of each output channel in the float network, float64."""
    from ..network.steps import first_calls
    from ..quantizer import rows_by_channel

    left = {node.target for node in work.placement.in_float}
    layers = {name for name in work.network.layers if name not in left}
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = dict.fromkeys(layers, 0)
    for batch in work.batches:
        for name, node, (run,) in first_calls(work.floats, [batch], layers):
            rows = rows_by_channel(run.env[node], work.floats.channels.get(node))
            sums[name] = sums.get(name, 0) + rows.sum(1)
            counts[name] += rows.shape[1]
    return {name: total / counts[name] for name, total in sums.items()}


def _mean(outputs: list[Tensor], axis: int | None) -> Tensor:
    from ..quantizer import rows_by_channel

    rows = [rows_by_channel(output, axis) for output in outputs]
    return sum(part.sum(1) for part in rows) / sum(part.shape[1] for part in rows)


def add_to_bias(layer: Any, shift: Tensor) -> None:
    """Give a layer another bias, or one if it has none."""
    from torch import nn

    old = layer.bias
    shift = shift.to(layer.weight.dtype)
    layer.bias = nn.Parameter(shift if old is None else old.detach() + shift, requires_grad=False)
