"""Cards read from ONNX models say what ONNX Runtime's own quantizer was told."""

import warnings

import numpy as np
import pytest
import torch

from qlib import QuantizationCard
from qlib.cards import NOT_REPORTED
from qlib.cli import main

onnx = pytest.importorskip("onnx")
quantization = pytest.importorskip("onnxruntime.quantization")
U8 = quantization.QuantType.QUInt8
S8 = quantization.QuantType.QInt8
QDQ = quantization.QuantFormat.QDQ
CODES = quantization.QuantFormat.QOperator


class Images(quantization.CalibrationDataReader):
    def __init__(self):
        draw = np.random.default_rng(0)
        self.batches = [{"x": draw.standard_normal((2, 3, 32, 32), np.float32)} for _ in range(2)]

    def get_next(self):
        return self.batches.pop() if self.batches else None


def networks():
    import torchvision
    from pytorchcv.model_provider import get_model

    return {
        "resnet20": lambda: get_model("resnet20_cifar10"),
        "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    }


@pytest.fixture(scope="module", params=["resnet20", "resnet18"])
def float_model(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            networks()[request.param]().eval(),
            torch.randn(2, 3, 32, 32),
            folder / "raw.onnx",
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
    quantization.shape_inference.quant_pre_process(
        folder / "raw.onnx", folder / "float.onnx", skip_symbolic_shape=True
    )
    return folder / "float.onnx"


def layers(path):
    return [node.name for node in onnx.load(path).graph.node if node.op_type in ("Conv", "Gemm")]


@pytest.mark.parametrize("form", [QDQ, CODES], ids=["qdq", "operators"])
@pytest.mark.parametrize("weights", [S8, U8], ids=["signed", "unsigned"])
@pytest.mark.parametrize("per_channel", [True, False], ids=["channel", "tensor"])
def test_static_settings_are_recovered(float_model, tmp_path, form, weights, per_channel):
    path = tmp_path / "model.onnx"
    quantization.quantize_static(
        float_model,
        path,
        Images(),
        quant_format=form,
        per_channel=per_channel,
        weight_type=weights,
        activation_type=U8,
    )
    card = QuantizationCard.from_onnx(path)
    # There ONNX Runtime makes weights of convolutions signed after all
    mixed = weights == U8 and per_channel and form == CODES
    # and here its grids without sign have their zero in the middle
    middle = weights == U8 and per_channel and form == QDQ
    assert card["weight_symmetric"] == (NOT_REPORTED if mixed else weights == S8 or middle)
    assert card["activation_symmetric"] is False
    assert card["weight_granularity"] == ("per_channel" if per_channel else "per_tensor")
    assert [card[f"{side}_bits"] for side in ("weight", "activation", "input", "first_last")] == [
        8,
        8,
        8,
        "like the rest",
    ]
    assert card["activation_dynamic"] is False and card["activation_granularity"] == "per_tensor"
    assert (
        card["quantize_skip"] is True
        and card["quantize_residual"] is True
        and card["quantize_output"] is True
    )
    assert card["symmetric_grid"] == ("restricted" if weights == S8 else "full" if middle else NOT_REPORTED)
    assert card["batch_norm"] == "folded or none" and card["bias"] == 32
    total = sum(np.prod(t.dims) for t in onnx.load(float_model).graph.initializer if len(t.dims) > 1)
    assert card["weight_bytes"] == total and card["average_weight_bits"] == 8


def test_symmetric_activations_are_recovered(float_model, tmp_path):
    quantization.quantize_static(
        float_model,
        tmp_path / "m.onnx",
        Images(),
        weight_type=S8,
        activation_type=S8,
        extra_options={"ActivationSymmetric": True},
    )
    assert QuantizationCard.from_onnx(tmp_path / "m.onnx")["activation_symmetric"] is True


def test_end_layers_left_out_are_found(float_model, tmp_path):
    first, *_, last = layers(float_model)
    quantization.quantize_static(
        float_model, tmp_path / "m.onnx", Images(), weight_type=S8, nodes_to_exclude=[first, last]
    )
    card = QuantizationCard.from_onnx(tmp_path / "m.onnx")
    assert (
        card["first_last_bits"] == "float"
        and card["input_bits"] == "float"
        and card["quantize_output"] is False
    )
    assert card["weight_bits"] == 8 and card["activation_bits"] == 8


def test_a_layer_left_out_in_the_middle_is_found(float_model, tmp_path):
    middle = layers(float_model)[3]
    quantization.quantize_static(
        float_model, tmp_path / "m.onnx", Images(), weight_type=S8, nodes_to_exclude=[middle]
    )
    card = QuantizationCard.from_onnx(tmp_path / "m.onnx")
    assert card["weight_bits"][middle] == "float" and set(card["weight_bits"].values()) == {8, "float"}


def test_additions_left_out_are_found(float_model, tmp_path):
    names = [node.name for node in onnx.load(float_model).graph.node if node.op_type == "Add"]
    quantization.quantize_static(float_model, tmp_path / "all.onnx", Images(), weight_type=S8)
    quantization.quantize_static(
        float_model,
        tmp_path / "none.onnx",
        Images(),
        weight_type=S8,
        nodes_to_exclude=names,
        op_types_to_quantize=["Conv", "Gemm", "MaxPool"],
        extra_options={"OpTypesToExcludeOutputQuantization": ["Conv", "Gemm"]},
    )
    assert QuantizationCard.from_onnx(tmp_path / "all.onnx")["quantize_residual"] is True
    assert QuantizationCard.from_onnx(tmp_path / "none.onnx")["quantize_residual"] is False


@pytest.mark.parametrize("weights", [S8, U8], ids=["signed", "unsigned"])
def test_dynamic_settings_are_recovered(float_model, tmp_path, weights):
    quantization.quantize_dynamic(float_model, tmp_path / "m.onnx", weight_type=weights)
    card = QuantizationCard.from_onnx(tmp_path / "m.onnx")
    assert card["activation_dynamic"] is True and card["weight_symmetric"] is (weights == S8)
    assert (card["weight_bits"], card["quantize_skip"], card["quantize_residual"], card["pooling"]) == (
        8,
        False,
        False,
        "float",
    )


def test_a_float_model_is_float(float_model):
    card = QuantizationCard.from_onnx(float_model, name="plain", images=0)
    assert (card["weight_bits"], card["activation_bits"], card.name, card["images"]) == (
        "float",
        "float",
        "plain",
        0,
    )


def test_files_that_are_no_models(tmp_path, capsys):
    for content in (b"", b"not a model", bytes(range(256)) * 40):
        (tmp_path / "x.onnx").write_bytes(content)
        assert main(["card", "from-onnx", str(tmp_path / "x.onnx")]) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1 and "x.onnx" in said
    assert main(["card", "from-onnx", str(tmp_path / "none.onnx")]) == 2


def test_a_graph_that_cannot_be_is_refused_with_the_reason(tmp_path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Relu", [f"no\x1b[31mwhere{'e' * 1000}"], ["y"])
    graph = onnx.helper.make_graph([node], "bad", [value], [])
    (tmp_path / "x.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(
        ValueError, match=r"x.onnx is not an ONNX model \(ValidationError: Nodes in a"
    ) as found:
        QuantizationCard.from_onnx(tmp_path / "x.onnx")
    said = str(found.value).removeprefix(str(tmp_path))
    assert "'no?[31mwhere" in said and said.isprintable() and len(said) < 300


@pytest.mark.parametrize("command", ["show", "validate", "check --target onnxruntime-cpu"])
@pytest.mark.parametrize("size", [100, 2_000_000])
def test_a_card_that_is_asked_of_a_model_is_found_with_from_onnx(tmp_path, capsys, command, size):
    verb, *more = command.split()
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes([255]) * size)
    assert main(["card", verb, str(path), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path} is an ONNX file, not a card" in line and f"qlib card from-onnx {path}" in line


@pytest.mark.parametrize(
    "nodes",
    [
        [("Identity", ["b"], ["a"]), ("Identity", ["a"], ["b"]), ("Conv", ["x", "a"], ["y"])],
        [("Relu", ["r"], ["r"]), ("Conv", ["r", "w"], ["y"])],
        [("Conv", ["x"], ["y"])],
        [("QuantizeLinear", [], ["y"])],
    ],
    ids=["circle", "itself", "no weight", "no input"],
)
def test_graphs_that_cannot_be_are_refused(tmp_path, capsys, nodes):
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 4, 4]) for name in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(*node) for node in nodes], "bad", values[:1], values[1:]
    )
    (tmp_path / "x.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    assert main(["card", "from-onnx", str(tmp_path / "x.onnx")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_command_writes_a_card(float_model, tmp_path, capsys):
    assert main(["card", "from-onnx", str(float_model), "--out", str(tmp_path / "card.yaml")]) == 0
    assert QuantizationCard.load(tmp_path / "card.yaml")["weight_bits"] == "float"
    assert main(["card", "from-onnx", str(float_model), "--json"]) == 0 and capsys.readouterr().out
