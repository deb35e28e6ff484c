"""Quantized networks in a folder: ``weights.safetensors``, in which weights are codes packed at their bits,
and ``config.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import QuantConfig
from ..files import whole, write_whole
from ..network import Network, evaluation_copy, read
from ..network.inputs import one_line
from ..network.operations import WEIGHT_LAYERS, rows_of, same_tensor, weight_of_rows
from ..network.rotation import Rotation
from ..placement import place
from ..quantization import MADE_UNDER, insert_quantizers, save_passes
from ..quantizer import Quantizer
from .packed import GROUP, PARTS, pack, unpack

VERSION = "2"  # of the files; 1 had no version, and floats alone
WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
PACKED = ".packed."  # between the name of a weight and what it is packed as
SAME = ".same"  # behind the name of a weight that is another's, whose name the metadata say


def save_quantized(quantized: nn.Module, config: QuantConfig, folder: str | Path) -> None:
    """Write a quantized network to a folder: ``weights.safetensors`` and ``config.yaml``.

    A weight takes its bits: it is written as codes with their grid (`qlib.export.packed`), where that gives
    back the same floats; those of the ``authors`` grid, and weights that were changed afterwards, are written
    as floats.

    Parameters
    ----------
    quantized : nn.Module
        What `qlib.quantize` made.
    config : QuantConfig
        What it was made under.
    folder : str or Path
        Is made if it is not there.

    Raises
    ------
    ValueError
        ``config`` is not what it was made under, or it is not quantized at all.
    """
    _check(quantized, config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state, same = _written(quantized, config.group_size if config.weight_granularity == "per_group" else None)
    text = config.to_yaml()
    kind = type(config).__qualname__
    metadata = {"format": "qlib", "version": VERSION, "config_class": kind, "config": text, **same}
    with whole(folder / WEIGHTS) as temporary:
        save_file(state, temporary, metadata)
    write_whole(folder / CONFIG, text)


def _check(quantized: nn.Module, config: QuantConfig) -> None:
    """Raises ``ValueError`` where a network was not made under ``config``, or cannot be loaded again."""
    if turning := [name for name, module in quantized.named_modules() if isinstance(module, Rotation)]:
        raise ValueError(
            f"this network turns features before its layers (the method 'hadamard', at {turning[0]!r}): it "
            "is not written, since no architecture to load it into has that"
        )
    held = [module.config for module in quantized.modules() if isinstance(module, Quantizer)]
    made = getattr(quantized, "meta", {}).get(MADE_UNDER, held[0] if held else None)
    if made is None and not config.in_float:
        raise ValueError("this network is not quantized, or does not say how: pass what qlib.quantize gave")
    if made is not None and made != config:
        raise ValueError(
            f"this network was quantized under another configuration: {_differences(made, config)}"
        )


def _differences(made: QuantConfig, given: QuantConfig) -> str:
    """Where two configurations differ, field by field."""
    if type(made) is not type(given):
        return f"a {type(made).__qualname__}, not a {type(given).__qualname__}"
    asked = given.to_dict()
    return ", ".join(
        f"{field}={value!r}, not {asked[field]!r}"
        for field, value in made.to_dict().items()
        if value != asked[field]
    )


def _written(quantized: nn.Module, group: int | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What is written by name, and by the name of a weight that is another's, that one's. ``group``: as for
    `pack`.
    """
    state = {name: tensor.contiguous().cpu().clone() for name, tensor in quantized.state_dict().items()}
    same = {}
    first: dict[tuple, str] = {}
    for path, layer in quantized.named_modules(remove_duplicate=False):
        name = f"{path}.weight"
        if not isinstance(layer, (*WEIGHT_LAYERS, nn.Embedding)) or name not in state:  # computed from others
            continue
        grid = getattr(layer, "weight_grid", None)
        original = first.setdefault(same_tensor(layer.weight), name)
        if original != name:
            same[name + SAME] = original
            del state[name]
        elif (
            grid is not None
            and (parts := pack(rows_of(layer.weight.detach(), layer), grid, group)) is not None
        ):
            del state[name]
            state |= {name + PACKED + part: tensor for part, tensor in parts.items()}
    return state, same


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
        In one line that names the file: it is damaged, or of another network, version or class of
        configurations.
    OSError
        The files are not there.
    """
    folder = Path(folder)
    state, metadata = _read(folder / WEIGHTS)
    config = _read_config(folder / CONFIG, config_class, metadata)
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
        module.load_state_dict(_unpacked(state, metadata, module, folder / WEIGHTS))
    except RuntimeError as error:
        raise ValueError(f"{folder} is of another network: {one_line(error)}") from None
    if network is not None:
        module.meta[MADE_UNDER] = config
        save_passes(network, quantizers)
    return module


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """The tensors and the metadata of a file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if metadata.get("version", VERSION) != VERSION:
        raise ValueError(f"{path} is of version {metadata['version']}, this package reads {VERSION}")
    return state, metadata


def _read_config(path: Path, kind: type[QuantConfig], metadata: Mapping[str, str]) -> QuantConfig:
    """The configuration in a file, which is to be the one that ``metadata`` of the weights hold, if any."""
    written = metadata.get("config_class")
    if written is not None and written not in [base.__qualname__ for base in kind.__mro__]:
        raise ValueError(
            f"{path} is a configuration of the class {written!r}: pass that class as config_class"
        )
    try:
        config = kind.from_yaml(path.read_text("utf8"))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is no configuration of {kind.__name__}: {one_line(error)}") from None
    if "config" in metadata and (made := kind.from_yaml(metadata["config"])) != config:
        raise ValueError(
            f"{path} is not the configuration of {WEIGHTS} beside it ({_differences(made, config)}): "
            "save the network again"
        )
    return config


def _unpacked(
    state: Mapping[str, Tensor], metadata: Mapping[str, str], module: nn.Module, path: Path
) -> dict[str, Tensor]:
    """What `load_state_dict` takes."""
    found = dict(state)
    codes = f".weight{PACKED}codes"
    for weight in [name.removesuffix(f"{PACKED}codes") for name in state if name.endswith(codes)]:
        layer = _layer_of(weight, module, path)
        try:
            parts = {part: found.pop(f"{weight}{PACKED}{part}") for part in PARTS}
            if (group := found.pop(f"{weight}{PACKED}{GROUP}", None)) is not None:
                parts[GROUP] = group
            rows, layer.weight_grid = unpack(parts)
            found[weight] = weight_of_rows(rows, layer)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged: {weight!r} cannot be read ({one_line(error)})") from None
    for name, original in metadata.items():
        if name.endswith(SAME):
            if original not in found:
                raise ValueError(f"{path} is damaged: {original!r} is missing")
            weight = name.removesuffix(SAME)
            found[weight] = found[original]
            layer = _layer_of(original, module, path)
            _layer_of(weight, module, path).weight_grid = getattr(layer, "weight_grid", None)
    return found


def _layer_of(weight: str, module: nn.Module, path: Path) -> nn.Module:
    try:
        return module.get_submodule(weight.rpartition(".")[0])
    except AttributeError:
        raise ValueError(f"{path} is of another network: here is no {weight!r}") from None


def _make_room_for_biases(network: Network, state: Mapping[str, Tensor]) -> None:
    """Layers that have a bias in ``state`` get one of their own: a method may give them one where they had
    none, or shared it.
    """
    for name in network.layers:
        if (bias := state.get(f"{name}.bias")) is not None:
            layer = network.module.get_submodule(name)
            empty = torch.empty_like(bias, device=layer.weight.device)
            layer.bias = nn.Parameter(empty, requires_grad=False)
