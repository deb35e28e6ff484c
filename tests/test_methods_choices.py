"""Every method under every choice: weights lie on the grid that the configuration says, one seed gives one
result, 8 bits change nothing, and what a method cannot do it refuses by name.
"""

import copy

import pytest
import torch
from helpers import Block, assert_unchanged, run, snapshot
from test_methods import NETWORKS
from torch import nn

from qlib import QuantConfig, quantize
from qlib.methods import find_methods, identity, spelled, unspelled, words
from qlib.network import read
from qlib.network.inputs import split
from qlib.network.operations import rows_of
from qlib.quantizer import weight_grid

SMALL = QuantConfig(3, None, first_last_bits=None)
METHODS = {
    "gptq": "gptq",
    "gptq, natural order": {"name": "gptq", "order": "natural"},
    "gptq, float inputs": {"name": "gptq", "inputs": "float"},
    "adaround": {"name": "adaround", "steps": 20},
    "adaround, float inputs": {"name": "adaround", "steps": 20, "inputs": "float"},
    "blocks": {"name": "blocks", "steps": 20, "batch": 8},
    "blocks, float inputs": {"name": "blocks", "steps": 20, "batch": 8, "inputs": "float"},
    "blocks, dropping": {"name": "blocks", "steps": 20, "batch": 8, "drop": 0.5, "seed": 3},
}
CHOICES = {
    "asymmetric": {},
    "symmetric": {"weight_symmetric": True},
    "restricted": {"weight_symmetric": True, "symmetric_grid": "restricted"},
    "authors": {"weight_symmetric": True, "symmetric_grid": "authors"},
    "per tensor": {"weight_granularity": "per_tensor"},
    "squared error": {"weight_range": "mse"},
    "analytic": {"weight_range": "aciq", "activation_bits": 4, "activation_range": "aciq"},
    "percentile": {"weight_range": "percentile", "percentile": 97.0},
    "one bit": {"weight_bits": 1},
    "ends": {"first_last_bits": 8},
    "by layer": {"weight_bits": {"default": 3, "body": 2, "last": 24}},
    "by channel": {"weight_bits": {"default": 3, "body": (2, 3, 4, 5) * 2}},
    "layers in float": {"float_layers": ("body2",)},
    "activations": {"activation_bits": 4},
    "activations, symmetric": {"activation_bits": 4, "activation_symmetric": True},
    "activations per channel": {"activation_bits": 4, "activation_granularity": "per_channel"},
    "a range for each example": {"activation_bits": 4, "activation_dynamic": True},
    "quantized upstream": {
        "activation_bits": 4,
        "calibration_upstream": "quantized",
        "pooling": "low_precision",
    },
    "only inputs": {"activation_bits": 4, "quantize_skip": False, "quantize_residual": False},
}
SCALING = {"equalize": "equalize", "smooth": "smooth"}  # before ranges are found
SMOOTH = "'smooth' works on activations, but activation_bits=None leaves them in float"
DROPS = "'blocks' drops the quantization of activations, but activation_bits=None leaves them in float"


def refusal(method, config):
    """The words with which a method refuses a configuration, if it does."""
    if config.activation_bits is None:
        return {"blocks, dropping": DROPS, "smooth": SMOOTH}.get(method)
    return None


def block():
    """A small residual network with inputs whose mean is not zero."""
    return Block().eval(), torch.rand(24, 3, 8, 8)


def rows_in(network, name):
    layer = network.get_submodule(name)
    return rows_of(layer.weight.data, layer)


def on_grids(quantized, network, config, x):
    """Of every layer with codes its name, its grid, and the grid that the float weight has under ``config``;
    fails where a weight holds another value.
    """
    floats = read(network, x, config.float_layers).module
    for name, layer in quantized.named_modules():
        if getattr(layer, "weight_grid", None) is None:
            continue
        rows, grid = rows_in(quantized, name), layer.weight_grid
        codes = rows / grid.scale + grid.zero_point
        assert (codes - codes.round()).abs().max() < 1e-3, name
        assert (codes.round() >= grid.code_min).all() and (codes.round() <= grid.code_max).all(), name
        bits = config.weight_bits
        bits = bits.get(name, bits["default"]) if isinstance(bits, dict) else bits
        bits = config.first_last_bits if config.first_last_bits and name in ("first", "last") else bits
        yield name, grid, weight_grid(name, rows_in(floats, name), config, bits)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("method", [*METHODS, *SCALING])
def test_weights_lie_on_their_grids_and_one_seed_gives_one_result(method, choice):
    network, x = block()
    how = {**METHODS, **SCALING}[method]
    config = SMALL.replace(**CHOICES[choice])
    before = snapshot(network)
    batches = [(x[:10], None), (x[10:], None)]
    if (words := refusal(method, config)) is not None:
        with pytest.raises(ValueError, match=words):
            quantize(network, config, batches, how)
        return
    one, other = (quantize(network, config, batches, how) for _ in range(2))
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())
    found = list(on_grids(one, network, config, x))
    layers = {"first", "body", "project", "body2", "last"}
    assert {name for name, *_ in found} == layers - set(config.float_layers) - (
        {"last"} if choice == "by layer" else set()
    )
    for name, grid, expected in found if method in METHODS else ():
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(grid, expected, strict=True)), name
    assert torch.isfinite(one(x)).all()
    assert_unchanged(network, before)


LEARNED = {
    "adaround": {"name": "adaround", "steps": 200},
    "blocks": {"name": "blocks", "steps": 200, "batch": 8},
    "blocks, dropping": {"name": "blocks", "steps": 200, "batch": 8, "drop": 0.5},
    "ranges": {"name": "ranges", "steps": 5},
}
FORMS = ("conv3d", "tied", "tied biases", "twice", "several inputs", "inputs by name")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["gptq", *LEARNED])
def test_networks_of_all_forms(method, form):
    network, x = NETWORKS[form]()
    how = LEARNED.get(method, method)
    before = snapshot(network.eval())
    expected = run(network, x)[0]
    batches = [(part, None) for part in split(x, 7)]
    errors = [
        (run(quantize(network, SMALL.replace(activation_bits=8), batches, how), x)[0] - expected).norm()
        for how in ("nearest", how)
    ]
    assert errors[1] < 1.2 * errors[0]
    assert_unchanged(network, before)


class Halved(nn.Module):
    """Works in place, and would do so again."""

    def forward(self, x):
        return x.mul_(0.5)


@pytest.mark.parametrize("how", [LEARNED["adaround"], LEARNED["blocks"], LEARNED["ranges"]], ids=str)
def test_layers_in_float_that_work_in_place_work_on_copies(how):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Halved(), nn.Linear(8, 4)).eval()
    plain = copy.deepcopy(network)
    plain[2] = nn.Sequential()
    plain[3].weight.data *= 0.5
    x = torch.rand(24, 6)
    config = SMALL.replace(float_layers=("2",))
    in_place, ordinary = (quantize(n, config, [x[:10], x[10:]], how) for n in (network, plain))
    for name in ("0", "3"):
        weights = [
            rows_in(n, name) * f for n, f in ((in_place, 1.0), (ordinary, 2.0 if name == "3" else 1.0))
        ]
        assert (weights[0] - weights[1]).abs().max() < 1e-4


OTHERS = {
    "grouped and transposed": lambda: (
        nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, groups=2)),
        torch.rand(8, 4, 6, 6),
    ),
    "depthwise, of one dimension": lambda: (
        nn.Sequential(nn.Conv1d(3, 6, 1), nn.ReLU6(), nn.Conv1d(6, 6, 3, groups=6), nn.Conv1d(6, 2, 1)),
        torch.rand(8, 3, 7),
    ),
    "tokens": lambda: (
        nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5)),
        torch.rand(8, 5, 6),
    ),
    "batch norm": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3)),
        torch.rand(8, 3, 6, 6),
    ),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("method", METHODS)
def test_eight_bits_change_nothing_but_noise(method, other):
    network, x = OTHERS[other]()
    network.eval()
    expected = run(network, x)[0]
    config = QuantConfig(8, 8, first_last_bits=None)
    nearest, found = (
        run(quantize(network, config, x, how), x)[0] - expected for how in ("nearest", METHODS[method])
    )
    assert found.norm() < 1.5 * nearest.norm() + 1e-6 * expected.norm()
    coarse = quantize(network, SMALL.replace(activation_bits=8), x, METHODS[method])
    layers = [name for name, layer in coarse.named_modules() if hasattr(layer, "weight_grid")]
    for name in layers:
        rows = rows_in(coarse, name)
        assert all(len(row.unique()) <= 8 for row in rows) and rows.any()
    assert len(layers) == sum(
        hasattr(m, "kernel_size") or isinstance(m, nn.Linear) for m in network.modules()
    )


@pytest.mark.parametrize("method", ["gptq", "adaround", "blocks", "equalize", "smooth"])
def test_without_data_a_method_says_what_it_needs(method):
    config = SMALL.replace(activation_bits=8, activation_dynamic=True)
    for calibration in (None, []):
        with pytest.raises(ValueError, match=f"the method '{method}' .*pass at least one batch"):
            quantize(Block(), config, calibration, method)


@pytest.mark.parametrize("method", ["gptq", "adaround", "blocks", "equalize"])
def test_weights_in_float_are_not_rounded(method):
    with pytest.raises(
        ValueError, match=f"'{method}' works on weights, but weight_bits=None leaves them in fl"
    ):
        quantize(Block(), QuantConfig(None, 4), torch.rand(8, 3, 8, 8), method)


@pytest.mark.parametrize("method", METHODS)
def test_settings_are_spelled_and_found_again(method):
    text = spelled(METHODS[method])
    assert find_methods(unspelled(text)) == find_methods(METHODS[method])
    assert all(part["name"] and len(part) > 1 for part in identity(text))


def test_cards_say_what_was_done():
    said = words({"name": "gptq", "inputs": "float", "order": "natural"})
    assert said == {
        "technique": "post-training",
        "rounding": "GPTQ, from float inputs",
        "column_order": "natural",
    }
    assert words("adaround")["rounding"] == "AdaRound, layer by layer from quantized inputs"
    assert words({"name": "adaround", "steps": 7})["steps"] == 7
    dropping = words({"name": "blocks", "steps": 8, "drop": 0.5})
    assert (
        dropping["rounding"].endswith("50% of activation quantization dropped (drop 0.5)")
        and dropping["steps"] == 8
    )
