"""One process that times an ONNX file against another in ONNX Runtime: asked on standard input, answered on
standard output, both JSON. It imports no torch, whose threads would be beside those that are timed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .alternating import alternate_for


def ask(base: Path, other: Path, inputs: Path, threads: int, seconds: float) -> dict[str, Any]:
    """What a new process finds.

    Parameters
    ----------
    base, other
        The files, which take the same inputs in the same order.
    inputs
        A file of `numpy.savez`, whose arrays are given by their names, or else in their order.
    threads
        With which both run.
    seconds
        For which they run in turn.

    Returns
    -------
    dict
        ``pairs``: seconds of one run of the one and of the other, pair by pair; ``others``: how many
        processors other programs took meanwhile, ``None`` where the system does not say.

    Raises
    ------
    ValueError
        ONNX Runtime does not load or run a file.
    """
    question = {"files": [str(base), str(other)], "inputs": str(inputs)}
    # A notebook may have found this package by a path of its own
    found_in = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps({**question, "threads": threads, "seconds": seconds}),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": found_in.rstrip(os.pathsep)},
    )
    if done.returncode:
        reason = re.sub(r"(/[^/\s]+)+/", "", (done.stderr.strip() or "it was ended").splitlines()[-1])
        raise ValueError(f"ONNX Runtime does not run this network: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def options_of(threads: int, written: str = "") -> Any:
    """How a session runs; its optimized graph goes to the file ``written``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.optimized_model_filepath = written
    return options


def started(model: str | Path | bytes, options: Any) -> Any:
    """A session on the CPU, of a file or of what it holds."""
    import onnxruntime

    given = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def inputs_of(session: Any, path: str | Path) -> dict[str, Any]:
    """What a file of inputs holds, by a session's names."""
    import numpy as np

    with np.load(path) as arrays:
        inputs = dict(arrays)
    names = [entry.name for entry in session.get_inputs()]
    return inputs if set(inputs) == set(names) else dict(zip(names, inputs.values(), strict=True))


def runner(path: str, threads: int, inputs: str) -> Callable[[], object]:
    """What runs a file once."""
    session = started(path, options_of(threads))
    return partial(session.run, None, inputs_of(session, inputs))


def busy_seconds() -> float | None:
    """For how long processors have been busy since the machine started, with what its host gave to others;
    ``None`` where the system does not say.
    """
    try:
        spent = Path("/proc/stat").read_text("ascii").split()[1:9]
        user, nice, system, _, _, irq, softirq, steal = map(int, spent)
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """See `ask`. The time is that of the processor on one thread, by the clock on more."""
    works = [runner(path, question["threads"], question["inputs"]) for path in question["files"]]
    clock = time.process_time if question["threads"] == 1 else time.perf_counter
    passed, own, busy = time.perf_counter(), time.process_time(), busy_seconds()
    pairs = alternate_for(question["seconds"], *works, clock)
    passed, own = time.perf_counter() - passed, time.process_time() - own
    others = None if busy is None else max(0.0, busy_seconds() - busy - own) / passed
    return {"pairs": pairs, "others": others}


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
