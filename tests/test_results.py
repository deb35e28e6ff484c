"""Recording: rows keyed by what they depend on, resumable, none lost, repeated or half-written."""

import csv
import dataclasses
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import DATA

from qlib import QuantConfig, experiments, load_bench, recording, results, tables
from qlib.cli import main
from qlib.devices import PRECISIONS, Prefetched
from qlib.laboratory import CODE_VERSION, Laboratory, pack

TINY = experiments.Experiment(
    "tiny",
    "digits",
    {},
    (({"activation_bits": 4}, {"activation_bits": 8}),),
    images=40,
    calibration_images=(20,),
    seeds=(0, 1),
)


@pytest.fixture
def table(tmp_path):
    return tmp_path / "tiny.csv"


@pytest.fixture(scope="module")
def digits():
    return Laboratory(load_bench("digits"))


def recorded_tables():
    try:
        return sorted((results.clone() / "book" / "results").glob("*/*.csv"))
    except FileNotFoundError:
        return []


def test_a_recorded_row_is_what_quantize_and_evaluate_give(table):
    rows = recording.record(TINY, table, progress=False)
    assert len(rows) == 5 and rows.key.is_unique
    laboratory = Laboratory(load_bench("digits"))
    for row in rows.to_dict("records"):
        again = results.accuracy_of({**laboratory.measure(results.run_of(row)), "n": row["n"]})
        assert (again.correct == results.accuracy_of(row).correct).all()
        assert row["top1"] == pytest.approx(again.top1, abs=1e-4)


def test_recording_again_computes_nothing(table, monkeypatch):
    before = recording.record(TINY, table, progress=False)
    monkeypatch.setattr(Laboratory, "measure", lambda *_: pytest.fail("a row was computed twice"))
    assert recording.record(TINY, table, progress=False).equals(before)
    assert len(results.provenance(table)) == 1


def test_an_interrupted_recording_goes_on_and_equals_an_uninterrupted_one(table, tmp_path, monkeypatch):
    compute = Laboratory.measure
    count = 0

    def stops(self, run):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return compute(self, run)

    monkeypatch.setattr(Laboratory, "measure", stops)
    with pytest.raises(KeyboardInterrupt):
        recording.record(TINY, table, progress=False)
    assert len(results.load_table(table)) == 2
    resumed = recording.record(TINY, table, progress=False)
    whole = recording.record(TINY, tmp_path / "whole.csv", progress=False)
    same = [c for c in results.COLUMNS if c not in ("session", "seconds")]
    assert resumed[same].equals(whole[same])
    assert len(results.provenance(table)) == 2


def test_a_killed_recording_leaves_whole_rows_only(table):
    script = textwrap.dedent(f"""
        from pathlib import Path
        from qlib import experiments, recording, results
        axis = tuple({{"activation_bits": b}} for b in range(1, 17))
        tiny = experiments.Experiment("tiny", "digits", {{}}, (axis,), images=500,
                                      calibration_images=(20,), seeds=tuple(range(10)))
        recording.record(tiny, Path({str(table)!r}), progress=False)
    """)
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not table.exists() or len(table.read_text().splitlines()) < 4):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    rows = results.load_table(table)
    assert 3 <= len(rows) < 161 and rows.key.is_unique
    assert all(results.accuracy_of(row).n == 500 for row in rows.to_dict("records"))


def test_a_row_that_cannot_be_written_leaves_the_table_as_it_was(table, monkeypatch):
    recording.record(dataclasses.replace(TINY, seeds=(0,)), table, progress=False)
    before = table.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        recording.record(dataclasses.replace(TINY, seeds=(0, 1)), table, progress=False)
    assert table.read_bytes() == before
    assert [p.name for p in table.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda run: dataclasses.replace(run, config=run.config.replace(percentile=99.9)),
        lambda run: dataclasses.replace(run, config=run.config.replace(float_layers=["fc"])),
        lambda run: dataclasses.replace(run, network="better"),
        lambda run: dataclasses.replace(run, calibration_seed=1),
        lambda run: dataclasses.replace(run, calibration_images=21),
        lambda run: dataclasses.replace(run, images=41),
    ],
)
def test_the_key_changes_with_whatever_the_row_depends_on(change):
    laboratory = Laboratory(load_bench("digits"))
    run = experiments.Run("digits", "base", QuantConfig(), 20, 0, 40)
    assert laboratory.identity(run)["key"] != laboratory.identity(change(run))["key"]


def test_the_key_changes_with_the_code_version_and_the_weights(monkeypatch):
    run = experiments.Run("digits", "base", QuantConfig(), 20, 0, 40)
    key = Laboratory(load_bench("digits")).identity(run)["key"]
    bench = load_bench("digits")
    next(bench.models["base"].parameters()).data[0] += 1
    assert Laboratory(bench).identity(run)["key"] != key
    monkeypatch.setattr("qlib.laboratory.CODE_VERSION", CODE_VERSION + 1)
    assert Laboratory(load_bench("digits")).identity(run)["key"] != key


def test_packing_loses_nothing():
    correct = np.random.default_rng(0).random(1003) < 0.7
    row = {"correct": pack(correct), "n": 1003}
    assert (results.accuracy_of(row).correct == correct).all()


def test_a_summary_is_the_mean_over_draws_with_its_interval_and_spread(table):
    rows = recording.record(TINY, table, progress=False)
    summary = results.summary(rows[rows.activation_bits.notna()], ["activation_bits"])
    for line in summary.itertuples():
        draws = [a.top1 for a in results.accuracies(rows, activation_bits=line.activation_bits)]
        assert line.draws == 2 and line.n == 40
        assert line.top1 == pytest.approx(np.mean(draws)) and line.spread == pytest.approx(
            np.std(draws, ddof=1)
        )
        assert line.low < line.top1 < line.high
    with pytest.raises(ValueError, match="no recorded row"):
        results.accuracies(rows, activation_bits=3)


def test_a_summary_has_the_rows_where_a_choice_is_none():
    table = results.load_table(results.table_path("digits", "first-last-learned"))
    table = table[table.weight_bits.notna()].assign(
        target=[a["target_weight_bits"] for a in table.allocation]
    )
    rows = table[table.calibration_seed == 0]
    summary = results.summary(rows, ["first_last_bits", "target", "allocation", "network", "weight_bits"])
    assert None in set(rows.first_last_bits) and len(summary) == len(rows)
    assert list(summary.first_last_bits) == list(rows.first_last_bits)
    assert list(summary.value) == pytest.approx(list(rows.top1), abs=1e-4)
    assert results.summary(table[:0], ["network"]).empty


@pytest.mark.parametrize(
    "text, culprit",
    [
        ("- 1", "mapping"),
        ("bench: digits\nvari: []", "vari"),
        ("bench: digits\nvary: [{weight_bitz: [3]}]", "weight_bitz"),
        ("bench: digits\nvary: [{weight_bits: [99]}]", "weight_bits"),
        ("bench: [unclosed", "grid.yaml"),
    ],
)
def test_a_faulty_experiment_file_is_refused_with_its_name_and_the_culprit(tmp_path, text, culprit):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=culprit) as error:
        experiments.Experiment.load(path)
    assert "grid.yaml" in str(error.value)


def test_a_table_of_other_columns_is_not_overwritten(table):
    table.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns differ"):
        recording.record(TINY, table, progress=False)
    assert table.read_text() == "a,b\n1,2\n"


def test_record_names_what_it_does_not_know(capsys):
    assert main(["record", "no-such-thing"]) == 2
    assert "no-such-thing" in capsys.readouterr().err
    assert main(["record", "--list"]) == 0
    assert "digits/skip-residual" in capsys.readouterr().out


@pytest.mark.parametrize("path", recorded_tables(), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_recorded_table_is_complete_and_current(path):
    experiment = experiments.Experiment.load(results.experiments()[f"{path.parent.name}/{path.stem}"])
    recorded = results.load_table(path)
    runs = {results.run_of(row) for row in recorded.to_dict("records")}
    assert runs <= set(experiment.runs())  # a table may still be growing, but holds nothing else
    assert set(recorded.code_version) == {CODE_VERSION}
    assert set(recorded.session) <= set(range(len(results.provenance(path))))


@pytest.fixture(scope="module")
def image_files(tmp_path_factory):
    """Where the images that are no part of the project lie, if they are here, and a cache for them."""
    folders = {"QLIB_CIFAR10_JPEG": DATA, "QLIB_IMAGENET_SAMPLE": DATA / "imagenet-sample"}
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in folders.items():
            patch.setenv(name, os.environ.get(name) or str(folder))
        patch.setenv("QLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield all(os.path.isdir(os.environ[name]) for name in folders)


@pytest.mark.parametrize("path", recorded_tables(), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_rows_of_every_table_are_of_the_data_and_weights_of_today(path, image_files):
    """What they measured is made again for a few of them: tests/test_rows_again.py."""
    if path.parent.name.startswith("language") or path.parent.name == "sentences":
        pytest.skip("its texts are not here")
    if not image_files and not path.parent.name.startswith("digits"):
        pytest.skip("its images are not here")
    rows = results.load_table(path).to_dict("records")
    laboratory = Laboratory(load_bench(path.parent.name))
    for row in random.SystemRandom().sample(rows, min(3, len(rows))):
        assert laboratory.identity(results.run_of(row))["key"] == row["key"]


def test_batches_on_their_way_to_a_device_are_all_there_in_order():
    batches = [(torch.full((2, 1), float(i)), torch.tensor([i, i])) for i in range(5)]
    ahead = Prefetched(batches, torch.device("cpu"))
    for _ in range(2):  # as often as it is asked
        assert [(x.tolist(), y.tolist()) for x, y in ahead] == [(x.tolist(), y.tolist()) for x, y in batches]
    assert list(Prefetched([], torch.device("cpu"))) == []


def test_precision_is_part_of_the_key_unless_it_is_float32(table):
    run = experiments.Run("digits", "base", QuantConfig(), 20, 0, 40)
    bench = load_bench("digits")
    keys = {p: Laboratory(bench, precision=p).identity(run)["key"] for p in PRECISIONS}
    assert len(set(keys.values())) == 3
    rows = recording.record(TINY, table, progress=False, precision="bfloat16")
    assert set(rows.precision) == {"bfloat16"} and results.provenance(table)[0]["precision"] == "bfloat16"
    assert not set(rows.key) & set(recording.record(TINY, table.with_name("float32.csv"), progress=False).key)


def test_the_learner_learns_in_bfloat16(table):
    learned = dataclasses.replace(
        TINY, vary=(({"target_weight_bits": 7, "steps": 20, "learning_rate": 0.1},),), seeds=(0,)
    )
    (row,) = recording.record(
        dataclasses.replace(learned, float_baseline=False), table, progress=False, precision="bfloat16"
    ).to_dict("records")
    assert row["average_weight_bits"] <= 7


def test_a_device_that_is_not_there_and_a_precision_that_is_none_are_refused(capsys):
    assert main(["record", "digits/pooling", "--device", "abacus"]) == 2
    assert "abacus" in capsys.readouterr().err
    with pytest.raises(ValueError, match="float16"):
        Laboratory(load_bench("digits"), precision="float16")


def test_a_table_from_before_a_column_was_added_is_read_and_grows(table):
    before = recording.record(TINY, table, progress=False)
    columns = [c for c in results.COLUMNS if c not in tables.LATER]
    with open(table, newline="") as file:
        old = [{c: row[c] for c in columns} for row in csv.DictReader(file)]
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(old[:2])

    def untouched(rows):
        return set(rows.precision) == {"float32"} and list(rows.float_layers) == [[]] * len(rows)

    assert {
        "precision",
        "feasible",
        "float_layers",
        "method",
        "kind_of_data",
        "weights_first",
        "metric",
        "rounding_seed",
        "value",
        "values",
        "group_size",
        "kv_bits",
        "embedding_bits",
    } == set(tables.LATER)
    assert untouched(results.load_table(table))
    after = recording.record(TINY, table, progress=False)
    assert list(after.key) == list(before.key) and untouched(after)
    with open(table, newline="") as file:
        assert csv.DictReader(file).fieldnames == list(results.COLUMNS)


def test_layers_left_in_float_are_a_column_that_is_read_back(table):
    layers = ["features.stage1.*", "output"]
    experiment = dataclasses.replace(TINY, vary=(({}, {"float_layers": layers}),), seeds=(0,))
    rows = recording.record(experiment, table, progress=False)
    assert list(rows.float_layers) == [[], [], layers] and rows.key.is_unique
    assert [results.run_of(row) for row in rows.to_dict("records")] == experiment.runs()


@pytest.mark.parametrize("name", ["float-baseline", "skip-residual", "largest-map", "first-last-learned"])
def test_landed_rows_keep_their_keys(digits, name):
    for row in results.load_table(results.table_path("digits", name)).iloc[[0, -1]].to_dict("records"):
        assert digits.identity(results.run_of(row))["key"] == row["key"]


def test_rows_of_one_setting_and_seed_are_no_two_draws(table):
    rows = recording.record(dataclasses.replace(TINY, seeds=(0, 1)), table, progress=False)
    quantized = rows[rows.calibration_images > 0]
    other = quantized.assign(weights="0" * 16)
    by = ["weight_bits", "activation_bits"]
    assert len(results.summary(quantized, by)) and set(results.summary(quantized, by).draws) == {2}
    with pytest.raises(ValueError, match="several rows of seed 0 differ in nothing but weights or code"):
        results.summary(pd.concat([quantized, other]), by)
