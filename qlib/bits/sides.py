"""Weights and activations while their bits learn: how bits are rounded, used, and get a gradient.

With the range fixed, the step of a grid is ``s = range / (2**b - 1)``, so one more bit shrinks it by ``ds/db
= -s ln(2) 2**b / (2**b - 1)``. A quantized value is ``s round(x / s)``, whose derivative by ``s``, straight
through the rounding (Bengio et al. 2013), is ``(x_q - x) / s`` with ``x`` clipped to the range. Together::

    dx_q/db = -ln(2) 2**b / (2**b - 1) (x_q - x)

and the gradient of a layer's bits is the sum of that over its values, each times the gradient of the loss by
``x_q``. Values that are clipped stay at the end of the range, whatever the bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..affine import Grid, fake_quantize, make_grid
from ..config import Bits, QuantConfig
from ..footprints import Layer
from ..network.operations import rows_of, weight_of_rows
from ..quantizer import Quantizer, weight_grid

START = 8.0
TOLERANCE = 1e-9  # of averages of bits, summed in float64


class Side:
    """The bits of weights, or of activations, while they learn: one bitwidth for every layer, or for every
    channel of it.
    """

    kind: str

    def __init__(
        self,
        target: float,
        counts: Mapping[str, int],
        layers: Iterable[Layer],
        config: QuantConfig,
        log2: bool,
        device: torch.device,
    ):
        """``counts``: how many bitwidths each name learns. ``layers``: the footprint's, at the bits to start
        from.
        """
        layers = [layer for layer in layers if layer.counted or self.kind == "weight"]
        sizes = {layer.name: getattr(layer, f"{self.kind}_elements") for layer in layers}
        kept = {layer.name: self._bits_of(layer) for layer in layers if layer.name not in counts}
        each = [sizes[name] / count for name, count in counts.items() for _ in range(count)]
        least = 1 + getattr(config, f"{self.kind}_symmetric")
        self.target = float(target)
        self.config = config
        self.log2 = log2
        self.names = list(counts)
        self.counts = list(counts.values())
        self.elements = torch.tensor(each, dtype=torch.float64, device=device)
        self.fixed = sum(sizes[name] * bits for name, bits in kept.items())
        self.total = sum(sizes.values())
        self.choices = torch.tensor([float(b) for b in config.bit_choices if b >= least], device=device)
        self._check_target([name for name, bits in kept.items() if bits == 32])
        # The outermost choices keep their whole rounding cell: a parameter that starts at a bound would not
        # move off it.
        self.bounds = self.choices[0].item() - 0.5, self.choices[-1].item() + 0.5
        if log2:
            self.bounds = math.log2(self.bounds[0]), math.log2(self.bounds[1])
        start = torch.full((len(each),), min(START, self.choices[-1].item()), device=device)
        self.parameter = nn.Parameter(start.log2() if log2 else start)
        self.rounded = torch.zeros_like(start)

    def _bits_of(self, layer: Layer) -> float:
        return getattr(layer, f"{self.kind}_bits")

    def _check_target(self, in_float: list[str]) -> None:
        """Raises ``ValueError`` where no choice of bits meets the target."""
        problem = f"target_{self.kind}_bits={self.target:g} cannot be met: "
        if not self.names:
            raise ValueError(
                f"{problem}no layer's bits are free; set first_last_bits=None or name fewer in "
                f"{self.kind}_bits"
            )
        if not len(self.choices):
            raise ValueError(
                f"{problem}bit_choices {self.config.bit_choices} hold none that a symmetric grid can have"
            )
        lowest = (self.fixed + self.choices[0].item() * self.elements.sum().item()) / self.total
        if lowest > self.target + TOLERANCE:
            floats = f" ({', '.join(map(repr, in_float))} in float, at 32)" if in_float else ""
            raise ValueError(
                f"{problem}even with {self.choices[0]:.0f} bit(s), the least of bit_choices, in every layer "
                f"that is free the average is {lowest:.3f}{floats}; raise the target or allow fewer bits"
            )

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.parameter]

    @property
    def bits(self) -> Tensor:
        """Before rounding."""
        return 2 ** self.parameter.detach() if self.log2 else self.parameter.detach()

    def apply(self) -> None:
        """Round the bits, ties to the lower choice, and let the network use them."""
        before = self.rounded
        middles = (self.choices[1:] + self.choices[:-1]) / 2
        self.rounded = self.choices[torch.bucketize(self.bits, middles)]
        self._use([bool(part.any()) for part in (before != self.rounded).cpu().split(self.counts)])

    def average(self) -> float:
        return (self.fixed + (self.rounded * self.elements).sum().item()) / self.total

    def meets_target(self) -> bool:
        return self.average() <= self.target + TOLERANCE

    def by_name(self) -> dict[str, float]:
        """Before rounding, a mean over channels."""
        parts = self.bits.cpu().split(self.counts)
        return {name: part.mean().item() for name, part in zip(self.names, parts, strict=True)}

    def chosen(self) -> dict[str, Bits]:
        """After rounding, as a configuration has them."""
        parts = self.rounded.int().cpu().split(self.counts)  # to the CPU at once
        return {
            name: part.item() if len(part) == 1 else tuple(part.tolist())
            for name, part in zip(self.names, parts, strict=True)
        }

    def set_gradient(self, penalty: float) -> None:
        """Of the loss: the metric's by every bitwidth, plus the hinge's, straight through the rounding."""
        gradient = self.gradient()
        if self.average() > self.target:
            gradient = gradient + penalty * (self.elements / self.total).float()
        self.parameter.grad = gradient * self.bits * math.log(2) if self.log2 else gradient

    def project(self) -> None:
        with torch.no_grad():
            self.parameter.clamp_(*self.bounds)

    def state(self) -> list[Tensor]:
        """Copies of what learns, for `restore`."""
        return [p.detach().clone() for p in self.parameters]

    def restore(self, state: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state, strict=True):
                parameter.copy_(value)

    def has_room(self) -> bool:
        """Whether some layer (or channel) can have its next choice within the target."""
        return bool((self._costs() <= self._room()).any())

    def fill(self, gradient: Tensor) -> None:
        """Raise each layer (or channel) to its next choice where the target still allows it, those first by
        which the loss falls most for a stored bit.
        """
        bits, higher = self.rounded.clone(), self._next()
        room, costs = self._room(), self._costs().tolist()
        for i in (gradient / self.elements).argsort().tolist():
            if costs[i] <= room:
                room -= costs[i]
                bits[i] = higher[i]
        self.restore([bits.log2() if self.log2 else bits, *self.state()[1:]])

    def _room(self) -> float:
        """The bits that may still be stored."""
        return (self.target + TOLERANCE - self.average()) * self.total

    def _costs(self) -> Tensor:
        """What every next choice stores in addition; infinite where there is none."""
        more = (self._next() - self.rounded) * self.elements
        return more.where(more > 0, math.inf)

    def _next(self) -> Tensor:
        """For every bitwidth the choice above it, or itself if it is the highest."""
        above = torch.bucketize(self.rounded, self.choices, right=True)
        return self.choices[above.clamp(max=len(self.choices) - 1)]

    def _use(self, changed: list[bool]) -> None:
        raise NotImplementedError

    def gradient(self) -> Tensor:
        """Of the metric's loss, by every bitwidth, from the last backward pass."""
        raise NotImplementedError


class Weights(Side):
    """The network's weight parameters hold the quantized values, so their gradients are those by ``x_q``."""

    kind = "weight"

    def __init__(self, floats: Mapping[str, Tensor], modules: Mapping[str, nn.Module], *arguments: Any):
        """``floats``: the weights before quantization, a row an output channel."""
        super().__init__(*arguments)
        self.floats = floats
        self.modules = modules
        self.errors = {}
        for name in self.names:
            self.modules[name].weight.requires_grad_(True)

    def _use(self, changed: list[bool]) -> None:
        chosen = self.chosen()
        for name in (name for name, moved in zip(self.names, changed, strict=True) if moved):
            rows = self.floats[name]
            layer = self.modules[name]
            grid = weight_grid(name, rows, self.config, chosen[name])
            quantized = fake_quantize(rows, grid)
            layer.weight.data.copy_(weight_of_rows(quantized, layer))
            self.errors[name] = quantized - clip(rows, grid)

    def gradient(self) -> Tensor:
        parts = []
        for name, count in zip(self.names, self.counts, strict=True):
            product = rows_of(self.modules[name].weight.grad, self.modules[name]) * self.errors[name]
            parts.append(product.flatten(1).sum(1) if count > 1 else product.sum().reshape(1))
        shrinks = shrinkage(self.rounded, self.config.weight_symmetric, self.config.symmetric_grid)
        return -shrinks * torch.cat(parts)


class Activations(Side):
    """Quantizers whose bits, and if ``learn_ranges`` whose ranges, have gradients."""

    kind = "activation"

    def __init__(self, quantizers: list[LearnedQuantizer], learn_ranges: bool, *arguments: Any):
        super().__init__(*arguments)
        self.quantizers = quantizers
        self.index = [self.names.index(q.fixed.name) for q in quantizers]
        self.ends = []
        if learn_ranges:
            self.ends = [nn.Parameter(torch.cat([q.fixed.range[end] for q in quantizers])) for end in (0, 1)]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.parameter, *self.ends]

    def _use(self, changed: list[bool]) -> None:
        self.leaf = self.rounded.clone().requires_grad_()
        bits = self.leaf.unbind()
        chosen = self.rounded.int().tolist()
        grid = self.config.activation_symmetric, self.config.symmetric_grid
        shrinks = shrinkage(self.rounded, *grid).unbind()
        ends = list(zip(*(end.unbind() for end in self.ends), strict=True))
        if ends:  # all grids at once: a GPU takes as long for one
            low, high = (end.detach() for end in self.ends)
            *fields, _ = make_grid(low, high, self.rounded[self.index])
            grids = list(zip(*(field.unbind() for field in fields), strict=True))
        for i, (quantizer, name) in enumerate(zip(self.quantizers, self.index, strict=True)):
            quantizer.bits = bits[name]
            quantizer.shrinks = shrinks[name]
            quantizer.ends = ends[i] if ends else None
            if changed[name]:
                quantizer.fixed.bits = chosen[name]
            if ends:
                quantizer.fixed.grid = Grid(*grids[i])
            elif changed[name] and quantizer.fixed.range is not None:
                quantizer.fixed.set_grid()

    def gradient(self) -> Tensor:
        return self.leaf.grad

    def project(self) -> None:
        super().project()
        if self.ends:
            low, high = self.ends
            with torch.no_grad():
                low.clamp_(max=0.0)
                high.clamp_(min=0.0)

    def ranges(self) -> dict[str, tuple[float, float]] | None:
        if not self.ends:
            return None
        low, high = (end.tolist() for end in self.ends)
        return {q.fixed.name: (low[i], high[i]) for i, q in enumerate(self.quantizers)}


class LearnedQuantizer(nn.Module):
    """A `Quantizer` that passes gradients to its bits and, where ``ends`` are given, to its range."""

    def __init__(self, quantizer: Quantizer):
        super().__init__()
        self.fixed = quantizer
        self.bits = None
        self.shrinks = None
        self.ends = None

    def forward(self, x: Tensor, examples: int | None = None) -> Tensor:
        q = self.fixed
        x = x.relu() if q.rectifies else x
        grid = q.grid_of_each_example(x, examples) if q.config.activation_dynamic else q.grid
        return _FakeQuantize.apply(x, grid, self.shrinks, self.bits, *(self.ends or (None, None)))


class _FakeQuantize(torch.autograd.Function):
    """`affine.fake_quantize` with the gradients above by the bits. By the ends of the range: 1 where a value
    is clipped there, and what the step's width, ``(high - low) / (2**b - 1)``, makes of the values inside.
    """

    @staticmethod
    def forward(ctx, x, grid, shrinks, bits, low, high):
        quantized = fake_quantize(x, grid)
        ctx.save_for_backward(x, quantized, shrinks, low, high, *grid)
        return quantized

    @staticmethod
    def backward(ctx, gradient):
        x, quantized, shrinks, low, high, *grid = ctx.saved_tensors
        clipped = clip(x, Grid(*grid))
        inside = gradient * (clipped == x)
        error = (inside * (quantized - clipped)).sum()
        if low is None:
            return inside, None, None, -shrinks * error, None, None
        outside = gradient - inside
        above = (outside * (x > 0)).sum()
        width = high - low
        by_width = torch.where(width > 0, error / width, 0.0)  # an empty range has no step to change
        return inside, None, None, -shrinks * error, outside.sum() - above - by_width, above + by_width


def shrinkage(bits: Tensor, symmetric: bool, symmetric_grid: str) -> Tensor:
    """The share by which a grid's step shrinks per bit, ``-(ds/db) / s``."""
    halved = symmetric and symmetric_grid == "restricted"  # its step is m / (2**(b-1) - 1)
    steps = 2.0 ** (bits - 1 if halved else bits)
    return math.log(2) * steps / (steps - 1)


def clip(x: Tensor, grid: Grid) -> Tensor:
    """``x`` clamped to what ``grid`` reaches, half a step beyond its outermost values included, as rounding
    has it.
    """
    half = grid.scale / 2
    low = (grid.code_min - grid.zero_point) * grid.scale - half
    high = (grid.code_max - grid.zero_point) * grid.scale + half
    return torch.minimum(torch.maximum(x, low), high)
