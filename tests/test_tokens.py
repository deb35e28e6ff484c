"""Ranges per token: what one token is does not move what another becomes."""

import pytest
import torch
from torch import nn

from qlib import QuantConfig, footprint, quantize
from qlib.affine import fake_quantize, make_grid
from qlib.export import export_onnx
from qlib.quantizer import Quantizer

TOKENS = QuantConfig(
    None, 4, activation_granularity="per_token", activation_dynamic=True, first_last_bits=None
)


def rounded(vector, bits=4, symmetric=False):
    return fake_quantize(vector, make_grid(*torch.aminmax(vector), bits, symmetric))


@pytest.mark.parametrize(
    "shape, axis", [((3, 5, 8), None), ((3, 5, 8), -1), ((2, 6, 3, 4), None), ((3, 8), None)]
)
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_position_has_a_range_of_all_its_channels(shape, axis, symmetric):
    x = torch.randn(shape) * torch.logspace(-2, 2, shape[-1])
    config = TOKENS.replace(activation_symmetric=symmetric)
    found = Quantizer(config, "x", 4, axis)(x)
    channels = 1 if len(shape) == 4 else -1
    vectors = x.movedim(channels, -1).reshape(-1, x.shape[channels])
    wanted = torch.stack([rounded(v, symmetric=symmetric) for v in vectors])
    assert torch.equal(found.movedim(channels, -1).reshape(wanted.shape), wanted)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o((torch.softmax(q @ k.transpose(-2, -1), -1) @ v).transpose(1, 2).flatten(2))


def test_inside_attention_a_token_is_one_of_one_head():
    torch.manual_seed(0)
    model = Attention().eval()
    quantized = quantize(model, TOKENS, [torch.randn(4, 5, 8)])
    softmax = next(n for n in quantized.graph.nodes if n.name == "softmax")
    seen = {}
    (after,) = softmax.users
    quantized.get_submodule(after.target).register_forward_hook(
        lambda module, inputs, output: seen.update(given=inputs[0], gave=output)
    )
    quantized(torch.randn(2, 5, 8))
    wanted = torch.stack([rounded(v) for v in seen["given"].reshape(-1, 5)])
    assert torch.equal(seen["gave"].reshape(-1, 5), wanted)


def test_a_loud_token_moves_no_other():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    x = torch.randn(2, 6, 8)
    loud = x.clone()
    loud[0, 3] *= 1000
    for granularity, same in (("per_token", True), ("per_tensor", False)):
        quantized = quantize(model, TOKENS.replace(activation_granularity=granularity), [x])
        a, b = quantized(x), quantized(loud)
        others = [i for i in range(6) if i != 3]
        assert torch.equal(a[0, others], b[0, others]) is same
        assert torch.equal(a[1], b[1])


def test_means_of_codes_are_not_made_across_tokens():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    config = TOKENS.replace(pooling="low_precision")
    x = torch.randn(3, 1, 6, 6)
    high = quantize(model, config.replace(pooling="high_precision"), [x])
    assert torch.equal(quantize(model, config, [x])(x), high(x))


def test_what_tokens_cannot_have_is_refused(tmp_path):
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    with pytest.raises(ValueError, match="every channel its own bits, but a token has one range for all"):
        quantize(model, TOKENS.replace(activation_bits={"0": (2, 3, 4, 5)}), [torch.randn(2, 8)])
    with pytest.raises(ValueError, match="'per_token' cannot be written as pairs"):
        export_onnx(model, TOKENS, None, torch.randn(2, 8), tmp_path / "x.onnx")
    assert footprint(model, torch.randn(2, 8), TOKENS).average_activation_bits == 4
