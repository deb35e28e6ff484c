"""The other half of a tradeoff: what quantized networks are on integer kernels.

`integers` carries a network out in integers, `differences` says where and why that is not what the simulation
gives; `onnx_runtime` runs the exported file, `latency` times it. Names are imported when they are asked for,
since the process that times does without torch.
"""

from importlib import import_module
from typing import Any

_MODULE_OF = {
    "Cause": "values",
    "Differences": "differences",
    "FileRun": "onnx_runtime",
    "IntegerNetwork": "integers",
    "LayerDifferences": "differences",
    "against_simulation": "differences",
    "in_onnx_runtime": "onnx_runtime",
    "layer_differences": "differences",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(f".{_MODULE_OF[name]}", __name__), name))


def __dir__() -> list[str]:
    return [*(name for name in globals() if name.startswith("__")), *_MODULE_OF]
