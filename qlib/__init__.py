"""qlib: measure what quantization papers leave out.

    float model + QuantConfig + calibration batches  --quantize-->  quantized model
    quantized model + labelled batches               --evaluate-->  accuracy with an interval
"""

from .benches import load_bench
from .bitwidths import LearnedBitwidths, analytic_bitwidths, learn_bitwidths, pseudo_labels
from .cards import QuantizationCard
from .config import QuantConfig
from .evaluate import Accuracy, compare, evaluate, verdict
from .footprint import Footprint, footprint
from .model import quantize

__version__ = "0.1.0"
__all__ = ["Accuracy", "Footprint", "LearnedBitwidths", "QuantConfig", "QuantizationCard", "analytic_bitwidths", "compare",
           "evaluate", "footprint", "learn_bitwidths", "load_bench", "pseudo_labels", "quantize", "verdict"]  # fmt: skip
