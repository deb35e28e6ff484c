"""Taking a quantized network away: as ONNX with QuantizeLinear and DequantizeLinear, or as safetensors and
its configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .affine import Grid
from .choices import choices
from .config import MAX_BITS, QuantConfig
from .files import whole, write_whole
from .methods import find_methods
from .network import Network, evaluation_copy, read
from .network.inputs import inputs_of
from .network.operations import TRANSPOSED
from .placement import place
from .quantization import insert_quantizers, prepare, read_verified, save_passes
from .quantizer import Quantizer

EXPORTED_BITS = (4, 8)  # what ONNX has integers for, and its runtimes kernels
OPSET = 17
OPSET_OF_4_BITS = 21


def save_quantized(quantized: nn.Module, config: QuantConfig, folder: str | Path) -> None:
    """Write a quantized network to a folder: ``weights.safetensors`` and ``config.yaml``.

    Parameters
    ----------
    quantized : nn.Module
        What `qlib.quantize` made.
    config : QuantConfig
        What it was made under.
    folder : str or Path
        Is made if it is not there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Tied weights are written for each of their layers: copies, since a file may not hold one tensor twice.
    state = {name: tensor.contiguous().cpu().clone() for name, tensor in quantized.state_dict().items()}
    with whole(folder / "weights.safetensors") as temporary:
        save_file(state, temporary)
    write_whole(folder / "config.yaml", config.to_yaml())


def load_quantized(
    model: nn.Module, folder: str | Path, config_class: type[QuantConfig] = QuantConfig
) -> nn.Module:
    """The quantized network in a folder that `save_quantized` wrote, without calibration.

    Parameters
    ----------
    model
        The float network's architecture; its weights do not matter.
    config_class
        Of its configuration, where that has choices beside those of `QuantConfig`.

    Raises
    ------
    ValueError
        Files and architecture do not belong together.
    OSError
        The files are not there.
    """
    folder = Path(folder)
    config = config_class.from_yaml((folder / "config.yaml").read_text("utf8"))
    if not (folder / "weights.safetensors").is_file():
        raise FileNotFoundError(f"{folder / 'weights.safetensors'} is not there")
    try:
        state = load_file(folder / "weights.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{folder / 'weights.safetensors'} is damaged: {error}") from None
    network = None
    quantizers = {}
    if config.in_float:
        module = evaluation_copy(model)
    else:
        network = read(model, None, config.float_layers)
        module = network.module
        quantizers = insert_quantizers(network, config, place(network, config))
        _make_room_for_biases(network, state)
        names = {id(m): name for name, m in module.named_modules()}
        for node, quantizer in quantizers.items():
            if node.op == "placeholder":  # without a range where inputs are no floats
                continue
            if f"{names[id(quantizer)]}.scale" not in state and not config.activation_dynamic:
                raise ValueError(f"{folder} holds no range for {quantizer.name!r}: it is of another network")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{folder} is of another network: {' '.join(str(error).split())[:300]}") from None
    if network is not None:
        save_passes(network, quantizers)
    return module


def _make_room_for_biases(network: Network, state: Mapping[str, Tensor]) -> None:
    """Layers that have a bias in ``state`` get one of their own: a method may give them one where they had
    none, or shared it.
    """
    for name in network.layers:
        if (bias := state.get(f"{name}.bias")) is not None:
            layer = network.module.get_submodule(name)
            empty = torch.empty_like(bias, device=layer.weight.device)
            layer.bias = nn.Parameter(empty, requires_grad=False)


def export_onnx(
    model: nn.Module,
    config: QuantConfig,
    calibration: Iterable | Tensor | None,
    example_input: Tensor,
    path: str | Path,
    method: Any = "nearest",
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Quantize ``model`` as `qlib.quantize` does and write it as ONNX: weights as integer codes, and a pair
    of QuantizeLinear and DequantizeLinear where `qlib` has a quantizer.

    Needs the extra ``onnx``.

    Parameters
    ----------
    model, config, calibration, method, ranges
        As for `qlib.quantize`.
    example_input : Tensor
        A batch ``(n, ...)``; its first dimension may vary later.
    path : str or Path
        Where the file is written.

    Raises
    ------
    ValueError
        Naming the layer for what such pairs cannot say: bits other than 4 and 8, ranges per image, ranges per
        channel of activations, bits per channel, the ``authors`` grid, and means of codes.
    """
    try:
        import onnx
    except ImportError:
        raise ValueError(
            'writing ONNX needs the package onnx: pip install "quantization-tradeoffs[onnx]"'
        ) from None
    values = config.in_words()
    for field, known in choices(config).items():
        value = getattr(config, field)
        if value in known.unwritten and known.acting(values):
            raise ValueError(
                f"{field}={value!r} cannot be written as pairs of QuantizeLinear and DequantizeLinear"
            )
    batches = [(inputs, None) for inputs in inputs_of(calibration)]
    floats = read_verified(model, config, inputs_of(batches) or [example_input])
    placement = place(floats, config)
    for name, bits in [*placement.weight_bits.items(), *placement.quantizers.values()]:
        if bits not in EXPORTED_BITS and not (isinstance(bits, int) and bits > MAX_BITS):
            raise ValueError(f"{name!r} has {bits} bits; ONNX can say {' or '.join(map(str, EXPORTED_BITS))}")
    layers = {name: floats.module.get_submodule(name) for name in placement.weight_bits}
    for name, layer in layers.items():
        if isinstance(layer, TRANSPOSED):
            raise ValueError(
                f"{name!r} is a transposed convolution, whose ranges per output channel are not written yet: "
                f"use float_layers=({name!r},)"
            )
    work = prepare(floats, config, batches, find_methods(method), ranges)
    network = work.network
    for name, grid in work.grids.items():
        parametrize.register_parametrization(
            network.module.get_submodule(name),
            "weight",
            _Written(grid, placement.weight_bits[name], config.weight_symmetric),
            unsafe=True,
        )
    for name, layer in list(network.module.named_modules()):
        if isinstance(layer, Quantizer):
            network.module.set_submodule(name, _Written(layer.grid, layer.bits, config.activation_symmetric))
    with whole(path) as temporary:
        with torch.no_grad():
            torch.onnx.export(
                network.module,
                (example_input,),
                str(temporary),
                dynamo=False,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
                custom_opsets={"qlib": 1},
                dynamic_axes={"input": {0: "n"}, "output": {0: "n"}},
            )
        written = _with_pairs(onnx.load(str(temporary)))
        onnx.checker.check_model(written)
        onnx.save(written, str(temporary))


class _Written(nn.Module):
    """Stands for a quantizer while the graph is written."""

    def __init__(self, grid: Grid, bits: int, signed: bool):
        super().__init__()
        self.grid = grid
        self.bits = bits
        self.signed = signed

    def forward(self, x: Tensor) -> Tensor:
        return _Placeholder.apply(x, self.grid, self.bits, self.signed)


class _Placeholder(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, grid: Grid, bits: int, signed: bool) -> Tensor:
        return x.clone()

    @staticmethod
    def symbolic(g: Any, x: Any, grid: Grid, bits: int, signed: bool) -> Any:
        channels = max(grid.scale.numel(), grid.zero_point.numel())
        scale, zero_point = (
            part.expand(channels) if part.numel() == 1 else part.flatten() for part in grid[:2]
        )
        return g.op(
            "qlib::Codes",
            x,
            scale_f=scale.tolist(),
            zero_point_i=zero_point.int().tolist(),
            bits_i=bits,
            signed_i=int(signed),
            lowest_i=int(grid.code_min.min()),
        ).setType(x.type())


def _with_pairs(model: Any) -> Any:
    """Every placeholder as a pair of QuantizeLinear and DequantizeLinear; a weight as its codes and a
    DequantizeLinear.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    def add(name: str, kind: int, shape: list[int], values: Any) -> str:
        array = np.asarray(values, helper.tensor_dtype_to_np_dtype(kind)).reshape(shape)
        graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    graph = model.graph
    nodes = []
    opset = OPSET
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for number, node in enumerate(graph.node):
        if node.op_type != "Codes":
            nodes.append(node)
            continue
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        bits = given["bits"]
        signed = given["signed"]
        one = len(given["scale"]) == 1
        kind = getattr(onnx.TensorProto, f"{'' if signed else 'U'}INT{bits}")
        opset = max(opset, OPSET_OF_4_BITS if bits == 4 else OPSET)
        name = node.output[0]
        shape = [] if one else [len(given["scale"])]
        source = node.input[0]
        grid = [
            add(f"{name}_scale", onnx.TensorProto.FLOAT, shape, given["scale"]),
            add(f"{name}_zero_point", kind, shape, given["zero_point"]),
        ]
        axis = {} if one else {"axis": 0}
        codes = f"{name}_codes"
        if source in weights:
            values = numpy_helper.to_array(weights[source])
            column = (-1, *[1] * (values.ndim - 1))
            steps = np.rint(values / np.float32(given["scale"]).reshape(column))
            add(codes, kind, values.shape, steps + np.reshape(given["zero_point"], column))
        else:
            lowest = -(2 ** (bits - 1)) if signed else 0
            if given["lowest"] > lowest:  # the restricted grid has one code less than its type
                low = add(f"{name}_low", onnx.TensorProto.FLOAT, [], given["lowest"] * given["scale"][0])
                nodes.append(
                    helper.make_node("Max", [source, low], [f"{name}_clipped"], name=f"limit_{number}")
                )
                source = f"{name}_clipped"
            nodes.append(
                helper.make_node(
                    "QuantizeLinear", [source, *grid], [codes], name=f"quantize_{number}", **axis
                )
            )
        nodes.append(
            helper.make_node("DequantizeLinear", [codes, *grid], [name], name=f"dequantize_{number}", **axis)
        )
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = max(model.ir_version, 10 if opset >= OPSET_OF_4_BITS else 8)
    return model
