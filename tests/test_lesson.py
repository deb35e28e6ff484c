"""What lessons share: rows are found or named as missing, lines and tables say what `qlib` computed."""

import numpy as np
import pandas as pd
import pytest
import torch

import qlib
from qlib import lesson, plots, results
from qlib.comparison import Difference


@pytest.fixture(scope="module")
def table():
    """Lesson 3's: three placements of the paper and a fourth, 3 to 8 bits, five draws."""
    rows = lesson.recorded("digits", "skip-residual").dropna(subset="activation_bits")
    pairs = zip(rows.quantize_skip, rows.quantize_residual, strict=True)
    return rows.assign(placement=[plots.PLACEMENTS[pair].name for pair in pairs])


@pytest.fixture(scope="module")
def summary(table):
    return results.summary(table, ["placement", "activation_bits"])


@pytest.fixture
def shown(monkeypatch):
    """The lines of Markdown that are shown, in a list that grows."""
    lines = []
    monkeypatch.setattr(lesson, "display", lambda markdown: lines.extend(markdown.data.split("\n")))
    return lines


def test_a_table_that_is_not_recorded_says_how_to_record_it():
    with pytest.raises(FileNotFoundError, match="qlib record no-such-experiment"):
        lesson.recorded("digits", "no-such-experiment")


def test_one_row_is_found_and_keeps_whole_numbers_whole(summary):
    found = lesson.row(summary, placement="inputs only", activation_bits=4)
    assert (found.placement, found.activation_bits, found.draws, found.n) == ("inputs only", 4, 5, 10_000)
    assert f"{found.draws}" == "5"


@pytest.mark.parametrize(
    ("where", "words"),
    [({"placement": "nowhere"}, "no rows have .*nowhere"), ({"activation_bits": 4}, "4 rows have .*4")],
)
def test_no_row_or_several_are_an_error(summary, where, words):
    with pytest.raises(ValueError, match=words):
        lesson.row(summary, **where)


def test_a_gain_is_the_paired_difference_of_the_rows_of_both_sides(table):
    sides = {"placement": "inputs only"}, {"placement": "everything quantized"}
    runs = [results.accuracies(table, **side, activation_bits=4) for side in sides]
    assert lesson.gain(table, *sides, activation_bits=4) == qlib.compare(*runs)
    other_bits = {"placement": "everything quantized", "activation_bits": 5}
    found = lesson.gain(table, {"placement": "inputs only", "activation_bits": 4}, other_bits)
    assert found == qlib.compare(runs[0], results.accuracies(table, **other_bits))
    with pytest.raises(ValueError, match="no recorded row has .*nowhere"):
        lesson.gain(table, {"placement": "nowhere"}, sides[1], activation_bits=4)


def test_a_gain_at_equal_bits_is_that_of_rows_that_use_as_many():
    table = lesson.recorded("digits", "pseudo-labels")
    found, equal = lesson.gain_at_equal_bits(
        table, {"labels": "hard"}, {"labels": "true"}, target_weight_bits=3
    )
    assert found == qlib.compare(equal.a, equal.b) and len(found.seeds) == 5
    with pytest.raises(ValueError, match="no seed has .* at equal bits"):
        lesson.gain_at_equal_bits(table, {"labels": "hard"}, {"labels": "true"}, target_weight_bits=1)


def test_recorded_bits_are_those_of_one_row_and_make_a_configuration(bench):
    table = results.with_allocation(lesson.recorded("digits", "allowed-bitwidths"))
    where = {"target_weight_bits": 3, "calibration_seed": 0}
    mixed = table[[2 not in choices or 3 in choices for choices in table.bit_choices]]
    layers = qlib.network.read(bench.models["base"]).layers
    bits = lesson.recorded_bits(mixed, layers, **where)
    assert list(bits) == list(layers) and {type(number) for number in bits.values()} == {int}
    config = qlib.QuantConfig(weight_bits=bits, first_last_bits=None)
    example = bench.validation(1)[0][0]
    cost = qlib.footprint(bench.models["base"], example, config)
    assert cost.average_weight_bits == pytest.approx(lesson.row(mixed, **where).average_weight_bits)
    with pytest.raises(ValueError, match="not one"):
        lesson.recorded_bits(table, layers, **where)  # both sets of allowed bits


def test_bits_needed_are_the_fewest_within_the_margin():
    summary = pd.DataFrame({"bits": [8, 5, 3, 4], "top1": [90.0, 89.0, 70.0, 88.5]})
    assert lesson.bits_needed(summary, "bits", 90.0) == 4
    assert lesson.bits_needed(summary, "bits", 90.0, margin=1.0) == 5
    assert lesson.bits_needed(summary, "bits", 99.0) is None


def test_outputs_of_modules_are_kept_as_they_were_and_hooks_are_gone():
    network = torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3), torch.nn.ReLU(inplace=True)
    )
    images = torch.randn(2, 4)
    found = lesson.outputs_of(network, images, torch.nn.ReLU)
    assert list(found) == ["1", "3"]
    assert torch.equal(found["1"], network[:2](images)) and torch.equal(found["3"], network(images))
    assert not any(tensor.requires_grad for tensor in found.values())
    with pytest.raises(RuntimeError):
        lesson.outputs_of(network, torch.randn(2, 5), torch.nn.ReLU)
    assert not any(module._forward_hooks for module in network.modules())


def test_the_quantizers_of_a_network_are_those_of_its_activations(bench):
    network = bench.models["base"]
    calibration = bench.calibration(32)
    found = lesson.quantizers(qlib.quantize(network, qlib.QuantConfig(), calibration))
    assert "output" in {quantizer.name for quantizer in found}
    assert lesson.quantizers(network) == []


def test_a_layer_has_its_place_in_its_block():
    assert lesson.place_in_block("features.stage1.unit1.body.conv2.conv", "end") == "middle of a block"
    assert lesson.place_in_block("features.stage1.unit1.identity_conv.conv", "end") == "projection"
    for layer in ("features.init_block.conv.conv", "output"):
        assert lesson.place_in_block(layer, "end") == "end"


def test_tables_and_verdicts_are_markdown(shown):
    better = Difference(1.5, (0.5, 2.5), 100, seeds=(1.0, 1.5, 2.0))
    lesson.verdicts("bits", "a over b", {4: better, 8: Difference(-0.5, (-1.0, 0.5), 100)})
    assert shown == [
        "| bits | a over b | verdict |",
        "| --- | --- | --- |",
        "| 4 | +1.50 points (+0.50 to +2.50, 3 seeds, n = 100) | **holds** |",
        "| 8 | -0.50 points (-1.00 to +0.50, n = 100, images only) | **undecided here** |",
    ]
    assert lesson.judged(better, "less") == (str(better), "**does not hold**")
    assert lesson.points(better) == "+1.50 (+0.50 to +2.50)"
    assert lesson.points(better, 1) == "+1.5 (+0.5 to +2.5)"


def test_versus_shows_what_it_returns(table, shown):
    sides = {"placement": "inputs only"}, {"placement": "everything quantized"}
    found = lesson.versus(table, "activation_bits", *sides, ("inputs", "all"))
    assert list(found) == sorted(set(table.activation_bits))
    assert shown[0] == "| bits | inputs | all | difference | inputs above |"
    for line, (bits, difference) in zip(shown[2:], found.items(), strict=True):
        assert difference == lesson.gain(table, *sides, activation_bits=bits)
        means = [
            np.mean(table[(table.placement == side["placement"]) & (table.activation_bits == bits)].top1)
            for side in sides
        ]
        cells = [f"{mean:.1f}" for mean in means]
        cells += [lesson.points(difference), f"**{difference.verdict()}**"]
        assert line == f"| {bits} | {' | '.join(cells)} |"


def test_sentences_say_draws_images_and_seeds(summary):
    spread = f"{summary.spread.max():.1f} points"
    assert lesson.averaged(summary) == (
        "mean over 5 calibration draws, n = 10,000 images; the standard deviation over draws is at most "
        + spread
    )
    assert lesson.averaged(summary, "seeds").startswith("mean over 5 seeds, n = 10,000 images; the ")
    assert lesson.averaged(summary, "seeds").endswith(f"over seeds is at most {spread}")
    assert lesson.half_width(summary) == max(summary.high - summary.low) / 2
    a, b = ([qlib.Accuracy(np.arange(10) < right) for right in sides] for sides in ((6, 5), (5, 7)))
    assert lesson.seed_by_seed(a, b) == "+10.0, -20.0"
    assert lesson.seed_by_seed(a, b[:1]) == "+10.0, +0.0"
    with pytest.raises(ValueError):
        lesson.seed_by_seed(a, [*b, b[0]])


def test_live_and_recorded_agree_when_the_row_lies_in_the_live_interval(table):
    where = {"placement": "inputs only", "activation_bits": 4, "calibration_seed": 0}
    (then,) = results.accuracies(table, **where)
    now = qlib.Accuracy(then.correct[:500])
    line = lesson.agreement("inputs only", now, table, **where)
    compared = f"live {now.top1:.2f} %, recorded {now.top1:.2f} % on these images"
    assert line == f"- inputs only: {compared}: they agree"
    same = f"- {compared}, and the same choices on both cards: "
    assert lesson.agreement("", now, table, same_choices=True, **where) == same + "they agree"
    assert "**they disagree**" in lesson.agreement("", now, table, same_choices=False, **where)
    wrong = qlib.Accuracy(~then.correct[:500])
    assert "**they disagree**, the recorded table may be out" in lesson.agreement("x", wrong, table, **where)
    with pytest.raises(ValueError, match="5 rows have"):
        lesson.agreement("x", now, table, placement="inputs only", activation_bits=4)


def test_a_table_says_when_and_where_it_was_recorded(capsys):
    lesson.print_sessions(lesson.recorded("digits", "skip-residual"))
    sessions = results.provenance(results.table_path("digits", "skip-residual"))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(sessions) and sessions[0]["date"] in printed[0]


def test_an_exercise_waits_and_then_tells_right_from_wrong():
    @lesson.exercise("count the layers")
    def check(layers, bits):
        return layers == 3 if bits == 8 else "bits first"

    assert check.__name__ == "check"
    assert check(None, 8) == check(3, None) == "waiting for your answer"
    assert check(3, 8) == "right"
    assert check(4, 8) == "not yet: count the layers"
    assert check(3, 4) == "not yet: bits first"
