"""Quantizers at work: what they are given, what they keep, and what they do with batches, threads and
states.
"""

import copy
import io
import pickle
import threading

import pytest
import torch
from helpers import (
    MODES,
    NARROW,
    WIDE,
    Block,
    Net,
    Record,
    images,
    quantizers,
    refused,
    right,
    run,
    spread_error,
    written,
)
from torch import nn

from qlib import QuantConfig, footprint, quantize
from qlib.export import load_quantized, save_quantized

IMAGES = (16, 3, 8, 8)
VECTORS = (16, 16)
TOKENS = (6, 5, 16)
CONVOLUTIONS = {
    "a": lambda: nn.Conv2d(3, 8, 3, padding=1),
    "b": lambda: nn.Conv2d(8, 8, 3, padding=1),
    "c": lambda: nn.Conv2d(8, 4, 3),
    "d": lambda: nn.Conv2d(4, 4, 1),
    "e": lambda: nn.Conv2d(4, 4, 1),
    "s": lambda: nn.Conv2d(4, 4, 1),
    "g": lambda: nn.Conv2d(2, 4, 1),
    "k": lambda: nn.Parameter(torch.rand(8, 1, 1)),
    "pad": lambda: nn.ConstantPad2d(1, 3.0),
    "mean": lambda: nn.AvgPool2d(2, divisor_override=1),
}
LINEAR = {
    "l": lambda: nn.Linear(16, 8),
    "m": lambda: nn.Linear(8, 4),
    "p": lambda: nn.Linear(16, 16),
    "q": lambda: nn.Linear(16, 16),
    "f": lambda: nn.MultiheadAttention(16, 4),
    "t": lambda: nn.MultiheadAttention(16, 4, batch_first=True),
}


def images_net(code):
    return written(code, IMAGES, **CONVOLUTIONS)()


def each(table):
    """Parametrizes a test by the lines of a text."""
    return pytest.mark.parametrize("code", table.strip().split("\n"))


# Operations that give tuples


TUPLES = """
p, q = y.chunk(2, 1); return net.d(p) + net.e(q)
p, q = torch.split(y, [4, 4], 1); return net.d(p) + net.e(q)
p, q = y.unflatten(1, (2, 4)).unbind(1); return net.d(p) + net.e(q)
t = torch.tensor_split(y, 2, 1); return net.d(t[-1]) * net.e(t[-2])
return net.c(torch.cat(y.chunk(2, 1), 1))
t = y.chunk(4, 1); return net.d(torch.cat(t[1:3], 1))
p, q = y.chunk(2, 1); z = p + net.s(q); return net.d(z) + net.e(F.relu(q))
p, q = y.chunk(2, 1); return net.c(torch.cat([p, net.s(q)], 1))
p, q = y.chunk(2, 1); return net.d(F.softmax(p, 1) + net.s(q)) + net.e(q)
i, o, g, u = y.chunk(4, 1); return net.g(torch.sigmoid(i) * torch.tanh(g) + o * u)
p, q = y.chunk(2, 1); return net.d(p + net.s(q)), q
t = y.chunk(2, 1); return net.d(t[1]), t
v, i = y.topk(4, 1); return net.d(v)
"""


@pytest.mark.parametrize("mode", MODES, ids=str)
@each(TUPLES)
def test_parts_of_a_tensor(code, mode):
    right(*images_net(f"y = net.a(x); {code}"), quantize_skip=mode[0], quantize_residual=mode[1])


# Quantizers that work in place


VIEWS = """
z = torch.einsum("ntc->nct", y); return net.m(z.transpose(1, 2)) + net.m(y)
y = F.softmax(y, -1); z = torch.einsum("ntc->nct", y); return torch.cat([net.m(z.mT).flatten(1), y.flatten(1)], 1)
y = F.softmax(y, -1); z = torch.einsum("ntc,nt->ntc", y, y.sum(2)); return net.m(z) + y.mean(2, keepdim=True)
y = F.softmax(y, -1); z = torch.cat([y]); return net.m(z) + y.mean(2, keepdim=True)
y = F.softmax(y, -1); z = F.adaptive_avg_pool1d(y, 8); return net.m(z) + y.mean(2, keepdim=True)
y = F.softmax(y, -1); z = torch.ops.aten.einsum.default("ntc->nct", [y]); return net.m(z.mT) + y.mean(2, keepdim=True)
z = torch.linalg.multi_dot([y[0], y[0].T]); return net.m(y) + z.mean()
"""  # noqa: E501


@each(VIEWS)
def test_answers_with_and_without_gradients_are_equal(code):
    network, x = written(f"y = net.l(x); {code}", TOKENS, **LINEAR)()
    quantized = quantize(network, QuantConfig(3, 3, input_bits=3, first_last_bits=None), x)
    answer = run(quantized, x)[0]
    assert torch.equal(quantized(x.clone()), answer) and torch.equal(
        quantized(x.clone().requires_grad_()), answer
    )
    assert spread_error(run(quantize(network, WIDE, x), x), run(network, x)) < 1e-3


# Grids that are not kept


GRIDS = """
torch.max(y, net.b(y))
y.max(net.b(y))
torch.minimum(y, net.b(y))
torch.max(y, net.k)
torch.fmax(y, other=net.b(y))
F.pad(y, (1, 1, 1, 1), value=5)
F.pad(y, (1, 1, 1, 1), "constant", 5)
F.pad(y, (1, 1, 1, 1), mode="circular")
torch.constant_pad_nd(y, (1, 1), 0.7)
net.pad(y)
F.avg_pool2d(y, 2, divisor_override=1)
F.avg_pool2d(y, 2, 2, 0, False, True, 3)
net.mean(y)
F.avg_pool2d(y, 3, 1, 1, count_include_pad=False)
y.masked_fill(y > 0.3, 0.77)
torch.where(y > 0, y, 0.77)
torch.where(y > 0, y, net.b(y))
F.threshold(F.max_pool2d(y, 2), -9.0, 0.77)
F.hardtanh(F.max_pool2d(y, 2), -0.3, 0.3)
y.clamp(-0.33, 0.27)
torch.stack([y, net.b(y)], 1).flatten(1, 2)[:, :8]
F.interpolate(y, scale_factor=2, mode="bilinear")
F.max_pool2d(y - 9, 3, 1, 1)
"""
OPTIONS = {
    "usual": {},
    "integer means": {"pooling": "low_precision"},
    "inputs alone": {"quantize_skip": False, "quantize_residual": False},
    "dynamic": {"activation_dynamic": True},
    "dynamic integer means": {"activation_dynamic": True, "pooling": "low_precision"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@each(GRIDS)
def test_what_leaves_its_grid_is_quantized_again(code, options):
    if "activation_dynamic" not in options:
        return right(*images_net(f"y = net.a(x); return net.c({code})"), **options)
    network, x = images_net(f"y = net.a(x); return net.c({code})")
    assert spread_error(run(quantize(network, WIDE.replace(**options), x), x), run(network, x)) < 1e-3
    coarse = quantize(network, NARROW.replace(**options), x)
    loud = x.clone()
    loud[5:] *= 100
    torch.testing.assert_close(run(coarse, loud)[0][:5], run(coarse, x)[0][:5])


KEPT = """
F.max_pool2d(y, 2)
F.pad(y, (1, 1, 1, 1))
F.relu(F.max_pool2d(y, 3, 1, 1))
y.flip(2)
y[:, torch.arange(8).flip(0)]
y.amax((2, 3), keepdim=True).expand(-1, 8, 4, 4)
F.adaptive_max_pool2d(y, 4)
F.dropout(y, 0.5, False).transpose(2, 3)
"""


@each(KEPT)
def test_what_keeps_its_grid_is_not_quantized_again(code):
    network, x = images_net(f"y = net.a(x); return net.c({code})")
    right(network, x)
    quantized = quantize(network, WIDE.replace(activation_bits=3), x)
    seen = Record(quantized, x)
    assert [*quantizers(quantized)] == ["x", "a", "c"]
    (given,) = (seen.tensors[n] for n in seen.tensors if getattr(seen.of(n), "name", None) == "a")
    assert {*seen.input_of("c").unique().tolist()} <= {0.0, *given.unique().tolist()}


MEANS = [
    "y.mean([1], keepdim=True).expand(-1, 8, -1, -1)",
    "y.mean(axis=1, keepdim=True).expand(-1, 8, -1, -1)",
    "y.mean(-3, keepdim=True).expand(-1, 8, -1, -1)",
    "y.mean((1, 2), keepdim=True).expand(-1, 8, 4, -1)",
    "y.mean((-1, -2), keepdim=True).expand(-1, -1, 4, 4)",
    "y.mean((2, 3))[:, :, None, None].expand(-1, -1, 4, 4)",
    "F.avg_pool2d(torch.cat([y[:, :4], net.b(y)[:, 4:]], 1), 2)",
]
OF_TOKENS = [
    "mean(-1)",
    "mean(2)",
    "mean((2,))",
    "mean(1)",
    "mean((1, 2))[:, None]",
    "transpose(1, 2).mean(-1)",
]
INTEGER_MEANS = [
    {"activation_granularity": "per_channel"},
    {"activation_granularity": "per_channel", "activation_dynamic": True},
    {"activation_granularity": "per_channel", "activation_symmetric": True},
    {"activation_bits": {"default": 16}},
]


@pytest.mark.parametrize("options", INTEGER_MEANS, ids=str)
@pytest.mark.parametrize(
    "code",
    [
        *(f"y = net.a(x); return net.c({mean})" for mean in MEANS),
        *(f"return net.l(x).{mean}" for mean in OF_TOKENS),
    ],
)
def test_integer_means_where_channels_have_ranges_of_their_own(code, options):
    network, x = images_net(code) if "net.a" in code else written(code, TOKENS, **LINEAR)()
    config = WIDE.replace(pooling="low_precision", **options)
    assert spread_error(run(quantize(network, config, x), x), run(network, x)) < 1e-3


def test_integer_means_of_channels_with_bits_of_their_own():
    for code in ("return net.m(net.l(x)).mean(-1)", "return net.m(net.l(x)).mean(1)"):
        network, x = written(code, TOKENS, **LINEAR)()
        for bits, error in (((4, 5, 6, 7), 0.2), ((16, 15, 16, 15), 1e-3)):
            config = WIDE.replace(activation_bits={"m": bits, "default": 16}, pooling="low_precision")
            assert spread_error(run(quantize(network, config, x), x), run(network, x)) < error


# Dynamic ranges


DYNAMIC = WIDE.replace(weight_bits=4, activation_bits=4, input_bits=4, activation_dynamic=True)
NOT_FIRST = """
net.q(net.p(x.transpose(0, 1))).transpose(0, 1)
net.q(net.p(x.permute(1, 0, 2))).permute(1, 0, 2)
net.q(net.p(x.flatten(0, 1))).unflatten(0, (-1, x.shape[1]))
net.q(net.p(x.reshape(-1, 16))).view(x.shape)
net.q(net.p(x)) + net.p(x).mean(0)
net.q(net.p(x) - net.p(x).amax(0, keepdim=True))
net.q(net.p(x).softmax(0))
net.f(x, x, x)[0]
net.f(x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1))[0].transpose(0, 1)
net.q(net.p(x.roll(1, 0)))
net.q(net.p(x.flip(0)))
net.q(net.p(torch.cat([x, x * 2])))[:3]
net.q(net.p(torch.stack([x, x * 2]))).sum(0)
net.q(net.p(x) / net.p(x).norm())
net.q(net.p(x)).cumsum(0)
"""
FIRST = [
    "net.q(net.p(x))",
    "net.t(x, x, x)[0]",
    "net.q(net.p(x).mean(1))",
    "net.q(net.p(x) - net.p(x).mean(1, keepdim=True))",
    "net.q(net.p(x.flatten(1).unflatten(1, (-1, 16))))",
]


@pytest.mark.parametrize(
    "shape, given", [((6, 5, 16), True), ((6, 5, 16), False), ((5, 5, 16), True), ((3, 3, 16), True)], ids=str
)
@each(NOT_FIRST)
def test_dynamic_ranges_are_refused_where_examples_are_not_first(code, shape, given):
    network, x = written(f"return {code}", shape, **LINEAR)()
    with pytest.raises(ValueError, match="activation_dynamic finds a range for each example") as caught:
        quantize(network, DYNAMIC, x if given else None)(x)
    assert "\n" not in str(caught.value) and "static ranges" in str(caught.value)
    quantize(network, DYNAMIC.replace(activation_dynamic=False), x)


@pytest.mark.parametrize("given", [True, False], ids=["calibrated", "not"])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("code", FIRST)
def test_dynamic_ranges_depend_on_one_example(code, granularity, given):
    network, x = written(f"return {code}", TOKENS, **LINEAR)()
    quantized = quantize(network, DYNAMIC.replace(activation_granularity=granularity), x if given else None)
    loud = torch.cat([x[:-1], 50 * x[-1:]])
    answer = run(quantized, x)[0]
    torch.testing.assert_close(run(quantized, loud)[0][:-1], answer[:-1])
    torch.testing.assert_close(run(quantized, x[:1])[0], answer[:1])
    torch.testing.assert_close(run(quantized, torch.cat([x, x]))[0], torch.cat([answer, answer]))


# Threads, empty batches, huge spans


def in_threads(count, work):
    """What ``work`` gives for 0 to 39, shared by so many threads."""
    results = [None] * 40
    errors = []

    def some(start):
        try:
            for i in range(start, 40, count):
                results[i] = work(i)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=some, args=(start,)) for start in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors, errors
    return results


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pooling": "low_precision"},
        {"activation_granularity": "per_channel"},
        {"activation_dynamic": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [2, 4])
def test_threads_share_a_network(count, options):
    network, x = images_net("y = F.relu(net.a(x)); return net.c(F.avg_pool2d(net.b(y) + y, 2))")
    quantized = quantize(network, DYNAMIC.replace(**options), x)
    batches = [torch.randn(2 + i % 3, 3, 12, 12) for i in range(40)]
    expected = [run(quantized, batch)[0] for batch in batches]
    assert all(map(torch.equal, in_threads(count, lambda i: run(quantized, batches[i])[0]), expected))


def test_threads_may_quantize_while_others_run_the_network():
    network = Block().eval()
    x = images()
    expected = run(network, x)[0], run(quantize(network, WIDE, x), x)[0]

    def work(i):
        return run(quantize(network, WIDE, x) if i % 4 == 0 else network, x)[0]

    assert all(torch.equal(answer, expected[i % 4 == 0]) for i, answer in enumerate(in_threads(4, work)))


class Meanwhile(nn.Module):
    """Runs another network in another thread, and keeps its answers."""

    def __init__(self, other):
        super().__init__()
        self.other = [other]
        self.answers = []

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        thread = threading.Thread(target=lambda: self.answers.append(self.other[0]()))
        thread.start()
        thread.join()
        return x

    def __deepcopy__(self, memo):
        return self


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_threads_compute_as_ever_while_a_network_is_compared():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    padded = torch.arange(5) > torch.tensor([[2], [4]])
    x = torch.randn(2, 5, 16)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    meanwhile = Meanwhile(lambda: run(lambda x: encoder(x, src_key_padding_mask=padded), x)[0])
    expected = meanwhile.other[0]()
    quantize(
        nn.Sequential(meanwhile, nn.Linear(16, 4)).eval(),
        WIDE.replace(float_layers=("0",)),
        torch.randn(*VECTORS),
    )
    assert len(meanwhile.answers) > 2 and all(torch.equal(answer, expected) for answer in meanwhile.answers)


RANGES = [
    {},
    {"activation_granularity": "per_channel"},
    {"pooling": "low_precision"},
    {"activation_range": "mse"},
    {"activation_range": "percentile"},
]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("options", RANGES, ids=str)
def test_batches_without_examples(options, dynamic):
    x = images()
    config = QuantConfig(8, 8, activation_dynamic=dynamic, **options)
    quantized = quantize(Block(), config, [x])
    assert run(quantized, x[:0])[0].shape == (0, 10) and quantized(x[:0].requires_grad_()).shape == (0, 10)
    torch.manual_seed(1)
    network = Block()
    answers = [run(quantize(network, config, batches), x)[0] for batches in ([x], [x[:0], x], [x, x[:0]])]
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    network, x = written("return net.q(net.t(x, x, x)[0])", TOKENS, **LINEAR)()
    assert run(quantize(network, config.replace(pooling="high_precision"), x), x[:0])[0].shape == (0, 5, 16)


def test_an_example_input_without_examples_is_refused():
    with pytest.raises(ValueError, match="example_input holds no examples"):
        footprint(Block(), images(0), NARROW)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "aciq"])
def test_spans_beyond_float32_are_refused(method, granularity, symmetric):
    network = nn.Sequential(nn.Linear(2, 2, bias=False))
    x = torch.randn(8, 2)
    network[0].weight.data = torch.tensor([[2e38, -2e38], [1.0, 2.0]])
    options = {"granularity": granularity, "range": method, "symmetric": symmetric}
    refused(
        "the weights of '0' reach 2e.38",
        network,
        x,
        QuantConfig(8, None, **{f"weight_{k}": v for k, v in options.items()}),
    )
    network[0].weight.data = torch.eye(2)
    x[0] = torch.tensor([2e38, -2e38])
    for dynamic in (False, True):
        config = QuantConfig(
            8, 8, activation_dynamic=dynamic, **{f"activation_{k}": v for k, v in options.items()}
        )
        with pytest.raises(ValueError, match=r"of 'input_1'.* reach (2|1.99|1.8)e\+38"):
            quantize(network, config, x)(x)


def test_large_and_tiny_values_within_float32():
    for rows in ([[1.6e38, -1.6e38], [1.0, 2.0]], [[1e-45, -1e-45], [1e-40, 2e-39]]):
        layer = nn.Linear(2, 2)
        layer.weight.data = torch.tensor(rows)
        found = next(quantize(nn.Sequential(layer), QuantConfig(8, None)).parameters())
        torch.testing.assert_close(found.detach(), layer.weight.detach(), rtol=0.01, atol=1e-38)


# States, copies, compilation


CONFIGS = {
    "static": {},
    "dynamic": {"activation_dynamic": True},
    "per channel": {"activation_granularity": "per_channel"},
    "dynamic per channel": {"activation_dynamic": True, "activation_granularity": "per_channel"},
    "integer means": {"pooling": "low_precision"},
    "integer means per channel": {"pooling": "low_precision", "activation_granularity": "per_channel"},
    "dynamic integer means": {"pooling": "low_precision", "activation_dynamic": True},
    "symmetric": {"activation_symmetric": True, "weight_symmetric": True},
    "authors": {"activation_symmetric": True, "symmetric_grid": "authors"},
    "bits of channels": {"activation_bits": {"body": (1, 2, 3, 4, 5, 6, 7, 8)}},
    "inputs alone": {"quantize_skip": False, "quantize_residual": False},
    "weights alone": {"activation_bits": None},
    "some in float": {"float_layers": ("body",)},
}


def block(seed, config):
    """A quantized block of other weights and ranges for every seed."""
    torch.manual_seed(seed)
    return quantize(Block().eval(), config, images(16) * (seed + 1))


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def config(request):
    return QuantConfig(**{"weight_bits": 4, "activation_bits": 4} | request.param)


@pytest.mark.parametrize("ran, assign", [(False, False), (True, False), (True, True)])
def test_a_state_loaded_into_another_network_gives_the_same_answers(config, ran, assign):
    one = block(0, config)
    other = block(1, config)
    x = images(16)
    answer = run(one, x)[0]
    if ran:
        run(other, x)
    assert not torch.equal(run(block(1, config), x)[0], answer)
    assert list(one.state_dict()) == list(other.state_dict())
    other.load_state_dict(one.state_dict(), assign=assign)
    assert torch.equal(run(other, x)[0], answer) and torch.equal(run(one, x)[0], answer)
    assert torch.equal(other(x.clone().requires_grad_()).detach(), answer)


def through_torch(network):
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network)), through_torch],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_are_networks_of_their_own(config, copied):
    one = block(0, config)
    x = images(16)
    answer = run(one, x)[0]
    other = copied(one)
    assert torch.equal(run(other, x)[0], answer)
    other.load_state_dict(block(1, config).state_dict())
    assert torch.equal(run(other, x)[0], run(block(1, config), x)[0]) and torch.equal(run(one, x)[0], answer)


def test_saved_networks_are_loaded_into_the_float_network(config, tmp_path):
    one = block(0, config)
    x = images(16)
    save_quantized(one, config, tmp_path)
    assert torch.equal(run(load_quantized(Block(), tmp_path), x)[0], run(one, x)[0])


def test_compiled_networks_give_the_same_answers(config):
    one = block(0, config)
    x = images(4)
    torch._dynamo.reset()
    torch.testing.assert_close(run(torch.compile(one, backend="eager"), x)[0], run(one, x)[0])


# Tensors made inside the network


FACTORIES = """
net.l(x) + torch.arange(8)
net.l(x) + torch.arange(x.shape[0])[:, None]
net.l(x) + torch.arange(8, device=x.device)
net.l(x) + torch.zeros(8)
net.l(x) * torch.ones(x.shape[0], 1)
net.l(x * torch.ones(x.shape))
net.l(x) + torch.full((x.shape[0], 8), 2.0)
net.l(x) + torch.linspace(0, 1, x.shape[0])[:, None]
net.l(x) + x.new_zeros(x.shape[0], 8)
net.l(x) + x.new_tensor([1.0] * 8)
net.l(x) + torch.tensor(2.0)
torch.cat([net.l(x)[:, :4], torch.zeros(x.shape[0], 4)], 1)
net.l(x).masked_fill(torch.ones(x.shape[0], 8).tril() == 0, 0.0)
net.l(x) + F.one_hot(torch.arange(x.shape[0]) % 8, 8)
net.l(x) * torch.sin(torch.arange(x.shape[1] // 2) / 8)
net.l(x) + torch.empty(8).fill_(2.0)
"""


@each(FACTORIES)
def test_tensors_made_inside_a_network(code):
    network, x = written(f"return net.m({code})", VECTORS, **LINEAR)()
    right(network, x)
    for count in (1, 3):
        assert footprint(network, x[:count], NARROW).weight_elements == 160


def test_random_tensors_are_refused():
    for code in ("torch.rand(8)", "torch.rand_like(x[:, :8])"):
        refused(
            "gives other outputs when it is run again",
            *written(f"return net.m(net.l(x) + {code})", VECTORS, **LINEAR)(),
        )


WAYS_TO_PERMUTE = {
    "method": lambda net, x: net.l(net.a(x).permute(0, 2, 3, 1)),
    "function by name": lambda net, x: net.l(torch.permute(net.a(x), dims=(0, 2, 3, 1))),
    "axes from the end": lambda net, x: net.l(torch.permute(input=net.a(x), dims=[0, -2, -1, 1])),
    "transpose by name": lambda net, x: net.l(net.a(x).transpose(dim0=1, dim1=-1)),
}


@pytest.mark.parametrize("way", WAYS_TO_PERMUTE)
def test_channels_are_axis_1_of_images_and_the_last_of_tokens(way):
    network = Net(WAYS_TO_PERMUTE[way], a=nn.Conv2d(3, 6, 1), l=nn.Linear(6, 5))
    x = images()
    found = quantizers(quantize(network.eval(), QuantConfig(8, 8, activation_granularity="per_channel"), x))
    axes = {name: q.scale.shape for name, q in found.items()}
    assert axes["a"] == (6, 1, 1) and axes["l"] == (5,)
