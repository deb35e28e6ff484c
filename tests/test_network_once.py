"""A network is read once a measured run, and what was read may be quantized several times."""

import pytest
import torch
from helpers import Block, images

from qlib import QuantConfig, analytic_bitwidths, footprint, learn_bitwidths, quantize
from qlib.experiments import Allocation, Run
from qlib.export import export_onnx
from qlib.laboratory import Laboratory
from qlib.network import network as reading
from qlib.network import read

CONFIG = QuantConfig(4, 4, first_last_bits=None)


@pytest.fixture
def reads(monkeypatch):
    """How often a network was traced, as a list that grows."""
    count = []
    traced = reading.traced
    monkeypatch.setattr(reading, "traced", lambda *given: count.append(given) or traced(*given))
    return count


def labelled(n=8):
    return [(images(n), torch.arange(n) % 10)]


@pytest.mark.parametrize(
    "allocation",
    [None, Allocation(largest_map_bits=4), Allocation(target_weight_bits=7.5, steps=40, learning_rate=0.1)],
    ids=["none", "analytic", "learned"],
)
def test_a_measured_run_reads_its_network_once(reads, allocation):
    from qlib import load_bench

    run = Run("digits", "base", CONFIG, 40, 0, 20, allocation)
    Laboratory(load_bench("digits")).measure(run)
    assert len(reads) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's exporter
@pytest.mark.parametrize(
    "use",
    [
        lambda net, path: quantize(net, CONFIG, images()),
        lambda net, path: learn_bitwidths(
            net, CONFIG, labelled(), 7.5, steps=40, learning_rate=0.1, progress=False
        ),
        lambda net, path: analytic_bitwidths(net, images(), CONFIG, 1000),
        lambda net, path: export_onnx(net, CONFIG, images(), images(1), path / "net.onnx"),
    ],
    ids=["quantize", "learn", "analytic", "export"],
)
def test_public_functions_read_once(reads, use, tmp_path):
    use(Block(), tmp_path)
    assert len(reads) == 1


def test_what_was_read_is_quantized_again_and_again_and_stays_in_float(reads):
    model = Block().eval()
    x = images()
    network = read(model, x)
    before = {name: p.clone() for name, p in network.module.named_parameters()}
    for config in (
        CONFIG,
        QuantConfig(2, 2, quantize_skip=False),
        CONFIG.replace(activation_dynamic=True),
        CONFIG,
    ):
        with torch.no_grad():
            assert torch.equal(quantize(network, config, x)(x), quantize(model, config, x)(x))
        assert footprint(network, x, config) == footprint(model, x, config)
    assert all(torch.equal(p, before[name]) for name, p in network.module.named_parameters())
    assert len(reads) == 1 + 2 * 4


class Toggled(Block):
    """Computes something else the first time, which is when it is traced."""

    first_time = True

    def forward(self, x):
        once = self.first_time
        self.first_time = False
        return super().forward(x) * (2 if once else 1)


def test_what_was_read_without_data_is_compared_when_there_is_some():
    model = Toggled().eval()
    network = read(model)
    model.first_time = False
    quantize(network, QuantConfig(4, None))  # without data nothing is compared
    with pytest.raises(ValueError, match="was read wrongly"):
        quantize(network, CONFIG, images())


def test_a_network_is_compared_once(monkeypatch):
    from qlib import quantization as quantizing

    count = []
    verify = quantizing.verify
    monkeypatch.setattr(quantizing, "verify", lambda *given: count.append(given) or verify(*given))
    network = read(Block())
    for _ in range(3):
        quantize(network, CONFIG, images())
    assert len(count) == 1


def test_ranks_are_found_once(monkeypatch):
    count = []
    ranks = reading._ranks
    monkeypatch.setattr(reading, "_ranks", lambda *given: count.append(given) or ranks(*given))
    layers = [part for _ in range(3) for part in (torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))]
    network = read(torch.nn.Sequential(*layers).eval(), torch.randn(4, 8))
    assert len(count) == 1 and len(network.folds) == 3


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_must_be_so_in_the_same_places(wrong):
    from qlib.network.verification import _close

    expected = torch.randn(4, 3)
    other = torch.randn(4, 3)
    expected[1, 1] = wrong
    same = expected.clone()
    assert _close(same, expected)
    same[1, 1] = 0.5
    assert not _close(same, expected) and not _close(expected, other)


def test_a_network_that_was_read_with_other_float_layers():
    network = read(Block(), images(), ("body",))
    with pytest.raises(ValueError, match="read with float_layers=.'body',., not "):
        quantize(network, CONFIG, images())
