"""A rotation changes nothing in float, and takes outliers away."""

import pytest
import torch
from test_tables import IDS, words
from torch import nn

from qlib import QuantConfig, evaluate, footprint, quantize
from qlib.book import rotated
from qlib.export import save_quantized
from qlib.lesson import quantizers
from qlib.methods import words as words_of
from qlib.methods.hadamard import Hadamard
from qlib.network import read
from qlib.network.rotation import Rotation, hadamard, rotate_inputs


@pytest.mark.parametrize("features, block", [(2, 2), (8, 8), (12, 4), (24, 8), (576, 64), (6, 2)])
def test_a_rotation_is_orthogonal_and_mixes_evenly(features, block):
    rotation = Rotation(features, 3)
    matrix = rotation(torch.eye(features))
    assert rotation.block == block
    assert torch.allclose(matrix @ matrix.T, torch.eye(features), atol=1e-6)
    assert torch.allclose(hadamard(block).abs(), torch.full((block, block), block**-0.5))
    others = [Rotation(features, seed).signs for seed in range(8)]
    assert any(not torch.equal(rotation.signs, other) for other in others)


class Outliers(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.up = nn.Linear(32, 64)
        self.gate = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)
        self.norm.weight.data[5] = 60  # a channel that is large, and of which little is made
        for layer in (self.up, self.gate):
            layer.weight.data[:, 5] /= 60

    def forward(self, x):
        x = self.norm(x)
        return self.down(torch.relu(self.up(x)) * self.gate(x))


def outliers():
    torch.manual_seed(0)
    return Outliers().eval(), torch.randn(64, 5, 32)


def test_what_is_computed_in_float_stays():
    model, x = outliers()
    network = read(model, x)
    assert rotate_inputs(network, 0) == ["up", "gate", "down"]
    found = [m for m in network.module.modules() if isinstance(m, Rotation)]
    assert len(found) == 2  # one for the two layers that read the norm
    assert torch.allclose(network.module(x), model(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(network.module.get_submodule("up").weight, model.up.weight)


@pytest.mark.parametrize("both", [True, False])
def test_an_outlier_is_taken_away(both):
    model, x = outliers()
    config = QuantConfig(None, 8, quantize_skip=both, quantize_residual=both, first_last_bits=None)
    found = [
        evaluate(quantize(model, config, [x], method), [(x, None)], "sqnr", model).value
        for method in ("nearest", "hadamard")
    ]
    assert found[1] > found[0] + 3


def test_it_stands_beside_other_methods_and_seeds_differ():
    model, x = outliers()
    config = QuantConfig(3, 8, first_last_bits=None)
    both = quantize(model, config, [x], [Hadamard(seed=1), "gptq"])
    other = quantize(model, config, [x], [Hadamard(seed=2), "gptq"])
    plain = quantize(model, config, [x], Hadamard(seed=1))
    assert not torch.equal(both(x), other(x))
    sqnr = [evaluate(q, [(x, None)], "sqnr", model).value for q in (both, plain)]
    assert sqnr[0] > sqnr[1]
    assert footprint(model, x, config).weight_elements == 3 * 32 * 64


def test_a_head_that_shares_its_weight_is_left_as_it_is():
    model = words(True)
    quantized = quantize(model, QuantConfig(16, None, first_last_bits=16), [IDS], "hadamard")
    assert quantized.get_submodule("head").weight is quantized.get_submodule("table").weight
    assert torch.allclose(quantized(IDS), model(IDS), atol=2e-3)


def test_what_cannot_be_turned_is_said(tmp_path):
    odd = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(9, 2)).eval()
    with pytest.raises(ValueError, match="the method 'hadamard' turns .* none here: leave it out"):
        quantize(odd, QuantConfig(), [torch.randn(2, 1, 5, 5)], "hadamard")
    model, x = outliers()
    config = QuantConfig(8, 8)
    quantized = quantize(model, config, [x], "hadamard")
    with pytest.raises(ValueError, match="turns features .*: it is not written"):
        save_quantized(quantized, config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_card_says_that_it_was_done():
    assert words_of(["hadamard", "gptq"])["transform"].startswith("Hadamard rotation")


@pytest.mark.parametrize("image, first", [(None, None), (8, 8)])
def test_what_is_turned_is_quantized_once_with_the_bits_that_it_had(image, first):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3))).eval()
    x = torch.randn(32, 16)
    config = QuantConfig(None, 4, first_last_bits=first, input_bits=image)
    found = {q.name: q.bits for q in quantizers(quantize(model, config, [x], "hadamard"))}
    before = {"rotation_input_1": image} if image else {}
    assert found == {**before, "rotation__0": first or 4, "rotation__1": 4, "2": first or 4}
    config = config.replace(activation_bits={"1": 5, "default": 4})
    assert {q.name: q.bits for q in quantizers(quantize(model, config, [x], "hadamard"))}["rotation__1"] == 5


def test_what_another_layer_reads_unturned_is_quantized_for_it_alone():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = self.one(x)
            return x + self.two(x)

    torch.manual_seed(0)
    quantized = quantize(Both().eval(), QuantConfig(None, 8), [torch.randn(9, 8)], "hadamard")
    readers = {q.name for q in quantizers(quantized)}
    assert {"one", "rotation_one"} <= readers
    (rotation,) = (n for n in quantized.graph.nodes if n.name == "rotation_one")
    assert rotation.args[0].name == "one"  # in float


def test_where_small_weights_read_a_loud_input_turning_makes_rounding_worse():
    model, x = outliers()
    table = rotated.rows(model, x).set_index("layer")
    assert list(table.index) == ["up", "gate", "down"]
    assert table.energy["up"] > 0.9 and table.weights["up"] < 0.01
    assert table.turned["up"] > 10 * table.plain["up"]
    assert table.turned["down"] < 2 * table.plain["down"]
