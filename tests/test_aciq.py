"""Analytic clipping: the published factors, and near the least squared error where the distribution fits."""

import pytest
import torch

from qlib import QuantConfig, quantize
from qlib.affine import fake_quantize, make_grid
from qlib.ranges import collector, find_range

# By bits, the published ends in units of the mean deviation, and of the standard deviation
LAPLACE = {3: 3.89, 4: 5.03, 5: 6.20, 6: 7.41, 7: 8.64, 8: 9.89}
NORMAL = {3: 2.15, 4: 2.55, 5: 2.93, 6: 3.28, 7: 3.61, 8: 3.92}
N = 200_001


def quantiles(kind):
    """Values spread exactly as a distribution of mean or standard deviation 1 has them."""
    p = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    if kind == "laplace":
        return torch.where(p < 0.5, (2 * p).log(), -(2 * (1 - p)).log()).float()
    return (2**0.5 * torch.erfinv(2 * p - 1)).float()


def grid_of_steps(bits):
    """The paper's steps, ``2 alpha / 2 ** bits``, where a grid of ours has one step less."""

    def make(low, high):
        grid = make_grid(low, high, bits)
        return grid._replace(scale=grid.scale * (2**bits - 1) / 2**bits, code_max=grid.code_max + 1)

    return make


@pytest.mark.parametrize("bits", LAPLACE)
@pytest.mark.parametrize("kind, published", [("laplace", LAPLACE), ("normal", NORMAL)])
def test_ends_are_the_published_ones(kind, published, bits):
    x = quantiles(kind)
    low, high = find_range(x[None], "aciq", 99.99, grid_of_steps(bits))
    assert high.item() == pytest.approx(published[bits], rel=0.03, abs=0.06)
    assert low.item() == pytest.approx(-high.item(), abs=0.01)


@pytest.mark.parametrize("bits", [3, 4, 6])
@pytest.mark.parametrize("kind, published", [("laplace", LAPLACE), ("normal", NORMAL)])
def test_what_a_relu_leaves_is_half_a_distribution_with_a_bit_more(kind, published, bits):
    x = quantiles(kind).relu()
    low, high = find_range(x[None], "aciq", 99.99, grid_of_steps(bits))
    assert low.item() == 0 and high.item() == pytest.approx(published[bits + 1], rel=0.03, abs=0.06)


VARIANTS = [(False, "full"), (True, "full"), (True, "restricted"), (True, "authors")]


@pytest.mark.parametrize("symmetric, variant", VARIANTS)
@pytest.mark.parametrize("kind", ["laplace", "normal"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_where_a_distribution_fits_the_error_is_near_to_the_least(kind, bits, symmetric, variant):
    x = quantiles(kind)[None]

    def make(low, high):
        return make_grid(low, high, bits, symmetric, variant)

    def error(method):
        return (fake_quantize(x, make(*find_range(x, method, 99.99, make))) - x).square().mean().item()

    assert error("aciq") < 1.15 * error("mse")
    assert error("aciq") < 1.01 * error("minmax")


@pytest.mark.parametrize("shift", [0.0, 0.7], ids=["centred", "shifted"])
@pytest.mark.parametrize("rectified", [False, True])
def test_batches_give_the_range_of_all_values(shift, rectified):
    torch.manual_seed(0)
    x = torch.randn(2, 8000) * torch.tensor([[1.0], [20.0]]) + shift
    x = x.relu() if rectified else x

    def make(low, high):
        return make_grid(low, high, 4)

    found = collector("aciq", 99.99, make)
    for part in x.split([1000, 5000, 2000], dim=1):
        found.update(part, total=x.shape[1])
    for one, all_at_once in zip(found.range(), find_range(x, "aciq", 99.99, make), strict=True):
        torch.testing.assert_close(one, all_at_once, rtol=0.02, atol=0.02)


def test_an_outlier_does_not_stretch_the_range():
    x = quantiles("laplace")[None].clone()
    x[0, 0] = 1000.0
    low, high = find_range(x, "aciq", 99.99, lambda low, high: make_grid(low, high, 4))
    assert high.item() < 20 and low.item() > -20


@pytest.mark.parametrize("side", ["weight", "activation"])
def test_ranges_of_a_network_are_clipped(side):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    for layer in (network[0], network[2]):
        torch.nn.init.normal_(layer.weight)
    x = torch.randn(16, 3, 12, 12)
    found, widest = (
        quantize(network, QuantConfig(3, 3, first_last_bits=None, **{f"{side}_range": rule}), x)
        for rule in ("aciq", "minmax")
    )
    scales = [
        [m.scale for m in n.modules() if getattr(m, "scale", None) is not None]
        if side == "activation"
        else [n.get_submodule(name).weight_grid.scale.mean() for name in "02"]
        for n in (found, widest)
    ]
    assert sum(a < b for a, b in zip(*scales, strict=True)) >= 2
