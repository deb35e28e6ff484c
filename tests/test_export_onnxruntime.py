"""The form for ONNX Runtime fuses, and differs from the exact one only by what is said of it."""

import itertools
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
import torchvision
from helpers import Block, images, random_network
from torch import nn

import qlib
from qlib import QuantConfig, evaluate, quantize
from qlib.cli import main
from qlib.export import export_onnx
from qlib.export.changes import ONE_CODE_MORE, ROUNDED_BIAS, Change, in_words

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
UNSIGNED = {"weight_symmetric": True, "symmetric_grid": "restricted"}
SIGNED = {**UNSIGNED, "activation_symmetric": True}


def write(network, config, x, folder, target="onnxruntime"):
    """The file and what it changes."""
    path = folder / f"{target}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return path, export_onnx(network, config, x, x[:2], path, target=target)


def session(path, optimized=None):
    """Without ``optimized``, the path of what ONNX Runtime makes of a file, it makes nothing of it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimized is None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    else:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answer(path, x):
    return session(path).run(None, {"input": x.numpy()})[0]


class Limits(nn.Module):
    """What may stand between a layer and its quantizer, or between a quantizer and a layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Linear(32, 10)

    def forward(self, x):
        x = nn.functional.relu6(self.first(x))
        x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
        x = nn.functional.hardtanh(self.second(x), -0.2, 0.1)
        return self.last(nn.functional.max_pool2d(torch.relu(self.third(x)), 2).flatten(1))


class Shuffle(nn.Module):
    """As ShuffleNet does; the sizes are asked of what is quantized."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(512, 10)

    def forward(self, x):
        a, b = torch.relu(self.first(x)).chunk(2, 1)
        x = torch.cat([a, torch.relu(self.second(b))], 1)
        n, channels, height, width = x.size()
        x = x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, -1, height, width)
        return self.last(x.flatten(1))


FORMS = {"residual": Block, "limits": Limits, "shuffle": Shuffle}


def made(name, bias):
    torch.manual_seed(0)
    network = FORMS[name]().eval()
    for layer in network.modules():
        if not bias and hasattr(layer, "bias"):
            layer.bias = None
    return network


# ------------------------------------------------------------------------------------------------------------
# Values


@pytest.mark.parametrize(
    "name, bits", [("residual", 8), ("residual", 4), ("limits", 8), ("shuffle", 8), ("shuffle", 4)]
)
@pytest.mark.parametrize("fields", [{}, {"weight_symmetric": True, "activation_symmetric": True}], ids=str)
def test_without_biases_and_on_the_full_grid_nothing_changes(name, fields, bits, tmp_path):
    x = images()
    network, config = made(name, bias=False), QuantConfig(bits, bits, **fields)
    exact, none = write(network, config, x, tmp_path, "exact")
    path, changes = write(network, config, x, tmp_path)
    assert changes == none == []
    beyond = 3 * images()
    assert np.array_equal(answer(path, beyond), answer(exact, beyond))


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return self.last(nn.functional.max_pool2d(torch.relu(self.first(x)), 2))


@pytest.mark.parametrize("network", [Pooled, Limits])
def test_values_of_4_bits_that_onnx_runtime_cannot_load_are_refused_by_name(network, tmp_path):
    config = QuantConfig(4, 4, first_last_bits=None)
    with pytest.raises(ValueError, match="cannot load 'first' with 4 bits, since '") as refused:
        write(network(), config, images(), tmp_path)
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []
    bits = {"default": 8, "last": 4}
    path, _ = write(network(), config.replace(activation_bits=bits), images(), tmp_path)
    assert session(path, tmp_path / "optimized.onnx").get_outputs()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weights", [4, 8])
@pytest.mark.parametrize("bits", list(itertools.product((4, 8), repeat=3)), ids=str)
def test_what_is_written_loads_whatever_bits_stand_around_a_convolution(bits, weights, bias, tmp_path):
    shapes = ((3, 4), (4, 4), (4, 5))
    first, second, last = (nn.Conv2d(*channels, 3, bias=bias) for channels in shapes)
    network = nn.Sequential(first, nn.ReLU(), second, last).eval()
    layers = dict(zip("023", bits, strict=True))
    config = QuantConfig(weights, {**layers, "default": 8}, weight_symmetric=True, first_last_bits=None)
    between = [layer for before, layer in ("02", "23") if layers[before] == layers[layer] == 4]
    if weights == 8 and between:
        with pytest.raises(ValueError, match=f"cannot load '{between[0]}' with 8-bit weights between 4-bit"):
            write(network, config, images(), tmp_path)
        return
    path, _ = write(network, config, images(), tmp_path)
    assert session(path, tmp_path / "optimized.onnx").get_outputs()


@pytest.mark.parametrize("tensor", ["x", "0"])
def test_the_code_more_is_used_beyond_the_grid_alone_and_is_one_step_away(tensor, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(64, 12)
    network = nn.Sequential(nn.Linear(12, 12, bias=False)).eval()
    if tensor == "x":  # seen through weights that change nothing
        network[0].weight.data = torch.eye(12)
    fields = {"input_bits": None} if tensor == "0" else {"quantize_output": False}
    config = QuantConfig(**SIGNED, **fields)
    exact, _ = write(network, config, x, tmp_path, "exact")
    path, changes = write(network, config, x, tmp_path)
    (change,) = changes
    quantized = quantize(network, config, x)
    (quantizer,) = (m for m in quantized.modules() if type(m).__name__ == "Quantizer")
    step = quantizer.scale.item()
    assert change.what == ONE_CODE_MORE and change.most == pytest.approx(step)
    assert change.tensor == quantizer.name
    beyond = 2 * x
    a, b = answer(exact, beyond), answer(path, beyond)
    below = np.isclose(a, -127 * step, rtol=1e-5)
    assert np.array_equal(a[~below], b[~below])
    assert np.abs(a - b).max() <= change.most * 1.0001 and (a - b)[below].max() > 0.99 * step
    assert np.array_equal(answer(exact, x), answer(path, x))


def test_what_is_never_negative_is_not_said_to_change(tmp_path):
    x = images()
    _, changes = write(made("limits", bias=False), QuantConfig(**SIGNED), x, tmp_path)
    assert {c.tensor for c in changes if c.what == ONE_CODE_MORE} == {"x", "second", "last"}


@pytest.mark.parametrize("fields", [UNSIGNED, {**UNSIGNED, "weight_granularity": "per_tensor"}], ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_biases_are_rounded_by_what_is_said(name, fields, tmp_path):
    x = images()
    network = made(name, bias=True)
    path, changes = write(network, QuantConfig(**fields), x, tmp_path)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    layers = {n: m for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert {c.tensor for c in changes} == set(layers) and {c.what for c in changes} == {ROUNDED_BIAS}
    for change in changes:
        bias = layers[change.tensor].bias.detach().numpy()
        codes, scale = (tensors[f"{change.tensor}.bias_{part}"] for part in ("codes", "scale"))
        assert codes.dtype == np.int32 and scale.shape in (bias.shape, ())
        assert np.abs(codes * scale - bias).max() <= change.most * 1.001 <= scale.max() / 1.99
    expected = answer(write(network, QuantConfig(**fields), x, tmp_path, "exact")[0], x)
    assert np.abs(answer(path, x) - expected).max() <= np.ptp(expected) / 100


def test_a_bias_that_32_bits_do_not_hold_stays_in_float(tmp_path):
    network = made("limits", bias=True)
    with torch.no_grad():
        network.last.weight[0] *= 1e-12
        network.last.bias[0] = 100
    path, changes = write(network, QuantConfig(**UNSIGNED), images(), tmp_path)
    assert "last" not in {change.tensor for change in changes}
    assert "last.bias" in {tensor.name for tensor in onnx.load(path).graph.initializer}


FLOAT_SUMS = {"weight_symmetric": True, "quantize_skip": False, "quantize_residual": False}


@pytest.mark.parametrize(
    "fields, rounded",
    [
        (FLOAT_SUMS, {"first", "body"}),  # what the others give is not quantized
        ({"weight_symmetric": True, "weight_bits": 4, "first_last_bits": None}, set()),
        ({}, set()),  # zero-points by channel
    ],
    ids=["outputs", "4 bits", "asymmetric"],
)
def test_biases_are_rounded_only_where_something_is_fused(fields, rounded, tmp_path):
    _, changes = write(Block(), QuantConfig(**fields), images(), tmp_path)
    assert {change.tensor for change in changes} == rounded


@pytest.mark.parametrize("symmetric", [True, False])
def test_graph_optimizations_move_values_of_the_exact_form_by_a_code(symmetric, tmp_path):
    torch.manual_seed(0)
    x = images(64)
    network, config = nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), QuantConfig(weight_symmetric=symmetric)
    path, changes = write(network, config, x, tmp_path, "exact")
    (fused,) = session(path, tmp_path / "optimized.onnx").run(None, {"input": x.numpy()})
    quantized = quantize(network, config, x)
    step = [m for m in quantized.modules() if type(m).__name__ == "Quantizer"][-1].scale.item()
    with torch.no_grad():
        expected = quantized(x.clone()).numpy()
    codes = np.abs(fused - expected) / step
    assert changes == [] and np.isclose(codes.max(), 1, atol=1e-3) and (codes > 0.5).mean() < 0.01
    assert np.abs(answer(path, x) - expected).max() < step / 1000


# ------------------------------------------------------------------------------------------------------------
# Fusing


def kinds(path, folder):
    session(path, folder / "optimized.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("fields", [UNSIGNED, SIGNED], ids=["unsigned", "signed"])
@pytest.mark.parametrize("name", ["torchvision resnet18", "torchvision mobilenet_v2"])
def test_everything_is_fused(name, fields, tmp_path):
    x = images(2, size=64)
    network = random_network(name, x)
    path, _ = write(network, QuantConfig(**fields), x, tmp_path)
    found = kinds(path, tmp_path)
    convolutions = sum(isinstance(m, nn.Conv2d) for m in network.modules())
    additions = 8 if "resnet" in name else 10
    assert found["QLinearConv"] == convolutions and found["QLinearAdd"] == additions
    assert found["QGemm"] == found["QLinearGlobalAveragePool"] == 1
    assert found["QuantizeLinear"] == found["DequantizeLinear"] == 1  # the input and the output
    assert not found.keys() & {
        "Conv",
        "FusedConv",
        "Gemm",
        "Add",
        "MatMul",
        "Relu",
        "Max",
        "GlobalAveragePool",
    }


def test_what_asks_for_sizes_hinders_no_fusing(tmp_path):
    path, _ = write(made("shuffle", bias=True), QuantConfig(**UNSIGNED), images(), tmp_path)
    found = kinds(path, tmp_path)
    assert found["QLinearConcat"] == found["QGemm"] == 1 and found["QLinearConv"] == 2
    assert not found.keys() & {"Conv", "Gemm"}


def test_linear_layers_of_tokens_run_on_integers(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4
    ).eval()
    path, _ = write(network, QuantConfig(**UNSIGNED), images(2, size=16), tmp_path)
    assert not kinds(path, tmp_path).keys() & {"MatMul", "Gemm", "Conv"}


@pytest.mark.parametrize("fields", [UNSIGNED, SIGNED], ids=["unsigned", "signed"])
def test_a_trained_network_answers_as_ours_does(fields, tmp_path):
    bench = qlib.load_bench("digits")
    config = QuantConfig(**fields)
    calibration = bench.calibration(64, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = tmp_path / "m.onnx"
        export_onnx(
            bench.models["base"], config, calibration, calibration[0][0][:1], path, target="onnxruntime"
        )
    run = session(path, tmp_path / "optimized.onnx")
    ours = evaluate(quantize(bench.models["base"], config, calibration), bench.validation(500))
    theirs = np.concatenate(
        [run.run(None, {"input": x.numpy()})[0].argmax(1) == y.numpy() for x, y in bench.validation(500)]
    )
    assert abs(100 * theirs.mean() - ours.top1) <= 1 and (theirs == ours.correct).mean() > 0.97


# ------------------------------------------------------------------------------------------------------------
# Words


def test_changes_are_said_by_kind():
    changes = [Change("a", "one thing", 0.1), Change("b", "one thing", 0.25), Change("c", "another", 1e-6)]
    assert in_words(changes) == [
        "one thing, which changes a value by at most 0.25: a, b",
        "another, which changes a value by at most 1e-06: c",
    ]
    assert in_words([]) == []


def test_the_command_says_what_it_changes(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(QuantConfig(**SIGNED).to_yaml(), "utf8")
    arguments = ["--config", str(tmp_path / "config.yaml"), "--calibration-images", "16"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["export", str(tmp_path / "m.onnx"), *arguments, "--for", "onnxruntime"]) == 0
        wrote, more, bias = capsys.readouterr().out.splitlines()
        assert wrote.startswith("wrote ") and more.startswith(ONE_CODE_MORE) and bias.startswith(ROUNDED_BIAS)
        assert main(["export", str(tmp_path / "m.onnx"), *arguments, "--force"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1
