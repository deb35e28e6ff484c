"""Weights are quantized while activations are in float, once for all that have them alike; and a partial
configuration says its own number of calibration images.
"""

import dataclasses

import pytest
import torch

from qlib import QuantConfig, experiments, quantize
from qlib.benches import load_bench
from qlib.experiments import Experiment
from qlib.laboratory import Laboratory
from qlib.quantization import weights_first
from qlib.recording import record
from qlib.results import run_of

FEW = {"images": 60, "calibration_images": (8,), "float_baseline": False}
CONFIG = QuantConfig(weight_bits=3, activation_bits=3, activation_symmetric=True, weight_symmetric=True)


@pytest.fixture(scope="module")
def bench():
    return load_bench("digits")


@pytest.fixture(scope="module")
def calibration(bench):
    return bench.calibration(8, 0)


def test_one_side_alone():
    weights, activations = CONFIG.of_side("weight"), CONFIG.of_side("activation")
    assert weights == QuantConfig(weight_bits=3, activation_bits=None, weight_symmetric=True)
    assert activations == QuantConfig(weight_bits=None, activation_bits=3, activation_symmetric=True)


@pytest.mark.parametrize("method", ["nearest", "bias", "gptq"])
def test_methods_see_activations_in_float(bench, calibration, method):
    """The weights are those of a network of which weights alone are quantized, whatever activations have."""
    model = bench.models["base"]
    found = weights_first(model, CONFIG, calibration, method)
    alone = quantize(model, CONFIG.of_side("weight"), calibration, method)
    with_activations = quantize(found, CONFIG.of_side("activation"), calibration)
    for name, parameter in alone.named_parameters():
        assert torch.equal(with_activations.get_parameter(name), parameter), name
    direct = quantize(model, CONFIG, calibration, method)
    differs = any(not torch.equal(direct.get_parameter(n), p) for n, p in alone.named_parameters())
    assert differs == (method != "nearest")


def test_weights_are_made_once_and_rows_say_how(bench, tmp_path, monkeypatch):
    made = []
    rounded = Laboratory._rounded
    monkeypatch.setattr(Laboratory, "_rounded", lambda self, run: made.append(run) or rounded(self, run))
    vary = ({"weight_bits": 3, "method": "bias"},), ({"activation_bits": 8}, {"activation_bits": 3})
    grid = Experiment("a", "digits", {}, vary, weights_first=True, **FEW)
    usual = dataclasses.replace(grid, weights_first=False)
    table = record(grid, tmp_path / "a.csv", progress=False)
    assert len(made) == 1 and len(table) == 2
    assert [run_of(row) for row in table.to_dict("records")] == grid.runs()
    assert not {*table.key} & {*record(usual, tmp_path / "b.csv", progress=False).key}
    assert len(made) == 1


def test_what_has_one_side_in_float_is_the_usual_row():
    vary = ({"weight_bits": None}, {"activation_bits": None}, {}), ()
    grid = Experiment("a", "digits", {}, vary[:1], weights_first=True)
    assert [run.weights_first for run in grid.runs()] == [False, False, False, True]
    learned = Experiment("a", "digits", {"target_weight_bits": 3}, (), weights_first=True)
    with pytest.raises(ValueError, match="weights_first quantizes at given bits"):
        learned.runs()


def test_a_configuration_says_how_many_images_it_is_calibrated_on():
    vary = (({"calibration_images": 32, "weight_bits": 4}, {"weight_bits": 3}),)
    grid = Experiment("a", "digits", {}, vary, calibration_images=(64, 128), float_baseline=False)
    assert [(run.config.weight_bits, run.calibration_images) for run in grid.runs()] == [
        (4, 32),
        (3, 64),
        (3, 128),
    ]
    with pytest.raises(ValueError, match="calibration_images must be whole numbers above 0"):
        Experiment("a", "digits", {"calibration_images": "many"}, ()).runs()


def test_a_choice_cannot_be_called_like_what_a_grid_has():
    assert {"method", "calibration_images"} == set(experiments.OF_RUNS)
    assert not set(experiments.OF_RUNS) & set(QuantConfig.defaults())
