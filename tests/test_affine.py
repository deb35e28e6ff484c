"""The arithmetic of grids: equal to torch's own, and to the formulas of the paper and of the
published code.
"""

import pytest
import torch
from helpers import levels
from hypothesis import given
from hypothesis import strategies as st

from qlib.affine import Grid, dequantize, fake_quantize, make_grid, quantize

BITS = st.integers(1, 16)
TORCH_SCHEMES = [(False, "full"), (True, "full"), (True, "restricted")]
ALL_SCHEMES = [*TORCH_SCHEMES, (True, "authors")]
SCHEMES = st.sampled_from(TORCH_SCHEMES)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)
SEEDS = st.integers(0, 2**31 - 1)
MAGNITUDES = st.one_of(st.floats(1e-3, 1e3), st.sampled_from([1e-44, 1e-38, 1e-30, 1e30]))


def random_range(generator, count, magnitude):
    """Ranges of every kind: around zero, on one side of it, and empty."""
    low, high = torch.randn(2, count, generator=generator).sort(0).values * magnitude
    kind = torch.randint(4, (count,), generator=generator)
    low = torch.where(kind == 1, 0.0, low)
    return torch.where(kind == 2, 0.0, low), torch.where((kind == 1) & (high < 0) | (kind == 2), 0.0, high)


def values_for(grid, shape, generator):
    """Random values around the grid and far off it, a third of them halfway between two codes."""
    codes = torch.randint(-300, 300, shape, generator=generator) / 2
    spread = (grid.code_max - grid.code_min) * grid.scale
    x = (
        torch.randn(shape, generator=generator)
        * spread
        * 10 ** (torch.rand(shape, generator=generator) * 3 - 2)
    )
    return torch.where(torch.rand(shape, generator=generator) < 1 / 3, codes * grid.scale, x)


def assert_like_torch(x, grid, reference):
    ours = x.clone().requires_grad_()
    theirs = x.clone().requires_grad_()
    result = fake_quantize(ours, grid)
    expected = reference(theirs)
    assert torch.equal(result, expected)
    weight = torch.randn_like(x)
    (result * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


@given(SEEDS, SHAPES, BITS, SCHEMES, MAGNITUDES)
def test_per_tensor_equals_torch_bit_for_bit(seed, shape, bits, scheme, magnitude):
    if scheme[0] and bits == 1:
        bits = 2
    generator = torch.Generator().manual_seed(seed)
    grid = make_grid(*(end[0] for end in random_range(generator, 1, magnitude)), bits, *scheme)
    limits = int(grid.code_min), int(grid.code_max)
    assert_like_torch(
        values_for(grid, shape, generator),
        grid,
        lambda x: torch.fake_quantize_per_tensor_affine(x, float(grid.scale), int(grid.zero_point), *limits),
    )


@given(SEEDS, SHAPES, st.integers(0, 3), BITS, SCHEMES, MAGNITUDES)
def test_per_channel_equals_torch_bit_for_bit(seed, shape, axis, bits, scheme, magnitude):
    if scheme[0] and bits == 1:
        bits = 2
    axis = axis % len(shape)
    generator = torch.Generator().manual_seed(seed)
    flat = make_grid(*random_range(generator, shape[axis], magnitude), bits, *scheme)
    limits = int(flat.code_min), int(flat.code_max)
    grid = flat.reshape(-1, *[1] * (len(shape) - axis - 1))
    assert_like_torch(
        values_for(grid, shape, generator),
        grid,
        lambda x: torch.fake_quantize_per_channel_affine(x, flat.scale, flat.zero_point.int(), axis, *limits),
    )


@given(SEEDS, SHAPES, BITS, SCHEMES)
def test_fake_quantize_is_dequantize_of_quantize(seed, shape, bits, scheme):
    generator = torch.Generator().manual_seed(seed)
    grid = make_grid(*(end[0] for end in random_range(generator, 1, 1.0)), max(bits, 2), *scheme)
    x = values_for(grid, shape, generator)
    codes = quantize(x, grid)
    assert codes.dtype == torch.int32
    assert codes.min() >= grid.code_min and codes.max() <= grid.code_max
    assert torch.equal(fake_quantize(x, grid), dequantize(codes, grid))


@pytest.mark.parametrize("scheme", TORCH_SCHEMES, ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_number_of_codes(bits, scheme):
    grid = make_grid(torch.tensor(-1.0), torch.tensor(1.0), bits, *scheme)
    assert levels(fake_quantize(torch.linspace(-3, 3, 10_001), grid)) == 2**bits - (scheme[1] == "restricted")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_authors_grid_has_one_code_more_or_one_less_than_bits_allow(bits):
    # m lies halfway between two multiples: rounding to even takes it outwards, unless float noise is against
    # it
    x = torch.linspace(-1, 1, 5_001)
    counts = [
        levels(fake_quantize(x, make_grid(-m, m, bits, True, "authors"))) for m in torch.rand(200) * 0.9 + 0.1
    ]
    assert set(counts) <= {2**bits - 1, 2**bits + 1}
    assert counts.count(2**bits + 1) > 150


@given(SEEDS, st.integers(1, 15), MAGNITUDES)
def test_restricted_symmetric_equals_asymmetric_with_one_bit_less_on_data_never_negative(
    seed, bits, magnitude
):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(200, generator=generator) * magnitude
    low = x.min()
    high = x.max() * 0.9
    asymmetric = make_grid(low, high, bits)
    symmetric = make_grid(low, high, bits + 1, True, "restricted")
    assert torch.equal(fake_quantize(x, symmetric), fake_quantize(x, asymmetric))


@given(SEEDS, st.integers(2, 8), st.floats(0.01, 100))
def test_authors_grid_clamps_in_float_then_rounds(seed, bits, m):
    m = torch.tensor(m)
    x = torch.randn(500, generator=torch.Generator().manual_seed(seed)) * m
    grid = make_grid(-m / 3, m, bits, True, "authors")
    step = 2 * m / (2**bits - 1)
    x = torch.cat([x, (torch.arange(-20, 20) + 0.5) * step])  # with ties
    assert torch.equal(fake_quantize(x, grid), torch.round(x.clamp(-m, m) / step) * step)
    assert torch.equal(dequantize(quantize(x, grid), grid), fake_quantize(x, grid))


def test_authors_gradient_stops_at_the_float_clamp():
    # not torch's: its mask compares codes, and would let half a step more through
    grid = make_grid(torch.tensor(-1.0), torch.tensor(1.0), 3, True, "authors")
    x = torch.tensor([-1.01, -1.0, 0.3, 1.0, 1.01], requires_grad=True)
    fake_quantize(x, grid).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("scheme", ALL_SCHEMES, ids=str)
def test_zero_is_exact_wherever_the_range_lies(scheme):
    low = torch.tensor([0.5, -3.0, -1.7, 0.0])
    high = torch.tensor([2.0, -1.0, 0.3, 4.0])
    grid = make_grid(low, high, 4, *scheme)
    assert torch.equal(fake_quantize(torch.zeros(4), grid), torch.zeros(4))
    assert torch.equal(grid.zero_point, grid.zero_point.round())


def test_range_on_one_side_of_zero_is_widened_to_hold_it():
    grid = make_grid(torch.tensor([0.5, -2.0]), torch.tensor([2.0, -0.5]), 4)
    assert torch.equal(grid.scale, torch.tensor([2.0, 2.0]) / 15)
    assert grid.zero_point.tolist() == [0, 15]


@pytest.mark.parametrize("scheme", ALL_SCHEMES, ids=str)
@pytest.mark.parametrize("extent", [0.0, 1e-44])
def test_empty_range_has_scale_one(scheme, extent):
    grid = make_grid(torch.tensor(0.0), torch.tensor(extent), 8, *scheme)
    assert grid.scale == 1
    assert torch.equal(fake_quantize(torch.zeros(3), grid), torch.zeros(3))


def test_formulas_of_scale_and_codes():
    low = torch.tensor(-1.0)
    high = torch.tensor(3.0)
    found = {
        name: (grid.scale.item(), grid.zero_point.item(), grid.code_min.item(), grid.code_max.item())
        for name, grid in {
            "asymmetric": make_grid(low, high, 4),
            "full": make_grid(low, high, 4, True),
            "restricted": make_grid(low, high, 4, True, "restricted"),
        }.items()
    }
    assert found == {
        "asymmetric": (pytest.approx(4 / 15), 4, 0, 15),
        "full": (pytest.approx(6 / 15), 0, -8, 7),
        "restricted": (pytest.approx(3 / 7), 0, -7, 7),
    }


def test_bits_may_differ_by_channel():
    low = torch.tensor([-1.0, -1.0, 0.0])
    high = torch.tensor([1.0, 2.0, 5.0])
    bits = [2, 5, 8]
    x = torch.randn(3, 400)
    together = fake_quantize(x, make_grid(low, high, torch.tensor(bits)).reshape(-1, 1))
    for channel, b in enumerate(bits):
        alone = fake_quantize(x[channel], make_grid(low[channel], high[channel], b))
        assert torch.equal(together[channel], alone)


def test_fake_quantize_leaves_its_input_alone():
    x = torch.randn(50)
    before = x.clone()
    fake_quantize(x, make_grid(x.min(), x.max(), 3))
    assert torch.equal(x, before)


def test_reshape_leaves_single_values_single():
    grid = make_grid(torch.zeros(4), torch.ones(4), 3).reshape(-1, 1)
    assert isinstance(grid, Grid) and grid.scale.shape == (4, 1) and grid.code_max.numel() == 1


def test_unknown_symmetric_grid_is_named():
    with pytest.raises(
        ValueError, match="symmetric_grid must be one of full, restricted, authors, got 'wide'"
    ):
        make_grid(torch.tensor(0.0), torch.tensor(1.0), 4, True, "wide")
