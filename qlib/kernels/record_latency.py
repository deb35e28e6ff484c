"""The recorded times. ``python -m qlib.kernels.record_latency`` times what ``book/results/latency.csv``
lacks and writes the table after each row, so it may be stopped and started again.

Rows that were made while other programs ran are made again by ``--again busy``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import write_whole
from ..provenance import commit
from ..tables import cell as as_text
from ..tables import read_notes, write_notes
from .grid import Cell, cells, network_and_images
from .latency import timed, write_float, write_quantized
from .roofline import machine
from .work import work

TABLE = Path(__file__).resolve().parents[2] / "book" / "results" / "latency.csv"
COLUMNS = (
    "network",
    "batch",
    "threads",
    "choices",
    "ratio",
    "low",
    "high",
    "ratios",
    "float_ms",
    "quantized_ms",
    "others",
    "busy",
    "kernels",
    "slow",
    "work",
    "runtime",
    "hardware",
    "session",
)
OF_JSON = ("choices", "ratios", "kernels", "slow", "work")


def load(path: Path = TABLE) -> pd.DataFrame:
    """The recorded rows, ``choices`` and the like as Python has them; none where there is no table."""
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    table = pd.read_csv(path)
    for name in OF_JSON:
        table[name] = table[name].map(json.loads)
    return table


def machine_of(row: dict[str, Any], path: Path = TABLE) -> dict[str, float]:
    """Peaks and bandwidths of the machine that a row was timed on, on one thread."""
    return read_notes(path)["sessions"][row["session"]]["machine"]


def save(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = [{name: as_text(row[name]) if name in OF_JSON else row[name] for name in COLUMNS} for row in rows]
    write_whole(path, pd.DataFrame(lines, columns=list(COLUMNS)).to_csv(index=False))


def key_of(row: dict[str, Any]) -> str:
    return Cell(row["network"], row["choices"], row["batch"], row["threads"]).key


class Networks:
    """Networks and images, each written in float once, into a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.known: dict[tuple[str, int], tuple[Any, Any, Path]] = {}

    def of(self, cell: Cell) -> tuple[Any, Any, Path]:
        """Network, images and folder."""
        name = cell.network, cell.batch
        if name not in self.known:
            model, images = network_and_images(*name)
            folder = self.folder / str(len(self.known))
            folder.mkdir()
            write_float(model, images, folder)
            self.known[name] = model, images, folder
        return self.known[name]


def time_cell(cell: Cell, networks: Networks, processes: int, seconds: float) -> dict[str, Any]:
    """A row but for its session."""
    model, images, folder = networks.of(cell)
    slow = write_quantized(model, cell.config, images, folder)
    found = timed(folder, cell.threads, processes, seconds, slow)
    done = work(folder / "quantized.onnx", folder / "inputs.npz", cell.threads)
    return {
        "network": cell.network,
        "batch": cell.batch,
        "threads": cell.threads,
        "choices": cell.choices,
        "ratio": round(found.ratio, 4),
        "low": round(found.interval[0], 4),
        "high": round(found.interval[1], 4),
        "ratios": [round(ratio, 4) for ratio in found.ratios],
        "float_ms": round(found.milliseconds[0], 4),
        "quantized_ms": round(found.milliseconds[1], 4),
        "others": None if found.others is None else round(found.others, 3),
        "busy": found.busy,
        "kernels": found.kernels,
        "slow": found.slow,
        "work": done,
        "runtime": found.runtime,
        "hardware": found.hardware,
    }


def record(
    path: Path,
    asked: Sequence[Cell],
    processes: int = 3,
    seconds: float = 1.5,
    again: str = "",
    command: str = "",
) -> pd.DataFrame:
    """Time the cells that a table lacks.

    Parameters
    ----------
    path
        The table; its notes hold the sessions with the machine's peaks, and why rows were refused.
    asked
        In this order.
    processes, seconds
        As for `qlib.latency`.
    again
        ``"busy"`` to time rows again that were made while other programs ran, ``"all"`` for every row.
    command
        That makes them again.
    """
    rows = load(path).to_dict("records")
    dropped = {key_of(row) for row in rows if again == "all" or (again == "busy" and row["busy"] is True)}
    known = {key_of(row) for row in rows} - dropped
    notes = read_notes(path)
    wanted = [c for c in asked if c.key not in known and (again == "all" or c.key not in notes["failed"])]
    if not wanted:
        return load(path)
    notes["sessions"].append(_session(command))
    with tempfile.TemporaryDirectory() as folder:
        networks = Networks(Path(folder))
        for place, cell in enumerate(wanted, 1):
            start = time.time()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    row = time_cell(cell, networks, processes, seconds)
            except ValueError as error:
                notes["failed"][cell.key] = said = str(error)
            else:
                row["session"] = len(notes["sessions"]) - 1
                rows = [old for old in rows if key_of(old) != cell.key] + [row]
                notes["failed"].pop(cell.key, None)
                save(path, rows)
                said = (
                    f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f}){' busy' * bool(row['busy'])}"
                )
            write_notes(path, notes)
            print(f"{place} of {len(wanted)}: {cell.key}: {said} [{time.time() - start:.0f} s]", flush=True)
    return load(path)


def _session(command: str) -> dict[str, Any]:
    import onnxruntime
    import torch

    return {
        "command": command,
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "onnxruntime": onnxruntime.__version__,
        "torch": str(torch.__version__),
        "machine": {name: round(rate) for name, rate in machine().items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].replace("\n", " "))
    parser.add_argument("--out", type=Path, default=TABLE, help="the table")
    parser.add_argument("--networks", nargs="+", help="which (default: all)")
    parser.add_argument("--most", type=int, help="rows of the grid, from its beginning")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="for which every process measures")
    parser.add_argument("--again", choices=("busy", "all"), default="", help="rows to time again")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    asked = [c for c in cells() if not arguments.networks or c.network in arguments.networks]
    command = shlex.join(["python", "-m", "qlib.kernels.record_latency", *sys.argv[1:]])
    record(
        arguments.out,
        asked[: arguments.most],
        arguments.processes,
        arguments.seconds,
        arguments.again,
        command,
    )


if __name__ == "__main__":
    main()
