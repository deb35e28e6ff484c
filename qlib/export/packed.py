"""Integer codes packed at their bits, and the weights that come from them bit for bit.

The codes of a weight ``(rows, ...)`` count from the lowest of its grid. Every code is written with the bits
of its row, the highest first, all rows one behind the other, eight bits a byte.
"""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from ..affine import Grid, dequantize, quantize
from ..quantizer import spread

PARTS = ("codes", "scale", "zero_point", "bits", "shape")
GROUP = "group"  # a further part, where groups of a row have grids of their own


def pack(rows: Tensor, grid: Grid, group: int | None = None) -> dict[str, Tensor] | None:
    """A weight as its codes and what makes values of them again, or ``None`` where that is not the same
    weight: where its values are not those of ``grid``, or this is no grid of so many bits (``authors``).

    Parameters
    ----------
    rows : Tensor
        ``(rows, ...)``, float32.
    grid : Grid
        Its fields broadcast against ``rows``.
    group : int, optional
        How many values of a row have one grid, where that is not all of them.

    Returns
    -------
    dict or None
        ``codes`` (bytes), ``scale``, ``zero_point`` and ``bits`` (of all, or of every row), and ``shape``.
        Codes count from 0. With ``group``, that too, and ``scale`` and ``zero_point`` row by row.
    """
    if grid.clip is not None or rows.dtype != torch.float32:
        return None
    rows = rows.cpu()
    grid = Grid(*(None if part is None else part.cpu() for part in grid))
    codes = (quantize(rows, grid) - grid.code_min.int()).numpy()
    most = (grid.code_max - grid.code_min).int()
    parts = {}
    if group is not None:
        parts[GROUP] = torch.tensor(group)
        grid = Grid(
            *(f if f is None or f.numel() == 1 else f.flatten(1)[:, ::group].contiguous() for f in grid)
        )
        most = most if most.numel() == 1 else most.flatten(1)[:, 0]
    most = most.flatten().tolist()
    parts |= {
        "scale": grid.scale.flatten(),
        "zero_point": (grid.zero_point - grid.code_min).int().flatten(),
        "bits": torch.tensor([each.bit_length() for each in most], dtype=torch.uint8),
        "shape": torch.tensor(rows.shape),
    }
    apart = codes.reshape(len(most), -1)  # by what has one number of bits: all, or a row
    streams = [_to_bits(part, bits) for part, bits in zip(apart, parts["bits"].tolist(), strict=True)]
    parts["codes"] = torch.from_numpy(np.packbits(np.concatenate(streams)))
    return parts if torch.equal(unpack(parts)[0], rows) else None


def unpack(parts: dict[str, Tensor]) -> tuple[Tensor, Grid]:
    """The weight ``(rows, ...)`` of which `pack` made ``parts``, and its grid, whose codes count from 0.

    Raises ``ValueError`` where the parts do not fit one another.
    """
    shape = parts["shape"].tolist()
    bits = parts["bits"].tolist()
    each = prod(shape) if len(bits) == 1 else prod(shape[1:])
    lengths = [each * b for b in bits]
    if each * len(bits) != prod(shape) or len(parts["codes"]) != -(-sum(lengths) // 8):
        raise ValueError(f"{len(parts['codes'])} bytes of codes are not those of {tuple(shape)}")
    stream = np.unpackbits(parts["codes"].numpy())[: sum(lengths)]
    streams = np.split(stream, np.cumsum(lengths)[:-1])
    codes = np.concatenate([_from_bits(part, b) for part, b in zip(streams, bits, strict=True)])
    zero = torch.zeros(len(bits))
    most = torch.tensor([2.0**b - 1 for b in bits])
    column = (-1, *[1] * (len(shape) - 1))
    scale, zero_point = parts["scale"], parts["zero_point"].float()
    if GROUP in parts:
        size = int(parts[GROUP])
        scale, zero_point = (spread(f.reshape(shape[0], -1), size, shape) for f in (scale, zero_point))
        most = most if len(most) == 1 else most.reshape(column)
        zero = zero if len(zero) == 1 else zero.reshape(column)
        grid = Grid(scale, zero_point, zero, most)
    else:
        grid = Grid(scale, zero_point, zero, most).reshape(*column)
    return dequantize(torch.from_numpy(codes).reshape(shape), grid), grid


def _to_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """``(codes * bits,)`` of 0 and 1."""
    kind = _kind(bits)
    apart = np.unpackbits(codes.astype(kind)[:, None].view(np.uint8), axis=1)
    return apart[:, 8 * kind.itemsize - bits :].reshape(-1)


def _from_bits(stream: np.ndarray, bits: int) -> np.ndarray:
    kind = _kind(bits)
    codes = np.packbits(stream.reshape(-1, bits), axis=1).view(kind)[:, 0]
    return (codes >> (8 * kind.itemsize - bits)).astype(np.int32)


def _kind(bits: int) -> np.dtype:
    """Of the whole bytes that hold a code of 1 to 16 bits, the highest first."""
    return np.dtype(np.uint8 if bits <= 8 else ">u2")
