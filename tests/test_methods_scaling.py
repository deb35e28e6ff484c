"""Methods that scale channels between layers: the network computes what it did, and ranges fit better."""

import warnings

import pytest
import torch
from helpers import Block, Net, assert_unchanged, run, snapshot
from torch import nn

from qlib import QuantConfig, quantize
from qlib.export import load_quantized, save_quantized
from qlib.methods import Work, words
from qlib.methods.equalize import Equalize
from qlib.methods.smooth import Smooth
from qlib.network import read
from qlib.network.chains import chains, inputs_first, largest, rescale, scale_outputs
from qlib.network.operations import rows_of
from qlib.placement import place

CONFIG = QuantConfig(8, 8, first_last_bits=None)


def uneven(network):
    """``network`` with channels of very different sizes, and biases."""
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in network.modules():
            if hasattr(layer, "kernel_size") and hasattr(layer, "weight") or isinstance(layer, nn.Linear):
                scale_outputs(layer, torch.exp(2 * torch.randn(len(rows_of(layer.weight, layer)))))
    return network.eval()


def mlp(between):
    return nn.Sequential(nn.Linear(6, 8), between, nn.Linear(8, 4))


NETWORKS = {  # a network with pairs of layers, and inputs
    "linear": lambda: (mlp(nn.ReLU()), torch.rand(32, 6)),
    "leaky": lambda: (mlp(nn.LeakyReLU()), torch.rand(32, 6)),
    "one slope a channel": lambda: (mlp(nn.PReLU(8)), torch.rand(32, 6)),
    "nothing between": lambda: (mlp(nn.Identity()), torch.rand(32, 6)),
    "tokens": lambda: (mlp(nn.ReLU()), torch.rand(8, 5, 6)),
    "convolutions, pooled and flattened": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3),
            nn.ReLU(),
            nn.AvgPool2d(2, padding=1),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(32, 4),
        ),
        torch.rand(16, 3, 10, 10),
    ),
    "depthwise and grouped": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 6, 1),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 1, groups=2),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 6, 2, groups=2),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 2, 2),
        ),
        torch.rand(16, 3, 6, 6),
    ),
    "residual": lambda: (Block(), torch.rand(16, 3, 8, 8)),
    "a function": lambda: (
        Net(
            lambda net, x: net.b(torch.relu(net.a(x)).flatten(1)) + net.c(x).relu().mean(),
            a=nn.Conv2d(3, 4, 3),
            b=nn.Linear(64, 3),
            c=nn.Conv2d(3, 4, 3),
        ),
        torch.rand(16, 3, 6, 6),
    ),
}


def scaled(method, network, x):
    """The float network after a method that works before ranges are found, as it was read."""
    work = Work(CONFIG, found := read(network, x), place(found, CONFIG), [x])
    method.apply(work)
    return found


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", [Equalize(absorb=False), Smooth(), Smooth(strength=0.9)], ids=str)
def test_the_network_computes_what_it_did(method, name):
    network, x = NETWORKS[name]()
    uneven(network)
    before = snapshot(network)
    found = scaled(method, network, x)
    (expected,), (now,) = run(network, x), run(found.module, x)
    torch.testing.assert_close(now, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    plain = read(network).module
    weights = [(found.module.get_submodule(n).weight, plain.get_submodule(n).weight) for n in found.layers]
    assert sum(not torch.allclose(*pair) for pair in weights) >= 2
    assert_unchanged(network, before)


@pytest.mark.parametrize("name", NETWORKS)
def test_pairs_have_equal_ranges_by_channel(name):
    network, x = NETWORKS[name]()
    found = scaled(Equalize(absorb=False, sweeps=200), uneven(network), x)
    pairs = [chain for chain in chains(found) if chain.after and not chain.broken]
    assert pairs
    for chain in pairs:
        layer = found.module.get_submodule(chain.before)
        here = largest(rows_of(layer.weight.data, layer))
        after = [largest(inputs_first(found.module.get_submodule(n), len(here))) for n in chain.after]
        torch.testing.assert_close(here, torch.stack(after).amax(0), rtol=0.01, atol=1e-6)


def noise(network, x, config, method):
    (expected,), (found,) = run(network, x), run(quantize(network, config, x, method), x)
    return (found - expected).square().mean().item()


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_scaled_before_is_undone(name):
    network, x = NETWORKS[name]()
    config = QuantConfig(4, None, weight_granularity="per_tensor", first_last_bits=None)
    how = Equalize(absorb=False, sweeps=500)
    plain = read(network.eval(), x)
    uneven = read(network, x)
    torch.manual_seed(1)
    for chain in chains(uneven):
        if chain.after and not chain.broken:
            layer = uneven.module.get_submodule(chain.before)
            rescale(uneven, chain, torch.exp(2 * torch.randn(len(rows_of(layer.weight, layer)))))
    (expected,) = run(network, x)
    as_it_was, as_scaled, nearest = (
        (run(quantize(given, config, x, method), x)[0] - expected).norm()
        for given, method in ((plain, how), (uneven, how), (uneven, "nearest"))
    )
    assert abs(as_scaled - as_it_was) < 0.1 * as_it_was and as_scaled < 0.7 * nearest


def test_smoothing_takes_outliers_out_of_activations():
    network = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 8)).eval()
    with torch.no_grad():
        network[0].weight[3] = 60.0
        network[1].weight[:, 3] /= 60.0
    x = torch.randn(64, 16)
    config = QuantConfig(8, 6, first_last_bits=None, quantize_output=False)
    assert noise(network, x, config, "smooth") < 0.2 * noise(network, x, config, "nearest")
    found = scaled(Smooth(), network, x).module
    now = network[0](x).abs().amax(0) / (network[0].weight / found.get_submodule("0").weight)
    torch.testing.assert_close(now, found.get_submodule("1").weight.abs().amax(0), rtol=1e-4, atol=1e-5)


def attention(norm):
    return Net(
        lambda net, x: x + net.out(torch.softmax(net.q(y := net.norm(x)) @ net.k(y).mT, -1) @ net.v(y)),
        norm=norm(),
        **{name: nn.Linear(8, 8) for name in ("q", "k", "v", "out")},
    ).eval()


@pytest.mark.parametrize("norm", [lambda: nn.LayerNorm(8), lambda: nn.RMSNorm(8)], ids=["layer", "rms"])
def test_all_readers_of_a_norm_are_scaled(norm):
    network, x = attention(norm), torch.rand(6, 5, 8)
    with torch.no_grad():
        network.norm.weight.copy_(torch.rand(8) * 10)
    found = scaled(Smooth(), network, x)
    (expected,), (now,) = run(network, x), run(found.module, x)
    torch.testing.assert_close(now, expected, rtol=1e-4, atol=1e-4)
    (chain,) = [chain for chain in chains(found) if chain.after and not chain.broken]
    assert (chain.before, chain.after) == ("norm", ["q", "k", "v"])


def test_a_norm_that_was_scaled_is_saved(tmp_path):
    network, x = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4)).eval(), torch.rand(16, 6)
    quantized = quantize(network, CONFIG, x, "smooth")
    save_quantized(quantized, CONFIG, tmp_path)
    assert torch.equal(*run(load_quantized(network, tmp_path), x), *run(quantized, x))


# ------------------------------------------------------------------------------------------------------------
# Biases


def high(bias=5.0):
    """Two layers; what the first gives is far above 0."""
    network, x = mlp(nn.ReLU()).eval(), torch.rand(200, 6)
    with torch.no_grad():
        network[0].bias += bias
    return network, x


def test_high_biases_are_absorbed():
    network, x = high()
    plain, absorbed = (scaled(Equalize(absorb=absorb), network, x).module for absorb in (False, True))
    (expected,), (now,) = run(network, x), run(absorbed, x)
    torch.testing.assert_close(now, expected, rtol=0.02, atol=0.02)  # 3 deviations are not all values
    with torch.no_grad():
        before, after = (m.get_submodule("0")(x).amax(0) for m in (plain, absorbed))
    assert (after < 0.7 * before).all() and (after > 0).all()


def test_where_zeros_are_padded_nothing_is_absorbed():
    x = torch.rand(32, 3, 6, 6)
    for padding, changes in ((0, True), (1, False)):
        network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=padding)).eval()
        with torch.no_grad():
            network[0].bias += 5
        found = scaled(Equalize(), network, x).module
        plain = scaled(Equalize(absorb=False), network, x).module
        assert torch.equal(found.get_submodule("2").bias, plain.get_submodule("2").bias) != changes
        (expected,), (now,) = run(network, x), run(found, x)
        torch.testing.assert_close(now, expected, rtol=0.02, atol=0.02)


def test_biases_below_stay():
    network, x = high(-5.0)
    plain, absorbed = (scaled(Equalize(absorb=absorb), network, x).module for absorb in (False, True))
    assert torch.equal(plain.get_submodule("0").bias, absorbed.get_submodule("0").bias)


# ------------------------------------------------------------------------------------------------------------
# What cannot be scaled


@pytest.mark.parametrize("method", ["equalize", "smooth"])
def test_what_lets_no_factor_pass_is_left_and_said(method):
    network = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 4)
    ).eval()
    x = torch.rand(16, 6)
    with pytest.warns(UserWarning, match=f"'{method}' leaves .* 0 stands ReLU6; behind 4 stands GELU"):
        found = quantize(network, CONFIG, x, method)
    plain = quantize(network, CONFIG, x)
    same = [torch.equal(found.get_submodule(n).weight, plain.get_submodule(n).weight) for n in "0246"]
    assert same == [True, False, False, True]


@pytest.mark.parametrize("method", ["equalize", "smooth"])
def test_a_network_without_pairs_is_refused(method):
    network = mlp(nn.ReLU6())
    with pytest.raises(ValueError, match=f"'{method}' scales .* has no such layers: behind 0 stands ReLU6"):
        quantize(network, CONFIG, torch.rand(16, 6), method)


@pytest.mark.parametrize("method", ["equalize", "smooth"])
def test_layers_used_twice_tied_or_in_float_are_left(method):
    x = torch.rand(16, 6)
    twice = Net(
        lambda net, x: net.c(torch.relu(net.b(torch.relu(net.b(torch.relu(net.a(x))))))),
        a=nn.Linear(6, 6),
        b=nn.Linear(6, 6),
        c=nn.Linear(6, 6),
    )
    tied = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    tied[2].weight = tied[0].weight
    left = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    for network, config in ((twice, CONFIG), (tied, CONFIG), (left, CONFIG.replace(float_layers=("2",)))):
        with pytest.raises(ValueError, match="has no such layers"):
            quantize(network.eval(), config, x, method)


def test_equalizing_alone_needs_no_data():
    network, _ = NETWORKS["linear"]()
    config = QuantConfig(4, None)
    assert quantize(network, config, None, Equalize(absorb=False)) is not None
    with pytest.raises(ValueError, match="the method 'equalize' looks at calibration data"):
        quantize(network, config, None, "equalize")


def test_several_methods_work_one_after_the_other():
    network, x = NETWORKS["residual"]()
    uneven(network)
    config = QuantConfig(4, 8, weight_granularity="per_tensor", first_last_bits=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        together = noise(network, x, config, ["equalize", "gptq", "bias"])
    assert together < noise(network, x, config, "equalize")


def test_cards_say_what_was_done():
    assert words("equalize")["technique"] == "post-training, layers equalized, high biases absorbed"
    both = words(["smooth", Equalize(absorb=False), "bias"])["technique"]
    assert (
        both
        == "post-training, activations scaled into weights, layers equalized (absorb False), biases corrected"
    )
