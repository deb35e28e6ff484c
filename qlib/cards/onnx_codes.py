"""The grids of codes in an ONNX file: what scales, zero-points and codes say, and what is left open."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .onnx_file import CODES, FLOATS, Constant

UNREAD = "unread"  # instead of codes: there are some, or may be, in a form that is not read here
UINT8 = (8, False)  # bits and signedness, ONNX's default
ONLY = {True: frozenset([True]), False: frozenset([False])}
EITHER = frozenset([True, False])
PACKED = (2, 4, 8)  # bits of which a byte holds a whole number of codes


@dataclass(frozen=True)
class CodeGrid:
    """A grid of codes.

    Parameters
    ----------
    bits : int
    symmetric : frozenset of bool
        Whether its zero-point is in its middle. Codes without sign may have come to that by their values:
        both, then.
    granularity : frozenset of str
        What shares a range; more than one word where there is but one channel, none where the graph does not
        say.
    group_size : int, optional
        How many weights share one, for ``per_group``.
    dynamic : bool
    """

    bits: int
    symmetric: frozenset[bool]
    granularity: frozenset[str]
    group_size: int | None = None
    dynamic: bool = False


DYNAMIC = CodeGrid(8, ONLY[False], frozenset(["per_tensor"]), dynamic=True)  # of DynamicQuantizeLinear


@dataclass(frozen=True)
class Stored:
    """A constant as an operator receives it.

    Parameters
    ----------
    name : str
        Of the constant that holds it, by which it is counted once.
    elements : int
    width : int
        Bits of an element in the file.
    codes : CodeGrid or str, optional
        ``None`` for float, ``UNREAD`` where it cannot be told.
    scale, zero : Constant, optional
        Its scales and zero-points.
    axis : int, optional
        Along which ranges (or their blocks) follow each other, in the shape in which it arrives.
    rank : int
    grid : str, optional
        ``"full"`` or ``"restricted"``, where it is symmetric and its codes tell.
    narrow : bool, optional
        Whether all its codes fit into one bit less than their type has; ``None`` where that is not known.
        Not of 2 bits, where three codes are all that a symmetric grid has; one code alone, as of weights that
        are all 0, does not tell.
    """

    name: str
    elements: int
    width: int
    codes: CodeGrid | str | None
    rank: int
    scale: Constant | None = None
    zero: Constant | None = None
    axis: int | None = None
    grid: str | None = None
    narrow: bool | None = None

    @property
    def bits(self) -> int:
        """Those that an element counts."""
        return self.codes.bits if isinstance(self.codes, CodeGrid) else self.width


def kind_of(name: str) -> tuple[int, bool]:
    """Bits and signedness of a type of codes."""
    found = CODES.fullmatch(name)
    if found is None:
        raise ValueError(f"codes of type {name} are not integers: a card cannot describe them")
    return int(found[2]), not found[1]


def codes_of(kind: tuple[int, bool], scale: Constant | None, zero: Constant | None) -> CodeGrid:
    """A grid by the type of its codes, its scale (``None`` if that is computed) and its zero-point."""
    bits, signed = kind
    granularity = [] if scale is None else ["per_tensor" if scale.elements == 1 else "per_channel"]
    return CodeGrid(bits, _symmetric(bits, signed, zero), frozenset(granularity))


def _symmetric(bits: int, signed: bool, zero: Constant | None) -> frozenset[bool]:
    middle = 0 if signed else 2 ** (bits - 1)
    if zero is None:
        return ONLY[signed]
    if zero.values is None:
        return frozenset()
    if (zero.values.astype(np.int64) != middle).any():
        return ONLY[False]
    return ONLY[True] if signed else EITHER


def stored_of(constant: Constant) -> Stored:
    """A constant that is not dequantized: float, or a type of which only who uses it knows what it means."""
    codes = None if constant.kind in FLOATS else UNREAD
    return Stored(constant.name, constant.elements, constant.bits or 0, codes, len(constant.dims))


def dequantized(
    constant: Constant, scale: Constant | None, zero: Constant | None, axis: int, block_size: int = 0
) -> Stored:
    """Constant codes behind their scale and zero-point."""
    return _on_grid(constant, constant.values, kind_of(constant.kind), scale, zero, axis, block_size)


def rounded(
    constant: Constant, kind: tuple[int, bool], scale: Constant | None, zero: Constant | None, axis: int
) -> Stored:
    """A constant in float that is quantized to codes of a type as the file runs."""
    axis += len(constant.dims) if axis < 0 else 0
    values = _steps(constant, scale, zero, axis)
    if values is not None:
        low = -(2 ** (kind[0] - 1)) if kind[1] else 0
        values = np.clip(np.nan_to_num(values), low, low + 2 ** kind[0] - 1)
    return _on_grid(constant, values, kind, scale, zero, axis, 0)


def _steps(constant: Constant, scale: Constant | None, zero: Constant | None, axis: int) -> np.ndarray | None:
    """What a constant is rounded to before its type limits it."""
    channels = constant.dims[axis] if 0 <= axis < len(constant.dims) else 1
    column = [-1 if i == axis else 1 for i in range(len(constant.dims))]
    for part in (constant, scale, zero):
        if part is not None and part.values is None:
            return None
    if scale is None or any(part.elements not in (1, channels) for part in (scale, zero) if part is not None):
        return None
    with np.errstate(all="ignore"):  # a scale may be 0
        steps = np.rint(constant.values.astype(np.float32) / scale.values.astype(np.float32).reshape(column))
    return steps if zero is None else steps + zero.values.astype(np.float32).reshape(column)


def _on_grid(
    constant: Constant,
    values: np.ndarray | None,
    kind: tuple[int, bool],
    scale: Constant | None,
    zero: Constant | None,
    axis: int,
    block_size: int,
) -> Stored:
    codes = codes_of(kind, scale, zero)
    rank = len(constant.dims)
    axis = axis + rank if axis < 0 else axis
    channels = constant.dims[axis] if 0 <= axis < rank else None
    if scale is not None and len(scale.dims) > 1 and scale.elements > 1:
        whole = block_size >= (channels or 0) and block_size > 0  # one block: a range for every channel
        codes = replace(
            codes,
            granularity=frozenset(["per_group", "per_channel"] if whole else ["per_group"]),
            group_size=block_size or None,
        )
    elif channels == 1 and rank > 1 and scale is not None and scale.elements == 1:
        codes = replace(codes, granularity=frozenset(["per_tensor", "per_channel"]))
    grid, narrow = ends_of(values, codes, axis if codes.granularity == {"per_channel"} else None, kind[1])
    middle_of_less = zero is not None and zero.values is not None and (zero.values == 2 ** kind[0] // 4).all()
    if narrow and middle_of_less and not kind[1]:
        codes = replace(codes, symmetric=frozenset())  # for a grid of one bit less
    return Stored(constant.name, constant.elements, codes.bits, codes, rank, scale, zero, axis, grid, narrow)


def ends_of(
    values: np.ndarray | None, codes: CodeGrid, axis: int | None, signed: bool
) -> tuple[str | None, bool | None]:
    """Which symmetric grid codes lie on, and whether they leave half of their type unused; along an axis of
    ranges, if there are several.

    A restricted grid is known by a range that reaches further down than up and ends before the lowest code.
    """
    if values is None or not values.size:
        return None, None
    half = 2 ** (codes.bits - 1)
    others = tuple(i for i in range(values.ndim) if i != axis) if axis is not None else None
    values = values.astype(np.int16 if codes.bits <= 8 else np.int64)
    low, high = (np.asarray(end(axis=others), np.int64) for end in (values.min, values.max))
    narrow = high.max() <= half  # one more, as a range that is symmetric about a code has
    if not signed:
        low, high = low - half, high - half
    if signed or True in codes.symmetric:
        narrow = max(-low.min(), high.max()) <= half // 2
    narrow = bool(narrow and codes.bits > 2) if low.min() < high.max() else None
    if True not in codes.symmetric:
        return None, narrow
    if (low == -half).any():
        return "full", False
    restricted = (
        codes.granularity <= {"per_channel", "per_tensor"} and ((low == 1 - half) & (high < half - 1)).any()
    )
    return "restricted" if restricted and codes.bits > 2 else None, narrow


def unread(name: str) -> Stored:
    """What is constant, and computed from constants in a way that is not read."""
    return Stored(name, 0, 0, UNREAD, 0)


def on_axis(stored: Stored, axis: int | None) -> Stored:
    """A weight as the layer with its output channels on ``axis`` (from the end if negative) has it: ranges
    that follow another axis are none of those that a card has words for.
    """
    codes = stored.codes
    if not isinstance(codes, CodeGrid) or axis is None or stored.axis is None:
        return stored
    along = stored.axis == (axis + stored.rank if axis < 0 else axis)
    if codes.granularity == {"per_channel"} and not along:
        codes = replace(codes, granularity=frozenset())
    if "per_group" in codes.granularity and along:
        codes = replace(codes, granularity=frozenset(), group_size=None)
    return replace(stored, codes=codes)


def blocks_of(
    constants: dict[str, Constant | None], columns: int, rows: int, bits: int, block_size: int
) -> Stored:
    """The weights of MatMulNBits: packed codes without sign, ``block_size`` of them in a range."""
    packed, scale, zero = (constants.get(part) for part in ("codes", "scale", "zero"))
    if packed is None or min(columns, rows, bits, block_size) < 1 or bits > 8:
        return unread(packed.name if packed else "")
    blocks = -(-rows // block_size)
    if packed.elements * (packed.bits or 0) != columns * blocks * (-(-block_size * bits // 8)) * 8:
        raise ValueError(f"{packed.name[:100]!r} does not hold {columns} by {rows} codes of {bits} bits")
    codes = CodeGrid(
        bits, _packed_symmetric(zero, bits, columns, blocks), frozenset(["per_group"]), block_size
    )
    grid = narrow = None
    values = packed.values
    if values is not None and bits in PACKED and rows % block_size == 0:
        grid, narrow = ends_of(_unpacked(values, bits, columns), codes, None, signed=False)
    return Stored(packed.name, columns * rows, bits, codes, 2, scale, zero, None, grid, narrow)


def _unpacked(values: np.ndarray, bits: int, rows: int) -> np.ndarray:
    """Codes that share bytes, the first in the lowest bits, in so many rows."""
    packed = np.ascontiguousarray(values).view(np.uint8).reshape(rows, -1, 1)
    return (packed >> np.arange(0, 8, bits, dtype=np.uint8) & (2**bits - 1)).reshape(rows, -1)


def _packed_symmetric(zero: Constant | None, bits: int, columns: int, blocks: int) -> frozenset[bool]:
    """Without zero-points they are the middle code; floats among them may lie between codes."""
    middle = 2 ** (bits - 1)
    if zero is None:
        return ONLY[True]
    if zero.values is None or zero.integer and bits not in PACKED:
        return frozenset()
    if not zero.integer:
        return ONLY[bool((zero.values == middle).all())]
    each = _unpacked(zero.values, bits, columns)[:, :blocks]  # what fills up the last byte of a row is none
    return EITHER if (each == middle).all() else ONLY[False]
