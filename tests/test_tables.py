"""Lookup tables and heads, and the keys and values that attention keeps."""

import pytest
import torch
from test_tokens import Attention
from torch import nn

from qlib import QuantConfig, footprint, quantize
from qlib.affine import fake_quantize
from qlib.export import export_onnx, load_quantized, save_quantized
from qlib.quantizer import weight_grid

IDS = torch.randint(0, 12, (4, 5), generator=torch.Generator().manual_seed(0))


class Words(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.table = nn.Embedding(12, 8)
        self.attention = Attention()
        self.head = nn.Linear(8, 12, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids):
        x = self.table(ids)
        return self.head(x + self.attention(x))


def words(tied):
    torch.manual_seed(0)
    return Words(tied).eval()


def bits_of(model, config):
    return {layer.name: layer.weight_bits for layer in footprint(model, IDS, config).layers}


@pytest.mark.parametrize(
    "tied, fields, table, head",
    [
        (False, {}, 32, 8),
        (False, {"embedding_bits": 3}, 3, 8),
        (False, {"weight_bits": {"default": 4, "table": 5}}, 5, 8),
        (False, {"weight_bits": {"default": 4, "table": 5}, "embedding_bits": 3}, 5, 8),
        (True, {}, 8, 8),
        (True, {"first_last_bits": None}, 4, 4),
        (True, {"embedding_bits": 3}, 3, 3),
        (True, {"weight_bits": {"default": 4, "head": 6}}, 6, 6),
        (True, {"weight_bits": {"default": 4, "head": 3}, "embedding_bits": 3}, 3, 3),
    ],
)
def test_bits_of_a_table_and_of_the_head(tied, fields, table, head):
    model = words(tied)
    config = QuantConfig(**{"weight_bits": 4, "activation_bits": None, **fields})
    quantized = quantize(model, config, [IDS])
    levels = max(len(row.unique()) for row in quantized.get_submodule("table").weight)
    assert levels <= (2**table if table < 32 else 8)
    assert torch.equal(quantized.get_submodule("table").weight, model.table.weight) is (table == 32)
    bits = bits_of(model, config)
    assert bits["table"] == table and bits["attention.q"] == (
        4 if fields.get("first_last_bits", 8) is None else 8
    )
    size = {layer.name: layer.weight_elements for layer in footprint(model, IDS, config).layers}
    assert (size["table"], size["head"]) == (96, 0 if tied else 96)
    assert tied or bits["head"] == head


def test_only_an_explicit_contradiction_is_an_error():
    config = QuantConfig({"default": 4, "head": 6}, None, embedding_bits=3)
    with pytest.raises(
        ValueError, match="'table', 'head' share one weight, which cannot have 3 .* and 6 for 'head'"
    ):
        quantize(words(True), config, [IDS])
    quantize(words(False), config, [IDS])


@pytest.mark.parametrize("method", ["nearest", "gptq", "adaround", "blocks", "bias"])
def test_a_table_is_rounded_to_nearest_by_every_method(method):
    for tied in (False, True):
        model = words(tied)
        config = QuantConfig(4, None, embedding_bits=3)
        quantized = quantize(model, config, [IDS], method)
        table = model.table.weight.data
        assert torch.equal(
            quantized.get_submodule("table").weight,
            fake_quantize(table, weight_grid("table", table, config, 3)),
        )
        if tied:
            assert quantized.get_submodule("head").weight is quantized.get_submodule("table").weight


def test_a_quantized_table_is_saved_and_loaded(tmp_path):
    config = QuantConfig(4, None, embedding_bits=3)
    quantized = quantize(words(True), config, [IDS])
    save_quantized(quantized, config, tmp_path)
    assert torch.equal(load_quantized(words(True), tmp_path)(IDS), quantized(IDS))


def test_a_table_is_not_the_first_layer_and_may_be_left_in_float():
    config = QuantConfig(4, None, first_last_bits=6)
    bits = bits_of(words(False), config)
    assert (bits["table"], bits["attention.q"], bits["attention.k"], bits["head"]) == (32, 6, 4, 6)
    left = quantize(words(False), config.replace(float_layers=("table",)), [IDS])
    assert torch.equal(left(IDS), quantize(words(False), config, [IDS])(IDS))


def test_a_table_that_changes_while_it_runs_is_refused():
    model = nn.Sequential(nn.Embedding(12, 8, max_norm=1.0), nn.Linear(8, 4))
    with pytest.raises(ValueError, match="'0' changes its table while it runs .*float_layers=\\('0',\\)"):
        quantize(model, QuantConfig(4, None), [IDS])


def test_a_table_of_codes_is_not_exported(tmp_path):
    with pytest.raises(ValueError, match="'table' is a lookup table with 8 bits"):
        export_onnx(words(False), QuantConfig(8, None, embedding_bits=8), None, IDS, tmp_path / "x.onnx")


# ------------------------------------------------------------------------------------------------------------
# Keys and values


def quantizers(model, config):
    found = [
        m for m in quantize(model, config, [IDS]).modules() if getattr(m, "quantized_by_qlib", 0) is True
    ]
    return {m.name: m.bits for m in found if hasattr(m, "bits")}


def test_keys_and_values_have_bits_of_their_own():
    config = QuantConfig(None, 8, first_last_bits=None)
    usual, kept = (quantizers(words(False), c) for c in (config, config.replace(kv_bits=3)))
    assert {name for name in usual if usual[name] != kept[name]} == {"attention.k", "attention.v"}
    assert kept["attention.k"] == kept["attention.v"] == 3
    named = config.replace(kv_bits=3, activation_bits={"default": 8, "attention.k": 5})
    assert quantizers(words(False), named)["attention.k"] == 5


def test_nothing_but_keys_and_values():
    config = QuantConfig(None, {"default": 32}, kv_bits=3, input_bits=None, first_last_bits=None)
    assert quantizers(words(False), config) == {"attention.k": 3, "attention.v": 3}


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return torch.softmax(q @ k.transpose(-2, -1), -1) @ v


def test_keys_that_cannot_be_told_apart_are_refused():
    config = QuantConfig(None, 8, kv_bits=4)
    with pytest.raises(ValueError, match="kv_bits: 'qkv' gives keys or values in one tensor with queries"):
        quantize(Fused().eval(), config, [torch.randn(2, 5, 8)])
    with pytest.raises(ValueError, match="kv_bits: the network has no attention"):
        quantize(nn.Sequential(nn.Linear(8, 4)).eval(), config, [torch.randn(2, 8)])
