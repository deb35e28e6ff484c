"""An ONNX file as it lies there, read with care: it may come from a stranger. Needs the extra ``onnx``.

What lies in a file beside it is read where that file is in the same folder or below, and nowhere else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 2**31  # of the file, the limit of its format; and of one tensor beside it
MAX_NODES = 100_000
MAX_REASON = 200  # characters of an error that is not ours
FLOATS = {"FLOAT": 32, "FLOAT16": 16, "BFLOAT16": 16, "DOUBLE": 64}
CODES = re.compile(r"(U?)INT(2|4|8|16|32)")
NAMES_LAYERS = re.compile(r"Conv|Gemm|MatMul|Quant|QLinear|Einsum")


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor of the file: its name, shape, the name of its type, and its values when they are asked for."""

    name: str
    dims: tuple[int, ...]
    kind: str
    tensor: Any
    folder: Path

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bits(self) -> int | None:
        """Of an element in the file; ``None`` for a type that no grid and no weight has."""
        found = CODES.fullmatch(self.kind)
        return int(found[2]) if found else FLOATS.get(self.kind)

    @property
    def integer(self) -> bool:
        return CODES.fullmatch(self.kind) is not None

    @cached_property
    def values(self) -> np.ndarray | None:
        """``None`` where they lie in another file that is not there, too short, or none of this folder."""
        import onnx

        tensor = self.tensor
        if self.bits is None:
            return None
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            content = self._beside()
            if content is None:
                return None
            tensor = onnx.TensorProto(data_type=tensor.data_type, dims=self.dims, raw_data=content)
        # Before anything of that size is made. The shortest form of a tensor is a list of numbers of up to 64
        # bits, of which small ones take one byte each
        if self.elements * self.bits > 64 * tensor.ByteSize():
            raise ValueError(f"the values of {self.name[:100]!r} are not there")
        try:
            return onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # whatever the reader makes of a stranger's bytes
            message = f"the values of {self.name[:100]!r} cannot be read ({type(error).__name__})"
            raise ValueError(message) from None

    def _beside(self) -> bytes | None:
        said = {entry.key: entry.value for entry in self.tensor.external_data}
        needed = -(-self.elements * self.bits // 8)
        try:
            offset = int(said.get("offset", 0))
            path = (self.folder / said.get("location", "")).resolve()
            if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
                return None
            if offset < 0 or not 0 <= needed <= min(MAX_BYTES, path.stat().st_size - offset):
                return None
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(needed)
        except (ValueError, OSError):
            return None


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """The graph of a file, its constants by name, and the types of its inputs by name."""

    graph: Any
    constants: dict[str, Constant]
    inputs: dict[str, str]


def read_file(path: str | Path) -> OnnxFile:
    """A file that is an ONNX model.

    Raises
    ------
    ValueError
        In one line, for one that is none, or that hides layers where they are not looked for.
    OSError
        If it cannot be read.
    """
    try:
        import onnx
    except ImportError:
        raise ValueError(
            'reading ONNX needs the package onnx: pip install "quantization-tradeoffs[onnx]"'
        ) from None
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is not an ONNX model: it is larger than its format allows")
    try:
        model = onnx.load(str(path), load_external_data=False)  # never follow a path that the file names
        constants = {constant.name: constant for constant in _constants(model.graph, path.parent, onnx)}
        # So that nodes have their inputs and there is no circle among them
        onnx.checker.check_model(model)
    except OSError:
        raise
    except Exception as error:  # whatever the parser makes of a stranger's bytes
        raise ValueError(f"{path} is not an ONNX model ({_reason(error)})") from None
    if not model.graph.node:
        raise ValueError(f"{path} is not an ONNX model: its graph is empty")
    if len(model.graph.node) > MAX_NODES:
        raise ValueError(f"{path} has more than {MAX_NODES:,} nodes, too many for a card")
    if not all(isinstance(text, str) for text in _names(model.graph)):  # but bytes that are no text
        raise ValueError(f"{path} is not an ONNX model: it has names that are not text")
    _refuse_hidden(model, path)
    kinds = onnx.TensorProto.DataType
    inputs = {
        value.name: kinds.Name(value.type.tensor_type.elem_type)
        for value in model.graph.input
        if value.name not in constants
    }
    return OnnxFile(model.graph, constants, inputs)


def _reason(error: Exception) -> str:
    """An error's kind and the first line of what it says, which may quote a stranger's bytes."""
    said = next(filter(None, map(str.strip, str(error).splitlines())), "")
    said = "".join(c if c.isprintable() else "?" for c in said[:MAX_REASON])
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _constants(graph: Any, folder: Path, onnx: Any) -> Iterator[Constant]:
    def of(name: str, tensor: Any) -> Constant:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        dims = tuple(tensor.dims)
        if any(size < 0 for size in dims):
            raise ValueError("a negative size")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor = _put_aside(tensor)
        return Constant(name, dims, kind, tensor, folder)

    for tensor in graph.initializer:
        yield of(tensor.name, tensor)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute:
            value = onnx.helper.get_attribute_value(node.attribute[0])
            if node.attribute[0].name == "value":
                yield of(node.output[0], value)
            elif node.attribute[0].name in ("value_float", "value_floats", "value_int", "value_ints"):
                array = np.asarray(value, "float32" if "float" in node.attribute[0].name else "int64")
                yield of(node.output[0], onnx.numpy_helper.from_array(array))


def _put_aside(tensor: Any) -> Any:
    """A tensor whose values lie in another file; in the model it is made empty, so that the checker does not
    look for that file.
    """
    kept = type(tensor)()
    kept.CopyFrom(tensor)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.dims[:] = [0]
    return kept


def _names(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    yield from (value.name for value in (*graph.initializer, *graph.input, *graph.output))


def _refuse_hidden(model: Any, path: Path) -> None:
    """Raise ``ValueError`` where a function of the file, a branch or a loop holds layers or quantizers."""
    inner = [node for function in model.functions for node in function.node]
    waiting = [node for node in model.graph.node if any(a.HasField("g") or a.graphs for a in node.attribute)]
    while waiting:
        for attribute in waiting.pop().attribute:
            for graph in [attribute.g, *attribute.graphs]:
                inner += graph.node
                waiting += graph.node
    for node in inner:
        if NAMES_LAYERS.search(node.op_type):
            raise ValueError(
                f"{path}: {node.op_type} stands inside a function, a branch or a loop, where a card does not "
                "look; onnx.inliner.inline_local_functions writes out functions"
            )
