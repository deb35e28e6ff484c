"""`quantize`: from a float network, a `QuantConfig` and calibration batches to the quantized network.

The result simulates integer inference in float32: weights hold the values of their codes, and a `Quantizer` stands behind
every tensor that `qlib.placement` says is quantized. Biases stay in float.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, fx, nn

from .affine import Grid, clamp_, fake_quantize, make_grid
from .config import MAX_BITS, Bits, QuantConfig, suggestion
from .graph import Kind, Network, evaluation_copy, is_relu, read
from .placement import Placement, place
from .ranges import collector, find_range


def quantize(model: nn.Module, config: QuantConfig, calibration: Iterable | Tensor | None = None,
             ranges: Mapping[str, tuple[float, float]] | None = None) -> nn.Module:  # fmt: skip
    """A quantized copy of ``model``, in evaluation mode; ``model`` itself is left as it is.

    ``model``: any network that `torch.fx` can trace, with convolution or linear layers. ``calibration``: an iterable (a
    generator will do) of float input batches ``(n, ...)`` or of (input, label) pairs, or one batch as a tensor; needed where
    activations have static ranges, which come from one pass over it. ``ranges``: (low, high) by tensor name, in the place of
    those that calibration finds (`LearnedBitwidths.ranges`). With both bits ``None`` the result is an unchanged copy, otherwise
    batch norm is folded first.

    Raises ``ValueError`` naming the layer, tensor or batch when the model cannot be traced or holds no weights, when the
    configuration names a layer that is not there, or when calibration is empty, does not fit the network, or is not finite.
    """
    if not isinstance(config, QuantConfig):
        raise ValueError(f"config must be a QuantConfig, got {type(config).__name__}")
    if config.weight_bits is None and config.activation_bits is None:
        return evaluation_copy(model)
    network, quantizers = with_quantizers(model, config, calibration, ranges)
    save_passes(network, quantizers)
    return network.module


def with_quantizers(
    model: nn.Module, config: QuantConfig, calibration: Iterable | Tensor | None, ranges: Mapping[str, tuple[float, float]] | None
) -> tuple[Network, dict[fx.Node, Quantizer]]:
    """A folded copy of ``model`` with quantized weights and calibrated quantizers, by node that they follow."""
    network = read(model)
    placement, quantizers = insert_quantizers(network, config)
    if config.calibration_upstream == "quantized":
        quantize_weights(network, config, placement.weight_bits)
    calibrate(network, quantizers, calibration, ranges)
    if config.calibration_upstream == "float":
        quantize_weights(network, config, placement.weight_bits)
    return network, quantizers


def insert_quantizers(network: Network, config: QuantConfig) -> tuple[Placement, dict[fx.Node, Quantizer]]:
    """Put quantizers without a grid yet into ``network``, in place, where ``config`` wants them; by node that they follow."""
    module, placement = network.module, place(network, config)
    quantizers = {node: Quantizer(config, name, bits) for node, (name, bits) in placement.quantizers.items()}
    for node, quantizer in quantizers.items():
        inserted = _insert_after(module, node, quantizer)
        for consumer in list(node.users):
            if (consumer, node) in placement.takes_quantized:
                consumer.replace_input_with(node, inserted)
    for pool, source in placement.integer_means.items():
        _average_codes(module, pool, quantizers[source])
    module.recompile()
    return placement, quantizers


def quantize_weights(network: Network, config: QuantConfig, bits: dict[str, Bits]) -> None:
    """Replace the weights of the layers in ``bits`` by the values of their codes, in place."""
    for name, layer_bits in bits.items():
        weight = network.module.get_submodule(name).weight.data
        if isinstance(layer_bits, tuple) or layer_bits <= MAX_BITS:
            weight.copy_(fake_quantize(weight, weight_grid(name, weight, config, layer_bits)))


def weight_grid(name: str, weight: Tensor, config: QuantConfig, bits: Bits) -> Grid:
    """The grid of layer ``name``'s float ``weight`` ``(out channels, ...)``; its fields broadcast against it."""
    if isinstance(bits, tuple) and len(bits) != len(weight):
        raise ValueError(f"weight_bits[{name!r}] has {len(bits)} entries, but the layer {len(weight)} channels")
    _refuse_mixed_rows(f"weight_bits[{name!r}]", bits, config.weight_range, config.weight_granularity)
    make = partial(_make_grid, bits=bits, symmetric=config.weight_symmetric, variant=config.symmetric_grid)
    rows = weight.flatten(1) if config.weight_granularity == "per_channel" else weight.reshape(1, -1)
    return make(*find_range(rows, config.weight_range, config.percentile, make)).reshape(-1, *[1] * (weight.dim() - 1))


def _make_grid(low: Tensor, high: Tensor, bits: Bits, symmetric: bool, variant: str) -> Grid:
    if isinstance(bits, tuple):
        bits = torch.tensor(bits, device=low.device) + torch.zeros_like(low)  # one for every range, also of every image
    return make_grid(low, high, bits, symmetric, variant)


def _refuse_mixed_rows(what: str, bits: Bits, method: str, granularity: str) -> None:
    if isinstance(bits, tuple) and method == "mse" and granularity == "per_tensor":
        raise ValueError(f"{what} gives every channel its own bits, so one least-squares range for the tensor is not "
                         "defined: use granularity 'per_channel', or range 'minmax' or 'percentile'")


class Quantizer(nn.Module):
    """Fake-quantizes an activation tensor ``(n, channels, ...)``; its grid is fixed by calibration, or found per image."""

    def __init__(self, config: QuantConfig, name: str, bits: Bits):
        super().__init__()
        _refuse_mixed_rows(f"activation_bits[{name!r}]", bits, config.activation_range, config.activation_granularity)
        self.name, self.bits, self.config = name, bits, config
        for part in Grid._fields:
            self.register_buffer(part, None)
        self.collector, self.share, self.dims = None, (1, 1), 4
        self.range: tuple[Tensor, Tensor] | None = None
        self.rectifies = self.in_place = False  # whether it does a ReLU's work, and may overwrite its input
        self._constants: tuple[float | Tensor, ...] | None = None

    def extra_repr(self) -> str:
        return f"{self.name}, bits={self.bits}, {'dynamic' if self.config.activation_dynamic else 'static'}"

    @property
    def grid(self) -> Grid:
        """The grid: fixed by calibration, or that of the batch seen last where ranges are dynamic."""
        return Grid(*(getattr(self, part) for part in Grid._fields))

    @grid.setter
    def grid(self, grid: Grid) -> None:
        for part, value in grid._asdict().items():
            setattr(self, part, value)
        self._constants = None

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # autocast's bfloat16 cannot hold the codes of 9 bits and more
        if self.collector is not None:
            return self._collect(x)
        if self.config.activation_dynamic:
            self.grid = self._grid_of_each_image(x)
            return fake_quantize(x, self.grid)
        if self.clip is not None or (torch.is_grad_enabled() and x.requires_grad):
            return fake_quantize(x.relu() if self.rectifies else x, self.grid)
        inverse, low, high, scale = self._constants or self._prepare()
        x = (x.mul_(inverse) if self.in_place else x * inverse).round_()  # the same arithmetic, in place
        return (clamp_(x, low, high) if isinstance(low, Tensor) else x.clamp_(low, high)).mul_(scale)

    def _prepare(self) -> tuple[float | Tensor, ...]:
        low, high = self.code_min - self.zero_point, self.code_max - self.zero_point
        constants = (1 / self.scale, low.clamp(min=0) if self.rectifies else low, high, self.scale)
        if all(c.numel() == 1 for c in constants):  # kept as numbers; tensors would not follow a move to another device
            self._constants = constants = tuple(c.item() for c in constants)
        return constants

    def _make_grid(self, low: Tensor, high: Tensor) -> Grid:
        return _make_grid(low, high, self.bits, self.config.activation_symmetric, self.config.symmetric_grid)

    def _check_channels(self, x: Tensor) -> None:
        if isinstance(self.bits, tuple) and len(self.bits) != x.shape[1]:
            raise ValueError(
                f"activation_bits[{self.name!r}] has {len(self.bits)} entries, but the tensor {x.shape[1]} channels")

    @property
    def _per_channel(self) -> bool:
        return self.config.activation_granularity == "per_channel"

    def _grid_of_each_image(self, x: Tensor) -> Grid:
        self._check_channels(x)
        self.dims = x.dim()
        rows = (x.flatten(0, 1) if self._per_channel else x).detach()
        rows = rows.reshape(len(rows), -1)

        def make(low: Tensor, high: Tensor) -> Grid:  # fields (..., images, channels or 1)
            return self._make_grid(*(end.reshape(*end.shape[:-1], len(x), -1) for end in (low, high)))

        low, high = find_range(rows, self.config.activation_range, self.config.percentile, make)
        return Grid(*(f if f is None or f.dim() == 0 else f.reshape(-1 if f.dim() > 1 else 1, f.shape[-1], *[1] * (x.dim() - 2))
                      for f in make(low, high)))

    def start(self) -> None:
        """Begin to collect a static range; before every batch, ``share`` is to say how many of all images it brings."""
        self.collector = collector(self.config.activation_range, self.config.percentile, self._make_grid)

    def _collect(self, x: Tensor) -> Tensor:
        self._check_channels(x)
        rows = x.transpose(0, 1).flatten(1) if self._per_channel else x.reshape(1, -1)
        self.dims = x.dim()
        batch, images = self.share
        try:
            self.collector.update(rows, total=rows.shape[1] * images // batch)
        except ValueError as error:
            raise ValueError(f"activation_range of {self.name!r}: {error}") from error
        return x if self.config.calibration_upstream == "float" else fake_quantize(x, self._grid_so_far())

    def _grid_so_far(self) -> Grid:
        return self._make_grid(*self.collector.range()).reshape(-1, *[1] * (self.dims - 2))

    def finish(self, ends: tuple[float, float] | None = None) -> None:
        """Fix the range, as collected or as given, and with it the grid."""
        found = self.collector.range()
        if not all(torch.isfinite(end).all() for end in found):
            raise ValueError(f"the values of {self.name!r} reach NaN or infinity during calibration")
        if ends is not None:
            found = tuple(torch.as_tensor(end, dtype=found[0].dtype, device=found[0].device).reshape(-1) for end in ends)
        self.range, self.collector = tuple(end.clone() for end in found), None
        self.set_grid()

    def set_grid(self) -> None:
        """The grid of the range and the bits as they are now."""
        self.grid = self._make_grid(*self.range).reshape(-1, *[1] * (self.dims - 2))


class OnCodes(nn.Module):
    """From values on a quantizer's grid to codes, or from a mean of codes to the value of the rounded mean (integer pooling).

    Codes count from the zero-point, so that a pooling that pads with zeros pads with the code of 0.
    """

    def __init__(self, source: Quantizer, back: bool):
        super().__init__()
        object.__setattr__(self, "source", source)  # not a submodule: it is one already
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        if self.source.collector is not None and self.source.config.calibration_upstream == "float":
            return x  # calibration in float
        grid = self.source._grid_so_far() if self.source.collector is not None else self.source.grid
        if (lost := self.source.dims - x.dim()) > 0:  # dimensions that the pooling took away
            grid = Grid(*(f if f is None or f.dim() <= lost else f[(..., *[0] * lost)] for f in grid))
        if self.back:
            return (_round(x + grid.zero_point) - grid.zero_point) * grid.scale
        return _round(x * (1 / grid.scale))


def _round(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()  # exact in float32; the gradient passes straight through


def _insert_after(module: fx.GraphModule, node: fx.Node, layer: nn.Module, source: fx.Node | None = None) -> fx.Node:
    name = f"{type(layer).__name__.lower()}_{node.name}"
    module.add_submodule(name, layer)
    with module.graph.inserting_after(node):
        return module.graph.call_module(name, (source or node,))


def _average_codes(module: fx.GraphModule, pool: fx.Node, source: Quantizer) -> None:
    """Let ``pool`` average integer codes and round, on the grid of ``source``."""
    producer = pool.all_input_nodes[0]
    consumers = list(pool.users)
    codes = _insert_after(module, producer, OnCodes(source, back=False))
    pool.replace_input_with(producer, codes)
    values = _insert_after(module, pool, OnCodes(source, back=True))
    for consumer in consumers:
        consumer.replace_input_with(pool, values)


def calibrate(network: Network, quantizers: Mapping[fx.Node, Quantizer], calibration: Iterable | Tensor | None,
              ranges: Mapping[str, tuple[float, float]] | None = None) -> None:  # fmt: skip
    """Fix the grids of quantizers with static ranges by one pass over ``calibration``, or as ``ranges`` say."""
    waiting = [q for q in quantizers.values() if not q.config.activation_dynamic]
    if ranges:
        names = [q.name for q in waiting]
        for name in ranges:
            if name not in names:
                raise ValueError(f"ranges: no tensor {name!r} has a static range here{suggestion(name, names)}")
    if not waiting:
        return
    batches = inputs_of(calibration)
    if not batches:
        raise ValueError("calibration is empty, but static activation ranges need data: pass at least one batch, or set "
                         "activation_dynamic=True or activation_bits=None")
    for quantizer in waiting:
        quantizer.start()
    device, images = device_of(network.module), sum(len(b) for b in batches)
    with torch.inference_mode():
        for i, batch in enumerate(batches):
            for quantizer in waiting:
                quantizer.share = (len(batch), images)
            run(network.module, batch.to(device, non_blocking=True), f"calibration batch {i}")
    with torch.no_grad():
        for quantizer in waiting:
            quantizer.finish((ranges or {}).get(quantizer.name))


def inputs_of(calibration: Iterable | Tensor | None) -> list[Tensor]:
    """The input tensors of batches that may be tensors or (input, label) pairs; one tensor counts as one batch."""
    if calibration is None:
        return []
    batches = [calibration] if isinstance(calibration, Tensor) else list(calibration)
    inputs = [b[0] if isinstance(b, (tuple, list)) and b else b for b in batches]
    for i, batch in enumerate(inputs):
        if not isinstance(batch, Tensor) or batch.dim() < 2:
            what = f"tensor of shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
            raise ValueError(f"calibration batch {i} must be a tensor (n, ...) or an (input, label) pair, got a {what}")
    return [b for b in inputs if len(b)]


def device_of(model: nn.Module) -> torch.device:
    """Where a network's parameters are, and so where its inputs must be; the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def run(model: nn.Module, batch: Tensor, what: str) -> Tensor:
    """``model(batch)``, with an error that names the batch (``what``) and the layer where it does not fit."""
    if batch.is_floating_point() and not torch.isfinite(batch).all():
        raise ValueError(f"{what} holds NaN or infinity")
    trail: list[str] = []
    try:
        return model(batch)
    except (RuntimeError, TypeError) as error:
        hooks = [m.register_forward_pre_hook(lambda _, __, name=n: trail.append(name)) for n, m in model.named_modules() if n]
        try:
            model(batch)
        except (RuntimeError, TypeError):
            pass
        finally:
            for hook in hooks:
                hook.remove()
        where = f" at layer {trail[-1]!r}" if trail else ""
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise ValueError(
            f"{what} of shape {tuple(batch.shape)} and type {batch.dtype} does not fit the network{where}: {reason}") from error


def save_passes(network: Network, quantizers: dict[fx.Node, Quantizer]) -> None:
    """Let quantizers overwrite inputs that nobody else reads, and do the work of a ReLU right before them by their clamp."""
    module, graph = network.module, network.module.graph
    fresh = {o.result for o in network.operations.values() if o.kind not in (Kind.INPUT, Kind.KEEPS_GRID, Kind.OTHER)}
    for node, quantizer in quantizers.items():
        if node not in fresh or len(node.users) > 1:
            continue
        quantizer.in_place = True
        before = node.all_input_nodes[0]
        static = not quantizer.config.activation_dynamic and quantizer.clip is None
        if is_relu(node, module) and len(before.users) == 1 and before in network.operations and static:
            quantizer.rectifies = True
            node.replace_all_uses_with(before)
            graph.erase_node(node)
    for quantizer in quantizers.values():
        if not quantizer.config.activation_dynamic:
            quantizer._prepare()  # now rather than in the first pass, so that the network can be compiled at once
    module.delete_all_unused_submodules()
    module.recompile()
