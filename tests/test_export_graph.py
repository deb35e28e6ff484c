"""The written graph computes what the quantized network does, whatever operations it holds, and bears its
names.
"""

import warnings
from collections import Counter

import numpy as np
import pytest
import torch
import torchvision
from helpers import Block, images, random_network
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from qlib import QuantConfig, quantize
from qlib.export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
OPSETS = {4: 21, 8: 17}  # by bits of weights


def write(network, config, x, path, **options):
    """What `export_onnx` returns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export_onnx(network, config, x, x[:2], path, **options)


def answer(path, x):
    """As ONNX defines it: nothing is optimized."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x.numpy()})[0]


def ours(network, config, x, **options):
    with torch.no_grad():
        return quantize(network, config, x, **options)(x.clone()).numpy()


class Means(nn.Module):
    """Operations that ONNX writes otherwise since version 18, or 13, than before."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.last = nn.Linear(32, 5)

    def forward(self, x):
        x = self.norm(self.first(x))
        parts = x.mean([2, 3]), x.amax((2, 3)), x.std((2, 3)), x.sum(3).squeeze(2).amin(2)
        x = torch.cat([F.normalize(part, dim=1) for part in parts], 1)
        return self.last(F.softmax(x.unsqueeze(1), 2).squeeze(1) + x)


class Shapes(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        a, b = F.hardswish(self.first(x)).chunk(2, 1)
        x = F.interpolate(self.up(F.pad(a * b, (1, 1, 1, 1))), scale_factor=2, mode="nearest")
        x = self.norm(F.pixel_unshuffle(x, 2).unflatten(1, (8, 4)).amax(2).flatten(2).transpose(1, 2))
        return self.last(x).logsumexp(1)


class Twice(nn.Module):
    """A layer that is called twice, and one with its weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 12)
        self.tied = nn.Linear(12, 12, bias=False)
        self.tied.weight = self.first.weight
        self.last = nn.Linear(12, 5)

    def forward(self, x):
        x = x.flatten(2)[..., :12]  # tokens
        return self.last(torch.relu(self.tied(torch.relu(self.first(torch.relu(self.first(x)))))))


class Up(nn.Module):
    def __init__(self, groups):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=groups)
        self.last = nn.ConvTranspose2d(8, 1, 3, groups=1)

    def forward(self, x):
        return self.last(torch.relu(self.up(torch.relu(self.first(x)))))


FORMS = {
    "means": Means,
    "shapes": Shapes,
    "residual": Block,
    "twice": Twice,
    "transposed": lambda: Up(1),
    "transposed by channel": lambda: Up(8),
}


@pytest.fixture(params=FORMS)
def network(request):
    torch.manual_seed(1)
    return FORMS[request.param]().eval()


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("bits", OPSETS)
def test_quantized_weights_give_the_same_numbers(network, bits, symmetric, tmp_path):
    x = images()
    config = QuantConfig(bits, None, weight_symmetric=symmetric, first_last_bits=None)
    assert write(network, config, x, tmp_path / "m.onnx") == []
    (opset,) = onnx.load(tmp_path / "m.onnx").opset_import
    assert (opset.domain, opset.version) == ("", OPSETS[bits])
    np.testing.assert_allclose(answer(tmp_path / "m.onnx", x), ours(network, config, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", OPSETS)
def test_quantized_activations_differ_by_a_rounding_at_most(network, bits, tmp_path):
    x = images()
    config = QuantConfig(bits, 8, first_last_bits=None)
    write(network, config, x, tmp_path / "m.onnx")
    expected = ours(network, config, x)
    found = answer(tmp_path / "m.onnx", x)
    step = np.ptp(expected) / 100  # of 255: a code that fell the other way, and what followed from it
    assert np.abs(found - expected).max() <= step and np.abs(found - expected).mean() <= step / 20


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mnasnet0_5"])
def test_networks_that_average_over_axes_are_written_at_4_bits(name, tmp_path):
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(num_classes=10).eval()
    x = images(2, size=64)
    config = QuantConfig(4, None)
    write(network, config, x, tmp_path / "m.onnx")
    expected = ours(network, config, x)
    np.testing.assert_allclose(
        answer(tmp_path / "m.onnx", x), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )


def test_operators_mean_the_same_in_the_version_that_torch_writes_and_in_that_of_4_bits():
    """But for those that we write ourselves, and that one which is refused."""
    from qlib.export.to_onnx import OPSET_OF_4_BITS
    from qlib.export.traced import MOST_OPSET

    def form(schema):
        parts = [[(part.name, part.option) for part in side] for side in (schema.inputs, schema.outputs)]
        return parts, {name: (a.type, a.required) for name, a in schema.attributes.items()}

    changed = set()
    for name in {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}:
        try:
            old, new = (onnx.defs.get_schema(name, v, "") for v in (MOST_OPSET, OPSET_OF_4_BITS))
        except onnx.defs.SchemaError:
            continue  # it came later
        changed |= {name} if form(old) != form(new) else set()
    assert changed == {"QuantizeLinear", "DequantizeLinear", "GroupNormalization"}


EQUAL = {
    "one grid": {"weight_symmetric": True, "symmetric_grid": "restricted"},
    "other bits": {
        "weight_symmetric": True,
        "symmetric_grid": "restricted",
        "weight_bits": {"0": 8, "2": 4, "4": 8},
        "first_last_bits": None,
    },
    "per tensor": {"weight_granularity": "per_tensor", "weight_bits": {"0": 4, "2": 8, "4": 4}},
}


@pytest.mark.parametrize("fields", EQUAL.values(), ids=EQUAL)
@pytest.mark.parametrize("ternary", [False, True], ids=["any", "ternary"])
def test_equal_weights_keep_their_own_grids(fields, ternary, tmp_path):
    """Of ternary weights also the quantized ones are equal, whatever their bits."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12))
    values = torch.randn(12, 12)
    with torch.no_grad():
        for layer in network[::2]:
            layer.weight.copy_(values.sign() if ternary else values)
            layer.bias.copy_(network[0].bias)
    x = torch.randn(6, 12)
    config = QuantConfig(**{"activation_bits": None, **fields})
    write(network.eval(), config, x, tmp_path / "m.onnx")
    np.testing.assert_allclose(answer(tmp_path / "m.onnx", x), ours(network, config, x), rtol=1e-5, atol=1e-5)
    _, constants = names_of(onnx.load(tmp_path / "m.onnx").graph)
    assert {f"{i}.weight_codes" for i in "024"} | {f"{i}.bias" for i in "024"} <= set(constants)


def test_equal_matrices_in_float_have_names_too(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12))
    network[2].load_state_dict(network[0].state_dict())
    x = torch.randn(6, 12)
    config = QuantConfig(float_layers=("0", "2"), activation_bits=None)
    write(network.eval(), config, x, tmp_path / "m.onnx")
    nodes, _ = names_of(onnx.load(tmp_path / "m.onnx").graph)
    assert all(nodes) and {"0", "2", "4"} <= set(nodes)
    np.testing.assert_allclose(answer(tmp_path / "m.onnx", x), ours(network, config, x), rtol=1e-5, atol=1e-5)


def test_transposed_convolutions_in_groups_of_several_channels_are_refused(tmp_path):
    x = images()
    network = Up(2)
    with pytest.raises(ValueError, match="'up' is a transposed convolution in 2 groups") as refused:
        write(network, QuantConfig(8, None), x, tmp_path / "m.onnx")
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []
    config = QuantConfig(8, None, weight_granularity="per_tensor")
    write(network, config, x, tmp_path / "m.onnx")
    np.testing.assert_allclose(answer(tmp_path / "m.onnx", x), ours(network, config, x), rtol=1e-4, atol=1e-5)


def test_an_unknown_target_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no target 'onnxrt'; did you mean 'onnxruntime'"):
        write(Block(), QuantConfig(), images(), tmp_path / "m.onnx", target="onnxrt")


# ------------------------------------------------------------------------------------------------------------
# Names


def names_of(graph):
    return [node.name for node in graph.node], [tensor.name for tensor in graph.initializer]


def test_layers_constants_and_pairs_bear_the_names_of_the_network(tmp_path):
    x = images(2, size=32)
    network = random_network("torchvision resnet18", x)
    write(network, QuantConfig(), x, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    nodes, constants = names_of(graph)
    kinds = {node.name: node.op_type for node in graph.node}
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            assert kinds[name] == ("Gemm" if name == "fc" else "Conv")
            kinds_there = {
                tensor.name: tuple(tensor.dims)
                for tensor in graph.initializer
                if tensor.name.startswith(f"{name}.")
            }
            assert kinds_there[f"{name}.weight_codes"] == tuple(layer.weight.shape)
            assert kinds_there[f"{name}.weight_scale"] == (len(layer.weight),)
            assert f"{name}.bias" in kinds_there and f"{name}.weight_zero_point" in kinds_there
            assert kinds[f"{name}.weight/DequantizeLinear"] == "DequantizeLinear"
    assert kinds["layer3.1.add/QuantizeLinear"] == "QuantizeLinear" and "layer3.1.add_scale" in constants
    assert kinds["layer3.1.add"] == "Add" and kinds["layer3.1.relu"] == kinds["layer3.1.relu_1"] == "Relu"
    assert not [name for name in (*nodes, *constants) if "onnx::" in name or name.startswith("/")]


def test_names_are_given_once_and_always_the_same(network, tmp_path):
    x = images()
    for name in "ab":
        write(network, QuantConfig(4, 8), x, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    graph = onnx.load(tmp_path / "a").graph
    nodes, constants = names_of(graph)
    values = [value for node in graph.node for value in node.output]
    values += [value.name for value in graph.input] + constants
    assert max(Counter(nodes).values()) == max(Counter(values).values()) == 1
    assert all(nodes) and [value.name for value in graph.output] == ["output"]


class Named(nn.Module):
    """Names that the graph has a use for itself."""

    def __init__(self):
        super().__init__()
        self.output = nn.Conv2d(3, 4, 3)
        self.input = nn.Conv2d(4, 4, 3)
        self.interpreter = nn.Conv2d(4, 4, 1)
        self.input_scale = nn.Linear(4, 2)

    def forward(self, x):
        return self.input_scale(self.interpreter(self.input(self.output(x))).amax((2, 3))) * 2


def test_names_that_the_graph_has_a_use_for_are_no_trouble(tmp_path):
    x = images()
    torch.manual_seed(0)
    network = Named().eval()
    for config in (QuantConfig(8, None), QuantConfig()):
        write(network, config, x, tmp_path / "m.onnx")
        expected = ours(network, config, x)
        assert np.abs(answer(tmp_path / "m.onnx", x) - expected).max() <= np.ptp(expected) / 50
        assert [value.name for value in onnx.load(tmp_path / "m.onnx").graph.input] == ["input"]


# ------------------------------------------------------------------------------------------------------------
# Inputs, and what torch cannot write


class Two(nn.Module):
    """A table looked up and an image."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 12)
        self.image = nn.Conv2d(3, 12, 3)
        self.last = nn.Linear(12, 4)

    def forward(self, pixels, ids):
        return self.last(torch.relu(self.image(pixels).mean((2, 3)) + self.table(ids).sum(1)))


@pytest.mark.parametrize("as_given", [tuple, lambda pair: {"ids": pair[1], "pixels": pair[0]}])
def test_several_inputs_bear_their_names(as_given, tmp_path):
    torch.manual_seed(0)
    network = Two().eval()
    pair = images(), torch.randint(10, (8, 5))
    config = QuantConfig(float_layers=("table",))
    calibration = [(as_given(pair), None)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_onnx(network, config, calibration, as_given(pair), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"ids": pair[1].numpy()[:3], "pixels": pair[0].numpy()[:3]})
    with torch.no_grad():
        expected = quantize(network, config, calibration)(*pair).numpy()[:3]
    assert np.abs(found - expected).max() <= np.ptp(expected) / 100


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"weight_bits": None, "activation_bits": None}, "weight_bits and activation_bits are both None: "),
        (
            {"weight_bits": {"default": 32}, "activation_bits": None, "first_last_bits": None},
            "every layer and tensor is left in float: ",
        ),
    ],
    ids=str,
)
def test_a_network_of_which_nothing_is_quantized_is_not_written(fields, message, tmp_path):
    config = QuantConfig(**fields)
    with pytest.raises(ValueError, match=f"{message}nothing is quantized"):
        write(Block(), config, images(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "example, message",
    [
        (None, "example_input must be a tensor .*, got a NoneType"),
        (torch.zeros(3), "example_input must be a tensor .*, got a tensor of shape \\(3,\\)"),
        (
            torch.zeros(2, 4, 8, 8),
            "example_input of shape \\(2, 4, 8, 8\\) .* does not fit the network at layer ",
        ),
        ((torch.zeros(2, 3, 8, 8),) * 2, "example_input of shape .* does not fit the network"),
        ({"other": torch.zeros(2, 3, 8, 8)}, "example_input of shape .* does not fit the network"),
        (torch.full((2, 3, 8, 8), torch.nan), "example_input holds NaN or infinity"),
    ],
    ids=["none", "no examples", "channels", "two", "name", "NaN"],
)
def test_an_example_that_does_not_fit_is_refused_in_one_line(example, message, tmp_path):
    with pytest.raises(ValueError, match=message) as refused:
        export_onnx(Block(), QuantConfig(), images(), example, tmp_path / "m.onnx")
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []


class Heads(nn.Module):
    """Gives several things, in the form that ``form`` makes of three tensors."""

    def __init__(self, form):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.last = nn.Linear(4, 5)
        self.form = form

    def forward(self, x):
        x = self.first(x)
        means = torch.relu(x).mean((2, 3))
        return self.form(self.last(means), means.abs(), x)


GIVEN = {
    "dictionary": (lambda a, b, c: {"cls": a, "box": b}, ["cls", "box"]),
    "tuple": (lambda a, b, c: (a, c), ["output_0", "output_1"]),
    "nested": (lambda a, b, c: {"z": (a, [b]), "a": {"x": c}}, ["z_0", "z_1_0", "a_x"]),
    "the name of the input": (lambda a, b, c: {"input": a, "output": b}, ["input_1", "output"]),
    "one in a dictionary": (lambda a, b, c: {"cls": a}, ["cls"]),
    "one of no batch": (lambda a, b, c: (a, b.sum()), ["output_0", "output_1"]),
    "one twice": (lambda a, b, c: {"cls": a, "again": a}, ["cls", "again"]),
}


@pytest.mark.parametrize("form, names", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("target", ["exact", "onnxruntime"])
def test_outputs_bear_the_names_that_the_network_gives_them(form, names, target, tmp_path):
    x = images()
    torch.manual_seed(0)
    network, config = Heads(form).eval(), QuantConfig(weight_symmetric=True)
    write(network, config, x, tmp_path / "m.onnx", target=target)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == names
    with torch.no_grad():
        expected = pytree.tree_leaves(quantize(network, config, x)(x.clone()))
    for found, tensor in zip(session.run(None, {"input": x.numpy()}), expected, strict=True):
        assert found.shape == tensor.shape
        assert np.abs(found - tensor.numpy()).max() <= max(
            np.ptp(tensor.numpy()) / 50, 0.02 * tensor.abs().max()
        )


@pytest.mark.parametrize("fields", [{}, {"activation_bits": None}, {"weight_bits": None}], ids=str)
def test_nothing_is_printed_and_nothing_of_torch_warned_of(fields, tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(Heads(lambda a, b, c: a), QuantConfig(**fields), images(), images(1), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")


class Pooled(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 2))


def test_a_graph_that_torch_refuses_is_not_printed(tmp_path, capfd):
    with pytest.raises(ValueError, match="torch cannot write this network as ONNX: .*adaptive_avg_pool2d"):
        export_onnx(Pooled(), QuantConfig(), images(), images(1), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")


class Unwritten(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        return torch.special.bessel_j0(self.last(x.flatten(2)[..., :8]))


def test_what_torch_cannot_write_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="torch cannot write this network as ONNX: .*bessel_j0") as refused:
        write(Unwritten(), QuantConfig(), images(), tmp_path / "m.onnx")
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []


def test_tied_weights_are_written_once(tmp_path):
    x = images()
    write(Twice(), QuantConfig(8, None), x, tmp_path / "m.onnx")
    _, constants = names_of(onnx.load(tmp_path / "m.onnx").graph)
    assert [name for name in constants if "codes" in name] == ["first.weight_codes", "last.weight_codes"]
