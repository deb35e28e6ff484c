"""Networks and data may lie on any device: what `qlib` computes stays there, and does not follow torch's
default device.

Without an accelerator, the default device is set to one that holds no data, so that a tensor made without a
device of its own meets the CPU's and fails.
"""

from contextlib import contextmanager

import pytest
import torch
from helpers import Block, images

from qlib import (
    QuantConfig,
    analytic_bitwidths,
    evaluate,
    footprint,
    learn_bitwidths,
    pseudo_labels,
    quantize,
)

CONFIGS = {
    "asymmetric": {},
    "symmetric": {"weight_symmetric": True, "activation_symmetric": True},
    "authors": {"weight_symmetric": True, "activation_symmetric": True, "symmetric_grid": "authors"},
    "percentile": {
        "weight_granularity": "per_tensor",
        "weight_range": "percentile",
        "activation_range": "percentile",
    },
    "per channel": {"activation_granularity": "per_channel", "activation_range": "percentile"},
    "mse": {"weight_range": "mse", "activation_range": "mse"},
    "mse per channel": {"activation_granularity": "per_channel", "activation_range": "mse"},
    "dynamic": {"activation_dynamic": True},
    "dynamic mse": {"activation_dynamic": True, "activation_range": "mse"},
    "aciq": {"weight_range": "aciq", "activation_range": "aciq"},
    "dynamic aciq": {"activation_dynamic": True, "activation_range": "aciq"},
    "integer pooling, quantized upstream": {"pooling": "low_precision", "calibration_upstream": "quantized"},
    "only inputs": {"quantize_skip": False, "quantize_residual": False},
    "by channel": {
        "weight_bits": {"body": (2, 3) * 4, "default": 4},
        "activation_bits": {"body": (3, 5) * 4},
    },
}
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@contextmanager
def elsewhere():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.fixture
def data():
    return [(images(16), torch.randint(10, (16,))) for _ in range(3)]


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_no_tensor_is_made_on_the_default_device(options, data):
    network = Block().eval()
    config = QuantConfig(**{"weight_bits": 4, "activation_bits": 5, **options})
    expected = evaluate(quantize(network, config, data), data)
    with elsewhere():
        quantized = quantize(network, config, data)
        assert (evaluate(quantized, data).correct == expected.correct).all()
        footprint(network, data[0][0], config)
    assert {t.device.type for t in quantized.state_dict().values()} == {"cpu"}


@pytest.mark.parametrize(
    "options",
    [
        {"target_weight_bits": 5},
        {"target_weight_bits": 5, "per_channel": True},
        {"target_activation_bits": 5},
        {
            "target_weight_bits": 6,
            "target_activation_bits": 6,
            "learn_ranges": True,
            "parametrization": "log2",
        },
    ],
    ids=str,
)
def test_the_learner_makes_no_tensor_on_the_default_device(options, data):
    options = {
        **options,
        "steps": 15,
        "batch_size": 8,
        "learning_rate": 0.05,
        "progress": False,
        "allow_infeasible": True,
    }
    network = Block().eval()
    config = QuantConfig(first_last_bits=None)
    expected = learn_bitwidths(network, config, data, **options)
    with elsewhere():
        learned = learn_bitwidths(network, config, pseudo_labels(network, data)[:0] + data, **options)
        analytic_bitwidths(network, data[0][0][:1], config, 400)
        pseudo_labels(network, data, soft=True)
    assert learned.config == expected.config and learned.history.equals(expected.history)


@cuda
@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_a_cuda_device_gives_what_the_cpu_gives(options, data, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network = Block().eval()
    config = QuantConfig(**{"weight_bits": 4, "activation_bits": 5, **options})
    here = quantize(network, config, data)
    there = quantize(network.cuda(), config, data)
    assert {t.device.type for t in there.state_dict().values()} == {"cuda"}
    with torch.inference_mode():
        expected = here(data[0][0])
        actual = there(data[0][0].cuda()).cpu()
    # A sum rounded otherwise may fall on the neighbouring code: rarely, and by a step
    assert (actual - expected).abs().median() < 1e-5 and (actual - expected).norm() < 0.1 * expected.norm()


@cuda
def test_the_learner_learns_on_a_cuda_device(data, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    options = {
        "target_weight_bits": 6,
        "target_activation_bits": 6,
        "learn_ranges": True,
        "steps": 40,
        "batch_size": 8,
        "learning_rate": 0.2,
        "progress": False,
    }
    network = Block().eval()
    config = QuantConfig(first_last_bits=None)
    here = learn_bitwidths(network, config, data, **options)
    there = learn_bitwidths(network.cuda(), config, data, **options)
    assert there.feasible and there.average_weight_bits == pytest.approx(here.average_weight_bits, abs=1)
    assert list(there.history.loss[:3]) == pytest.approx(list(here.history.loss[:3]), rel=1e-3)
