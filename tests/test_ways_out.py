"""What cannot or should not be quantized has a way: float layers, bits by pattern, transposed convolutions,
all inputs.
"""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    NARROW,
    WIDE,
    assert_unchanged,
    at_most_four,
    levels,
    quantizers,
    refused,
    right,
    run,
    snapshot,
    spread_error,
    warmed,
    weight,
    written,
)
from torch import nn

from qlib import QuantConfig, evaluate, footprint, learn_bitwidths, quantize
from qlib.network.operations import rows_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
IMAGES = (16, 3, 8, 8)
VECTORS = (16, 16)
LINEAR = {"l": lambda: nn.Linear(16, 8), "m": lambda: nn.Linear(8, 4)}


# What stays in float, and patterns


class Language(nn.Module):
    def __init__(self, recurrent=nn.LSTM):
        super().__init__()
        self.embed = nn.Embedding(10, 16)
        self.memory = recurrent(16, 16, batch_first=True)
        self.hidden = nn.Linear(16, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, tokens):
        return self.out(F.relu(self.hidden(self.memory(self.embed(tokens))[0][:, -1])))


@pytest.mark.parametrize("layers", [("embed", "memory"), ("em*", "mem*"), ("[em][me]*",)], ids=str)
@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU, nn.RNN])
def test_embeddings_and_recurrent_layers_are_left_in_float(recurrent, layers):
    network = Language(recurrent).eval()
    x = torch.randint(0, 10, (16, 6))
    right(network, x, elements=16 * 8 + 8 * 4, float_layers=layers)
    rows = {
        r.name: r
        for r in footprint(network, x, QuantConfig(2, 2, first_last_bits=7, float_layers=layers)).layers
    }
    assert (rows["embed"].weight_bits, rows["memory"].weight_bits, rows["hidden"].weight_bits) == (32, 32, 7)
    assert rows["memory"].weight_elements == sum(
        p.numel() for p in network.memory.parameters() if p.dim() > 1
    )


@pytest.mark.parametrize(
    "layers, words",
    [
        (("embed",), r"'memory' \(LSTM\) holds .*float_layers=\('memory',\)"),
        (("embd", "memory"), "no module 'embd'; did you mean 'embed'"),
        (("*",), "float_layers leave every layer in float"),
    ],
    ids=str,
)
def test_what_has_to_stay_in_float_is_said(layers, words):
    refused(words, Language().eval(), torch.randint(0, 10, (16, 6)), QuantConfig(float_layers=layers))


def test_an_embedding_tied_with_the_last_layer():
    code = "return net.o(F.relu(net.p(net.e((x[:, 0] > 0).long()))))"
    parts = {"e": lambda: nn.Embedding(10, 16)}
    parts |= {"p": lambda: nn.Linear(16, 16), "o": lambda: nn.Linear(16, 10, bias=False)}
    network, x = written(code, VECTORS, **parts)()
    network.o.weight = network.e.weight
    refused(
        "'e' is left in float, but its weight is that of 'o'.*float_layers",
        network,
        x,
        WIDE.replace(float_layers=("e",)),
    )
    right(network, x, elements=256, float_layers=("e", "o"))


def test_an_embedding_tied_with_a_function():
    code = "return F.linear(F.relu(net.p(net.e((x[:, 0] > 0).long()))), net.e.weight)"
    network, x = written(code, VECTORS, e=lambda: nn.Embedding(10, 16), p=lambda: nn.Linear(16, 16))()
    words = "'e' is left in float, but its weight is that of 'linear'.* move that use of it into a module"
    refused(words, network, x, WIDE.replace(float_layers=("e",)))


def nested():
    innermost = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
    inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), innermost)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), inner, nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3))
    return warmed(network, torch.randn(*IMAGES))


LAYERS = ("0", "1.0", "1.3.0", "2", "3")


def bits_of_weights(network, x, config):
    return tuple(layer.weight_bits for layer in footprint(network, x, config).layers if layer.weight_elements)


@pytest.mark.parametrize(
    "layers, bits",
    [
        (("1",), (7, 32, 32, 2, 7)),
        (("1.*",), (7, 32, 32, 2, 7)),
        (("1.3",), (7, 2, 32, 2, 7)),
        (("0",), (32, 7, 2, 2, 7)),
        (("3",), (7, 2, 2, 7, 32)),
        (("0", "3"), (32, 7, 2, 7, 32)),
        (("[23]",), (7, 2, 7, 32, 32)),
        (("1.1",), (7, 2, 2, 2, 7)),
    ],
    ids=str,
)
def test_layers_left_in_float_are_never_the_first_or_last(layers, bits):
    network = nested()
    x = torch.randn(*IMAGES)
    assert bits_of_weights(network, x, QuantConfig(2, 2, first_last_bits=7, float_layers=layers)) == bits
    right(
        network,
        x,
        float_layers=layers,
        elements=sum(
            network.get_submodule(name).weight.numel() for name, b in zip(LAYERS, bits, strict=True) if b < 32
        ),
    )


@pytest.mark.parametrize("layers", [("1.0",), ("0",), ("1.0", "1.3.0"), ("3",)], ids=str)
def test_float_layers_are_32_bits_on_both_sides(layers):
    network = nested()
    x = torch.randn(*IMAGES)
    bits = {**dict.fromkeys(layers, 32), "default": 4}
    configs = QuantConfig(4, 4, float_layers=layers), QuantConfig(bits, bits)
    left, named = (quantize(network, config, x) for config in configs)
    assert all(map(torch.equal, run(left, x), run(named, x)))
    costs = [
        [
            (r.name, r.weight_elements, r.weight_bits, r.activation_elements, r.activation_bits, r.counted)
            for r in footprint(network, x, config).layers
        ]
        for config in configs
    ]
    assert costs[0] == costs[1]


class Opaque(nn.Module):
    """Works in place, and cannot be looked into."""

    def forward(self, x):
        return x if x.sum() > 1e9 else x.relu_()


def test_what_is_left_in_float_may_work_in_place():
    network = nn.Sequential(nn.Linear(16, 8), Opaque(), nn.Linear(8, 4)).eval()
    right(network, torch.randn(*VECTORS), float_layers=("1",))
    code = "y = net.l(x); z = net.o(y); return net.m(z) + net.m(y + 1)"
    right(*written(code, VECTORS, **LINEAR | {"o": Opaque})(), float_layers=("o",))


def test_the_callers_batch_is_spared_by_what_is_left_in_float():
    right(nn.Sequential(Opaque(), nn.Linear(16, 4)).eval(), torch.randn(*VECTORS), float_layers=("0",))


def test_the_callers_batch_is_spared_with_a_range_for_each_example():
    network = nn.Sequential(Opaque(), nn.Linear(16, 4)).eval()
    x = torch.randn(*VECTORS)
    before = x.clone()
    quantize(network, QuantConfig(8, 8, activation_dynamic=True, input_bits=None, float_layers=("0",)), x)
    assert torch.equal(x, before)


def test_bits_for_a_layer_that_is_left_in_float_are_refused():
    config = QuantConfig({"0": 4}, 4, float_layers=("0",))
    refused(
        "weight_bits gives '0' 4 bits, but float_layers leave it in float",
        nested(),
        torch.randn(*IMAGES),
        config,
    )


@pytest.mark.parametrize(
    "given, bits",
    [
        ({"1.*": 4, "1.0": 2, "default": 8}, (8, 2, 4, 8, 8)),
        ({"*": 4, "1.*": 2}, (4, 2, 2, 4, 4)),
        ({"1.[03]*": 4}, (8, 4, 4, 8, 8)),
        ({"1.3.0": 2, "*": 5}, (5, 5, 2, 5, 5)),
    ],
    ids=str,
)
def test_a_name_precedes_a_pattern_precedes_the_default(given, bits):
    network = nested()
    x = torch.randn(*IMAGES)
    config = QuantConfig(given, given, first_last_bits=None)
    assert bits_of_weights(network, x, config) == bits
    found = quantizers(quantize(network, config, x))
    assert tuple(found[name].bits for name in LAYERS) == bits


@pytest.mark.parametrize(
    "given, words",
    [
        ({"1.?": 4, "1.*": 3}, "'1..' and '1..' are equally specific"),
        ({"z*": 4}, r"no 'z\*'"),
        ({"[": 3}, r"no '\['"),
    ],
    ids=str,
)
def test_patterns_that_decide_nothing_are_refused(given, words):
    for config in (QuantConfig(given, 8), QuantConfig(8, given)):
        refused(words, nested(), torch.randn(*IMAGES), config)


# Transposed convolutions


TRANSPOSED = {
    1: (nn.ConvTranspose1d, nn.BatchNorm1d),
    2: (nn.ConvTranspose2d, nn.BatchNorm2d),
    3: (nn.ConvTranspose3d, nn.BatchNorm3d),
}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dims", TRANSPOSED)
def test_transposed_convolutions(dims, groups, symmetric):
    (layer, norm), x = TRANSPOSED[dims], torch.randn(8, 4, *[5] * dims)
    first = layer(4, 8, 3, groups=groups, stride=2, padding=1, output_padding=1)
    network = warmed(nn.Sequential(first, norm(8), nn.ReLU(), layer(8, 4, 2, groups=groups, bias=False)), x)
    right(network, x, weight_symmetric=symmetric)
    channels = quantize(network, QuantConfig({"0": (2, 3) * 4}, None)).get_submodule("0")
    counts = [levels(row) for row in rows_of(channels.weight.detach(), channels)]
    assert max(counts[::2]) <= 4 and max(counts[1::2]) <= 8
    whole = quantize(network, QuantConfig(2, None, weight_granularity="per_tensor", first_last_bits=None))
    assert levels(whole.get_submodule("0").weight.detach()) <= 4


CALLED = {
    "function": written(
        "return net.d(F.conv_transpose2d(net.a(x), net.w, None, 2, 1, 1, 2))",
        IMAGES,
        w=weight(8, 4, 3, 3),
        a=lambda: nn.Conv2d(3, 8, 3),
        d=lambda: nn.Conv2d(8, 4, 3),
    ),
    "size": written(
        "return net.t(net.a(x), output_size=(16, 16))",
        IMAGES,
        a=lambda: nn.Conv2d(3, 8, 3, padding=1),
        t=lambda: nn.ConvTranspose2d(8, 4, 3, 2, 1),
    ),
    "size of a tensor": written(
        "y = net.a(x); return net.t(F.max_pool2d(y, 2), output_size=y.shape[-2:])",
        IMAGES,
        a=lambda: nn.Conv2d(3, 8, 3, padding=1),
        t=lambda: nn.ConvTranspose2d(8, 4, 3, 2, 1),
    ),
}


@pytest.mark.parametrize("make", CALLED.values(), ids=CALLED)
def test_other_calls_of_transposed_convolutions(make):
    right(*make())


# Inputs


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 8)
        self.b = nn.Linear(4, 8)
        self.c = nn.Linear(8, 4)

    def forward(self, x, y=None, scale=None):
        z = F.relu(self.a(x) if y is None else self.a(x) + self.b(y))
        return self.c(z if scale is None else z * scale)


GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(32, 16, generator=GENERATOR)
Y = torch.randn(32, 4, generator=GENERATOR)
LABELS = torch.randint(0, 4, (32,), generator=GENERATOR)
INPUTS = {
    "one": X,
    "two": (X, Y),
    "three": (X, Y, Y[:, :1]),
    "named": {"x": X, "y": Y},
    "in another order": {"y": Y, "x": X},
    "one left out": {"x": X, "scale": Y[:, :1]},
    "one named": {"x": X},
}


@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_several_inputs(inputs):
    network = Several().eval()
    takes_y = isinstance(inputs, tuple) or isinstance(inputs, dict) and "y" in inputs
    right(network, inputs, elements=16 * 8 + 8 * 4 + 4 * 8 * takes_y)
    answers = [run(quantize(network, WIDE, [(inputs, labels)]), inputs)[0] for labels in (None, LABELS)]
    if isinstance(inputs, dict):
        answers += [run(quantize(network, WIDE, given), inputs)[0] for given in (inputs, [inputs])]
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_a_pair_is_inputs_and_labels_and_other_inputs_are_refused():
    network = Several().eval()
    assert torch.equal(quantize(network, WIDE, [(X, Y)])(X), quantize(network, WIDE, [X])(X))
    for inputs, words in [
        ((X, Y[:3]), "of shape .32, 16. .* and shape .3, 4. .* does not fit the network"),
        ({"x": X, "q": Y}, "calibration batch 0"),
        ((X, "a"), "calibration batch 0 must be a tensor"),
        ((X, Y, Y, Y), "calibration batch 0"),
    ]:
        refused(words, network, inputs)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_inputs_are_never_quantized(dtype):
    network, _ = written("return net.m(F.relu(net.l(x.float() / 4)))", VECTORS, **LINEAR)()
    x = torch.randint(0, 2, VECTORS).to(dtype)
    right(network, x)
    assert torch.equal(quantizers(quantize(network, NARROW, x))["x"](x), x)


class Words(nn.Module):
    """Token ids and a mask of integers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 16)
        self.out = nn.Linear(16, 4)
        self.table = nn.Parameter(torch.randn(6, 16))

    def forward(self, ids, mask):
        y = self.embed(ids) + self.table[torch.arange(ids.shape[1])]
        mask = mask.unsqueeze(-1)
        return self.out((y * mask).sum(1) / mask.sum(1))


def test_ids_and_masks():
    ids = torch.randint(0, 10, (16, 6))
    mask = (torch.rand(16, 6) > 0.3).long()
    mask[:, 0] = 1
    for inputs in ((ids, mask), {"mask": mask, "ids": ids}):
        right(Words().eval(), inputs, elements=64, float_layers=("embed",))


# Half precision, tables


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"activation_dynamic": True}, {"activation_bits": None}], ids=str)
def test_half_precision_is_simulated_in_float32_said_once(dtype, options):
    network = nested().to(dtype)
    x = torch.randn(*IMAGES).to(dtype)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        quantized = quantize(network, WIDE.replace(**options), x)
    assert [str(w.message) for w in said] == [f"Sequential is of {dtype}: it is simulated in float32"]
    answer = run(quantized, x)
    assert answer[0].dtype == torch.float32 and network[0].weight.dtype == dtype
    assert spread_error(answer, run(copy.deepcopy(network).float(), x.float())) < 1e-3
    at_most_four(network, x)


def test_half_precision_inside_and_double():
    right(
        *written(
            "return net.m(net.l(x).half()).float()", VECTORS, **LINEAR | {"m": lambda: nn.Linear(8, 4).half()}
        )()
    )
    right(nested().double(), torch.randn(*IMAGES).double())


@pytest.mark.parametrize(
    "table",
    [
        "net.t[(x[:, 0] > 0).long()]",
        "net.t[1]",
        "net.t[(x[:, 0] > 0).long(), 0, None]",
        "net.t.gather(0, (x[:, :8] > 0).long())",
        "net.t.index_select(0, (x[:, 0] > 0).long())",
        "net.t[torch.arange(16) % 2][:x.shape[0]]",
    ],
)
def test_tables_of_parameters_are_looked_up(table):
    right(*written(f"return net.m(net.l(x) + {table})", VECTORS, **LINEAR | {"t": weight(2, 8)})())


def test_a_layer_may_get_what_a_table_holds():
    right(*written("return net.m(net.t[(x[:, 0] > 0).long()])", VECTORS, **LINEAR | {"t": weight(2, 8)})())


# Learned bitwidths


LEARN = {"target_weight_bits": 4, "steps": 150, "learning_rate": 0.1, "progress": False}


def learned_bits(network, inputs, **options):
    """What a network learned, and its bits of weights by name; the average counts the elements of each tensor
    once.
    """
    learned = learn_bitwidths(
        network, QuantConfig(first_last_bits=None, **options), [(inputs, LABELS)], **LEARN
    )
    layers = [layer for layer in footprint(network, inputs, learned.config).layers if layer.weight_elements]
    sums = [
        sum(e * b for e, b in ((r.weight_elements, r.weight_bits) for r in layers)),
        sum(r.weight_elements for r in layers),
    ]
    assert learned.feasible and learned.average_weight_bits == sums[0] / sums[1] <= 4
    return learned, {layer.name: layer.weight_bits for layer in layers}


def tied():
    network = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)), nn.ReLU(), nn.Linear(16, 4))
    network[1].weight = network[0].weight
    return network.eval()


def test_tied_weights_learn_one_bitwidth():
    learned, bits = learned_bits(tied(), X)
    assert [*bits] == ["0", "2", "4"] and "weight:1" not in learned.history
    assert learned.average_weight_bits == (256 * bits["0"] + 256 * bits["2"] + 64 * bits["4"]) / 576
    network = quantize(tied(), learned.config, X)
    assert levels(network.get_submodule("1").weight[0].detach()) <= 2 ** bits["0"]


@pytest.mark.parametrize("inputs", [(X, Y), {"y": Y, "x": X}], ids=["tuple", "names"])
def test_bitwidths_of_a_network_with_several_inputs(inputs):
    assert {*learned_bits(Several().eval(), inputs)[1]} == {"a", "b", "c"}


def test_layers_left_in_float_do_not_learn():
    network = nn.Sequential(
        nn.Linear(16, 2), nn.ReLU(), nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 4)
    ).eval()
    before = snapshot(network)
    learned, bits = learned_bits(network, X, float_layers=("0",))
    assert bits["0"] == 32 and not {"weight:0", "activation:0"} & {*learned.history}
    assert_unchanged(network, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("input_bits", [8, None])
@pytest.mark.filterwarnings("ignore:.*simulated in float32")
def test_a_network_of_half_precision_equals_its_copy_in_float32(dtype, input_bits):
    half = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)
    ).to(dtype)
    x = torch.randn(*IMAGES).to(dtype)
    config = QuantConfig(4, 3, input_bits=input_bits)
    expected = quantize(copy.deepcopy(half).float(), config, x.float())
    with torch.no_grad():
        assert torch.equal(quantize(half, config, x)(x), expected(x.float()))


def test_a_loaders_lists_of_inputs():
    data = [((torch.randn(3), torch.randn(3)), 1)] * 8
    network = Two().eval()
    loader = torch.utils.data.DataLoader(data, 4)
    quantized = quantize(network, QuantConfig(8, 8), loader)
    assert evaluate(quantized, loader).n == 8


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(3, 4)

    def forward(self, x, y):
        return self.a(x) + self.b(y)


def test_inputs_given_flat():
    pair = torch.randn(4, 3), torch.randn(4, 3)
    with pytest.raises(
        ValueError, match=r"missing 1 .* argument: 'y'; several inputs are a pair \(\(a, b\), labels\)"
    ):
        quantize(Two().eval(), QuantConfig(), [pair])
