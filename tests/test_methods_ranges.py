"""Learned ranges: steps move, codes and zero-points stay, and blocks come nearer to the float network."""

import pytest
import torch
from helpers import Block, quantizers, run
from torch import nn

from qlib import QuantConfig, quantize
from qlib.export import load_quantized, save_quantized
from qlib.methods import words
from qlib.methods.ranges import Ranges
from qlib.network.operations import rows_of

CONFIG = QuantConfig(3, 3, first_last_bits=None)
QUICK = {"name": "ranges", "steps": 40, "batch": 16}


def block():
    return Block().eval(), torch.rand(64, 3, 8, 8)


def noise(network, x, config, method):
    (expected,), (found,) = run(network, x), run(quantize(network, config, x, method), x)
    return (found - expected).square().mean().item()


LEARNT = {
    "both": (CONFIG, True),
    "activations": (CONFIG, False),
    "weights alone": (CONFIG.replace(activation_bits=None), True),
    "activations alone": (CONFIG.replace(weight_bits=None), False),
    "symmetric": (CONFIG.replace(weight_symmetric=True, activation_symmetric=True), True),
    "restricted": (CONFIG.replace(activation_symmetric=True, symmetric_grid="restricted"), True),
    "authors": (CONFIG.replace(activation_symmetric=True, symmetric_grid="authors"), True),
    "per channel": (CONFIG.replace(activation_granularity="per_channel"), True),
    "per tensor": (CONFIG.replace(weight_granularity="per_tensor"), True),
    "by channel": (
        CONFIG.replace(
            weight_bits={"default": 3, "body": (2, 3, 4, 5) * 2},
            activation_bits={"default": 3, "body": (2, 3) * 4},
            activation_granularity="per_channel",
        ),
        True,
    ),
    "only inputs": (CONFIG.replace(quantize_skip=False, quantize_residual=False), True),
    "integer means": (CONFIG.replace(pooling="low_precision"), True),
    "quantized upstream": (CONFIG.replace(calibration_upstream="quantized"), True),
}


@pytest.mark.parametrize("case", LEARNT)
def test_steps_move_and_codes_stay(case):
    network, x = block()
    config, weights = LEARNT[case]
    before, after = (quantize(network, config, x, how) for how in ("nearest", {**QUICK, "weights": weights}))
    for name in ("first", "body", "project", "body2", "last"):
        one, other = before.get_submodule(name), after.get_submodule(name)
        if config.weight_bits is None or not weights:
            assert torch.equal(one.weight, other.weight)
            continue
        factor = other.weight_grid.scale / one.weight_grid.scale
        assert torch.equal(other.weight_grid.zero_point, one.weight_grid.zero_point)
        torch.testing.assert_close(rows_of(other.weight, other), rows_of(one.weight, one) * factor)
    found = quantizers(after)
    for name, quantizer in quantizers(before).items():
        other = found[name]
        assert torch.equal(quantizer.zero_point, other.zero_point)
        factor = (other.scale / quantizer.scale).flatten()
        for end, moved in zip(quantizer.range, other.range, strict=True):
            torch.testing.assert_close(moved, end * factor)
    moved = [not torch.equal(q.scale, found[name].scale) for name, q in quantizers(before).items()]
    assert sum(moved) >= 2 or config.activation_bits is None
    assert noise(network, x, config, {**QUICK, "weights": weights}) < noise(network, x, config, "nearest")


def test_one_seed_gives_one_result():
    network, x = block()
    found = [quantize(network, CONFIG, x, {**QUICK, "seed": seed}) for seed in (0, 0, 1)]
    one, same, other = ([m.scale for m in quantizers(q).values()] for q in found)
    assert all(map(torch.equal, one, same)) and not all(map(torch.equal, one, other))


def test_ranges_that_fit_are_kept():
    """Values that lie on the grid as it is: nothing can be better."""
    network = nn.Sequential(nn.Linear(4, 4, bias=False)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(4))
    x = torch.randint(0, 16, (64, 4)) / 15
    config = QuantConfig(4, 4, first_last_bits=None, input_bits=4)
    before, after = (quantize(network, config, x, how) for how in ("nearest", QUICK))
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())


def test_a_learned_network_is_saved_and_loaded(tmp_path):
    network, x = block()
    quantized = quantize(network, CONFIG, x, ["gptq", QUICK, "bias"])
    save_quantized(quantized, CONFIG, tmp_path)
    assert torch.equal(*run(load_quantized(network, tmp_path), x), *run(quantized, x))


def test_one_weight_of_two_layers_has_one_step():
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).eval()
    network[2].weight = network[0].weight
    found = quantize(network, CONFIG, torch.rand(64, 6), QUICK)
    one, other = (found.get_submodule(name) for name in "02")
    assert one.weight is other.weight and torch.equal(one.weight_grid.scale, other.weight_grid.scale)


@pytest.mark.parametrize(
    "fields, weights, words",
    [
        ({"activation_dynamic": True}, True, "'ranges' learns static ranges, but activation_dynamic=True"),
        ({"activation_bits": None}, False, "'ranges' works on activations, but activation_bits=None"),
        (
            {"weight_symmetric": True, "symmetric_grid": "authors"},
            True,
            "'ranges' .*symmetric_grid='authors'",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_learned_is_refused(fields, weights, words):
    network, x = block()
    with pytest.raises(ValueError, match=f"the method {words}"):
        quantize(network, CONFIG.replace(**fields), x, Ranges(weights=weights))


def test_cards_say_what_was_done():
    said = words(["nearest", {"name": "ranges", "steps": 40}])
    assert said["technique"] == "post-training, ranges learned by blocks"
    assert said["steps"] == 40 and said["rounding"] == "nearest"
    assert words([{"name": "adaround", "steps": 100}, {"name": "ranges", "steps": 40}])["steps"] == 140
