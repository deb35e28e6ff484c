"""Multipliers, shifts and accumulators, against Python's own integers and fractions."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qlib import affine
from qlib.kernels.arithmetic import bits_for, limits, multipliers, saturated, shifted, wrapped
from qlib.kernels.sums import Accumulator, IntegerLayer
from qlib.kernels.values import Codes

FACTORS = st.floats(1e-12, 1e6)
LAYERS = [
    (nn.Linear(7, 5), (3, 7)),
    (nn.Linear(7, 5, bias=False), (3, 2, 7)),
    (nn.Conv1d(4, 6, 3, padding=1, groups=2), (3, 4, 9)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=2), (3, 4, 9, 8)),
    (nn.Conv2d(4, 6, 3, padding="same"), (3, 4, 6, 6)),
    (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", bias=False), (3, 4, 6, 6)),
    (nn.Conv2d(6, 12, 3, padding=1, groups=6), (3, 6, 5, 5)),
    (nn.Conv3d(2, 4, 2, stride=2), (3, 2, 4, 4, 4)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (3, 4, 5, 5)),
]


def rounded(fraction):
    """Half to even."""
    return round(fraction)


@given(FACTORS, FACTORS)
def test_factors_share_one_shift_and_keep_31_bits_of_the_larger(one, other):
    factors = [torch.tensor([factor], dtype=torch.float64) for factor in (one, other)]
    found, shift = multipliers(factors)
    assert 1 <= shift <= 62 and all(0 <= m < 2**31 for m in found)
    step = Fraction(1, 2 ** int(shift))
    for factor, m in zip((one, other), found, strict=True):
        assert abs(Fraction(factor) - int(m) * step) <= max(step / 2, Fraction(max(one, other)) / 2**30)


@given(st.integers(-(2**61), 2**61), st.integers(1, 62))
def test_shifts_round_half_to_even(x, shift):
    assert shifted(torch.tensor(x), torch.tensor(shift)) == rounded(Fraction(x, 2**shift))


@given(st.integers(-(2**40), 2**40), st.integers(2, 32))
def test_sums_wrap_around_as_an_accumulator_does(x, bits):
    low, high = limits(bits)
    held = int(wrapped(torch.tensor(x), bits))
    assert low <= held <= high and (held - x) % 2**bits == 0


@given(st.lists(st.integers(-300, 300), min_size=1, max_size=20), st.integers(2, 10))
def test_sums_saturate_term_by_term(values, bits):
    low, high = limits(bits)
    start, *terms = values
    held, exact = min(max(start, low), high), [start]
    for term in terms:
        held = min(max(held + term, low), high)
        exact.append(exact[-1] + term)
    found, least, most = saturated(torch.tensor([start]), (torch.tensor([t]) for t in terms), bits)
    assert (int(found), least, most) == (held, min(exact), max(exact))


@given(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40))
def test_bits_are_the_fewest_that_hold_both_ends(one, other):
    low, high = min(one, other), max(one, other)
    bits = bits_for(low, high)
    assert limits(bits)[0] <= low and high <= limits(bits)[1]
    assert bits == 1 or low < limits(bits - 1)[0] or high > limits(bits - 1)[1]


def coded(layer, shape, bits, symmetric, per_channel):
    """A layer with codes, codes that enter it, and both in float64: values over scales."""
    transposed = isinstance(layer, nn.ConvTranspose2d)
    weight = layer.weight.data
    rows = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1) if transposed else weight
    flat = rows.flatten(1) if per_channel else rows.reshape(1, -1)
    grid = affine.make_grid(flat.amin(1), flat.amax(1), bits, symmetric).reshape(-1, *[1] * (rows.dim() - 1))
    x = torch.randn(shape) + 0.5
    grid_x = affine.make_grid(x.min(), x.max(), bits)
    codes = Codes(affine.quantize(x, grid_x).long() - grid_x.zero_point.long(), grid_x)
    return IntegerLayer("layer", layer, grid), codes


@pytest.mark.parametrize("layer, shape", LAYERS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("symmetric, per_channel", [(False, True), (False, False), (True, True)])
@pytest.mark.parametrize("bits", [2, 8, 16])
def test_four_sums_are_the_plain_sum_of_what_counts_from_zero_points(
    layer, shape, symmetric, per_channel, bits
):
    integer, x = coded(layer, shape, bits, symmetric, per_channel)
    assert symmetric or integer.zero_point.any() and x.grid.zero_point
    sums, seen = integer.sums(x, Accumulator())
    (part,) = sums.parts
    weight = (integer.codes - plain_zero_points(integer)).double()
    bias = {} if layer.bias is None else {"bias": None}
    plain = torch.func.functional_call(layer, {"weight": weight, **bias}, (x.counts.double(),))
    codes = 0 if layer.bias is None else integer._bias(part.factor)[0]
    assert torch.equal(part.sums, plain.long() + codes)  # whole numbers: equal, not close
    assert seen.bits <= seen.bound and part.sums.dtype is torch.int64


def plain_zero_points(integer):
    """One a row, in the layout of the layer's weight."""
    from qlib.network.operations import rows_of, weight_of_rows

    rows = rows_of(integer.codes, integer.layer)
    points = integer.grid.zero_point.long().expand(rows.shape)
    return weight_of_rows(points, integer.layer)


@pytest.mark.parametrize("layer, shape", LAYERS[:-1], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("bits", [2, 4])
def test_terms_in_turn_add_up_to_the_sums(layer, shape, bits):
    integer, x = coded(layer, shape, bits, False, True)
    wide = integer.sums(x, Accumulator())[0].parts[0].sums
    sums, seen = integer.sums(x, Accumulator(32, "saturate"))
    assert torch.equal(sums.parts[0].held, wide) and seen.overflows == 0
    narrow, more = integer.sums(x, Accumulator(max(2, seen.bits - 1), "saturate"))
    assert more.overflows or more.bits <= 2
    assert (narrow.parts[0].held.abs() <= 2 ** (max(2, seen.bits - 1) - 1)).all()
