"""From placeholders to pairs of QuantizeLinear and DequantizeLinear, and weights as integer codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .changes import ONE_CODE_MORE, Change
from .naming import Names, rename

NEVER_NEGATIVE = ("Relu", "Sigmoid", "Softmax")


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

    def dequantize(self, name: str, values: str, codes: Codes) -> str:
        """Add a DequantizeLinear behind ``values``; the name of what it gives."""
        axis = {"axis": codes.axis} if codes.scale.ndim else {}
        grid = self.grid(name, codes)
        return self.node(
            "DequantizeLinear", f"{name}/DequantizeLinear", [values, *grid], f"{name}_quantized", **axis
        )

    def weight(self, name: str, codes: Codes) -> str:
        return self.dequantize(name, self.constant(f"{name}_codes", codes.kind, codes.values), codes)

    def finish(self) -> None:
        """Put nodes and constants into the graph, but for those that nothing reads."""
        wanted = {value.name for value in self.graph.output}
        kept = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted |= read_by(node)
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(reversed(kept))
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


def write_pairs(writer: Writer, codes: Mapping[str, Codes], clip: bool) -> list[Change]:
    """Fill ``writer`` with the nodes of its graph, pairs in the place of placeholders.

    Parameters
    ----------
    writer
        Of a graph whose placeholders have names.
    codes
        How each of these is written.
    clip
        Whether values below a grid that is narrower than its type are clipped to it; else they get the lowest
        code of the type, which is said.
    """
    new: dict[str, str] = {}  # by placeholder, what stands for it
    weights: dict[str, str] = {}  # by placeholder, the weight's name
    written: dict[tuple[str, bool], str] = {}
    changes = []

    def weight(name: str, flat: bool) -> str:
        if (name, flat) not in written:
            found = codes[name].transposed() if flat else codes[name]
            written[name, flat] = writer.weight(name, found)
        return written[name, flat]

    producers = {value: node for node in writer.graph.node for value in node.output}
    for node in writer.graph.node:
        output = node.output[0]
        if node.op_type != "Codes":
            if node.op_type == "Transpose" and node.input[0] in weights:  # of a matrix: its codes instead
                new[output] = weight(weights[node.input[0]], True)
                continue
            for value in read_by(node) & weights.keys():
                new[value] = weight(weights[value], False)
            rename(node, new)
            writer.nodes.append(node)
            continue
        name = node.attribute[0].s.decode()
        if codes[name].values is not None:
            weights[output] = name
            continue
        source = new.get(node.input[0], node.input[0])
        before = producers.get(node.input[0])
        if codes[name].narrow and not _never_negative(writer, before):
            if clip:
                source = _clipped(writer, name, source, codes[name])
            else:
                changes.append(Change(name, ONE_CODE_MORE, float(codes[name].scale)))
        quantized = writer.node(
            "QuantizeLinear",
            f"{name}/QuantizeLinear",
            [source, *writer.grid(name, codes[name])],
            f"{name}_codes",
        )
        new[output] = writer.dequantize(name, quantized, codes[name])
    _name_outputs(writer, new)
    return changes


def _never_negative(writer: Writer, node: Any) -> bool:
    """Whether a node gives nothing below 0."""
    if node is not None and node.op_type == "Clip" and len(node.input) > 1:
        low = writer.array(node.input[1])
        return low is not None and low >= 0
    return node is not None and node.op_type in NEVER_NEGATIVE


def _clipped(writer: Writer, name: str, source: str, codes: Codes) -> str:
    import onnx

    low = writer.constant(f"{name}_low", onnx.TensorProto.FLOAT, codes.lowest * codes.scale)
    return writer.node("Max", f"{name}/Max", [source, low], f"{name}_clipped")


def _name_outputs(writer: Writer, new: Mapping[str, str]) -> None:
    """Let what stands for a placeholder that was an output of the graph bear the output's name."""
    back = {new[value.name]: value.name for value in writer.graph.output if value.name in new}
    for node in writer.nodes:
        rename(node, back)
