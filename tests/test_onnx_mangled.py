"""A mangled ONNX file becomes a card or one line of refusal, soon and in little memory."""

import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402
from onnx_graphs import constant, model, op, saved, scales, weights  # noqa: E402

from qlib import QuantizationCard  # noqa: E402

MS, QONNX = "com.microsoft", "qonnx.custom_op.general"
U8 = TensorProto.UINT8


def everything():
    """A model with one of every way in which quantization is written."""
    nodes = [
        op("QuantizeLinear", "x s z", "q"),
        op("DequantizeLinear", "q s z", "d"),
        op("DequantizeLinear", "w ss zs", "wd", axis=1),
        op("MatMul", "d wd", "a"),
        op("Add", "a bias", "a2"),
        op("Quant", "a2 s zero four", "a3", QONNX, signed=1, narrow=0, rounding_mode="ROUND"),
        op("DequantizeLinear", "v blocks", "vd", axis=0, block_size=4),
        op("MatMul", "a3 vd", "b"),
        op("Add", "b a3", "c"),
        op("MatMulNBits", "c packed pscales pzeros", "e", MS, K=8, N=8, bits=4, block_size=16),
        op("DynamicQuantizeMatMul", "e w s z", "f", MS),
        op("QuantizeLinear", "f s z", "g"),
        op("QLinearMatMul", "g s z w s z s z", "h"),
        op("QLinearAdd", "h s z g s z s z", "i", MS),
        op("QLinearSigmoid", "i s z s z", "j", MS),
        op("QLinearConcat", "s z j s z i s z", "k", MS, axis=0),
        op("DequantizeLinear", "k s z", "l"),
        op("Gather", "l order", "m", axis=0),
        op("Transpose", "m", "y", perm=[1, 0]),
    ]
    constants = [
        weights((8, 8), U8),
        weights((8, 8), TensorProto.INT4, name="v"),
        scales(),
        scales(8, name="ss"),
        scales(2, 8, name="blocks"),
        scales(8, 1, name="pscales"),
        constant("z", np.uint8(3)),
        constant("zs", np.zeros(8, np.uint8)),
        constant("zero", np.float32(0)),
        constant("four", np.float32(4)),
        constant("bias", np.ones(8, np.float32)),
        constant("packed", np.arange(64, dtype=np.uint8).reshape(8, 1, 8)),
        constant("pzeros", np.full((8, 1), 8, np.uint8)),
        constant("order", np.array([1, 0])),
    ]
    return model(nodes, constants, x=(8, 8))


def mangle(made, draw):
    """One thing in a model changed for something that some other place has."""
    nodes, tensors = made.graph.node, made.graph.initializer
    node, tensor = draw.choice(nodes), draw.choice(tensors)
    names = [name for other in nodes for name in (*other.input, *other.output)]
    numbers = [-1, 0, 1, 2, 3, 5, 7, 16, 2**31 - 1, 2**40, 2**62]
    change = draw.randrange(9)
    if change == 0 and node.input:
        node.input[draw.randrange(len(node.input))] = draw.choice([*names, "", "nowhere"])
    elif change == 1:
        node.op_type, node.domain = (other := draw.choice(nodes)).op_type, other.domain
    elif change == 2 and node.attribute:
        draw.choice(node.attribute).i = draw.choice(numbers)
    elif change == 3:
        tensor.data_type = draw.randrange(27)
    elif change == 4:
        tensor.dims[:] = [draw.choice(numbers) for _ in range(draw.randrange(4))]
    elif change == 5 and tensor.raw_data:
        tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data))]
    elif change == 6 and node.input:
        del node.input[draw.randrange(len(node.input))]
    elif change == 7:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(
            key="location", value=draw.choice(["m.onnx", ".", "..", "/dev/zero", "a\0b"])
        )
        tensor.external_data.add(key="offset", value=draw.choice(["0", "-1", "x", str(2**70)]))
    elif change == 8 and tensor.raw_data:
        tensor.raw_data = bytes(draw.choice([0, 255, 127, 128]) for _ in tensor.raw_data)


def card_or_refusal(path):
    """Raises anything but a ValueError of one line."""
    try:
        QuantizationCard.from_onnx(path)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 500, error
        return str(error)


def test_the_model_is_read_before_it_is_mangled(tmp_path):
    card = QuantizationCard.from_onnx(saved(everything(), tmp_path / "m.onnx"))
    assert len(card["weight_bits"]) == 5 and card["weight_bytes"] == 64 + 32 + 32


SLOW = settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))


@SLOW
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_a_changed_graph(tmp_path_factory, seed, times):
    made, draw = everything(), random.Random(seed)
    for _ in range(times):
        mangle(made, draw)
    path = tmp_path_factory.getbasetemp() / "m.onnx"
    path.write_bytes(made.SerializeToString())
    tracemalloc.start()
    card_or_refusal(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50_000_000


@SLOW
@given(st.integers(0, 2**32), st.integers(1, 20))
def test_changed_bytes(tmp_path_factory, seed, times):
    content, draw = bytearray(everything().SerializeToString()), random.Random(seed)
    for _ in range(times):
        content[draw.randrange(len(content))] = draw.randrange(256)
    path = tmp_path_factory.getbasetemp() / "m.onnx"
    path.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])
    card_or_refusal(path)


def test_many_nodes_take_no_time_of_their_square(tmp_path):
    """Twenty thousand layers, additions and quantizers one behind the other."""
    nodes, x = [op("QuantizeLinear", "x s z", "c"), op("DequantizeLinear", "c s z", "d")], "d"
    for i in range(5000):
        nodes += [op("MatMul", f"{x} w", f"a{i}"), op("Add", f"a{i} {x}", f"b{i}")]
        nodes += [op("QuantizeLinear", f"b{i} s z", f"c{i}"), op("DequantizeLinear", f"c{i} s z", f"d{i}")]
        x = f"d{i}"
    made = model(
        [*nodes, op("Relu", x, "y")],
        [constant("w", np.ones((8, 8), np.float32)), scales(), constant("z", np.uint8(0))],
    )
    card = QuantizationCard.from_onnx(saved(made, tmp_path / "m.onnx"))
    assert (card["weight_bytes"], card["activation_bits"], card["quantize_skip"]) == (64 * 4, 8, True)


def test_too_many_nodes_are_refused(tmp_path):
    nodes = [op("Relu", "x" if not i else f"t{i - 1}", f"t{i}") for i in range(100_001)]
    assert "too many for a card" in card_or_refusal(saved(model(nodes, [], output="t5"), tmp_path / "m.onnx"))


def test_functions_that_call_each_other_are_not_written_out(tmp_path):
    made = everything()
    for i in range(40):
        calls = [
            helper.make_node(f"f{i + 1}", ["a"], ["b"], domain="own"),
            helper.make_node(f"f{i + 1}", ["b"], ["c"], domain="own"),
        ]
        made.functions.append(helper.make_function("own", f"f{i}", ["a"], ["c"], calls, made.opset_import))
    card_or_refusal(saved(made, tmp_path / "m.onnx"))
