"""The sums of products of one layer in integers: the four sums of section 2.1, biases as integers, and what
an accumulator holds of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..affine import Grid, quantize
from ..network.operations import TRANSPOSED, rows_of, weight_of_rows
from .arithmetic import bits_for, largest_of, limits, saturated, wrapped
from .values import Codes, Part, Sums


@dataclass(frozen=True)
class Accumulator:
    """What holds sums: its ``bits``; what becomes of larger ones, ``"wrap"`` or ``"saturate"``; and whether a
    ``bias`` is ``"kept"`` or ``"rounded"`` to whole sums.
    """

    bits: int = 32
    overflow: str = "wrap"
    bias: str = "kept"


@dataclass
class Seen:
    """The sums of a layer, as a network has run.

    Parameters
    ----------
    layer : str
        Its name.
    products : int
        In every sum.
    bound : int
        The bits that hold any sum: of so many products of codes of so many bits, and the largest bias.
    low, high : int
        The lowest and the highest sum, bias and corrections included; of an accumulator that saturates, on
        the way too.
    overflows, sums : int
        How many sums the accumulator did not hold, of how many.
    """

    layer: str
    products: int
    bound: int
    low: int = 0
    high: int = 0
    overflows: int = 0
    sums: int = 0

    @property
    def bits(self) -> int:
        """The bits of an accumulator that would have held them all."""
        return bits_for(self.low, self.high)

    def add(self, other: Seen) -> None:
        """Those of another batch."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.overflows += other.overflows
        self.sums += other.sums
        self.bound = max(self.bound, other.bound)


def accumulate(
    name: str,
    products: int,
    bound: int,
    sums: Tensor,
    start: Tensor,
    terms: Callable[[], Iterator[Tensor]],
    accumulator: Accumulator,
) -> tuple[Tensor, Seen]:
    """What an accumulator holds of ``sums``, and what was seen of them. One that saturates begins at
    ``start`` and adds ``terms`` in their order.
    """
    if not sums.numel():
        return sums, Seen(name, products, bound)
    low, high = (int(end) for end in torch.aminmax(sums))
    held = sums
    if accumulator.overflow == "saturate":
        held, low, high = saturated(start.expand_as(sums), terms(), accumulator.bits)
    elif not _within(low, high, accumulator.bits):
        held = wrapped(sums, accumulator.bits)
    return held, Seen(name, products, bound, low, high, int((held != sums).sum()), sums.numel())


def _within(low: int, high: int, bits: int) -> bool:
    least, most = limits(bits)
    return least <= low and high <= most


def largest(grid: Grid) -> int:
    """How far a code may lie from its zero-point, whatever that is: known from the bits alone."""
    low, high = int(grid.code_min.min()), int(grid.code_max.max())
    return max(-low, high) if low < 0 else high - low


def multiplied(name: str, one: Codes, other: Codes, accumulator: Accumulator) -> tuple[Part, Seen]:
    """The product of two matrices of activations."""
    a, b = one.counts, other.counts
    sums = torch.matmul(a, b)
    products = a.shape[-1]
    most = products * largest(one.grid) * largest(other.grid)

    def terms() -> Iterator[Tensor]:
        for k in range(products):
            yield a[..., :, k : k + 1] * b[..., k : k + 1, :]

    zero = sums.new_zeros(())
    held, seen = accumulate(name, products, bits_for(-most, most), sums, zero, terms, accumulator)
    return Part(sums, one.grid.scale.double() * other.grid.scale.double(), held), seen


class IntegerLayer:
    """A convolution or linear layer whose weight has codes.

    Parameters
    ----------
    name : str
        Its path.
    layer : nn.Module
        With the values of those codes.
    grid : Grid
        Of its weight, as rows ``(out channels, ...)``.
    """

    def __init__(self, name: str, layer: nn.Module, grid: Grid):
        self.name = name
        self.layer = layer
        self.grid = grid
        rows = rows_of(layer.weight.data, layer)
        self.codes = weight_of_rows(quantize(rows, grid).long(), layer)
        self.zero_point = grid.zero_point.long().flatten()  # (out channels,) or (1,)
        self.products = rows[0].numel()
        self.axes = 0 if isinstance(layer, nn.Linear) else rows.dim() - 2  # behind that of channels

    def sums(self, x: Codes, accumulator: Accumulator) -> tuple[Sums, Seen]:
        """What the layer gives for ``x``, and what was seen on the way.

        Raises
        ------
        ValueError
            A bias that 32 bits do not hold; or sums of a transposed convolution are to saturate, whose order
            is not defined here.
        """
        factor = self._by_channel(self.grid.scale.double().flatten()) * x.grid.scale.double()
        bias, left = self._bias(factor)
        sums = self._four_sums(x) + bias
        bound = self.products * largest(self.grid) * largest(x.grid) + largest_of(bias)
        held, seen = accumulate(
            self.name,
            self.products,
            bits_for(-bound, bound),
            sums,
            bias,
            lambda: self._terms(x.counts),
            accumulator,
        )
        return Sums((Part(sums, factor, held),), self.name, left, accumulator.bias == "kept"), seen

    def _by_channel(self, values: Tensor) -> Tensor:
        """One value a channel, so that it broadcasts against what the layer gives."""
        return values.reshape(-1, *[1] * self.axes)

    def _run(self, weight: Tensor, x: Tensor) -> Tensor:
        bare = {"weight": weight} | ({} if self.layer.bias is None else {"bias": None})
        return functional_call(self.layer, bare, (x,))

    def _bias(self, factor: Tensor) -> tuple[Tensor, Tensor]:
        """In multiples of ``factor``, and what their rounding leaves out."""
        if self.layer.bias is None:
            return torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.float64)
        bias = self._by_channel(self.layer.bias.data.double())
        codes = (bias / factor).round()
        if (beyond := (codes.abs() >= 2**31).flatten().nonzero()).numel():
            shared = factor.numel() == 1
            raise ValueError(
                f"the bias of channel {int(beyond[0])} of {self.name!r} exceeds 32 bits, since one code of "
                f"its weights times one of its inputs is so small ({float(factor.max()):.1e}): use fewer bits"
                + ("" if shared else ", or weight_granularity='per_tensor'")
            )
        return codes.long(), bias - codes * factor

    def _four_sums(self, x: Codes) -> Tensor:
        """Sums of products of codes, less what the zero-points bring. Padding adds to none of them."""
        raw = x.counts + x.grid.zero_point.long()
        sums = self._run(self.codes, raw)
        if x.grid.zero_point:  # known ahead: what follows from the weights
            sums = sums - x.grid.zero_point.long() * self._run(self.codes, torch.ones_like(raw[:1]))
        if self.zero_point.any():  # at run time: every input is summed
            sums = sums - self._by_channel(self.zero_point) * self._of_inputs(x.counts)
        return sums

    def _of_inputs(self, counts: Tensor) -> Tensor:
        """Sums of what enters an output, counted from the zero-point: one for all channels of a group."""
        if isinstance(self.layer, nn.Linear):
            return counts.sum(-1, keepdim=True)
        sums = self._run(self._ones, counts)
        return sums.repeat_interleave(self.layer.out_channels // self.layer.groups, -1 - self.axes)

    @cached_property
    def _ones(self) -> Tensor:
        """A weight of ones with one output channel a group."""
        if isinstance(self.layer, TRANSPOSED):
            return torch.ones_like(self.codes[:, :1])
        return torch.ones_like(self.codes[: self.layer.groups])

    def _terms(self, counts: Tensor) -> Iterator[Tensor]:
        """The products of every sum one by one, zero-points taken off: input channel by input channel, and of
        each the places of the kernel row by row.
        """
        if isinstance(self.layer, TRANSPOSED):
            raise ValueError(
                f"{self.name!r} is a transposed convolution, in which sums that saturate have no one order: "
                "use overflow='wrap'"
            )
        weight = self.codes - self._column(self.zero_point)
        if not self.axes:
            for k in range(self.products):
                yield counts[..., k : k + 1] * weight[:, k]
            return
        windows = self._windows(counts)
        own = self.layer.out_channels // self.layer.groups  # channels of a group
        for k, place in enumerate(weight.flatten(1).unbind(1)):
            channel, offset = divmod(k, windows.shape[-1])
            entering = windows[:, channel :: weight.shape[1], ..., offset]
            yield entering.repeat_interleave(own, 1) * self._by_channel(place)

    def _column(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * (self.codes.dim() - 1))

    def _windows(self, counts: Tensor) -> Tensor:
        """``(n, channels, *places, kernel)``: what enters every place of the output."""
        layer = self.layer
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padding = layer._reversed_padding_repeated_twice
        x = nn.functional.pad(counts.double(), padding, mode=mode).long()
        sizes = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
        for axis, (kernel, stride, dilation) in enumerate(sizes, 2):
            x = x.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
        return x.flatten(2 + self.axes)
