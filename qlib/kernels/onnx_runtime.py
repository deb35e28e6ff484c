"""A quantized network as ONNX Runtime runs its file, beside the simulation: answers that differ, and the
kernels that ran.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..config import QuantConfig
from ..export import Change, export_onnx
from ..metrics import AGREEMENT
from ..network.inputs import copied, examples_in, first, inputs_of, run
from ..quantization import quantize


@dataclass
class FileRun:
    """A file in ONNX Runtime, beside the simulation.

    Parameters
    ----------
    optimized : bool
        Whether ONNX Runtime optimized the graph, which puts its integer kernels in the place of pairs.
    examples : int
        How many there are.
    differing : list of int
        The examples whose answers differ, by their place.
    kernels : Counter
        How often each kind of kernel ran in one pass, such as ``QLinearConv``.
    changes : list of Change
        What the file computes otherwise than the simulation, where it says so.
    """

    optimized: bool
    examples: int = 0
    differing: list[int] = field(default_factory=list)
    kernels: Counter[str] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)

    @property
    def equal(self) -> float:
        """The answers that are the simulation's, in percent."""
        return 100 - 100 * len(self.differing) / self.examples


def in_onnx_runtime(
    model: nn.Module,
    config: QuantConfig,
    calibration: Iterable | Tensor | None,
    batches: Iterable | Tensor,
    method: Any = "nearest",
    target: str = "onnxruntime",
) -> list[FileRun]:
    """Export a network and run the file in ONNX Runtime, on one thread of the CPU: as it stands, and with
    graph optimizations, as ONNX Runtime does by default.

    Parameters
    ----------
    model, config, calibration, method, target
        As for `qlib.export.export_onnx`. What it warns of is not repeated here: the kernels show it.
    batches
        Inputs, or pairs of inputs and labels, which are not looked at.

    Returns
    -------
    list of FileRun
        Without and with optimizations.

    Raises
    ------
    ValueError
        As `export_onnx`; ONNX Runtime is not installed; there are no examples, or outputs are no class
        scores.
    """
    given = inputs_of(batches, "evaluation")
    if not given:
        raise ValueError(
            "there are no examples: batches is empty (a generator may have been used up already)"
        )
    pairs = [(inputs, None) for inputs in inputs_of(calibration)]
    simulation = quantize(model, config, pairs, method)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            changes = export_onnx(model, config, pairs, first(given[0], 2), path, method, target=target)
        found = [FileRun(optimized, changes=changes) for optimized in (False, True)]
        sessions = [_session(path, each.optimized) for each in found]
        for i, inputs in enumerate(given):
            with torch.no_grad():
                simulated = run(simulation, copied(inputs), f"evaluation batch {i}")
            for each, session in zip(found, sessions, strict=True):
                answers = torch.from_numpy(session.run(None, _feed(session, inputs))[0])
                if i == 0:  # a profile grows with every pass
                    each.kernels = _kernels(session.end_profiling())
                apart = (AGREEMENT.each(answers, simulated.cpu()) < 100).nonzero().flatten()
                each.differing += [each.examples + int(place) for place in apart]
                each.examples += examples_in(inputs)
    return found


def _session(path: Path, optimized: bool) -> Any:
    """One that keeps a profile beside the file."""
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(
            "running an ONNX file needs the package onnxruntime: pip install onnxruntime"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_name(f"profile_{optimized}"))
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _feed(session: Any, inputs: Any) -> dict[str, np.ndarray]:
    """Inputs by the file's names, which are the network's where there are several."""
    names = [each.name for each in session.get_inputs()]
    if isinstance(inputs, Mapping) and len(names) > 1:
        tensors = [inputs[name] for name in names]
    else:
        tensors = pytree.tree_leaves(inputs)
    return {name: tensor.cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}


def _kernels(profile: str) -> Counter[str]:
    """The kinds of kernels of the one pass that a profile holds."""
    events = json.loads(Path(profile).read_text("utf8"))
    return Counter(
        event["args"]["op_name"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )
