"""qlib: measure what quantization papers leave out.

    float model + QuantConfig + calibration batches  --quantize-->  quantized model
    quantized model + labelled batches               --evaluate-->  accuracy with an interval

A name is imported when it is first asked for, so that a card can be looked at without torch. No module may
bear one of these names: Python puts a module into its package as soon as something imports it, in the place
of what stood there.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for tools that read and do not run; the same as the table
    from .benches import load_bench
    from .bits.analytic import analytic_bitwidths
    from .bits.labels import pseudo_labels
    from .bits.learn import LearnedBitwidths, learn_bitwidths
    from .cards import QuantizationCard
    from .comparison import compare, verdict
    from .config import QuantConfig
    from .diagnosis import diagnose
    from .evaluation import evaluate
    from .footprints import Footprint, footprint
    from .kernels.latency import Latency, latency
    from .metrics import Accuracy, Measurement, Metric
    from .quantization import quantize
    from .widgets import explore as explore

__version__ = "0.1.0"
__all__ = [
    "Accuracy",
    "Footprint",
    "Latency",
    "LearnedBitwidths",
    "Measurement",
    "Metric",
    "QuantConfig",
    "QuantizationCard",
    "analytic_bitwidths",
    "compare",
    "diagnose",
    "evaluate",
    "footprint",
    "latency",
    "learn_bitwidths",
    "load_bench",
    "pseudo_labels",
    "quantize",
    "verdict",
]
_NAMES_OF = {
    "benches": ("load_bench",),
    "bits.analytic": ("analytic_bitwidths",),
    "bits.labels": ("pseudo_labels",),
    "bits.learn": ("LearnedBitwidths", "learn_bitwidths"),
    "cards": ("QuantizationCard",),
    "config": ("QuantConfig",),
    "diagnosis": ("diagnose",),
    "evaluation": ("evaluate",),
    "comparison": ("compare", "verdict"),
    "footprints": ("Footprint", "footprint"),
    "kernels.latency": ("Latency", "latency"),
    "metrics": ("Accuracy", "Measurement", "Metric"),
    "quantization": ("quantize",),
    "widgets": ("explore",),  # not in __all__: it needs ipywidgets, which measuring does not
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str):
    if name in _MODULE_OF:
        try:
            value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
        except ModuleNotFoundError as error:
            if (name, error.name) != ("explore", "ipywidgets"):
                raise
            needs = "qlib.explore needs ipywidgets, a part of the extra 'book'"
            raise ImportError(f"{needs}: python -m pip install ipywidgets") from None
        return globals().setdefault(name, value)
    if name in _modules():
        return import_module(f".{name}", __name__)
    hint = ""
    if not name.startswith("_"):  # who asks for these has a use for the answer no
        from .names import suggestion

        hint = suggestion(name, [*_MODULE_OF, *_modules()])
    raise AttributeError(f"module 'qlib' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return [*(name for name in globals() if name.startswith("__")), *_MODULE_OF, *_modules()]


def _modules() -> list[str]:
    return [module.name for module in iter_modules(__path__)]
