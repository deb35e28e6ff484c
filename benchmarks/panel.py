"""How soon the live panel answers a moved slider, as multiples of quantizing, calibrating and evaluating the
whole setting.

`benchmarks/README.md` says how to read the table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from qlib import evaluate, explore, load_bench, quantize
from qlib.widgets import Panel

# What stands when the slider of activation bits moves from 8 to 4.
SETTINGS: dict[str, dict[str, Any]] = {
    "minmax": {},
    "percentile": {"weight_range": "percentile", "activation_range": "percentile"},
    "a range per image": {"activation_dynamic": True},
    "mse, of weights": {"weight_range": "mse"},
    "mse, of activations": {"activation_range": "mse"},
    "mse, of both": {"weight_range": "mse", "activation_range": "mse"},
}


def moved(panel: Panel, bits: int) -> tuple[float, float, float]:
    """Seconds from a move until the control is free again, until the first number, and until the last."""
    shown: list[float] = []
    start = time.perf_counter()

    def look(change: dict[str, Any]) -> None:
        if "qold" not in change["new"]:
            shown.append(time.perf_counter() - start)

    panel._answer.observe(look, "value")
    panel.controls["activation_bits"].value = bits
    free = time.perf_counter() - start
    panel.wait()
    panel._answer.unobserve(look, "value")
    return free, shown[0], shown[-1]


def run(
    images: int, calibration: int, repeats: int, settings: tuple[str, ...] = tuple(SETTINGS)
) -> dict[str, float]:
    """Print the table; returns the median ratio of first answer to whole setting by setting."""
    bench = load_bench("digits")
    ratios = {}
    print(f"{'':22}{'whole, ms':>10}{'free':>8}{'first':>8}{'last':>8}")
    for label in settings:
        panel = explore(bench, images=images, calibration_images=calibration, **SETTINGS[label]).wait()
        rows = []
        for _ in range(repeats):
            start = time.perf_counter()
            evaluate(
                quantize(panel.model, panel.config.replace(activation_bits=4), panel.calibration),
                panel.validation,
            )
            whole = time.perf_counter() - start
            rows.append((whole, *(seconds / whole for seconds in moved(panel, 4))))
            panel.controls["activation_bits"].value = 8
            panel.wait()
        whole, free, first, last = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{label:22}{1000 * whole:10.0f}{free:8.2f}{first:8.2f}{last:8.2f}")
        ratios[label] = first
    return ratios


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000, help="of validation")
    parser.add_argument("--calibration", type=int, default=320, help="images of calibration")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.images:,} images")
    run(arguments.images, arguments.calibration, arguments.repeats)
