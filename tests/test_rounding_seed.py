"""Another rounding of the same weights: what a rounding seed changes, and what it leaves alone."""

import numpy as np
import pytest
import torch

from qlib import QuantConfig, compare, quantize, results
from qlib.experiments import Experiment
from qlib.laboratory import Laboratory, pack
from qlib.network import read
from qlib.quantizer import WIDER, weight_grid
from qlib.recording import record
from qlib.results import load_table, measurement_of, run_of

GRIDS = (
    QuantConfig(weight_bits=3, activation_bits=None),
    QuantConfig(weight_bits=3, activation_bits=None, weight_granularity="per_tensor"),
    QuantConfig(weight_bits=3, activation_bits=None, weight_symmetric=True, symmetric_grid="full"),
    QuantConfig(weight_bits=3, activation_bits=None, weight_range="percentile"),
)


@pytest.mark.parametrize("config", GRIDS)
def test_every_layer_is_widened_by_a_factor_of_its_own_the_same_for_all_of_its_ranges(config):
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    usual = weight_grid("a", rows, config, 3)
    factors = set()
    for name, seed in (("a", 1), ("a", 2), ("b", 1)):
        wider = weight_grid(name, rows, config, 3, seed)
        ratio = (wider.scale / usual.scale).unique()
        assert ratio.max() - ratio.min() < 1e-6 and 1 < ratio.mean() <= 1 + WIDER
        assert torch.equal(wider.zero_point, usual.zero_point)
        factors.add(round(ratio.mean().item(), 4))
    assert len(factors) == 3


def test_the_factors_are_the_same_on_every_machine():
    rows = torch.tensor([[0.0, 3.0]])
    config = QuantConfig(weight_bits=2)
    assert weight_grid("conv", rows, config, 2, 0).scale.item() == 1
    assert weight_grid("conv", rows, config, 2, 1).scale.item() == pytest.approx(1.0191137, abs=1e-6)


def test_none_is_the_usual_rounding_and_another_is_as_good(bench):
    network, calibration = bench.models["base"], bench.calibration(32)
    config = QuantConfig(weight_bits=4, activation_bits=None)
    floats = read(network).module
    errors = []
    for seed in (0, 1, 2):
        found = quantize(network, config, calibration, rounding_seed=seed)
        if seed == 0:
            usual = quantize(network, config, calibration).state_dict()
            assert all(torch.equal(v, usual[k]) for k, v in found.state_dict().items())
        name = read(network).layers[5]
        away = found.get_submodule(name).weight - floats.get_submodule(name).weight
        errors.append(away.square().mean().item())
    assert len(set(errors)) == 3 and max(errors) < 1.2 * min(errors)


GRID = {"bench": "digits", "fixed": {"activation_bits": None}, "vary": (({"weight_bits": 3},),)}
FEW = {"images": 60, "calibration_images": (8,), "float_baseline": False}


def test_rows_of_other_roundings_are_told_apart_and_the_usual_keys_stay(tmp_path, bench):
    usual = Experiment("a", **GRID, **FEW)
    several = Experiment("a", **GRID, **FEW, rounding_seeds=(0, 1, 2))
    laboratory = Laboratory(bench)
    (key,) = (laboratory.identity(run)["key"] for run in usual.runs())
    keys = [laboratory.identity(run)["key"] for run in several.runs()]
    assert keys[0] == key and len(set(keys)) == 3
    table = record(several, tmp_path / "a.csv", progress=False)
    assert [run_of(row) for row in table.to_dict("records")] == [
        *map(run_of, load_table(tmp_path / "a.csv").to_dict("records"))
    ]
    assert list(table.rounding_seed) == [0, 1, 2]
    labels = [measurement_of(row).label for row in table.to_dict("records")]
    assert labels == [0, "0, rounding 1", "0, rounding 2"]
    mean = results.summary(table, ["weight_bits"])
    assert mean.draws.tolist() == [3] and len({*table.correct}) == 3


def test_draws_of_one_rounding_are_one_throw():
    generator = np.random.default_rng(0)

    def row(draw, rounding):
        right = generator.random(40) < 0.5
        return {"calibration_seed": draw, "rounding_seed": rounding, "correct": pack(right), "n": 40}

    sides = [[row(draw, 0) for draw in range(5)] + [row(0, 1), row(0, 2)] for _ in range(2)]
    a, b = map(results.measurements_of, sides)
    assert [m.label for m in a] == [*((0, draw) for draw in range(5)), (1, 0), (2, 0)]
    found = compare(a, b)
    assert len(found.seeds) == 3  # and not 7
    first = np.mean([x.value - y.value for x, y in zip(a[:5], b[:5], strict=True)])
    assert found.seeds[0] == pytest.approx(first)
    assert [m.label for m in results.measurements_of(sides[0][:5])] == list(range(5))


def test_of_several_seeds_and_roundings_the_ith_go_together():
    grid = Experiment("a", **GRID, seeds=(3, 4, 5), rounding_seeds=(0, 1, 2), float_baseline=False)
    pairs = [(run.calibration_seed, run.rounding_seed) for run in grid.runs()]
    assert pairs == [(3, 0), (4, 1), (5, 2)]
    with pytest.raises(ValueError, match="2 seeds and 3 rounding_seeds: the i-th go together"):
        Experiment("a", **GRID, seeds=(0, 1), rounding_seeds=(0, 1, 2))


def test_a_grid_says_its_rounding_seeds(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text("bench: digits\nrounding_seeds: 2\nvary: [{weight_bits: [3]}]\n")
    assert [run.rounding_seed for run in Experiment.load(file).runs()] == [0, 2]  # in float none is rounded
    file.write_text("bench: digits\nrounding_seeds: [-1]\n")
    with pytest.raises(ValueError, match="rounding_seeds must be whole numbers from 0"):
        Experiment.load(file)
