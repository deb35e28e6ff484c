"""What a convolution or linear layer is given, as the columns that the rows of its weight multiply."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .operations import TRANSPOSED

MOST = 1 << 24  # values that are laid out at once


def columns_of(layer: nn.Module, x: Tensor) -> Tensor:
    """The inputs of every output of ``layer``, padding included.

    Parameters
    ----------
    layer : nn.Module
        A convolution, also transposed, or linear.
    x : Tensor
        What it is given.

    Returns
    -------
    Tensor
        ``(groups, positions, inputs)``: times the weights of a group's output channels
        (`qlib.network.operations.rows_of`) these are its outputs before the bias, examples first.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    dims = layer.weight.dim() - 2
    transposed = isinstance(layer, TRANSPOSED)
    x = _spread(layer, x) if transposed else _padded(layer, x)
    steps = [1] * dims if transposed else layer.stride
    for axis, (size, step, gap) in enumerate(zip(layer.kernel_size, steps, layer.dilation, strict=True), 2):
        x = x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
    if transposed:
        x = x.flip([*range(-dims, 0)])
    x = (
        x.unflatten(1, (layer.groups, -1)).movedim(1, 0).movedim(2, 2 + dims)
    )  # groups, examples, places, rest
    return x.flatten(2 + dims).flatten(1, 1 + dims)


def moments(layer: nn.Module, given: list[Tensor], wanted: list[Tensor]) -> tuple[Tensor, Tensor]:
    """All that the squared error of a layer's outputs depends on, gathered a few examples at a time.

    Parameters
    ----------
    layer : nn.Module
        As for `columns_of`.
    given, wanted : list of Tensor
        By batch, what it is given, and the outputs that it should give, bias included.

    Returns
    -------
    inputs, outputs : Tensor
        float64, the means over all positions of inputs by inputs ``(groups, k, k)``, and of wanted outputs
        before the bias by inputs ``(groups, channels, k)``.
    """
    inputs: Tensor | float = 0.0
    outputs: Tensor | float = 0.0
    count = 0
    for x, y in zip(given, wanted, strict=True):
        size = max(1, MOST // max(1, columns_of(layer, x[:1]).numel()))
        for some, aims in zip(x.split(size), y.split(size), strict=True):
            columns = columns_of(layer, some)
            inputs = inputs + (columns.mT @ columns).double()
            outputs = outputs + (_by_group(layer, aims) @ columns).double()
            count += columns.shape[1]
    return inputs / count, outputs / count


def _by_group(layer: nn.Module, y: Tensor) -> Tensor:
    """Outputs before the bias ``(groups, channels, positions)``, ordered as `columns_of`."""
    rows = y.movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1)
    rows = rows if layer.bias is None else rows - layer.bias[:, None]
    return rows.unflatten(0, (getattr(layer, "groups", 1), -1))


def _padded(layer: nn.Module, x: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, layer._reversed_padding_repeated_twice, mode)


def _spread(layer: nn.Module, x: Tensor) -> Tensor:
    """What an ordinary convolution of step 1 with the kernel reversed would be given."""
    wide = x.new_zeros(
        *x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], layer.stride, strict=True))
    )
    wide[(..., *(slice(None, None, step) for step in layer.stride))] = x
    ends = []
    for size, gap, less, more in zip(
        layer.kernel_size, layer.dilation, layer.padding, layer.output_padding, strict=True
    ):
        reach = gap * (size - 1) - less
        ends = [reach, reach + more, *ends]
    return F.pad(wide, ends)
