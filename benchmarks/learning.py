"""How long a step of `learn_bitwidths` takes, as a multiple of a float forward and backward pass of the same
batch.

The float pass is that of the digits bench's `base` in evaluation mode with gradients for every parameter.
Steps are timed inside one process, alternating with float passes, after a warm-up; a step includes rounding,
the bits' gradients and Adam.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from qlib import QuantConfig, learn_bitwidths, load_bench
from qlib.provenance import processor

CONFIG = QuantConfig(first_last_bits=None)
CASES = {
    "weights": {"target_weight_bits": 3},
    "weights, a bitwidth per channel": {"target_weight_bits": 3, "per_channel": True},
    "weights, activations and ranges": {
        "target_weight_bits": 3,
        "target_activation_bits": 4,
        "learn_ranges": True,
    },
}


def float_step(network: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
    start = time.perf_counter()
    network.zero_grad()
    F.cross_entropy(network(batch[0]), batch[1]).backward()
    return time.perf_counter() - start


def learner_step(network: torch.nn.Module, data: list, steps: int, **case) -> float:
    """Seconds a step: the time of ``2 * steps`` less that of ``steps``, so that setting up does not count."""
    seconds = []
    for n in (steps, 2 * steps):
        start = time.perf_counter()
        learn_bitwidths(network, CONFIG, data, steps=n, allow_infeasible=True, progress=False, **case)
        seconds.append(time.perf_counter() - start)
    return (seconds[1] - seconds[0]) / steps


def run(steps: int, repeats: int, compile: bool = False) -> dict[str, float]:
    bench = load_bench("digits")
    network = bench.models["base"]
    data = bench.training(1024)
    batch = (data[0][0][:32], data[0][1][:32])
    for _ in range(5):
        float_step(network, batch)
    ratios: dict[str, list[float]] = {}
    cases = CASES | ({"weights, compiled": {"target_weight_bits": 3, "compile": True}} if compile else {})
    for _ in range(repeats):
        for name, case in cases.items():
            base = statistics.median(float_step(network, batch) for _ in range(max(3, steps)))
            ratios.setdefault(name, []).append(learner_step(network, data, steps, **case) / base)
    return {name: statistics.median(values) for name, values in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--compile", action="store_true", help="also compiled; compiling takes a minute or more"
    )
    arguments = parser.parse_args()
    print(
        f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}; median of "
        f"{arguments.repeats}"
    )
    for name, ratio in run(**vars(arguments)).items():
        print(f"  {name:34} {ratio:5.2f}")


if __name__ == "__main__":
    main()
