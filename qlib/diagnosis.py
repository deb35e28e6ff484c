"""Which layer hurts, and why: the noise that each quantizer makes by itself, what arrives where it stands,
and what leaving it in float gives back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from .advice import advice
from .comparison import compare
from .config import QuantConfig
from .evaluation import examples, measured
from .methods import Work, find_methods
from .methods.bias import Bias
from .metrics import Metric, find_metric
from .network import Network
from .network.inputs import examples_in, inputs_of, split
from .network.operations import rows_of
from .network.steps import Steps
from .noise import Noise, Values
from .progress import tracked
from .quantization import prepare, read_verified
from .quantizer import Quantizer

if TYPE_CHECKING:
    import pandas as pd

TOGETHER = 4  # examples of which all tensors are held at once


@dataclass
class Row:
    """A quantizer: ``side`` and ``name`` as in a configuration, and the module that has or is it."""

    name: str
    side: str
    position: int
    bits: float
    module: nn.Module
    noise: Noise
    values: Values = field(default_factory=Values)

    def to_dict(self) -> dict[str, Any]:
        noise = self.noise
        about = {name: getattr(self, name) for name in ("name", "side", "position", "bits")}
        levels = {"sqnr": noise.decibels(noise.own), "arriving": noise.decibels(noise.arriving)}
        return {**about, **levels, "shift": noise.shift(), **self.values.to_dict()}


def diagnose(
    model: nn.Module | Network,
    config: QuantConfig,
    calibration: Iterable | Tensor,
    batches: Iterable[tuple[Any, Any]] | None = None,
    method: Any = "nearest",
    metric: str | Metric = "top1",
    most: int = 20,
    progress: bool = True,
) -> pd.DataFrame:
    """Which quantizer hurts: a row for the weights of every layer and for every activation that is quantized,
    the noisiest first.

    Parameters
    ----------
    model, config, calibration, method
        As for `qlib.quantize`. Noise is measured on the calibration examples.
    batches : iterable of pairs, optional
        (inputs, targets): on these it is measured what is given back when one quantizer is left out, and all
        others are as they are.
    metric
        As for `qlib.evaluate`, where there are ``batches``.
    most : int
        For how many of the noisiest rows that is measured.
    progress : bool
        Whether it is said how far it is.

    Returns
    -------
    DataFrame
        ``name`` (as `qlib.footprint` lists it), ``side`` (``"weight"`` or ``"activation"``), ``position`` in
        the order of execution, ``bits``; and

        - ``sqnr``: its own signal-to-quantization-noise ratio on float inputs, in decibels, the mean over
          channels: of the layer's output for its weights, of the tensor for an activation;
        - ``shift``: percent of its own noise that is a constant of each channel;
        - ``arriving``: that ratio in the quantized network, with the noise of all that comes before it;
        - ``clipped``: percent of values outside the range; ``codes``: how many occur;
        - ``low``, ``high``: of the values; ``peak``: the largest magnitude over the root mean square;
          ``spread``: that of the widest channel over the median channel's; ``elements``: how many values;
        - with ``batches``, ``back``, ``back_low``, ``back_high``: by how much the metric is better with this
          one in float, paired, with its 95 % interval over examples (NaN beyond ``most``).

        ``.attrs["advice"]`` says what is plain in words (`qlib.advice`); with ``batches``,
        ``.attrs["quantized"]`` and ``.attrs["float"]`` are the measurements of both networks.

    Raises
    ------
    ValueError
        As of `qlib.quantize` and `qlib.evaluate`; or nothing is quantized.
    """
    import pandas as pd

    if config.in_float:
        raise ValueError("weight_bits and activation_bits are both None: nothing is quantized")
    inputs = inputs_of(calibration)
    if not inputs:
        raise ValueError("there is no calibration data: noise is measured on it")
    if most < 0:
        raise ValueError(f"most must be 0 or more, got {most}")
    network = read_verified(model, config, inputs)
    unchanged = network.copy()
    work = prepare(network, config, [(x, None) for x in inputs], find_methods(method))
    floats = work.floats or unchanged  # a method may have changed weights before any was rounded
    rows = _rows(floats, work)
    parts = [part for x in inputs for part in split(x, TOGETHER)]
    with torch.no_grad():
        heard = (_listen(floats, work, rows, part) for part in parts)
        for _ in tracked(heard, "noise", len(parts), "part", progress):
            pass
    found = pd.DataFrame([row.to_dict() for row in rows.values()])
    found = found.sort_values("sqnr", kind="stable", ignore_index=True)
    if batches is not None:
        by_place = {(row.side, row.name): row for row in rows.values()}
        worst = [by_place[place] for place in zip(found.side[:most], found.name[:most], strict=True)]
        found = _with_what_comes_back(found, floats, work, worst, batches, find_metric(metric), progress)
    found.attrs["advice"] = advice(found, config, any(isinstance(one, Bias) for one in find_methods(method)))
    return found


def _rows(floats: Network, work: Work) -> dict[nn.Module, Row]:
    """By module of the network that is quantized: a layer with codes, or a quantizer with a range."""
    of_quantizer = {node.name: quantizer for node, quantizer in work.quantizers.items()}
    found: dict[nn.Module, Row] = {}
    for position, node in enumerate(floats.module.graph.nodes):
        axis = floats.channels.get(node)
        layer = _layer(node, work)
        if layer is not None and layer not in found:
            bits = work.placement.weight_bits[node.target]
            row = found[layer] = Row(node.target, "weight", position, _mean(bits), layer, Noise(axis))
            weight = floats.module.get_submodule(node.target)
            rows = rows_of(weight.weight.data, weight)
            row.values.add(rows, rows.flatten(1), work.grids[node.target])
        if (quantizer := of_quantizer.get(node.name)) is not None:
            bits = _mean(quantizer.bits)
            row = Row(quantizer.name, "activation", position, bits, quantizer, Noise(axis))
            found[quantizer] = row
    return found


def _mean(bits: int | tuple[int, ...]) -> float:
    return float(sum(bits) / len(bits)) if isinstance(bits, tuple) else bits


def _listen(floats: Network, work: Work, rows: dict[nn.Module, Row], part: Any) -> None:
    """Add what some examples tell, operation by operation: the float network first, then the quantized."""
    of_node = {node.name: quantizer for node, quantizer in work.quantizers.items()}
    clean: dict[nn.Module, list[Tensor]] = {module: [] for module in rows}
    run = Steps(floats.module, part)
    for node in floats.module.graph.nodes:
        value = run.step(node)
        if (layer := _layer(node, work)) is not None:
            arguments, named = run.fetch_args_kwargs_from_env(node)
            clean[layer].append(value)
            rows[layer].noise.hear(value, layer(*arguments, **named))
        quantizer = of_node.get(node.name)
        if quantizer is not None and value.is_floating_point() and value.numel():
            clean[quantizer].append(value)
            rows[quantizer].noise.hear(value, quantizer(value, examples_in(part)))
            grid = quantizer.grid_of_each_example(value) if _dynamic(quantizer) else quantizer.grid
            rows[quantizer].values.add(value, rows[quantizer].noise.rows(value), grid)
        run.forget(node)
    run = Steps(work.network.module, part)
    for node in work.network.module.graph.nodes:
        value = run.step(node)
        module = _layer(node, work) or _quantizer(node, work)
        if module is not None and clean[module]:
            rows[module].noise.arrive(clean[module].pop(0), value)
        run.forget(node)


def _dynamic(quantizer: Quantizer) -> bool:
    return quantizer.config.activation_dynamic


def _layer(node: fx.Node, work: Work) -> nn.Module | None:
    """The layer with codes, in the network that is quantized, that a node of either network calls."""
    if node.op != "call_module" or node.target not in work.grids:
        return None
    return work.network.module.get_submodule(node.target)


def _quantizer(node: fx.Node, work: Work) -> nn.Module | None:
    module = work.network.module.get_submodule(node.target) if node.op == "call_module" else None
    return module if isinstance(module, Quantizer) else None


def _with_what_comes_back(
    found: pd.DataFrame,
    floats: Network,
    work: Work,
    worst: list[Row],
    batches: Iterable[tuple[Any, Any]],
    metric: Metric,
    progress: bool,
) -> pd.DataFrame:
    batches = list(batches)

    def reached(module: nn.Module) -> Any:
        return measured(metric, examples(module, batches, metric, reference=floats.module))

    def gain(row: Row) -> list[float]:
        with _in_float(row, floats):
            difference = compare(reached(work.network.module), quantized)
        ends = [difference.value, *difference.interval]
        return ends if metric.greater_is_better else [-ends[0], -ends[2], -ends[1]]

    quantized = reached(work.network.module)
    gains = list(tracked(map(gain, worst), "left in float", len(worst), "row", progress))
    gains += [[float("nan")] * 3] * (len(found) - len(worst))
    found[["back", "back_low", "back_high"]] = gains
    found.attrs["quantized"] = quantized
    if metric.against != "reference":
        found.attrs["float"] = reached(floats.module)
    return found


@contextmanager
def _in_float(row: Row, floats: Network) -> Iterator[None]:
    """While one quantizer is left out."""
    if row.side == "activation":
        left_out = row.module.register_forward_hook(lambda module, given, result: given[0])
        try:
            yield
        finally:
            left_out.remove()
        return
    layer, clean = row.module, floats.module.get_submodule(row.name)
    weight, bias = layer.weight.data, layer.bias
    # Its bias, too, which a method may have changed for the sake of the rounded weight
    layer.weight.data, layer.bias = clean.weight.data, clean.bias
    try:
        yield
    finally:
        layer.weight.data, layer.bias = weight, bias
