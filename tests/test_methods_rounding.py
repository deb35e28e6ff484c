"""What methods that round promise about a layer: its outputs, rather than its weights, are kept."""

import pytest
import torch
from helpers import Block
from torch import nn

from qlib import QuantConfig, quantize
from qlib.affine import Grid, fake_quantize
from qlib.methods.gptq import GPTQ
from qlib.quantizer import weight_grid

COARSE = QuantConfig(3, None, first_last_bits=None)


def correlated(n, k, seed=1):
    """Inputs that go together, with a mean that is not zero."""
    torch.manual_seed(seed)
    return torch.rand(n, k) @ torch.randn(k, k) + 0.5


def error(network, method, x, config=COARSE):
    """The squared error of outputs on ``x``."""
    with torch.no_grad():
        return (quantize(network, config, x, method)(x) - network(x)).square().mean().item()


def test_inputs_that_are_all_alike_need_damping():
    x = torch.ones(64, 12) * torch.rand(64, 1)
    network = nn.Sequential(nn.Linear(12, 5))
    with pytest.raises(ValueError, match="'gptq' cannot invert .* '0' .* a damping above 1e-30"):
        quantize(network, COARSE, x, GPTQ(damping=1e-30))
    assert error(network, "gptq", x) < error(network, "nearest", x)


LAYERS = {
    "linear": (lambda: nn.Linear(12, 6), (64, 12)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, 2, 1), (16, 4, 9, 9)),
    "groups": (lambda: nn.Conv2d(6, 6, 3, groups=3), (16, 6, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (16, 4, 5, 5)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", ["gptq", "adaround", "blocks"])
def test_the_error_of_outputs_is_less_than_that_of_nearest(layer, method):
    make, shape = LAYERS[layer]
    network = nn.Sequential(make())
    x = torch.rand(shape) + torch.rand(shape[0], *[1] * (len(shape) - 1))
    assert error(network, method, x) < 0.7 * error(network, "nearest", x)


# ------------------------------------------------------------------------------------------------------------
# GPTQ


def one_by_one(weight, together, grid, order):
    """Columns rounded in ``order``, the others set to what then gives the least error: solved anew each
    time.
    """
    weight = weight.double().clone()
    left = list(order)
    result = torch.empty_like(weight)
    while left:
        column, *left = left
        part = Grid(*(f if f is None else f.expand_as(weight)[:, column] for f in grid))
        result[:, column] = fake_quantize(weight[:, column].float(), part)
        shift = result[:, column] - weight[:, column]
        if left:
            change = -torch.linalg.solve(together[left][:, left], together[left, column])
            weight[:, left] += shift[:, None] * change
    return result.float()


@pytest.mark.parametrize("order", ["natural", "activation"])
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_gptq_gives_the_rest_of_a_row_its_best_values_after_every_column(order, granularity):
    x = correlated(64, 12)
    network = nn.Sequential(nn.Linear(12, 5, bias=False))
    config = COARSE.replace(weight_granularity=granularity)
    together = (x.double().mT @ x.double()) / len(x)
    columns = together.diagonal().argsort(descending=True) if order == "activation" else range(12)
    together += 0.01 * together.diagonal().mean() * torch.eye(12)
    weight = network[0].weight.data
    expected = one_by_one(weight, together, weight_grid("0", weight, config, 3), map(int, columns))
    found = quantize(network, config, x, GPTQ(order=order)).get_submodule("0").weight
    torch.testing.assert_close(found.data, expected)


def test_gptq_rounds_to_nearest_what_inputs_say_nothing_about():
    network = nn.Sequential(nn.Linear(12, 5))
    apart = torch.cat([torch.eye(12), -torch.eye(12)])
    assert error(network, "gptq", apart) == error(network, "nearest", apart)
    x = correlated(64, 12)
    x[:, 3:6] = 0
    nearest, found = (quantize(network, COARSE, x, how).get_submodule("0") for how in ("nearest", "gptq"))
    assert torch.equal(found.weight[:, 3:6], nearest.weight[:, 3:6])
    nothing = torch.zeros(8, 12)
    assert torch.equal(quantize(network, COARSE, nothing, "gptq").get_submodule("0").weight, nearest.weight)


@pytest.mark.parametrize("method", ["gptq", "adaround", "blocks"])
def test_quantized_inputs_are_those_of_the_layers_before(method):
    """The second layer can only then make up for what the first one does."""
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 6))
    x = correlated(256, 12)
    quantized, floats = (
        quantize(network, COARSE, x, {"name": method, "inputs": i}) for i in ("quantized", "float")
    )
    assert torch.equal(quantized.get_submodule("0").weight, floats.get_submodule("0").weight)
    assert not torch.equal(quantized.get_submodule("2").weight, floats.get_submodule("2").weight)


# ------------------------------------------------------------------------------------------------------------
# Learned rounding


def best_error(weight, x, grid):
    """The least squared error of outputs that rounding a row up or down anywhere can give."""
    down = (weight / grid.scale).floor()
    choices = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * weight.shape[1])
    low, high = ((end - grid.zero_point)[:, None] for end in (grid.code_min, grid.code_max))
    rows = (down[:, None] + choices).clamp(low, high) * grid.scale[:, None]
    return ((rows - weight[:, None]) @ x.T).square().mean(-1).min(1).values.mean().item()


@pytest.mark.parametrize("method", ["adaround", "blocks"])
def test_learned_rounding_comes_near_to_the_best_there_is(method):
    best, found, nearest = 0.0, 0.0, 0.0
    for seed in range(3):
        x = correlated(64, 8, seed)
        network = nn.Sequential(nn.Linear(8, 6, bias=False))
        weight = network[0].weight.data
        best += best_error(weight, x, weight_grid("0", weight, COARSE, 3))
        found += error(network, method, x)
        nearest += error(network, "nearest", x)
    assert best <= found * (1 + 1e-4) and found < 2 * best and found < 0.5 * nearest


def test_more_steps_round_better():
    x = correlated(128, 24)
    network = nn.Sequential(nn.Linear(24, 12))
    few, many = (error(network, {"name": "adaround", "steps": steps}, x) for steps in (10, 500))
    assert many < few


def test_adaround_does_not_depend_on_how_examples_are_batched():
    x = torch.rand(30, 3, 8, 8)
    network = Block().eval()
    one, other = (
        quantize(network, COARSE, batches, {"name": "adaround", "steps": 30}).body.weight
        for batches in ([x], list(x.split([4, 20, 6])))
    )
    assert (one != other).float().mean() < 0.01  # sums in another order, and nothing else


def test_blocks_follow_their_seed():
    x = torch.rand(48, 3, 8, 8)
    network = Block().eval()
    found = [
        quantize(network, COARSE, x, {"name": "blocks", "steps": 30, "batch": 4, "seed": seed}).body.weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_learned_rounding_helps_a_whole_network():
    x = torch.rand(96, 3, 8, 8)
    network = Block().eval()
    blocks, layers, nearest = (error(network, how, x) for how in ("blocks", "adaround", "nearest"))
    assert blocks < nearest and layers < nearest and blocks < 1.5 * layers


def test_dropping_leaves_activations_in_float_while_it_learns():
    """With all of it dropped activations might as well not be quantized."""
    x = torch.rand(32, 3, 8, 8)
    network = Block().eval()
    how = {"name": "blocks", "steps": 40, "batch": 8}
    config = COARSE.replace(activation_bits=2)
    in_float = quantize(network, COARSE, x, {**how, "inputs": "float"}).body2.weight
    dropped, kept = (quantize(network, config, x, {**how, "drop": drop}).body2.weight for drop in (1.0, 0.0))
    assert (dropped != in_float).sum() < 0.2 * (kept != in_float).sum()


def test_one_weight_of_two_layers_is_learned_once():
    layer = nn.Linear(12, 12)
    network = nn.Sequential(layer, nn.ReLU(), nn.Linear(12, 12))
    network[2].weight = layer.weight
    x = correlated(64, 12)
    for method in ("gptq", "adaround", "blocks"):
        found = quantize(network, COARSE, x, method)
        assert torch.equal(found.get_submodule("0").weight, found.get_submodule("2").weight)
        assert error(network, method, x) < error(network, "nearest", x)
