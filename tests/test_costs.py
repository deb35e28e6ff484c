"""What recorded times say: quotients with intervals, verdicts, and what is missing."""

import math

import pytest

from qlib.cards.profile import load_profile
from qlib.kernels import costs, record_latency
from qlib.kernels.grid import Cell
from qlib.kernels.work import ZERO


def row(network, choices, *ratios, busy=False, batch=1, threads=1, hardware="x86"):
    about = {"network": network, "choices": choices, "batch": batch, "threads": threads}
    return {**about, "ratios": list(ratios), "busy": busy, "hardware": hardware}


ASYMMETRIC = {"weight_symmetric": False}


def test_a_cost_is_the_quotient_of_times_with_welchs_interval():
    value, (low, high) = costs.quotient([0.8, 0.8, 0.8], [0.4, 0.4, 0.4])
    assert value == low == high == pytest.approx(2)
    value, (low, high) = costs.quotient([0.5, 1.0, 2.0], [1.0, 1.0, 1.0])
    # Two degrees of freedom: t is 4.303, the standard error of the mean logarithm ln 2 / sqrt 3
    half = 4.302653 * math.log(2) / math.sqrt(3)
    assert value == pytest.approx(1) and math.log(high) == pytest.approx(half, rel=1e-5) == -math.log(low)


@pytest.mark.parametrize(
    "ratios, greater, same",
    [
        ((0.7, 0.71, 0.72), "holds", "does not hold"),
        ((0.3, 0.301, 0.302), "undecided here", "holds"),
        ((0.2, 0.201, 0.202), "does not hold", "does not hold"),
        ((0.2, 0.4, 0.6), "undecided here", "undecided here"),
    ],
)
def test_verdicts_follow_the_interval_and_the_margin(ratios, greater, same):
    rows = [row("a", ASYMMETRIC, *ratios), row("a", {}, 0.3, 0.301, 0.302)]
    (found,) = costs.costs(rows, ASYMMETRIC, {})
    assert (found.verdict("greater"), found.verdict("no difference")) == (greater, same)


def test_networks_are_compared_with_themselves_at_the_same_images_and_threads():
    rows = [
        row("a", {}, 0.3, 0.3, 0.3, busy=True),
        row("a", ASYMMETRIC, 0.6, 0.6, 0.6),
        row("a", ASYMMETRIC, 0.9, 0.9, 0.9, batch=16),
        row("b", ASYMMETRIC, 0.9, 0.9, 0.9),
        row("a", ASYMMETRIC, 0.9, 0.9, 0.9, hardware="arm"),
    ]
    (found,) = costs.costs(rows, ASYMMETRIC, {})
    assert (found.network, found.value, found.busy) == ("a", pytest.approx(2), True)
    assert costs.costs(rows, ASYMMETRIC, {}, batch=16) == []


def test_what_is_missing_is_what_was_neither_timed_nor_refused():
    asked = [Cell("a", {}), Cell("a", ASYMMETRIC), Cell("a", {"activation_dynamic": True})]
    refused = {asked[2].key: "cannot be written"}
    assert costs.missing([row("a", {}, 0.3)], asked, refused) == [asked[1]]


def test_rows_of_another_machine_stand_beside(tmp_path):
    assert costs.tables(tmp_path) == []
    done = {"Conv": {**ZERO, "multiplications": 4_000_000, "milliseconds": 9.0}}
    whole = (
        dict.fromkeys(record_latency.COLUMNS, 0)
        | row("a", {}, 0.5, 0.5)
        | {"kernels": {}, "slow": [], "work": done}
    )
    for name in ("latency", "latency-arm"):
        record_latency.save(tmp_path / f"{name}.csv", [{**whole, "hardware": name}])
    found = costs.tables(tmp_path)
    assert {each["hardware"] for each in found} == {"latency", "latency-arm"}
    assert {each["table"].name for each in found} == {"latency.csv", "latency-arm.csv"}
    assert found[0]["work"] == done and found[0]["ratios"] == [0.5, 0.5]


def test_the_model_gives_a_ratio_and_names_what_it_misses():
    machine = {"float": 1e9, "codes": 4e9, "memory": 1e9, "caches": 1e9}
    float_row = {"work": {"Conv": {**ZERO, "multiplications": 4_000_000, "milliseconds": 4.0}}}
    codes = {"QLinearConv": {**ZERO, "multiplications": 4_000_000, "milliseconds": 2.5}}
    assert costs.modelled_ratio({"work": codes}, float_row, machine) == pytest.approx(0.25)
    assert costs.missed(float_row, machine) == []
    (said,) = costs.missed({"work": codes}, machine)
    assert said == "QLinearConv 2.50 ms, by the model 1.00 ms"


def test_the_profile_quotes_the_recorded_times_of_whole_networks():
    (note,) = (note for note in load_profile("onnxruntime-cpu")["notes"] if "Whole networks" in note["note"])
    choices = {"": {}, " with zero-points in its weights": ASYMMETRIC}
    found = {
        name + words: round(row["ratio"], 2)
        for words, changed in choices.items()
        for (name, _), row in costs.find(record_latency.load().to_dict("records"), changed).items()
    }
    assert note["times"] == {name: found[name] for name in note["times"]} and len(note["times"]) == 7
