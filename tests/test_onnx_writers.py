"""What others write into ONNX files is read as they meant it, or not reported."""

import os
import subprocess
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402
from onnx_graphs import constant, model, op, saved, scales, weights  # noqa: E402

from qlib import QuantizationCard  # noqa: E402
from qlib.cards import NOT_REPORTED  # noqa: E402

MS = "com.microsoft"
QONNX = "qonnx.custom_op.general"
S8, U8, U4, S4 = TensorProto.INT8, TensorProto.UINT8, TensorProto.UINT4, TensorProto.INT4


@pytest.fixture
def card(tmp_path):
    return lambda nodes, constants, **more: QuantizationCard.from_onnx(
        saved(model(nodes, constants, **more), tmp_path / "m.onnx")
    )


def fields(card, text):
    return [card[name] for name in text.split()]


GRID = "weight_bits weight_symmetric weight_granularity"


@pytest.mark.parametrize("way", ["", "Transpose", "Reshape", "Identity", "Squeeze"])
@pytest.mark.parametrize("channels", [True, False], ids=["channel", "tensor"])
def test_weights_are_found_behind_what_turns_them(card, way, channels):
    shape, options = {"Transpose": ((5, 8), {"perm": [1, 0]}), "Squeeze": ((1, 8, 5), {})}.get(
        way, ((8, 5), {})
    )
    axis = {"Transpose": 0, "Squeeze": 2}.get(way, 1)
    found = card(
        [
            op("DequantizeLinear", "w s z", "d", axis=axis),
            op(way or "Identity", {"Reshape": "d shape", "Squeeze": "d front"}.get(way, "d"), "t", **options),
            op("MatMul", "x t", "y"),
        ],
        [
            weights(shape),
            scales(5) if channels else scales(),
            constant("z", np.zeros(5 if channels else (), np.int8)),
            constant("shape", np.array([8, 5])),
            constant("front", np.array([0])),
        ],
    )
    assert fields(found, GRID) == [8, True, "per_channel" if channels else "per_tensor"]
    assert found["weight_bytes"] == 40 and found["activation_bits"] == "float"


@pytest.mark.parametrize("turned, said", [(False, "per_channel"), (True, NOT_REPORTED)])
def test_ranges_that_follow_the_inputs_are_no_ranges_of_channels(card, turned, said):
    nodes = [op("DequantizeLinear", "w s", "d", axis=0 if turned else 1), op("MatMul", "x d", "y")]
    assert card(nodes, [weights((8, 8)), scales(8)])["weight_granularity"] == said


@pytest.mark.parametrize("kind, bits, symmetric", [(S8, 8, True), (U8, 8, False), (S4, 4, True)])
def test_without_a_zero_point_the_codes_say_their_type(card, kind, bits, symmetric):
    found = card(
        [op("DequantizeLinear", "w s", "d"), op("MatMul", "x d", "y")], [weights((8, 4), kind), scales()]
    )
    assert fields(found, GRID) == [bits, symmetric, "per_tensor"] and found["average_weight_bits"] == bits


@pytest.mark.parametrize("axis, said", [(0, "per_group"), (1, NOT_REPORTED)])
def test_blocks_share_a_range(card, axis, said):
    shape = [8, 8]
    shape[axis] //= 4
    nodes = [op("DequantizeLinear", "w s", "d", axis=axis, block_size=4), op("MatMul", "x d", "y")]
    found = card(nodes, [weights((8, 8), S4), scales(*shape)])
    assert fields(found, "weight_granularity group_size") == [said, 4 if axis == 0 else NOT_REPORTED]
    assert found["effective_weight_bits"] == 4 + 32 / 4


def test_blocks_of_a_size_that_is_not_said(card):
    nodes = [op("DequantizeLinear", "w s", "d", axis=0), op("MatMul", "x d", "y")]
    found = card(nodes, [weights((8, 8), S4), scales(2, 8)])
    assert fields(found, "weight_bits group_size") == [4, NOT_REPORTED]


def packed(bits, zero):
    """MatMulNBits of 64 inputs and 3 outputs in blocks of 16; of what its zero-points are."""
    draw = np.random.default_rng(0)
    parts = [
        constant("w", draw.integers(0, 256, (3, 4, 2 * bits), np.uint8)),
        scales(3, 4),
        constant("z", np.full((3, 4 * bits // 8), zero, np.uint8)),
    ]
    options = {"K": 64, "N": 3, "bits": bits, "block_size": 16}
    return parts, options


@pytest.mark.parametrize("bits, middle, other", [(4, 0x88, 0x89), (8, 128, 127), (2, 0xAA, 0xAB)])
def test_packed_weights_say_bits_blocks_and_zero_points(card, bits, middle, other):
    for names, zero, symmetric in (("x w s", 0, True), ("x w s z", middle, True), ("x w s z", other, False)):
        parts, options = packed(bits, zero)
        found = card([op("MatMulNBits", names, "y", MS, **options)], parts, x=(1, 64))
        assert fields(found, GRID) == [bits, symmetric, "per_group"]
        assert found["weight_bytes"] == 64 * 3 * bits / 8 and found["activation_bits"] == "float"
        zeros = 0 if symmetric else bits  # those in the middle need not be stored
        assert fields(found, "group_size effective_weight_bits") == [16, bits + (32 + zeros) / 16]


def test_a_kernel_that_may_quantize_its_input_leaves_activations_open(card):
    parts, options = packed(4, 0)
    found = card([op("MatMulNBits", "x w s", "y", MS, accuracy_level=4, **options)], parts, x=(1, 64))
    assert found["activation_bits"] == NOT_REPORTED and found["weight_bits"] == 4


@pytest.mark.parametrize("order, said", [(range(64), NOT_REPORTED), (range(63, -1, -1), "activation")])
def test_groups_may_follow_the_activations(card, order, said):
    parts, options = packed(4, 0x88)
    groups = constant("g", np.array([i // 16 for i in order], np.int32))
    found = card([op("MatMulNBits", "x w s z g", "y", MS, **options)], [*parts, groups], x=(1, 64))
    assert found["column_order"] == said


TABLES = {
    "float": ([op("Gather", "t x", "e")], [constant("t", np.ones((9, 8), np.float32))], "float"),
    "dequantized": (
        [op("DequantizeLinear", "t s", "d"), op("Gather", "d x", "e")],
        [weights((9, 8), U8, name="t"), scales(name="s")],
        8,
    ),
    "looked up as codes": (
        [op("Gather", "t x", "c"), op("DequantizeLinear", "c s", "e")],
        [weights((9, 8), U8, name="t"), scales(name="s")],
        8,
    ),
    "of 4 bits in a wider type": (
        [op("Gather", "t x", "c"), op("DequantizeLinear", "c s", "e")],
        [constant("t", np.resize(np.arange(16, dtype=np.uint8), (9, 8))), scales(name="s")],
        NOT_REPORTED,
    ),
    "in blocks": (
        [op("GatherBlockQuantized", "t x s", "e", MS, block_size=16, bits=4)],
        [weights((9, 4), U8, name="t"), scales(9, 1)],
        4,
    ),
}


@pytest.mark.parametrize("nodes, parts, bits", TABLES.values(), ids=TABLES)
def test_bits_of_embeddings(card, nodes, parts, bits):
    head = [op("MatMul", "e w", "y")]
    made = [*parts, constant("w", np.ones((8, 3), np.float32))]
    found = card([*nodes, *head], made, x=(1, 5), kind=TensorProto.INT64)
    assert fields(found, "embedding_bits weight_bytes input_bits") == [bits, 96, NOT_REPORTED]


def test_packed_weights_of_another_size_are_refused(card):
    parts, options = packed(4, 0)
    with pytest.raises(ValueError, match="does not hold 3 by 128 codes of 4 bits"):
        card([op("MatMulNBits", "x w s", "y", MS, **{**options, "K": 128})], parts, x=(1, 64))


@pytest.mark.parametrize("channels", [(), (5,)], ids=["tensor", "channel"])
def test_a_layer_that_quantizes_its_input_itself(card, channels):
    found = card(
        [op("DynamicQuantizeMatMul", "x w s z b", "y", MS)],
        [
            weights((8, 5), U8),
            scales(*channels),
            constant("z", np.full(channels, 7, np.uint8)),
            scales(5, name="b"),
        ],
    )
    assert fields(found, GRID) == [8, False, "per_channel" if channels else "per_tensor"]
    assert fields(found, "activation_bits activation_dynamic bias") == [8, True, "float"]


@pytest.mark.parametrize("signed, zero, symmetric", [(1, 0, True), (0, 3, False)])
def test_quantizers_of_qonnx_say_their_bits(card, signed, zero, symmetric):
    found = card(
        [
            op("Quant", "x s z ba", "q", QONNX, signed=signed, narrow=0, rounding_mode="ROUND"),
            op("Quant", "w s z bw", "d", QONNX, signed=signed, narrow=0, rounding_mode="ROUND"),
            op("MatMul", "q d", "y"),
        ],
        [
            constant("w", np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)),
            scales(),
            constant("z", np.float32(zero)),
            constant("ba", np.float32(6)),
            constant("bw", np.float32(3)),
        ],
    )
    assert fields(found, GRID) == [3, symmetric, "per_tensor"]
    assert fields(found, "activation_bits input_bits activation_symmetric weight_bytes") == [
        6,
        6,
        symmetric,
        12,
    ]


def test_a_limit_on_codes_says_how_many_bits_they_have(card):
    nodes = [
        op("QuantizeLinear", "x s z", "q"),
        op("Clip", "q low high", "c"),
        op("DequantizeLinear", "c s z", "d"),
        op("MatMul", "d w", "y"),
    ]
    limits = [constant(name, np.int8(value)) for name, value in (("low", -8), ("high", 7), ("z", 0))]
    found = card(nodes, [scales(), *limits, constant("w", np.ones((8, 4), np.float32))])
    assert fields(found, "activation_bits weight_bits") == [4, "float"]


NARROW = "weight_bits first_last_bits average_weight_bits effective_weight_bits"


@pytest.mark.parametrize("places", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_codes_that_use_half_their_type_leave_the_bits_open(card, places):
    """Of one layer among three are enough."""
    names = ["x", "a", "b", "y"]
    nodes, parts = [], [scales()]
    for i, (given, made) in enumerate(zip(names, names[1:], strict=False)):
        nodes += [op("DequantizeLinear", f"w{i} s", f"d{i}"), op("MatMul", f"{given} d{i}", made)]
        four_bits = np.arange(64).reshape(8, 8).astype(np.int8) % 16 - 8
        parts.append(constant(f"w{i}", four_bits) if i in places else weights((8, 8), name=f"w{i}"))
    found = card(nodes, parts)
    assert set(fields(found, NARROW)) == {NOT_REPORTED} and found["weight_bytes"] == 192


@pytest.mark.parametrize(
    "kind, codes, zero, bits",
    [
        (S8, (-8, 7), 0, NOT_REPORTED),
        (S8, (-127, 0), 0, 8),
        (S8, (0, 0), 0, 8),
        (U8, (0, 15), 3, NOT_REPORTED),
        (U8, (120, 136), 128, NOT_REPORTED),
        (U8, (1, 127), 128, 8),
        (U8, (0, 255), 3, 8),
        (S4, (-4, 3), 0, NOT_REPORTED),
    ],
)
def test_codes_that_fit_into_fewer_bits(card, kind, codes, zero, bits):
    nodes = [op("DequantizeLinear", "w s z", "d"), op("MatMul", "x d", "y")]
    parts = [constant("w", np.resize(codes, (8, 2)), kind), scales(), constant("z", zero, kind)]
    found = card(nodes, parts)
    assert fields(found, "weight_bits average_weight_bits") == [bits, bits]


def test_three_codes_are_all_that_2_bits_have(card):
    parts, options = packed(2, 0)
    parts[0] = constant("w", np.full((3, 4, 4), 0b01101101, np.uint8))  # 1, 3, 2, 1 about 2
    found = card([op("MatMulNBits", "x w s", "y", MS, **options)], parts, x=(1, 64))
    assert fields(found, "weight_bits average_weight_bits") == [2, 2]


def test_a_limit_on_the_codes_of_weights_says_how_many_bits_they_have(card):
    nodes = [
        op("QuantizeLinear", "w s z", "q"),
        op("Clip", "q low high", "c"),
        op("DequantizeLinear", "c s z", "d"),
        op("MatMul", "x d", "y"),
    ]
    limits = [constant(name, np.int8(value)) for name, value in (("low", -8), ("high", 7), ("z", 0))]
    found = card(
        nodes, [constant("w", np.linspace(-0.8, 0.7, 32, dtype="f").reshape(8, 4)), scales(), *limits]
    )
    assert fields(found, "weight_bits average_weight_bits") == [4, 4]


COMPUTED = {
    "multiplied": [op("Cast", "w", "f", to=1), op("Mul", "f s", "d"), op("MatMul", "x d", "y")],
    "a recurrent layer": [
        op("DequantizeLinear", "w s", "d"),
        op("MatMul", "x d", "h"),
        op("LSTM", "h i r", "y", hidden_size=2),
    ],
    "an operator of others": [
        op("DequantizeLinear", "w s", "d"),
        op("MatMul", "x d", "h"),
        op("Attention", "h i", "y", MS, num_heads=1),
    ],
}


@pytest.mark.parametrize("nodes", COMPUTED.values(), ids=COMPUTED)
def test_weights_that_are_not_read_leave_that_side_open(card, nodes):
    parts = [weights((8, 8)), scales(), *(constant(n, np.ones((1, 8, 8), np.float32)) for n in "ir")]
    found = card(nodes, parts)
    assert set(fields(found, f"{GRID} weight_bytes average_weight_bits first_last_bits")) == {NOT_REPORTED}


def test_what_is_used_twice_counts_once(card):
    nodes = [
        op("DequantizeLinear", "w s", "d"),
        op("MatMul", "x d", "h"),
        op("Relu", "h", "r"),
        op("MatMul", "r d", "y"),
    ]
    assert card(nodes, [weights((8, 8)), scales()])["weight_bytes"] == 64


KEEPING = {
    "Slice": op("Slice", "d from to axes", "k"),
    "Split": op("Split", "d", "k other", axis=1, num_outputs=2),
    "ReduceMax": op("ReduceMax", "d axes", "k", keepdims=1),
    "DepthToSpace": op("DepthToSpace", "d", "k", blocksize=2),
    "Concat": op("Concat", "d d", "k", axis=1),
    "MaxPool": op("MaxPool", "d", "k", kernel_shape=[2, 2]),
    "Relu": op("Relu", "d", "k"),
}


@pytest.mark.parametrize("node", KEEPING.values(), ids=KEEPING)
def test_what_keeps_a_grid_does_not_hide_it(card, node):
    places = [constant(name, np.array([value])) for name, value in (("from", 0), ("to", 4), ("axes", 1))]
    nodes = [
        op("QuantizeLinear", "x s z", "q"),
        op("DequantizeLinear", "q s z", "d"),
        node,
        op("Conv", "k w", "y"),
    ]
    parts = [scales(), constant("z", np.uint8(3)), constant("w", np.ones((2, 4, 1, 1), np.float32)), *places]
    found = card(nodes, parts, x=(1, 4, 8, 8))
    assert fields(found, "activation_bits weight_bits activation_symmetric input_bits") == [
        8,
        "float",
        False,
        8,
    ]


def test_an_operator_on_codes_that_is_not_known_leaves_what_follows_open(card):
    nodes = [
        op("QuantizeLinear", "x s z", "q"),
        op("SomethingOfTheirs", "q", "k", MS),
        op("DequantizeLinear", "k s z", "d"),
        op("MatMul", "d w", "y"),
    ]
    found = card(nodes, [scales(), constant("z", np.uint8(3)), constant("w", np.ones((8, 2), np.float32))])
    assert fields(found, "activation_bits weight_bits") == [NOT_REPORTED, "float"]


@pytest.mark.parametrize("kind, bits", [(np.int32, 32), (np.float32, "float"), (np.int8, 8)])
def test_bits_of_biases(card, kind, bits):
    nodes = [op("Gemm", "x w b", "y")]
    bias = constant("b", np.ones(4, kind))
    if bits != "float":
        nodes = [op("DequantizeLinear", "b s", "bd"), op("Gemm", "x w bd", "y")]
    assert card(nodes, [constant("w", np.ones((8, 4), np.float32)), bias, scales()])["bias"] == bits


# ------------------------------------------------------------------------------------------------------------


def beside(tmp_path, location):
    """A model whose weights, 64 codes, lie in another file."""
    made = model([op("DequantizeLinear", "w s", "d"), op("MatMul", "x d", "y")], [weights((8, 8)), scales()])
    tensor = made.graph.initializer[0]
    codes = np.arange(-127, 128, 4, dtype=np.int8).tobytes()
    for field in ("raw_data", "int32_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = tmp_path / "inner" / "m.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(made.SerializeToString())
    return path, codes


@pytest.mark.parametrize("location", ["w.bin", "../w.bin", "none.bin", "link.bin", "/etc/hostname"])
def test_weights_in_another_file_are_read_from_its_folder_alone(tmp_path, location):
    path, codes = beside(tmp_path, location)
    (tmp_path / "w.bin").write_bytes(codes)
    (path.parent / "link.bin").symlink_to(tmp_path / "w.bin")
    if location == "w.bin":
        (path.parent / location).write_bytes(codes)
    found = QuantizationCard.from_onnx(path)
    assert fields(found, GRID) == [8, True, "per_tensor"] and found["weight_bytes"] == 64
    assert found["symmetric_grid"] == ("restricted" if location == "w.bin" else NOT_REPORTED)


def test_a_model_beside_its_weights_is_read_from_another_folder(tmp_path):
    path, codes = beside(tmp_path, "w.bin")
    (path.parent / "w.bin").write_bytes(codes)
    run = [sys.executable, "-m", "qlib.cli", "card", "from-onnx", str(path), "--json"]
    there = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")])),
    }
    done = subprocess.run(run, cwd=tmp_path, env=there, capture_output=True, text=True)
    assert done.returncode == 0 and '"weight_bits": 8' in done.stdout, done.stderr


@pytest.mark.parametrize("inside", ["branch", "function"])
def test_layers_where_a_card_does_not_look_are_refused(tmp_path, inside):
    made = model([op("MatMul", "x w", "y")], [constant("w", np.ones((8, 8), np.float32))])
    layer = op("MatMul", "x w", "z")
    if inside == "function":
        made.functions.append(
            helper.make_function("own", "f", ["x", "w"], ["z"], [layer], [made.opset_import[0]])
        )
    else:
        value = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", "c"])
        branch = helper.make_graph([layer], "branch", [], [value])
        made.graph.node.append(op("If", "c", "i", then_branch=branch, else_branch=branch))
        made.graph.initializer.append(constant("c", np.array(True)))
    with pytest.raises(ValueError, match="MatMul stands inside a function, a branch or a loop"):
        QuantizationCard.from_onnx(saved(made, tmp_path / "m.onnx"))
