"""`quantize` on networks that the project did not write."""

import pytest
import torch
from helpers import FLOAT, MODES, NETWORKS, images, levels, random_network, snapshot
from torch import nn

from qlib import QuantConfig, quantize
from qlib.book import networks

SIZE = 64
RECORDED = networks.load()


def centred_error(actual, expected):
    """The error relative to what tells images apart."""
    return ((actual - expected).norm() / (expected - expected.mean(0)).norm()).item()


@pytest.mark.parametrize("name", NETWORKS)
def test_at_16_bits_the_output_stays_within_a_percent(name):
    # 2.5 % for a random ResNet-50: its 53 layers amplify every rounding a thousandfold, float32's own as much
    x = images(16, 3, SIZE)
    network = random_network(name, x)
    with torch.no_grad():
        expected = network(x)
        actual = quantize(network, QuantConfig(16, 16, input_bits=16, first_last_bits=None), x)(x)
    assert 0 < centred_error(actual, expected) < (0.025 if "resnet50" in name else 0.01)


def test_the_exception_for_resnet50_is_its_own_sensitivity():
    x = images(16, 3, SIZE)
    network = random_network("torchvision resnet50", x)
    with torch.no_grad():
        expected = network(x)
        exact = network.double()(x.double())
    assert centred_error(expected, exact) > 300 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "options", [{}, FLOAT, {"activation_dynamic": True}], ids=["static", "float", "dynamic"]
)
def test_the_network_given_is_left_as_it_is(name, options):
    x = images(2, 3, SIZE)
    network = random_network(name, x)
    network.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        expected = network(x)
    network.train()
    state, modes, hooks = snapshot(network)
    quantize(network, QuantConfig(**options), x)
    now = snapshot(network)
    assert all(torch.equal(state[key], tensor) for key, tensor in now[0].items())
    assert now[1:] == (modes, hooks) and all(modes)
    with torch.no_grad():
        assert torch.equal(network.eval()(x), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_both_sides_in_float_give_bit_equal_outputs(name):
    x = images(2, 3, SIZE)
    network = random_network(name, x)
    copy = quantize(network.train(), QuantConfig(**FLOAT))
    assert copy is not network and not copy.training
    with torch.no_grad():
        assert torch.equal(copy(x), network.eval()(x))
    assert [type(m) for m in copy.modules()] == [type(m) for m in network.modules()]  # nothing is folded


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_do_not_depend_on_whether_gradients_are_recorded(name, mode):
    x = images(2, 3, SIZE)
    config = QuantConfig(4, 4, quantize_skip=mode[0], quantize_residual=mode[1])
    network = quantize(random_network(name, x), config, x)
    before = x.clone()
    recorded = network(x).detach()
    with torch.no_grad():
        unrecorded = network(x)
    with torch.inference_mode():
        inferred = network(x)
    assert torch.equal(recorded, unrecorded) and torch.equal(recorded, inferred)
    assert torch.equal(x, before)


@pytest.mark.parametrize("bits", [2, 3, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_hold_no_more_values_than_their_bits_allow(name, bits):
    network = quantize(
        random_network(name, images(2, 3, SIZE)), QuantConfig(bits, None, first_last_bits=None)
    )
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert max(levels(row) for layer in layers for row in layer.weight.detach().flatten(1)[:8]) <= 2**bits
    per_tensor = QuantConfig(bits, None, first_last_bits=None, weight_granularity="per_tensor")
    network = quantize(random_network(name, images(2, 3, SIZE)), per_tensor)
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert max(levels(layer.weight.detach()) for layer in layers) <= 2**bits


# What is recorded of three libraries' networks


def test_nine_in_ten_of_torchvisions_networks_pass():
    rows = RECORDED[RECORDED.library == "torchvision"]
    missing = set(networks.names("torchvision")) - set(rows.network)
    assert len(networks.names("torchvision")) == 80 and missing <= set(networks.LARGE)
    assert rows.apply(networks.passes, axis=1).sum() >= 0.9 * 80  # a missing one counts as failed


@pytest.mark.parametrize("library", networks.NETWORKS)
def test_many_families_of_other_libraries_are_recorded(library):
    rows = RECORDED[RECORDED.library == library]
    assert list(rows.network) == networks.NETWORKS[library] and len(rows) >= 30
    assert rows.apply(networks.passes, axis=1).mean() >= 0.6


def test_a_network_that_is_read_still_computes_the_same():
    rows = RECORDED[RECORDED.read]
    # Float32's roundings, amplified
    assert (rows.layers > 0).all() and (rows.error_float <= rows.error_16 / 10).all()
    others = RECORDED[~RECORDED.read]
    assert others.reason.str.len().min() > 20  # why not


REPRESENTATIVES = [
    ("torchvision", "squeezenet1_1"),
    ("torchvision", "resnet18"),
    ("torchvision", "vit_b_32"),
    ("torchvision", "swin_t"),
    ("pytorchcv", "mobilenetv2_wd4"),
    ("timm", "pit_ti_224"),
]


@pytest.mark.parametrize("library, name", REPRESENTATIVES)
def test_representatives_give_what_is_recorded(library, name):
    pytest.importorskip(library)
    (row,) = RECORDED[(RECORDED.library == library) & (RECORDED.network == name)].to_dict("records")
    found = networks.measure(library, name)
    for column in ("pixels", "read", "layers", "additions", "products"):
        assert found[column] == row[column], column
    assert networks.passes(found) == networks.passes(row)
    assert found["error_8"] == pytest.approx(row["error_8"], rel=0.5)  # other processors round otherwise


def test_a_network_that_cannot_be_read_says_why():
    found = networks.measure("pytorchcv", "revnet38")
    assert not found["read"] and "cannot be traced by torch.fx" in found["reason"]


def test_the_page_counts_and_shows_every_network():
    text = networks.as_markdown()
    assert text.count("<tr>") == len(RECORDED) + 1 and "| torchvision" in text
    passed = RECORDED[RECORDED.library == "torchvision"].apply(networks.passes, axis=1).sum()
    assert f" {RECORDED[RECORDED.library == 'torchvision'].read.sum()} | {passed} (" in text
    missing = [name for name in networks.names("torchvision") if name not in set(RECORDED.network)]
    assert ("Not measured" in text) == bool(missing) and all(name in text for name in missing)
