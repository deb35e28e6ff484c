"""`export_onnx`: a network quantized and written as ONNX."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from ..affine import Grid, quantize
from ..choices import Choice, choices
from ..config import MAX_BITS, QuantConfig
from ..files import whole
from ..methods import Work, find_methods
from ..names import suggestion
from ..network import Network
from ..network.inputs import as_inputs, check_inputs, inputs_of, one_line
from ..network.operations import TRANSPOSED, rows_of, weight_of_rows
from ..placement import Placement, place
from ..quantization import prepare, read_verified
from .changes import Change
from .fusing import let_fuse, unsigned
from .naming import Names, name_graph
from .pairs import write_pairs
from .traced import write_graph
from .unfused import unfused
from .writer import Codes, Writer

EXPORTED_BITS = (4, 8)  # what ONNX has integers for, and its runtimes kernels
OPSET = 17
OPSET_OF_4_BITS = 21
TARGETS = ("exact", "onnxruntime")


def export_onnx(
    model: nn.Module,
    config: QuantConfig,
    calibration: Iterable | Tensor | None,
    example_input: Any,
    path: str | Path,
    method: Any = "nearest",
    ranges: Mapping[str, tuple[float, float]] | None = None,
    target: str = "exact",
) -> list[Change]:
    """Quantize ``model`` as `qlib.quantize` does and write it as ONNX: weights as integer codes, and a pair
    of QuantizeLinear and DequantizeLinear where `qlib` has a quantizer.

    Nodes and constants bear the names of the network's layers, such as ``layer1.0.conv1`` and
    ``layer1.0.conv1.weight_codes``; a pair that of the tensor it quantizes. Needs the extra ``onnx``.

    Parameters
    ----------
    model, config, calibration, method, ranges
        As for `qlib.quantize`.
    example_input : Tensor, tuple or dict
        Inputs as the network takes them, ``(n, ...)``; their first dimension may vary later. Several inputs
        have the network's names in the file, one is called ``input``; one output is called ``output``,
        several bear the keys of the dictionary or the places in the tuple that the network gives, as
        ``output_0``.
    path : str or Path
        Where the file is written.
    target : {"exact", "onnxruntime"}
        ``exact`` computes what `qlib` does, but for the order of float32's additions, where the graph is run
        as it stands. ONNX Runtime does so without graph optimizations alone: by default it fuses what it can
        of this form too, and rounds biases, and weights in float between codes, by itself, which may move a
        value by a whole code. ``onnxruntime`` lets it fuse pairs into its integer kernels: biases are rounded
        to 32-bit integers, and nothing keeps symmetric activations from the lowest code of their type, which
        a restricted grid does not have. Layers that it does not fuse, or runs on slower kernels, are named in
        warnings, a line for every reason. On x86 processors without VNNI sums of products of unsigned and
        signed codes may saturate in its kernels (``reduce_range`` in its documentation).

    Returns
    -------
    list of Change
        What the file computes otherwise than the quantized network, tensor by tensor; empty for ``exact``.

    Raises
    ------
    ValueError
        Nothing is quantized, ``example_input`` does not fit, or torch cannot write an operation.
        Naming the layer for what such pairs cannot say: bits other than 4 and 8, ranges per image, ranges per
        channel of activations, bits per channel, the ``authors`` grid, means of codes, and ranges per channel
        of a transposed convolution in groups of several channels; for ONNX Runtime also 4-bit values that are
        max-pooled or clipped.
    """
    try:
        import onnx
    except ImportError:
        raise ValueError(
            'writing ONNX needs the package onnx: pip install "quantization-tradeoffs[onnx]"'
        ) from None
    if target not in TARGETS:
        raise ValueError(f"there is no target {target!r}{suggestion(target, TARGETS)}")
    if config.in_float:
        raise ValueError("weight_bits and activation_bits are both None: nothing is quantized")
    _refuse_choices(config)
    example_input = as_inputs(example_input)
    check_inputs(example_input, "example_input")
    batches = [(inputs, None) for inputs in inputs_of(calibration)]
    floats = read_verified(model, config, inputs_of(batches) or [example_input])
    placement = place(floats, config)
    _refuse_layers(floats, placement, config)
    work = prepare(floats, config, batches, find_methods(method), ranges)
    names = _names(work)
    codes = _codes(work, names)
    if not codes:
        raise ValueError("every layer and tensor is left in float: nothing is quantized")
    if target == "onnxruntime":
        codes = {name: unsigned(each) for name, each in codes.items()}
    opset = OPSET_OF_4_BITS if any(c.bits == 4 for c in codes.values()) else OPSET
    with whole(path) as temporary:
        write_graph(work, names, example_input, temporary, opset)
        written = onnx.load(str(temporary))
        _set_opset(written, opset)
        writer = Writer(written.graph, name_graph(written.graph))
        changes = write_pairs(writer, codes, clip=target == "exact")
        if target == "onnxruntime":
            changes += let_fuse(writer)
        writer.finish()
        _check(written)
        onnx.save(written, str(temporary))
    for line in unfused(writer) if target == "onnxruntime" else ():
        warnings.warn(line, stacklevel=2)
    return changes


def export_float(model: nn.Module, example_input: Any, path: str | Path) -> None:
    """Write ``model`` as ONNX in float, operation by operation as `export_onnx` writes it quantized.

    Parameters
    ----------
    model, example_input, path
        As for `export_onnx`.

    Raises
    ------
    ValueError
        ``example_input`` does not fit, or torch cannot write an operation.
    """
    import onnx

    config = QuantConfig(None, None)
    work = prepare(model, config, [(example_input, None)], find_methods("nearest"))
    with whole(path) as temporary:
        write_graph(work, {}, example_input, temporary, OPSET)
        written = onnx.load(str(temporary))
        _set_opset(written, OPSET)
        _check(written)
        onnx.save(written, str(temporary))


def _refuse_choices(config: QuantConfig) -> None:
    values = config.in_words()
    for field, known in choices(config).items():
        value = getattr(config, field)
        if value in known.unwritten and known.acting(values):
            raise ValueError(
                f"{field}={value!r} cannot be written as pairs of QuantizeLinear and DequantizeLinear: use "
                f"{_written(known, field)}"
            )


def _written(known: Choice, field: str) -> str:
    """The values of a choice that can be written, in words."""
    values = [value for value in known.values or (False, True) if value not in known.unwritten]
    return f"{field}={' or '.join(map(repr, values))}"


def _refuse_layers(network: Network, placement: Placement, config: QuantConfig) -> None:
    for name, bits in [*placement.weight_bits.items(), *placement.quantizers.values()]:
        if bits not in EXPORTED_BITS and not (isinstance(bits, int) and bits > MAX_BITS):
            raise ValueError(f"{name!r} has {bits} bits; ONNX can say {' or '.join(map(str, EXPORTED_BITS))}")
    for name in placement.weight_bits:
        layer = network.module.get_submodule(name)
        if name in network.tables:
            raise ValueError(
                f"{name!r} is a lookup table with {placement.weight_bits[name]} bits, which export does not "
                f"write as codes: leave it in float by embedding_bits=None, or by float_layers=({name!r},)"
            )
        if config.weight_granularity == "per_channel" and _channels_are_no_axis(layer):
            raise ValueError(
                f"{name!r} is a transposed convolution in {layer.groups} groups of several output channels: "
                "a range for each is along no axis of its weight, as ONNX wants it; use "
                f"weight_granularity='per_tensor' or float_layers=({name!r},)"
            )


def _channels_are_no_axis(layer: nn.Module) -> bool:
    return isinstance(layer, TRANSPOSED) and layer.groups > 1 and layer.out_channels > layer.groups


def _names(work: Work) -> dict[fx.Node, str]:
    """By node that a quantizer follows, the name of what it quantizes, each once. What is no floats, and so
    has no range, passes and has none.
    """
    names = Names(f"{layer}.weight" for layer in work.grids)
    return {node: names.free(q.name) for node, q in work.quantizers.items() if q.scale is not None}


def _codes(work: Work, names: Mapping[fx.Node, str]) -> dict[str, Codes]:
    """How every weight and every quantized activation is written, by name."""
    config = work.config
    found = {}
    for name, grid in work.grids.items():
        if name not in work.network.tied:
            layer = work.network.module.get_submodule(name)
            found[f"{name}.weight"] = _weight(
                layer, grid, work.placement.weight_bits[name], config.weight_symmetric
            )
    for node, name in names.items():
        quantizer = work.quantizers[node]
        scale, zero_point, lowest = _parts(quantizer.grid)
        found[name] = Codes(scale, zero_point, quantizer.bits, config.activation_symmetric, lowest)
    return found


def _weight(layer: nn.Module, grid: Grid, bits: int, signed: bool) -> Codes:
    values = weight_of_rows(quantize(rows_of(layer.weight.data, layer), grid), layer).cpu().numpy()
    scale, zero_point = _parts(grid)[:2]
    axis = 0
    if isinstance(layer, TRANSPOSED) and scale.ndim:
        if layer.groups == 1:
            axis = 1
        else:  # one output channel a group, whose inputs are the axis
            inputs = layer.in_channels // layer.groups
            scale, zero_point = scale.repeat(inputs), zero_point.repeat(inputs)
    return Codes(scale, zero_point, bits, signed, _parts(grid)[2], axis, values)


def _parts(grid: Grid) -> tuple[np.ndarray, np.ndarray, int]:
    """Scale and zero-point, of no axis or one value a channel, and the lowest code."""
    channels = max(grid.scale.numel(), grid.zero_point.numel())
    shape = [] if channels == 1 else [channels]
    scale, zero_point = (part.expand(channels) if part.numel() == 1 else part for part in grid[:2])
    return (
        scale.reshape(shape).cpu().numpy(),
        zero_point.reshape(shape).cpu().numpy(),
        int(grid.code_min.min()),
    )


def _check(model: Any) -> None:
    import onnx

    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"this network cannot be written as ONNX: {one_line(error)}") from None


def _set_opset(model: Any, opset: int) -> None:
    """Say for which version of ONNX's operators a graph is. Between what torch writes and 21 operators got
    more types, and only GroupNormalization another meaning; see the tests.
    """
    from onnx import helper

    if opset == OPSET_OF_4_BITS and any(node.op_type == "GroupNormalization" for node in model.graph.node):
        raise ValueError("GroupNormalization cannot be written beside 4-bit integers yet: use 8 bits")
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = max(model.ir_version, 10 if opset >= OPSET_OF_4_BITS else 8)
