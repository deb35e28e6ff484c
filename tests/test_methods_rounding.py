"""What methods that round promise about a layer: its outputs, rather than its weights, are kept."""

import pytest
import torch
from torch import nn

from qlib import QuantConfig, quantize
from qlib.affine import Grid, fake_quantize
from qlib.methods.gptq import GPTQ
from qlib.quantizer import weight_grid

COARSE = QuantConfig(3, None, first_last_bits=None)


def correlated(n, k):
    """Inputs that go together, with a mean that is not zero."""
    torch.manual_seed(1)
    return torch.rand(n, k) @ torch.randn(k, k) + 0.5


def error(network, method, x, config=COARSE):
    """The squared error of outputs on ``x``."""
    with torch.no_grad():
        return (quantize(network, config, x, method)(x) - network(x)).square().mean().item()


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


LAYERS = {
    "linear": (lambda: nn.Linear(12, 6), (64, 12)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, 2, 1), (16, 4, 9, 9)),
    "groups": (lambda: nn.Conv2d(6, 6, 3, groups=3), (16, 6, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (16, 4, 5, 5)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", ["gptq"])
def test_the_error_of_outputs_is_less_than_that_of_nearest(layer, method):
    make, shape = LAYERS[layer]
    network = nn.Sequential(make())
    x = torch.rand(shape) + torch.rand(shape[0], *[1] * (len(shape) - 1))
    assert error(network, method, x) < 0.7 * error(network, "nearest", x)


@pytest.mark.parametrize("method", ["gptq"])
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
