"""A model that explains times: every kernel takes as long as its multiplications at the machine's peak, or
its bytes at its bandwidth, whichever is longer. Constants come from memory, activations from the caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from .alternating import runs_of_a_block, seconds
from .work import IN_FLOAT

SIZE = 1024  # rows and columns of the products
FROM_MEMORY = 256_000_000  # bytes, more than caches hold
FROM_CACHES = 500_000
MISSED = 0.05  # of the network's time


def machine(threads: int = 1) -> dict[str, float]:
    """What this machine reaches in ONNX Runtime: multiplications a second in ``float``, of ``codes``
    (unsigned by signed), and of codes whose weights have ``zero_points`` (unsigned by unsigned); and bytes a
    second that one thread reads or writes in ``memory`` and in its ``caches``.
    """
    kinds = {
        "float": ("MatMul", np.float32, np.float32),
        "codes": ("MatMulInteger", np.uint8, np.int8),
        "zero_points": ("MatMulInteger", np.uint8, np.uint8),
    }
    clock = time.process_time if threads == 1 else time.perf_counter
    found = {name: SIZE**3 / _fastest(_product(*kind, threads), clock) for name, kind in kinds.items()}
    places = {"memory": FROM_MEMORY, "caches": FROM_CACHES}
    return found | {
        name: 2 * size / _fastest(_copy(size), time.process_time) for name, size in places.items()
    }


def _fastest(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of one run."""
    count = runs_of_a_block(work, clock)
    return min(seconds(work, count, clock) for _ in range(9)) / count


def _copy(size: int) -> Callable[[], object]:
    source = np.ones(size, np.uint8)
    return partial(np.copyto, np.empty_like(source), source)


def _product(operator: str, left: type, right: type, threads: int) -> Callable[[], object]:
    """What multiplies two matrices, the second of which is a constant, as weights are."""
    from onnx import helper, numpy_helper

    from .process import options_of, started

    draw = np.random.default_rng(0)
    weight = draw.integers(0, 127, (SIZE, SIZE)).astype(right)
    constants = [numpy_helper.from_array(weight, "weight")]
    inputs = ["x", "weight"]
    if operator == "MatMulInteger":
        zeros = {"x_zero": np.array(3, left), "weight_zero": np.array(5 if right is np.uint8 else 0, right)}
        constants += [numpy_helper.from_array(value, name) for name, value in zeros.items()]
        inputs += zeros
    out = np.float32 if left is np.float32 else np.int32
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"])],
        "product",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(left)), [SIZE, SIZE])],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(out)), [SIZE, SIZE])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = started(model.SerializeToString(), options_of(threads))
    return partial(session.run, None, {"x": draw.integers(0, 127, (SIZE, SIZE)).astype(left)})


def modelled(kind: str, done: Mapping[str, float], machine: Mapping[str, float]) -> float:
    """Milliseconds of one kind of operator (`qlib.kernels.work`): extra sums count as multiplications."""
    peak = machine["float" if kind in IN_FLOAT else "codes"]
    computed = (done["multiplications"] + done["extra_sums"]) / peak
    moved = done["constant_bytes"] / machine["memory"] + done["activation_bytes"] / machine["caches"]
    return 1000 * max(computed, moved)


def explained(work: Mapping[str, Mapping[str, float]], machine: Mapping[str, float]) -> list[dict[str, Any]]:
    """Of every kind of operator the ``milliseconds``, those of the ``model``, and whether the model
    ``missed`` by more than a twentieth of the network's time: the longest first.
    """
    whole = sum(done["milliseconds"] for done in work.values())
    rows = []
    for kind, done in work.items():
        model = modelled(kind, done, machine)
        missed = abs(done["milliseconds"] - model) > MISSED * whole
        rows.append({"operator": kind, **done, "model": model, "missed": missed})
    return sorted(rows, key=lambda row: -row["milliseconds"])
