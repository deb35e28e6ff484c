"""How long one waits for `import qlib`, for the first use of it, and for commands that measure nothing.

`benchmarks/README.md` says how to read the table.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable

READY = """
import time
import torch
network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10))
batches = [(torch.randn(4, 1, 8, 8), torch.arange(4))]
network(batches[0][0])
"""
QUANTIZED = "import qlib; config = qlib.QuantConfig(4); quantized = qlib.quantize(network, config, batches)"
CARD = f"{QUANTIZED}; qlib.QuantizationCard.from_run(config, qlib.evaluate(quantized, batches))"
USES = {  # what is timed in a process of its own, where all that stands in READY has been done before
    "import qlib": "import qlib",
    "and every public name": "from qlib import *",
    "and quantize": QUANTIZED,
    "and quantize, evaluate, make a card": CARD,
    "and footprint": "import qlib; qlib.footprint(network, batches[0][0], qlib.QuantConfig())",
}
COMMANDS = ("--help", "card show brecq", "card check brecq --target litert-int8", "card diff brecq adaround")


def within(code: str, ready: str = READY) -> float:
    """The seconds that ``code`` takes in a new process that is ``ready`` for it."""
    timed = f"{ready}\nstart = time.perf_counter()\n{code}\nprint(time.perf_counter() - start)"
    return float(
        subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout
    )


def command(arguments: str) -> float:
    """The seconds from the start of a command to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "qlib.cli", *arguments.split()], capture_output=True)
    return time.perf_counter() - start


def run(
    repeats: int, uses: Iterable[str] = tuple(USES), commands: Iterable[str] = COMMANDS
) -> dict[str, float]:
    """Print the table; returns the median seconds by what was timed, every one of them in turn."""
    tasks = {"import torch": lambda: within("import torch", "import time")}
    tasks |= {label: lambda code=USES[label]: within(code) for label in uses}
    tasks |= {f"qlib {arguments}": lambda arguments=arguments: command(arguments) for arguments in commands}
    seconds: dict[str, list[float]] = {label: [] for label in tasks}
    for _ in range(repeats):
        for label, task in tasks.items():
            seconds[label].append(task())
    medians = {label: statistics.median(values) for label, values in seconds.items()}
    print(f"{'':42}{'median, s':>10}{'fastest, s':>12}")
    for label, median in medians.items():
        print(f"{label:42}{median:10.2f}{min(seconds[label]):12.2f}")
    return medians


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    run(parser.parse_args().repeats)
