"""The other half of a tradeoff: what quantized networks are on integer kernels.

`integers` carries a network out in integers, `differences` says where and why that is not what the simulation
gives; `onnx_runtime` runs the exported file, `latency` times it.
"""

from .differences import Differences, LayerDifferences, against_simulation, layer_differences
from .integers import IntegerNetwork
from .onnx_runtime import FileRun, in_onnx_runtime
from .values import Cause

__all__ = [
    "Cause",
    "Differences",
    "FileRun",
    "IntegerNetwork",
    "LayerDifferences",
    "against_simulation",
    "in_onnx_runtime",
    "layer_differences",
]
