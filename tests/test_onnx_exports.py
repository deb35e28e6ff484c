"""The card of a file that this package wrote says the configuration that it was written under."""

import itertools

import pytest
import torch
from torch import nn

from qlib import QuantConfig, QuantizationCard, footprint
from qlib.cards import NOT_REPORTED
from qlib.cards.fields import PLAIN
from qlib.export import export_onnx

pytest.importorskip("onnx")
# What a graph cannot show, or shows in other words
UNSEEN = {
    "weight_range",
    "activation_range",
    "percentile",
    "calibration_upstream",
    "bit_choices",
    "float_layers",
}


class Residual(nn.Module):
    """Two blocks, one with a projection, and a linear layer without a bias."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.one, self.two = (
            nn.Sequential(
                nn.Conv2d(a, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
            )
            for a in (4, 8)
        )
        self.projection = nn.Conv2d(4, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last = nn.Linear(8, 5, bias=False)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.relu(self.one(x) + self.projection(x))
        x = torch.relu(self.two(x) + x)
        return self.last(self.pool(x).flatten(1))


CHOICES = {
    "weight_symmetric": (False, True),
    "activation_symmetric": (False, True),
    "symmetric_grid": ("full", "restricted"),
    "weight_granularity": ("per_channel", "per_tensor"),
    "weight_bits": (8, 4),
    "activation_bits": (8, 4),
    "first_last_bits": (8, None),
    "quantize_skip": (True, False),
    "quantize_residual": (True, False),
    "pooling": ("high_precision", "float"),
    "input_bits": (8, None),
    "quantize_output": (True, False),
}


def configurations():
    """Every pair of values of two choices among the first ones, and each of the others alone."""
    for a, b in itertools.combinations(list(CHOICES)[:6], 2):
        yield {a: CHOICES[a][1], b: CHOICES[b][1]}
    for name in list(CHOICES)[6:]:
        yield {name: CHOICES[name][1], "weight_bits": 4}
    yield {"quantize_skip": False, "quantize_residual": False}
    yield {"weight_bits": None}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Residual().eval(), torch.randn(8, 3, 8, 8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "choices", configurations(), ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items())
)
def test_the_card_says_the_configuration(network, tmp_path, choices):
    model, images = network
    config = QuantConfig(**choices)
    export_onnx(model, config, [(images, None)], images, tmp_path / "m.onnx")
    card = QuantizationCard.from_onnx(tmp_path / "m.onnx")
    said = config.in_words()
    if {config.weight_bits, config.activation_bits} <= {8, None} and said["first_last_bits"] == 8:
        said["first_last_bits"] = "like the rest"  # which it is
    hidden = (
        UNSEEN if config.weight_symmetric else {*UNSEEN, "symmetric_grid"}
    )  # only codes of weights tell it
    for name in said.keys() - hidden:
        if PLAIN.acts(name, {**{field: NOT_REPORTED for field in PLAIN}, **said}):
            assert card[name] == said[name], name
    size = footprint(model, images, config)
    assert card["weight_bytes"] == size.weight_bytes and card["bias"] == "float"
    assert card["effective_weight_bits"] == pytest.approx(size.effective_weight_bits, abs=1e-4)
    assert card["average_weight_bits"] == pytest.approx(size.average_weight_bits, abs=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["vit", "swin", "shuffle"])
def test_no_layer_is_missing(tmp_path, name):
    import torchvision

    networks = {
        "vit": lambda: torchvision.models.VisionTransformer(32, 16, 1, 2, 16, 32, num_classes=3),
        "swin": lambda: torchvision.models.SwinTransformer([2, 2], 16, [1, 1], [2, 2], [4, 4], num_classes=3),
        "shuffle": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=3),
    }
    torch.manual_seed(0)
    model, images = networks[name]().eval(), torch.randn(2, 3, 32, 32)
    config = QuantConfig(weight_symmetric=True, symmetric_grid="restricted")
    export_onnx(model, config, [(images, None)], images, tmp_path / "m.onnx")
    card = QuantizationCard.from_onnx(tmp_path / "m.onnx")
    assert card["weight_bytes"] == footprint(model, images, config).weight_bytes
    assert (card["weight_bits"], card["activation_bits"]) == (8, 8)
    assert (card["weight_granularity"], card["symmetric_grid"]) == ("per_channel", "restricted")
