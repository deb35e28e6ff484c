"""How long every method takes on a bench, and what it gives back of the accuracy that nearest rounding loses.

Seconds are of the clock and of all processors together: where other work is on the machine, the second says
more. Accuracy stands beside them with its paired difference to nearest.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from typing import Any

import torch

from qlib import Measurement, QuantConfig, compare, evaluate, load_bench, quantize
from qlib.benches import network_of
from qlib.comparison import Difference
from qlib.methods import spelled
from qlib.provenance import processor

METHODS: list[Any] = ["nearest", "bias", "gptq", "adaround", "blocks", "equalize", ["nearest", "ranges"]]
WITH_ACTIVATIONS: list[Any] = ["smooth", {"name": "blocks", "drop": 0.5}]


@dataclass
class Row:
    """Seconds of a method by the clock and of processors, its accuracy and the difference to nearest."""

    clock: float
    processors: float
    accuracy: Measurement
    difference: Difference


def run(
    bench: str,
    network: str,
    config: QuantConfig,
    methods: list[Any],
    calibration: int,
    images: int,
    seed: int = 0,
) -> dict[str, Row]:
    """Print the table; returns its rows by method as it is spelled."""
    loaded = load_bench(bench)
    model = network_of(loaded, network)
    data = list(loaded.calibration(calibration, seed))
    validation = loaded.validation(images)
    floats = evaluate(model, validation)
    nearest = evaluate(quantize(model, config, data), validation)
    print(f"{network} of {bench}: float {floats.value:.2f}, nearest {nearest.value:.2f}, {floats.n:,} images")
    print(f"{'':44}{'clock':>8}{'cpu':>8}{'top-1':>8}   above nearest")
    found = {}
    for method in methods:
        clock, processors = time.perf_counter(), time.process_time()
        quantized = quantize(model, config, data, method)
        seconds = time.perf_counter() - clock, time.process_time() - processors
        accuracy = evaluate(quantized, validation)
        row = found[spelled(method)] = Row(*seconds, accuracy, compare(accuracy, nearest))
        low, high = row.difference.interval
        print(
            f"{spelled(method):44}{row.clock:8.1f}{row.processors:8.1f}{accuracy.value:8.2f}"
            f"{row.difference.value:8.2f} ({low:.2f} to {high:.2f})",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--bench", default="digits")
    parser.add_argument("--network", default="base")
    parser.add_argument("--config", default='{"weight_bits": 3, "activation_bits": null}', help="JSON")
    parser.add_argument("--methods", help="JSON, a list; all of them")
    parser.add_argument("--calibration", type=int, default=1024, help="images")
    parser.add_argument("--images", type=int, default=2000, help="of validation")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of calibration images")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{processor()}, {arguments.threads} threads, torch {torch.__version__}")
    if (load := os.getloadavg()[0]) > 0.5:
        print(f"the machine is busy (load {load:.1f}): seconds of the clock mean little")
    config = QuantConfig.from_dict(json.loads(arguments.config))
    usual = METHODS + (WITH_ACTIVATIONS if config.activation_bits is not None else [])
    methods = json.loads(arguments.methods) if arguments.methods else usual
    sizes = arguments.calibration, arguments.images, arguments.seed
    run(arguments.bench, arguments.network, config, methods, *sizes)


if __name__ == "__main__":
    main()
