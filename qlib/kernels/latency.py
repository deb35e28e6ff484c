"""How long a quantized network takes on integer kernels, as a share of the time of the float network."""

from __future__ import annotations

import dataclasses
import platform
import statistics
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import QuantConfig
from ..export.unfused import IN_FLOAT as EXPECTED
from ..intervals import around
from ..names import suggestion
from ..provenance import processor
from .process import ask, options_of, started
from .work import IN_FLOAT

if TYPE_CHECKING:
    from torch import nn

RUNTIMES = ("onnxruntime",)
BUSY = 0.1  # processors that other programs take
FLAGS = ("avx2", "avx512f", "vnni", "amx", "asimddp", "i8mm", "sve")  # of instructions, wholly or in part


@dataclasses.dataclass(frozen=True)
class Latency:
    """The time of a quantized network against the float one.

    Parameters
    ----------
    ratio
        The time that the quantized network takes over that of the float network: the geometric mean of
        ``ratios``.
    interval
        Of 95 % (Student 1908), over processes, on this machine.
    kernels
        How often which operator stands in the graph that ran, after the runtime's optimizations.
    runtime
        Its name, version and number of threads.
    hardware
        The processor, with the instructions that integer kernels use.
    ratios
        The median ratio of every process.
    milliseconds
        Of one run of the float network and of the quantized one: the median over processes.
    others
        How many processors other programs took, at most, while it was measured; ``None`` where the system
        does not say.
    slow
        A line for every reason why layers are not on the fastest kernels, with the layers.
    """

    ratio: float
    interval: tuple[float, float]
    kernels: dict[str, int]
    runtime: str
    hardware: str
    ratios: tuple[float, ...]
    milliseconds: tuple[float, float]
    others: float | None
    slow: tuple[str, ...] = ()

    @property
    def busy(self) -> bool | None:
        """Whether other programs took more than a tenth of a processor; ``None`` where nobody knows."""
        return None if self.others is None else self.others > BUSY

    def __str__(self) -> str:
        low, high = self.interval
        said = f"{self.ratio:.3f} of the float network's time ({low:.3f} to {high:.3f})"
        return "\n".join([said, *self.slow])


def latency(
    model: nn.Module,
    config: QuantConfig,
    example_input: Any,
    runtime: str = "onnxruntime",
    threads: int = 1,
    processes: int = 3,
    seconds: float = 3.0,
) -> Latency:
    """Time ``model``, quantized, on a runtime's integer kernels, in turn with itself in float.

    Both networks are written as ONNX (`qlib.export.export_onnx` with ``target="onnxruntime"``), and run in
    turn, warmed up, in several processes one after the other. Ranges are those of ``example_input``, on which
    the time does not depend. Needs the package onnxruntime and the extra ``onnx``.

    Parameters
    ----------
    model : nn.Module
        As for `qlib.quantize`; it is not changed.
    config : QuantConfig
        With both bits ``None`` the float network is timed against itself, which shows what the measurement is
        worth.
    example_input : Tensor, tuple or dict
        Inputs ``(n, ...)``, run ``n`` at once.
    runtime : {"onnxruntime"}
        With its graph optimizations, on the CPU.
    threads : int
        That run a network. On one the time is the processor's, so that waiting for other programs does not
        count; on more it is the clock's.
    processes : int
        At least 2: the interval is over them.
    seconds : float
        For which every process measures.

    Returns
    -------
    Latency
        A warning says where the machine was busy with other programs.

    Raises
    ------
    ValueError
        What cannot be written as ONNX, as of `qlib.export.export_onnx`, with the way out; the runtime does
        not run it, or is not installed.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"there is no runtime {runtime!r}{suggestion(runtime, RUNTIMES)}")
    if not isinstance(config, QuantConfig):
        raise ValueError(f"config is a QuantConfig, got {config!r:.80}: for float, QuantConfig(None, None)")
    for name, number, least in (("processes", processes, 2), ("threads", threads, 1)):
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name} is {number!r:.80}; use a whole number from {least}")
    if isinstance(seconds, str) or not 0 < seconds <= 3600:
        raise ValueError(f"seconds is {seconds}; use more than 0 and at most 3600")
    _check_installed()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_float(model, example_input, folder)
        slow = write_quantized(model, config, example_input, folder)
        found = timed(folder, threads, processes, seconds, slow)
    if found.busy:
        warnings.warn(
            f"other programs took {found.others:.1f} processors while this was timed: time it again on an "
            "idle machine",
            stacklevel=2,
        )
    return found


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"timing on ONNX Runtime needs the package {error.name}: pip install onnxruntime "
            '"quantization-tradeoffs[onnx]"'
        ) from None


def write_float(model: nn.Module, example_input: Any, folder: Path) -> None:
    """Write ``float.onnx`` and ``inputs.npz`` into a folder."""
    from ..export import export_float
    from ..network.inputs import as_inputs, check_inputs

    example_input = as_inputs(example_input)
    check_inputs(example_input, "example_input")
    _save(example_input, folder / "inputs.npz")
    export_float(model, example_input, folder / "float.onnx")


def write_quantized(model: nn.Module, config: QuantConfig, example_input: Any, folder: Path) -> list[str]:
    """Write ``quantized.onnx`` into a folder; why layers of it are slow."""
    from ..export import export_float, export_onnx

    path = folder / "quantized.onnx"
    if config.in_float:
        export_float(model, example_input, path)
        return []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        export_onnx(model, config, [(example_input, None)], example_input, path, target="onnxruntime")
    # Beside what torch's exporter says of itself
    return [line for line in map(str, (warning.message for warning in said)) if "ONNX Runtime" in line]


def _save(inputs: Any, path: Path) -> None:
    if isinstance(inputs, Mapping):
        np.savez(path, **{name: tensor.cpu().numpy() for name, tensor in inputs.items()})
    else:
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        np.savez(path, *(tensor.cpu().numpy() for tensor in tensors))


def timed(folder: Path, threads: int, processes: int, seconds: float, slow: Sequence[str] = ()) -> Latency:
    """The two files in a folder, timed. ``slow``: why layers are expected to be so."""
    import onnxruntime

    files = folder / "float.onnx", folder / "quantized.onnx"
    answers = [ask(*files, folder / "inputs.npz", threads, seconds) for _ in range(processes)]
    ratios = tuple(statistics.median(b / a for a, b in found["pairs"]) for found in answers)
    middle = [
        1000 * statistics.median(statistics.median(times) for times in each)
        for each in zip(*(zip(*found["pairs"], strict=True) for found in answers), strict=True)
    ]
    others = [found["others"] for found in answers]
    logarithms = np.log(ratios)
    low, high = np.exp(around(float(logarithms.mean()), logarithms))
    ran = kernels(files[1], threads)
    return Latency(
        ratio=float(np.exp(logarithms.mean())),
        interval=(float(low), float(high)),
        kernels=ran,
        runtime=f"ONNX Runtime {onnxruntime.__version__}, {threads} thread{'s' if threads > 1 else ''}",
        hardware=hardware(),
        ratios=ratios,
        milliseconds=(middle[0], middle[1]),
        others=None if None in others else max(others),
        # Where padding stands between codes and layer the runtime fuses more than the export expects
        slow=tuple(line for line in slow if not line.startswith(EXPECTED) or set(ran) & set(IN_FLOAT)),
    )


def kernels(path: Path, threads: int = 1) -> dict[str, int]:
    """How often which operator stands in a file's graph, as ONNX Runtime optimizes it for this processor."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        written = str(Path(folder, "optimized.onnx"))
        started(path, options_of(threads, written))
        graph = onnx.load(written, load_external_data=False).graph
        return dict(sorted(Counter(node.op_type for node in graph.node).items()))


def hardware() -> str:
    """The processor that runs this, with the instructions that integer kernels use."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text("utf8").splitlines() if known.exists() else []
    said = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    flags = sorted(flag for flag in said.split() if any(part in flag for part in FLAGS))
    return f"{processor()} ({', '.join(flags) or platform.machine()})"
