"""Pure functions of uniform quantization: from a clipping range to a grid of codes, and from values to codes
and back.

The arithmetic (paper, section 2; Jacob et al. 2018)::

    code  = clamp(round(x * (1 / scale)) + zero_point, code_min, code_max)       round half to even, float32
    value = (code - zero_point) * scale

Everything here works on tensors of any shape; nothing keeps state.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .config import SYMMETRIC_GRIDS


class Grid(NamedTuple):
    """The values a quantizer can represent.

    Each part is a 0-d tensor, or one that broadcasts against the data.

    Parameters
    ----------
    scale : Tensor
        float32, the step between neighbouring values, in the unit of the data.
    zero_point : Tensor
        float32 holding an integer, the code of 0.
    code_min, code_max : Tensor
        float32 holding integers.
    clip : Tensor, optional
        Only for the ``authors`` grid, the magnitude at which values are clamped in float before they are
        rounded; else ``None``.
    """

    scale: Tensor
    zero_point: Tensor
    code_min: Tensor
    code_max: Tensor
    clip: Tensor | None = None

    def reshape(self, *shape: int) -> Grid:
        """The same grid with every field that has more than one element given ``shape``."""
        return Grid(*(f if f is None or f.numel() == 1 else f.reshape(shape) for f in self))


def make_grid(
    low: Tensor, high: Tensor, bits: int | Tensor, symmetric: bool = False, symmetric_grid: str = "full"
) -> Grid:
    """The grid of ``2**bits`` codes (or as the variant says) for values in ``[low, high]``.

    The range is widened to hold 0, so 0 is represented exactly; an all-zero range has scale 1.

    Parameters
    ----------
    low, high : Tensor
        float32, of one shape (a range per tensor, channel or image).
    bits : int or Tensor
        Broadcasts against them.
    symmetric : bool
        Without it, codes are ``0 .. 2**B - 1`` and ``scale = (high - low) / (2**B - 1)``; with it, the
        zero-point is 0, and with ``m = max(|low|, |high|)`` the rest as ``symmetric_grid`` says.
    symmetric_grid : {"full", "restricted", "authors"}
        - ``full``: codes ``-2**(B-1) .. 2**(B-1) - 1``, ``scale = 2 m / (2**B - 1)``, as torch's observers;
        - ``restricted``: codes ``-(2**(B-1) - 1) .. 2**(B-1) - 1``, ``scale = m / (2**(B-1) - 1)``;
        - ``authors``: the published code's rule: values are clamped to ``[-m, m]`` in float, then rounded to
          multiples of ``2 m / (2**B - 1)``. Up to ``2**B + 1`` codes, so not a B-bit code.

    Returns
    -------
    Grid
        A code for every value in range.

    Raises
    ------
    ValueError
        There is no such symmetric grid.

    Source
    ------
    Section 2; the authors' code, github.com/sahajgarg/low_precision_nn.
    """
    low = low.float().clamp(max=0)
    high = high.float().clamp(min=0)
    count = 2.0 ** torch.as_tensor(bits, dtype=torch.float32, device=low.device)
    clip = None
    if not symmetric:
        code_min = torch.zeros_like(count)
        code_max = count - 1
        scale = _nonzero((high - low) / (count - 1))
        zero_point = torch.minimum((code_min - torch.round(low / scale)).clamp(min=0), code_max)
    else:
        m = torch.maximum(-low, high)
        if symmetric_grid == "restricted":
            code_min = 1 - count / 2
            code_max = count / 2 - 1
            scale = _nonzero(m / code_max)
        elif symmetric_grid in SYMMETRIC_GRIDS:
            code_min = -count / 2
            code_max = count / 2 - 1
            scale = _nonzero(2 * m / (count - 1))
            if symmetric_grid == "authors":
                clip = m
                code_max = count / 2
        else:
            raise ValueError(
                f"symmetric_grid must be one of {', '.join(SYMMETRIC_GRIDS)}, got {symmetric_grid!r}"
            )
        zero_point = torch.zeros_like(scale)
    return Grid(scale, zero_point, code_min, code_max, clip)


def _nonzero(scale: Tensor) -> Tensor:
    """Scale 1 where the range is empty, or so small that ``1 / scale`` is not a float32."""
    return torch.where(torch.isfinite(1 / scale), scale, 1.0)


def quantize(x: Tensor, grid: Grid) -> Tensor:
    """Integer codes of ``x`` on ``grid``, as int32, in the shape of ``x``."""
    if grid.clip is not None:
        return torch.round(torch.minimum(torch.maximum(x, -grid.clip), grid.clip) / grid.scale).int()
    return torch.clamp(
        torch.round(x * (1 / grid.scale)) + grid.zero_point, grid.code_min, grid.code_max
    ).int()


def dequantize(codes: Tensor, grid: Grid) -> Tensor:
    """The float32 values that integer ``codes`` stand for."""
    return (codes - grid.zero_point) * grid.scale


def fake_quantize(x: Tensor, grid: Grid) -> Tensor:
    """``dequantize(quantize(x))`` in float32, with straight-through gradients.

    The gradient with respect to ``x`` is 1 where ``x`` falls on a code inside the limits and 0 where it is
    clipped; bit for bit and gradient for gradient that of ``torch.fake_quantize_per_tensor_affine`` and its
    per-channel twin.

    Source
    ------
    Bengio et al. 2013.
    """
    return _FakeQuantize.apply(x, grid)


def clamp_(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """``x.clamp_(low, high)``, of which torch makes a slow pass on a CPU; two fast ones take a quarter of its
    time.
    """
    return torch.minimum(torch.maximum(x, low, out=x), high, out=x)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, grid: Grid) -> Tensor:
        if grid.clip is not None:
            clamped = torch.minimum(torch.maximum(x, -grid.clip), grid.clip)
            ctx.save_for_backward(clamped == x)
            return torch.round(clamped / grid.scale) * grid.scale
        codes = (x * (1 / grid.scale)).round_()  # relative to the zero-point: exact, since both are integers
        before = codes.clone() if ctx.needs_input_grad[0] else None
        codes = clamp_(codes, grid.code_min - grid.zero_point, grid.code_max - grid.zero_point)
        if before is not None:
            ctx.save_for_backward(codes == before)
        return codes.mul_(grid.scale)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (inside,) = ctx.saved_tensors
        return gradient * inside, None
