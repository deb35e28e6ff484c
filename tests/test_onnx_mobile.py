"""What ONNX Runtime makes of depthwise convolutions, HardSwish and additions, and of batch norms that nobody
folded first: every field is true of the graph.
"""

import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx")
quantization = pytest.importorskip("onnxruntime.quantization")
from onnx import numpy_helper  # noqa: E402

from qlib import QuantizationCard  # noqa: E402
from qlib.cards import NOT_REPORTED  # noqa: E402

FORMS = {"pairs": quantization.QuantFormat.QDQ, "operators": quantization.QuantFormat.QOperator}
PLACES = "quantize_skip quantize_residual pooling quantize_output input_bits"


class Images(quantization.CalibrationDataReader):
    def __init__(self):
        draw = np.random.default_rng(0)
        self.batches = [{"x": draw.standard_normal((2, 3, 16, 16), np.float32)}]

    def get_next(self):
        return self.batches.pop() if self.batches else None


def convolution(a, b, size=1, groups=1, act=True):
    layers = [nn.Conv2d(a, b, size, padding=size // 2, groups=groups, bias=False), nn.BatchNorm2d(b)]
    return [*layers, nn.Hardswish()] if act else layers


class Mobile(nn.Module):
    """Two inverted residual blocks between a stem and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(*convolution(3, 8, 3))
        self.one, self.two = (
            nn.Sequential(*convolution(8, 16), *convolution(16, 16, 3, 16), *convolution(16, 8, act=False))
            for _ in range(2)
        )
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16), nn.Hardswish(), nn.Linear(16, 5)
        )
        for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):
            for tensor in (norm.running_mean, norm.weight, norm.bias):  # equal ones would be merged
                nn.init.normal_(tensor)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.one(x)
        return self.head(x + self.two(x))


def written(model, path, folded=True):
    more = {} if folded else {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    example = torch.randn(2, 3, 16, 16)
    torch.onnx.export(model.eval(), example, path, dynamo=False, opset_version=17, input_names=["x"], **more)
    return path


@pytest.fixture
def quantized(tmp_path):
    def quantized(path, form, **options):
        quantization.quantize_static(
            path,
            tmp_path / "m.onnx",
            Images(),
            quant_format=FORMS[form],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            **options,
        )
        return QuantizationCard.from_onnx(tmp_path / "m.onnx"), onnx.load(tmp_path / "m.onnx").graph

    return quantized


@pytest.fixture(scope="module")
def mobile(tmp_path_factory):
    torch.manual_seed(0)
    return written(Mobile(), tmp_path_factory.mktemp("mobile") / "float.onnx")


def fields(card, text):
    return [card[name] for name in text.split()]


def codes_at(graph, node):
    """Of each of two operands of an addition, in the order of the inputs, whether it comes from codes."""
    made = {output: other.op_type for other in graph.node for output in other.output}
    if node.op_type == "QLinearAdd":
        return [True, True]
    return [made[name] == "DequantizeLinear" for name in node.input]


def check_weights(card, sizes):
    """``sizes``: of each layer its weights and its output channels."""
    elements = sum(size for size, _ in sizes)
    assert fields(card, "weight_bits average_weight_bits weight_bytes") == [8, 8, elements]
    assert fields(card, "weight_symmetric symmetric_grid weight_granularity") == [
        True,
        "restricted",
        "per_channel",
    ]
    extra = 32 * sum(channels for _, channels in sizes) / elements
    assert card["effective_weight_bits"] == pytest.approx(8 + extra, abs=1e-4)


MOBILE = [(216, 8), *[(128, 16), (144, 16), (128, 8)] * 2, (128, 16), (80, 5)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_everything_quantized(mobile, quantized, form):
    card, graph = quantized(mobile, form)
    check_weights(card, MOBILE)
    assert fields(card, PLACES) == [True, True, "high_precision", True, 8]
    assert fields(card, "activation_bits first_last_bits bias accumulator_bits") == [
        8,
        "like the rest",
        32,
        32,
    ]
    additions = [node for node in graph.node if node.op_type.endswith("Add")]
    assert [codes_at(graph, node) for node in additions] == [[True, True]] * 2
    assert card["batch_norm"] == "folded or none" and card["activation_granularity"] == "per_tensor"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_additions_in_float(mobile, quantized, form):
    card, graph = quantized(mobile, form, op_types_to_quantize=["Conv", "Gemm"])
    first, second = (codes_at(graph, node) for node in graph.node if node.op_type == "Add")
    assert first == second  # skip, residual
    assert fields(card, "quantize_skip quantize_residual") == first == [form == "pairs", True]
    check_weights(card, MOBILE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_a_head_in_float(mobile, quantized, form):
    """The first layer has 8 bits and the last none: there is no one word for both."""
    card, _ = quantized(mobile, form, op_types_to_quantize=["Conv"])
    assert set(card["weight_bits"].values()) == {8, "float"}
    assert fields(card, "first_last_bits bias accumulator_bits") == [NOT_REPORTED] * 3
    assert fields(card, PLACES)[-3:] == ["float", False, 8]


@pytest.mark.filterwarnings("ignore")
def test_batch_norms_that_nobody_folded(tmp_path, quantized):
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=10)
    card, graph = quantized(written(network, tmp_path / "float.onnx", folded=False), "pairs")
    assert sum(node.op_type == "BatchNormalization" for node in graph.node) == 20
    check_weights(
        card,
        [
            (m.weight.numel(), len(m.weight))
            for m in network.modules()
            if isinstance(m, (nn.Conv2d, nn.Linear))
        ],
    )
    assert fields(card, f"{PLACES} batch_norm") == [True, True, "high_precision", True, 8, "separate"]
    # Only the last layer has a bias, whose bits tell those of its sums
    assert fields(card, "bias accumulator_bits") == [32, NOT_REPORTED]
    kinds = {numpy_helper.to_array(t).dtype.name for t in graph.initializer if t.name.startswith("fc.bias")}
    assert "int32" in kinds


@pytest.mark.filterwarnings("ignore")
def test_sums_of_codes_at_run_time_and_of_floats(mobile, tmp_path):
    assert QuantizationCard.from_onnx(mobile)["accumulator_bits"] == NOT_REPORTED
    quantization.quantize_dynamic(mobile, tmp_path / "m.onnx")
    card = QuantizationCard.from_onnx(tmp_path / "m.onnx")
    assert fields(card, "accumulator_bits activation_dynamic") == [32, True]
