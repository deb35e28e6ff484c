"""Learned bits compared at equal bits in use."""

import numpy as np
import pytest

from qlib import results
from qlib.equal_bits import at_bits, at_equal_bits
from qlib.laboratory import pack
from qlib.metrics import Accuracy

N = 8


def row(seed, limit, used, right, **more):
    """A recorded row whose first ``right`` of eight answers are correct."""
    correct = np.arange(N) < right
    return results.flat(
        {
            "calibration_seed": seed,
            "average_weight_bits": used,
            "activation_bits": 8,
            "allocation": {"target_weight_bits": limit},
            "correct": pack(correct),
            "n": N,
            **more,
        }
    )


A, B = {"side": "a"}, {"side": "b"}


def test_the_side_with_fewer_bits_is_raised_along_its_own_curve():
    rows = [row(0, 3, 2.4, 2, **A), row(0, 4, 3.2, 6, **A), row(0, 3, 2.8, 4, **B), row(0, 4, 3.9, 8, **B)]
    found = at_equal_bits(rows, A, B, target_weight_bits=3)
    assert found.bits == (2.8,) and found.between == 1 and found.left_out == 0
    assert found.b[0].values.tolist() == [100] * 4 + [0] * 4  # as recorded
    assert found.a[0].values == pytest.approx([100] * 2 + [50] * 4 + [0] * 2)  # half of either answer
    assert found.a[0].value == pytest.approx(50) and found.a[0].label == found.b[0].label == 0
    assert str(found) == "2.80 bits used, in 1 of 1 seed between recorded points"
    turned = at_equal_bits(rows, B, A, target_weight_bits=3)
    assert turned.bits == (2.8,) and turned.a[0].value == pytest.approx(50)


def test_where_no_point_lies_above_the_other_side_is_lowered():
    rows = [row(0, 3, 2.4, 2, **A), row(0, 3, 2.8, 4, **B), row(0, 2, 2.0, 0, **B)]
    found = at_equal_bits(rows, A, B, target_weight_bits=3)
    assert found.bits == (2.4,) and found.b[0].value == pytest.approx(25)
    assert at_equal_bits(rows[:2], A, B, target_weight_bits=3) is None  # nor below


def test_seeds_are_compared_each_at_its_own_bits_and_those_that_cannot_be_are_counted():
    rows = [row(0, 3, 2.5, 2, **A), row(0, 3, 2.5, 4, **B)]
    rows += [row(1, 3, 2.6, 3, **A), row(1, 4, 3.0, 5, **A), row(1, 3, 2.8, 4, **B)]
    rows += [row(2, 3, 2.0, 3, **A), row(2, 3, 2.8, 4, **B)]
    rows += [row(3, 3, 2.0, 3, **A)]  # not recorded on the other side
    found = at_equal_bits(rows, A, B, target_weight_bits=3)
    assert found.bits == (2.5, 2.8) and (found.between, found.left_out) == (1, 1)
    assert [m.label for m in found.a] == [m.label for m in found.b] == [0, 1]
    assert str(found) == "2.50 to 2.80 bits used, in 1 of 2 seeds between recorded points; 1 left out"


def test_one_side_may_have_more_bits_by_the_claim():
    rows = [row(0, 2.73, 2.7, 4, **A), row(0, 4, 3.2, 8, **A), row(0, 2.5, 2.5, 4, **B)]
    sides = {**A, "target_weight_bits": 2.73}, {**B, "target_weight_bits": 2.5}
    found = at_equal_bits(rows, *sides, 0.25)
    assert found.bits == (2.5,)
    assert found.a[0].value == pytest.approx(50 + 50 * 0.05 / 0.5)  # at 2.75 bits


def test_points_with_the_same_bits_are_averaged_and_nothing_is_extrapolated():
    curve = [(2.0, Accuracy(np.array([True, False]), 7)), (2.0, Accuracy(np.array([True, True]), 7))]
    assert at_bits(curve, 2.0).values.tolist() == [100, 50] and at_bits(curve, 2.0).label == 7
    assert at_bits(curve, 1.5) is None and at_bits(curve, 2.5) is None
    assert at_bits(curve, 2.004).values.tolist() == [100, 50]  # a hundredth of a bit counts as equal


def test_recorded_points_come_back_as_they_are():
    table = results.table_path("digits", "filled-budget")
    rows = list(map(results.flat, results.load_rows(table)))
    where = {"weight_symmetric": False, "target_weight_bits": 3}
    sides = {"bit_choices": [1, 2, 3, 4, 5, 6, 7, 8]}, {"bit_choices": [2, 4, 8]}
    found = at_equal_bits(rows, *sides, **where)
    recorded = [results.measurement_of(r) for r in rows if results.fits(r, {**where, **sides[0]})]
    assert [m.value for m in found.a] == pytest.approx([m.value for m in recorded])
    assert found.between == 0 and all(abs(bits - 3) < 0.01 for bits in found.bits)
