"""Small ONNX files written by hand, as other tools write them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
DOMAINS = ("com.microsoft", "qonnx.custom_op.general")


def op(kind, inputs, outputs, domain="", **attributes):
    """A node; inputs and outputs are words in one text, ``-`` for one left out."""
    given = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, given, outputs.split(), domain=domain, **attributes)


def constant(name, values, kind=None):
    """An initializer of an array, or of a type and its values."""
    if kind is None:
        return numpy_helper.from_array(np.asarray(values), name)
    values = np.asarray(values)
    return helper.make_tensor(name, kind, values.shape, values.reshape(-1))


def model(nodes, constants, x=(1, 8), kind=FLOAT, output="y"):
    """A model from input ``x`` to ``output``, of unknown shape."""
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info("x", kind, x)],
        [helper.make_tensor_value_info(output, FLOAT, ["n", "c"])],
        constants,
    )
    opsets = [helper.make_opsetid("", 21), *(helper.make_opsetid(domain, 1) for domain in DOMAINS)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def weights(shape, kind=TensorProto.INT8, seed=0, name="w"):
    """Codes that use their type's whole range."""
    number = int(TensorProto.DataType.Name(kind).lstrip("UINT"))
    low = -(2 ** (number - 1)) if TensorProto.DataType.Name(kind).startswith("I") else 0
    values = np.random.default_rng(seed).integers(low, low + 2**number, shape)
    values.flat[:2] = (low, low + 2**number - 1)
    return constant(name, values, kind)


def scales(*shape, name="s", kind=np.float32):
    return constant(name, np.full(shape, 0.1, kind))


def saved(made, path):
    onnx.save(made, path)
    return path
