"""What methods that learn have made of the built-in network, for the page, which cannot learn: whether each
weight is rounded up or down.

    python -m qlib.widgets.engine.roundings

makes the files anew that are committed beside this module.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...benches import load_bench
from ...config import QuantConfig
from ...files import whole
from ...methods import find_methods, words
from ...network.operations import rows_of
from ...quantization import prepare

HERE = Path(__file__).parent
BENCH, NETWORK, IMAGES = "digits", "base", 1024
METHODS = ("adaround", "blocks")
SETTING = QuantConfig(weight_bits=3, activation_bits=None)
NEEDED = ("weight_bits", "weight_symmetric", "weight_granularity", "weight_range", "first_last_bits")


def ups(method: str) -> np.ndarray:
    """Bits (0 down, 1 up), layer by layer in execution order, of the weights of ``NETWORK`` as ``method``
    rounds them under ``SETTING``.
    """
    bench = load_bench(BENCH)
    work = prepare(bench.models[NETWORK], SETTING, bench.calibration(IMAGES), find_methods(method))
    parts = []
    for name, grid in work.grids.items():
        before, after = (
            rows_of(layer.weight.data, layer)
            for layer in (side.module.get_submodule(name) for side in (work.floats, work.network))
        )
        down = (before * (1 / grid.scale)).floor()
        parts.append(((after / grid.scale).round() > down).flatten())
    return torch.cat(parts).numpy()


def path_of(method: str) -> Path:
    return HERE / f"{BENCH}-{NETWORK}-{method}.bits"


def content(method: str) -> dict[str, Any]:
    """What the page is given: under which choices the bits are right, and themselves, eight a byte."""
    return {
        "method": method,
        "needs": needs(),
        "ups": base64.b64encode(path_of(method).read_bytes()).decode(),
    }


def needs() -> dict[str, Any]:
    """The fields of a configuration without whose values the bits mean nothing."""
    stated = SETTING.to_dict()
    return {name: stated[name] for name in NEEDED}


def card(method: str) -> dict[str, Any]:
    """The fields of a card that the method fills in, with what it has seen."""
    said = words(method)
    return {**said, "rounding": f"{said['rounding']}; {IMAGES:,} images, activations in float"}


def main() -> None:
    for method in METHODS:
        packed = np.packbits(ups(method)).tobytes()
        with whole(path_of(method)) as temporary:
            Path(temporary).write_bytes(packed)
        print(f"{path_of(method).name}: {path_of(method).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
