"""Attention written out, and layers made of functions that are called with weights."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import MODES, Record, images, levels
from torch import fx, nn

from qlib import QuantConfig, QuantizationCard, footprint, quantize
from qlib.network import Kind, read


class Attention(nn.Module):
    """Self-attention between two linear layers, over 6 tokens of 16 features; ``how`` is called with the
    layer and the tokens.
    """

    def __init__(self, how, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(
            **{"embed_dim": 16, "num_heads": 4, "batch_first": True, **options}
        )
        self.how = how
        self.first = nn.Linear(16, 16)
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        return self.last(self.how(self.attention, self.first(x)).flatten(1, -2).mean(1))


MASK = torch.randn(6, 6)
FUTURE = torch.full((6, 6), float("-inf")).triu(1)
CALLS = {
    "tokens of itself": lambda layer, x: layer(x, x, x, need_weights=False)[0],
    "of others": lambda layer, x: layer(x, x.flip(1), 2 * x, need_weights=False)[0],
    "with a mask": lambda layer, x: layer(x, x, x, need_weights=False, attn_mask=MASK)[0],
    "with a padding mask": lambda layer, x: layer(x, x, x, key_padding_mask=x[..., 0] > 1)[0],
    "with a padding mask of numbers": lambda layer, x: layer(x, x, x, key_padding_mask=x[..., 0])[0],
    "with a mask for each head": lambda layer, x: layer(x, x, x, attn_mask=MASK.repeat(24, 1, 1))[0],
    "with weights": lambda layer, x: (lambda y, w: y + w.mean(-1, keepdim=True))(*layer(x, x, x)),
    "with weights of heads": lambda layer, x: (lambda y, w: y * w.amax((1, 3))[..., None])(
        *layer(x, x, x, average_attn_weights=False)
    ),
    "with a mask of bools": lambda layer, x: layer(x, x, x, need_weights=False, attn_mask=MASK > 1)[0],
    "with a mask of infinities": lambda layer, x: layer(x, x, x, need_weights=False, attn_mask=FUTURE)[0],
    "causal": lambda layer, x: F.scaled_dot_product_attention(x, x.flip(1), x * x, is_causal=True),
    "with a scale": lambda layer, x: F.scaled_dot_product_attention(x, x.flip(1), x * x, scale=2.0),
}


@pytest.mark.parametrize("options", [{}, {"batch_first": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("how", CALLS.values(), ids=CALLS)
def test_attention_written_out_is_what_torch_computes(how, options):
    if how is CALLS["with a mask of bools"]:  # of a layer True shuts out; of the function, False
        assert (MASK > 1).any() and not (MASK > 1).all(1).any()
    network = Attention(how, **options).eval()
    x = torch.randn(6, 6, 16)
    found = read(network)
    with torch.no_grad():
        torch.testing.assert_close(found.module(x), network(x), rtol=1e-5, atol=1e-5)
    assert [o.kind for o in found.operations.values()].count(Kind.PRODUCT) == 2


def test_keys_and_values_of_other_sizes():
    network = Attention(lambda layer, x: layer(x, x[..., :5], x[..., :7])[0], kdim=5, vdim=7).eval()
    x = torch.randn(2, 6, 16)
    with torch.no_grad():
        torch.testing.assert_close(read(network).module(x), network(x), rtol=1e-5, atol=1e-5)
    assert [name for name in read(network).layers if name.startswith("attention")] == [
        "attention.q_proj",
        "attention.k_proj",
        "attention.v_proj",
        "attention.out_proj",
    ]


@pytest.mark.parametrize("make", [torchvision.models.swin_t, torchvision.models.swin_v2_t])
# Windows that cover the image, images that need padding, windows that shift
@pytest.mark.parametrize("size", [64, 100, 256])
def test_shifted_windows_are_what_torchvision_computes(make, size):
    network = make(num_classes=5).eval()
    x = images(2, 3, size)
    for name, parameter in network.named_parameters():
        if "relative_position_bias_table" in name or name.endswith("qkv.bias"):
            nn.init.normal_(parameter)
    with torch.no_grad():
        torch.testing.assert_close(read(network).module(x), network(x), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(
        32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
    )
    nn.init.normal_(vit.heads.head.weight)
    return vit.eval()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_layers_and_products_get_quantized_inputs_under_every_configuration(transformer, mode):
    x = images(4, 3, 32)
    config = QuantConfig(
        3, 3, input_bits=3, first_last_bits=None, quantize_skip=mode[0], quantize_residual=mode[1]
    )
    seen = Record(quantize(transformer, config, x), x)
    products = [n for n in seen.tensors if n.op == "call_function" and n.target.__name__ == "matmul"]
    assert len(products) == 4 and len(list(seen.layers())) == 10
    for operand in [seen.tensors[n] for product in products for n in product.args]:
        assert levels(operand) <= 8
    assert all(levels(tensor) <= 8 for _, tensor in seen.layers())
    scores = [
        seen.tensors[n.args[0]] for n in seen.tensors if n.op == "call_function" and n.target is F.softmax
    ]
    # Scaled, but on a grid
    assert all((levels(tensor) <= 8) == (mode != (False, False)) for tensor in scores)


def test_what_a_transformer_weighs(transformer):
    """Every matrix is a layer's; biases, norms, the class token and positions stay in float."""
    matrices = sum(p.numel() for p in transformer.parameters() if p.dim() > 1)
    positions = transformer.encoder.pos_embedding.numel() + transformer.class_token.numel()
    size = footprint(transformer, images(1, 3, 32), QuantConfig(4, 4, first_last_bits=None))
    assert size.weight_elements == matrices - positions
    assert not any(layer.counted for layer in size.layers if layer.kind == "matrix product")
    names = [layer.name for layer in size.layers if layer.weight_elements]
    assert "encoder.layers.encoder_layer_0.self_attention.in_proj" in names


def test_the_card_says_what_stays_in_float(transformer):
    config = QuantConfig(4, 4)
    size = footprint(transformer, images(1, 3, 32), config)
    assert size.in_float == ("add", "LayerNorm", "mul", "softmax")  # positions; scaling
    assert (
        QuantizationCard.from_run(config, size=size).data["remarks"]
        == "Computed in float: add, LayerNorm, mul, softmax."
    )
    assert footprint(torchvision.models.resnet18(), images(1, 3, 32), config).in_float == ()


def test_bits_of_a_product_can_be_named(transformer):
    x = images(2, 3, 32)
    name = "encoder.layers.encoder_layer_1.self_attention.matmul"
    few = quantize(transformer, QuantConfig(None, {name: 2, "default": 16}), x)
    many = quantize(transformer, QuantConfig(None, 16), x)
    with torch.no_grad():
        assert not torch.allclose(few(x), many(x), atol=1e-3)


class Standardized(nn.Conv2d):
    """Its weights are computed from parameters at every call."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight * self.gain, self.bias, self.stride, self.padding)


class Functions(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = Standardized(3, 4, 3, stride=2, padding=1)
        self.conv.gain = nn.Parameter(torch.rand(4, 1, 1, 1))
        self.table = nn.Parameter(torch.randn(4))
        self.last = nn.Linear(4, 2)
        self.head_weight = nn.Parameter(torch.randn(5, 2))

    def forward(self, x):
        x = torch.relu(self.conv(x)).mean((2, 3)) + self.table.flip(0)
        return F.linear(F.linear(x, self.last.weight, self.last.bias), self.head_weight)


def test_functions_called_with_parameters_become_layers():
    network = Functions().eval()
    x = images(2)
    found = read(network)
    assert found.layers == ["conv", "last", "head"]
    with torch.no_grad():
        torch.testing.assert_close(found.module(x), network(x))
    weights = quantize(network, QuantConfig(2, None, first_last_bits=None)).get_submodule("conv").weight
    assert all(levels(row) <= 4 for row in weights)
    assert len(weights.unique()) > 4  # of standardized values, and a range per channel


def test_an_input_with_a_default_has_it():
    class Optional(nn.Sequential):
        def forward(self, x, mask=None, double=False):
            x = super().forward(x) if mask is None else x
            return 2 * x if double else x

    network = Optional(nn.Linear(4, 3))
    x = torch.randn(2, 4)
    assert torch.equal(read(network).module(x), network(x))


def _opaque(x, weight):
    return x * weight.sum()


fx.wrap("_opaque")


class Opaque(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return _opaque(self.first(x), self.weight)


@pytest.mark.parametrize(
    "network, reason",
    [
        (Opaque(), "the top level calls _opaque with weights of its own"),
        (
            Attention(CALLS["tokens of itself"], add_bias_kv=True),
            "at attention: nn.MultiheadAttention with added keys",
        ),
    ],
    ids=["opaque", "added keys"],
)
def test_weights_that_would_silently_stay_in_float_are_refused(network, reason):
    with pytest.raises(ValueError, match=reason):
        read(network)
