"""What the kernels of a file do, and how long each kind takes: multiplications, extra sums, requantizations
and bytes moved, counted in the graph that ONNX Runtime runs.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .process import inputs_of, options_of, started

ON_CODES = ("QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat")
IN_FLOAT = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
PLACE_OF_WEIGHT = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}  # else 1
PLACE_OF_ZERO_POINT = {  # of the weight, among the inputs
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat"), 5),
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), 3),
}
RUNS = 9
ZERO = {
    "count": 0,
    "milliseconds": 0.0,
    "multiplications": 0,
    "extra_sums": 0,
    "requantizations": 0,
    "activation_bytes": 0,
    "constant_bytes": 0,
}


def work(path: Path, inputs: Path, threads: int = 1) -> dict[str, dict[str, float]]:
    """What every kind of operator does in one run.

    Parameters
    ----------
    path, inputs, threads
        A file, its inputs and threads as for `qlib.kernels.process.ask`.

    Returns
    -------
    dict
        By operator: ``count``, ``milliseconds`` (of each node the least of several runs);
        ``multiplications``, of channels too that the runtime's layout adds; ``extra_sums``, the additions of
        activation codes that zero-points of weights need (the paper's section 2.1); ``requantizations``,
        values that are rounded to codes; and bytes moved, once each: ``activation_bytes`` of inputs and
        outputs, ``constant_bytes`` of weights and such.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = str(Path(folder, "optimized.onnx"))
        options = options_of(threads, written)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = started(path, options)
        given = inputs_of(session, inputs)
        for _ in range(RUNS):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text("utf8"))
        graph = _Graph(written)
    runs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            runs[event["name"].removesuffix("_kernel_time")].append(event)
    found: dict[str, dict[str, float]] = {}
    for name, each in runs.items():
        counted = {**graph.counts(name, each[0]["args"]), "count": 1}
        counted["milliseconds"] = min(event["dur"] for event in each) / 1000
        kind = each[0]["args"]["op_name"]
        before = found.setdefault(kind, dict(ZERO))
        found[kind] = {part: before[part] + counted.get(part, 0) for part in ZERO}
    return found


class _Graph:
    """The optimized graph: which constants a node has."""

    def __init__(self, path: str):
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(path).graph
        self.nodes = {node.name: node for node in graph.node}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def counts(self, name: str, said: Mapping[str, Any]) -> dict[str, int]:
        """Of one node, from its constants and the shapes that were seen."""
        node = self.nodes[name]
        kind = node.op_type
        outputs = [math.prod(shape) for _, shape in map(_type_and_shape, said["output_type_shape"])]
        constants = [self.constants[value] for value in node.input if value in self.constants]
        found = {
            "activation_bytes": int(said["activation_size"]) + int(said["output_size"]),
            "constant_bytes": sum(constant.nbytes for constant in constants),
        }
        if kind in ON_CODES or kind in IN_FLOAT:
            found["multiplications"] = outputs[0] * self._length(node, said)
        if kind in ON_CODES and self._has_zero_points(node):
            # Of every place of the output the codes that meet it are added once, whatever the channels
            found["extra_sums"] = found["multiplications"] // self._channels(node, said)
        if kind == "QuantizeLinear" or kind.startswith(("QLinear", "QGemm")):
            found["requantizations"] = outputs[0]
        return found

    def _weight(self, node: Any, said: Mapping[str, Any]) -> list[int]:
        """The shape of the second factor, which is a constant, or computed."""
        constant = self.constants.get(node.input[PLACE_OF_WEIGHT.get(node.op_type, 1)])
        if constant is not None:
            return list(constant.shape)
        place = PLACE_OF_WEIGHT.get(node.op_type, 1)
        return _type_and_shape(said["input_type_shape"][place])[1]

    def _length(self, node: Any, said: Mapping[str, Any]) -> int:
        """How many products are added for a value of the output."""
        shape = self._weight(node, said)
        if "Conv" in node.op_type:
            return math.prod(shape[1:])
        return math.prod(shape[-2:]) // self._channels(node, said)

    def _channels(self, node: Any, said: Mapping[str, Any]) -> int:
        if "Conv" in node.op_type:
            return self._weight(node, said)[0]
        return _type_and_shape(said["output_type_shape"][0])[1][-1]

    def _has_zero_points(self, node: Any) -> bool:
        """Whether some code of the weight that stands for 0 is not 0."""
        place = PLACE_OF_ZERO_POINT[node.op_type]
        zero = self.constants.get(node.input[place]) if place < len(node.input) else None
        return zero is not None and bool((zero != 0).any())


def _type_and_shape(said: Mapping[str, list[int]]) -> tuple[str, list[int]]:
    ((kind, shape),) = said.items()
    return kind, shape
