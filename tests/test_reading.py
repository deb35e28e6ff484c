"""What is read of a network computes what was given, or is refused by one line: every kind of fault, by small
networks.
"""

import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import WIDE, levels, refused, right, warmed, weight, written
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from qlib import QuantConfig, footprint, quantize

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
IMAGES = (16, 3, 8, 8)
VECTORS = (16, 16)
TOKENS = (8, 5, 16)


def images_net(code, **parts):
    """A network of convolutions for 8 x 8 images."""
    usual = {
        "a": lambda: nn.Conv2d(3, 8, 3, padding=1),
        "b": lambda: nn.Conv2d(8, 8, 3, padding=1),
        "c": lambda: nn.Conv2d(8, 4, 3),
        "relu": lambda: nn.ReLU(inplace=True),
    }
    return written(code, IMAGES, **usual, **parts)


def vectors_net(code, shape=VECTORS, **parts):
    """A network of linear layers for vectors or tokens of 16 features."""
    usual = {"l": lambda: nn.Linear(16, 8), "m": lambda: nn.Linear(8, 4)}
    return written(code, shape, **usual | parts)


def every(table):
    """Parametrizes a test by the values of a table."""
    return pytest.mark.parametrize("make", table.values(), ids=table)


# Weights that are computed


class Clamped(nn.Module):
    def forward(self, w):
        return w.clamp(-0.1, 0.1)


class Rank1(nn.Module):
    def forward(self, u, v):
        return u @ v

    def right_inverse(self, w):
        u, s, v = torch.linalg.svd(w, full_matrices=False)
        return u[:, :1] * s[0], v[:1]


def from_hook(layer, hook, **options):
    """A layer whose weight a hook computes from the parameter ``raw``."""
    layer.raw = nn.Parameter(layer.weight.detach().clone())
    del layer._parameters["weight"]
    layer.weight = layer.raw * 1
    layer.register_forward_pre_hook(hook, **options)


def masked_data(layer):
    mask = (torch.rand(8, 16) > 0.5).float()
    layer.register_forward_pre_hook(lambda m, x: setattr(m.weight, "data", m.weight.data * mask))


def pruned_twice(layer):
    prune.l1_unstructured(layer, "weight", 0.3)
    prune.ln_structured(layer, "weight", 0.25, 2, 0)
    prune.random_unstructured(layer, "bias", 0.5)


def plain_tensor(layer):
    value = layer.weight.detach().clone()
    del layer._parameters["weight"]
    layer.weight = value


def non_leaf(layer):
    value = nn.Parameter(layer.weight.detach().clone())
    del layer._parameters["weight"]
    layer.weight = value * 2


COMPUTED = {
    "weight norm": parametrizations.weight_norm,
    "weight norm of all": lambda m: parametrizations.weight_norm(m, dim=None),
    "spectral norm": parametrizations.spectral_norm,
    "old weight norm": weight_norm,
    "old spectral norm": spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "custom": lambda m: parametrize.register_parametrization(m, "weight", Clamped()),
    "of two parameters": lambda m: parametrize.register_parametrization(m, "weight", Rank1()),
    "of a bias": lambda m: parametrize.register_parametrization(m, "bias", Clamped()),
    "both norms": lambda m: parametrizations.spectral_norm(parametrizations.weight_norm(m)),
    "pruned": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "pruned for good": lambda m: prune.remove(prune.l1_unstructured(m, "weight", 0.5), "weight"),
    "pruned twice": pruned_twice,
    "hook": lambda m: from_hook(m, lambda m, x: setattr(m, "weight", m.raw * 3)),
    "hook with keywords": lambda m: from_hook(
        m, lambda m, x, k: setattr(m, "weight", m.raw * 3), with_kwargs=True
    ),
    "hook that masks data": masked_data,
    "plain tensor": plain_tensor,
    "non-leaf": non_leaf,
}


@every(COMPUTED)
@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.BatchNorm1d(8)], ids=["alone", "batch norm"])
def test_computed_weights_are_quantized_as_what_they_are(make, norm):
    layer = nn.Linear(16, 8)
    x = torch.randn(*VECTORS)
    right(warmed(nn.Sequential(make(layer) or layer, norm(), nn.ReLU(), nn.Linear(8, 4)), x), x, elements=160)


@every(
    {name: COMPUTED[name] for name in ("weight norm", "old weight norm", "spectral norm", "pruned", "custom")}
)
def test_computed_weights_of_convolutions_and_in_two_calls(make):
    x = torch.randn(*IMAGES)
    layer = nn.Conv2d(3, 8, 3)
    net = nn.Sequential(make(layer) or layer, nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    right(warmed(net, x), x, elements=504)
    x = torch.randn(*VECTORS)
    layer = nn.Linear(16, 16)
    make(layer)
    right(warmed(nn.Sequential(layer, nn.ReLU(), layer), x), x, elements=256)


STANDARDIZED = {
    "of a function": vectors_net(
        "return net.m(F.linear(x, net.w / net.w.norm(dim=1, keepdim=True)))", w=weight(8, 16)
    ),
    "transposed": vectors_net("return net.m(F.linear(x, net.w.t()))", w=weight(16, 8)),
    "summed": vectors_net("return net.m(F.linear(x, net.l.weight * 2, net.l.bias))"),
}


@every(STANDARDIZED)
def test_weights_computed_in_the_forward(make):
    right(*make())


def test_weights_that_depend_on_the_input_or_are_changed_in_the_forward_are_refused():
    layer = nn.Linear(16, 8)
    from_hook(layer, lambda m, x: setattr(m, "weight", m.raw * x[0].mean()))
    refused(
        "0 calls linear with weights .*float_layers",
        nn.Sequential(layer, nn.Linear(8, 4)),
        torch.randn(*VECTORS),
    )
    layer = nn.Linear(16, 8)
    layer.register_forward_pre_hook(lambda m, x: m.weight.data.mul_(0.5))
    refused(
        r"0 changes '0.weight' .*float_layers=\('0',\)",
        nn.Sequential(layer, nn.Linear(8, 4)),
        torch.randn(*VECTORS),
    )


# Batch norm


LINEAR_NORM = {"l": lambda: nn.Linear(16, 8), "n": lambda: nn.BatchNorm1d(8), "m": lambda: nn.Linear(8, 4)}
BATCH_NORMS = {
    "on the axis behind": written("return net.m(net.n(net.l(x)))", (16, 8, 16), **LINEAR_NORM),
    "of another length": written(
        "return net.m(net.n(net.l(x)))", (16, 5, 16), **LINEAR_NORM | {"n": lambda: nn.BatchNorm1d(5)}
    ),
    "transposed": written(
        "return net.m(net.n(net.l(x).transpose(1, 2)).transpose(1, 2))", TOKENS, **LINEAR_NORM
    ),
    "flattened": written("return net.m(net.n(net.l(x.flatten(0, 1))))", TOKENS, **LINEAR_NORM),
    "usual": written("return net.m(net.n(net.l(x)))", VECTORS, **LINEAR_NORM),
    "without factors": written(
        "return net.m(net.n(net.l(x)))",
        VECTORS,
        **LINEAR_NORM | {"n": lambda: nn.BatchNorm1d(8, affine=False)},
    ),
    "twice": written("return net.m(net.n(net.n(net.l(x))))", VECTORS, **LINEAR_NORM),
    "2-D behind linear": written(
        "return net.c(net.n(net.p(x)))",
        IMAGES,
        n=lambda: nn.BatchNorm2d(3),
        p=lambda: nn.Linear(8, 8),
        c=lambda: nn.Conv2d(3, 4, 3),
    ),
    "permuted images": images_net(
        "return net.c(net.n(net.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))", n=lambda: nn.BatchNorm2d(8)
    ),
    "unbatched": written(
        "return net.c(net.n(net.a(x)))",
        (16, 3, 12),
        a=lambda: nn.Conv1d(3, 8, 3),
        n=lambda: nn.BatchNorm1d(8),
        c=lambda: nn.Conv1d(8, 4, 3),
    ),
    "of a layer in two calls": images_net(
        "y = net.n(net.b(net.a(x))); return net.c(net.n(net.b(y)))", n=lambda: nn.BatchNorm2d(8)
    ),
    "of a weight read elsewhere": images_net(
        "y = net.a(x); return net.n(net.b(y)) + F.relu(F.conv2d(y, net.b.weight, padding=1))",
        n=lambda: nn.BatchNorm2d(8),
    ),
}


@every(BATCH_NORMS)
def test_batch_norm_is_folded_only_where_axes_agree(make):
    right(*make())


def test_batch_norm_of_the_batch_is_refused():
    network = nn.Sequential(
        nn.Linear(16, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 4)
    ).eval()
    refused(
        r"batch norm '1' keeps no running statistics.*float_layers=\('1',\)", network, torch.randn(*VECTORS)
    )


# One weight in several calls


W = {"w": weight(8, 8, 3, 3), "v": lambda: nn.Parameter(torch.randn(8))}
SEVERAL_CALLS = {
    "dilations": images_net(
        "y = net.a(x); return F.conv2d(y, net.w, padding=1) + F.conv2d(y, net.w, padding=2, dilation=2)", **W
    ),
    "strides": images_net(
        "y = net.a(x); return F.conv2d(y, net.w, stride=2).mean((2, 3)) + F.conv2d(y, net.w).mean((2, 3))",
        **W,
    ),
    "a bias": images_net("y = net.a(x); return F.conv2d(y, net.w, net.v) + F.relu(F.conv2d(y, net.w))", **W),
    "module and function": images_net(
        "y = net.a(x); return net.b(y) + F.conv2d(y, net.b.weight, padding=2, dilation=2)"
    ),
    "function and module": images_net(
        "y = net.a(x); return net.c(F.conv2d(y, net.b.weight, padding=1) + net.b(y))"
    ),
    "same options": images_net("return F.conv2d(F.conv2d(net.a(x), net.w), net.w)", **W),
    "strings": images_net(
        "y = net.a(x); return F.conv2d(y, net.w, padding='same') + F.conv2d(y, net.w, None, 1, 1)", **W
    ),
    "groups": images_net(
        "y = net.a(x); return F.conv2d(y, net.w, None, 1, 1, 1, 8) + F.conv2d(y[:, :1], net.w, padding=1)",
        w=weight(8, 1, 3, 3),
    ),
}
VIEWED = {
    "convolution and linear": images_net(
        "y = F.conv2d(net.a(x), net.w[:, :, None, None]); return F.linear(y.mean((2, 3)), net.w)",
        w=weight(8, 8),
    ),
    "decoder": vectors_net("return F.linear(F.relu(F.linear(x, net.w)), net.w.t())", w=weight(8, 16)),
    "decoder of a module": vectors_net("return F.linear(F.relu(net.l(x)), net.l.weight.t())"),
    "half of it": vectors_net("return F.linear(x, net.w)[:, :4] + F.linear(x, net.w[:4])", w=weight(8, 16)),
}


@every(SEVERAL_CALLS)
def test_one_weight_in_several_calls(make):
    right(*make())


@every(VIEWED)
def test_a_weight_and_another_view_of_it_are_refused(make):
    refused("are different views of one tensor, whose codes cannot serve both", *make())


def test_one_weight_with_two_axes_of_channels_is_refused():
    code = "y = net.a(x); return F.conv2d(y, net.w, padding=1) + F.conv_transpose2d(y, net.w, padding=1)"
    refused(
        "share (one|a) weight, but not (the|its) axis of output channels.*float_layers",
        *images_net(code, **W)(),
    )


# In place


IN_PLACE = """
z = y; y += net.b(y); return net.c(y + z)
y[:, :2].relu_(); return net.c(y)
v = y[:, :2]; v.relu_(); return net.c(y) + v[:, :, 1:-1, 1:-1].mean(1, keepdim=True)
y[:, 0] = 1.0; return net.c(y)
y[:, :4] = net.b(y)[:, 4:]; return net.c(y)
y[:, :4] = y[:, 4:]; return net.c(y)
v = y[:, :4]; y[:, 4:] = v * 2; y[:, :4] *= 3; return net.c(y) + v[:, :, 1:-1, 1:-1]
y[:, 2:4].copy_(net.b(y)[:, :2]); return net.c(y)
p, q = y.chunk(2, 1); p.add_(q); return net.c(torch.cat([p, q], 1)) + net.c(y)
y.transpose(1, 2).add_(1.0); return net.c(y)
y.flatten(1).clamp_(-0.5, 0.5); return net.c(y)
v = y[:, :4]; w = v[:, 1:3]; w.mul_(2); v.relu_(); return net.c(y)
v = y[:, :4]; y.relu_(); return net.c(y) + v[:, :, 1:-1, 1:-1]
z = F.relu(y, inplace=True); return net.c(y) + net.c(net.b(z))
torch.relu_(y[:, 2:]); return net.c(y)
net.relu(y[:, :3]); return net.c(y)
z = net.relu(x); return net.c(net.a(x)) + net.c(net.a(z))
y[y > 0.3] = 0.3; return net.c(y)
y.sub_(1).div_(2).pow_(2); return net.c(y)
torch.mul(y, 2, out=y); return net.c(y)
v = y.reshape(16, -1); v += 1; return net.c(y)
v = y.permute(0, 2, 3, 1).reshape(16, -1); v += 1; return net.c(y)
v = y.float(); v += 1; return net.c(y)
v = y[:, [0, 1]]; v += 1; return net.c(y)
y.diagonal(0, 2, 3).zero_(); return net.c(y)
y.detach().relu_(); return net.c(y)
z = net.c(y); v = z[:, :1]; z += 1; return v
z = net.c(y); v = z; z += 1; return z, v
x[:, 0] *= 2; return net.c(net.a(x))
z = torch.zeros(y.shape); z[:, :4] = y[:, 4:]; return net.c(z)
y.unfold(2, 2, 2).relu_(); return net.c(y)
y.mul_(y[:, :1]); return net.c(y)
""".strip().split("\n")
NOT_FOLLOWED = IN_PLACE[-2:]  # memory that overlaps


@pytest.mark.parametrize("code", IN_PLACE)
def test_views_and_other_names_see_what_is_done_in_place(code):
    make = images_net(f"y = net.a(x); {code}")
    if code in NOT_FOLLOWED:
        refused("was read wrongly: the outputs of c differ .*float_layers", *make())
    else:
        right(*make())


# Hooks


HOOKS = {
    "out": lambda m: m.register_forward_hook(lambda m, x, y: y * 2 + 1),
    "in": lambda m: m.register_forward_pre_hook(lambda m, x: (x[0] * 2 + 1,)),
    "with keywords": lambda m: m.register_forward_hook(lambda m, x, k, y: y * 3, with_kwargs=True),
    "observer": lambda m: m.register_forward_hook(lambda m, x, y: None),
    "in place": lambda m: m.register_forward_hook(lambda m, x, y: (y.mul_(2), None)[1]),
}


def hooked(place, register=lambda m: None):
    x = torch.randn(*IMAGES)
    inner = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), inner, nn.Conv2d(8, 4, 3))
    register(warmed(network, x).get_submodule(place))
    return network, x


@pytest.mark.parametrize("register", [*HOOKS.values()], ids=HOOKS)
@pytest.mark.parametrize("place", ["", "0", "1", "2", "3", "4"])
def test_hooks_do_what_they_did(register, place):
    right(*hooked(place, register))


def test_a_forward_of_ones_own_is_read_or_refused():
    network, x = hooked("0")
    network[0].forward = types.MethodType(lambda m, x: F.conv2d(x, m.weight * 2, m.bias), network[0])
    right(network, x)
    network, x = hooked("")
    network.forward = types.MethodType(lambda m, x: nn.Sequential.forward(m, x * 2) + 1, network)
    refused("was read wrongly.*float_layers", network, x)
    refused(
        "cannot be traced by torch.fx, at 1: .*float_layers",
        *hooked("1", lambda m: m.register_forward_hook(lambda m, x, y: y * float(y.mean()))),
    )


# Attention


def attends(code, shape=TOKENS, **options):
    parts = {
        "a": lambda: nn.MultiheadAttention(16, 4, **{"batch_first": True} | options),
        "l": lambda: nn.Linear(16, 4),
    }
    return written(code, shape, **parts)


def transforms(layer, call="net.t(x)"):
    return written(f"return net.l({call})", TOKENS, t=layer, l=lambda: nn.Linear(16, 4))


def encoder(layers=0, **options):
    layer = nn.TransformerEncoderLayer(16, 4, 32, **{"batch_first": True} | options)
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(16)) if layers else layer


LATER = "nn.Transformer.generate_square_subsequent_mask(5)"
ATTENTION = {
    "weights": attends("y, w = net.a(x, x, x); return net.l(y), w"),
    "weights of heads": attends("y, w = net.a(x, x, x, average_attn_weights=False); return net.l(y), w"),
    "weights used": attends("y, w = net.a(x, x, x); return net.l(w @ y)"),
    "weights, positions first": attends("y, w = net.a(x, x, x); return net.l(y), w", batch_first=False),
    "unbatched": attends("y, w = net.a(x, x, x); return net.l(y), w", (5, 16)),
    "unbatched, masked": attends("return net.l(net.a(x, x, x, key_padding_mask=x[:, 0] > 1)[0])", (5, 16)),
    "unbatched parts": attends(
        "return torch.stack([net.l(net.a(y, y, y)[0]) for y in (x[0], x[1], x[2], x[3])])", (4, 5, 16)
    ),
    "padding": attends("return net.l(net.a(x, x, x, key_padding_mask=x[..., 0] > 1)[0])"),
    "a mask each": attends(
        "m = (x @ x.mT).repeat_interleave(4, 0); return net.l(net.a(x, x, x, attn_mask=m)[0])"
    ),
    "keyword arguments": attends("return net.l(net.a(query=x, key=x, value=x, need_weights=False)[0])"),
    "in two calls": attends("y = net.a(x, x, x)[0]; return net.l(net.a(y, y, y)[0])"),
    "hooked": attends("return net.l(net.a(x, x, x)[0])"),
    "encoder layer": transforms(encoder),
    "encoder layer, norms first": transforms(lambda: encoder(norm_first=True, activation="gelu")),
    "encoder layer, positions first": transforms(lambda: encoder(batch_first=False)),
    "encoder": transforms(lambda: encoder(2)),
    "encoder, causal": transforms(lambda: encoder(2), f"net.t(x, {LATER}, is_causal=True)"),
    "encoder, padding": transforms(lambda: encoder(2), "net.t(x, src_key_padding_mask=x[..., 0] > 1)"),
    "decoder layer": transforms(
        lambda: nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), "net.t(x, x.flip(1))"
    ),
    "transformer": transforms(
        lambda: nn.Transformer(16, 4, 1, 2, 32, batch_first=True), f"net.t(x, x, tgt_mask={LATER})"
    ),
}


@every(ATTENTION)
def test_attention_and_transformers(make):
    network, x = make()
    if make is ATTENTION["hooked"]:
        network.a.register_forward_hook(lambda m, x, y: (y[0] * 2, y[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right(network, x)


def test_attention_with_weights_that_nothing_shows_is_refused():
    refused(
        r"at a: .*added keys.*float_layers=\('a',\)",
        *attends("return net.l(net.a(x, x, x)[0])", add_bias_kv=True)(),
    )
    network, x = attends("return net.l(net.a(x, x, x)[0])")()
    network.a.out_proj.register_forward_hook(lambda m, x, y: y * 2)  # which torch does not call
    refused("was read wrongly.*float_layers", network, x)


# Operators and products


OPERATORS = [
    "y * ((y > -1) & (y < 1))",
    "y * ((y > 0.3) | (y < -0.3))",
    "y * ((y > 0) ^ (y < 0.5))",
    "y * ~(y > 0)",
    "y * (y <= 0)",
    "y // 0.5 + y",
    "y % 0.5",
    "y ** 2",
    "2 ** y",
    "abs(y)",
    "1 / (y * y + 1)",
    "y @ y.T @ y",
    "(y > 0).to(y.dtype) * y + y",
    "torch.logical_and(y > 0, y < 1) * y",
    "torch.bitwise_and(y > 0, y < 1) * y",
    "torch.where(y >= 0, y, -y)",
    "y.sort(1)[0]",
    "y.max(1, keepdim=True).values + y",
    "torch.fmod(y, 0.5)",
    "y.lerp(y * 2, 0.5)",
    "y[..., ::2].repeat(1, 2)",
    "y.type(torch.float32)",
]
AUGMENTED = [
    "y -= 1",
    "y /= 2",
    "y %= 0.5",
    "y **= 2",
    "y @= y.T @ y",
    "m = y > 0; m &= y < 1; y = y * m",
    "m = y > 0; k = m; m |= y < -0.5; y = y * m + k",
]


@pytest.mark.parametrize("code", [f"y = {o}" for o in OPERATORS] + AUGMENTED)
def test_operators_mean_what_they_mean(code):
    right(*vectors_net(f"y = net.l(x); {code}; return net.m(y)")())


PRODUCTS = [
    "torch.addmm(y, y @ y.T, z)",
    "torch.baddbmm(y[None], (y @ y.T)[None], z[None])[0]",
    "torch.tensordot(y, z, ([1], [1])) @ y",
    "torch.inner(y, z) @ y",
    "torch.linalg.matmul(y, z.T) @ y",
    "torch.linalg.multi_dot([y, z.T, y])",
    "torch.cdist(y, z) @ y",
    "torch.ops.aten.mm.default(y, z.T) @ y",
    "torch.outer(y[:, 0], z[0])",
    'torch.einsum("ni,mi->nm", y, z) @ y',
    "y.addmm(y @ y.T, z)",
    "torch.mv(y, z[0])[:, None] + y",
    "torch.linalg.vecdot(y, z)[:, None] + y",
]
WITH_PARAMETERS = [
    "torch.addmm(net.v, x, net.w)",
    "torch.baddbmm(net.v, x[None], net.w[None])[0]",
    "torch.tensordot(x, net.w, 1)",
    "torch.inner(x, net.w.t())",
    "torch.linalg.matmul(x, net.w)",
    "torch.linalg.multi_dot([x, net.w])",
    "torch.cdist(x, net.w.t())",
    "torch.ops.aten.mm.default(x, net.w)",
    "x @ net.w",
    'torch.einsum("ni,io->no", x, net.w)',
    "torch.outer(x[:, 0], net.v)",
    "F.embedding((x[:, 0] > 0).long(), net.w)",
    "x @ torch.eye(16, 8)",
    "torch.vmap(lambda row: row @ net.w)(x)",
]
PARAMETERS = {"w": weight(16, 8), "v": lambda: nn.Parameter(torch.randn(8))}


@pytest.mark.parametrize("product", PRODUCTS)
def test_products_of_activations_get_quantized_inputs(product):
    right(*vectors_net(f"y, z = net.l(x), net.l(x.flip(1)); return net.m({product})")())


@pytest.mark.parametrize("product", WITH_PARAMETERS)
def test_products_with_parameters_are_refused_with_a_way_out(product):
    network, x = vectors_net(f"return net.m({product})", **PARAMETERS)()
    refused("the top level(: vmap| calls .* with weights of its own).* (leave it|left) in float", network, x)


LEFT = (
    "F.embedding((x[:, 0] > 0).long(), net.w)",
    "F.linear(x, net.w.t())",
    "F.conv1d(x[:, None], net.w.t()[:, None])[..., 0]",
)


@pytest.mark.parametrize("product", dict.fromkeys((*WITH_PARAMETERS, *LEFT)))
def test_products_with_parameters_can_be_left_in_float(product):
    network = vectors_net(f"return {product}", **PARAMETERS)()[0]
    right(nn.Sequential(network, nn.Linear(8, 4)), torch.randn(*VECTORS), float_layers=("0",), elements=32)


# Tied weights, names


def tied():
    network = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)), nn.ReLU(), nn.Linear(16, 4))
    network[1].weight = network[0].weight
    return network.eval()


def tied_norms():
    network = nn.Sequential(
        nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16)
    )
    network[3].weight = network[0].weight
    return warmed(network, torch.randn(*VECTORS))


def tied_memory():
    network = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    network[2].weight = nn.Parameter(network[0].weight.data)
    return network.eval()


@pytest.mark.parametrize("make", [tied, tied_norms, tied_memory])
def test_tied_weights_are_one_tensor(make):
    right(make(), torch.randn(*VECTORS))


@pytest.mark.parametrize(
    "bits, expected",
    [
        (2, {"0": 8, "2": 2, "4": 8}),
        ({"1": 3, "default": 2}, {"0": 3, "2": 2, "4": 8}),
        ({"0": 3, "1": 3}, {"0": 3, "2": 8, "4": 8}),
    ],
    ids=str,
)
def test_bits_of_tied_weights(bits, expected):
    x = torch.randn(*VECTORS)
    config = QuantConfig(bits, 8)
    layers = footprint(tied(), x, config).layers
    assert {layer.name: layer.weight_bits for layer in layers if layer.weight_elements} == expected
    network = quantize(tied(), config, x)
    assert torch.equal(network.get_submodule("0").weight, network.get_submodule("1").weight)
    assert levels(network.get_submodule("1").weight[0].detach()) <= 2 ** expected["0"]


@pytest.mark.parametrize(
    "make, names", [(tied, ("0", "1")), (tied_memory, ("0", "2"))], ids=["tensor", "memory"]
)
def test_tied_weights_with_two_sets_of_bits_are_refused(make, names):
    config = QuantConfig({names[0]: 8, names[1]: 2}, 8)
    x = torch.randn(*VECTORS)
    words = f"'{names[0]}', '{names[1]}' share one weight, which cannot have 8 for '{names[0]}' and 2 for '{names[1]}'"  # noqa: E501
    refused(words, make(), x, config)
    with pytest.raises(ValueError, match=words):
        footprint(make(), x, config)
    words = rf"leave both in float: float_layers=\('{names[0]}', '{names[1]}'\)"
    refused(words, make(), x, WIDE.replace(float_layers=names[:1]))


@pytest.mark.parametrize(
    "name", ["quantizer_a", "quantizer_x", "oncodes_pool", "_tensor_constant0", "linear", "shape", "T"]
)
def test_submodules_may_have_names_that_ours_would_have(name):
    code = f"y = net.{name}(net.a(x)) + torch.ones(1); return net.c(F.avg_pool2d(y, 2))"
    right(*images_net(code, **{name: lambda: nn.Conv2d(8, 8, 1)})())


@pytest.mark.parametrize("name", ["graph", "code", "recompile"])
def test_names_that_tracing_needs_are_refused(name):
    network = nn.Sequential(nn.Linear(16, 4))
    network._modules[name] = nn.Linear(4, 4)
    refused(f"has something named {name!r}, .*rename it", network, torch.randn(*VECTORS))


def test_tied_parts_of_computed_weights():
    network = nn.Sequential(
        *(parametrizations.weight_norm(nn.Linear(16, 16)) for _ in range(2)), nn.Linear(16, 4)
    ).eval()
    parts = [layer.parametrizations.weight for layer in network[:2]]
    parts[1].original0 = parts[0].original0
    parts[1].original1 = parts[0].original1
    right(network, torch.randn(*VECTORS), elements=256 + 64)


def test_functions_of_the_network_itself_are_layers_by_their_name():
    network, x = vectors_net("return F.linear(net.l(x), net.w)", w=weight(4, 8))()
    size = footprint(network, x, QuantConfig({"linear": 3, "default": 2}, 8, first_last_bits=None))
    assert {layer.weight_bits for layer in size.layers} == {2, 3}


MADE_OTHERWISE = {
    "script": lambda: torch.jit.script(nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4))),
    "script inside": lambda: nn.Sequential(torch.jit.script(nn.Linear(16, 8)), nn.Linear(8, 4)),
    "lazy": lambda: nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 4)),
    "meta": lambda: nn.Sequential(nn.Linear(16, 8, device="meta"), nn.Linear(8, 4, device="meta")),
}


@every(MADE_OTHERWISE)
def test_networks_that_are_no_ordinary_modules_are_refused(make):
    with pytest.raises(
        ValueError, match="TorchScript|0.weight is not made yet|0.weight is on the device meta"
    ):
        quantize(make().eval(), WIDE, torch.randn(*VECTORS))


@every({"compiled": lambda m: torch.compile(m, backend="eager"), "parallel": nn.DataParallel})
def test_networks_in_wrappers_are_refused(make):
    words = "DataParallel holds the network to read|is compiled: pass the network that was given"
    refused(words, make(nn.Sequential(nn.Linear(16, 4))).eval(), torch.randn(*VECTORS))


# What was read is compared with what was given


VERIFIED = {
    "F.dropout(net.l(x), 0.5)": "gives other outputs when it is run again",
    "net.l(x) + torch.randn_like(net.l(x))": "gives other outputs when it is run again",
    "net.l(x) * (2 if isinstance(x, torch.fx.Proxy) else 1)": "was read wrongly: the outputs of m "
    "differ.*float_layers",
    "net.l(x) * (2 if torch.is_grad_enabled() else 1)": "was read wrongly: the outputs of m "
    "differ.*float_layers",
    "net.l(x) * (2 if hasattr(x, 'nonsense') else 1)": "was read wrongly: the outputs of m "
    "differ.*float_layers",
    "net.l(x) * (2 if x.sum() > 0 else 1)": "cannot be traced by torch.fx, at the top level.*float_layers",
    "net.l(x) * (2 if x.dtype == torch.float32 else 1)": "cannot be traced by torch.fx, at the top "
    "level.*float_layers",
}


@pytest.mark.parametrize("code", VERIFIED)
def test_what_cannot_be_read_is_refused(code):
    refused(VERIFIED[code], *vectors_net(f"return net.m({code})")())


class Once(nn.Sequential):
    """Computes something else when it is run first."""

    again = False

    def forward(self, x):
        x = super().forward(x) * (1 if self.again else 2)
        self.again = True
        return x


def test_a_network_that_changes_is_refused_and_left_as_it_was():
    network = Once(nn.Linear(16, 4)).eval()
    refused("Once (was read wrongly|gives other outputs)", network, torch.randn(*VECTORS))
    assert not network.again


AUTOCAST = "with torch.autocast('cpu', torch.bfloat16):\n    y = net.l(x)\nreturn net.m(y.float())"


def test_what_computes_in_other_types_is_no_difference():
    for code in (
        "net.l(x.float()).float() + torch.zeros(8)",
        "(net.l(x).double() * 2).to(torch.float32)",
        "net.l(x).to(x.dtype) + torch.arange(8, dtype=torch.float32) / 3",
    ):
        right(*vectors_net(f"return net.m({code})")())
    refused("autocast inside a network", *vectors_net(AUTOCAST)())
