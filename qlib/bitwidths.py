"""Mixed precision: learned bitwidths (paper, appendix A), and the analytic ones for a largest feature map
(observation 6).

`learn_bitwidths` treats the bits of every layer as continuous parameters. They are rounded in the forward
pass, and the gradient passes the rounding straight through (Bengio et al. 2013). The loss is cross-entropy
plus ``penalty`` times the hinge of the average weight bits and the average activation bits over their
targets; the network's own parameters are frozen.

How a bitwidth gets its gradient: with the range fixed, the step of a grid is ``s = range / (2**b - 1)``, so
one more bit shrinks it by ``ds/db = -s ln(2) 2**b / (2**b - 1)``. A quantized value is ``s round(x / s)``,
whose derivative by ``s``, straight through the rounding, is ``(x_q - x) / s`` with ``x`` clipped to the
range. Together::

    dx_q/db = -ln(2) 2**b / (2**b - 1) (x_q - x)

and the gradient of a layer's bits is the sum of that over its values, each times the gradient of the loss by
``x_q``. Values that are clipped stay at the end of the range, whatever the bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .affine import Grid, fake_quantize
from .benches import Batches
from .config import MAX_LAYER_BITS, Bits, QuantConfig
from .evaluation import Accuracy, evaluate
from .footprints import Layer, footprint
from .model import (
    calibrate,
    insert_quantizers,
    quantize,
    quantize_weights,
    read_verified,
    run,
    save_passes,
    weight_grid,
)
from .names import entry
from .network import Network, evaluation_copy, read
from .network.inputs import (
    as_inputs,
    check_inputs,
    device_of,
    device_of_inputs,
    examples_in,
    first,
    inputs_of,
    on,
    picked_from,
    pooled,
    split,
)
from .network.operations import rows_of, weight_of_rows
from .placement import place
from .quantizer import Quantizer

if TYPE_CHECKING:
    import pandas as pd

START = 8.0
AVERAGED = 10  # steps that the exponential average of accuracy (0.9, 0.1) looks back on
EVALUATED = 250  # images evaluated at a time
TOLERANCE = 1e-9  # of averages of bits, summed in float64
PARAMETRIZATIONS = ("bits", "log2")
CHECKPOINTS = ("average", "authors", "last")


@dataclass(frozen=True)
class LearnedBitwidths:
    """What `learn_bitwidths` found.

    ``config``: the configuration with bits by layer. ``average_weight_bits``, ``average_activation_bits``:
    those of its `footprint`. ``accuracy``: of ``quantize(model, config, batches, ranges)`` on the images it
    learned from. ``ranges``: learned (low, high) by tensor name, or ``None``. ``feasible``: whether the
    targets are met. ``step``: the one whose bits were kept.

    ``history``: a table, one row a step: ``loss`` (cross-entropy), ``accuracy`` (percent, of the batch),
    ``average_weight_bits``, ``average_activation_bits`` and ``feasible`` after rounding, and a column for
    every layer or tensor that learns, ``weight:NAME`` or ``activation:NAME``, with its bits before rounding
    (a mean over channels).
    """

    config: QuantConfig
    average_weight_bits: float
    average_activation_bits: float
    accuracy: Accuracy
    history: pd.DataFrame
    step: int
    feasible: bool
    ranges: Mapping[str, tuple[float, float]] | None = None


def learn_bitwidths(
    model: nn.Module | Network,
    config: QuantConfig,
    batches: Iterable[tuple[Tensor, Tensor]],
    target_weight_bits: float | None = None,
    target_activation_bits: float | None = None,
    steps: int = 1500,
    seed: int = 0,
    *,
    batch_size: int = 32,
    learning_rate: float = 0.01,
    penalty: float = 2.0,
    parametrization: str = "bits",
    per_channel: bool = False,
    learn_ranges: bool = False,
    checkpoint: str = "average",
    allow_infeasible: bool = False,
    compile: bool = False,
    progress: bool = True,
) -> LearnedBitwidths:
    """Bits per layer with the least loss at an average of at most ``target_weight_bits`` and
    ``target_activation_bits``.

    ``batches``: (float inputs ``(n, ...)``, labels) pairs, also the calibration data; labels are int classes
    ``(n,)``, or probabilities ``(n, classes)`` (`pseudo_labels`). They are pooled, and every step draws
    ``batch_size`` images, each image once before any comes again, in an order made from ``seed``. A side
    whose target is ``None`` keeps the config's bits. Bits of a side that learns start at 8 and stay among
    ``config.bit_choices`` (without 1 on a symmetric grid), each value rounding to the nearest choice, ties to
    the lower. First and last layer keep ``config.first_last_bits`` unless that is ``None``, and what a bits
    dictionary names keeps those. Averages count as `footprint` does: fixed layers at their bits, the image
    and poolings not.

    ``parametrization``: Adam moves the bits, or their ``log2`` as in the published code. ``per_channel``:
    every output channel of a weight has its own bits. ``learn_ranges``: activation ranges are learned too
    (asymmetric, static, per tensor). ``checkpoint`` chooses among the steps that meet the targets: the one
    with the highest exponential ``average`` (0.9) of the batches' accuracy over such steps, once it has seen
    10; ``authors``: the published rule, whose average starts with the first step and so still remembers the
    accuracy at 8 bits; or the ``last``. ``compile`` pays where thousands of steps follow.

    With ``mse`` ranges or a quantized calibration upstream, activations keep the ranges of 8 bits while they
    learn.

    Raises ``ValueError`` for targets that no choice of bits can meet, data that is empty, of one class or not
    finite, a loss that is not a number, and, unless ``allow_infeasible``, when no step met the targets (it
    names the closest averages).
    """
    _check(
        config,
        target_weight_bits,
        target_activation_bits,
        steps,
        batch_size,
        parametrization,
        checkpoint,
        learn_ranges,
    )
    images, labels = _pool(batches)
    data = list(zip(split(images, EVALUATED), labels.split(EVALUATED), strict=True))
    read_once = read_verified(model, config, inputs_of(data))
    network, sides = _student(
        read_once,
        config,
        data,
        target_weight_bits,
        target_activation_bits,
        parametrization == "log2",
        per_channel,
        learn_ranges,
    )
    optimizer = torch.optim.Adam([p for side in sides for p in side.parameters], lr=learning_rate)
    forward = torch.compile(network) if compile else network
    device = device_of(network)
    keep = _Checkpoint(checkpoint)
    rows = []

    import pandas as pd
    from tqdm import tqdm

    with tqdm(
        _order(len(labels), batch_size, steps, seed),
        desc="learning bitwidths",
        unit="step",
        total=steps,
        disable=None if progress else True,
    ) as bar:
        for step, picked in enumerate(bar):
            for side in sides:
                side.apply()
            x = on(picked_from(images, picked), device)
            y = labels[picked].to(device)
            output = run(forward, x, f"training batch {step}")
            _check_output(output, y)
            loss = F.cross_entropy(output, y)
            if not torch.isfinite(loss):
                raise ValueError(
                    f"the loss is {loss.item()} at step {step}: look for NaN in the labels, or lower "
                    "learning_rate"
                )
            network.zero_grad()
            loss.backward()
            accuracy = 100 * (output.argmax(1) == _classes(y)).float().mean().item()
            keep.see(step, accuracy, sides)
            rows.append(
                [
                    step,
                    loss.item(),
                    accuracy,
                    keep.meets(sides),
                    *(side.average() for side in sides),
                    *(bits for side in sides for bits in side.by_name()),
                ]
            )
            for side in sides:
                side.set_gradient(penalty)
            optimizer.step()
            for side in sides:
                side.project()
            bar.set_postfix(
                loss=f"{loss.item():.3f}",
                accuracy=f"{accuracy:.0f} %",
                **{f"{side.kind}_bits": f"{side.average():.2f}" for side in sides},
            )
    if not keep.feasible and not allow_infeasible:
        reached = " and ".join(
            f"{rows[keep.step][4 + i]:.3f} {side.kind} bits (target {side.target:g})"
            for i, side in enumerate(sides)
        )
        raise ValueError(
            f"in {steps} steps the targets were never met; the closest averages were {reached}: allow more "
            "steps, a "
            "larger learning_rate or penalty, or pass allow_infeasible=True"
        )
    learned = config.replace(
        **{
            f"{kind}_bits": {**_named(getattr(config, f"{kind}_bits")), **bits}
            for kind, bits in keep.bits.items()
        }
    )
    size = footprint(read_once, first(images, 1), learned)
    columns = [
        "step",
        "loss",
        "accuracy",
        "feasible",
        *(f"average_{side.kind}_bits" for side in sides),
        *(f"{side.kind}:{name}" for side in sides for name in side.names),
    ]
    return LearnedBitwidths(
        config=learned,
        average_weight_bits=size.average_weight_bits,
        average_activation_bits=size.average_activation_bits,
        accuracy=evaluate(
            quantize(read_once, learned, data, keep.ranges), [(x, _classes(y)) for x, y in data]
        ),
        history=pd.DataFrame(rows, columns=columns),
        step=keep.step,
        feasible=keep.feasible,
        ranges=keep.ranges,
    )


def analytic_bitwidths(
    model: nn.Module | Network, example_input: Any, config: QuantConfig, max_activation_bytes: float
) -> QuantConfig:
    """``config`` with the most activation bits per tensor, 32 at most, that keep every feature map within a
    size per image.

    ``example_input``: a float batch ``(n, ...)``; its values do not matter. ``bit_choices`` do not bind these
    bits; 17 and more stay in float and count at their bits. The last layer keeps ``config.first_last_bits``
    unless that is ``None``; the first, whose map is among the largest, does not (paper, appendix B). Poolings
    are held to the limit too. Equal maxima hide very different totals: compare `footprint`. Raises
    ``ValueError`` naming the tensor if one does not fit, or stays in float.
    """
    network = read(model, example_input, config.float_layers)
    bits = {}
    placement = place(network, config)
    least = 1 + config.activation_symmetric
    placed = placement.feature_maps
    left = {o.name for o in network.listed() if o.node in placement.in_float}
    last = next(o.name for o in network.listed() if o.node.target == placement.last)
    for layer in footprint(network, example_input, config).layers:
        if placed[layer.name] is None:
            if layer.counted and layer.name not in left:
                raise ValueError(
                    f"{layer.name!r} stays in float under this configuration: it has no bits to choose"
                )
            continue
        most = min(int(8 * max_activation_bytes / layer.activation_elements + 1e-9), MAX_LAYER_BITS)
        bits[layer.name] = config.first_last_bits if layer.name == last and config.first_last_bits else most
        if most < max(bits[layer.name], least):
            needed = max(bits[layer.name], least)
            size = layer.activation_elements * needed / 8
            raise ValueError(
                f"the feature map of {layer.name!r} has {layer.activation_elements:,} values, at {needed} "
                "bit(s) "
                f"{size:,.0f} bytes: more than the {max_activation_bytes:,.0f} allowed"
            )
    return config.replace(activation_bits=bits)


def pseudo_labels(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], soft: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """The same images with the labels that ``model`` gives them (paper, observation 7): its best class
    ``(n,)``, or, if ``soft``, its probabilities ``(n, classes)``, which the paper suggests and did not run.
    Labels given are not looked at.
    """
    network = evaluation_copy(model)
    device = device_of(network)
    labelled = []
    with torch.no_grad():  # not inference mode: its tensors could not be learned from
        for x in inputs_of(batches, "image"):
            output = run(network, on(x, device), f"batch {len(labelled)}").cpu()
            labelled.append((x, output.softmax(1) if soft else output.argmax(1)))
    return labelled


# ------------------------------------------------------------------------------------------------------------
# Inside the learner


class _Side:
    """The bits of weights, or of activations, while they learn: one bitwidth for every layer, or for every
    channel of it.
    """

    kind: str

    def __init__(
        self,
        target: float,
        entries: Mapping[str, int],
        layers: Iterable[Layer],
        config: QuantConfig,
        log2: bool,
        device: torch.device,
    ):
        """``entries``: how many bitwidths each name learns. ``layers``: the footprint's, at the bits to start
        from.
        """
        layers = [layer for layer in layers if layer.counted or self.kind == "weight"]
        sizes = {layer.name: getattr(layer, f"{self.kind}_elements") for layer in layers}
        self.target = float(target)
        self.log2 = log2
        self.names = list(entries)
        self.counts = list(entries.values())
        each = [sizes[name] / count for name, count in entries.items() for _ in range(count)]
        self.elements = torch.tensor(each, dtype=torch.float64, device=device)
        self.fixed = sum(
            sizes[layer.name] * getattr(layer, f"{self.kind}_bits")
            for layer in layers
            if layer.name not in entries
        )
        self.total = sum(sizes.values())
        least = 1 + getattr(config, f"{self.kind}_symmetric")
        self.choices = torch.tensor([float(b) for b in config.bit_choices if b >= least], device=device)
        problem = f"target_{self.kind}_bits={target:g} cannot be met: "
        left = [
            repr(layer.name)
            for layer in layers
            if layer.name not in entries and getattr(layer, f"{self.kind}_bits") == 32
        ]
        floats = f" ({', '.join(left)} in float, at 32)" if left else ""
        if not self.names:
            raise ValueError(
                f"{problem}no layer's bits are free; set first_last_bits=None or name fewer in "
                f"{self.kind}_bits"
            )
        if not len(self.choices):
            raise ValueError(
                f"{problem}bit_choices {config.bit_choices} hold none that a symmetric grid can have"
            )
        lowest = (self.fixed + self.choices[0].item() * self.elements.sum().item()) / self.total
        if lowest > self.target + TOLERANCE:
            raise ValueError(
                f"{problem}even with {self.choices[0]:.0f} bit(s), the least of bit_choices, in every layer "
                "that is "
                f"free the average is {lowest:.3f}{floats}; raise the target or allow fewer bits"
            )
        # The outermost choices keep their whole rounding cell: a parameter that starts at a bound would not
        # move off it.
        self.bounds = self.choices[0].item() - 0.5, self.choices[-1].item() + 0.5
        if log2:
            self.bounds = math.log2(self.bounds[0]), math.log2(self.bounds[1])
        start = torch.full((len(each),), min(START, self.choices[-1].item()), device=device)
        self.parameter = nn.Parameter(start.log2() if log2 else start)
        self.rounded = torch.zeros_like(start)

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

    def by_name(self) -> list[float]:
        return [part.mean().item() for part in self.bits.cpu().split(self.counts)]

    def chosen(self) -> dict[str, Bits]:
        parts = zip(
            self.names, self.rounded.int().cpu().split(self.counts), strict=True
        )  # to the CPU at once
        return {name: part.item() if len(part) == 1 else tuple(part.tolist()) for name, part in parts}

    def set_gradient(self, penalty: float) -> None:
        """Of the loss: the cross-entropy's by every bitwidth, plus the hinge's, straight through the
        rounding.
        """
        gradient = self._gradient()
        if self.average() > self.target:
            gradient = gradient + penalty * (self.elements / self.total).float()
        self.parameter.grad = gradient * self.bits * math.log(2) if self.log2 else gradient

    def project(self) -> None:
        with torch.no_grad():
            self.parameter.clamp_(*self.bounds)

    def _use(self, changed: list[bool]) -> None:
        raise NotImplementedError

    def _gradient(self) -> Tensor:
        raise NotImplementedError


class _Weights(_Side):
    """The network's weight parameters hold the quantized values, so their gradients are those by ``x_q``."""

    kind = "weight"

    def __init__(
        self,
        floats: Mapping[str, Tensor],
        layers: Mapping[str, nn.Module],
        config: QuantConfig,
        *arguments: Any,
    ):
        self.floats = floats
        self.modules = layers
        self.config = config
        self.errors = {}
        super().__init__(*arguments)
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

    def _gradient(self) -> Tensor:
        parts = []
        for name, count in zip(self.names, self.counts, strict=True):
            product = rows_of(self.modules[name].weight.grad, self.modules[name]) * self.errors[name]
            parts.append(product.flatten(1).sum(1) if count > 1 else product.sum().reshape(1))
        return -shrinkage(self.rounded, self.config.weight_symmetric, self.config.symmetric_grid) * torch.cat(
            parts
        )


class _Activations(_Side):
    """Quantizers whose bits, and if ``learn_ranges`` whose ranges, have gradients."""

    kind = "activation"

    def __init__(self, quantizers: list[LearnedQuantizer], learn_ranges: bool, *arguments: Any):
        self.quantizers = quantizers
        self.ends = []
        super().__init__(*arguments)
        self.index = [self.names.index(q.fixed.name) for q in quantizers]
        if learn_ranges:
            self.ends = [nn.Parameter(torch.cat([q.fixed.range[end] for q in quantizers])) for end in (0, 1)]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.parameter, *self.ends]

    def _use(self, changed: list[bool]) -> None:
        self.leaf = self.rounded.clone().requires_grad_()
        bits = self.leaf.unbind()
        ends = list(zip(*(end.unbind() for end in self.ends), strict=True))
        for i, (quantizer, name) in enumerate(zip(self.quantizers, self.index, strict=True)):
            quantizer.bits = bits[name]
            quantizer.ends = ends[i] if ends else None
            if changed[name] or ends:
                quantizer.fixed.bits = int(self.rounded[name])
                if ends:
                    quantizer.fixed.range = tuple(end.detach().reshape(1) for end in ends[i])
                if quantizer.fixed.range is not None:
                    quantizer.fixed.set_grid()

    def _gradient(self) -> Tensor:
        return self.leaf.grad

    def project(self) -> None:
        super().project()
        with torch.no_grad():
            for end, limits in zip(self.ends, ({"max": 0.0}, {"min": 0.0}), strict=False):
                end.clamp_(**limits)

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
        self.ends = None

    def forward(self, x: Tensor, examples: int | None = None) -> Tensor:
        q = self.fixed
        x = x.relu() if q.rectifies else x
        grid = q.grid_of_each_example(x, examples) if q.config.activation_dynamic else q.grid
        slope = shrinkage(self.bits.detach(), q.config.activation_symmetric, q.config.symmetric_grid)
        return _Learned.apply(x, grid, slope, self.bits, *(self.ends or (None, None)))


class _Learned(torch.autograd.Function):
    """`affine.fake_quantize` with the gradients above by the bits. By the ends of the range: 1 where a value
    is clipped there, and what the step's width, ``(high - low) / (2**b - 1)``, makes of the values inside.
    """

    @staticmethod
    def forward(ctx, x, grid, slope, bits, low, high):
        quantized = fake_quantize(x, grid)
        ctx.save_for_backward(x, quantized, slope, low, high, *grid)
        return quantized

    @staticmethod
    def backward(ctx, gradient):
        x, quantized, slope, low, high, *grid = ctx.saved_tensors
        clipped = clip(x, Grid(*grid))
        inside = gradient * (clipped == x)
        error = (inside * (quantized - clipped)).sum()
        if low is None:
            return inside, None, None, -slope * error, None, None
        outside = gradient - inside
        above = (outside * (x > 0)).sum()
        by_width = error / (high - low)
        return inside, None, None, -slope * error, outside.sum() - above - by_width, above + by_width


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


class _Checkpoint:
    """Which step's bits are kept."""

    def __init__(self, rule: str):
        self.rule = rule
        self.feasible = False
        self.step = -1
        self.bits = {}
        self.ranges = None
        self.average = 0.0
        self.seen = 0
        self.best = -math.inf
        self.excess = math.inf

    @staticmethod
    def meets(sides: list[_Side]) -> bool:
        return all(side.average() <= side.target + TOLERANCE for side in sides)

    def see(self, step: int, accuracy: float, sides: list[_Side]) -> None:
        feasible = self.meets(sides)
        if self.rule == "authors":
            self.average = 0.1 * accuracy + 0.9 * self.average
        elif feasible:
            self.average = 0.1 * accuracy + 0.9 * self.average if self.seen else accuracy
        if not feasible:
            excess = sum(max(0.0, side.average() - side.target) for side in sides)
            if not self.feasible and excess < self.excess:
                self.excess = excess
                self._keep(step, sides)
            return
        self.seen += 1
        warming_up = self.rule == "average" and self.seen <= AVERAGED
        if not self.feasible or warming_up or self.rule == "last" or self.average > self.best:
            self._keep(step, sides)
            self.best = self.average
            self.feasible = True

    def _keep(self, step: int, sides: list[_Side]) -> None:
        self.step = step
        self.bits = {side.kind: side.chosen() for side in sides}
        self.ranges = next((side.ranges() for side in sides if isinstance(side, _Activations)), None)


def _student(
    model: nn.Module | Network,
    config: QuantConfig,
    data: Batches,
    weight_target: float | None,
    activation_target: float | None,
    log2: bool,
    per_channel: bool,
    learn_ranges: bool,
) -> tuple[nn.Module, list[_Side]]:
    """The network that learns, calibrated with 8 bits on the sides that do, and these sides."""
    start = config
    if weight_target is not None:
        start = start.replace(weight_bits=_named(config.weight_bits))
    if activation_target is not None:
        start = start.replace(activation_bits=_named(config.activation_bits))
    inputs = inputs_of(data)
    traced = read_verified(model, start, inputs)
    placement, quantizers = insert_quantizers(traced, start)
    network = traced.module.requires_grad_(False)
    modules = {name: network.get_submodule(name) for name in placement.weight_bits}
    floats = {name: rows_of(module.weight, module).clone() for name, module in modules.items()}
    if config.calibration_upstream == "quantized":
        quantize_weights(traced, start, placement.weight_bits)
    calibrate(traced, quantizers, inputs)
    if config.calibration_upstream == "float":
        quantize_weights(traced, start, placement.weight_bits)
    save_passes(traced, quantizers)
    more = footprint(model, first(inputs[0], 1), start).layers, config, log2, device_of(network)
    ends = placement.ends if config.first_last_bits is not None else frozenset()
    sides: list[_Side] = []
    if weight_target is not None:
        fixed = {
            traced.tied.get(name, name)
            for name in traced.layers
            if name in ends or entry("weight_bits", start.weight_bits, name) is not None
        }
        free = [name for name in traced.layers if name not in fixed and name not in traced.tied]
        entries = {name: len(floats[name]) if per_channel else 1 for name in free}
        sides.append(_Weights(floats, modules, config, weight_target, entries, *more))
    if activation_target is not None:
        fixed = {
            o.name
            for o in traced.listed()
            if o.node.target in ends or entry("activation_bits", start.activation_bits, o.name) is not None
        }
        free = {
            o.name for o in traced.listed() if o.counted and placement.feature_maps[o.name] is not None
        } - fixed
        learners = []
        for name, module in list(network.named_modules()):
            if isinstance(module, Quantizer) and module.name in free:
                learners.append(LearnedQuantizer(module))
                network.set_submodule(name, learners[-1])
        entries = dict.fromkeys((learner.fixed.name for learner in learners), 1)
        sides.append(_Activations(learners, learn_ranges, activation_target, entries, *more))
    return network, sides


def _named(bits: object) -> dict[str, Bits]:
    """The layers or tensors to which a configuration gives bits by name."""
    return {name: b for name, b in bits.items() if name != "default"} if isinstance(bits, Mapping) else {}


def _order(images: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Which images each step sees: every one once before any comes again."""
    # On the CPU, whose random numbers are the same everywhere.
    generator = torch.Generator("cpu").manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64, device="cpu")
    for _ in range(steps):
        while len(waiting) < batch_size:
            waiting = torch.cat([waiting, torch.randperm(images, generator=generator, device="cpu")])
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def _pool(batches: Iterable[tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
    """All images and all labels."""
    images = []
    labels = []
    for i, batch in enumerate(batches):
        pair = isinstance(batch, (tuple, list)) and len(batch) == 2 and batch[1] is not None
        if not pair or not isinstance(batch[0], (Tensor, tuple, list, dict)):
            raise ValueError(
                f"training batch {i} must be a pair of inputs and labels, got a {type(batch).__name__}"
            )
        x = as_inputs(batch[0])
        check_inputs(x, f"training batch {i}")
        n = examples_in(x)
        y = torch.as_tensor(batch[1], device=device_of_inputs(x))
        if any(len(t) != n for t in pytree.tree_leaves(x)):
            raise ValueError(f"training batch {i}: its inputs do not hold equally many examples")
        images.append(x)
        labels.append(y)
        if len(y) != n or y.dim() != (2 if y.is_floating_point() else 1):
            raise ValueError(
                f"training batch {i}: expected {n} integer labels, or rows of class probabilities, "
                f"got {tuple(y.shape)} of {y.dtype}"
            )
    if not sum(map(len, labels)):
        raise ValueError(
            "there is no data to learn from: batches is empty (a generator may have been used up already)"
        )
    shapes = [pytree.tree_map(lambda t: t.shape[1:], x) for x in images]
    if any(shape != shapes[0] for shape in shapes) or len({(y.shape[1:], y.dtype) for y in labels}) > 1:
        raise ValueError("training batches differ in the shape of their images or the kind of their labels")
    x = pooled(images)
    y = torch.cat(labels)
    if len(classes := _classes(y).unique()) < 2:
        raise ValueError(
            f"all {len(y)} training labels are class {classes.item()}: bits cannot be learned from one class"
        )
    return x, y


def _classes(labels: Tensor) -> Tensor:
    return labels.argmax(1) if labels.is_floating_point() else labels


def _check_output(output: Tensor, labels: Tensor) -> None:
    classes = labels.shape[1] if labels.is_floating_point() else int(labels.max()) + 1
    if output.dim() != 2 or (output.shape[1] < classes if labels.dim() == 1 else output.shape[1] != classes):
        raise ValueError(
            f"the network gives {tuple(output.shape)}, which does not fit labels of {classes} classes"
        )
    if labels.dim() == 1 and labels.min() < 0:
        raise ValueError(f"a label is {labels.min()}: classes count from 0")


def _check(
    config: QuantConfig,
    weight_target: float | None,
    activation_target: float | None,
    steps: int,
    batch_size: int,
    parametrization: str,
    checkpoint: str,
    learn_ranges: bool,
) -> None:
    if not isinstance(config, QuantConfig):
        raise ValueError(f"config must be a QuantConfig, got {type(config).__name__}")
    for kind, target in (("weight", weight_target), ("activation", activation_target)):
        if target is None:
            continue
        if isinstance(target, bool) or not isinstance(target, (int, float)) or not 0 < target < math.inf:
            raise ValueError(
                f"target_{kind}_bits must be a positive number, or None to keep that side, got {target!r}"
            )
        if getattr(config, f"{kind}_bits") is None:
            raise ValueError(f"target_{kind}_bits is given, but {kind}_bits=None leaves that side in float")
    if weight_target is None and activation_target is None:
        raise ValueError("nothing to learn: give target_weight_bits, target_activation_bits or both")
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number from 1, got {value!r}")
    for name, value, known in (
        ("parametrization", parametrization, PARAMETRIZATIONS),
        ("checkpoint", checkpoint, CHECKPOINTS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}")
    asymmetric = not config.activation_symmetric and config.activation_granularity == "per_tensor"
    if learn_ranges and (activation_target is None or config.activation_dynamic or not asymmetric):
        raise ValueError(
            "learn_ranges learns static, asymmetric, per-tensor activation ranges together with activation "
            "bits "
            "(paper, appendix A): give target_activation_bits and such a configuration"
        )
