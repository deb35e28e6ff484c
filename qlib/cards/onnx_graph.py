"""The graph of an ONNX file, walked once from its inputs to its outputs, and what it shows of quantization.

Three ways of writing are read: pairs of QuantizeLinear and DequantizeLinear (or QONNX's Quant) around
ordinary operators, operators on codes (QLinearConv and its kin), and layers that quantize their input
themselves or hold packed weights (MatMulInteger, MatMulNBits).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .onnx_codes import DYNAMIC, UINT8, UNREAD, CodeGrid, Stored, codes_of, kind_of, stored_of, unread
from .onnx_file import Constant, read_file
from .onnx_operators import (
    ACTIVATIONS,
    ADDITIONS,
    GIVES_AT,
    JOIN,
    KEEP_GRID,
    LAYERS,
    NO_WEIGHTS,
    ON_CODES,
    PRODUCTS,
    QUANTIZERS,
    RECURRENT,
)
from .onnx_values import NOTHING, Layer, Value, shared
from .onnx_weights import attribute, constant_value, packed_table, quant, reordered, table_of, weights_of

MAX_BITS_BEHIND = 2**31  # of memory for which layers a tensor depends on


class Graph:
    """An ONNX graph. What it found stands in its lists: ``layers``, ``tables`` (embeddings), ``biases`` by
    layer, ``quantizers`` (of every tensor that is quantized at run time: whose values it is, and its grid),
    ``entries`` (bits at which an input enters, by input) and ``unread`` (operators that may hold weights).
    """

    def __init__(self, path: str | Path):
        file = read_file(path)
        self.nodes = list(file.graph.node)
        self.constants = dict(file.constants)
        self.outputs = [value.name for value in file.graph.output]
        self.input_kinds = file.inputs
        self.layers: list[Layer] = []
        self.tables: list[Stored] = []
        self.biases: dict[str, Stored] = {}
        self.quantizers: list[tuple[str, CodeGrid | str]] = []
        self.entries: dict[str, set[Any]] = {}
        self.unread: list[str] = []
        self._without_bias: set[str] = set()
        used = Counter(node.name for node in self.nodes)
        self.names = [n.name if n.name and used[n.name] == 1 else n.output[0] for n in self.nodes]
        self.values: dict[str, Value] = {
            name: Value(False, stored=stored_of(constant)) for name, constant in self.constants.items()
        }
        # Bits up to the 64th are the inputs', which share them where there are more
        for number, (name, kind) in enumerate(file.inputs.items()):
            integer = kind in ("INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4")
            known = kind_of(kind) if integer else None
            self.values[name] = Value(True, name, kind=known, behind=1 << number % 64)
        for tensor in file.graph.sparse_initializer:
            self.values[tensor.values.name] = Value(False, stored=unread(tensor.values.name))
        count = sum(node.op_type in LAYERS for node in self.nodes) + len(file.inputs)
        self.knows_paths = count * len(self.nodes) <= MAX_BITS_BEHIND
        for node, name in zip(self.nodes, self.names, strict=True):
            for place, output in enumerate(node.output):
                if node.op_type == "Identity" and node.input[0] in self.constants:
                    self.constants[output] = self.constants[node.input[0]]
                if output and node.op_type != "Constant":
                    self.values[output] = self._value(node, name, place)

    # --------------------------------------------------------------------------------------------------------
    # What a node is given

    def value(self, name: str) -> Value:
        return self.values.get(name, NOTHING)

    def given(self, node: Any, place: int | None) -> Value:
        return self.value(node.input[place]) if place is not None and place < len(node.input) else NOTHING

    def constant(self, node: Any, place: int | None) -> Constant | None:
        """The constant at a place of what a node is given, seen through Identity."""
        if place is None or place >= len(node.input):
            return None
        return self.constants.get(node.input[place])

    def has(self, node: Any, place: int | None) -> bool:
        return place is not None and place < len(node.input) and bool(node.input[place])

    @cached_property
    def users(self) -> dict[str, list[Any]]:
        """The nodes that are given a tensor, by its name."""
        found: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def producer(self) -> dict[str, Any]:
        return {output: node for node in self.nodes for output in node.output}

    # --------------------------------------------------------------------------------------------------------
    # What a node makes

    def _value(self, node: Any, name: str, place: int) -> Value:
        kind = node.op_type
        inputs = [self.value(given) for given in node.input if given]
        live = any(value.live for value in inputs) and kind not in ("Shape", "Size")
        if not live:
            return Value(False, stored=constant_value(self, node, name, place))
        behind = 0
        for value in inputs:
            behind |= value.behind
        made = Value(True, name, behind=behind)
        if place == 0 and kind in LAYERS:
            made = self._layer(node, name, made)
        elif place == 0:
            self._note(node)
        if kind == "QuantizeLinear":
            return self._quantized(node, made)
        if kind == "DynamicQuantizeLinear":
            return self._run_time(node, made, DYNAMIC, UINT8) if place == 0 else made
        if kind == "DequantizeLinear":
            return self._dequantized(node, made)
        if kind in ("Quant", "BipolarQuant", "IntQuant"):
            return self._run_time(node, made, quant(self, node))
        if kind.startswith("QLinear") or kind == "QGemm":
            return self._on_codes(node, made, name)
        if kind in LAYERS:
            return made  # sums, in float or as wide integers
        return self._ordinary(node, made)

    def _layer(self, node: Any, name: str, made: Value) -> Value:
        """Note a layer, if the node is one and no product of two activations."""
        kind = node.op_type
        x, w, b = LAYERS[kind]
        if not self.given(node, x).live and kind in PRODUCTS:
            x, w = w, x
        given = self.given(node, x)
        if self.given(node, w).live or not given.live:
            return made
        if kind == "DynamicQuantizeMatMul":
            self._quantizer(given.source, DYNAMIC)
            inputs: CodeGrid | str | None = DYNAMIC
        elif kind == "MatMulNBits" and attribute(node, "accuracy_level", 0) == 4:
            inputs = UNREAD  # the kernel may quantize what it is given
        else:
            inputs = given.grid
            if given.kind is not None and inputs is None:
                inputs = self._from_outside(node, given, x if kind in ON_CODES else None)
        self.layers.append(
            Layer(name, inputs, given.source, weights_of(self, node, w), kind, reordered(self, node))
        )
        if self.has(node, b):
            self.biases[name] = self.given(node, b).stored or unread(name)
        elif kind in PRODUCTS:
            self._without_bias.add(name)
        bit = 1 << 64 + len(self.layers) if self.knows_paths else 0
        return replace(made, behind=made.behind | bit)

    def _from_outside(self, node: Any, given: Value, place: int | None) -> CodeGrid | str:
        """The grid of codes that are an input of the network; without a place its scale is not known."""
        codes: CodeGrid | str = UNREAD
        if place is not None and given.kind is not None:
            codes = codes_of(given.kind, self.constant(node, place + 1), self.constant(node, place + 2))
        self._quantizer(given.source, codes)
        return codes

    def _bias(self, node: Any) -> Value | None:
        """What a node adds a bias to, if it does that to the result of a layer that has none yet."""
        operands = [self.given(node, place) for place in (0, ADDITIONS[node.op_type])]
        live = [value for value in operands if value.live]
        added = [value.stored for value in operands if not value.live and value.stored is not None]
        if (
            len(live) != 1
            or len(added) != 1
            or added[0].rank != 1
            or live[0].source not in self._without_bias
        ):
            return None
        self._without_bias.remove(live[0].source)
        self.biases[live[0].source] = added[0]
        return live[0]

    def _ordinary(self, node: Any, made: Value) -> Value:
        kind = node.op_type
        inputs = [self.value(given) for given in node.input if given]
        first = next(value for value in inputs if value.live)
        if kind in ADDITIONS and (to := self._bias(node)):
            return replace(made, source=to.source)
        if (
            kind == "Clip" and first.kind and isinstance(first.grid, CodeGrid)
        ):  # a grid narrower than its type
            return replace(first, grid=self.limited(node, first.grid), behind=made.behind)
        if kind in ("Gather", "GatherBlockQuantized") and inputs[0] is not first:  # a table
            table = self.constant(node, 0)
            if kind == "Gather" and table is not None and table.integer and table.bits <= 16:
                return replace(made, kind=kind_of(table.kind))
            return replace(made, grid=inputs[0].stored.codes if inputs[0].stored else None)
        if kind in JOIN:
            return replace(made, grid=shared(inputs[1:] if kind == "Where" else inputs), kind=first.kind)
        if kind in KEEP_GRID:
            return replace(made, source=first.source, grid=first.grid, kind=first.kind)
        if kind in ACTIVATIONS:  # a limit may lie between two codes
            return replace(made, source=first.source, grid=UNREAD if first.grid else None, kind=first.kind)
        # An operator on codes that is not known here
        return replace(made, grid=UNREAD if first.kind else None, kind=first.kind)

    def _note(self, node: Any) -> None:
        """Keep account of tables that are looked up, and of operators that may hold weights unseen."""
        kind = node.op_type
        given = [self.value(name).stored for name in node.input]
        if kind == "GatherBlockQuantized":
            self.tables.append(packed_table(self, node))
        elif kind == "Gather" and given[0] is not None and given[0].rank == 2:
            self.tables.append(table_of(self, node))
        own = node.domain not in ("", "ai.onnx") and not kind.startswith("QLinear")
        if kind in RECURRENT or own and kind not in (*QUANTIZERS, *NO_WEIGHTS, "GatherBlockQuantized"):
            if any(stored is not None and stored.rank > 1 for stored in given):
                self.unread.append(kind)

    def _quantized(self, node: Any, made: Value) -> Value:
        first = self.given(node, 0)
        kind = self.kind_given(node, 2)
        codes = UNREAD
        if kind is not None and (not self.has(node, 2) or self.constant(node, 2) is not None):
            codes = codes_of(kind, self.constant(node, 1), self.constant(node, 2))
            if attribute(node, "block_size", 0):
                codes = replace(codes, granularity=frozenset())
        return self._run_time(node, replace(made, source=first.source), codes, kind)

    def _run_time(
        self, node: Any, made: Value, codes: CodeGrid | str, kind: tuple[int, bool] | None = None
    ) -> Value:
        source = self.given(node, 0).source
        self._quantizer(source, codes)
        return replace(made, source=source, grid=codes, kind=kind)

    def _quantizer(self, source: str, codes: CodeGrid | str) -> None:
        self.quantizers.append((source, codes))
        if source in self.input_kinds:
            self.entries.setdefault(source, set()).add(codes.bits if isinstance(codes, CodeGrid) else UNREAD)

    def _dequantized(self, node: Any, made: Value) -> Value:
        first = self.given(node, 0)
        if first.grid is not None or first.kind is None:
            codes = first.grid or UNREAD
        elif first.source in self.input_kinds:
            codes = self._from_outside(node, first, 0)
        else:  # rows of a table
            codes = codes_of(first.kind, self.constant(node, 1), self.constant(node, 2))
        return replace(made, source=first.source, grid=codes)

    def kind_given(self, node: Any, place: int) -> tuple[int, bool] | None:
        """Of the codes that a quantizer gives: the type of its zero-point, or what it says itself."""
        if not self.has(node, place):
            import onnx

            said = attribute(node, "output_dtype", 0)
            return kind_of(onnx.TensorProto.DataType.Name(said)) if said else UINT8
        zero = self.constant(node, place)
        return None if zero is None else kind_of(zero.kind)

    def _on_codes(self, node: Any, made: Value, name: str) -> Value:
        place = GIVES_AT.get(node.op_type, 3)
        if node.op_type == "QGemm" and not self.has(node, place):  # gives float
            return made
        zero = self.constant(node, place + 1)
        given = self.given(node, 2 if node.op_type == "QLinearConcat" else 0).kind
        kind = kind_of(zero.kind) if zero is not None else given
        known = kind is not None and (zero is not None or not self.has(node, place + 1))
        codes = codes_of(kind, self.constant(node, place), zero) if known else UNREAD
        source = name
        if node.op_type in ADDITIONS and (to := self._bias(node)):
            source = to.source
        self._quantizer(source, codes)
        return replace(made, source=source, grid=codes, kind=kind)

    def limited(self, node: Any, codes: CodeGrid) -> CodeGrid | str:
        low, high = (self.number(node, place) for place in (1, 2))
        if low is None or high is None or not 0 < high - low < 2**32:
            return UNREAD
        bits = int(high - low).bit_length()
        return replace(codes, bits=bits) if bits < codes.bits else codes

    def number(self, node: Any, place: int) -> float | None:
        constant = self.constant(node, place)
        whole = constant is not None and constant.elements == 1 and constant.values is not None
        return float(constant.values.reshape(())) if whole else None
