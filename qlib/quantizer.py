"""The module behind an activation tensor: it observes calibration data, gets a grid, and quantizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from .affine import Grid, clamp_, fake_quantize, make_grid
from .config import Bits, QuantConfig
from .ranges import check_span, collector, find_range

WIDER = 0.02  # of a range, at most, for another rounding


def grid_of(low: Tensor, high: Tensor, bits: Bits, symmetric: bool, variant: str) -> Grid:
    """`qlib.affine.make_grid`, also for one number of bits a channel."""
    if isinstance(bits, tuple):
        # One for every range, also of every example
        bits = torch.tensor(bits, device=low.device) + torch.zeros_like(low)
    return make_grid(low, high, bits, symmetric, variant)


def refuse_mixed_rows(what: str, bits: Bits, method: str, granularity: str) -> None:
    """Raises ``ValueError`` where channels have their own bits and one range of least squared error, be it
    measured or expected, is wanted for all.
    """
    if isinstance(bits, tuple) and method in ("mse", "aciq") and granularity == "per_tensor":
        raise ValueError(
            f"{what} gives every channel its own bits, so one least-squares range for the tensor is not "
            "defined: use granularity 'per_channel', or range 'minmax' or 'percentile'"
        )


def weight_grid(name: str, rows: Tensor, config: QuantConfig, bits: Bits, rounding_seed: int = 0) -> Grid:
    """The grid of layer ``name``'s float weight as ``rows`` ``(out channels, ...)``
    (`qlib.network.operations.rows_of`); its fields broadcast against them. ``rounding_seed``: as for
    `qlib.quantize`.
    """
    if isinstance(bits, tuple) and len(bits) != len(rows):
        raise ValueError(f"weight_bits[{name!r}] has {len(bits)} entries, but the layer {len(rows)} channels")
    refuse_mixed_rows(f"weight_bits[{name!r}]", bits, config.weight_range, config.weight_granularity)
    check_span(*torch.aminmax(rows), f"the weights of {name!r}")
    wider = _wider(name, rounding_seed)
    if config.weight_granularity == "per_group":
        return _grid_by_group(rows, config, bits, wider)
    make = partial(grid_of, bits=bits, symmetric=config.weight_symmetric, variant=config.symmetric_grid)
    values = rows.flatten(1) if config.weight_granularity == "per_channel" else rows.reshape(1, -1)
    low, high = find_range(values, config.weight_range, config.percentile, make)
    return make(wider * low, wider * high).reshape(-1, *[1] * (rows.dim() - 1))


def _grid_by_group(rows: Tensor, config: QuantConfig, bits: Bits, wider: float) -> Grid:
    """The grid of ``rows`` with a range for every ``group_size`` values of a row, spread over all of them."""
    make = partial(grid_of, symmetric=config.weight_symmetric, variant=config.symmetric_grid)
    flat = rows.flatten(1)
    whole = flat.shape[1] // config.group_size * config.group_size
    ends = []
    for part, size in ((flat[:, :whole], config.group_size), (flat[:, whole:], flat.shape[1] - whole)):
        if size and part.numel():
            values = part.reshape(-1, size)
            each = bits
            if isinstance(bits, tuple):  # those of a row are those of its groups
                each = tuple(b for b in bits for _ in range(len(values) // len(rows)))
            found = find_range(values, config.weight_range, config.percentile, partial(make, bits=each))
            ends.append(torch.stack(found).reshape(2, len(rows), -1))
    low, high = wider * torch.cat(ends, 2)
    grid = make(low.T, high.T, bits=bits)  # whose last axis is that of rows, as bits are
    return Grid(
        *(f if f is None or f.numel() == 1 else spread(f.T, config.group_size, rows.shape) for f in grid)
    )


def spread(by_group: Tensor, size: int, shape: Sequence[int]) -> Tensor:
    """What is known of every group, ``(rows, groups)``, for every value of a weight of that shape."""
    return by_group.repeat_interleave(size, 1)[:, : prod(shape[1:])].reshape(shape)


def _wider(name: str, rounding_seed: int) -> float:
    """The factor of a layer's ranges: 1, or one that the seed draws, the same on every machine."""
    if not rounding_seed:
        return 1.0
    bits = np.random.PCG64([rounding_seed, crc32(name.encode())]).random_raw()
    return 1 + WIDER * (int(bits) >> 11) * 2.0**-53


def axis_among(axis: int | None, dims: int) -> int:
    """The axis of channels in a tensor of ``dims`` axes: the one that is known; of what is not, axis 1 of
    images (four axes and more), the last of others.
    """
    axis = axis if axis is not None else 1 if dims > 3 else -1
    return axis % dims if -dims <= axis < dims else dims - 1


def rows_by_channel(x: Tensor, axis: int | None) -> Tensor:
    """A tensor as ``(channels, values)``, float64; ``axis`` as for `axis_among`."""
    return x.movedim(axis_among(axis, x.dim()), 0).flatten(1).double()


class Quantizer(nn.Module):
    """Fake-quantizes an activation tensor, examples first; its grid is fixed by calibration, or found for
    each example.

    ``axis``: of channels; where it is ``None``, axis 1 of images (four axes and more), the last of others.
    Tensors that are no floats (token ids, masks) pass as they are, and so do tensors without values.
    """

    quantized_by_qlib = True
    passes = False  # whether it lets values through as they are

    def __init__(self, config: QuantConfig, name: str, bits: Bits, axis: int | None = 1):
        super().__init__()
        what = f"activation_bits[{name!r}]"
        refuse_mixed_rows(what, bits, config.activation_range, config.activation_granularity)
        if isinstance(bits, tuple) and config.activation_granularity == "per_token":
            raise ValueError(f"{what} gives every channel its own bits, but a token has one range for all")
        self.name = name
        self.bits = bits
        self.config = config
        self.axis = axis
        for part in Grid._fields:
            self.register_buffer(part, None)
        self.collector = None
        self.share = (1, 1)
        self.dims = 0
        self.range: tuple[Tensor, Tensor] | None = None
        self.rectifies = False  # whether it does a ReLU's work
        self.in_place = False  # whether it may overwrite its input
        self._constants: tuple[float | Tensor, ...] | None = None

    def extra_repr(self) -> str:
        return f"{self.name}, bits={self.bits}, {'dynamic' if self.config.activation_dynamic else 'static'}"

    @property
    def grid(self) -> Grid:
        """The grid that calibration fixed; where ranges are dynamic there is none, see
        `grid_of_each_example`.
        """
        return Grid(*(getattr(self, part) for part in Grid._fields))

    @grid.setter
    def grid(self, grid: Grid) -> None:
        for part, value in grid._asdict().items():
            setattr(self, part, value)
        self._constants = None

    def forward(self, x: Tensor, examples: int | None = None) -> Tensor:
        """``x`` quantized. ``examples``: how many there are, where each has a range of its own."""
        if self.passes or not x.is_floating_point() or x.numel() == 0:
            return x
        # Autocast's bfloat16 cannot hold the codes of 9 bits and more
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.collector is not None:
            return self._collect(x)
        if self.config.activation_dynamic:
            return fake_quantize(x, self.grid_of_each_example(x, examples))
        if self.scale is None:
            raise ValueError(f"{self.name!r} has no range: calibration saw no values of it that are floats")
        if self.clip is not None or (torch.is_grad_enabled() and x.requires_grad):
            return fake_quantize(x.relu() if self.rectifies else x, self.grid)
        inverse, low, high, scale = self._constants or self.prepare()
        x = (x.mul_(inverse) if self.in_place else x * inverse).round_()  # the same arithmetic, in place
        return (clamp_(x, low, high) if isinstance(low, Tensor) else x.clamp_(low, high)).mul_(scale)

    def prepare(self) -> tuple[float | Tensor, ...]:
        """What the pass in place computes with; kept as numbers where it is single values, which are clamped
        by faster.
        """
        low = self.code_min - self.zero_point
        high = self.code_max - self.zero_point
        constants = (1 / self.scale, low.clamp(min=0) if self.rectifies else low, high, self.scale)
        if all(c.numel() == 1 for c in constants):  # tensors would not follow a move to another device
            constants = tuple(c.item() for c in constants)
            self._constants = constants
        return constants

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A grid may have another form than the one that is here, and comes with other constants."""
        for part in Grid._fields:
            there = state.get(prefix + part)
            if there is not None and (
                getattr(self, part) is None or getattr(self, part).shape != there.shape
            ):
                setattr(self, part, torch.empty_like(there))
        super()._load_from_state_dict(state, prefix, *rest)
        self._constants = None
        self.range = None

    # Channels and examples

    def _axis(self, dims: int) -> int:
        """The axis of channels in a tensor of so many axes."""
        return axis_among(self.axis, dims)

    @property
    def _per_channel(self) -> bool:
        return self.config.activation_granularity == "per_channel"

    def _grid(self, low: Tensor, high: Tensor) -> Grid:
        return grid_of(low, high, self.bits, self.config.activation_symmetric, self.config.symmetric_grid)

    def _check_channels(self, x: Tensor) -> None:
        channels = x.shape[self._axis(x.dim())] if x.dim() > 1 else 1
        if isinstance(self.bits, tuple) and len(self.bits) != channels:
            raise ValueError(
                f"activation_bits[{self.name!r}] has {len(self.bits)} entries, but the tensor {channels} "
                "channels"
            )

    def grid_of_each_example(self, x: Tensor, examples: int | None = None) -> Grid:
        """The grids of the examples in ``x``; fields broadcast against it."""
        if examples is not None and (x.dim() == 0 or len(x) != examples):
            raise ValueError(
                f"activation_dynamic finds a range for each example, but the first axis of {self.name!r} "
                f"{tuple(x.shape)} is not that of the {examples} examples: use static ranges"
            )
        self._check_channels(x)
        axis = self._axis(x.dim())
        if self.config.activation_granularity == "per_token" and x.dim() > 2:
            return self._grid_of_each_token(x, axis)
        rows = (x.movedim(axis, 1).flatten(0, 1) if self._per_channel and x.dim() > 1 else x).detach()
        rows = rows.reshape(len(rows), -1)

        def make(low: Tensor, high: Tensor) -> Grid:  # fields (..., examples, channels or 1)
            return self._grid(*(end.reshape(*end.shape[:-1], len(x), -1) for end in (low, high)))

        def spread(field: Tensor | None) -> Tensor | None:
            if field is None or field.dim() == 0:
                return field
            before = [1] * (axis - 1)
            after = [1] * (x.dim() - 1 - axis)
            return field.reshape(-1 if field.dim() > 1 else 1, *before, field.shape[-1], *after)

        low, high = find_range(rows, self.config.activation_range, self.config.percentile, make)
        if not torch.compiler.is_compiling():
            check_span(low, high, f"the values of {self.name!r}")
        return Grid(*map(spread, make(low, high)))

    def _grid_of_each_token(self, x: Tensor, axis: int) -> Grid:
        """The grids of all vectors along ``axis``; fields broadcast against ``x``."""
        rows = x.detach().movedim(axis, -1)
        places = rows.shape[:-1]
        ends = find_range(
            rows.reshape(-1, rows.shape[-1]), self.config.activation_range, self.config.percentile, self._grid
        )
        if not torch.compiler.is_compiling():
            check_span(*ends, f"the values of {self.name!r}")
        return Grid(
            *(
                f if f is None or f.dim() == 0 else f.reshape(places).unsqueeze(axis if axis >= 0 else -1)
                for f in self._grid(*ends)
            )
        )

    # Calibration

    def start(self) -> None:
        """Begin to collect a static range; before every batch, ``share`` is to say how many of all examples
        it brings.
        """
        self.collector = collector(self.config.activation_range, self.config.percentile, self._grid)
        self.dims = 0

    def _collect(self, x: Tensor) -> Tensor:
        self._check_channels(x)
        self.dims = max(1, x.dim())
        rows = (
            x.movedim(self._axis(x.dim()), 0).flatten(1)
            if self._per_channel and x.dim() > 1
            else x.reshape(1, -1)
        )
        batch, examples = self.share
        try:
            self.collector.update(rows, total=rows.shape[1] * examples // batch)
        except ValueError as error:
            raise ValueError(f"activation_range of {self.name!r}: {error}") from error
        return x if self.config.calibration_upstream == "float" else fake_quantize(x, self.grid_so_far())

    def grid_so_far(self) -> Grid:
        """The grid of what has been collected."""
        return self._spread(self._grid(*self.collector.range()))

    def _spread(self, grid: Grid) -> Grid:
        return grid.reshape(-1, *[1] * (self.dims - 1 - self._axis(self.dims)))

    def finish(self, ends: tuple[float, float] | None = None) -> None:
        """Fix the range, as collected or as given, and with it the grid. A tensor of which no floats were
        seen gets none.
        """
        collected = self.collector
        self.collector = None
        if not self.dims:
            return
        found = collected.range()
        if not all(torch.isfinite(end).all() for end in found):
            raise ValueError(f"the values of {self.name!r} reach NaN or infinity during calibration")
        if ends is not None:
            found = tuple(
                torch.as_tensor(end, dtype=found[0].dtype, device=found[0].device).reshape(-1) for end in ends
            )
        check_span(*found, f"the values of {self.name!r}")
        self.range = tuple(end.clone() for end in found)
        self.set_grid()

    def set_grid(self) -> None:
        """The grid of the range and the bits as they are now."""
        self.grid = self._spread(self._grid(*self.range))


@contextmanager
def waiting(quantizers: Iterable[Quantizer]) -> Iterator[None]:
    """While static ranges are still to be found, a network may run: its activations are in float."""
    static = [quantizer for quantizer in quantizers if not quantizer.config.activation_dynamic]
    for quantizer in static:
        quantizer.passes = True
    try:
        yield
    finally:
        for quantizer in static:
            quantizer.passes = False


class OnCodes(nn.Module):
    """From values on a quantizer's grid to codes, or from a mean of codes to the value of the rounded mean
    (integer pooling).

    Codes count from the zero-point, so that a pooling that pads with zeros pads with the code of 0.
    """

    def __init__(self, source: Quantizer, back: bool):
        super().__init__()
        object.__setattr__(self, "source", source)  # not a submodule: it is one already
        self.back = back

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """``before``: what the quantizer got, from which it finds the ranges of examples where they are
        dynamic.
        """
        source = self.source
        calibrates = source.collector is not None and source.config.calibration_upstream == "float"
        if x.numel() == 0 or source.passes or calibrates:
            return x
        if source.config.activation_dynamic:
            grid = source.grid_of_each_example(before)
            dims = before.dim()
        else:
            grid = source.grid_so_far() if source.collector is not None else source.grid
            dims = grid.scale.dim() + 1  # of a range per channel
        if (lost := dims - x.dim()) > 0:  # axes that the pooling took away
            grid = Grid(*(f if f is None or f.dim() <= lost else f[(..., *[0] * lost)] for f in grid))
        if self.back:
            return (_round(x + grid.zero_point) - grid.zero_point) * grid.scale
        return _round(x * (1 / grid.scale))


def _round(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()  # exact in float32; the gradient passes straight through
