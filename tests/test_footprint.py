"""Bits and bytes: the paper's own figures on ResNet-50, and what every placement leaves in float."""

import pytest
import torch
from helpers import FLOAT, MODES, Block, images, snapshot
from pytorchcv.model_provider import get_model
from torchvision.models import resnet18, resnet50

from qlib import QuantConfig, footprint

UNIFORM = QuantConfig(4, 4, first_last_bits=None)
IMAGE = torch.zeros(1, 3, 224, 224)
# ResNet-50 at 224 x 224: all weights and maps; the maps of every branch's last convolution, and as many of
# additions
WEIGHTS = 25_502_912
MAPS = 16_634_344
BRANCHES = 5_519_360
PROJECTIONS = 802_816 + 401_408 + 200_704 + 100_352
LOGITS = 1000
# Without a stage's last: it feeds layers only, which all quantize it
SUMS = BRANCHES - 802_816 - 401_408 - 200_704


@pytest.fixture(scope="module")
def torchvision_resnet50():
    return resnet50()


@pytest.fixture(scope="module")
def pytorchcv_resnet50():
    return get_model("resnet50")


def test_uniform_4_bits_on_torchvisions_resnet50(torchvision_resnet50):
    cost = footprint(torchvision_resnet50, IMAGE, UNIFORM)
    assert cost.weight_elements == WEIGHTS and cost.weight_bytes == WEIGHTS * 4 / 8 == 12_751_456
    assert cost.activation_elements == MAPS and cost.activation_bytes == MAPS * 4 / 8 == 8_317_172
    assert cost.max_activation_bytes == 401_408
    assert cost.average_weight_bits == cost.average_activation_bits == 4


def test_first_and_last_layer_at_8_bits_on_torchvisions_resnet50(torchvision_resnet50):
    cost = footprint(torchvision_resnet50, IMAGE, QuantConfig(4, 4, first_last_bits=8))
    assert (
        round(cost.average_weight_bits, 6) == 4.322694 and round(cost.average_activation_bits, 6) == 4.193291
    )
    assert cost.weight_bytes == WEIGHTS * 4 / 8 + (9_408 + 2_048_000) * 4 / 8
    assert cost.activation_bytes == MAPS * 4 / 8 + (802_816 + 1_000) * 4 / 8
    assert round(cost.weight_bytes / 1e6, 2) == 13.78 and round(cost.activation_bytes / 1e6, 3) == 8.719
    assert cost.max_activation_bytes == 802_816


def test_effective_bits_count_scales_and_zero_points(torchvision_resnet50):
    channels = 26_560 + 1_000  # of convolutions and of the linear layer
    zeros = channels * 4
    for symmetric, extra in ((False, channels * 32 + zeros), (True, channels * 32)):
        cost = footprint(torchvision_resnet50, IMAGE, UNIFORM.replace(weight_symmetric=symmetric))
        assert cost.scale_bytes == extra / 8 and cost.average_weight_bits == 4
        assert cost.effective_weight_bits == pytest.approx(4 + extra / WEIGHTS)
    cost = footprint(torchvision_resnet50, IMAGE, UNIFORM.replace(weight_granularity="per_tensor"))
    assert cost.scale_bytes == 54 * 36 / 8  # for each layer one of both
    assert footprint(torchvision_resnet50, IMAGE, QuantConfig(**FLOAT)).effective_weight_bits == 32


def test_pytorchcvs_resnet50_has_smaller_maps(pytorchcv_resnet50):
    cost = footprint(pytorchcv_resnet50, IMAGE, UNIFORM)
    assert cost.activation_elements == 16_107_496 and cost.weight_elements == WEIGHTS
    assert cost.weight_bytes == 12_751_456 and cost.max_activation_bytes == 401_408


def test_everything_in_float_counts_32_bits(torchvision_resnet50):
    cost = footprint(torchvision_resnet50, IMAGE, QuantConfig(**FLOAT))
    assert cost.weight_bytes == 4 * WEIGHTS and cost.activation_bytes == 4 * MAPS


@pytest.mark.parametrize(
    "mode, in_float",
    [*zip(MODES, [0, BRANCHES, PROJECTIONS + SUMS, BRANCHES + PROJECTIONS + SUMS + LOGITS], strict=True)],
    ids=str,
)
def test_what_a_placement_leaves_in_float_counts_32_bits(torchvision_resnet50, mode, in_float):
    # without the residuals: the last convolution of every branch; without the skips: projections and
    # additions
    config = UNIFORM.replace(quantize_skip=mode[0], quantize_residual=mode[1])
    cost = footprint(torchvision_resnet50, IMAGE, config)
    assert cost.activation_bytes == (MAPS - in_float) * 4 / 8 + in_float * 4
    assert cost.weight_bytes == WEIGHTS / 2


def test_bits_of_single_layers_and_channels():
    channels = (1, 2, 3, 4, 5, 6, 7, 8)
    config = QuantConfig({"body": 2, "project": channels}, {"body": (2, 4) * 4, "add": 20, "default": 6})
    layers = footprint(Block(), images(), config).layers
    weights = {
        layer.name: (layer.weight_elements, layer.weight_bits) for layer in layers if layer.weight_elements
    }
    assert weights == {
        "first": (216, 8),
        "body": (576, 2),
        "body2": (576, 8),
        "project": (64, 4.5),
        "last": (1280, 8),
    }
    maps = {
        layer.name: (layer.activation_elements, layer.activation_bits) for layer in layers if layer.counted
    }
    assert maps == {
        "first": (512, 8),
        "body": (512, 3),
        "body2": (512, 6),
        "project": (512, 6),
        "add": (512, 20),
        "last": (10, 8),
    }


def test_totals_are_sums_over_layers():
    cost = footprint(Block(), images(), QuantConfig(3, 5))
    maps = [layer for layer in cost.layers if layer.counted]
    assert "pool" not in [layer.name for layer in maps]
    assert cost.activation_bytes == sum(
        layer.activation_elements * layer.activation_bits / 8 for layer in maps
    )
    assert cost.max_activation_bytes == max(
        layer.activation_elements * layer.activation_bits / 8 for layer in maps
    )
    assert cost.average_activation_bits == 8 * cost.activation_bytes / cost.activation_elements
    assert cost.weight_bytes == sum(layer.weight_elements * layer.weight_bits / 8 for layer in cost.layers)


def test_it_is_per_image_and_of_shapes_alone():
    one = footprint(Block(), images(1), UNIFORM)
    many = footprint(Block(), images(7) * float("nan"), UNIFORM)
    assert one == many


def test_larger_images_have_larger_maps():
    network = resnet18(num_classes=10)
    small, large = (footprint(network, images(1, 3, size), UNIFORM) for size in (64, 128))
    assert small.weight_bytes == large.weight_bytes
    assert large.activation_elements - 10 == 4 * (small.activation_elements - 10)  # logits apart


def test_shapes_that_a_network_asks_for_are_no_layers(bench):
    layers = footprint(bench.models["base"], torch.zeros(1, 1, 48, 48), UNIFORM).layers
    assert {layer.kind for layer in layers} == {"weight layer", "addition", "average pooling"}
    assert len({layer.name for layer in layers}) == len(layers) == 53 + 16 + 1 + 1


def test_the_network_is_left_as_it_is():
    network = Block().train()
    before = snapshot(network)
    footprint(network, images(), UNIFORM)
    state, modes, hooks = snapshot(network)
    assert (
        all(torch.equal(before[0][name], tensor) for name, tensor in state.items())
        and (modes, hooks) == before[1:]
    )
    assert not any(parameter.is_meta for parameter in network.parameters())


def test_it_prints_in_decimal_units(torchvision_resnet50):
    text = str(footprint(torchvision_resnet50, IMAGE, UNIFORM))
    assert "12.751 MB" in text and "8.317 MB" in text and "401.4 kB" in text
