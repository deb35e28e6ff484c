"""A planted fault stands first, whatever it is; and every number is what it says."""

import ipywidgets as W
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Block, images
from torch import nn

from qlib import QuantConfig, compare, diagnose, evaluate, plots, quantize
from qlib.advice import advice
from qlib.cli import main
from qlib.network import read
from qlib.results import provenance
from qlib.widgets import explore

WIDTH = 16
SEEDS = range(20)


def network(seed):
    """Six layers with batch norms, as they are after training: every channel gives as much as the others."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10))
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        model.train()(data(seed))
    return model.eval()


def data(seed, n=16):
    return torch.randn(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def place(seed):
    """One of the layers in the middle; what the last of them gives is averaged, which keeps an outlier."""
    return str(3 * int(np.random.default_rng(seed).integers(1, 4)))


def loud_channel(model, name):
    """Its batch norm makes one channel a hundred times as loud, and the next layer takes it back."""
    norm, following = model[int(name) + 1], model[int(name) + 3]
    following = model[-1] if not isinstance(following, nn.Conv2d) else following
    norm.weight.data[3] *= 100
    norm.bias.data[3] *= 100
    following.weight.data[:, 3] /= 100


def test_all_is_public():
    import qlib

    assert qlib.diagnose is diagnose and "diagnose" in qlib.__all__


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_channel_times_100_under_one_range_stands_first(seed, bits):
    model, name = network(seed), place(seed)
    loud_channel(model, name)
    config = QuantConfig(weight_bits=bits, activation_bits=None, weight_granularity="per_tensor")
    found = diagnose(model, config, data(seed), progress=False)
    assert (found.name[0], found.side[0]) == (name, "weight") and found.spread[0] > 30
    both = diagnose(model, config.replace(activation_bits=bits), data(seed), progress=False)
    assert set(both.name[:2]) == {name}
    if bits == 4:
        said = " ".join(found.attrs["advice"])
        assert f"Weights of {name}" in said and "weight_granularity='per_channel' gives each its own" in said


@pytest.mark.parametrize("seed", SEEDS)
def test_an_outlier_in_an_activation_stands_first(seed):
    model, name = network(seed), place(seed)
    model[int(name) + 1].bias.data[5] += 300
    model[int(name) + 3].weight.data[:, 5] = 0  # so that it is in this tensor alone
    found = diagnose(model, QuantConfig(activation_bits=8), data(seed), progress=False)
    assert (found.name[0], found.side[0]) == (name, "activation")


@pytest.mark.parametrize("seed", SEEDS)
def test_an_outlier_among_weights_stands_first(seed):
    model, name = network(seed), place(seed)
    weight = model[int(name)].weight.data
    weight[2, 3, 1, 1] = 100 * weight.abs().max()
    config = QuantConfig(weight_bits=6, activation_bits=None, weight_granularity="per_tensor")
    found = diagnose(model, config, data(seed), progress=False)
    assert found.name[0] == name


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("side", ["weight", "activation"])
def test_a_layer_at_two_bits_stands_first(seed, side):
    name = place(seed)
    config = QuantConfig(**{f"{side}_bits": {"default": 4, name: 2}})
    found = diagnose(network(seed), config, data(seed), progress=False)
    assert (found.name[0], found.side[0]) == (name, side)
    assert "fewer bits (2) than most (4)" in " ".join(found.attrs["advice"])


def test_numbers_are_what_they_say():
    model = network(0)
    config = QuantConfig(weight_bits=3, activation_bits=None, first_last_bits=None)
    x = data(0)
    found = diagnose(model, config, x, progress=False).set_index("name")
    floats = read(model).module
    quantized = quantize(model, config)
    with torch.no_grad():
        before = floats[:2](x) if isinstance(floats, nn.Sequential) else _until(floats, "3")
        weight, rounded = floats.get_submodule("3").weight, quantized.get_submodule("3").weight
        clean = nn.functional.conv2d(before, weight, floats.get_submodule("3").bias, padding=1)
        noise = nn.functional.conv2d(before, rounded - weight, padding=1)
    ratio = clean.square().sum((0, 2, 3)) / noise.square().sum((0, 2, 3))
    assert found.sqnr["3"] == pytest.approx((10 * ratio.log10()).mean().item(), rel=1e-3)
    assert found.arriving["0"] == pytest.approx(found.sqnr["0"], rel=1e-3)  # nothing comes before it
    assert (found.arriving[["6", "9", "12"]] < found.sqnr[["6", "9", "12"]]).all()
    assert found.codes["3"] <= 8 and found.low["3"] == pytest.approx(weight.min().item())
    assert found.elements["3"] == weight.numel() and found.clipped["3"] == 0


def test_noise_that_adds_up_and_shifts_means_is_told_and_taken_back():
    """Many layers whose inputs are never negative, so that rounding errors do not cancel."""
    torch.manual_seed(0)
    model = nn.Sequential(*(part for _ in range(20) for part in (nn.Linear(64, 64), nn.ReLU()))).eval()
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight)
    x = torch.rand(256, 64)
    config = QuantConfig(weight_bits=4, activation_bits=None, first_last_bits=None)
    found = diagnose(model, config, x, progress=False)
    (said,) = [line for line in found.attrs["advice"] if line.startswith("Noise adds up")]
    assert "method='bias' takes that back" in said and found["shift"][0] > 25
    last = "38"
    mended = diagnose(model, config, x, method="bias", progress=False).set_index("name")
    assert mended.arriving[last] > found.set_index("name").arriving[last] + 6


def _until(module, name):
    """What enters a layer."""
    got = []
    hook = module.get_submodule(name).register_forward_pre_hook(lambda layer, inputs: got.append(inputs[0]))
    module(data(0))
    hook.remove()
    return got[0]


def test_a_layer_and_what_it_gives_are_told_apart():
    """Of a layer without an activation function, both stand at one place."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)).eval()
    config = QuantConfig(weight_bits=8, activation_bits=3, first_last_bits=None)
    found = diagnose(model, config, images(8), progress=False).set_index(["name", "side"])
    assert found.sqnr["1", "weight"] > found.sqnr["1", "activation"] + 15
    assert found.arriving["1", "weight"] > found.arriving["1", "activation"]


class Twice(nn.Module):
    """One layer, called twice; what it gives the second time is added to the first."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.both = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = self.both(self.first(x))
        return self.last(y + self.both(y))


def test_a_layer_that_is_called_twice_has_one_row_and_what_it_gives_two():
    found = diagnose(Twice().eval(), QuantConfig(activation_bits=4), images(8), progress=False)
    assert sorted(found[found.side == "weight"].name) == ["both", "first", "last"]
    assert len(found[found.side == "activation"]) == 6  # image, first, both twice, sum, last
    assert found[["sqnr", "arriving"]].notna().all(axis=None)


def test_what_is_clipped_and_which_codes_occur():
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 1, 1)).eval()
    model[0].weight.data.fill_(1)
    x = torch.rand(4, 1, 50, 50)
    config = QuantConfig(
        weight_bits=None,
        activation_bits=4,
        first_last_bits=None,
        activation_range="percentile",
        percentile=90,
    )
    found = diagnose(model, config, x, progress=False).set_index("name")
    assert 6 < found.clipped["0"] < 10 and found.codes["0"] == 16  # those within half a step are not clipped


def test_what_comes_back_is_a_paired_difference_with_one_quantizer_left_out():
    model, config = Block(), QuantConfig(weight_bits=2, activation_bits=3)
    x, labels = images(64), torch.arange(64) % 10
    batches = [(x[:40], labels[:40]), (x[40:], labels[40:])]
    found = diagnose(model, config, x[:16], batches, most=3, progress=False)
    quantized = evaluate(quantize(model, config, x[:16]), batches)
    assert found.attrs["quantized"].value == quantized.value
    assert found.attrs["float"].value == evaluate(model, batches).value
    for row in found[:3].to_dict("records"):
        side = f"{row['side']}_bits"
        others = config.replace(**{side: {"default": getattr(config, side), row["name"]: 32}})
        if row["side"] == "weight" or row["name"] not in ("first", "last"):
            expected = compare(evaluate(quantize(model, others, x[:16]), batches), quantized)
            assert row["back"] == pytest.approx(expected.value)
            assert [row["back_low"], row["back_high"]] == pytest.approx(expected.interval)
    assert found.back[3:].isna().all()
    error = diagnose(model, config, x[:16], batches, metric="sqnr", most=1, progress=False)
    assert error.back[0] > 0


def test_a_layer_in_float_has_the_bias_that_belongs_to_it():
    """One layer, and biases corrected for its rounded weights: without them all that was lost comes back."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(20, 5)).eval(), torch.rand(200, 20)
    labels = model(x).argmax(1)
    config = QuantConfig(weight_bits=1, activation_bits=None, first_last_bits=None)
    found = diagnose(model, config, x, [(x, labels)], method="bias", progress=False)
    lost = found.attrs["float"].value - found.attrs["quantized"].value
    assert found.back[0] == pytest.approx(lost) and lost > 10


def test_what_a_method_changes_before_ranges_are_found_is_no_noise(tmp_path):
    (tmp_path / "mine.py").write_text(BEFORE)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    x = torch.randn(64, 8)
    config = QuantConfig(weight_bits=8, activation_bits=None)
    plain = diagnose(model, config, x, progress=False)
    found = diagnose(model, config, x, method=f"{tmp_path / 'mine.py'}:Equalize", progress=False)
    assert found.sqnr.min() > plain.sqnr.min() - 3


BEFORE = '''
from dataclasses import dataclass
from qlib.methods import Method


@dataclass(frozen=True)
class Equalize(Method):
    """A factor from one layer to the next, which changes nothing that is computed."""

    stage = "before ranges"

    def apply(self, work):
        first, second = (work.network.module.get_submodule(name) for name in ("0", "2"))
        first.weight.data *= 7
        first.bias.data *= 7
        second.weight.data /= 7
'''


@pytest.mark.parametrize(
    "columns, corrected, words, not_words",
    [
        ({}, False, ["No quantizer"], ["Noise adds up"]),
        ({"arriving": 1.0}, False, ["Noise adds up", "method='bias'"], []),
        ({"arriving": 1.0}, True, ["Noise adds up"], ["method='bias'"]),
        ({"arriving": 1.0, "sqnr": 2.0}, False, ["2 of 2"], ["Noise adds up"]),
        ({"sqnr": 2.0, "bits": 8}, False, ["2 of 2", "no cause"], ["cost little"]),
        ({"sqnr": 2.0}, False, ["'small': 8 in weight_bits"], []),
        ({}, False, ["1 layers hold 1 % of the weights together (small): 8 bits"], []),
        ({"back": 3.0, "back_low": 1.0}, False, ["these give most back: small (weight) +3.00"], []),
        ({"back": 3.0, "back_low": -1.0}, False, ["None of those tried"], []),
    ],
)
def test_advice_says_what_is_plain_and_no_more(columns, corrected, words, not_words):
    table = pd.DataFrame(
        {
            "name": ["small", "large"],
            "side": "weight",
            "position": [1, 2],
            "bits": 4,
            "sqnr": 30.0,
            "arriving": 30.0,
            "shift": 60.0,
            "clipped": 0.0,
            "peak": 3.0,
            "spread": 2.0,
            "elements": [10, 990],
            **columns,
        }
    )
    said = " ".join(advice(table, QuantConfig(), corrected))
    assert all(word in said for word in words) and not any(word in said for word in not_words)


@pytest.mark.parametrize(
    "fields",
    [
        {"activation_dynamic": True},
        {"activation_granularity": "per_channel"},
        {"symmetric_grid": "authors", "weight_symmetric": True, "activation_symmetric": True},
        {"pooling": "low_precision"},
        {"quantize_skip": False, "quantize_residual": False},
        {"weight_bits": {"default": 4, "first": 32}},
        {"float_layers": ("last",)},
        {"weight_range": "mse", "activation_range": "mse"},
    ],
    ids=str,
)
def test_every_choice_can_be_looked_at(fields):
    found = diagnose(Block(), QuantConfig(**{"activation_bits": 4, **fields}), images(8), progress=False)
    assert found.sqnr.notna().all() and found.arriving.notna().all() and len(found) > 4
    assert (found.sqnr.diff().dropna() >= 0).all()


def test_a_method_and_a_network_that_was_read_may_be_given():
    model, config, x = Block(), QuantConfig(weight_bits=3, activation_bits=None), images(8)
    plain = diagnose(model, config, x, progress=False)
    assert diagnose(read(model), config, x, progress=False).equals(plain)
    biased = diagnose(model, config, x, method="bias", progress=False)
    assert biased.sort_values("position").arriving.iloc[-1] > plain.sort_values("position").arriving.iloc[-1]


def test_the_command_prints_and_keeps_the_table(tmp_path, capsys):
    command = ["diagnose", "weight_bits=2", "activation_bits=null", "--calibration-images", "8"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["name", "side", "bits"] and "15" not in lines[0]
    assert lines[16].startswith("and 30 more") or "more, less noisy" in lines[16]
    table = tmp_path / "t.csv"
    assert main([*command, "--images", "60", "--most", "2", "--out", str(table)]) == 0
    out = capsys.readouterr().out
    assert "back in float" in out and "\nquantized: " in out and "\nfloat: " in out
    found = pd.read_csv(table)
    assert found.back.notna().sum() == 2 and list(found.sqnr) == sorted(found.sqnr)
    (session,) = provenance(table)
    assert session["command"].startswith("qlib diagnose weight_bits=2") and "quantized" in session
    assert main([*command, "--out", str(table)]) == 2 and "exists" in capsys.readouterr().err


def test_the_panel_says_which_layer_hurts():
    x = images(32)
    panel = explore(Block(), [x], [(x, torch.arange(32) % 10)], weight_bits=2).wait(60)
    (button,) = [w for w in panel.widget.children if isinstance(w, W.Button)]
    button.click()
    said = panel.widget.children[-1].value
    assert "<table>" in said and "own dB" in said and "quantizers" in said
    panel.controls["weight_bits"].value = 1
    panel.controls["weight_symmetric"].value = True
    button.click()
    assert "cannot be done" in panel.widget.children[-1].value


def test_a_picture_of_it_names_the_noisiest():
    found = diagnose(Block(), QuantConfig(weight_bits=2, activation_bits=4), images(8), progress=False)
    ax = plots.noise_along(found, named=2)
    assert [text.get_text() for text in ax.texts] == list(found.name[:2])
    assert {line.get_label() for line in ax.lines[:3]} == {
        "as it arrives",
        "weights, by themselves",
        "activations, by themselves",
    }


def test_what_cannot_be_diagnosed_is_refused():
    with pytest.raises(ValueError, match="nothing is quantized"):
        diagnose(Block(), QuantConfig(weight_bits=None, activation_bits=None), images(4))
    with pytest.raises(ValueError, match="most must be 0 or more"):
        diagnose(Block(), QuantConfig(activation_bits=None), images(4), most=-1)
    with pytest.raises(ValueError, match="no calibration data"):
        diagnose(Block(), QuantConfig(activation_bits=None), [])
