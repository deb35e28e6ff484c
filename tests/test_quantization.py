"""`quantize`: calibration, dynamic ranges, integer arithmetic, and the passes that work in place."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import MODES, Block, Record, images, quantizers
from torch import nn

from qlib import QuantConfig, quantize
from qlib.affine import make_grid
from qlib.affine import quantize as codes_of
from qlib.config import RANGES

# Integer arithmetic


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_convolution_in_true_integers_agrees_with_the_simulation(symmetric):
    """Codes, zero-point corrections, int32 accumulation, requantization (paper, section 2.1)."""
    layer = nn.Conv2d(3, 5, 3, padding=1)
    x = images(16)
    config = QuantConfig(
        5, 6, input_bits=7, first_last_bits=None, weight_symmetric=symmetric, calibration_upstream="quantized"
    )
    network = quantize(nn.Sequential(layer, nn.ReLU()), config, x)
    entering, leaving = (quantizers(network)[name].grid for name in ("input_1", "0"))
    rows = layer.weight.detach().flatten(1)
    weights = make_grid(rows.amin(1), rows.amax(1), 5, symmetric).reshape(-1, 1, 1, 1)

    w = codes_of(layer.weight.detach(), weights).long()
    a = codes_of(x, entering).long()
    zw = weights.zero_point.long().reshape(1, -1, 1, 1)
    za = entering.zero_point.long()
    a = F.pad(a, (1, 1, 1, 1), value=za.item())  # the code of 0
    windows = F.unfold(a.double(), 3).long().transpose(1, 2)  # images, places, 27 codes
    dot = windows @ w.flatten(1).T
    sums = windows.sum(2, keepdim=True)
    total = (
        dot.transpose(1, 2)
        - zw.flatten(2).transpose(1, 2).reshape(1, -1, 1) * sums.transpose(1, 2)
        - za * w.sum((1, 2, 3)).reshape(1, -1, 1)
        + 27 * za * zw.reshape(1, -1, 1)
    )
    assert (za != 0) and (symmetric or (zw != 0).any())
    assert torch.stack([dot.abs().max(), total.abs().max()]).max() < 2**31

    scale = (entering.scale.double() * weights.scale.double()).reshape(1, -1, 1)
    steps = (total * scale + layer.bias.detach().double().reshape(1, -1, 1)) / leaving.scale.double()
    expected = torch.clamp(torch.round(steps) + leaving.zero_point, leaving.code_min, leaving.code_max)
    with torch.no_grad():
        actual = (network(x).double() / leaving.scale + leaving.zero_point).flatten(2)
    assert torch.allclose(actual, actual.round(), atol=1e-4)
    near_tie = (steps - steps.floor() - 0.5).abs() < 1e-4  # float32 may round these the other way
    assert torch.equal(actual.round()[~near_tie], expected[~near_tie])
    assert near_tie.double().mean() < 0.01 and len(expected.unique()) > 30


class Pooled(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1, bias=False)
        self.pool = pool
        self.layer.weight.data = torch.eye(3)[:, :, None, None]

    def forward(self, x):
        return self.pool(self.layer(x))


class Mean(nn.Module):
    def forward(self, x):
        return x.mean([2, 3])


POOLS = {
    "2 x 2": nn.AvgPool2d(2),
    "3 x 3 padded": nn.AvgPool2d(3, stride=1, padding=1),
    "3 x 3 padded, padding not counted": nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
    "global": nn.AdaptiveAvgPool2d(1),
    "mean": Mean(),
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation_granularity": "per_channel"},
        {"activation_dynamic": True},
        {"activation_dynamic": True, "activation_granularity": "per_channel"},
    ],
    ids=["per tensor", "per channel", "per image", "per image and channel"],
)
@pytest.mark.parametrize("pool", POOLS)
def test_low_precision_pooling_is_the_rounded_integer_mean_ties_included(pool, options):
    x = torch.randint(-5, 11, (16, 3, 4, 4)).float()
    # Every range is of 15 steps, so values are codes, with zero-point 5
    x[:, :, 0, :2] = torch.tensor([-5.0, 10.0])
    config = QuantConfig(None, 4, input_bits=None, pooling="low_precision", first_last_bits=None, **options)
    with torch.no_grad():
        actual = quantize(Pooled(POOLS[pool]), config, x)(x)
        mean = POOLS[pool](x.double())
    assert "3 x 3" in pool or (mean % 1 == 0.5).sum() > 3
    assert actual.shape == mean.shape
    torch.testing.assert_close(actual.double(), torch.round(mean + 5) - 5, atol=1e-5, rtol=0)


# Calibration


def test_calibration_may_be_a_batch_batches_pairs_or_a_generator():
    network = Block()
    x = images(12)
    expected = quantizers(quantize(network, QuantConfig(4, 4), x))
    parts = x.split([5, 4, 3])
    pairs = [(part, torch.zeros(len(part))) for part in parts]
    for calibration in ([x], list(parts), parts, pairs, iter(parts)):
        found = quantizers(quantize(network, QuantConfig(4, 4), calibration))
        # Close: a convolution may add in another order for another batch size
        for name, quantizer in expected.items():
            torch.testing.assert_close(found[name].scale, quantizer.scale)
            assert torch.equal(found[name].zero_point, quantizer.zero_point)


@pytest.mark.parametrize("upstream", ["float", "quantized"])
def test_calibration_sees_upstream_layers_in_float_or_quantized(upstream):
    network = Block()
    x = images()
    quantized = quantize(network, QuantConfig(2, 2, calibration_upstream=upstream), x)
    seen = Record(quantized, x)
    grid = quantizers(quantized)["body"].grid
    with torch.no_grad():
        in_float = network.body(torch.relu(network.first(x))).relu().max().item()
        in_codes = quantized.body(seen.input_of("body")).relu().max().item()
    assert in_float != pytest.approx(in_codes, rel=0.01)
    assert grid.scale.item() * 3 == pytest.approx(in_float if upstream == "float" else in_codes, rel=1e-5)


def test_calibration_leaves_its_batches_as_they_are():
    x = images()
    for network in (Block(), nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1))):
        for upstream in ("float", "quantized"):
            before = x.clone()
            quantize(network, QuantConfig(calibration_upstream=upstream), x)
            assert torch.equal(x, before)


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_quantizing_under_any_gradient_mode_gives_the_same_network(context):
    network = Block()
    x = images()
    expected = quantize(network, QuantConfig(4, 4), x)(x)
    with context():
        quantized = quantize(network, QuantConfig(4, 4), x)
        assert torch.equal(quantized(x), expected)


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("side", ["weight", "activation"])
def test_every_way_to_find_a_range_reaches_both_sides(side, name):
    network = Block()
    x = images()
    outputs = {
        method: quantize(network, QuantConfig(3, 3, percentile=90.0, **{f"{side}_range": method}), x)(x)
        for method in RANGES
    }
    assert [method for method in RANGES if torch.equal(outputs[method], outputs[name])] == [name]


# Ranges found per image


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("method", RANGES)
@pytest.mark.parametrize(
    "options",
    [{}, {"activation_symmetric": True, "symmetric_grid": "authors"}, {"pooling": "low_precision"}],
    ids=str,
)
def test_dynamic_output_does_not_depend_on_batch_mates(method, granularity, options):
    x = images(4)
    others = 30 * images(4)
    config = QuantConfig(
        4,
        4,
        activation_dynamic=True,
        activation_range=method,
        percentile=95.0,
        activation_granularity=granularity,
        **options,
    )
    network = quantize(Block(), config)
    with torch.no_grad():
        mixed = network(torch.cat([x[:2], others[2:]]))
        assert torch.equal(network(x)[:2], mixed[:2])
        assert not torch.equal(network(x)[2:], mixed[2:])
        if not config.activation_symmetric:  # the outermost code of the authors' grid hangs on float noise
            torch.testing.assert_close(network(x[:1]), mixed[:1])


@pytest.mark.parametrize(
    "granularity, method",
    [
        ("per_tensor", "minmax"),
        ("per_tensor", "percentile"),
        ("per_channel", "minmax"),
        ("per_channel", "percentile"),
        ("per_channel", "mse"),
    ],
)
def test_dynamic_ranges_allow_bits_per_channel(granularity, method):
    bits = (1, 2, 3, 4) * 2
    how = {"activation_granularity": granularity, "activation_range": method}
    config = QuantConfig(None, {"body": bits}, activation_dynamic=True, **how)
    x = images(6)
    seen = Record(quantize(Block(), config), x).input_of("body2")
    assert all(len(seen[i, c].unique()) <= 2 ** bits[c] for i in range(6) for c in range(8))


# Passes in place


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation_granularity": "per_channel"},
        {"activation_symmetric": True},
        {"activation_dynamic": True},
        {"activation_symmetric": True, "symmetric_grid": "authors"},
        {"pooling": "low_precision"},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_passes_in_place_equal_those_with_gradients_and_spare_the_callers_batch(mode, options):
    x = images()
    network = quantize(
        Block(), QuantConfig(4, 4, quantize_skip=mode[0], quantize_residual=mode[1], **options), x
    )
    batch = x.clone()
    with torch.inference_mode():
        fast = network(batch)
    assert torch.equal(batch, x)
    slow = network(x.requires_grad_())
    assert torch.equal(fast, slow)
    slow.sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "first",
    [
        nn.Identity(),
        nn.Dropout(),
        nn.ReLU(inplace=True),
        nn.Hardtanh(inplace=True),
        nn.MaxPool2d(1),
        nn.ZeroPad2d(0),
        nn.AvgPool2d(1),
        nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 8, 8))),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_the_callers_batch_is_spared_whatever_comes_first(first, mode):
    network = nn.Sequential(first, nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).requires_grad_(False)
    x = images()
    quantized = quantize(network, QuantConfig(4, 4, quantize_skip=mode[0], quantize_residual=mode[1]), x)
    before = x.clone()
    for _ in range(2):
        quantized(x)
        assert torch.equal(x, before)


def test_a_copy_of_a_quantized_network_computes_the_same():
    x = images()
    for options in (
        {},
        {"pooling": "low_precision"},
        {"activation_dynamic": True, "pooling": "low_precision"},
    ):
        network = quantize(Block(), QuantConfig(4, 4, **options), x)
        with torch.no_grad():
            expected = network(x)
            network_copy = copy.deepcopy(network)
            for quantizer in quantizers(network).values():
                # The copy must not look here
                quantizer.grid = make_grid(torch.tensor(0.0), torch.tensor(0.01), 2)
            assert torch.equal(network_copy(x), expected)


def test_integer_pooling_averages_clipped_codes():
    """What lies outside the clipping range enters the mean with the outermost code."""
    x = torch.arange(48.0).reshape(1, 3, 4, 4).clamp(max=15)
    config = QuantConfig(
        None, 4, input_bits=None, first_last_bits=None, pooling="low_precision", quantize_output=False
    )
    network = quantize(Pooled(nn.AvgPool2d(4)), config, [x])
    with torch.no_grad():
        assert torch.equal(network(100 * x + 15), torch.full((1, 3, 1, 1), 15.0))
