"""What is said not to be fused is what ONNX Runtime does not fuse, by the graph that it runs."""

import warnings

import pytest
import torch
from helpers import images
from torch import nn

from qlib import QuantConfig
from qlib.cli import main
from qlib.export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
FASTEST = {"weight_symmetric": True}
IN_FLOAT = "computed in float by ONNX Runtime"
SLOWER = (
    "on slower integer kernels of ONNX Runtime, which rounds their biases by itself, since their weights "
)
LAYERS = ["first", "second", "depthwise", "last"]


class Net(nn.Module):
    def __init__(self, activation, up=False):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = (nn.ConvTranspose2d if up else nn.Conv2d)(8, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Linear(8, 4)
        self.activation = activation

    def forward(self, x):
        x = self.activation(self.first(x))
        x = x + self.activation(self.second(x))
        return self.last(self.activation(self.depthwise(x)).mean((2, 3)))


class Padded(nn.Module):
    """With padding and pooling of its own, which keep a grid, and a sum of two convolutions."""

    def __init__(self, pad):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.down, self.last = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        self.pad, self.pool = pad, nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        x = self.pool(torch.relu(self.first(self.pad(x))))
        return self.last(torch.relu(self.second(x) + self.down(x)).mean((2, 3)))


IN_FLOAT_STREAM = {**FASTEST, "quantize_skip": False, "quantize_residual": False}


def written(network, config, path):
    """The lines that are said."""
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export_onnx(network, config, images(), images(1), path, target="onnxruntime")
    return [str(each.message) for each in caught]


def in_float(path, folder):
    """The layers that ONNX Runtime runs in float."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
    return {n.name for n in onnx.load(folder / "optimized.onnx").graph.node if n.op_type in kinds}


CONVOLUTIONS = LAYERS[:3]
CASES = {
    "fused": (Net(nn.ReLU()), FASTEST, {}),
    "hard swish": (Net(nn.Hardswish()), FASTEST, {"since they give floats to HardSwish": CONVOLUTIONS}),
    "silu": (Net(nn.SiLU()), FASTEST, {"since they give floats to Sigmoid and Mul": CONVOLUTIONS}),
    "leaky": (Net(nn.LeakyReLU()), FASTEST, {"since they give floats to LeakyRelu": CONVOLUTIONS}),
    "output": (
        Net(nn.ReLU()),
        {**FASTEST, "quantize_output": False},
        {"since they give floats to the output": ["last"]},
    ),
    "input": (
        Net(nn.ReLU()),
        {**FASTEST, "input_bits": None},
        {"since their input has no 8-bit codes": ["first"]},
    ),
    "weights alone": (
        Net(nn.ReLU()),
        {**FASTEST, "activation_bits": None},
        {"since their input has no 8-bit codes": LAYERS},
    ),
    "4 bits": (
        Net(nn.ReLU()),
        {**FASTEST, "weight_bits": 4},
        {"since their weights have no 8-bit codes": ["second", "depthwise"]},
    ),
    "transposed": (
        Net(nn.ReLU(), up=True),
        FASTEST,
        {"which has no integer kernel for transposed convolutions": ["second"]},
    ),
    "padded by zeros": (Padded(nn.ZeroPad2d(1)), FASTEST, {}),
    "padded by mirrors": (
        Padded(nn.ReflectionPad2d(1)),
        FASTEST,
        {"since their input has no 8-bit codes": ["first"]},
    ),
    "pooled before its quantizer": (
        Padded(nn.ZeroPad2d(1)),
        {**IN_FLOAT_STREAM, "activation_symmetric": True},
        {
            "since they give floats to Add": ["second", "down"],
            "since they give floats to the output": ["last"],
        },
    ),
}


@pytest.mark.parametrize("network, fields, said", CASES.values(), ids=CASES)
def test_every_layer_that_is_not_fused_is_named_with_the_reason(network, fields, said, tmp_path):
    lines = written(network.eval(), QuantConfig(**fields), tmp_path / "m.onnx")
    assert lines == [f"{IN_FLOAT}, {why}: {', '.join(layers)}" for why, layers in said.items()]
    assert in_float(tmp_path / "m.onnx", tmp_path) == {layer for layers in said.values() for layer in layers}


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_weights_with_zero_points_are_said_to_be_slower(granularity, tmp_path):
    config = QuantConfig(weight_granularity=granularity)
    (line,) = written(Net(nn.ReLU()).eval(), config, tmp_path / "m.onnx")
    assert line == f"{SLOWER}have zero-points (weight_symmetric=False): {', '.join(LAYERS)}"
    assert in_float(tmp_path / "m.onnx", tmp_path) == set()


def test_weights_in_float_are_said_to_be_rounded_by_onnx_runtime(tmp_path):
    (line,) = written(Net(nn.ReLU()).eval(), QuantConfig(None, 8), tmp_path / "m.onnx")
    assert (
        line
        == f"{IN_FLOAT}, or rounded to 8 bits by itself, since their weights are in float: "
        + ", ".join(LAYERS)
    )


@pytest.mark.parametrize("symmetric", [True, False])
def test_biases_that_onnx_runtime_would_cut_are_named(symmetric, tmp_path):
    network = Net(nn.ReLU()).eval()
    with torch.no_grad():
        network.last.weight[0] *= 1e-12
        network.last.bias[0] = 100
    line, *_ = reversed(written(network, QuantConfig(weight_symmetric=symmetric), tmp_path / "m.onnx"))
    assert line.startswith("cut to 32 bits by ONNX Runtime where it optimizes graphs, since their bias is ")
    assert line.endswith(": last")
    x = images().numpy()
    plain, cut = (session.run(None, {"input": x})[0] for session in sessions(tmp_path / "m.onnx"))
    assert plain[:, 0].min() > 99 > 10 > cut[:, 0].max()


def sessions(path):
    """Without graph optimizations, and with them."""
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        yield onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_nothing_is_said_of_the_exact_form(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        export_onnx(Net(nn.SiLU()).eval(), QuantConfig(), images(), images(1), tmp_path / "m.onnx")


def test_the_command_says_it(tmp_path, capsys):
    arguments = ["export", str(tmp_path / "m.onnx"), "--calibration-images", "16", "--for", "onnxruntime"]
    assert main(arguments) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"qlib: {SLOWER}have zero-points (weight_symmetric=False): features.init_block.conv"
    )
