"""Quantized networks in a folder: ``weights.safetensors`` and ``config.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..config import QuantConfig
from ..files import whole, write_whole
from ..network import Network, evaluation_copy, read
from ..placement import place
from ..quantization import insert_quantizers, save_passes


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
