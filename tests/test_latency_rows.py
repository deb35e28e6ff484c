"""Recorded times: each row once, what is refused is said, and what kernels do is counted."""

import numpy as np
import pytest
import torch
from test_latency import FAST, IMAGES, Block

from qlib import QuantConfig
from qlib.export.unfused import IN_FLOAT as EXPECTED
from qlib.kernels import grid, record_latency
from qlib.kernels.grid import Cell
from qlib.kernels.latency import write_float, write_quantized
from qlib.kernels.roofline import explained, machine, modelled
from qlib.kernels.work import ON_CODES, ZERO, work
from qlib.tables import read_notes

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def network():
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture
def small(monkeypatch):
    """Cells on a small network, and how many were timed."""
    timed = []
    time_cell = record_latency.time_cell
    monkeypatch.setattr(record_latency, "network_and_images", lambda name, batch: (network(), IMAGES[:batch]))
    monkeypatch.setattr(record_latency, "machine", lambda: {"float": 1e9, "codes": 4e9})
    monkeypatch.setattr(
        record_latency, "time_cell", lambda cell, *a: timed.append(cell) or time_cell(cell, *a)
    )
    return [Cell("a", {}), Cell("a", {"activation_dynamic": True}), Cell("a", {}, 2)], timed


def test_rows_are_made_once_and_refused_ones_are_said(tmp_path, small, capsys):
    cells, timed = small
    path = tmp_path / "latency.csv"
    table = record_latency.record(path, cells[:2], 2, 0.01, command="made so")
    assert len(table) == 1 and len(timed) == 2
    (refused,) = read_notes(path)["failed"].items()
    assert (
        refused[0] == cells[1].key
        and "activation_dynamic" in refused[1]
        and refused[1] in capsys.readouterr().out
    )
    table = record_latency.record(path, cells, 2, 0.01)
    assert timed[2:] == cells[2:] and list(table.batch) == [1, 2] and list(table.session) == [0, 1]
    row = table.to_dict("records")[0]
    assert row["low"] <= row["ratio"] <= row["high"] and row["choices"] == {} and len(row["ratios"]) == 2
    assert row["kernels"]["QLinearConv"] == 2 == row["work"]["QLinearConv"]["count"]
    assert record_latency.machine_of(row, path) == {"float": 1e9, "codes": 4e9}
    assert read_notes(path)["sessions"][0]["command"] == "made so"
    assert len(record_latency.record(path, cells, 2, 0.01)) == 2 and len(timed) == 3


def test_rows_of_a_busy_machine_are_made_again(tmp_path, small):
    cells, timed = small
    path = tmp_path / "latency.csv"
    rows = record_latency.record(path, cells[:1], 2, 0.01).to_dict("records")
    for busy, again, count in ((True, "", 1), (False, "busy", 1), (True, "busy", 2), (False, "all", 3)):
        record_latency.save(path, [{**rows[0], "busy": busy}])
        assert len(record_latency.record(path, cells[:1], 2, 0.01, again)) == 1 and len(timed) == count


def test_every_cell_is_asked_for_once_and_is_a_configuration():
    asked = list(grid.cells())
    assert len({cell.key for cell in asked}) == len(asked) > 100
    assert {cell.network for cell in asked} == set(grid.networks()) == set(grid.ENDS)
    assert all(isinstance(cell.config, QuantConfig) for cell in asked)
    assert {(cell.batch, cell.threads) for cell in asked} == {(1, 1), (1, 2), (16, 1)}


@pytest.fixture(params=["symmetric", "zero-points", "float", "inputs only"])
def counted(request, tmp_path):
    config = {
        "symmetric": FAST,
        "zero-points": QuantConfig(8, 8),
        "float": QuantConfig(None, None),
        "inputs only": FAST.replace(quantize_skip=False, quantize_residual=False),
    }[request.param]
    write_float(network(), IMAGES, tmp_path)
    write_quantized(network(), config, IMAGES, tmp_path)
    return request.param, work(tmp_path / "quantized.onnx", tmp_path / "inputs.npz")


def test_multiplications_are_those_of_the_layers_whatever_the_kernels(counted):
    name, found = counted
    maps = 2 * 16 * 16  # places of an output
    expected = maps * 16 * 27 + maps * 16 * 144 + 2 * 5 * 16
    assert sum(done["multiplications"] for done in found.values()) == expected
    extra = sum(done["extra_sums"] for done in found.values())
    # For every place, or example, the codes that a sum has
    assert extra == (maps * 27 + maps * 144 + 2 * 16 if name == "zero-points" else 0)
    assert all(done["milliseconds"] > 0 for done in found.values())


@pytest.mark.parametrize("symmetric", [True, False])
def test_products_of_tokens_are_counted(tmp_path, symmetric):
    torch.manual_seed(0)
    tokens = torch.randn(2, 7, 16)
    model = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.GELU(), torch.nn.Linear(24, 8)).eval()
    write_float(model, tokens, tmp_path)
    write_quantized(model, FAST.replace(weight_symmetric=symmetric), tokens, tmp_path)
    found = work(tmp_path / "quantized.onnx", tmp_path / "inputs.npz")
    assert sum(done["multiplications"] for done in found.values()) == 14 * (16 * 24 + 24 * 8)
    assert {kind for kind, done in found.items() if done["multiplications"]} <= set(ON_CODES)
    extra = sum(done["extra_sums"] for done in found.values())
    assert extra == (0 if symmetric else 14 * (16 + 24))


def test_requantizations_and_bytes_are_counted(counted):
    name, found = counted
    rounded = sum(done["requantizations"] for done in found.values())
    image, maps, pooled, outputs = 2 * 3 * 256, 2 * 16 * 256, 2 * 16, 2 * 5
    if name in ("symmetric", "zero-points"):
        assert rounded == image + 3 * maps + pooled + outputs
        assert found["QLinearConv"]["activation_bytes"] == image + 3 * maps
        least = 16 * 27 + 16 * 144
        assert least < found["QLinearConv"]["constant_bytes"] < 2 * least
    if name == "float":
        assert rounded == 0 and found.keys().isdisjoint(["QLinearConv"])


def test_the_model_takes_the_longer_of_computing_and_moving():
    rates = {"float": 1e6, "codes": 4e6, "memory": 1e6, "caches": 1e7}
    done = {**ZERO, "multiplications": 8000, "extra_sums": 400, "milliseconds": 2.1}
    assert modelled("QLinearConv", done, rates) == pytest.approx(2.1)
    assert modelled("Conv", done, rates) == pytest.approx(8.4)
    moved = {**ZERO, "constant_bytes": 3000, "activation_bytes": 5000, "milliseconds": 9.0}
    assert modelled("QLinearAdd", moved, rates) == pytest.approx(3.5)
    rows = explained({"QLinearConv": done, "QLinearAdd": moved}, rates)
    assert [(row["operator"], row["missed"]) for row in rows] == [
        ("QLinearAdd", True),
        ("QLinearConv", False),
    ]


def test_the_machine_is_faster_on_codes_than_nothing():
    found = machine()
    assert set(found) == {"float", "codes", "zero_points", "memory", "caches"}
    assert all(np.isfinite(rate) and rate > 1e6 for rate in found.values())


FLOATS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")  # that multiply in float


def test_of_every_recorded_network_the_layers_said_to_run_in_float_are_those_that_did():
    rows = record_latency.load().to_dict("records")
    for row in rows:
        if row["choices"] == grid.FLOAT:
            continue
        said = [line.rpartition(": ")[2].split(", ") for line in row["slow"] if line.startswith(EXPECTED)]
        assert sum(map(len, said)) == sum(row["kernels"].get(kind, 0) for kind in FLOATS), row
    assert rows
