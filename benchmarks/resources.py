"""What finding ranges and learning bits takes, as a share of an epoch of training (paper, section 2.4).

An epoch is 40,000 images through the network of the digits bench, forward and backward, as it was trained;
all else is what a configuration takes before it is evaluated. One thread, one process, in turn.

    python benchmarks/resources.py              # prints the shares
    python benchmarks/resources.py --record     # and writes them where the book reads them
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import nn

from qlib import QuantConfig, learn_bitwidths, load_bench, pseudo_labels, quantize
from qlib.benches import digits
from qlib.benches.digits_training import RECIPES
from qlib.benches.substitutes import substitute
from qlib.book import ROOT
from qlib.files import write_whole
from qlib.provenance import commit, processor

TABLE = ROOT / "book" / "results" / "resources.csv"
RECIPE = RECIPES["base"]
STEPS = RECIPE.images_per_epoch // RECIPE.batch


def works(part: int) -> dict[str, tuple[Callable[[], object], float]]:
    """By name, what is timed, and how many times that is done in a whole one. ``part``: of the images and
    the steps, one in so many.
    """
    bench = load_bench("digits")
    network = bench.models["base"]
    calibration = bench.calibration(320 // part)
    training = bench.training(1024 // part)
    few = 64 // part
    config = QuantConfig(activation_range="percentile")
    learner = {"target_weight_bits": 3, "allow_infeasible": True, "progress": False}
    mixed = QuantConfig(first_last_bits=None)
    return {
        "ranges from 320 images": (lambda: quantize(network, config, calibration), 1),
        "labels of 1,024 images by the network": (lambda: pseudo_labels(network, training), 1),
        "256 images distilled": (lambda: substitute("distilled", bench, network, few), 256 / few),
        "bits learned in 400 steps of 32": (
            lambda: learn_bitwidths(network, mixed, training, steps=400 // part, **learner),
            1,
        ),
    }


def training_step() -> Callable[[], object]:
    net = digits.network().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    ((x, y),) = digits.to_batches(*digits.draw("training", RECIPE.batch))
    x = x.to(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def run(part: int = 1, repeats: int = 3) -> dict[str, float]:
    """By name, the share of an epoch in percent, a median."""
    torch.set_num_threads(1)
    step = training_step()
    found = works(part)
    shares: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats):
        for name, (work, times) in found.items():
            epoch = STEPS * statistics.median(_seconds(step) for _ in range(5))
            shares[name].append(100 * times * _seconds(work) / epoch)
    return {name: statistics.median(several) for name, several in shares.items()}


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", action="store_true", help=f"write {TABLE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    shares = run(repeats=arguments.repeats)
    print(f"{processor()}, torch {torch.__version__}, one thread; in percent of an epoch of training")
    for name, share in shares.items():
        print(f"  {name:40} {share:8.2f} %")
    if arguments.record:
        rows = [{"work": name, "share": round(share, 3)} for name, share in shares.items()]
        more = {"processor": processor(), "torch": str(torch.__version__), "commit": commit()}
        write_whole(TABLE, pd.DataFrame([row | more for row in rows]).to_csv(index=False))


if __name__ == "__main__":
    main()
