"""What a reader brings in files of theirs goes the whole way: choices, methods, metrics and benches are
measured, recorded, swept and read back, with nothing registered in the package.

Cards and controls of such choices: see the end.
"""

import copy
import csv
import dataclasses
import json
import os
import pickle
import re
import shlex
import subprocess
import sys

import pytest
import torch

from qlib import (
    QuantConfig,
    QuantizationCard,
    compare,
    evaluate,
    experiments,
    laboratory,
    load_bench,
    quantize,
    recording,
    results,
)
from qlib.benches import Loaders, data_hash
from qlib.cli import main
from qlib.network.inputs import as_targets
from qlib.own import named

MINE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import Conv2d, Linear, ReLU, Sequential

from qlib import Metric, QuantConfig
from qlib.benches import Loaders
from qlib.choices import choice
from qlib.methods import Method


@dataclass(frozen=True)
class Config(QuantConfig):
    shrinking: float = choice(1.0, "Shrinking", "Weights are made smaller.", above=0, most=1)
    order: str = choice("forwards", "Order", "Of layers.", values=("forwards", "backwards"))


@dataclass(frozen=True)
class Shrink(Method):
    """Obeys `Config.shrinking`."""

    stage: ClassVar[str] = "before ranges"
    power: int = choice(1, "Power", "Of the factor.", least=1)

    def apply(self, work):
        for name in work.network.layers:
            factor = work.config.shrinking**self.power
            work.network.module.get_submodule(name).weight.data.mul_(factor)


def far(outputs, targets):
    """The largest error of an example."""
    return (outputs - targets).flatten(1).abs().amax(1)


FAR = Metric("far", far, "largest error", "V", greater_is_better=False, margin=0.5)


def both(outputs, targets):
    (classes, number), (labels, height) = outputs, targets
    return (classes.argmax(1) == labels).double() - (number[:, 0] - height).abs()


class Heads(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Linear(6, 8)
        self.classes = Linear(8, 3)
        self.number = Linear(8, 1)

    def forward(self, a, b):
        x = torch.relu(self.body(a + b))
        return self.classes(x), self.number(x)


def data(seed, inputs, targets, n=24, size=7):
    """Batches of what functions of a number of examples give."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [(inputs(k), targets(k)) for k in [size] * (n // size) + [n % size]]


def bench(name, model, inputs, targets, metric="top1"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = {"base": model().eval()}
    return Loaders(name, models, data(1, inputs, targets), data(2, inputs, targets), metric)


def maps():
    """Segmentation: a label for every place."""
    model = lambda: Sequential(Conv2d(3, 8, 3, padding=1), ReLU(), Conv2d(8, 4, 1))
    return bench("maps", model, lambda n: torch.randn(n, 3, 6, 5), lambda n: torch.randint(4, (n, 6, 5)))


def curve():
    """Regression."""
    model = lambda: Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
    return bench("curve", model, lambda n: torch.randn(n, 4), lambda n: torch.randn(n, 2), "mse")


def heads():
    """Two inputs, two outputs."""
    inputs = lambda n: (torch.randn(n, 6), torch.randn(n, 6))
    targets = lambda n: (torch.randint(3, (n,)), torch.rand(n))
    return bench("heads", Heads, inputs, targets, __file__ + ":both")
'''
FEW = {"images": 20, "calibration_images": (10,)}


@pytest.fixture
def mine(tmp_path):
    """The file that the reader brings; ``mine("NAME")`` is where NAME stands in it."""
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return lambda name: f"{path}:{name}"


def grid(mine, *vary, bench="curve", **fields):
    """An experiment on one of the benches of the reader's own."""
    own = {"bench": mine(bench)}
    given = {"fixed": {"weight_bits": 3, "first_last_bits": None}, "metric": "mse", **FEW, **fields}
    return experiments.Experiment("grid", bench, vary=vary, own=own, **given)


def record(mine, path, *vary, **fields):
    return recording.record(grid(mine, *vary, **fields), path, progress=False, prune=True)


def only(table, **where):
    """The one row that has this."""
    (row,) = [row for row in table.to_dict("records") if all(row[k] == v for k, v in where.items())]
    return row


@pytest.fixture
def table(tmp_path):
    return tmp_path / "grid.csv"


# ------------------------------------------------------------------------------------------------------------
# A choice


def choice_grid(mine, **fields):
    axes = [({"shrinking": 1.0}, {"shrinking": 0.5})]
    return grid(mine, *axes, config_class=mine("Config"), **fields)


SHRUNK = {"weight_bits": 3, "first_last_bits": None}


def test_a_choice_acts_through_a_method_that_reads_it(mine):
    bench = load_bench("curve", {"bench": mine("curve")})
    config = named(mine("Config"), "configuration")(3, None, shrinking=0.5, first_last_bits=None)
    x, _ = bench.validation(20)[0]
    found = quantize(bench.models["base"], config, x, mine("Shrink"))
    for name in ("0", "2"):
        half = bench.models["base"].get_submodule(name).weight / 2
        assert (found.get_submodule(name).weight - half).abs().max() < (half.max() - half.min()) / 7
    assert torch.equal(
        quantize(bench.models["base"], config, x)(x),
        quantize(bench.models["base"], QuantConfig(3, None, first_last_bits=None), x)(x),
    )


def test_rows_of_a_choice_have_its_column_and_are_read_back(mine, table):
    experiment = choice_grid(mine, fixed={**SHRUNK, "method": mine("Shrink")})
    rows = recording.record(experiment, table, progress=False)
    assert list(rows.shrinking) == [1.0, 1.0, 0.5] and set(rows.order) == {"forwards"}
    assert rows.key.is_unique and rows.value.nunique() == 3
    kind = experiment.configurations()
    assert [results.run_of(row, kind) for row in rows.to_dict("records")] == experiment.runs()
    again = recording.record(experiment, table, progress=False)
    assert again.equals(rows) and len(results.provenance(table)) == 1


def test_a_measured_row_is_what_quantize_and_evaluate_give(mine, table):
    experiment = choice_grid(mine, fixed={**SHRUNK, "method": mine("Shrink")})
    row = only(recording.record(experiment, table, progress=False), shrinking=0.5)
    run = results.run_of(row, experiment.configurations())
    bench = experiment.load_bench()
    network = bench.models["base"]
    quantized = quantize(network, run.config, bench.calibration(10), run.method)
    expected = evaluate(quantized, bench.validation(20), "mse")
    found = results.measurement_of(row)
    assert found.value == pytest.approx(expected.value) and found.values == pytest.approx(expected.values)
    assert (row["low"], row["high"]) == pytest.approx(expected.interval, abs=1e-4)
    assert row["top1"] != row["top1"] and row["correct"] == ""


def test_a_choice_at_its_default_changes_no_key(mine, table):
    plain = record(mine, table.with_name("plain.csv"))
    rows = recording.record(choice_grid(mine), table, progress=False)
    assert list(rows.key[:2]) == list(plain.key) and rows.key[2] not in set(plain.key)
    # A table of one is gone on with by the other.
    both = recording.record(choice_grid(mine), table.with_name("plain.csv"), progress=False)
    assert list(both.key) == list(rows.key) and list(both.shrinking) == [1.0, 1.0, 0.5]
    assert set(both.session[:2]) == {0} and both.session[2] == 1


def test_rows_with_a_choice_that_is_not_known_are_refused_with_the_way_out(mine, table):
    rows = recording.record(choice_grid(mine), table, progress=False)
    with pytest.raises(ValueError, match="this row has shrinking, order, .* as config_class="):
        results.run_of(rows.iloc[2].to_dict())
    with pytest.raises(ValueError, match="QuantConfig has no field 'shrinking'"):
        record(mine, table, ({"shrinking": 0.5},))


def test_one_table_may_hold_rows_with_and_without_a_choice(mine, table):
    recording.record(choice_grid(mine), table, progress=False)
    plain = grid(mine, ({"weight_bits": 2},))
    rows = recording.record(plain, table, progress=False)
    assert len(rows) == 4 and only(rows, weight_bits=2)["shrinking"] == 1.0
    kind = choice_grid(mine).configurations()
    runs = [results.run_of(row, kind) for row in rows.to_dict("records")]
    assert runs[-1].config == kind(2, first_last_bits=None)
    assert [only(rows, key=key)["weight_bits"] for key in rows.attrs["asked"]] == [None, 2]


def test_rows_that_differ_in_a_choice_are_not_averaged(mine, table):
    rows = recording.record(choice_grid(mine, seeds=(0, 1)), table, progress=False)
    rows = rows[rows.activation_bits.notna()]
    with pytest.raises(ValueError, match="combination of weight_bits differ in shrinking"):
        results.summary(rows, ["weight_bits"])
    found = results.summary(rows, ["shrinking"])
    assert list(found.shrinking) == [1.0, 0.5] and list(found.draws) == [2, 2]
    assert found.attrs["metric"].name == "mse" and "top1" not in found


def test_rows_that_differ_in_a_choice_have_no_card(tmp_path, mine, table, capsys):
    rows = recording.record(choice_grid(mine), table, progress=False)
    quantized = rows[rows.activation_bits.notna()]
    for given in ({}, {"config_class": named(mine("Config"), "configuration")}):
        with pytest.raises(ValueError, match="these rows differ in shrinking: a card is about one setting"):
            QuantizationCard.from_rows(quantized, rows, **given)
    with pytest.raises(ValueError, match="this row has shrinking, order, .* as config_class="):
        QuantizationCard.from_rows(quantized[1:], rows)
    command = ["card", "new", str(tmp_path / "card.yaml"), "--experiment", str(table)]
    assert main(command) == 2 and "differ in shrinking" in capsys.readouterr().err
    command += ["--config-class", mine("Config"), "--where", "shrinking=0.5"]
    assert main(command) == 0 and "shrinking: 0.5" in (tmp_path / "card.yaml").read_text()


def test_a_bench_that_bears_a_name_of_this_package_is_not_taken_for_it(mine, table):
    made = dataclasses.replace(load_bench("curve", {"bench": mine("curve")}), name="digits")
    for network in ("base", "mine"):
        bench = dataclasses.replace(made, models={network: made.models["base"]})
        experiment = experiments.Experiment("x", "digits", {}, (), networks=(network,), metric="mse", **FEW)
        rows = recording.record(experiment, table, progress=False, bench=bench, prune=True)
        card = QuantizationCard.from_rows(rows[1:], rows)
        assert card["weight_bytes"] == card["calibration_overlaps_test"] == "not reported"
        assert card["float_accuracy"]["value"] > 0
        assert results.float_accuracy("digits", network, rows, "mse", "other weights") is None
    table = results.load_table(results.table_path("digits", "float-baseline"))
    known = results.float_accuracy("digits", "base", table)
    assert known.value == results.float_accuracy("digits", "base", rows).value
    assert results.float_accuracy("digits", "base", rows, weights=rows.weights[0]) is None


@pytest.mark.parametrize("name, whose", [("method", "grid"), ("steps", "grid"), ("value", "column")])
def test_a_choice_may_not_bear_a_name_that_means_something_else(tmp_path, mine, table, name, whose):
    (tmp_path / "mine.py").write_text(MINE.replace("order: str", f"{name}: str"))
    with pytest.raises(ValueError, match=f"a choice.* {name!r}, which .*{whose}.*: rename it"):
        recording.record(choice_grid(mine), table, progress=False)
    assert not table.exists()


def test_a_class_that_is_no_configuration_is_refused(mine):
    for name, words in (("Shrink", "not a class derived from QuantConfig"), ("Conf", "no configuration")):
        with pytest.raises(ValueError, match=words):
            grid(mine, config_class=mine(name)).runs()


def test_a_configuration_without_the_decorator_is_refused(tmp_path, mine):
    (tmp_path / "mine.py").write_text(MINE.replace("@dataclass(frozen=True)\nclass Config", "class Config"))
    with pytest.raises(
        ValueError, match="Config states the field .shrinking., but is no dataclass: put @dataclass"
    ):
        choice_grid(mine).runs()


# ------------------------------------------------------------------------------------------------------------
# A method


def test_rows_of_a_method_have_keys_of_their_own(mine, table):
    shrink = mine("Shrink")
    axis = (
        {"method": m} for m in ("nearest", shrink, {"name": shrink, "power": 2}, [shrink, "bias"], "bias")
    )
    rows = record(mine, table, tuple(axis), fixed={**SHRUNK, "shrinking": 0.9}, config_class=mine("Config"))
    assert rows.key.is_unique and len(rows) == 6 and rows.value.nunique() == 6
    assert list(rows.method) == [
        "nearest",
        "nearest",
        shrink,
        {"name": shrink, "power": 2},
        [shrink, "bias"],
        "bias",
    ]
    kind = named(mine("Config"), "configuration")
    assert [results.run_of(row, kind).method for row in rows.to_dict("records")][3:5] == [
        f'{{"name": "{shrink}", "power": 2}}',
        f'["{shrink}", "bias"]',
    ]
    nearest = record(mine, table.with_name("nearest.csv"))
    assert list(rows.key[:1]) == list(nearest.key[:1])


def test_nearest_changes_no_key(mine, table):
    plain = record(mine, table)
    named_so = record(mine, table.with_name("b.csv"), ({"method": ["nearest"]},))
    assert list(plain.key) == list(named_so.key)


# ------------------------------------------------------------------------------------------------------------
# A metric


@pytest.mark.parametrize("name, unit, greater", [("FAR", "V", False), ("far", "", True)])
def test_rows_of_a_metric_are_described_compared_and_read_back(mine, table, name, unit, greater):
    experiment = grid(mine, ({"weight_bits": 2}, {"weight_bits": 8}), metric=mine(name))
    rows = recording.record(experiment, table, progress=False)
    floats, two, eight = [results.measurement_of(row) for row in rows.to_dict("records")]
    assert two.metric.name == mine(name) and two.metric.unit == unit and two.n == 20
    difference = compare(two, eight)
    assert difference.unit == unit
    assert difference.verdict("better") == difference.verdict("greater" if greater else "less")
    bench = load_bench("curve", {"bench": mine("curve")})
    again = evaluate(bench.models["base"], bench.validation(20), mine(name))
    assert again.value == floats.value and compare(again, floats).value == 0
    assert [results.run_of(row) for row in rows.to_dict("records")] == experiment.runs()
    summary = results.summary(rows[1:], ["weight_bits", "metric"])
    assert list(summary.value) == [two.value, eight.value] and summary.metric[0]["name"] == mine(name)
    assert not set(rows.key) & set(record(mine, table.with_name("mse.csv"), ({"weight_bits": 2},)).key)


def test_ends_of_intervals_are_kept_however_small_values_are(mine, table):
    (_, eight) = record(mine, table, ({"weight_bits": 8},), metric=mine("far")).to_dict("records")
    found = results.measurement_of(eight)
    assert (eight["low"], eight["high"]) == pytest.approx(found.interval, rel=1e-6)


def test_a_metric_against_the_float_network_has_no_row_in_float(mine, table):
    fixed = {"activation_bits": None, "first_last_bits": None}
    rows = record(mine, table, ({"weight_bits": 2}, {"weight_bits": 8}), metric="sqnr", fixed=fixed)
    two, eight = [results.measurement_of(row) for row in rows.to_dict("records")]
    better = compare(eight, two)
    assert better.value > 20 and better.interval[0] > 0 and better.verdict("better").endswith("(images only)")
    bench = load_bench("curve", {"bench": mine("curve")})
    network = bench.models["base"]
    expected = evaluate(
        quantize(network, QuantConfig(8, **fixed)), bench.validation(20), "sqnr", reference=network
    )
    assert eight.value == expected.value and eight.values == pytest.approx(expected.values, rel=1e-6)


def test_a_table_may_hold_several_metrics(mine, table):
    record(mine, table)
    rows = recording.record(grid(mine, metric=mine("FAR")), table, progress=False)
    assert len(rows) == 4 and rows.key.is_unique
    quantized = rows[rows.weight_bits.notna()]
    for by in (["weight_bits"], ["weight_bits", "metric"]):
        with pytest.raises(ValueError, match="differ in metric .mse, .*FAR.*: select those of one"):
            results.summary(quantized, by)
    one, other = (results.measurement_of(row) for row in quantized.to_dict("records"))
    with pytest.raises(ValueError, match="mse cannot be compared with"):
        compare(one, other)


# ------------------------------------------------------------------------------------------------------------
# A bench

BENCHES = {  # what a bench's metric is, and what it measures
    "maps": ("top1", "top1"),
    "curve": ("mse", "mse"),
    "heads": ("{file}:both", "both"),
}


@pytest.fixture(params=BENCHES)
def bench(request, mine):
    """An experiment without a metric on a bench of the reader's own, and the name of the bench's metric."""
    metric = BENCHES[request.param][0].format(file=mine("").removesuffix(":"))
    return grid(
        mine, ({"activation_bits": 2}, {"activation_bits": 8}), bench=request.param, metric=None
    ), metric


def test_a_bench_is_evaluated_and_recorded_by_its_own_metric(bench, table):
    experiment, metric = bench
    made = experiment.load_bench()
    rows = recording.record(experiment, table, progress=False)
    assert rows.key.is_unique and len(rows) == 3
    for row in rows.to_dict("records"):
        run = results.run_of(row)
        assert run.metric == metric
        quantized = quantize(made.models["base"], run.config, made.calibration(run.calibration_images))
        expected = evaluate(quantized, made.validation(20), made.metric)
        found = results.measurement_of(row)
        assert found.value == pytest.approx(expected.value) and found.metric.name == expected.metric.name
        assert found.values == pytest.approx(expected.values, rel=1e-6)
        assert found.interval == pytest.approx(expected.interval)
    assert rows.value.nunique() == 3
    assert (
        rows.top1.isna().all() or metric == "top1" and list(rows.top1) == pytest.approx(rows.value, abs=1e-4)
    )
    with pytest.raises(ValueError, match="not top-1 accuracy: use measurement_of"):
        results.accuracy_of(rows.iloc[0].to_dict())


def test_a_bench_made_in_python_is_recorded_by_its_own_metric(mine, table):
    made = load_bench("curve", {"bench": mine("curve")})
    experiment = experiments.Experiment("grid", "curve", {"weight_bits": 3}, (), **FEW)
    rows = recording.record(experiment, table, progress=False, bench=made)
    assert list(rows.metric) == ["mse", "mse"]
    with pytest.raises(ValueError, match=r"metric must be a name or FILE.py:NAME, .* got \"Metric"):
        other = dataclasses.replace(made, metric=named(mine("FAR"), "metric"))
        recording.record(experiment, table, progress=False, bench=other)


def test_bits_are_chosen_for_a_bench_with_several_inputs(mine, table):
    axis = ({"largest_map_bits": 4},)
    row = only(record(mine, table, axis, bench="heads", metric=mine("both"), fixed={}), weight_bits=8)
    assert row["average_activation_bits"] < 8 and set(row["bits"]) >= {"body", "classes", "number"}


def test_what_is_no_bench_is_refused(tmp_path, mine):
    (tmp_path / "half.py").write_text(
        "class Half:\n    name, models = 'half', {}\n    def validation(self, n): return []\n"
    )
    with pytest.raises(ValueError, match="gives a Half, which lacks calibration, training"):
        load_bench("half", {"bench": f"{tmp_path / 'half.py'}:Half"})
    with pytest.raises(ValueError, match="no bench"):
        load_bench("x", {"bench": mine("curves")})
    half = named(f"{tmp_path / 'half.py'}:Half", "bench")()
    half.calibration = half.validation
    half.training = None
    with pytest.raises(ValueError, match="bench= gives a Half, which lacks training$"):
        recording.record(grid(mine), tmp_path / "x.csv", bench=half)
    assert not (tmp_path / "x.csv").exists()


TARGETS = {
    "nothing": lambda n: None,
    "words": lambda n: [f"word {i}" for i in range(n)],
    "boxes of each image": lambda n: [{"boxes": torch.rand(9, 4), "of": i} for i in range(n)],
    "several": lambda n: (torch.arange(n), {"mask": torch.rand(n, 3, 3)}),
    "a list": lambda n: [*range(n)],
}


@pytest.mark.parametrize("kind", TARGETS)
def test_loaders_give_the_targets_of_the_examples_they_give(kind):
    batches = [(torch.rand(4, 2), TARGETS[kind](4)) for _ in range(2)]
    found = Loaders("mine", {}, batches, batches).validation(6)
    whole, part = [(x, targets) for x, targets in found]
    assert [len(x) for x, _ in found] == [4, 2]
    assert str(whole[1]) == str(as_targets(batches[0][1]))
    expected = {
        "nothing": None,
        "words": ["word 0", "word 1"],
        "boxes of each image": batches[1][1] and batches[1][1][:2],
        "several": kind == "several" and (torch.arange(2), {"mask": batches[1][1][1]["mask"][:2]}),
        "a list": torch.tensor([0, 1]),
    }[kind]
    assert str(part[1]) == str(as_targets(expected))
    assert len(data_hash(found)) == 16 and data_hash(found) != data_hash(found[:1])


def test_data_are_told_apart_however_they_are_batched():
    x, y = torch.rand(8, 2), torch.arange(8)
    words = [f"word {i}" for i in range(8)]

    def hashes(size):
        parts = [slice(i, i + size) for i in range(0, 8, size)]
        kinds = (lambda p: y[p], lambda p: (y[p], {"mask": x[p]}), lambda p: words[p], lambda p: None)
        return [data_hash([(x[p], targets(p)) for p in parts]) for targets in kinds]

    assert hashes(8) == hashes(4) == hashes(3) == hashes(1) and len(set(hashes(8))) == 4


def test_loaders_refuse_targets_that_they_cannot_divide():
    batches = [(torch.rand(4, 2), {"boxes": torch.rand(9, 4)})]
    loaders = Loaders("mine", {}, batches, batches)
    assert len(loaders.validation(4)) == 1
    with pytest.raises(
        ValueError, match="bench 'mine': 4 examples with targets of .*, of which 3 are wanted"
    ):
        loaders.validation(3)


# ------------------------------------------------------------------------------------------------------------
# Commands

CHOSEN = ["weight_bits=3", "first_last_bits=null", "shrinking=0.5"]
SMALL = ["--images", "20", "--calibration-images", "10"]


def arguments(mine, *more):
    """For `qlib run`: all that a reader can bring."""
    brought = {"bench": "curve", "config-class": "Config", "method": "Shrink", "metric": "FAR"}
    return [*CHOSEN, *SMALL, *(part for k, v in brought.items() for part in (f"--{k}", mine(v))), *more]


def test_run_measures_what_a_reader_brings(mine, table, capsys):
    assert main(["run", *arguments(mine, "--out", str(table))]) == 0
    floats, chosen = capsys.readouterr().out.splitlines()
    rows = results.load_table(table).to_dict("records")
    found = [str(results.measurement_of(row)) for row in rows]
    assert floats == f"float: largest error {found[0]}" and " V (" in floats
    assert chosen == f"{' '.join(CHOSEN)} method={mine('Shrink')}: largest error {found[1]}"
    assert only(results.load_table(table), shrinking=0.5)["method"] == mine("Shrink")
    again = laboratory.Laboratory(load_bench("curve", {"bench": mine("curve")}))
    run = results.run_of(rows[1], named(mine("Config"), "configuration"))
    assert again.identity(run)["key"] == rows[1]["key"]


def test_runs_with_and_without_a_choice_gather_in_one_table(mine, table, capsys):
    plain = ["weight_bits=3", "first_last_bits=null", *SMALL, "--bench", mine("curve"), "--out", str(table)]
    for given in (plain, ["shrinking=0.5", *plain, "--config-class", mine("Config")], plain):
        assert main(["run", *given]) == 0
        assert "failed" not in capsys.readouterr().out
    rows = results.load_table(table)
    assert sorted(rows.shrinking) == [0.5, 1.0, 1.0] and len(results.provenance(table)) == 2


def test_the_command_beside_a_table_makes_its_rows_again(mine, table):
    command = [sys.executable, "-m", "qlib.cli", "run", *arguments(mine, "--out", table.name)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, capture_output=True, cwd=table.parent, env=environment)
    rows = results.load_table(table)
    table.rename(table.with_name("first.csv"))
    said = results.provenance(table)[0]["command"]
    assert main(shlex.split(said)[1:-1] + [str(table)]) == 0
    assert list(results.load_table(table).key) == list(rows.key)


def test_run_measures_the_benches_of_a_reader(mine, capsys):
    for name, words in (("maps", "% ("), ("curve", "squared error "), ("heads", ": both ")):
        assert main(["run", "weight_bits=4", *SMALL, "--bench", mine(name)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2 and all(words in line and "n = 20" in line for line in lines)


@pytest.mark.parametrize("method", ["name: bias", "- bias", "{name: bias}", "[bias]"])
def test_a_method_is_given_as_yaml(mine, table, method):
    command = ["run", "weight_bits=3", *SMALL, "--bench", mine("curve"), "--out", str(table)]
    assert main([*command, "--method", method]) == 0
    assert list(results.load_table(table).method) == ["nearest", "bias"]


def test_a_mapping_may_name_a_method_of_the_readers_own(mine, table):
    method = f"name: {mine('Shrink')}\npower: 2"
    assert main(["run", *arguments(mine, "--method", method, "--out", str(table))]) == 0
    assert results.load_table(table).method[1] == {"name": mine("Shrink"), "power": 2}


@pytest.mark.parametrize("given", [["--method", "[bias"], ["weight_bits={"], ["--method", "bia: 3"]])
def test_what_is_no_yaml_is_refused_in_one_line(mine, given, capsys):
    assert main(["run", "--bench", mine("curve"), *SMALL, *given]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert given[-1].split("=")[0] in said.replace("'", "") or "None" in said


def test_a_bench_is_made_once(tmp_path, mine, capsys):
    log = tmp_path / "made"
    (tmp_path / "mine.py").write_text(
        MINE.replace('    """Regression."""', f"    print('made', file=open({str(log)!r}, 'a'))")
    )
    assert main(["run", "weight_bits=3", *SMALL, "--bench", mine("curve")]) == 0
    assert log.read_text() == "made\n"


def test_a_key_does_not_depend_on_the_folder_from_which_a_file_is_named(tmp_path, mine, table, monkeypatch):
    fields = {"config_class": mine("Config"), "fixed": {**SHRUNK, "shrinking": 0.5}}
    monkeypatch.chdir(tmp_path)
    found = []
    for place in (str(tmp_path / "mine.py"), "mine.py", "./mine.py"):
        method = {"name": f"{place}:Shrink", "power": 2}
        rows = record(mine, table, ({"method": method},), metric=f"{place}:FAR", **fields)
        found.append(list(rows.key))
    assert found[0] == found[1] == found[2] and len(results.provenance(table)) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_export_writes_what_a_reader_brings(tmp_path, mine):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    (tmp_path / "config.yaml").write_text("{weight_bits: 8, shrinking: 0.5}\n")
    brought = ["--config-class", mine("Config"), "--method", f"name: {mine('Shrink')}\npower: 2"]
    command = ["export", "--calibration-images", "20", "--config", str(tmp_path / "config.yaml")]
    assert main([*command, str(tmp_path / "x.onnx")]) == 2  # the choice is none of QuantConfig's
    assert main([*command, *brought, str(tmp_path / "x.onnx")]) == 0
    bench = load_bench("digits")
    config = named(mine("Config"), "configuration")(shrinking=0.5)
    method = {"name": mine("Shrink"), "power": 2}
    expected = quantize(bench.models["base"], config, bench.calibration(20), method)
    x = bench.validation(20)[0][0]
    session = runtime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        found = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
        assert (found - expected(x)).abs().mean() < 0.05 * expected(x).std()


GRID = """
bench: mine
fixed: {{first_last_bits: null}}
images: 20
calibration_images: [10]
metric: {metric}
config_class: {config}
vary:
- - {{weight_bits: 3, method: nearest}}
  - {{weight_bits: 3, method: [{shrink}, bias]}}
  - {{weight_bits: 4, method: {{name: {shrink}, power: 2}}}}
- shrinking: [1.0, 0.5]
"""
SAME = [c for c in results.COLUMNS if c not in ("session", "seconds")] + ["shrinking", "order"]


@pytest.fixture
def swept(mine, tmp_path):
    """The file of a grid, and the table of its rows, made by one process."""
    path = tmp_path / "mine.yaml"
    path.write_text(GRID.format(metric=mine("FAR"), config=mine("Config"), shrink=mine("Shrink")))
    command = ["sweep", str(path), "--bench", mine("curve")]
    assert main(command) == 0
    return path, results.load_table(tmp_path / "mine.rows.csv"), command


def test_sweep_records_what_a_reader_brings(swept, mine, capsys):
    path, rows, command = swept
    assert len(rows) == 7 and rows.key.is_unique and rows.value.nunique() == 6
    kind = named(mine("Config"), "configuration")
    runs = [results.run_of(row, kind) for row in rows.to_dict("records")]
    grid = dataclasses.replace(experiments.Experiment.load(path), bench="curve", own={"bench": mine("curve")})
    assert runs == grid.runs()
    assert len(results.summary(rows[1:], ["method", "shrinking"])) == 6
    assert main(command) == 0 and "\nfloat " in capsys.readouterr().out
    assert results.load_table(path.with_suffix(".rows.csv")).equals(rows)


def test_a_method_beside_a_grid_of_methods_is_refused(swept, capsys):
    _, _, command = swept
    assert main([*command, "--method", "bias"]) == 2
    assert "mine.yaml varies the method: leave out --method" in capsys.readouterr().err


def test_processes_make_the_same_table(swept, tmp_path):
    _, rows, command = swept
    assert main([*command, "--workers", "2", "--out", str(tmp_path / "two.csv")]) == 0
    assert results.load_table(tmp_path / "two.csv")[SAME].equals(rows[SAME])


def test_shards_make_the_same_table(swept, tmp_path, mine):
    path, rows, command = swept
    for shard in ("2/2", "1/2"):
        assert main([*command, "--shard", shard, "--out", str(tmp_path / "parts.csv")]) == 0
    grid = dataclasses.replace(experiments.Experiment.load(path), bench="curve", own={"bench": mine("curve")})
    assert recording.merge(grid, tmp_path / "parts.csv")[SAME].equals(rows[SAME])
    assert sorted(p.name for p in tmp_path.glob("parts*")) == ["parts.csv", "parts.csv.meta.yaml"]


def test_shards_of_a_grid_that_names_no_metric_are_put_in_order(mine, table):
    axis = tuple({"weight_bits": bits} for bits in (2, 3, 4, 5))
    whole = record(mine, table.with_name("whole.csv"), axis, metric=None)
    for part in (2, 1):
        recording.record(grid(mine, axis, metric=None), table, progress=False, shard=(part, 2))
    assert list(recording.merge(grid(mine, axis, metric=None), table).key) == list(whole.key)


def test_sweep_measures_what_the_bench_says_and_run_what_it_is_told(mine, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(
        "images: 20\ncalibration_images: [10]\nvary: [{weight_bits: [4]}]\nbench: x\n"
    )
    for more, metric in (([], "mse"), (["--metric", "sqnr"], "sqnr")):
        command = ["sweep", str(tmp_path / "grid.yaml"), "--bench", mine("curve"), *more]
        assert main([*command, "--out", str(tmp_path / f"{metric}.csv")]) == 0
        assert set(results.load_table(tmp_path / f"{metric}.csv").metric) == {metric}


def test_results_lists_what_a_reader_brought(swept, mine, tmp_path, capsys):
    path, rows, _ = swept
    table = str(path.with_suffix(".rows.csv"))
    capsys.readouterr()
    assert main(["results", table]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and all(f"metric={mine('FAR')}" in line and " V (" in line for line in lines)
    assert "shrinking=" not in lines[1] and "shrinking=0.5" in lines[2] and "order=" not in "".join(lines)
    assert f'method=["{mine("Shrink")}", "bias"]' in lines[3]
    out = str(tmp_path / "some.json")
    assert main(["results", table, "--where", "shrinking=0.5", "weight_bits=3", "--out", out]) == 0
    assert [row["shrinking"] for row in json.loads((tmp_path / "some.json").read_text())] == [0.5, 0.5]


@pytest.mark.parametrize(
    "more, words",
    [
        (["--bench", "{mine}:curves"], "no bench .*curves"),
        (["--method", "{mine}:Shrnk"], "no method .*Shrnk"),
        (["--method", "{mine}:far"], "a method is a name, or an instance"),
        (["--metric", "{mine}:FARR"], "no metric .*FARR"),
        (["--metric", "{mine}:Config"], "a metric is a name .top1"),
        (["--config-class", "{mine}:Shrink"], "is not a class derived from QuantConfig"),
        (
            ["--config-class", "{mine}:Config", "shrinkin=0.5"],
            "no field 'shrinkin'; did you mean 'shrinking'",
        ),
        (
            ["--config-class", "{mine}:Config", "shrinking=2"],
            "shrinking must be a number above 0 and at most 1",
        ),
        (["shrinking=0.5"], "QuantConfig has no field 'shrinking'"),
        (["--method", "{mine}/nowhere.py:Shrink"], "no method .*nowhere.py"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(mine, more, words, capsys):
    given = [part.format(mine=mine("").removesuffix(":")) for part in more]
    assert main(["run", "--bench", mine("curve"), *SMALL, *given]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and re.search(words, said[0]), said


@pytest.mark.parametrize(
    "code, words",
    [("1 / 0\n", "line 1: ZeroDivisionError"), ("def f(:\n", "SyntaxError"), ("import nothere", "nothere")],
)
def test_a_file_that_cannot_be_run_says_where(tmp_path, mine, code, words, capsys):
    (tmp_path / "broken.py").write_text(code)
    assert main(["run", "--bench", mine("curve"), *SMALL, "--method", f"{tmp_path / 'broken.py'}:M"]) == 2
    assert words in capsys.readouterr().err


FAULTS = [
    "raise ValueError('too flat')",
    "raise KeyError('flat')",
    "{}['flat']",
    "raise type('MyError', (Exception,), {})('flat')",
]


@pytest.mark.parametrize("code", FAULTS)
def test_a_method_that_fails_ends_its_run_alone(tmp_path, mine, table, code):
    (tmp_path / "mine.py").write_text(
        MINE.replace("            factor =", f"            {code}\n            factor =")
    )
    rows = record(mine, table, ({"method": mine("Shrink")}, {"method": "bias"}), config_class=mine("Config"))
    assert list(rows.method) == ["nearest", "bias"]
    (said,) = results.failures(table).values()
    assert "flat" in said and "Error" in said


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, OSError])
def test_what_is_no_fault_of_a_method_ends_the_recording(tmp_path, mine, table, error):
    (tmp_path / "mine.py").write_text(
        MINE.replace(
            "            factor =", f"            raise {error.__name__}('full')\n            factor ="
        )
    )
    with pytest.raises(error, match="full"):
        record(mine, table, ({"method": mine("Shrink")},), config_class=mine("Config"))
    assert list(results.load_table(table).method) == ["nearest"] and not results.failures(table)


# ------------------------------------------------------------------------------------------------------------
# Code that changes


CHANGED = {
    "of a method": ("work.config.shrinking**self.power", "0.9 * work.config.shrinking**self.power"),
    "of a metric": ("abs().amax(1)", "square().amax(1)"),
    "of a choice": ("above=0, most=1", "above=0, most=2"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_changed_code_makes_other_rows(tmp_path, mine, table, what):
    fields = {
        "of a method": {"method": mine("Shrink")},
        "of a metric": {},
        "of a choice": {"shrinking": 0.5},
    }[what]
    how = {"config_class": mine("Config"), "metric": mine("FAR") if what == "of a metric" else "mse"}
    before = record(mine, table, (fields,), **how)
    assert list(record(mine, table, (fields,), **how).key) == list(before.key)
    (tmp_path / "mine.py").write_text(MINE.replace(*CHANGED[what]))
    after = record(mine, table, (fields,), **how)
    assert len(after) == 2 and after.key[1] != before.key[1]
    assert (after.value[1] != before.value[1]) == (what != "of a choice")
    assert (after.key[0] != before.key[0]) == (what == "of a metric")  # the row in float


def test_code_of_a_bench_counts_by_what_it_makes(tmp_path, mine, table):
    before = record(mine, table)
    (tmp_path / "mine.py").write_text(MINE + "\n# a thought\n")
    assert list(record(mine, table).key) == list(before.key)
    for change in (("data(2, inputs", "data(3, inputs"), ("torch.manual_seed(0)", "torch.manual_seed(5)")):
        (tmp_path / "mine.py").write_text(MINE.replace(*change))
        assert not set(record(mine, table).key) & set(before.key)


def test_a_copy_of_a_network_looks_at_no_file(tmp_path, mine):
    config = named(mine("Config"), "configuration")(3, 4, shrinking=0.5)
    made = load_bench("curve", {"bench": mine("curve")})
    quantized = quantize(made.models["base"], config, made.calibration(10), mine("Shrink"))
    (tmp_path / "mine.py").unlink()
    x = made.validation(20)[0][0]
    assert torch.equal(copy.deepcopy(quantized)(x), quantized(x)) and copy.deepcopy(config) == config
    with pytest.raises(ValueError, match="no settings .*mine.py:Config"):
        pickle.loads(pickle.dumps(config))


def test_run_says_what_was_asked_for_and_no_older_row(tmp_path, mine, table, capsys):
    command = ["run", *arguments(mine, "--out", str(table))]
    assert main(command) == 0
    before = capsys.readouterr().out.splitlines()
    (tmp_path / "mine.py").write_text(MINE.replace(*CHANGED["of a method"]))
    assert main(command) == 0
    after = capsys.readouterr().out.splitlines()
    assert after[0] == before[0] and after[1] != before[1]
    (tmp_path / "mine.py").write_text(
        MINE.replace("            factor =", "            1 / 0\n            factor =")
    )
    assert main(command) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == before[0] and said.out.endswith(" failed\n")
    assert said.err == "qlib: a row failed: ZeroDivisionError: division by zero\n"
    (tmp_path / "mine.py").write_text(MINE)
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == before and said.err == ""
    assert len(results.load_table(table)) == 5 and len(results.failures(table)) == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_file_that_is_edited_during_a_recording_ends_it(tmp_path, mine, table, late, monkeypatch):
    measure = laboratory.Laboratory.measure

    def edits(self, run):
        cells = measure(self, run) if late else None
        (tmp_path / "mine.py").write_text(MINE.replace(*CHANGED["of a method"]))
        return cells or measure(self, run)

    monkeypatch.setattr(laboratory.Laboratory, "measure", edits)
    axis = ({"method": mine("Shrink"), "weight_bits": 2}, {"method": mine("Shrink")})
    with pytest.raises(OSError, match="other code, .* than when the recording began"):
        record(mine, table, axis, config_class=mine("Config"))
    rows = results.load_table(table)
    assert list(rows.method) == ["nearest"] and not results.failures(table)


# ------------------------------------------------------------------------------------------------------------
# Tables of others


def landed():
    return sorted((results.clone() / "book" / "results").glob("*/*.csv"))


@pytest.mark.parametrize("path", landed(), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_tables_from_before_there_were_methods_and_metrics_are_read(path):
    if "metric" in path.read_text("utf8").splitlines()[0].split(","):
        pytest.skip("it was recorded since")
    rows = results.load_table(path)
    assert set(rows.method) == {"nearest"} and set(rows.metric) == {"top1"}
    assert list(rows.value) == list(rows.top1) and set(rows["values"]) == {"null"}
    row = rows.iloc[-1].to_dict()
    assert results.measurement_of(row).value == pytest.approx(row["top1"], abs=1e-4)
    run = results.run_of(row)
    assert (run.method, run.metric) == ("nearest", "top1")


def test_no_code_that_a_table_names_is_run(tmp_path, mine, table, capsys):
    record(mine, table, metric=mine("FAR"))
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'was run')!r}, 'w')\n" + MINE)
    with open(table, newline="") as file:
        given = list(csv.DictReader(file))
    for row in given:
        row["metric"] = row["metric"].replace("mine.py", "evil.py")
        row.update(bench=f"{evil}:curve", method=f"{evil}:Shrink")
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, given[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(given)
    rows = results.load_table(table)
    floats, quantized = (results.measurement_of(row) for row in rows.to_dict("records"))
    assert quantized.metric.name == f"{evil}:FAR" and str(quantized).endswith("n = 20)")
    assert compare(quantized, floats).value == pytest.approx(quantized.value - floats.value)
    for run in map(results.run_of, rows.to_dict("records")):
        assert (run.method, run.metric, run.bench) == tuple(f"{evil}:{n}" for n in ("Shrink", "FAR", "curve"))
    assert len(results.summary(rows[1:], ["method", "metric"])) == 1
    assert main(["results", str(table)]) == 0 and f"metric={evil}:FAR" in capsys.readouterr().out
    assert len(recording.record(grid(mine), table, progress=False)) == 4
    assert not (tmp_path / "was run").exists()
    load_bench("curve", {"bench": f"{evil}:curve"})
    assert (tmp_path / "was run").exists()  # only when it is asked for


# ------------------------------------------------------------------------------------------------------------
# Cards and controls of a choice from outside: here they are to be tested
