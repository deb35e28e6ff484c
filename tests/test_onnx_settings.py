"""Whatever ONNX Runtime's quantizers are told about whatever network, a card says it, or nothing."""

import logging
import math
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
quantization = pytest.importorskip("onnxruntime.quantization")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_graphs import op  # noqa: E402

from qlib import QuantizationCard  # noqa: E402
from qlib.cards import NOT_REPORTED  # noqa: E402

CODES = quantization.QuantFormat.QOperator
QDQ = quantization.QuantFormat.QDQ
TYPES = quantization.QuantType
SLOW = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))


class Network:
    """A small network of convolutions, additions, pooling and linear layers, drawn at random."""

    def __init__(self, draw, blocks, head, pool):
        self.draw, self.nodes, self.constants, self.layers = draw, [], [], {}
        x = self.relu(self.layer("Conv", "x", (4, 3, 3, 3), pads=[1] * 4))
        width = 4
        for wider in blocks:
            new = width + 2 * wider
            inner = self.relu(self.layer("Conv", x, (new, width, 3, 3), pads=[1] * 4))
            inner = self.layer("Conv", inner, (new, new, 1, 1))
            skip = self.layer("Conv", x, (new, width, 1, 1)) if wider else x
            x, width = self.relu(self.node("Add", f"{inner} {skip}")), new
        if pool == "MaxPool":
            x = self.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = self.node("Flatten", self.node("GlobalAveragePool", x))
        if head == "Gemm":
            x = self.layer("Gemm", x, (5, width), transB=1)
        else:
            x = self.relu(self.node("Add", f"{self.layer('MatMul', x, (width, 6))} {self.constant((6,))}"))
            x = self.layer("MatMul", x, (6, 5))
        graph = helper.make_graph(
            [*self.nodes, op("Identity", x, "y")],
            "drawn",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5])],
            self.constants,
        )
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def constant(self, shape):
        name = f"c{len(self.constants)}"
        values = self.draw.standard_normal(shape).astype(np.float32)
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind, inputs, **attributes):
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(op(kind, inputs, f"t{len(self.nodes)}", name=name, **attributes))
        return self.nodes[-1].output[0]

    def relu(self, x):
        return self.node("Relu", x)

    def layer(self, kind, x, shape, **attributes):
        weights = self.constant(shape)
        bias = "" if kind == "MatMul" or self.draw.random() < 0.3 else self.constant((shape[0],))
        made = self.node(kind, f"{x} {weights} {bias}", **attributes)
        self.layers[self.nodes[-1].name] = weights
        return made


NETWORKS = st.builds(
    Network,
    st.integers(0, 999).map(np.random.default_rng),
    st.lists(st.booleans(), max_size=2),
    st.sampled_from(["Gemm", "MatMul"]),
    st.sampled_from(["MaxPool", "none"]),
)


class Images(quantization.CalibrationDataReader):
    def __init__(self):
        draw = np.random.default_rng(0)
        self.batches = [{"x": draw.standard_normal((2, 3, 8, 8), np.float32)} for _ in range(2)]

    def get_next(self):
        return self.batches.pop() if self.batches else None


WIDE = [TYPES.QInt8, TYPES.QUInt8, TYPES.QInt16, TYPES.QUInt16]
STATIC = st.fixed_dictionaries(
    {
        "quant_format": st.just(QDQ),
        "weight_type": st.sampled_from([*WIDE, TYPES.QInt4, TYPES.QUInt4]),
        "activation_type": st.sampled_from(WIDE),
    }
) | st.fixed_dictionaries(
    {
        "quant_format": st.just(CODES),
        "weight_type": st.sampled_from(WIDE[:2]),
        "activation_type": st.sampled_from(WIDE[:2]),
    }
)
STATIC = STATIC.filter(  # which ONNX Runtime refuses
    lambda types: (types["activation_type"], types["weight_type"]) != (TYPES.QInt8, TYPES.QUInt8)
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "ActivationSymmetric": st.booleans(),
        "WeightSymmetric": st.booleans(),
        "AddQDQPairToWeight": st.just(True),
        "ForceQuantizeNoInputCheck": st.just(True),
    },
)


def bits_of(kind):
    return int(re.search(r"\d+", kind.name)[0])


def stored(path, network):
    """By name of a layer's float weight, what the file has of it by ONNX Runtime's names: elements, bits,
    how many scales, and whether codes have a sign with the zero-points.
    """
    found = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    parts = {}
    for weights in set(network.layers.values()):
        turned = f"{weights}_Transposed"  # a Gemm that became a MatMul
        name = turned if any(known.startswith(turned) for known in found) else weights
        elements = math.prod(found[name].dims) if name in found else None
        codes = next((found[k] for k in (f"{name}_quantized",) if k in found), None)
        zero, scale = (found.get(f"{name}_{part}") for part in ("zero_point", "scale"))
        if zero is None:
            parts[weights] = (elements, 32, 0, None)
            continue
        kind = TensorProto.DataType.Name(zero.data_type)
        bits = int(re.search(r"\d+", kind)[0])
        elements = math.prod(codes.dims) if codes is not None else elements
        count = math.prod(scale.dims)
        zeros = numpy_helper.to_array(zero).astype(int)
        parts[weights] = (elements, bits, count, (kind[0] == "I", zeros))
    return parts


def symmetry(bits, signed, zeros, narrow):
    """What grids with these zero-points were told to be, as far as that can be known."""
    if (zeros == (0 if signed else 2 ** (bits - 1))).all():
        return {True} if signed else {True, False}
    return set() if narrow and not signed and (zeros == 2 ** (bits - 2)).all() else {False}


def check_weights(card, parts, narrow):
    """Bytes, averages, symmetry and granularity against what stands under ONNX Runtime's names."""
    elements = sum(part[0] for part in parts.values())
    bits = sum(part[0] * part[1] for part in parts.values())
    assert card["weight_bytes"] == bits / 8
    quantized = [part for part in parts.values() if part[3] is not None]
    possible = [symmetry(part[1], *part[3], narrow) for part in quantized]
    symmetric = set.intersection(*possible) if possible else set()
    said = True if len(symmetric) == 2 else symmetric.pop() if symmetric else NOT_REPORTED
    assert card["weight_symmetric"] == said
    # Zero-points of symmetric codes are known
    whole = [said is True or found == {True} for found in possible]
    extra = sum(part[2] * (32 + part[1] * (not known)) for part, known in zip(quantized, whole, strict=True))
    averages = [card["average_weight_bits"], card["effective_weight_bits"]]
    if narrow and quantized:
        assert averages == [NOT_REPORTED, NOT_REPORTED]
    else:
        assert averages == pytest.approx([bits / elements, (bits + extra) / elements], abs=1e-4)
    granularity = {"per_tensor" if part[2] == 1 else "per_channel" for part in quantized}
    assert card["weight_granularity"] in (granularity if len(granularity) == 1 else {NOT_REPORTED})
    if narrow and quantized:
        assert card["weight_bits"] == NOT_REPORTED


@SLOW
@given(NETWORKS, STATIC, OPTIONS, st.booleans(), st.booleans(), st.data())
def test_static_settings_are_recovered_or_not_reported(
    tmp_path_factory, network, types, options, per_channel, reduce_range, data
):
    logging.disable(logging.WARNING)
    folder = tmp_path_factory.mktemp("static")
    excluded = data.draw(st.lists(st.sampled_from(list(network.layers)), max_size=2, unique=True))
    kinds = data.draw(st.sampled_from([None, ["Conv"], ["Conv", "MatMul", "Gemm"]]))
    onnx.save(network.model, folder / "float.onnx")
    quantization.quantize_static(
        folder / "float.onnx",
        folder / "m.onnx",
        Images(),
        per_channel=per_channel,
        reduce_range=reduce_range,
        nodes_to_exclude=excluded,
        op_types_to_quantize=kinds,
        extra_options=options,
        **types,
    )
    card = QuantizationCard.from_onnx(folder / "m.onnx")
    parts = stored(folder / "m.onnx", network)
    check_weights(card, parts, reduce_range)
    bits = {name: parts[weights][1] for name, weights in network.layers.items()}
    said = card["weight_bits"]
    if isinstance(said, dict):
        assert sorted(32 if b == "float" else b for b in said.values()) == sorted(bits.values())
    elif said != NOT_REPORTED:
        inner = list(bits.values())[1:-1] or list(bits.values())
        assert set(inner) == {32 if said == "float" else said}
    assert set(bits.values()) <= {32, bits_of(types["weight_type"])}
    activations = {bits_of(types["activation_type"]), "float", NOT_REPORTED}
    said = card["activation_bits"]
    assert set(said.values()) <= activations if isinstance(said, dict) else said in activations
    assert card["activation_symmetric"] in (options.get("ActivationSymmetric", False), NOT_REPORTED)
    assert card["activation_dynamic"] in (False, NOT_REPORTED)
    assert card["activation_granularity"] in ("per_tensor", NOT_REPORTED)
    assert card["input_bits"] in activations
    assert card["bias"] in {32, *activations, bits_of(types["weight_type"])}  # an addition's constant, too
    if not excluded and kinds is None:
        assert (card["quantize_skip"], card["quantize_residual"]) in (
            (True, True),
            (NOT_REPORTED, NOT_REPORTED),
        )
        assert card["activation_bits"] == card["input_bits"] == bits_of(types["activation_type"])
        if not reduce_range:
            assert card["weight_bits"] == bits_of(types["weight_type"])


@SLOW
@given(NETWORKS, st.sampled_from(WIDE[:2]), st.booleans(), st.booleans(), st.data())
def test_dynamic_settings_are_recovered_or_not_reported(
    tmp_path_factory, network, kind, per_channel, reduce_range, data
):
    logging.disable(logging.WARNING)
    folder = tmp_path_factory.mktemp("dynamic")
    excluded = data.draw(st.lists(st.sampled_from(list(network.layers)), max_size=2, unique=True))
    onnx.save(network.model, folder / "float.onnx")
    quantization.quantize_dynamic(
        folder / "float.onnx",
        folder / "m.onnx",
        weight_type=kind,
        per_channel=per_channel,
        reduce_range=reduce_range,
        nodes_to_exclude=excluded,
    )
    card = QuantizationCard.from_onnx(folder / "m.onnx")
    check_weights(card, stored(folder / "m.onnx", network), reduce_range)
    assert card["activation_dynamic"] in (True, NOT_REPORTED)
    said = card["weight_bits"]
    assert (
        set(said.values()) <= {8, "float"} if isinstance(said, dict) else said in (8, "float", NOT_REPORTED)
    )
    if not excluded and not reduce_range:
        assert said == 8 and card["activation_dynamic"] is True


@SLOW
@given(
    st.integers(0, 999),
    st.sampled_from([16, 32, 64]),
    st.lists(st.integers(3, 70), min_size=2, max_size=4),
    st.sampled_from([(4, CODES), (8, CODES), (2, CODES), (4, QDQ)]),
    st.booleans(),
    st.sampled_from([None, 1, 4]),
)
def test_settings_of_packed_weights_are_recovered(
    tmp_path_factory, seed, block, widths, form, symmetric, level
):
    pytest.importorskip("onnx_ir")
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    logging.disable(logging.WARNING)
    draw = np.random.default_rng(seed)
    shapes = list(zip([24, *widths], [*widths, 5], strict=True))
    constants = [
        numpy_helper.from_array(draw.standard_normal(shape).astype(np.float32), f"w{i}")
        for i, shape in enumerate(shapes)
    ]
    names = ["x", *(f"h{i}" for i in range(len(shapes) - 1)), "y"]
    nodes = [op("MatMul", f"{names[i]} w{i}", names[i + 1], name=f"m{i}") for i in range(len(shapes))]
    graph = helper.make_graph(
        nodes,
        "packed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    bits, written = form
    config = DefaultWeightOnlyQuantConfig(
        block_size=block, is_symmetric=symmetric, accuracy_level=level, quant_format=written, bits=bits
    )
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    path = tmp_path_factory.mktemp("packed") / "m.onnx"
    quantizer.model.save_model_to_file(str(path))
    card = QuantizationCard.from_onnx(path)
    assert card["weight_bits"] == bits and card["weight_symmetric"] in (symmetric, NOT_REPORTED)
    assert card["weight_granularity"] in (
        "per_group",
        "per_channel" if all(a <= block for a, _ in shapes) else "per_group",
    )
    assert card["group_size"] == (block if card["weight_granularity"] == "per_group" else NOT_REPORTED)
    elements = sum(math.prod(shape) for shape in shapes)
    assert card["weight_bytes"] == elements * bits / 8
    extra = sum(
        math.prod(t.dims)
        * int(re.search(r"\d+", TensorProto.DataType.Name(t.data_type).replace("FLOAT", "FLOAT32"))[0])
        for t in onnx.load(path).graph.initializer
        if re.search("scales|zero_points", t.name)
    )
    assert card["effective_weight_bits"] == pytest.approx((elements * bits + extra) / elements, abs=1e-4)
    assert card["activation_bits"] == (NOT_REPORTED if level == 4 and written == CODES else "float")
