"""From placeholders to pairs of QuantizeLinear and DequantizeLinear, and weights as integer codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .changes import ONE_CODE_MORE, Change
from .naming import rename
from .writer import Codes, Writer, read_by

NEVER_NEGATIVE = ("Relu", "Sigmoid", "Softmax")


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
    pairs = _Pairs(writer, codes, clip)
    for node in writer.graph.node:
        if node.op_type != "Codes":
            pairs.keep(node)
        elif codes[_named(node)].values is not None:
            pairs.weights[node.output[0]] = _named(node)
        else:
            pairs.activation(node)
    pairs.name_outputs()
    return pairs.changes


def _named(placeholder: Any) -> str:
    return placeholder.attribute[0].s.decode()


class _Pairs:
    """What has been written of a graph."""

    def __init__(self, writer: Writer, codes: Mapping[str, Codes], clip: bool):
        self.writer = writer
        self.codes = codes
        self.clip = clip
        self.givers = {value: node for node in writer.graph.node for value in node.output}
        self.new: dict[str, str] = {}  # by placeholder, what stands for it
        self.weights: dict[str, str] = {}  # by placeholder, the weight's name
        self.written: dict[tuple[str, bool], str] = {}
        self.changes: list[Change] = []

    def keep(self, node: Any) -> None:
        """An operation, which reads weights from their codes; where one is transposed, its codes are."""
        if node.op_type == "Transpose" and node.input[0] in self.weights:
            self.new[node.output[0]] = self.weight(self.weights[node.input[0]], transposed=True)
            return
        for value in sorted(read_by(node) & self.weights.keys()):
            self.new[value] = self.weight(self.weights[value])
        rename(node, self.new)
        self.writer.nodes.append(node)

    def weight(self, name: str, transposed: bool = False) -> str:
        """What DequantizeLinear gives for a weight; written once."""
        if (name, transposed) not in self.written:
            codes = self.codes[name].transposed() if transposed else self.codes[name]
            self.written[name, transposed] = self.writer.weight(name, codes)
        return self.written[name, transposed]

    def activation(self, node: Any) -> None:
        """A pair in the place of a placeholder."""
        name = _named(node)
        codes = self.codes[name]
        source = self.new.get(node.input[0], node.input[0])
        if codes.narrow and not _never_negative(self.writer, self.givers.get(node.input[0])):
            if self.clip:
                source = _clipped(self.writer, name, source, codes)
            else:
                self.changes.append(Change(name, ONE_CODE_MORE, float(codes.scale)))
        quantized = self.writer.quantize(name, source, codes)
        self.new[node.output[0]] = self.writer.dequantize(name, quantized, codes)

    def name_outputs(self) -> None:
        """Let what stands for a placeholder that was an output of the graph bear the output's name."""
        outputs = [value.name for value in self.writer.graph.output]
        back = {self.new[name]: name for name in outputs if name in self.new}
        for node in self.writer.nodes:
            rename(node, back)


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
