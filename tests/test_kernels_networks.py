"""Whole networks in integers, beside their simulation."""

import random
from collections import Counter

import pytest
import torch
from helpers import NETWORKS, Block, images, random_network, warmed
from torch import nn
from torch.nn import functional as F

import qlib
from qlib import QuantConfig, evaluate, footprint, quantize
from qlib.export import load_quantized, save_quantized
from qlib.kernels import Cause, IntegerNetwork, against_simulation, layer_differences
from qlib.quantization import MADE_UNDER
from qlib.quantizer import Quantizer

SEEDS = 100  # random networks
EQUAL = 99  # percent of answers


class Random(nn.Module):
    """A small network of steps that a seed draws; every step keeps ``n`` channels."""

    def __init__(self, seed):
        super().__init__()
        draw = random.Random(seed)
        self.channels = draw.choice([4, 8])
        self.steps = [draw.choice(STEPS) for _ in range(draw.randint(2, 5))]
        self.layers = nn.ModuleList(self._layers(step, draw) for step in self.steps)
        self.first = nn.Conv2d(3, self.channels, 3, padding=1, bias=draw.random() < 0.5)
        self.end = draw.choice(["mean", "adaptive", "flat"])
        self.last = nn.LazyLinear(5, bias=draw.random() < 0.8)

    def _layers(self, step, draw):
        c = self.channels
        kernel = draw.choice([1, 3])
        groups = draw.choice([1, 2, c])
        convolution = nn.Conv2d(c, c, kernel, padding=kernel // 2, groups=groups, bias=draw.random() < 0.5)
        layers = [convolution] + [nn.BatchNorm2d(c)] * (draw.random() < 0.5)
        if step in ("join", "moved"):
            entering = 2 * c if step == "join" else c
            return nn.ModuleList([nn.Sequential(*layers), nn.Conv2d(entering, c, 1)])
        if step == "double":
            return nn.Sequential(nn.ConvTranspose2d(c, c, 2, stride=2), nn.Conv2d(c, c, 2, stride=2))
        return nn.Sequential(*layers)

    def forward(self, x):
        x = torch.relu(self.first(x))
        for step, layers in zip(self.steps, self.layers, strict=True):
            x = STEP[step](layers, x)
        if self.end == "mean":
            x = x.mean((2, 3))
        else:
            x = (F.adaptive_avg_pool2d(x, 2) if self.end == "adaptive" else x).flatten(1)
        return self.last(x)


STEP = {
    "plain": lambda f, x: f(x),
    "relu": lambda f, x: F.relu(f(x)),
    "relu6": lambda f, x: F.relu6(f(x)),
    "hardtanh": lambda f, x: F.hardtanh(f(x), -0.5, 0.75),
    "residual": lambda f, x: F.relu(f(x) + x),
    "added": lambda f, x: F.relu(f(x)) + F.relu(x),
    "product": lambda f, x: f(x) * x,
    "join": lambda f, x: F.relu(f[1](torch.cat([x, f[0](x)], 1))),
    "double": lambda f, x: f(x),
    "moved": lambda f, x: f[1](F.relu6(F.max_pool2d(f[0](x), 2, 1, padding=1)[..., 1:, 1:])),
    "joined": lambda f, x: F.relu(torch.cat([f(x)[:, ::2], x[:, ::2]], 1)),
    "max": lambda f, x: F.max_pool2d(f(x), 3, stride=1, padding=1),
    "mean": lambda f, x: F.avg_pool2d(f(x), 3, stride=1, padding=1),
    "halves": lambda f, x: torch.cat(F.relu(f(x)).chunk(2, 1)[::-1], 1),
    "padded": lambda f, x: F.pad(f(x), (1, 0, 0, 1))[:, :, 1:, :-1],
}
STEPS = list(STEP)


def random_configuration(draw):
    symmetric = draw.random() < 0.5
    return QuantConfig(
        weight_bits=draw.choice([2, 4, 8, 8, 8, 12]),
        activation_bits=draw.choice([2, 4, 8, 8, 8, 12]),
        first_last_bits=draw.choice([8, None]),
        weight_symmetric=symmetric,
        activation_symmetric=draw.random() < 0.3,
        symmetric_grid=draw.choice(["full", "restricted"]),
        weight_granularity=draw.choice(["per_channel", "per_tensor"]),
        pooling=draw.choice(["high_precision", "low_precision"]),
        quantize_output=draw.random() < 0.7,
    )


def made(seed):
    """A network, quantized and in float, and inputs."""
    torch.manual_seed(seed)
    x = torch.randn(4, 3, 8, 8)
    network = Random(seed)
    with torch.no_grad():
        network(x)  # which makes the lazy layer
    config = random_configuration(random.Random(seed))
    return quantize(warmed(network, x), config, torch.randn(8, 3, 8, 8)), network, x


def test_given_the_same_codes_every_layer_of_random_networks_differs_by_at_most_one_code():
    found, steps = [], Counter()
    for seed in range(SEEDS):
        quantized, network, x = made(seed)
        layers = layer_differences(quantized, 1.5 * x)
        assert all(layer.most <= 1 for layer in layers), seed
        quantizers = sum(isinstance(m, Quantizer) for m in quantized.modules())
        assert len(layers) >= quantizers - 1  # all but the image
        found += layers
        steps.update(network.steps)
    assert set(steps) == set(STEPS)  # every kind of step was drawn
    assert all(sum(layer.causes.values()) == layer.differing for layer in found)
    causes = sum((layer.causes for layer in found), start=Counter())
    assert set(causes) <= {Cause.FLOAT32, Cause.MULTIPLIER}
    assert sum(causes.values()) < sum(layer.codes for layer in found) / 1000


def test_rounded_biases_move_codes_and_are_their_cause():
    found = []
    for seed in range(10):
        quantized, _, x = made(seed)
        found += layer_differences(quantized, x, bias="rounded")
    assert all(sum(layer.causes.values()) == layer.differing for layer in found)
    causes = sum((layer.causes for layer in found), start=Counter())
    assert causes[Cause.BIAS] > 10 * (causes.total() - causes[Cause.BIAS])
    # Where a sum is worth several codes of what follows, half of one is more than one code
    assert any(layer.most > 1 for layer in found)


def test_a_run_is_the_codes_of_its_layers_one_after_the_other():
    """Codes that agree from the same codes agree in a whole run, too."""
    for seed in range(10):
        quantized, _, x = made(seed)
        if any(layer.differing for layer in layer_differences(quantized, x)):
            continue
        with torch.no_grad():
            simulated = quantized(x.clone())
        assert torch.allclose(IntegerNetwork(quantized)(x), simulated, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_others_are_in_integers(name):
    x = torch.randn(2, 3, 32, 32)
    quantized = quantize(random_network(name, x), QuantConfig(), x)
    layers = layer_differences(quantized, x)
    assert len(layers) == sum(isinstance(m, Quantizer) for m in quantized.modules()) - 1
    assert all(layer.most <= 1 for layer in layers)


class Moves(nn.Module):
    """Moves its first input before it is quantized, takes a second, and gives several outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.other = nn.Linear(12, 6), nn.Linear(4, 6)

    def forward(self, x, y):
        a, b = torch.relu(self.first(x.flatten(1))), self.other(y)
        return {"sum": a + b, "parts": [a[:, :2], b.view(-1, 3, 2)], "size": x.size(0)}


def test_inputs_and_outputs_may_be_several():
    x, y = torch.randn(5, 3, 4), torch.randn(5, 4)
    quantized = quantize(Moves().eval(), QuantConfig(), [((x, y), None)])
    with torch.no_grad():
        simulated = quantized(x.clone(), y.clone())
    for found in (IntegerNetwork(quantized)(x, y), IntegerNetwork(quantized)(y=y, x=x)):
        assert found["size"] == 5 and isinstance(found["parts"], list)
        assert torch.allclose(found["sum"], simulated["sum"], rtol=1e-5)
        for one, other in zip(found["parts"], simulated["parts"], strict=True):
            assert one.shape == other.shape and torch.allclose(one, other, rtol=1e-5)
    assert all(layer.most <= 1 for layer in layer_differences(quantized, {"y": y, "x": x}))


class Products(nn.Module):
    """Attention without its softmax."""

    def __init__(self):
        super().__init__()
        self.queries, self.keys, self.last = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 3)

    def forward(self, x):
        scores = torch.matmul(self.queries(x), self.keys(x).transpose(1, 2))
        return self.last(scores @ x)


def test_products_of_activations_are_sums_of_integers():
    x = torch.randn(3, 5, 6)
    quantized = quantize(Products().eval(), QuantConfig(), x)
    layers = layer_differences(quantized, x)
    assert len(layers) == 5 and all(layer.most <= 1 for layer in layers)
    wrapped, saturated = (
        against_simulation(quantized, x, overflow=overflow).layers for overflow in ("wrap", "saturate")
    )
    listed = [layer.name for layer in footprint(Products(), x, QuantConfig()).layers]
    assert list(wrapped) == list(saturated) and sorted(wrapped) == sorted(listed)
    assert [seen.products for seen in wrapped.values()] == [6, 6, 4, 5, 6]
    assert all(seen.bits <= saturated[name].bits <= seen.bound for name, seen in wrapped.items())


# ------------------------------------------------------------------------------------------------------------
# Networks that are at hand


@pytest.fixture(scope="module")
def digits(bench):
    return quantize(bench.models["base"], QuantConfig(), bench.calibration(320)), bench.validation(256)


def explained(found):
    return sum(found.causes.values()) == len(found.differing)


def test_digits_give_the_answers_of_the_simulation(digits):
    found = against_simulation(*digits)
    assert found.examples == 256 and found.equal >= EQUAL and explained(found)
    assert all(0 < seen.bits <= seen.bound and not seen.overflows for seen in found.layers.values())
    assert len(found.layers) == 54


def test_biases_that_are_rounded_to_whole_sums_change_answers_and_are_named(digits):
    found = against_simulation(*digits, bias="rounded")
    assert found.differing and explained(found) and found.equal > 95
    assert found.causes[Cause.BIAS] == len(found.differing)
    assert f"{len(found.differing)} of 256 answers" in str(found) and Cause.BIAS.value in str(found)


def test_resnet20_gives_the_answers_of_the_simulation(data_folder, monkeypatch):
    monkeypatch.setenv("QLIB_CIFAR10_JPEG", str(data_folder))
    bench = qlib.load_bench("cifar10-jpeg")
    quantized = quantize(bench.models["base"], QuantConfig(), bench.calibration(320))
    found = against_simulation(quantized, bench.validation(128))
    assert found.examples == 128 and found.equal >= EQUAL and explained(found)


def test_an_integer_network_is_measured_as_any_network(digits):
    quantized, batches = digits
    few = [(x[:32], labels[:32]) for x, labels in batches[:1]]
    simulated, integer = evaluate(quantized, few), evaluate(IntegerNetwork(quantized), few)
    assert abs(simulated.top1 - integer.top1) <= 100 / 32 and integer.n == simulated.n == 32


def test_a_bias_smaller_than_half_a_sum_is_kept_or_lost():
    """One that decides between two classes."""
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.eye(2)
    layer.bias.data = torch.tensor([0.0, 0.4 / 255**2])
    config = QuantConfig(quantize_output=False, weight_granularity="per_tensor")
    x = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    quantized = quantize(nn.Sequential(layer).eval(), config, x)
    for bias, answers in (("kept", [1, 0, 1]), ("rounded", [0, 0, 0])):
        assert IntegerNetwork(quantized, bias=bias)(x).argmax(1).tolist() == answers
    found = against_simulation(quantized, [x[:2], x[2:]], bias="rounded")
    assert found.differing == [0, 2] and found.causes == {Cause.BIAS: 2}


# ------------------------------------------------------------------------------------------------------------
# Accumulators


def planted(bits, channels=64, bias=False):
    """A layer whose weights and inputs are all at the end of their ranges, so that sums are the largest."""
    layer = nn.Linear(channels, 2, bias=bias)
    layer.weight.data = torch.ones(2, channels) * torch.tensor([[1.0], [-1.0]])
    config = QuantConfig(bits, bits, input_bits=bits, first_last_bits=None)
    return quantize(nn.Sequential(layer).eval(), config, torch.ones(2, channels))


@pytest.mark.parametrize("bits", [2, 4, 8, 12])
@pytest.mark.parametrize("channels", [3, 64, 500])
def test_a_planted_layer_needs_the_bits_of_the_bound(bits, channels):
    quantized = planted(bits, channels)
    found = against_simulation(quantized, torch.ones(2, channels))
    (seen,) = found.layers.values()
    most = channels * (2**bits - 1) ** 2
    assert seen.high == most and seen.low == -most and seen.bound == seen.bits == most.bit_length() + 1


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
def test_needed_bits_are_enough_and_fewer_are_not(overflow):
    quantized, x = quantize(Block().eval(), QuantConfig(4, 4), images()), images(2)
    wide = against_simulation(quantized, x, overflow=overflow).layers
    assert all(seen.bits <= seen.bound for seen in wide.values())
    bits = max(seen.bits for seen in wide.values())
    for fewer in (0, 1):
        found = against_simulation(quantized, x, accumulator_bits=bits - fewer, overflow=overflow).layers
        overflows = {name for name, seen in found.items() if seen.overflows}
        assert bool(overflows) == bool(fewer)
        assert overflows <= {name for name, seen in wide.items() if seen.bits == bits}


def test_sums_of_16_bits_wrap_or_saturate():
    quantized = planted(8, 3)
    x = torch.ones(1, 3)
    exact = 3 * 255**2
    values = {overflow: IntegerNetwork(quantized, 16, overflow)(x)[0] for overflow in ("wrap", "saturate")}
    held = {"wrap": (exact + 2**15) % 2**16 - 2**15, "saturate": 2**15 - 1}
    assert held["wrap"] < 0  # what was the largest sum has become negative
    for overflow, value in values.items():
        assert value[0].item() == pytest.approx(3 * held[overflow] / exact, abs=6 / 255)


def test_overflow_is_the_cause_of_answers_that_it_changes(digits):
    quantized, batches = digits
    (x, _), *_ = batches
    found = against_simulation(quantized, x[:32], accumulator_bits=16)
    assert found.equal < 90 and explained(found)
    assert found.causes[Cause.OVERFLOW] >= 0.9 * len(found.differing)
    assert sum(seen.overflows for seen in found.layers.values()) > 0


# ------------------------------------------------------------------------------------------------------------
# What integers cannot say


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"activation_granularity": "per_channel"}, "'.*' has a range for every channel.*per_tensor"),
        ({"activation_dynamic": True}, "'.*' has a range for every example.*activation_dynamic=False"),
        ({"weight_symmetric": True, "symmetric_grid": "authors"}, "weights of 'first'.*'authors'"),
        ({"activation_symmetric": True, "symmetric_grid": "authors"}, "'x': the grid 'authors'"),
        ({"quantize_residual": False}, "'add' gets values that are not quantized.*quantize_residual=True"),
        ({"quantize_skip": False}, "'add' gets values that are not quantized.*quantize_skip=True"),
        ({"pooling": "float"}, "'flatten' gets values that are not quantized.*pooling='high_precision'"),
        ({"weight_granularity": "per_group"}, "'first' has a range for every group.*'per_channel'"),
        ({"input_bits": None}, "'first' gets values that are not quantized.*input_bits=8"),
        ({"weight_bits": None}, "'first' has weights in float.*weight_bits=8"),
        ({"activation_bits": None}, "activations are in float.*activation_bits"),
        ({"weight_bits": {"body": 20}}, "'body' has weights in float.*16 bits or fewer"),
        ({"float_layers": ("body",)}, r"'body' has weights in float.*float_layers=\(\)"),
    ],
    ids=lambda each: "-".join(each) if isinstance(each, dict) else "",
)
def test_what_is_not_in_integers_is_refused_by_name(fields, words):
    quantized = quantize(Block().eval(), QuantConfig(**fields), images())
    with pytest.raises(ValueError, match=words) as caught:
        against_simulation(quantized, images())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "step, words",
    [
        (lambda f, x: F.silu(f(x)), "'silu' computes in float"),
        (lambda f, x: F.softmax(f(x), 1), "'softmax' computes in float"),
        (lambda f, x: F.leaky_relu(f(x)), "'leaky_relu' computes in float"),
        (lambda f, x: f(x) + 1, "'add' computes in float"),
        (lambda f, x: F.avg_pool2d(f(x), 3, 1, 1, False, False), "'avg_pool2d' takes means of more values"),
        (lambda f, x: torch.add(f(x), x, alpha=2), "'add' scales what it adds"),
    ],
)
def test_operations_in_float_are_refused_by_name(step, words):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

        def forward(self, x):
            return self.third(step(self.second, self.first(x)))

    quantized = quantize(Net().eval(), QuantConfig(), images())
    with pytest.raises(ValueError, match=words) as caught:
        IntegerNetwork(quantized)(images())
    assert "\n" not in str(caught.value)


def test_a_network_that_was_saved_is_in_integers_again(tmp_path):
    quantized, network, x = made(0)
    save_quantized(quantized, quantized.meta[MADE_UNDER], tmp_path)
    loaded = load_quantized(network, tmp_path)
    assert torch.equal(IntegerNetwork(loaded)(x), IntegerNetwork(quantized)(x))


def test_answers_in_float_are_sums_times_their_scales_and_are_not_moved():
    x = images(4)
    quantized = quantize(Block().eval(), QuantConfig(quantize_output=False), images())
    with torch.no_grad():
        assert torch.allclose(IntegerNetwork(quantized)(x), quantized(x.clone()), atol=0.05)
    moved = nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten()).eval()
    quantized = quantize(moved, QuantConfig(quantize_output=False), images())
    with pytest.raises(ValueError, match="'1' gets values that are not quantized.*quantize_output=True"):
        IntegerNetwork(quantized)(x)


def test_settings_and_networks_are_checked():
    quantized = planted(8)
    for settings, words in [
        ({"accumulator_bits": 33}, "accumulator_bits.*from 2 to 32, got 33"),
        ({"overflow": "warp"}, "overflow.*'warp'.*wrap"),
        ({"bias": "round"}, "bias.*'round'.*rounded"),
        ({"through": "float32"}, "through: there is no 'float32'"),
    ]:
        with pytest.raises(ValueError, match=words):
            IntegerNetwork(quantized, **settings)
    with pytest.raises(ValueError, match="Sequential is no quantized network"):
        IntegerNetwork(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"on the CPU: pass quantized.cpu\(\)"):
        IntegerNetwork(planted(8).to("meta"))
    with pytest.raises(ValueError, match="no examples"):
        against_simulation(quantized, [])


def test_a_bias_beyond_32_bits_is_refused_with_its_channel():
    layer = nn.Linear(4, 3)
    layer.weight.data[1] = 1e-12
    layer.bias.data[1] = 5.0
    quantized = quantize(nn.Sequential(layer).eval(), QuantConfig(), torch.randn(8, 4))
    with pytest.raises(ValueError, match="channel 1 of '0' exceeds 32 bits.*fewer bits, or .*'per_tensor'"):
        IntegerNetwork(quantized)(torch.randn(2, 4))
    wide = QuantConfig(16, 16, input_bits=16, first_last_bits=None, weight_granularity="per_tensor")
    layer.weight.data[:] = 1e-3
    with pytest.raises(ValueError, match="exceeds 32 bits.*: use fewer bits$"):
        IntegerNetwork(quantize(nn.Sequential(layer).eval(), wide, torch.randn(8, 4)))(torch.randn(2, 4))
