"""The command line loses nothing and guesses nothing: files and rows stay, what is missing is asked for."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import Block
from PIL import Image
from safetensors.torch import save_file

from qlib import results
from qlib.cli import main
from qlib.experiments import Experiment
from qlib.tables import sidecar

FEW = ["--images", "40", "--calibration-images", "20"]
CLASSES = "the network tells 10 classes, the images have 3 folders"  # a remark about the pictures made here
GRID = "bench: digits\nimages: 40\ncalibration_images: 20\n"


def said(capsys):
    return capsys.readouterr()


def refused(capsys, arguments, *words):
    """The command refuses, in one line that says so."""
    assert main(arguments) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if CLASSES not in line]
    assert error.startswith("qlib: ")
    for word in words:
        assert word in error


def pictures(folder, side=(12, 14), count=4):
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in "abc":
            (folder / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 256, (*side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{i}.jpg")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a reader works, with a network and pictures of theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QLIB_CACHE", str(tmp_path / "cache"))
    Path("mine.py").write_text(
        "from helpers import Block\n\n\ndef network():\n    return Block()\n\n\n"
        "def other(width):\n    return width\n"
    )
    save_file(Block().state_dict(), "mine.safetensors")
    pictures(tmp_path / "pictures")
    return tmp_path


OWN = ["--model", "mine.py:network", "--weights", "mine.safetensors", "--data", "pictures"]
SMALL = ["--preprocess", "{resize: 10, crop: 8}"]


# Files


def test_a_sweep_leaves_its_grid_and_whatever_lies_beside_its_table(folder, capsys):
    Path("grid.yaml").write_text(GRID + "vary: [{activation_bits: [3]}]\n")
    Path("keep.yaml").write_text("mine\n")
    before = {path: path.read_bytes() for path in folder.glob("*.yaml")}
    assert main(["sweep", "grid.yaml", "--out", "grid.csv"]) == 0
    assert main(["run", "weight_bits=4", *FEW, "--out", "keep.csv"]) == 0
    assert before == {path: path.read_bytes() for path in folder.glob("*.yaml") if "meta" not in path.name}
    assert sidecar(Path("grid.csv")).name == "grid.csv.meta.yaml" and results.provenance("keep.csv")


@pytest.mark.parametrize("name", ["table.csv", "table.csv.meta.yaml"])
def test_a_table_that_is_not_ours_stays(folder, name, capsys):
    Path(name).write_text("a: 1\n")
    refused(capsys, ["run", "weight_bits=4", *FEW, "--out", "table.csv"], "table.csv")
    assert Path(name).read_text() == "a: 1\n" and len(list(folder.glob("table*"))) == 1


@pytest.mark.parametrize(
    "arguments, file",
    [
        (["export", "x.onnx"], "x.onnx"),
        (["card", "new", "x.yaml"], "x.yaml"),
        (["card", "from-onnx", "y.onnx", "--out", "x.json"], "x.json"),
        (["results", "float-baseline", "--out", "x.csv"], "x.csv"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_there_is_replaced_only_when_asked(folder, arguments, file, capsys, monkeypatch):
    monkeypatch.setattr(results, "clone", lambda: Path(__file__).resolve().parents[1])
    Path(file).write_text("mine")
    refused(capsys, arguments, file, "--force")
    assert Path(file).read_text() == "mine"


def test_a_table_is_no_other_kind_of_file(folder, capsys):
    refused(capsys, ["run", *FEW, "--out", "x.txt"], "x.txt is to end in .csv")
    refused(capsys, ["run", *FEW, "--out", "nowhere/x.csv"], "lies in a folder that is not there")
    assert not Path("nowhere").exists()


# Rows


def test_rows_of_other_networks_and_fields_stay_until_they_are_to_go(folder, capsys):
    Path("grid.yaml").write_text("vary: [{weight_bits: 4}]\n")
    sweep = ["sweep", "grid.yaml", *OWN, *SMALL, "--out", "t.csv"]
    assert main(sweep) == 0
    other = Block()
    other.last.weight.data.zero_()
    save_file(other.state_dict(), "other.safetensors")
    sweep[sweep.index("mine.safetensors")] = "other.safetensors"
    said(capsys)
    assert main(sweep) == 0
    assert (
        "t.csv: 2 of 2 rows, and 2 of other grids, networks, data or code, which --prune drops"
        in said(capsys).out
    )
    assert len(results.load_table("t.csv")) == 4
    assert main([*sweep, "--prune"]) == 0
    assert len(results.load_table("t.csv")) == 2 and "prune" not in said(capsys).out


def test_provenance_makes_the_row_again(folder):
    Path("grid.yaml").write_text("vary: [{weight_bits: [3, 4]}]\nseeds: 1\n")
    assert main(["sweep", "grid.yaml", *OWN, *SMALL]) == 0
    table = Path("grid.rows.csv")
    before = results.load_table(table)
    session = yaml.safe_load(sidecar(table).read_text())["sessions"][0]
    assert session["own"]["weights"] == "mine.safetensors" and session["folder"] == str(folder)
    assert len(session["sha256"]["mine.safetensors"]) == len(session["sha256"]["mine.py"]) == 64
    table.unlink()
    os.chdir(session["folder"])
    assert main(shlex.split(session["command"])[1:]) == 0
    same = ["key", "value", "correct", "weights", "data"]
    assert results.load_table(table)[same].equals(before[same])


# What is asked for


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["run", "weight_bits", "activation_bits=2"], ["weight_bits"]),
        (["run", "weight_bits=", *FEW], ["weight_bits needs a value"]),
        (["run", "weight_bits=4", "weight_bits=2", *FEW], ["weight_bits is given twice"]),
        (["run", *OWN[:4]], ["--data is missing"]),
        (["run", *FEW, *SMALL], ["--preprocess", "--model"]),
        (["run", *OWN, "--preprocess", "{resize: 64"], ["--preprocess", "not YAML"]),
        (["run", *OWN, "--preprocess", "{resize: big}"], ["preprocess: resize"]),
        (["run", *OWN, "--preprocess", "{std: [0]}"], ["preprocess: std"]),
        (["run", "--model", "mine.py:other", *OWN[2:], *SMALL], ["mine.py:other", "without arguments"]),
        (["run", *OWN, *SMALL, "--images", "13"], ["12 such images", "13"]),
        (["results", "skip-residal"], ["did you mean 'digits/skip-residual'"]),
        (["results", "nope.csv"], ["there is no table nope.csv"]),
        (["results", "skip-residual", "--where", "weight_bits="], ["weight_bits needs a value"]),
        (["record", "skip-residal"], ["did you mean"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_half_an_option_and_what_is_not_there(folder, capsys, arguments, words, monkeypatch):
    monkeypatch.setattr(results, "clone", lambda: Path(__file__).resolve().parents[1])
    refused(capsys, arguments, *words)


@pytest.mark.parametrize("arguments", [["run", "--imag", "40"], ["run", "--images", "many"], ["sweeep"], []])
def test_options_are_not_guessed_and_errors_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "text, seeds, images, vary",
    [
        ("seeds: 3\nvary: [{weight_bits: 4}]", (3,), None, [[4]]),
        ("seeds: [0, 1]\ncalibration_images: 128\nvary: {weight_bits: [2, 3]}", (0, 1), (128,), [[2, 3]]),
        ("networks: base\nvary:\n  - {weight_bits: {conv1: 8}}", (0,), None, [[{"conv1": 8}]]),
    ],
)
def test_one_value_may_stand_where_a_list_does(tmp_path, text, seeds, images, vary):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    grid = Experiment.load(path)
    assert (grid.seeds, grid.calibration_images, grid.networks) == (seeds, images, ("base",))
    assert [[part["weight_bits"] for part in axis] for axis in grid.vary] == vary


@pytest.mark.parametrize(
    "text, field",
    [
        ("images: many", "images"),
        ("images: 0", "images"),
        ("seeds: [x]", "seeds"),
        ("seeds: []", "seeds"),
        ("fixed: [1]", "fixed"),
        ("float_baseline: maybe", "float_baseline"),
        ("vary: [{weight_bits: [2], activation_bits: [3]}]", "vary"),
        ("vary: [3]", "vary"),
        ("vary: [[3]]", "vary"),
        ("own: {model: a.py:b}\nbench: x", None),
        ("weigth_bits: 3", "weigth_bits"),
        ("images: 3\nimages: 4", "images"),
        ("bench: &a x\nname: *a", "aliases"),
    ],
)
def test_a_grid_that_is_none_names_file_and_field(folder, capsys, text, field):
    Path("grid.yaml").write_text(text)
    refused(capsys, ["sweep", "grid.yaml"], *(["grid.yaml", field] if field else ["own: weights"]))
    assert not list(folder.glob("grid.rows*"))


def test_images_default_to_what_is_there_and_a_grid_need_not_say_the_bench(folder):
    Path("grid.yaml").write_text("vary: [{weight_bits: 4}]\n")
    assert main(["sweep", "grid.yaml", *OWN, *SMALL]) == 0
    rows = results.load_table("grid.rows.csv")
    assert set(rows.n) == {12} and set(rows.calibration_images) == {0, 12} and set(rows.bench) == {"pictures"}


def test_small_images_are_not_enlarged_in_silence(folder, capsys):
    assert main(["run", *OWN, "weight_bits=4"]) == 1  # the network wants 8 pixels
    line = said(capsys).err.splitlines()[0]
    assert "their shorter side is 12 pixels, and becomes 256" in line and "mean 0.485, 0.456, 0.406" in line
    assert main(["run", *OWN, *SMALL, "weight_bits=4"]) == 0
    assert "shorter side" not in said(capsys).err


def test_a_network_that_is_refused_is_said_once(folder, capsys):
    Path("mine.py").write_text(
        "import torch\n\n\nclass Loop(torch.nn.Module):\n    def forward(self, x):\n"
        "        return x if x.sum() > 0 else -x\n\n\ndef network():\n    return Loop()\n"
    )
    save_file({}, "mine.safetensors")
    Path("grid.yaml").write_text("float_baseline: false\nvary: [{weight_bits: [2, 3, 4]}, {seeds: 1}]\n")
    refused(capsys, ["sweep", "grid.yaml", *OWN, *SMALL], "seeds")
    Path("grid.yaml").write_text("float_baseline: false\nvary: [{weight_bits: [2, 3, 4]}]\n")
    assert main(["sweep", "grid.yaml", *OWN, *SMALL]) == 1
    (line,) = [line for line in said(capsys).err.splitlines() if CLASSES not in line]
    assert line.startswith("qlib: 3 rows failed: ")


# While it runs


def test_a_sweep_ends_with_what_was_measured(folder, capsys):
    Path("grid.yaml").write_text(GRID + "seeds: [0, 1]\nvary: [{activation_bits: [3, 4]}]\n")
    assert main(["sweep", "grid.yaml"]) == 0
    lines = said(capsys).out.splitlines()
    assert [line.split()[0] for line in lines] == ["activation_bits", "float", "3", "4", "grid.rows.csv:"]
    assert "2 seeds" in lines[2] and lines[-1] == "grid.rows.csv: 5 of 5 rows"


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys, monkeypatch):
    from qlib import progress

    times = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    assert list(progress.tracked("abcdef", "x", 6)) == list("abcdef")
    lines = said(capsys).err.splitlines()
    assert lines == ["x: 2 of 6 rows, 00:24 left", "x: 4 of 6 rows, 00:12 left", "x: 6 of 6 rows, 00:00 left"]
    assert list(progress.tracked("ab", "x", 2, shown=False)) == ["a", "b"] and said(capsys).err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a terminal")
@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_ends_all_soon_and_says_what_is_true(folder, workers):
    Path("grid.yaml").write_text("images: 4000\nvary: [{activation_bits: [2, 3, 4, 5, 6, 7]}]\n")
    command = [sys.executable, "-m", "qlib.cli", "sweep", "grid.yaml", "--workers", workers]
    started = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell may have ignored
    )
    while not Path("grid.rows.csv").exists() or len(results.load_table("grid.rows.csv")) < 1:
        time.sleep(0.1)
        assert started.poll() is None
    os.killpg(started.pid, signal.SIGINT)
    _, errors = started.communicate(timeout=30)
    assert started.returncode == 130
    assert errors.splitlines()[-1] == (
        "qlib: stopped; finished rows are kept, the same command goes on from there"
    )
    assert "Traceback" not in errors


def test_what_keeps_nothing_says_so(capsys, monkeypatch, folder):
    from qlib.commands import measure

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "load_bench", stopped)
    for arguments in (["export", "x.onnx"], ["run", "weight_bits=3"]):
        assert main(arguments) == 130 and said(capsys).err == "qlib: stopped; nothing was written\n"
    assert main(["run", "weight_bits=3", "--out", "x.csv"]) == 130 and "rows are kept" in said(capsys).err


# A second afternoon


RELU = """
import torch
from helpers import Block


class Mine(Block):
    def forward(self, x):
        return super().forward({change})


def network():
    return Mine()
"""


def test_rows_of_a_network_whose_code_has_changed_are_not_taken_for_its_own(folder, capsys):
    run = ["run", "weight_bits=4", *OWN, *SMALL, "--out", "t.csv"]
    Path("mine.py").write_text(RELU.format(change="x"))
    assert main(run) == 0
    Path("mine.py").write_text("# a thought\n" + RELU.format(change="x"))
    assert main(run) == 0
    assert len(results.load_table("t.csv")) == 2
    Path("mine.py").write_text(RELU.format(change="-x"))  # of the same weights
    assert main(run) == 0
    rows = results.load_table("t.csv")
    assert len(rows) == 4 and rows.key.is_unique and rows.weights.nunique() == 1
    said(capsys)
    assert main(["results", "t.csv"]) == 0
    lines = said(capsys).out.splitlines()
    assert len(set(line.split(":")[0] for line in lines)) == 4 and all("key=" in line for line in lines)


def test_networks_in_one_table_are_told_apart(folder, capsys):
    run = ["run", "weight_bits=4", *OWN, *SMALL, "--out", "t.csv"]
    assert main(run) == 0
    save_file({name: t + 1 for name, t in Block().state_dict().items()}, "mine.safetensors")
    assert main(run) == 0
    said(capsys)
    assert main(["results", "t.csv"]) == 0
    lines = said(capsys).out.splitlines()
    for weights in set(results.load_table("t.csv").weights):
        assert sum(f"weights={weights}" in line for line in lines) == 2


def test_a_folder_of_a_class_that_is_missing_is_noticed(folder, capsys):
    assert main(["run", *OWN, *SMALL]) == 0
    assert CLASSES in said(capsys).err


@pytest.mark.parametrize(
    "preprocess, words",
    [
        ("{mean: [127, 127, 127]}", "mean is of pixels from 0 to 1"),
        ("{std: [58, 58, 58]}", "std is of pixels from 0 to 1"),
        ("{resize: 8, crop: 10}", "crop 10 is more than what resize leaves, 8"),
        ("prep.yaml", "prep.yaml"),
        ("there.yaml", "interpolation must be"),
    ],
)
def test_preprocessing_that_cannot_be_meant(folder, capsys, preprocess, words):
    Path("there.yaml").write_text("{resize: 10, crop: 8, interpolation: cubic}")
    refused(capsys, ["run", *OWN, "--preprocess", preprocess], words)


def test_fields_may_stand_between_options_and_behind_them(capsys):
    assert (
        main(["run", "weight_bits=4", "--images", "40", "activation_bits=3", *FEW[2:], "pooling=float"]) == 0
    )
    assert "weight_bits=4 activation_bits=3 pooling=float: " in said(capsys).out
    with pytest.raises(SystemExit):
        main(["run", "--imagess", "3", "weight_bits=4"])
    assert "--imagess" in (error := said(capsys).err) and "qlib run --help" in error


def test_a_table_beside_is_named_by_its_file(folder, capsys, monkeypatch):
    monkeypatch.setattr(results, "clone", lambda: Path(__file__).resolve().parents[1])
    Path("long.rows.csv").write_text("")
    refused(capsys, ["results", "long"], "a table is named by its file: long.rows.csv")


def test_a_table_that_was_cut_and_one_of_before_are_not_read_as_whole(folder, capsys):
    assert main(["run", "weight_bits=4", *FEW, "--out", "t.csv"]) == 0
    whole = Path("t.csv").read_text()
    Path("t.csv").write_text(whole[:-40])
    refused(capsys, ["run", "weight_bits=4", *FEW, "--out", "t.csv"], "t.csv", "line 3")
    Path("t.csv").write_text(whole)
    Path("t.csv.meta.yaml").rename("t.yaml")
    refused(capsys, ["run", "weight_bits=3", *FEW, "--out", "t.csv"], "rename it to t.csv.meta.yaml")
    assert Path("t.csv").read_text() == whole


def test_one_configuration_is_told_from_the_network_in_float(folder, capsys):
    Path("grid.yaml").write_text(GRID + "fixed: {weight_bits: 4}\n")
    assert main(["sweep", "grid.yaml"]) == 0
    lines = said(capsys).out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["float", "quantized"]


def test_weights_that_are_saved_otherwise_say_how(folder, capsys):
    import torch

    torch.save(Block(), "mine.pth")
    torch.save({f"module.{name}": tensor for name, tensor in Block().state_dict().items()}, "parallel.pth")
    for file, words in (("mine.pth", "torch.save(network.state_dict()"), ("parallel.pth", "DataParallel")):
        refused(capsys, ["run", *OWN[:2], "--weights", file, *OWN[4:], *SMALL], file, words)


def test_notes_that_are_not_ours_stay_behind_a_diagnosis(folder, capsys):
    Path("d.csv.meta.yaml").write_text("mine")
    refused(capsys, ["diagnose", "weight_bits=4", "--calibration-images", "4", "--out", "d.csv"], "--force")
    refused(capsys, ["diagnose", "weight_bits=4", "--most", "4"], "--images")
    assert Path("d.csv.meta.yaml").read_text() == "mine" and not Path("d.csv").exists()
