"""qlib: measure what quantization papers leave out.

    float model + QuantConfig + calibration batches  --quantize-->  quantized model
    quantized model + labelled batches               --evaluate-->  accuracy with an interval
"""

from .benches import load_bench
from .bitwidths import LearnedBitwidths, analytic_bitwidths, learn_bitwidths, pseudo_labels
from .cards import QuantizationCard
from .config import QuantConfig
from .evaluation import Accuracy, compare, evaluate, verdict
from .footprints import Footprint, footprint
from .model import quantize

__version__ = "0.1.0"
__all__ = ["Accuracy", "Footprint", "LearnedBitwidths", "QuantConfig", "QuantizationCard", "analytic_bitwidths", "compare",
           "evaluate", "footprint", "learn_bitwidths", "load_bench", "pseudo_labels", "quantize", "verdict"]  # fmt: skip


def __getattr__(name: str):
    if name != "explore":
        raise AttributeError(f"module 'qlib' has no attribute {name!r}")
    try:
        from .widgets import explore  # here, because measuring needs no ipywidgets
    except ModuleNotFoundError as error:
        if error.name != "ipywidgets":
            raise
        raise ImportError("qlib.explore needs ipywidgets, a part of the extra 'book': python -m pip install ipywidgets") from None
    return explore


def __dir__() -> list[str]:
    return [*globals(), "explore"]
