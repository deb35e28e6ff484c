"""`quantize` on the project's own and on foreign networks: what it keeps, where it quantizes, how close it stays."""

import copy

import pytest
import torch
from helpers import MODES, NETWORKS, Block, images, random_network
from torch import nn

import qlib
from qlib import QuantConfig, evaluate, footprint, quantize
from qlib.affine import quantize as codes_of
from qlib.model import Quantizer


def levels(x):
    return len(torch.unique(x))


def inputs_of_layers(network, x):
    """What every convolution and linear layer of ``network`` receives for the batch ``x``, by name."""
    seen, hooks = {}, []
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            hooks.append(layer.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0].clone()})))
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_at_16_bits_a_network_stays_close_to_float(name):
    """Within 1 %. A random ResNet-50 amplifies any rounding a thousandfold (float32's own by as much): 2.5 % there."""
    x = images(16, 3, 64)
    network = random_network(name, x)
    with torch.no_grad():
        expected = network(x)
        actual = quantize(network, QuantConfig(16, 16, input_bits=16, first_last_bits=None), [x])(x)
    centred = expected - expected.mean(0)
    assert (actual - expected).norm() < (0.025 if "resnet50" in name else 0.01) * centred.norm()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_network_is_never_changed(name):
    x = images(4, 3, 64)
    network = random_network(name, x).train()
    before = copy.deepcopy(network.state_dict())
    quantize(network, QuantConfig(4, 4), [x])
    assert network.training and all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_gets_quantized_inputs_and_weights_in_every_placement(name, mode):
    x = images(4, 3, 64)
    config = QuantConfig(3, 3, first_last_bits=None, input_bits=3, quantize_skip=mode[0], quantize_residual=mode[1])
    network = quantize(random_network(name, x), config, [x])
    assert all(levels(tensor) <= 8 for tensor in inputs_of_layers(network, x).values())
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert all(levels(channel) <= 8 for layer in layers for channel in layer.weight.detach().flatten(1))


@pytest.mark.parametrize("mode, quantized", [
    ((True, True), {"first", "body", "body2", "project", "add", "avg_pool", "last"}),
    ((True, False), {"first", "body", "project", "add", "avg_pool", "last"}),
    ((False, True), {"first", "body", "body2", "avg_pool", "last"}),
    ((False, False), {"first", "body", "avg_pool"}),
])  # fmt: skip
def test_which_tensors_each_placement_quantizes(mode, quantized):
    x = images()
    network = quantize(Block(), QuantConfig(quantize_skip=mode[0], quantize_residual=mode[1]), [x])
    names = {m.name for m in network.modules() if isinstance(m, Quantizer)} - {"x"}
    assert {"avg_pool" if n == "pool" else n for n in names} == quantized


def test_both_sides_in_float_is_bit_equal_and_folds_nothing():
    x = images(4, 3, 64)
    network = random_network("torchvision resnet18", x)
    copied = quantize(network, QuantConfig(None, None))
    with torch.no_grad():
        assert torch.equal(copied(x), network(x))
    assert any(isinstance(m, nn.BatchNorm2d) for m in copied.modules())


@pytest.mark.parametrize("mode", MODES)
def test_the_fast_path_equals_the_one_with_gradients_and_spares_the_callers_batch(mode):
    x = images()
    network = quantize(Block(), QuantConfig(4, 4, quantize_skip=mode[0], quantize_residual=mode[1]), [x])
    batch = x.clone()
    with torch.no_grad():
        fast = network(batch)
    assert torch.equal(batch, x)
    slow = network(x.requires_grad_())
    assert torch.equal(fast, slow)
    slow.sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_a_dynamic_range_is_an_images_own(method, granularity):
    x = images() * torch.arange(1, 9).reshape(8, 1, 1, 1)
    config = QuantConfig(activation_bits=4, activation_dynamic=True, activation_range=method, activation_granularity=granularity)
    network = quantize(Block(), config)
    with torch.no_grad():
        assert torch.allclose(network(x)[5:6], network(x[5:6]), atol=1e-5)


def test_a_convolution_in_true_integers_agrees_with_the_simulation():
    """Codes, zero-point corrections, integer accumulation, requantization (paper, section 2.1)."""
    layer, x = nn.Conv2d(3, 5, 3, bias=False), images()
    network = quantize(nn.Sequential(layer), QuantConfig(5, 6, input_bits=7, first_last_bits=None,
                                                         calibration_upstream="quantized"), [x])  # fmt: skip
    entering, leaving = (m.grid for m in network.modules() if isinstance(m, Quantizer))
    rows = layer.weight.detach().flatten(1)
    weights = qlib.affine.make_grid(rows.amin(1), rows.amax(1), 5).reshape(-1, 1, 1, 1)
    w, a = codes_of(layer.weight.detach(), weights).long(), codes_of(x, entering).long()
    dot = nn.functional.conv2d(a.double(), w.double()).long()  # exact: sums stay far below 2**53
    sums = nn.functional.conv2d(a.double(), torch.ones_like(w[:1]).double()).long()
    zw, za = weights.zero_point.long().reshape(1, -1, 1, 1), entering.zero_point.long()
    total = dot - zw * sums - za * w.sum((1, 2, 3)).reshape(1, -1, 1, 1) + za * zw * w[0].numel()
    assert total.abs().max() < 2**31
    scale = entering.scale.double() * weights.scale.double().reshape(1, -1, 1, 1) / leaving.scale.double()
    expected = torch.clamp(torch.round(total * scale) + leaving.zero_point, leaving.code_min, leaving.code_max)
    with torch.no_grad():
        actual = torch.round(network(x) / leaving.scale) + leaving.zero_point
    assert (actual != expected).double().mean() < 1e-3 and (actual - expected).abs().max() <= 1


def test_integer_pooling_rounds_the_mean_of_codes():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.pool = nn.Conv2d(1, 1, 1, bias=False), nn.AvgPool2d(2)
            self.layer.weight.data.fill_(1.0)

        def forward(self, x):
            return self.pool(self.layer(x))

    x = torch.randint(-7, 9, (64, 1, 4, 4)).float()
    x[0, 0, 0, :2] = torch.tensor([-7.0, 8.0])  # the range is a whole number of steps, so many means are ties
    config = QuantConfig(None, 4, input_bits=None, first_last_bits=None, pooling="low_precision", quantize_output=False)
    with torch.no_grad():
        actual = quantize(Pooled(), config, [x])(x)
    codes = nn.functional.avg_pool2d(x + 7, 2)
    assert torch.equal(actual, torch.round(codes) - 7) and (codes % 1 == 0.5).any()


def test_17_to_32_bits_stay_in_float_and_tuples_are_per_channel():
    x = images()
    config = QuantConfig(weight_bits={"body": (2, 3, 4, 5, 2, 3, 4, 5), "first": 32}, activation_bits={"default": 32})
    original = Block()
    network = quantize(original, config, [x])
    assert all(levels(c) <= 2**b for c, b in zip(network.body.weight.detach(), config.weight_bits["body"], strict=True))
    assert torch.equal(network.first.weight, original.first.weight)
    assert {m.name for m in network.modules() if isinstance(m, Quantizer)} == {"x", "first", "last"}  # the others: 32 bits


@pytest.mark.parametrize("bits", [{"nowhere": 4}, {"body.": 4}])
@pytest.mark.parametrize("side", ["weight_bits", "activation_bits"])
def test_bits_of_a_layer_that_is_not_there(side, bits):
    with pytest.raises(ValueError, match=next(iter(bits))):
        quantize(Block(), QuantConfig(**{side: bits}), [images()])


def faulty_weight(value):
    net = Block()
    net.body.weight.data[0, 0, 0, 0] = value
    return net


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else x


@pytest.mark.parametrize("model, config, calibration, culprit", [
    (lambda: Branching(), {}, lambda: [torch.ones(2, 3)], "Branching cannot be traced"),
    (lambda: nn.Sequential(nn.ReLU()), {}, lambda: [images()], "no convolution or linear layer"),
    (lambda: nn.Sequential(nn.ConvTranspose2d(3, 3, 1)), {}, lambda: [images()], "ConvTranspose2d"),
    (lambda: faulty_weight(float("nan")), {}, lambda: [images()], "body.weight"),
    (lambda: faulty_weight(float("inf")), {}, lambda: [images()], "body.weight"),
    (Block, {}, lambda: [], "calibration is empty"),
    (Block, {}, lambda: None, "calibration is empty"),
    (Block, {}, lambda: [images(channels=1)], "calibration batch 0 .*'first'"),
    (Block, {}, lambda: [images(), images() * float("nan")], "calibration batch 1 holds NaN"),
    (Block, {}, lambda: ["image"], "calibration batch 0"),
    (Block, {"weight_bits": {"body": (1, 2)}}, lambda: [images()], "body.* 2 entries"),
    (Block, {"activation_bits": {"body": (1, 2)}}, lambda: [images()], "body.* 2 entries"),
])  # fmt: skip
def test_bad_input_to_quantize_names_the_culprit(model, config, calibration, culprit):
    with pytest.raises(ValueError, match=culprit):
        quantize(model(), QuantConfig(**config), calibration())


def test_calibration_may_be_absent_where_no_static_range_is_needed():
    for config in (QuantConfig(4, None), QuantConfig(4, 4, activation_dynamic=True)):
        assert torch.isfinite(quantize(Block(), config, [])(images())).all()


def test_calibration_may_be_a_generator_of_pairs_or_one_batch():
    x = images()
    outputs = [quantize(Block().requires_grad_(False), QuantConfig(None, 4), c) for c in (x, [x], [(x, torch.zeros(8))])]
    torch.manual_seed(0)
    net = Block()
    a, b = quantize(net, QuantConfig(4, 4), x), quantize(net, QuantConfig(4, 4), ((x[i : i + 2], 0) for i in range(0, 8, 2)))
    with torch.no_grad():
        assert torch.equal(a(x), b(x)) and len(outputs) == 3


@pytest.mark.parametrize("batches, culprit", [
    ([], "no images"),
    ([images()], "evaluation batch 0"),
    ([(images(), torch.zeros(3, dtype=torch.long))], "8 integer labels"),
    ([(images(channels=1), torch.zeros(8, dtype=torch.long))], "'first'"),
    ([(images() / 0, torch.zeros(8, dtype=torch.long))], "NaN or infinity"),
])  # fmt: skip
def test_bad_input_to_evaluate_names_the_culprit(batches, culprit):
    with pytest.raises(ValueError, match=culprit):
        evaluate(Block(), iter(batches))


RESNET50 = {"torchvision": (16_634_344, 4.193291), "pytorchcv": (16_107_496, None)}


@pytest.mark.parametrize("source", RESNET50)
def test_the_footprint_of_resnet50_is_the_papers(source):
    if source == "torchvision":
        from torchvision.models import resnet50

        model = resnet50()
    else:
        from pytorchcv.model_provider import get_model

        model = get_model("resnet50")
    elements, average = RESNET50[source]
    x = torch.zeros(2, 3, 224, 224)
    cost = footprint(model, x, QuantConfig(4, 4, first_last_bits=None))
    assert cost.weight_elements == 25_502_912 and cost.weight_bytes == 12_751_456
    assert cost.activation_elements == elements and cost.activation_bytes == elements / 2
    assert cost.max_activation_bytes == 401_408
    cost = footprint(model, x, QuantConfig(4, 4))
    assert round(cost.average_weight_bits, 6) == 4.322694 and round(cost.weight_bytes / 1e6, 2) == 13.78
    if average:
        assert round(cost.average_activation_bits, 6) == average and round(cost.activation_bytes / 1e6, 3) == 8.719


def test_what_stays_in_float_counts_32_bits():
    both = QuantConfig(4, 4, first_last_bits=None, quantize_skip=False, quantize_residual=False)
    bits = {layer.name: layer.activation_bits for layer in footprint(Block(), images(), both).layers if layer.counted}
    assert bits == {"first": 4, "body": 4, "body2": 32, "project": 32, "add": 32, "last": 32}
