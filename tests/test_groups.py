"""Ranges for groups of weights: every group is quantized as if it were a tensor of its own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qlib import QuantConfig, evaluate, footprint, quantize
from qlib.affine import fake_quantize
from qlib.export import export_onnx, load_quantized, save_quantized
from qlib.methods.gptq import GPTQ
from qlib.quantizer import weight_grid

GROUPS = {"weight_granularity": "per_group", "first_last_bits": None, "activation_bits": None}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 10)).eval()


def images(n=32):
    return torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(1))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 9),
    st.sampled_from(["minmax", "percentile", "mse", "aciq"]),
    st.booleans(),
    st.sampled_from([3, (2, 3, 4, 5)]),
    st.sampled_from([(4, 7), (4, 2, 3), (4, 2, 2, 2)]),
)
def test_a_group_is_quantized_as_a_tensor_of_its_own(size, method, symmetric, bits, shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(size))
    config = QuantConfig(
        bits if isinstance(bits, int) else {"x": bits},
        weight_granularity="per_group",
        group_size=size,
        weight_range=method,
        weight_symmetric=symmetric,
    )
    whole = config.replace(weight_granularity="per_tensor")
    found = fake_quantize(rows, weight_grid("x", rows, config, bits)).flatten(1)
    for i, row in enumerate(rows.flatten(1)):
        alone = bits if isinstance(bits, int) else bits[i]
        for start in range(0, len(row), size):
            part = row[start : start + size].reshape(1, -1)
            wanted = fake_quantize(part, weight_grid("x", part, whole, alone))
            assert torch.equal(found[i, start : start + size], wanted[0])


def test_groups_as_long_as_a_row_are_channels():
    rows = torch.randn(5, 12)
    config = QuantConfig(3, weight_granularity="per_group", group_size=12)
    channels = config.replace(weight_granularity="per_channel")
    found = [fake_quantize(rows, weight_grid("x", rows, c, 3)) for c in (config, channels)]
    assert torch.equal(*found)


def test_scales_of_all_groups_are_counted():
    config = QuantConfig(4, group_size=16, **GROUPS)
    rows = {layer.name: layer for layer in footprint(network(), images(1), config).layers}
    assert rows["0"].scales == 6 * 2  # 18 inputs: a group of 16, and one of 2
    assert rows["3"].scales == rows["3"].zero_points == 10 * 14  # 216 inputs: 13 groups of 16, and one of 8
    assert rows["3"].scale_bytes == 140 * (32 + 4) / 8
    symmetric = footprint(network(), images(1), config.replace(weight_symmetric=True))
    assert symmetric.scale_bytes == (12 + 140) * 4
    few = footprint(network(), images(1), config.replace(group_size=216))
    assert few.weight_bytes == symmetric.weight_bytes and few.scale_bytes < symmetric.scale_bytes


@pytest.mark.parametrize("order", ["activation", "natural"])
def test_gptq_rounds_to_the_grids_of_groups_and_does_better_than_nearest(order):
    config = QuantConfig(2, group_size=8, **GROUPS)
    found = {}
    for method in ("nearest", GPTQ(order=order)):
        quantized = quantize(network(), config, [images(256)], method)
        for name, layer in quantized.named_modules():
            if (grid := getattr(layer, "weight_grid", None)) is not None:
                float_rows = network().get_submodule(name).weight
                assert torch.equal(grid.scale, weight_grid(name, float_rows, config, 2).scale)
                assert torch.equal(fake_quantize(layer.weight, grid), layer.weight)
        x = images(512)[256:]
        found[str(method)] = evaluate(quantized, [(x, None)], "sqnr", reference=network()).value
    nearest, gptq = found.values()
    assert gptq > nearest + 1


def test_saved_groups_are_packed_and_come_back(tmp_path):
    for bits in (4, {"default": 3, "0": (2, 3, 4, 5, 6, 7)}):
        config = QuantConfig(bits, group_size=16, **GROUPS)
        quantized = quantize(network(), config)
        save_quantized(quantized, config, tmp_path)
        loaded = load_quantized(network(), tmp_path)
        assert torch.equal(loaded(images()), quantized(images()))
        assert torch.equal(
            loaded.get_submodule("3").weight_grid.scale, quantized.get_submodule("3").weight_grid.scale
        )
    floats = sum(p.numel() for p in network().parameters()) * 4
    assert (tmp_path / "weights.safetensors").stat().st_size < floats


def test_what_cannot_do_with_groups_says_so(tmp_path):
    config = QuantConfig(4, group_size=16, **GROUPS)
    with pytest.raises(ValueError, match="weight_granularity='per_group' cannot be written as pairs"):
        export_onnx(network(), config, None, images(1), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="weight_granularity='per_group' has more: set weights=False"):
        quantize(network(), config.replace(activation_bits=8), [images()], "ranges")
