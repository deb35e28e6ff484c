"""Rows of the tradeoff explorer: whatever tells them apart is a control, so that no average hides it."""

import pandas as pd
import pytest

from qlib import results
from qlib.widgets.tradeoffs import _share_float, lines


@pytest.fixture(scope="module")
def table():
    return results.load_table(results.table_path("digits", "skip-residual"))


DIFFERENCES = {
    "a method": ({"method": "bias"}, "Method"),
    "a precision": ({"precision": "bfloat16"}, "Precision"),
    "bits of the image": ({"input_bits": 4}, "Bits of the input"),
    "logits in float": ({"quantize_output": False}, "Output quantized"),
    "a choice of one's own": ({"stochastic": True}, "stochastic"),
}


@pytest.mark.parametrize("other, control", DIFFERENCES.values(), ids=DIFFERENCES)
def test_rows_that_differ_in_anything_are_lines_of_their_own(table, other, control):
    usual = table.assign(**dict.fromkeys(set(other) - set(table.columns), False))
    both = pd.concat([usual, usual.assign(**other)])
    before = lines(table, "activation_bits", ())
    after = lines(both, "activation_bits", ())
    assert len(after["lines"]) == 2 * len(before["lines"]) and control not in before["same"]
    assert all(len(line["fields"][control]) for line in after["lines"])
    for line in after["lines"]:  # every point still stands on the seeds that it stood on
        assert all(
            len(point["seeds"]) == len(before["lines"][0]["points"][0]["seeds"]) for point in line["points"]
        )


def test_settings_of_the_learner_that_vary_are_told_apart():
    table = results.load_table(results.table_path("digits", "convergence"))
    found = lines(table, "average_weight_bits", ())
    told = {name for line in found["lines"] for name in line["fields"]}
    assert {"Steps", "Learning rate", "Penalty", "Parametrization", "Step that is kept"} & told
    settings = {str(sorted((row["allocation"] or {}).items())) for row in table.to_dict("records")}
    assert sum(len(line["points"]) for line in found["lines"]) >= len(settings) - 1


def test_bits_of_one_part_are_points_of_a_line_and_say_nothing_of_what_stays_in_float():
    table = results.load_table(results.table_path("language", "keys-values"))
    found = lines(table, "kv_bits", ())
    (line,) = found["lines"]
    assert [(p["x"], p["value"]) for p in line["points"]] == [
        (row.kv_bits, pytest.approx(row.value, abs=1e-3)) for row in table.sort_values("kv_bits").itertuples()
    ]
    said = {"name": "perplexity", "label": "perplexity", "unit": "", "greater": False, "log": False}
    assert found["measure"] == said
    for name in ("Weight bits", "Activation bits", "Bits of the input"):
        assert found["same"][name] == "float"
    assert not {"Additions", "Codes of weights"} & {*found["same"]}


def test_groups_and_tokens_are_named():
    table = results.load_table(results.table_path("language", "weight-groups"))
    told = {line["fields"]["A range of weights for"] for line in lines(table, "weight_bits", ())["lines"]}
    groups = {f"every {size} weights of a channel" for size in (64, 128)}
    assert told == {"each channel", "the whole tensor", *groups}
    table = results.load_table(results.table_path("language", "dynamic-activations"))
    found = lines(table, "activation_bits", ())
    told = {line["fields"]["A range of activations for"] for line in found["lines"]}
    assert told == {"each token", "the whole tensor"} and found["measure"]["log"]


def test_a_line_in_float_is_shared_with_tables_of_the_same_network_alone():
    names = ("weight-groups", "dynamic-activations")
    tables = {(name, "language"): results.load_table(results.table_path("language", name)) for name in names}
    networks = {key: {*table.network} for key, table in tables.items()}
    for of_groups, expected in ((networks["weight-groups", "language"], 29.602), ({"mine"}, None)):
        drawn = {
            ("weight-groups", "language"): lines(tables["weight-groups", "language"], "weight_bits", ()),
            ("dynamic-activations", "language"): lines(
                tables["dynamic-activations", "language"], "activation_bits", ()
            ),
        }
        assert drawn["weight-groups", "language"]["float"] == {}
        _share_float(drawn, {**networks, ("weight-groups", "language"): of_groups})
        assert drawn["weight-groups", "language"]["float"] == ({"base": expected} if expected else {})
