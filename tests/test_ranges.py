"""Clipping ranges: exact where `qlib.ranges` says exact, close where it says close, in bounded memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import images, quantizers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qlib import QuantConfig, quantize, ranges
from qlib.affine import fake_quantize, make_grid
from qlib.config import RANGES
from qlib.ranges import collector, find_range

SEEDS = st.integers(0, 2**31 - 1)
PERCENTILES = st.one_of(
    st.sampled_from([99.99, 99.9, 99.0, 75.0, 51.0, 100.0]), st.floats(50, 100, exclude_min=True)
)


def grid4(low, high):
    return make_grid(low, high, 4)


def collect(x, sizes, method, percentile=99.99, make=grid4):
    """The range of the rows of ``x``, seen in batches of the given sizes."""
    found = collector(method, percentile, make)
    for part in x.split(sizes, dim=1):
        found.update(part, total=x.shape[1])
    return found.range()


def random_split(total, generator):
    cuts = torch.randint(1, total, (4,), generator=generator).unique().tolist() if total > 1 else []
    return [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]


def assert_percentiles(low, high, x, percentile):
    """Equal to NumPy's up to the rounding of its float64 to float32."""
    rows = x.double().numpy()
    for found, p in ((low, 100 - percentile), (high, percentile)):
        expected = np.percentile(rows, p, axis=1)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7, atol=1e-7 * np.abs(rows).max())


@given(SEEDS, st.integers(1, 3000), st.integers(1, 5), PERCENTILES)
def test_percentile_equals_numpy_however_the_data_is_split(seed, total, rows, percentile):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, total, generator=generator).exp() - 1
    if seed % 3 == 0:
        x = (x * 4).round() / 4  # with many equal values
    low, high = collect(x, random_split(total, generator), "percentile", percentile)
    assert_percentiles(low, high, x, percentile)


def test_percentile_of_more_values_than_are_looked_at_together():
    x = torch.randn(1, 1_000_000)
    assert_percentiles(*collect(x, [600_000, 1, 399_999], "percentile", 99.99), x, 99.99)
    x = x.reshape(4, -1)
    assert_percentiles(*collect(x, [150_000, 100_000], "percentile", 99.9), x, 99.9)


def test_percentile_of_values_that_arrive_in_order():
    x = torch.randn(1, 20_000).sort().values
    for ordered in (x, x.flip(1)):
        assert_percentiles(*collect(ordered, [1000] * 20, "percentile", 99.5), x, 99.5)


@given(SEEDS, st.integers(1, 500), st.integers(1, 5))
def test_minmax_is_the_smallest_and_the_largest_value(seed, total, rows):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, total, generator=generator)
    low, high = collect(x, random_split(total, generator), "minmax")
    assert torch.equal(low, x.amin(1)) and torch.equal(high, x.amax(1))


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_percentile_of_calibration_equals_numpy_over_all_images(granularity):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    x = images(23)
    config = QuantConfig(activation_range="percentile", percentile=98.0, activation_granularity=granularity)
    grid = quantizers(quantize(net, config, x.split([5, 1, 17])))["0"].grid
    with torch.no_grad():
        seen = net[:2](x).transpose(0, 1).flatten(1).double().numpy()
    high = np.percentile(seen if granularity == "per_channel" else seen.reshape(1, -1), 98.0, axis=1)
    np.testing.assert_allclose(grid.scale.flatten().numpy(), high / 255, rtol=1e-6)


def test_percentile_keeps_only_the_tails():
    found = collector("percentile", 99.99, grid4)
    total = 3_000_000
    for _ in range(10):
        found.update(torch.randn(1, total // 10), total)
        assert sum(tail.numel() for tail in found.tails) <= 2 * (0.0001 * total + 3)
    assert all(tail.untyped_storage().nbytes() <= 4 * (0.0001 * total + 3) for tail in found.tails)


PEAK = """
import resource, sys
import torch
from torch import nn
from qlib import QuantConfig, quantize

torch.set_num_threads(1)
layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((1, 16), (16, 16), (16, 4))]
net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
batches = [torch.randn(10, 1, 64, 64) for _ in range(40)]
unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, kilobytes elsewhere
peaks = []
for method in ("minmax", "percentile"):
    quantize(net, QuantConfig(activation_range=method), batches)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
print(peaks[1] - peaks[0])
"""


def test_peak_memory_of_percentile_calibration():
    pytest.importorskip("resource")
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    stored = 400 * (1 + 16 + 16) * 64 * 64 * 4  # bytes, were all values kept: 216 MB
    assert int(run.stdout) < stored / 10


def brute_force(x, bits, symmetric, variant):
    """Error and range of the best of 100 shrinking factors, with torch's own operator."""
    best = (float("inf"),)
    for step in range(1, 101):
        low = x.min() * (step / 100)
        high = x.max() * (step / 100)
        grid = make_grid(low, high, bits, symmetric, variant)
        limits = int(grid.code_min), int(grid.code_max)
        q = torch.fake_quantize_per_tensor_affine(x, float(grid.scale), int(grid.zero_point), *limits)
        best = min(best, ((q - x).square().mean().item(), low.item(), high.item()))
    return best


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_range_of_weights_is_the_best_of_a_hundred(bits, symmetric):
    rows = torch.stack([torch.randn(500), torch.rand(500), torch.randn(500) ** 3])

    def make(low, high):
        return make_grid(low, high, bits, symmetric, "restricted")

    low, high = find_range(rows, "mse", 99.99, make)
    for x, *found in zip(rows, low, high, strict=True):
        error, *expected = brute_force(x, bits, symmetric, "restricted")
        assert (fake_quantize(x, make(*found)) - x).square().mean() == pytest.approx(error, rel=1e-6)
        assert torch.stack(found).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 6])
def test_mse_range_of_activations_comes_close_to_the_best(bits, symmetric):
    growing = torch.cat([torch.randn(1, 2000) * s for s in (0.01, 1.0, 0.3, 3.0)], 1)
    rectified = torch.randn(1, 8000).relu()
    for x in (growing, rectified):

        def make(low, high):
            return make_grid(low, high, bits, symmetric, "full")

        low, high = collect(x, [2000] * 4, "mse", make=make)
        found = (fake_quantize(x, make(low[0], high[0])) - x).square().mean().item()
        assert found <= 1.03 * brute_force(x[0], bits, symmetric, "full")[0]


def test_mse_histogram_loses_no_value_when_it_widens():
    found = collector("mse", 99.99, grid4)
    for size in (1e-6, 1.0, 40.0, 0.1):
        found.update(torch.randn(2, 1000) * size, total=4000)
    assert found.counts.sum(1).tolist() == [4000, 4000]


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "aciq"])
def test_all_zero_data_has_an_empty_range(method):
    low, high = collect(torch.zeros(2, 100), [50, 50], method)
    assert low.tolist() == high.tolist() == [0, 0]
    low, high = find_range(torch.zeros(2, 100), method, 99.99, grid4)
    assert low.tolist() == high.tolist() == [0, 0]


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "aciq"])
def test_rows_do_not_see_each_other(method):
    x = torch.randn(3, 900) * torch.tensor([[0.1], [1.0], [30.0]])
    together = torch.stack(collect(x, [300] * 3, method, 99.0))
    alone = torch.cat([torch.stack(collect(row[None], [300] * 3, method, 99.0)) for row in x], 1)
    assert torch.equal(together, alone)


def test_percentiles_are_of_signed_values_and_the_symmetric_grid_takes_the_larger_magnitude():
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    x = torch.randn(40, 1, 8, 8) - 0.5
    symmetric = {"activation_symmetric": True, "symmetric_grid": "restricted"}
    config = QuantConfig(activation_range="percentile", percentile=95.0, **symmetric)
    grid = quantizers(quantize(net, config, x))["input_1"].grid
    assert grid.scale.item() == pytest.approx(-np.percentile(x.double().numpy(), 5.0) / 127, rel=1e-6)


def test_percentile_of_calibration_images_of_different_sizes_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    batches = [images(3, 1, 4), images(3, 1, 12)]
    with pytest.raises(ValueError, match="activation_range of 'input.*images of one size"):
        quantize(net, QuantConfig(activation_range="percentile"), batches)
    # Other ranges have no need of it
    grid = quantizers(quantize(net, QuantConfig(), batches))["input_1"].grid
    extent = max(b.max() for b in batches) - min(b.min() for b in batches)
    assert grid.scale.item() == pytest.approx(extent.item() / 255)


class Patches(nn.Module):
    """Turns every image into four, so that a layer sees more rows than there are images."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.first(x.reshape(-1, 4)))


def test_range_is_exact_where_a_network_reshapes_its_batch():
    net = Patches()
    x = torch.randn(50, 16)
    config = QuantConfig(activation_range="percentile", percentile=90.0, first_last_bits=None)
    grid = quantizers(quantize(net, config, x.split(10)))["first"].grid
    with torch.no_grad():
        seen = net.first(x.reshape(-1, 4)).double().numpy()
    assert grid.scale.item() == pytest.approx(np.subtract(*np.percentile(seen, [90.0, 10.0])) / 255, rel=1e-6)


def downwards(x):
    return x.sort(descending=True).values


@pytest.mark.parametrize("kept", [1, 60, 900])
def test_the_largest_values_are_found_exactly_whatever_the_sample_says(kept):
    x = torch.randn(1, 100_000)
    misled = torch.zeros_like(x)
    misled[0, ::64] = 5  # the sample sees only these
    few = x.clone()
    few[0, ::64] = few.amax()  # and here the largest, many times
    rising = x.sort().values
    for values in (x, x.clamp(min=0), -x.clamp(min=0), misled, -misled, few, rising, x.round(), 0 * x):
        assert torch.equal(downwards(ranges.largest(values, kept)), values.topk(kept).values)
    several = torch.randn(3, 500)
    assert torch.equal(downwards(ranges.largest(several, 7)), several.topk(7).values)
    assert torch.equal(downwards(ranges.largest(several[:, :5], 7)), downwards(several[:, :5]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_single_value_that_is_none_is_found_wherever_it_stands(bad):
    x = torch.randn(1, 1_500_000)  # several groups, and a sample of each
    for place in (0, 65, 700_001, 1_499_999):
        values = x.clone()
        values[0, place] = bad
        low, high = find_range(values, "percentile", 99.9, None)
        assert not (low.isfinite() and high.isfinite()), place
    assert torch.isnan(ranges.largest(torch.tensor([[1.0, float("nan"), 3.0]]).repeat(1, 9999), 2)).all()


def test_a_network_whose_values_reach_nan_is_refused_under_every_rule():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.after = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            return self.after(torch.sqrt(self.layer(x) + 2.2))

    network, x = Root(), torch.randn(64, 1, 20, 20)
    share = (network.layer(x) < -2.2).float().mean()
    assert 0 < share < 1e-3  # fewer than a percentile of 99.9 leaves outside
    for way in RANGES:
        config = QuantConfig(activation_range=way, percentile=99.9)
        with pytest.raises(ValueError, match="values of 'sqrt' reach NaN or infinity"):
            quantize(network, config, [x[:4].clamp(-1, 1), x])
