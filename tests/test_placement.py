"""Where quantizers go, seen in the tensors that flow through a small block and through foreign networks."""

import pytest
import torch
import torch.nn.functional as F
from helpers import MODES, NETWORKS, Block, Record, images, levels, quantizers, random_network
from torch import nn

from qlib import QuantConfig, footprint, quantize
from qlib.network import Kind, read
from qlib.quantizer import Quantizer

LAST_OF_BRANCH = {
    "torchvision resnet18": r"layer\d\.\d\.conv2",
    "torchvision resnet50": r"layer\d\.\d\.conv3",
    "torchvision mobilenet_v2": r"features\.\d+\.conv\.2",
    "pytorchcv resnet10": r"features\.stage\d\.unit\d\.body\.conv2\.conv",
    "pytorchcv mobilenetv2": r"features\.stage\d\.unit\d+\.conv3\.conv",
    "resnet_cifar resnet20": r"layer\d\.\d\.conv2",
}
SHALLOW = [name for name in NETWORKS if name != "torchvision resnet50"]


def in_mode(mode, bits=3, **options):
    """Few bits everywhere, so that what is quantized can be told from what is not by counting values."""
    options = {"first_last_bits": None, "input_bits": bits, **options}
    return QuantConfig(bits, bits, quantize_skip=mode[0], quantize_residual=mode[1], **options)


def record(network, config, x):
    return Record(quantize(network, config, [x]), x)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_layers_and_additions_of_foreign_networks(name, mode):
    x = images(4, 3, 48)
    seen = record(random_network(name, x), in_mode(mode), x)
    assert all(levels(tensor) <= 8 for _, tensor in seen.layers())
    operands = list(seen.additions(LAST_OF_BRANCH[name]))
    assert len(operands) >= 4
    for skip, residual in operands:
        assert (levels(skip) <= 8) == mode[0]
        assert (levels(residual) <= 8) == mode[1]
    assert (levels(seen.output) <= 8) == (mode != (False, False))  # the logits


@pytest.mark.parametrize("mode, count", [*zip(MODES, (31, 23, 27, 18), strict=True)], ids=str)
def test_number_of_quantizers_on_resnet18(mode, count):
    """Image, 20 convolutions, 8 additions, pooling, logits; without the residuals, 8 convolutions fewer.

    Inputs of layers alone: image, stem, 8 outputs inside blocks, 7 of blocks (the last feeds no layer),
    pooling. With the residuals, 8 convolutions and the logits more.
    """
    x = images(2, 3, 32)
    network = quantize(random_network("torchvision resnet18", x), in_mode(mode), [x])
    assert len([m for m in network.modules() if isinstance(m, Quantizer)]) == count


def test_projection_is_quantized_with_the_skip_path_only():
    x = images()
    for mode in MODES:
        network = quantize(Block(), in_mode(mode), [x])
        assert ("project" in quantizers(network)) == mode[0]
        assert ("body2" in quantizers(network)) == mode[1]
        assert "body" in quantizers(network)


def test_middle_mode_as_in_figure_1():
    x = images()
    ((skip, residual),) = record(Block(), in_mode((True, False)), x).additions("body2")
    assert levels(skip) <= 8 < levels(residual)


@pytest.mark.parametrize("name", ["torchvision resnet18", "pytorchcv resnet10"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_max_pooling_keeps_the_grid_it_got(name, mode):
    x = images(2, 3, 48)
    seen = record(random_network(name, x), in_mode(mode), x)
    pools = [n for n in seen.tensors if isinstance(seen.of(n), nn.MaxPool2d)]
    assert len(pools) == 1
    if mode[0]:  # quantized before, and not again behind
        assert set(seen.tensors[pools[0]].unique().tolist()) <= set(
            seen.tensors[pools[0].args[0]].unique().tolist()
        )
        assert levels(seen.tensors[pools[0]]) <= 8
        assert not any(isinstance(seen.of(user), Quantizer) for user in pools[0].users)


def test_padded_slices_keep_the_grid_they_got():
    x = images(2, 3, 32)
    seen = record(random_network("resnet_cifar resnet20", x), in_mode((True, True)), x)
    pads = [n for n in seen.tensors if n.op == "call_function" and n.target is F.pad]
    assert len(pads) == 2
    assert not any(isinstance(seen.of(user), Quantizer) for pad in pads for user in pad.users)
    assert all(levels(seen.tensors[pad]) <= 8 for pad in pads)


# Input, output, pooling


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_image_has_its_own_bits(mode):
    x = images()
    assert levels(record(Block(), in_mode(mode, input_bits=5), x).input_of("first")) in range(9, 33)
    assert torch.equal(record(Block(), in_mode(mode, input_bits=None), x).input_of("first"), x)


def test_image_bits_meet_first_last_bits_where_inputs_alone_are_quantized():
    x = images()
    config = in_mode((False, False), input_bits=8, first_last_bits=2)
    assert levels(record(Block(), config, x).input_of("first")) <= 4
    assert levels(record(Block(), config.replace(quantize_residual=True), x).input_of("first")) > 16


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_logits_stay_in_float_on_request(mode):
    x = images()
    assert levels(record(Block(), in_mode(mode, quantize_output=False), x).output) > 64


@pytest.mark.parametrize("mode", [(True, True), (True, False)], ids=str)
def test_pooling_in_high_precision_gets_a_grid_of_its_own(mode):
    x = images()
    seen = record(Block(), in_mode(mode), x)
    before, after = seen.around(nn.AvgPool2d)
    assert levels(before) <= 8 and levels(after) > 8
    assert levels(seen.input_of("last")) <= 8
    assert not set(seen.input_of("last").unique().tolist()) <= set(before.unique().tolist())


@pytest.mark.parametrize("mode", [(True, True), (True, False)], ids=str)
def test_pooling_in_low_precision_stays_on_the_grid_it_got(mode):
    x = images()
    seen = record(Block(), in_mode(mode, pooling="low_precision"), x)
    network = seen.module
    grid = quantizers(network)["add"].grid
    assert "pool" not in quantizers(network)
    codes = seen.input_of("last") / grid.scale
    assert levels(codes) > 2 and torch.allclose(codes, codes.round(), atol=1e-4)


@pytest.mark.parametrize("mode", [(True, True), (True, False)], ids=str)
def test_pooling_in_float_is_left_alone(mode):
    x = images()
    seen = record(Block(), in_mode(mode, pooling="float"), x)
    before, after = seen.around(nn.AvgPool2d)
    assert levels(before) <= 8 and torch.equal(seen.input_of("last"), after.flatten(1))


@pytest.mark.parametrize("pooling", ["high_precision", "low_precision"])
@pytest.mark.parametrize("mode", [(False, True), (False, False)], ids=str)
def test_pooling_of_a_skip_path_in_float_is_quantized_at_the_layer_it_feeds(mode, pooling):
    seen = record(Block(), in_mode(mode, pooling=pooling), images())
    before, after = seen.around(nn.AvgPool2d)
    assert levels(before) > 8 and levels(after) > 8 and levels(seen.input_of("last")) <= 8


# Bits


def bits_of(network):
    return {name: q.bits for name, q in quantizers(network).items() if name != "x"}


@pytest.mark.parametrize(
    "mode, expected",
    [
        ((True, True), {"first": 7, "body": 3, "project": 3, "body2": 3, "add": 3, "pool": 3, "last": 7}),
        ((True, False), {"first": 7, "body": 3, "project": 3, "add": 3, "pool": 3, "last": 7}),
        ((False, True), {"first": 7, "body": 3, "body2": 3, "pool": 3, "last": 7}),
        ((False, False), {"first": 7, "body": 3, "pool": 3}),
    ],
    ids=str,
)
def test_first_and_last_bits_of_activations(mode, expected):
    assert bits_of(quantize(Block(), in_mode(mode, first_last_bits=7), images())) == expected


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_first_and_last_bits_of_weights(mode):
    network = quantize(Block(), in_mode(mode, first_last_bits=7), images())
    for name in ("first", "body", "project", "body2", "last"):
        rows = network.get_submodule(name).weight.detach().flatten(1)
        most = max(levels(row) for row in rows)
        assert most <= 8 if name in ("body", "project", "body2") else 8 < most <= 128


def test_entry_in_a_dictionary_precedes_first_last_precedes_default():
    config = QuantConfig(
        activation_bits={"first": 2, "add": 5, "default": 3}, weight_bits={"last": 2, "body": 5}
    )
    network = quantize(Block(), config, images())
    assert bits_of(network) == {
        "first": 2,
        "body": 3,
        "project": 3,
        "body2": 3,
        "add": 5,
        "pool": 3,
        "last": 8,
    }
    layers = footprint(Block(), images(), config).layers
    weight_bits = {layer.name: layer.weight_bits for layer in layers if layer.weight_elements}
    assert weight_bits == {"first": 8, "body": 5, "project": 8, "body2": 8, "last": 2}
    assert levels(network.body.weight[0].detach()) > 8 and levels(network.last.weight[0].detach()) <= 4


def test_every_name_that_the_footprint_lists_can_be_given_bits():
    names = [layer.name for layer in footprint(Block(), images(), QuantConfig()).layers]
    assert names == ["first", "body", "body2", "project", "add", "pool", "last"]
    network = quantize(Block(), QuantConfig(activation_bits=dict.fromkeys(names, 6)), images())
    assert bits_of(network) == dict.fromkeys(names, 6)


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_tuple_gives_every_output_channel_its_bits(granularity):
    bits = (1, 2, 3, 4, 5, 6, 7, 8)
    options = {
        "weight_granularity": granularity,
        "activation_granularity": granularity,
        "first_last_bits": None,
    }
    x = images(32)
    network = quantize(Block(), QuantConfig({"body": bits}, {"body": bits}, **options), x)
    seen = Record(network, x).input_of("body2")
    for channel, b in enumerate(bits):
        assert levels(network.body.weight[channel].detach()) <= 2**b
        assert levels(seen[:, channel]) <= 2**b
    assert levels(seen[:, 5]) > 4 and levels(network.body.weight[5].detach()) > 4


@pytest.mark.parametrize("bits", [17, 24, 32])
def test_17_to_32_bits_pass_through_as_float_and_count_at_their_bits(bits):
    config = QuantConfig({"body": bits}, {"add": bits}, first_last_bits=None)
    original = Block()
    network = quantize(original, config, images())
    assert torch.equal(network.body.weight, original.body.weight)
    assert not torch.equal(network.body2.weight, original.body2.weight)
    assert "add" not in quantizers(network)
    layers = {layer.name: layer for layer in footprint(original, images(), config).layers}
    assert layers["body"].weight_bits == bits and layers["add"].activation_bits == bits


def test_bits_none_switches_a_whole_side_off():
    x = images()
    original = Block()
    weights_only = quantize(original, QuantConfig(4, None, first_last_bits=2, input_bits=2))
    assert not quantizers(weights_only) and levels(weights_only.first.weight[0].detach()) <= 4
    activations_only = quantize(original, QuantConfig(None, 4), x)
    assert torch.equal(activations_only.first.weight, original.first.weight) and quantizers(activations_only)


def test_biases_stay_in_float():
    original = Block()
    network = quantize(original, QuantConfig(2, 2), images())
    for name in ("first", "body", "last"):
        assert torch.equal(network.get_submodule(name).bias, original.get_submodule(name).bias)


# Operations of every kind


class Net(nn.Module):
    """Two 3 x 3 convolutions of 4 channels, put together by a function."""

    def __init__(self, together):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.relu6 = nn.ReLU6(inplace=True)
        self.drop = nn.Dropout()
        self.norm = nn.BatchNorm2d(4)
        self.together = together

    def forward(self, x):
        return self.together(self, x)


def overwrites_its_input(net, x):
    y = net.a(x)
    net.relu(y)
    return net.b(y)


def overwrites_what_a_skip_reads(net, x):
    y = net.a(x)
    return net.b(net.relu(y)) + y


def overwrites_by_method(net, x):
    y = net.a(x)
    y.add_(1.0)
    return net.b(y)


def overwrites_by_function(net, x):
    y = net.a(x)
    F.relu(y, inplace=True)
    return net.b(y) + y


def overwrites_in_a_sum(net, x):
    y = net.a(x)
    y.add_(net.b(y))
    return y


IN_PLACE = [
    overwrites_its_input,
    overwrites_what_a_skip_reads,
    overwrites_by_method,
    overwrites_by_function,
    overwrites_in_a_sum,
]


@pytest.mark.parametrize("together", IN_PLACE)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_operations_in_place_mean_what_they_meant(together, mode):
    x = images()
    net = Net(together).eval()
    with torch.no_grad():
        expected = net(x)
    config = in_mode(mode, 16)
    torch.testing.assert_close(quantize(net, config, [x])(x), expected, atol=2e-3, rtol=0)


WRITINGS = {
    "x + y": lambda net, x: net.b(net.a(x)) + net.a(x),
    "torch.add": lambda net, x: torch.add(net.b(net.a(x)), net.a(x)),
    "torch.add by name": lambda net, x: torch.add(input=net.b(net.a(x)), other=net.a(x)),
    "x.add": lambda net, x: net.b(net.a(x)).add(net.a(x)),
    "x.add_": lambda net, x: net.b(net.a(x)).add_(net.a(x)),
    "twice the same": lambda net, x: (lambda y: y + y)(net.a(x)),
    "mul by name": lambda net, x: torch.mul(input=net.b(net.a(x)), other=net.a(x)),
    "cat by name": lambda net, x: torch.cat(tensors=[net.b(net.a(x)), net.a(x)], dim=1),
}


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("writing", WRITINGS)
def test_every_way_to_write_an_operation(writing, mode):
    x = images()
    net = Net(WRITINGS[writing]).eval()
    seen = record(net, in_mode(mode, quantize_output=False), x)
    kinds = [o.kind for o in read(net).operations.values()]
    assert {Kind.ADD, Kind.MULTIPLY, Kind.CONCAT} & set(kinds)
    with torch.no_grad():
        torch.testing.assert_close(quantize(net, in_mode(mode, 16), [x])(x), net(x), atol=2e-3, rtol=0)
    assert all(levels(tensor) <= 8 for _, tensor in seen.layers())


FORMS = {
    "relu by name": lambda net, x: net.b(F.relu(input=net.a(x))),
    "relu method": lambda net, x: net.b(net.a(x).relu()),
    "clamp": lambda net, x: net.b(net.a(x).clamp(min=0)),
    "relu6": lambda net, x: net.b(net.relu6(net.a(x))),
    "gelu": lambda net, x: net.b(F.gelu(net.a(x))),
    "sigmoid gate": lambda net, x: (lambda y: net.b(torch.sigmoid(y) * y))(net.a(x)),
    "concatenation": lambda net, x: net.b(torch.cat([net.a(x)[:, :2], net.a(x)[:, 2:]], dim=1)),
    "dropout": lambda net, x: net.b(net.drop(net.a(x))),
    "functional dropout": lambda net, x: net.b(F.dropout(net.a(x), training=net.training)),
    "pooling by name": lambda net, x: net.b(F.avg_pool2d(input=net.a(x), kernel_size=2)),
    "softmax": lambda net, x: net.b(F.softmax(net.a(x), dim=1)),
    "max-pool by name": lambda net, x: net.b(F.max_pool2d(input=net.a(x), kernel_size=2)),
    "batch norm after an activation": lambda net, x: net.b(net.norm(F.relu(net.a(x)))),
    "batch norm by name": lambda net, x: net.b(net.norm(input=net.a(x))),
    "layer by name": lambda net, x: net.b(input=net.a(input=x)),
    "one layer twice": lambda net, x: net.b(F.relu(net.b(net.a(x)))),
    "padded": lambda net, x: net.b(F.pad(net.a(x), (1, 1, 1, 1))),
    "padded image": lambda net, x: net.b(net.a(F.pad(x, (1, 1, 1, 1)))),
    "image on the skip path": lambda net, x: (lambda y: net.a(y) + y[:, :1])(F.pad(x, (1, 1, 1, 1))),
    "channels": lambda net, x: net.b(torch.cat(net.a(x).chunk(2, dim=1)[::-1], dim=1)),
    "constant": lambda net, x: net.b(net.a(x) * 2 + 1),
    "two outputs": lambda net, x: (lambda y: (net.b(y), y))(net.a(x)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("input_bits", [None, 16])
def test_forms_of_networks(form, mode, input_bits):
    x = images()
    net = Net(FORMS[form]).eval()
    net.norm.running_mean.normal_()
    net.norm.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():
        expected = net(x)
        actual = quantize(net, in_mode(mode, 16, input_bits=input_bits), [x])(x)
        torch.testing.assert_close(actual, expected, atol=5e-3, rtol=0)
    seen = record(net, in_mode(mode, input_bits=input_bits and 3), x)
    assert all(levels(tensor) <= 8 for name, tensor in seen.layers() if input_bits or name != "a")


def test_batch_norm_is_folded_into_the_layer_before_it():
    x = images()
    network = Net(lambda net, x: net.b(net.norm(net.a(x))))
    network.norm.running_var.uniform_(0.5, 2.0)
    folded = quantize(network, QuantConfig(8, None))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    scale = network.norm.weight / torch.sqrt(network.norm.running_var + network.norm.eps)
    torch.testing.assert_close(
        folded.a.weight, scale[:, None, None, None] * network.a.weight, atol=2e-3, rtol=0
    )
    with torch.no_grad():
        actual = quantize(network, in_mode((True, True), 16), [x])(x)
        torch.testing.assert_close(actual, network.eval()(x), atol=2e-3, rtol=0)


def test_activation_function_comes_before_the_quantizer():
    for form in ("relu method", "relu6", "gelu"):
        grid = quantizers(quantize(Net(FORMS[form]), in_mode((True, True)), images()))["a"].grid
        assert grid.zero_point <= (1 if form == "gelu" else 0)


@pytest.mark.parametrize("name", SHALLOW)
def test_operations_of_foreign_networks_are_all_understood(name):
    operations = read(NETWORKS[name]()).operations.values()
    assert Kind.OTHER not in {o.kind for o in operations}
