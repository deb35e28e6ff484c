"""Methods on a bench: 3-bit weights per channel, min/max, asymmetric; activations in float."""

import pytest

from qlib import QuantConfig, compare, evaluate, quantize

CONFIG = QuantConfig(3, None)
METHODS = {
    "nearest": "nearest",
    "bias": "bias",
    "gptq": "gptq",
    "adaround": {"name": "adaround", "steps": 250},
    "blocks": {"name": "blocks", "steps": 150},
}


@pytest.fixture(scope="module")
def measured(bench):
    calibration = bench.calibration(512)
    validation = bench.validation(2000)
    return {
        name: evaluate(quantize(bench.models["base"], CONFIG, calibration, method), validation)
        for name, method in METHODS.items()
    }


@pytest.mark.parametrize("method", list(METHODS)[1:])
def test_a_method_is_eight_points_above_nearest(method, measured):
    assert measured[method].top1 - measured["nearest"].top1 >= 8


@pytest.mark.parametrize("method", ["adaround", "blocks"])
def test_learned_rounding_is_no_worse_than_what_needs_no_steps(method, measured):
    better = max(("bias", "gptq"), key=lambda name: measured[name].top1)
    assert compare(measured[method], measured[better]).interval[1] >= 0
