"""How many values an average pooling takes the mean of, so that integers can sum them and divide once."""

from __future__ import annotations

from math import prod

from torch import Size, fx, nn

from ..network.operations import argument, known_name

ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


def divisor(node: fx.Node, layer: nn.Module | None, before: Size, after: Size) -> int | None:
    """How many values every mean is of; ``None`` where some are of fewer: at the edges, or where sizes do
    not divide.

    Parameters
    ----------
    node, layer
        The pooling, and the module that it calls, if it does.
    before, after
        Shapes of what enters and of what it gives.
    """
    name = known_name(node)
    if name == "mean":
        return before.numel() // max(1, after.numel())
    if isinstance(layer, ADAPTIVE) or name.startswith("adaptive"):
        sides = list(zip(before[2:], after[2:], strict=True))
        if any(side % places for side, places in sides):
            return None
        return prod(side // places for side, places in sides)
    axes = len(before) - 2
    kernel = _each(_setting(node, layer, 1, "kernel_size"), axes)
    stride = _each(_setting(node, layer, 2, "stride") or kernel, axes)
    padding = _each(_setting(node, layer, 3, "padding", 0), axes)
    spare = [
        (side + 2 * p - k) % s for side, p, k, s in zip(before[2:], padding, kernel, stride, strict=True)
    ]
    cut = _setting(node, layer, 4, "ceil_mode", False) and any(spare)
    fewer = not _setting(node, layer, 5, "count_include_pad", True) and any(padding)
    return None if cut or fewer else prod(kernel)


def _setting(
    node: fx.Node, layer: nn.Module | None, position: int, name: str, default: object = None
) -> object:
    return getattr(layer, name) if layer is not None else argument(node, position, name, default)


def _each(value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(values) * axes if len(values) == 1 else tuple(values)
