"""Time against float: what is timed, of which files, and what is said where it means little."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import qlib
from qlib import QuantConfig, cli
from qlib.export import export_float
from qlib.kernels import process
from qlib.kernels.alternating import FEWEST, alternate_for

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
FAST = QuantConfig(8, 8, weight_symmetric=True, symmetric_grid="restricted")
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = (x + self.second(x)).relu()
        return self.head(x.mean((2, 3)))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Linear(4, 6)
        self.right = nn.Linear(3, 6)

    def forward(self, a, b):
        return (self.left(a) + self.right(b)).relu()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture(scope="module")
def found(network):
    return qlib.latency(network, FAST, IMAGES, seconds=0.01)


@pytest.fixture
def answers(monkeypatch):
    """Answers of processes in the place of measurements, and what was asked of them."""
    given, asked = [], []
    monkeypatch.setattr("qlib.kernels.latency.ask", lambda *question: asked.append(question) or given.pop(0))
    return given, asked


def pairs(*ratios, others=0.0):
    return {"pairs": [[0.002, 0.002 * ratio] for ratio in ratios], "others": others}


def test_three_processes_time_integer_kernels(found):
    assert len(found.ratios) == 3 and found.interval[0] <= found.ratio <= found.interval[1]
    assert min(found.ratios) <= found.ratio <= max(found.ratios) and all(t > 0 for t in found.milliseconds)
    assert found.kernels["QLinearConv"] == 2 and "Conv" not in found.kernels
    assert found.runtime == f"ONNX Runtime {onnxruntime.__version__}, 1 thread" and found.slow == ()


def test_what_is_not_fused_is_counted_and_named(network):
    config = FAST.replace(quantize_skip=False, quantize_residual=False)
    found = qlib.latency(network, config, IMAGES, seconds=0.01, processes=2)
    assert sum(count for kind, count in found.kernels.items() if kind in ("Conv", "FusedConv")) > 0
    assert any("second" in line for line in found.slow)


def test_float_against_itself_runs_the_same_kernels(network):
    found = qlib.latency(network, QuantConfig(None, None), IMAGES, seconds=0.01, processes=2)
    assert "QLinearConv" not in found.kernels and found.slow == ()


def test_the_ratio_is_the_mean_of_the_processes_medians(network, answers):
    given, asked = answers
    given += [pairs(0.1, 0.2, 9.0), pairs(0.4, 0.4), pairs(0.8)]
    found = qlib.latency(network, FAST, IMAGES, threads=2, seconds=0.5)
    assert found.ratios == pytest.approx((0.2, 0.4, 0.8)) and found.ratio == pytest.approx(0.4)
    # Student's t of two degrees of freedom, of the logarithms
    assert found.interval == pytest.approx((0.4 * 2**-2.484, 0.4 * 2**2.484), rel=1e-3)
    assert found.milliseconds == pytest.approx((2.0, 0.8)) and not found.busy
    assert [question[3:] for question in asked] == [(2, 0.5)] * 3 and "2 threads" in found.runtime


@pytest.mark.parametrize("others, busy", [((0.0, 0.05), False), ((0.0, 0.7), True), ((0.0, None), None)])
def test_a_busy_machine_is_flagged(network, answers, recwarn, others, busy):
    answers[0].extend(pairs(0.5, others=each) for each in others)
    found = qlib.latency(network, FAST, IMAGES, processes=2)
    assert found.busy is busy
    said = [str(w.message) for w in recwarn if "other programs" in str(w.message)]
    assert said == (
        ["other programs took 0.7 processors while this was timed: time it again on an idle machine"]
        if busy
        else []
    )


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not say")
def test_what_others_take_is_seen(network, tmp_path):
    for name in ("float", "quantized"):
        export_float(network, IMAGES, tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "inputs.npz", IMAGES.numpy())
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        found = process.ask(
            tmp_path / "float.onnx", tmp_path / "quantized.onnx", tmp_path / "inputs.npz", 1, 1.0
        )
    finally:
        spin.kill()
        spin.wait()
    assert found["others"] > 0.3 and len(found["pairs"]) >= FEWEST


def test_what_is_timed_takes_turns_and_has_run_before():
    ran, now = [], [0.0]

    def clock():
        ran.append("clock")
        return now[0]

    def work(name, takes):
        def run():
            ran.append(name)
            now[0] += takes

        return run

    found = alternate_for(0.0, work("a", 1.0), work("b", 3.0), clock)
    assert found == [(1.0, 3.0)] * FEWEST
    assert "".join(name[0] for name in ran).endswith("acacbcbc" * 2)


def test_the_float_network_is_the_one_that_was_given(network, tmp_path):
    export_float(network, IMAGES, tmp_path / "float.onnx")
    (output,) = process.started(tmp_path / "float.onnx", process.options_of(1)).run(
        None, {"input": IMAGES.numpy()}
    )
    assert np.allclose(output, network(IMAGES).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("form", ["tuple", "dictionary"])
def test_several_inputs_are_timed(form):
    a, b = torch.randn(2, 4), torch.randn(2, 3)
    example = (a, b) if form == "tuple" else {"b": b, "a": a}
    found = qlib.latency(Two().eval(), FAST, example, seconds=0.01, processes=2)
    assert found.ratio > 0


@pytest.mark.parametrize(
    "options, said",
    [
        ({"runtime": "onnxruntim"}, "did you mean 'onnxruntime'"),
        ({"processes": 1}, "processes is 1; use a whole number from 2"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 1.5}, "threads is 1.5; use a whole number from 1"),
        ({"seconds": "long"}, "seconds is long"),
        ({"config": {}}, "config is a QuantConfig, got {}"),
        ({"seconds": float("inf")}, "seconds is inf"),
        (
            {"config": FAST.replace(activation_granularity="per_channel")},
            "activation_granularity='per_channel'.*: use activation_granularity='per_tensor'",
        ),
        ({"config": FAST.replace(weight_bits=5)}, "'second' has"),
        ({"example_input": "no tensor"}, "example_input must be"),
    ],
)
def test_what_cannot_be_timed_is_refused_by_name(network, options, said):
    given = {"config": FAST.replace(first_last_bits=None), "example_input": IMAGES, **options}
    with pytest.raises(ValueError, match=said):
        qlib.latency(network, **given)


def test_a_file_that_does_not_run_is_said_in_one_line(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    np.savez(tmp_path / "inputs.npz", IMAGES.numpy())
    with pytest.raises(ValueError, match="ONNX Runtime does not run this network: ") as error:
        process.ask(*[tmp_path / "bad.onnx"] * 2, tmp_path / "inputs.npz", 1, 0.1)
    assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)


def test_the_process_finds_the_package_where_this_one_did(network, monkeypatch, tmp_path):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    asked = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **options: asked.append(options) or run(*a, **options))
    assert qlib.latency(network, FAST, IMAGES, seconds=0.01, processes=2).ratio > 0
    assert {options["env"]["PYTHONPATH"] for options in asked if "env" in options} == {
        str(Path(qlib.__file__).parents[1])
    }


def test_the_process_that_times_has_no_torch():
    script = "import sys, qlib.kernels.process; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(qlib.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "False"


def test_a_card_carries_the_time(found):
    card = qlib.QuantizationCard.from_run(FAST, latency=dataclasses.replace(found, ratio=0.31234, others=0.0))
    assert card["latency_ratio"] == 0.3123
    assert card["runtime"] == f"{found.runtime}, on {found.hardware}"
    card = qlib.QuantizationCard.from_run(FAST, latency=dataclasses.replace(found, others=1.0))
    assert card["runtime"].endswith("while other programs ran")
    assert qlib.QuantizationCard.from_run(FAST)["latency_ratio"] == "not reported"


def test_the_command_prints_what_was_measured(capsys, monkeypatch, found):
    asked = {}

    def timed(model, config, example, **options):
        asked.update(options, config=config, images=len(example))
        return found

    monkeypatch.setattr("qlib.kernels.latency.latency", timed)
    fields = ["weight_symmetric=true", "symmetric_grid=restricted"]
    assert cli.main(["time", *fields, "--batch", "3", "--threads", "2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (
        printed["ratio"] == found.ratio
        and printed["busy"] == found.busy
        and printed["kernels"] == found.kernels
    )
    assert asked["config"] == FAST and asked["images"] == 3 and asked["threads"] == 2
    assert cli.main(["time"]) == 0
    busy = dataclasses.replace(found, others=1.0)
    monkeypatch.setattr("qlib.kernels.latency.latency", lambda *a, **k: busy)
    assert str(found) in capsys.readouterr().out and cli.main(["time"]) == 0
    assert "busy with other programs" in capsys.readouterr().out


def test_the_command_refuses_in_one_line(capsys):
    assert cli.main(["time", "activation_dynamic=true"]) == 2
    assert "activation_dynamic" in capsys.readouterr().err
