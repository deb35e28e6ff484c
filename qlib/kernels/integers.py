"""`IntegerNetwork`: a quantized network carried out in integers, as a chip without float units would."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from ..config import QuantConfig
from ..names import suggestion
from ..network.inputs import device_of
from ..quantization import MADE_UNDER
from .arithmetic import BIASES, OVERFLOWS
from .refusals import check_quantizers, integer_layers
from .run import Run
from .sums import Accumulator
from .values import Cause


class IntegerNetwork(nn.Module):
    """A quantized network in integers: codes of inputs, weights and activations; sums of products, with the
    corrections that zero-points ask for, in an accumulator; biases as integers; from one grid to the next by
    a multiplier and a shift; additions and means likewise. What it gives is float again: codes times scale.

    What its inputs are quantized from is float, and so is nothing else. `qlib.evaluate` takes it as any
    network.

    Parameters
    ----------
    quantized : nn.Module
        What `qlib.quantize` gives, on the CPU; it stays as it is.
    accumulator_bits : int
        2 to 32; of the sums of convolution and linear layers and matrix products.
    overflow : {"wrap", "saturate"}
        What becomes of sums beyond. Those that wrap are the same in any order. Those that saturate are added
        one by one: the bias, and then products of codes less their zero-points, input channel by input
        channel; a kernel that takes zero-points off afterwards, or adds in another order, saturates
        elsewhere.
    bias : {"kept", "rounded"}
        An accumulator takes a bias in multiples of the scales of input and weight. What this rounding leaves
        out is kept, as a constant of every channel that is added to the product with the multiplier, where
        integer kernels have the half that rounds; or it is lost, as in most kernels today.
    through : Cause
        The last cause of differences from the simulation that acts; those before it act too. By default all
        do. With ``Cause.FLOAT32`` sums, biases and scales are those of the simulation, but exact.

    Raises
    ------
    ValueError
        ``quantized`` is no such network, or not on the CPU; or, naming layer or tensor, something is not in
        integers: weights or activations in float, ranges per channel or for each example of activations, the
        ``authors`` grid. Additions and other operations in float are found, and named, when the network runs.
    """

    def __init__(
        self,
        quantized: nn.Module,
        accumulator_bits: int = 32,
        overflow: str = "wrap",
        bias: str = "kept",
        through: Cause = Cause.OVERFLOW,
    ):
        super().__init__()
        if not isinstance(quantized, fx.GraphModule) or MADE_UNDER not in quantized.meta:
            raise ValueError(
                f"{type(quantized).__name__} is no quantized network: pass what qlib.quantize gives, with "
                "bits for weights and activations"
            )
        if not isinstance(accumulator_bits, int) or not 2 <= accumulator_bits <= 32:
            raise ValueError(f"accumulator_bits must be a whole number from 2 to 32, got {accumulator_bits}")
        causes = tuple(cause.value for cause in Cause)
        given = (("overflow", overflow, OVERFLOWS), ("bias", bias, BIASES))
        for field, value, words in (*given, ("through", getattr(through, "value", through), causes)):
            if value not in words:
                raise ValueError(f"{field}: there is no {value!r}{suggestion(value, words)}")
        if device_of(quantized).type != "cpu":
            raise ValueError("integers are computed on the CPU: pass quantized.cpu()")
        self.quantized = quantized
        self.accumulator = Accumulator(accumulator_bits, overflow, bias)
        self.through = Cause(through)
        self.layers = integer_layers(quantized)
        check_quantizers(quantized)
        self.eval()

    @property
    def config(self) -> QuantConfig:
        """What the network was quantized under."""
        return self.quantized.meta[MADE_UNDER]

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        return Run(self).outputs(named or inputs)
