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
GRID = "bench: digits\nimages: 40\ncalibration_images: 20\n"


def said(capsys):
    return capsys.readouterr()


def refused(capsys, arguments, *words):
    """The command refuses, in one line that says so."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("qlib: ") and error.count("\n") == 1
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
        (["results", "skip-residual", "--where", "weight_bits="], ["weight_bits="]),
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
    assert said(capsys).err == ""


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
    (line,) = said(capsys).err.splitlines()
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
