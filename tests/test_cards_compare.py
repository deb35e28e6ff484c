"""What two cards differ in and what it was worth."""

import pytest

from qlib import QuantConfig, QuantizationCard, results
from qlib import compare as evaluate_compare
from qlib.cards import FIELDS, NOT_REPORTED, compare
from qlib.cards import worth as measured
from qlib.cards.worth import worth, worths

RUN = QuantizationCard.from_run(QuantConfig())


def test_differences_name_the_choice_its_observation_and_its_worth(cards):
    (skip,) = [choice for choice in cards[0].differences(cards[1]) if not choice.confound]
    assert (skip.field, skip.a, skip.b, skip.observation) == ("quantize_skip", True, False, 3)
    assert skip.worth[0].points.points == pytest.approx(compare.gap(*cards), abs=0.05)
    (reverse,) = [choice for choice in cards[1].differences(cards[0]) if not choice.confound]
    assert reverse.worth[0].points.points == pytest.approx(-skip.worth[0].points.points)
    assert all(choice.field in ("hardware",) for choice in cards[0].differences(cards[1])[1:])


@pytest.mark.parametrize(
    "field, a, b, table",
    [
        ("weight_range", "mse", "minmax", "clipping-weights"),
        ("weight_range", "minmax", "percentile", "clipping-weights"),
        ("activation_range", "mse", "minmax", "clipping-activations"),
        ("pooling", "float", "low_precision", "pooling"),
        ("labels", "soft", "true", "pseudo-labels"),
        ("images", 1, 1024, "calibration-images"),
        ("float_accuracy", 77.7, 76.1, "float-baseline"),
        ("allocation", "learned", "uniform", "channel-bits"),
    ],
)
def test_a_worth_is_that_of_these_two_values_and_turns_with_them(field, a, b, table):
    bits = {"weight": [4], "activation": [4]}
    there = worth(field, a, b, bits)
    back = worth(field, b, a, bits)
    assert {w.table for w in there} == {table}
    assert [w.bench for w in there] in (["digits"], ["digits", "cifar10-jpeg"])
    assert there[0].points.n == 10_000 and all("4" in w.condition for w in there)
    for one, other in zip(there, back, strict=True):
        assert one.points.points == pytest.approx(-other.points.points)


@pytest.mark.parametrize(
    "field, a, b",
    [
        ("weight_range", "mse", "search for the least error"),
        ("images", 320, 1024),
        ("weight_range", "mse", "mse"),
        ("weight_granularity", "per_group", "per_channel"),
        ("float_accuracy", 76.1, 76.1),
        ("bias", "float", 32),
        ("images", True, 1024),
    ],
)
def test_values_that_were_not_measured_have_no_worth(field, a, b):
    assert worth(field, a, b, {"weight": [2, 3, 4, 5], "activation": [4]}) == ()
    assert not measured.known(field, a, b)


def test_a_worth_is_what_the_recorded_rows_say():
    table = results.load_table(results.table_path("digits", "clipping-weights"))
    where = {"weight_bits": 4, "weight_granularity": "per_channel"}
    sides = [results.accuracies(table, **where, weight_range=value) for value in ("mse", "percentile")]
    (digits, cifar) = worth("weight_range", "mse", "percentile", {"weight": [4]})
    assert digits.points == evaluate_compare(*sides) and cifar.bench == "cifar10-jpeg"


def test_a_difference_is_worth_what_it_was_at_the_bits_of_both_cards_or_not_known():
    def card(bits, symmetric, **more):
        return QuantizationCard.of("a card", activation_bits=bits, activation_symmetric=symmetric, **more)

    def about(a, b, field="activation_symmetric"):
        return next(choice for choice in a.differences(b) if choice.field == field)

    table = results.load_table(results.table_path("digits", "symmetric-activations"))
    for bits in (3, 6):
        where = {"activation_bits": bits, "symmetric_grid": "full"}
        sides = [results.accuracies(table, **where, activation_symmetric=value) for value in (False, True)]
        found = about(card(bits, False), card(bits, True))
        assert found.worth[0].points == evaluate_compare(*sides) and f"{bits}-bit activ" in str(found)
        assert found.unmeasured == "" and [w.bench for w in found.worth] == ["digits", "cifar10-jpeg"]
    for a, b in ((card(4, False), card(3, True)), (card(16, False), card(16, True))):
        found = about(a, b)
        assert found.worth == () and found.said() == ["not measured at these bits"]
    many = about(card([2, 3, 4], False), card(4, True))
    assert {w.condition for w in many.worth} == {"4-bit activations"}
    bias = about(card(4, False, bias="float"), card(4, False, bias=32), "bias")
    assert bias.said() == ["not measured"] and "not measured" in str(bias)
    silent = about(card(4, False), QuantizationCard.of("a paper", activation_bits=4))
    assert silent.confound and silent.said() == []


def test_worths_are_neither_added_up_nor_made_a_share_of_the_gap(cards):
    head = compare.report(*cards, cards[0].differences(cards[1])).splitlines()[0]
    apart = abs(compare.gap(*cards))
    assert head == f"{cards[0].name} | {cards[1].name}: {apart:.1f} points apart"


def test_what_does_not_act_does_not_differ():
    def differing(**changes):
        return [
            c.field
            for c in RUN.differences(QuantizationCard.from_run(QuantConfig(**changes)))
            if not c.confound
        ]

    assert (
        differing(percentile=99.0)
        == differing(symmetric_grid="restricted")
        == differing(bit_choices=(2, 4, 8))
        == []
    )
    assert differing(activation_symmetric=True, symmetric_grid="restricted") == [
        "activation_symmetric",
        "symmetric_grid",
    ]
    assert differing(activation_bits=None) == ["activation_bits"]
    assert differing(float_layers=[]) == [] and differing(float_layers=["fc"]) == ["float_layers"]


def test_what_one_side_leaves_open_is_a_confound(cards):
    other = QuantizationCard.of("a paper", **{name: cards[0][name] for name in FIELDS if name != "pooling"})
    (choice,) = cards[0].differences(other)
    assert choice.field == "pooling" and choice.confound and choice.b == NOT_REPORTED


def test_every_worth_compares_rows_that_differ_in_that_choice():
    known = {w.field for w in worths()}
    assert known <= set(FIELDS) and len(known) == 17
    assert all(w.points.n == 10_000 and w.bench == "digits" for w in worths())
    assert {w.field for w in worths(4)} == known and all(
        "4" in w.condition or "images" in w.condition for w in worths(4)
    )


def test_a_float_network_is_called_better_only_beyond_its_interval_and_on_one_data_set():
    def card(top1, half, dataset="ImageNet"):
        measured = {"top1": top1, "low": top1 - half, "high": top1 + half, "n": 1000}
        return QuantizationCard.of("a card", dataset=dataset, float_accuracy=measured, weight_bits=5)

    def of_the_network(a, b):
        return next(choice.worth for choice in a.differences(b) if choice.field == "float_accuracy")

    assert of_the_network(card(77, 0.4), card(74, 0.4))
    assert not of_the_network(card(77, 2), card(74, 2))
    assert not of_the_network(card(77, 0.4), card(74, 0.4, "CIFAR-10"))
