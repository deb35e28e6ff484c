"""Which networks and choices the recorded times are of, the rows that say most first."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..config import QuantConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

PIXELS = 224
BASE = {"weight_symmetric": True, "symmetric_grid": "restricted"}  # what fuses into the fastest kernels
FLOAT = {"weight_bits": None, "activation_bits": None}
INPUTS_ONLY = {"quantize_skip": False, "quantize_residual": False}
ENDS = {  # the first and the last layer
    "ResNet-18": ["conv1", "fc"],
    "ResNet-50": ["conv1", "fc"],
    "MobileNetV2": ["features.0.0", "classifier.1"],
    "EfficientNet-Lite0": ["_conv_stem", "_fc"],
    "ViT-S/16": ["conv_proj", "heads.head"],
}
# Whose names each network has. With the image in codes ONNX Runtime would round the first by itself
ENDS_IN_FLOAT = {"float_layers": "the first and the last layer", "input_bits": None}
CHOICES: tuple[dict[str, Any], ...] = (  # each as it differs from the base
    FLOAT,
    {},
    {"weight_symmetric": False},
    {"activation_symmetric": True},
    {"weight_granularity": "per_tensor"},
    INPUTS_ONLY,
    {"quantize_residual": False},
    {"quantize_skip": False},
    ENDS_IN_FLOAT,
    {"pooling": "float"},
    {"symmetric_grid": "full"},
    {"quantize_output": False},
    {"weight_bits": 4},
    {"activation_bits": 4},
    {"activation_granularity": "per_channel"},
    {"activation_dynamic": True},
)
FOUR = ({}, {"weight_symmetric": False}, {"activation_symmetric": True}, INPUTS_ONLY, ENDS_IN_FLOAT)
NAMED: dict[str, dict[str, Any]] = {  # what pairs are made of
    "zero-points of weights": {"weight_symmetric": False},
    "one range a weight tensor": {"weight_granularity": "per_tensor"},
    "symmetric activations": {"activation_symmetric": True},
    "residual in float": {"quantize_residual": False},
    "inputs only": INPUTS_ONLY,
    "ends in float": ENDS_IN_FLOAT,
}
PAIRS = (
    ("zero-points of weights", "symmetric activations"),
    ("zero-points of weights", "one range a weight tensor"),
    ("zero-points of weights", "residual in float"),
    ("zero-points of weights", "inputs only"),
    ("symmetric activations", "residual in float"),
    ("symmetric activations", "inputs only"),
    ("ends in float", "zero-points of weights"),
    ("ends in float", "inputs only"),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """What one row is of: ``choices`` as they differ from `BASE`."""

    network: str
    choices: dict[str, Any]
    batch: int = 1
    threads: int = 1

    @property
    def key(self) -> str:
        """What identifies it in the table."""
        return json.dumps([self.network, self.choices, self.batch, self.threads], sort_keys=True)

    @property
    def config(self) -> QuantConfig:
        """Of 8 bits on both sides where nothing else is said."""
        layers = tuple(ENDS[self.network]) if "float_layers" in self.choices else ()
        fields = {**BASE, **self.choices, "float_layers": layers}
        return QuantConfig(8, 8).replace(**fields)


def networks() -> dict[str, Callable[[], nn.Module]]:
    """What makes each network, in the order of recording. Weights are random: only time is measured."""
    from torchvision import models

    vit = {"num_layers": 12, "num_heads": 6, "hidden_dim": 384, "mlp_dim": 1536}
    return {
        "ResNet-18": models.resnet18,
        "MobileNetV2": models.mobilenet_v2,
        "ResNet-50": models.resnet50,
        "EfficientNet-Lite0": _efficientnet_lite0,
        "ViT-S/16": partial(models.VisionTransformer, image_size=PIXELS, patch_size=16, **vit),
    }


def _efficientnet_lite0() -> nn.Module:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise ValueError(
            "EfficientNet-Lite0 needs a package: pip install --no-deps efficientnet-lite-pytorch"
        ) from None
    return EfficientNet.from_name("efficientnet-lite0")


def network_and_images(name: str, batch: int) -> tuple[nn.Module, torch.Tensor]:
    """A network whose batch norms know the statistics of random images, and so many of these."""
    import torch

    torch.manual_seed(0)
    model = networks()[name]()
    images = torch.randn(max(batch, 4), 3, PIXELS, PIXELS)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics of all passes, that is of one
    with torch.no_grad():
        model.train()(images[:4])
    return model.eval(), images[:batch]


def cells() -> Iterator[Cell]:
    """All rows: every choice on every network, then pairs, then four choices on more images and threads."""
    names = list(networks())
    for name in names[:2]:
        yield from (Cell(name, choices) for choices in CHOICES)
    yield from (Cell(names[0], {**NAMED[a], **NAMED[b]}) for a, b in PAIRS)
    for name in names[2:]:
        yield from (Cell(name, choices) for choices in CHOICES)
    yield from (Cell(name, choices, 1, 2) for name in names for choices in FOUR)
    yield from (Cell(name, choices, 16, 1) for name in names for choices in FOUR)
