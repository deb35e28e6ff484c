"""A quantized network as ONNX Runtime runs its file."""

import builtins
import tempfile
import warnings

import pytest
import torch
from helpers import Block, images

from qlib import QuantConfig, quantize
from qlib.export import export_onnx
from qlib.kernels import in_onnx_runtime

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
SYMMETRIC = QuantConfig(weight_symmetric=True, symmetric_grid="restricted")


def test_without_optimizations_floats_run_between_pairs_and_with_them_integer_kernels():
    x = images(64)
    plain, optimized = in_onnx_runtime(Block().eval(), SYMMETRIC, images(), [(x[:40], None), (x[40:], None)])
    assert (plain.optimized, optimized.optimized) == (False, True)
    assert plain.examples == optimized.examples == 64
    assert plain.kernels["Conv"] == 4 and plain.kernels["Add"] == 1
    assert plain.kernels["QuantizeLinear"] and not any("QLinear" in kind for kind in plain.kernels)
    assert optimized.kernels["QLinearConv"] == 4 and optimized.kernels["QLinearAdd"] == 1
    assert "Conv" not in optimized.kernels and optimized.kernels["QLinearAveragePool"] == 1
    layers = {"first", "body", "project", "body2", "last"}
    assert {change.tensor for change in plain.changes} == layers  # biases that are rounded
    assert min(plain.equal, optimized.equal) >= 90


def test_the_exact_file_gives_the_answers_of_the_simulation():
    plain, _ = in_onnx_runtime(Block().eval(), QuantConfig(), images(), images(256), target="exact")
    assert plain.changes == [] and plain.equal >= 99


@pytest.fixture(scope="module")
def digits(bench):
    return bench.models["base"], bench.calibration(320), bench.validation(256)


def test_digits_on_integer_kernels_answer_as_integers_do(digits):
    network, calibration, batches = digits
    runs = in_onnx_runtime(network, SYMMETRIC, calibration, batches)
    assert all(each.equal >= 95 and each.examples == 256 for each in runs)
    assert runs[1].kernels["QLinearConv"] == 53 and not runs[1].kernels["Conv"]
    assert [each.differing for each in runs] == [by_hand(digits, optimized) for optimized in (False, True)]


def by_hand(digits, optimized):
    """The places of answers that differ, of one session that gets one batch."""
    network, calibration, batches = digits
    x = torch.cat([images for images, _ in batches])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = f"{folder}/network.onnx"
        export_onnx(network, SYMMETRIC, calibration, x[:2], path, target="onnxruntime")
        options = onnxruntime.SessionOptions()
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        answers = torch.from_numpy(session.run(None, {"input": x.numpy()})[0]).argmax(1)
    simulated = quantize(network, SYMMETRIC, calibration)(x).argmax(1)
    return (answers != simulated).nonzero().flatten().tolist()


def test_errors_are_one_line(monkeypatch):
    with pytest.raises(ValueError, match="no examples"):
        in_onnx_runtime(Block().eval(), QuantConfig(), images(), [])
    with pytest.raises(ValueError, match="'first' has 3 bits"):
        in_onnx_runtime(Block().eval(), QuantConfig(3, 3, first_last_bits=None), images(), images())
    missing = builtins.__import__

    def absent(name, *rest):
        if name == "onnxruntime":
            raise ImportError(name)
        return missing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ValueError, match="needs the package onnxruntime: pip install"):
        in_onnx_runtime(Block().eval(), QuantConfig(), images(), images())
