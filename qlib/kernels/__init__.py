"""The other half of a tradeoff: what quantized networks are on integer kernels.

`integers` carries a network out in integers, `differences` says where and why that is not what the simulation
gives.
"""

from .differences import Differences, LayerDifferences, against_simulation, layer_differences
from .integers import IntegerNetwork
from .values import Cause

__all__ = [
    "Cause",
    "Differences",
    "IntegerNetwork",
    "LayerDifferences",
    "against_simulation",
    "layer_differences",
]
