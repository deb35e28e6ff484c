"""The benchmark runs. What it measures is for people to read: no test asserts a time."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from qlib import QuantConfig

SPEED = Path(__file__).resolve().parents[1] / "benchmarks" / "speed.py"


def test_help():
    done = subprocess.run([sys.executable, SPEED, "--help"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for option in ("--peers", "--compile", "--repeats", "--threads"):
        assert option in done.stdout


def test_prints_ratios(capsys):
    ratios = runpy.run_path(str(SPEED))["run"](images=20, calibration=10, repeats=1)
    printed = capsys.readouterr().out
    assert set(ratios) == {"float again", "qlib", "qlib, minmax", "qlib, percentile"}
    for label, ratio in ratios.items():
        assert ratio > 0
        assert any(line.startswith(label) and f" {ratio:.2f} " in line for line in printed.splitlines())


def test_the_share_of_comparing_what_was_read(capsys):
    share = runpy.run_path(str(SPEED))["verification"](images=10, repeats=1)
    assert share > 0 and f"{share:.1%}" in capsys.readouterr().out


def test_the_learners_ratios():
    ratios = runpy.run_path(str(SPEED.with_name("learning.py")))["run"](steps=1, repeats=1)
    assert len(ratios) == 3 and all(isinstance(ratio, float) for ratio in ratios.values())


def test_throughput():
    run = runpy.run_path(str(SPEED.with_name("throughput.py")))["run"]
    found = run("cpu", batch=2, batches=2, size=32, steps=1, repeats=1)
    assert (
        list(found)[0] == "float"
        and len(found) == 5
        and all(rate > 0 for name, rate in found.items() if name[:5] != "learn")
    )


def test_the_panels_ratios(capsys):
    ratios = runpy.run_path(str(SPEED.with_name("panel.py")))["run"](
        images=20, calibration=10, repeats=1, settings=("minmax",)
    )
    assert list(ratios) == ["minmax"] and ratios["minmax"] > 0 and "minmax" in capsys.readouterr().out


def test_the_seconds_of_imports(capsys):
    run = runpy.run_path(str(SPEED.with_name("imports.py")))["run"]
    seconds = run(1, uses=["and quantize, evaluate, make a card"], commands=["--help"])
    assert list(seconds) == ["import torch", "and quantize, evaluate, make a card", "qlib --help"]
    assert all(value > 0 for value in seconds.values()) and "qlib --help" in capsys.readouterr().out


def test_the_ratios_of_exported_networks(capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(str(SPEED.parent))
    found = runpy.run_path(str(SPEED.with_name("export.py")))["run"](size=32, repeats=1)
    assert list(found) == ["symmetric weights", "symmetric weights and activations"]
    printed = capsys.readouterr().out
    for ratios in found.values():
        assert list(ratios) == [
            "quantize_static again",
            "qlib, --for onnxruntime",
            "qlib, --for exact",
            "float",
        ]
        assert all(ratio > 0 and f"{ratio:.3f}" in printed for (ratio,) in ratios.values())


def test_the_shares_of_an_epoch(monkeypatch):
    monkeypatch.setattr("qlib.benches.substitutes.STEPS", 1)
    shares = runpy.run_path(str(SPEED.with_name("resources.py")))["run"](part=32, repeats=1)
    assert len(shares) == 4 and all(share > 0 for share in shares.values())


def test_the_seconds_of_methods(capsys):
    run = runpy.run_path(str(SPEED.with_name("methods.py")))["run"]
    config = QuantConfig(3, None)
    found = run("digits", "base", config, ["bias", {"name": "adaround", "steps": 1}], 20, 40)
    assert list(found) == ["bias", '{"name": "adaround", "steps": 1}']
    printed = capsys.readouterr().out
    for row in found.values():
        assert row.clock > 0 and row.processors > 0 and f"{row.accuracy.value:.2f}" in printed


def test_ours_against_the_methods_of_another():
    pytest.importorskip("brevitas")
    run = runpy.run_path(str(SPEED.with_name("methods_fidelity.py")))["run"]
    found = run(images=32, steps=20)
    for part in ("one layer", "11 layers"):
        ours, theirs = found[f"GPTQ, {part}"]
        assert abs(ours / theirs - 1) < 0.02
    ours, theirs = found["bias correction, one layer"]
    assert abs(ours / theirs - 1) < 0.02
    assert found["equalization"][0] < 0.02


def test_the_times_of_the_page_that_measures(browser, measured_site, capsys):
    run = runpy.run_path(str(SPEED.with_name("measuring.py")))["run"]
    run(browser, measured_site, repeats=1, moves=2, settings=("weights, minmax",), warm=1)
    printed = capsys.readouterr().out
    assert "2,000 images" in printed and "weights, minmax" in printed and "MB after them" in printed


def test_answers_in_integers(capsys):
    runpy.run_path(str(SPEED.with_name("integers.py")))["run"]("digits", "base", 8, {}, False)
    kept, most, rounded, _ = capsys.readouterr().out.splitlines()
    assert "of 8 answers differ" in kept and "of 8 answers differ" in rounded
    needed, bound = re.search(r"needs (\d+), at most (\d+)", most).groups()
    assert int(needed) <= int(bound)
