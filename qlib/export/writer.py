"""An ONNX graph that is being written, and how a tensor's codes are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .naming import Names


@dataclass(frozen=True)
class Codes:
    """How a tensor is written.

    Parameters
    ----------
    scale : array
        float32, of no axis or one value a channel.
    zero_point : array
        Whole numbers, likewise.
    bits, signed
        Of the integer type.
    lowest : int
        The lowest code of the grid, which may be above that of the type.
    axis : int
        Of channels.
    values : array, optional
        The codes themselves, of a weight.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    bits: int
    signed: bool
    lowest: int
    axis: int = 0
    values: np.ndarray | None = None

    @property
    def kind(self) -> int:
        import onnx

        return getattr(onnx.TensorProto, f"{'' if self.signed else 'U'}INT{self.bits}")

    @property
    def narrow(self) -> bool:
        """Whether the type has a code below the grid's."""
        return self.lowest > (-(2 ** (self.bits - 1)) if self.signed else 0)

    def transposed(self) -> Codes:
        """Of a matrix."""
        return replace(self, axis=1 - self.axis, values=self.values.T)


class Writer:
    """A graph that is being written: its nodes in order, its constants, and the names that it gave."""

    def __init__(self, graph: Any, names: Names):
        self.graph = graph
        self.names = names
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.given = {
            node.output[0]: node.attribute[0].t
            for node in graph.node
            if node.op_type == "Constant" and node.attribute[0].name == "value"
        }
        self.nodes: list[Any] = []

    def array(self, name: str) -> np.ndarray | None:
        """The value of a constant; ``None`` for a value that is computed."""
        from onnx import numpy_helper

        tensor = self.constants.get(name, self.given.get(name))
        return None if tensor is None else numpy_helper.to_array(tensor)

    def constant(self, name: str, kind: int, values: Any) -> str:
        """Add a constant of the type ``kind``, or find the one of that name and content; its name."""
        tensor = _tensor(kind, values)
        there = self.constants.get(name)
        if there is None or any(
            getattr(there, part) != getattr(tensor, part) for part in ("data_type", "dims", "raw_data")
        ):
            name = tensor.name = self.names.free(name)
            self.constants[name] = tensor
        return name

    def grid(self, name: str, codes: Codes) -> list[str]:
        """The names of scale and zero-point of the tensor ``name``."""
        import onnx

        return [
            self.constant(f"{name}_scale", onnx.TensorProto.FLOAT, codes.scale),
            self.constant(f"{name}_zero_point", codes.kind, codes.zero_point),
        ]

    def node(self, kind: str, name: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node; the name of what it gives."""
        from onnx import helper

        output = self.names.free(output)
        self.nodes.append(helper.make_node(kind, inputs, [output], name=self.names.free(name), **attributes))
        return output

    def quantize(self, name: str, values: str, codes: Codes) -> str:
        """Add a QuantizeLinear behind ``values``; the name of what it gives."""
        inputs = [values, *self.grid(name, codes)]
        return self.node("QuantizeLinear", f"{name}/QuantizeLinear", inputs, f"{name}_codes")

    def dequantize(self, name: str, values: str, codes: Codes) -> str:
        """Add a DequantizeLinear behind ``values``; the name of what it gives."""
        axis = {"axis": codes.axis} if codes.scale.ndim else {}
        grid = self.grid(name, codes)
        return self.node(
            "DequantizeLinear", f"{name}/DequantizeLinear", [values, *grid], f"{name}_quantized", **axis
        )

    def weight(self, name: str, codes: Codes) -> str:
        """Add the codes of a weight; the name of what DequantizeLinear gives for them."""
        return self.dequantize(name, self.constant(f"{name}_codes", codes.kind, codes.values), codes)

    def finish(self) -> None:
        """Put nodes and constants into the graph, and drop those that nothing reads."""
        wanted = {value.name for value in self.graph.output}
        kept = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted |= read_by(node)
        self.nodes = kept[::-1]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(tensor for name, tensor in self.constants.items() if name in wanted)


def read_by(node: Any) -> set[str]:
    """What a node reads, and the graphs in it."""
    found = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            found |= {value.name for value in inner.output}
            found = found.union(*map(read_by, inner.node))
    return found


def _tensor(kind: int, values: Any) -> Any:
    """A tensor without a name; 4-bit integers two a byte, the first in the lower half."""
    import onnx
    from onnx import helper

    array = np.asarray(values)
    if kind in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        halves = np.pad(array.astype(np.int8).reshape(-1) & 15, (0, array.size % 2)).astype(np.uint8)
        data = halves[::2] | halves[1::2] << 4
    else:
        data = array.astype(helper.tensor_dtype_to_np_dtype(kind))
    return onnx.TensorProto(data_type=kind, dims=array.shape, raw_data=data.tobytes())
