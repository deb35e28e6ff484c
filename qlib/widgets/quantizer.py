"""The quantizer explorer: real tensors of a network, their histogram, and what a grid of codes does
to them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..affine import fake_quantize, make_grid, quantize
from ..network import Kind, read
from ..network.inputs import inputs_of
from ..ranges import find_range
from .figure import Figure, table

VALUES = 5000  # of a tensor at most, so that a page stays light
START = {
    "tensor": 0,
    "bits": 4,
    "percentile": 100.0,
    "symmetric": False,
    "grid": "full",
    "granularity": "per_tensor",
}


def quantizer_explorer(tensors: Mapping[str, Tensor], **start: Any) -> Figure:
    """A figure in which a reader picks a tensor and a channel, moves bits, clipping percentile and kind of
    grid, and sees scale, zero-point, levels used, share clipped and error. It acts without a kernel, with the
    numbers of `measure`.

    ``tensors``: float matrices ``(channels, values)`` by name, such as `tensors_of` finds. ``start``: where
    the controls stand at first, any of ``tensor`` (its place), ``bits``, ``percentile``, ``symmetric``,
    ``grid``, ``granularity``.
    """
    if not tensors:
        raise ValueError("there is no tensor to explore")
    packed = []
    for name, rows in tensors.items():
        if rows.dim() != 2 or not rows.numel() or not torch.isfinite(rows).all():
            raise ValueError(
                f"tensor {name!r} must be a matrix (channels, values) of finite numbers, got "
                f"{tuple(rows.shape)}"
            )
        values = base64.b64encode(rows.detach().float().contiguous().numpy().astype("<f4").tobytes()).decode()
        packed.append({"name": name, "channels": len(rows), "values": values})
    unknown = set(start) - set(START)
    if unknown:
        raise ValueError(f"start knows {', '.join(START)}; got {', '.join(sorted(unknown))}")
    at = {**START, **start}
    name, rows = list(tensors.items())[at["tensor"]]
    found = measure(rows, **{key: at[key] for key in START if key != "tensor"})
    fallback = table(
        f"{name}, {at['bits']} bits", {key.replace("_", " "): str(value) for key, value in found.items()}
    )
    return Figure("quantizer", {"tensors": packed, "start": at}, fallback)


def measure(
    rows: Tensor,
    bits: int,
    percentile: float = 100.0,
    symmetric: bool = False,
    grid: str = "full",
    granularity: str = "per_tensor",
    channel: int | None = None,
) -> dict[str, Any]:
    """What a quantizer does to a tensor: the numbers that the explorer shows.

    Parameters
    ----------
    rows : Tensor
        ``(channels, values)``.
    bits, percentile, symmetric, granularity
        As in `QuantConfig`.
    grid : str
        The kind of symmetric grid.
    channel : int, optional
        Look at this one only; with ``per_tensor`` its range is still that of all.

    Returns
    -------
    dict
        Smallest and largest ``scale`` and ``zero_point``, ``levels`` that occur (a mean over channels where
        each has its own), percent ``clipped`` (beyond the outermost values of codes), mean squared ``error``
        and its parts by ``rounding`` and by ``clipping``, and the signal-to-noise ratio ``snr`` in decibels.
    """
    make = partial(make_grid, bits=bits, symmetric=symmetric, symmetric_grid=grid)
    wide = rows if granularity == "per_channel" else rows.reshape(1, -1)
    codes = make(*find_range(wide, "percentile", percentile, make)).reshape(-1, 1)
    if channel is not None:
        rows = rows[channel : channel + 1]
        codes = type(codes)(*(f if f is None or f.numel() == 1 else f[channel : channel + 1] for f in codes))
    x = rows.double()
    square = (fake_quantize(rows, codes).double() - rows.double()).square()
    lowest, highest = ((code - codes.zero_point) * codes.scale for code in (codes.code_min, codes.code_max))
    outside = (rows < lowest) | (rows > highest)
    error = square.mean().item()
    alike = [quantize(rows, codes)] if codes.scale.numel() == 1 else list(quantize(rows, codes))
    return {
        "scale": [codes.scale.min().item(), codes.scale.max().item()],
        "zero_point": [int(codes.zero_point.min()), int(codes.zero_point.max())],
        "levels": sum(len(part.unique()) for part in alike) / len(alike),
        "clipped": 100 * outside.double().mean().item(),
        "error": error,
        "rounding": (square * ~outside).mean().item(),
        "clipping": (square * outside).mean().item(),
        "snr": (10 * torch.log10(x.square().mean() / error)).item(),
    }


def tensors_of(model: nn.Module, calibration: Iterable | Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
    """The weights of ``layers`` (batch norm folded) and what each gives to its quantizer, after its
    activation function, as matrices ``(channels, values)``. Of a map as many images are taken as stay under
    5,000 values, but at least one; of larger weights the first channels.

    Raises ``ValueError`` for a name that is no layer with weights.
    """
    network = read(model)
    first = inputs_of(calibration)[0]
    operations = {o.name: o for o in network.operations.values() if o.kind is Kind.WEIGHT}
    kept: dict[fx.Node, Tensor] = {}
    with torch.inference_mode():
        _Keeper(network.module, {o.result for o in operations.values()}, kept).run(first)
    weights = {}
    maps = {}
    for name in layers:
        if name not in operations:
            raise ValueError(f"there is no layer {name!r} with weights; layers: {', '.join(operations)}")
        weight = network.module.get_submodule(operations[name].node.target).weight.detach().flatten(1)
        weights[f"weights of {name}"] = weight[: max(1, VALUES // weight.shape[1])].clone()
        x = kept[operations[name].result]
        images = max(1, VALUES // x[0].numel())
        maps[f"activations of {name}"] = x[:images].transpose(0, 1).flatten(1).clone()
    return {**weights, **maps}


class _Keeper(fx.Interpreter):
    """Runs a network and keeps the tensors of some of its nodes."""

    def __init__(self, module: fx.GraphModule, wanted: set[fx.Node], kept: dict[fx.Node, Tensor]):
        super().__init__(module)
        self.wanted = wanted
        self.kept = kept

    def run_node(self, n: fx.Node):
        result = super().run_node(n)
        if n in self.wanted:
            self.kept[n] = result
        return result
