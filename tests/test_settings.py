"""Settings whose fields are choices: checked by what is stated, and the same whatever way they came."""

import copy
import dataclasses
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from qlib import Accuracy, QuantConfig, affine, experiments, load_bench, quantize
from qlib.benches import data_hash
from qlib.choices import Settings, choice
from qlib.methods import Method, find_methods, spelled, unspelled, words
from qlib.metrics import METRICS, TOP1


@dataclass(frozen=True)
class Many(Settings):
    names: tuple = choice((("a", 1),), "Names", "Pairs.", schema={"type": "array"})
    way: str | None = choice(None, "Way", "Which.", values=("left", "right"), none="neither")
    count: int = choice(3, "Count", "How many.")
    share: float = choice(0.5, "Share", "How much.")
    said: str = choice("so", "Said", "In words.")
    most: int | None = choice(None, "Most", "At the most.", least=1, whole=True)


def test_lists_are_tuples_at_any_depth():
    many = Many(names=[["a", 1], ["b", 2]])
    assert many.names == (("a", 1), ("b", 2)) and many == Many.from_dict(many.to_dict())
    assert many.replace(count=4).names == many.names
    assert hash(many) == hash(Many(names=(("a", 1), ("b", 2))))


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"way": "up"}, "way must be one of"),
        ({"count": "3"}, "count must be a whole number, got '3'"),
        ({"count": 2.5}, "count must be a whole number"),
        ({"count": True}, "count must be a whole number"),
        ({"share": "half"}, "share must be a number"),
        ({"share": float("nan")}, "share must be a number"),
        ({"said": 5}, "said must be a text"),
        ({"most": 2.5}, "most must be a whole number from 1, or None"),
        ({"most": 0}, "most must be a whole number from 1, or None"),
    ],
    ids=str,
)
def test_a_value_is_checked_by_the_kind_of_its_default(wrong, said):
    with pytest.raises(ValueError, match=said):
        Many(**wrong)
    assert Many(way="left", count=0, share=1, said="", most=4).way == "left" and Many(way=None) == Many()


def test_bits_of_a_largest_map_are_whole():
    with pytest.raises(ValueError, match="largest_map_bits must be a whole number"):
        experiments.Allocation(largest_map_bits=2.5)


@dataclass(frozen=True)
class Quiet(Method):
    def apply(self, work):
        for name, rows, _ in work.weights():
            work.put_weight(name, torch.zeros_like(rows))


@dataclass(frozen=True)
class Lazy(Method):
    def apply(self, work):
        work.put_weight("2", work.network.module.get_submodule("2").weight)


OWN = """
from dataclasses import dataclass
from qlib.choices import choice
from qlib.methods import Method


@dataclass(frozen=True)
class Scaled(Method):
    by: float = choice(1.0, "By", "What weights are multiplied with.", above=0)

    def apply(self, work):
        for name, rows, grid in work.weights():
            work.put_weight(name, (rows / grid.scale).round() * grid.scale * self.by)


half = Scaled(by=0.5)
"""


def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()


def test_a_method_without_words_is_named_on_a_card():
    assert words(Quiet())["technique"] == "post-training, Quiet"


def test_an_instance_in_a_file_is_spelled_by_its_name(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    name = f"{tmp_path / 'mine.py'}:half"
    assert spelled(name) == name and find_methods(unspelled(spelled(name)))[0].by == 0.5
    by_class = spelled({"name": f"{tmp_path / 'mine.py'}:Scaled", "by": 0.5})
    assert find_methods(unspelled(by_class))[0].by == 0.5


def test_a_method_that_leaves_a_weight_in_float_is_refused():
    with pytest.raises(ValueError, match="Lazy gave the weights of '0' no codes"):
        quantize(small(), QuantConfig(4, None), method=Lazy())


def test_methods_have_nothing_to_do_in_float():
    net = small()
    x = torch.randn(16, 4)
    assert torch.equal(quantize(net, QuantConfig(None, None), x, method="bias")(x), net(x))
    in_float = {"weight_bits": None, "activation_bits": None}
    grid = experiments.Experiment("grid", "digits", fixed={"method": "bias"}, vary=((in_float,),))
    assert [run.method for run in grid.runs()] == ["nearest"] * len(grid.runs())


def test_measurements_and_metrics_survive_copies():
    accuracy = Accuracy(np.array([True, False, True]))
    for again in (pickle.loads(pickle.dumps(accuracy)), copy.deepcopy(accuracy)):
        assert again.metric is TOP1 and again.correct.tolist() == [True, False, True]
    assert all(copy.deepcopy(metric) is metric for metric in METRICS.values())
    mine = dataclasses.replace(METRICS["mse"], name="mine")
    assert pickle.loads(pickle.dumps(mine)) == mine


def test_the_hash_of_data_does_not_depend_on_batches():
    x = torch.randn(6, 3)
    mask = torch.arange(6)
    whole = [((x, mask), {"a": x, "b": mask})]
    halves = [((x[i : i + 3], mask[i : i + 3]), {"a": x[i : i + 3], "b": mask[i : i + 3]}) for i in (0, 3)]
    assert data_hash(whole) == data_hash(halves) != data_hash([((x, mask.flip(0)), {"a": x, "b": mask})])
    assert data_hash(load_bench("digits").calibration(20)) == data_hash(load_bench("digits").calibration(20))


@dataclass(frozen=True)
class Untouched(Method):
    def apply(self, work):
        for name, rows, _ in work.weights():
            work.put_weight(name, rows)


@dataclass(frozen=True)
class Codes(Method):
    def apply(self, work):
        for name, rows, grid in work.weights():
            work.put_weight(name, affine.quantize(rows, grid).float())


@pytest.mark.parametrize("method", [Untouched(), Codes()])
@pytest.mark.parametrize("upstream", ["float", "quantized"])
def test_weights_that_are_not_on_their_grid_are_refused(method, upstream):
    with pytest.raises(ValueError, match="gave '0' weights that its grid does not have"):
        quantize(small(), QuantConfig(3, 8, calibration_upstream=upstream), torch.randn(16, 4), method)


@pytest.mark.parametrize("grid", ["full", "restricted", "authors"])
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_values_of_codes_are_on_every_grid(grid, granularity):
    @dataclass(frozen=True)
    class Down(Method):
        def apply(self, work):
            for name, rows, grid in work.weights():
                codes = affine.quantize(rows - grid.scale / 2, grid)
                work.put_weight(name, affine.dequantize(codes, grid))

    for symmetric in (False, True):
        config = QuantConfig(3, None, symmetric, symmetric_grid=grid, weight_granularity=granularity)
        assert not torch.equal(
            quantize(small(), config, None, Down()).get_submodule("0").weight, small()[0].weight
        )
