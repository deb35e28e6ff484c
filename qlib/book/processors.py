"""What another processor changes: recorded rows made again under other instruction sets of this one, and rows
that a GPU recorded, made again on a processor.

``python -m qlib.book.processors`` measures what ``book/results/processors.csv`` and ``gpus.csv`` lack, and
writes a table after each row, so it may be stopped and started again. The page of limits shows them.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time

import numpy as np
import pandas as pd

from qlib import results
from qlib.book import ROOT
from qlib.files import write_whole
from qlib.provenance import commit

TABLE = ROOT / "book" / "results" / "processors.csv"
GPUS = ROOT / "book" / "results" / "gpus.csv"
SETS = {  # of instructions: what tells torch and its library of convolutions to keep to them
    "all": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "SSE4.1": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
ROWS = (  # bench, table, where: of each kind of computation, at few bits and at many
    ("digits", "skip-residual", "activation_bits=8 quantize_skip=true quantize_residual=true"),
    ("digits", "skip-residual", "activation_bits=4 quantize_skip=true quantize_residual=true"),
    ("digits", "skip-residual", "activation_bits=3 quantize_skip=true quantize_residual=true"),
    ("digits", "weight-granularity", "weight_bits=3 weight_granularity=per_tensor weight_symmetric=false"),
    ("digits", "clipping-weights", "weight_bits=3 weight_range=mse weight_granularity=per_channel"),
    ("digits", "dynamic-activations", "activation_bits=4 activation_dynamic=true"),
    ("digits", "largest-map", "largest_map_bits=3"),
    ("cifar10-jpeg", "skip-residual", "activation_bits=4 quantize_skip=true quantize_residual=true"),
    ("digits", "allowed-bitwidths", "target_weight_bits=3 bit_choices=[1,2,3,4,5,6,7,8]"),
    ("digits", "pseudo-labels", "target_weight_bits=2.5 labels=hard"),
)


def row_of(bench: str, table: str, where: str) -> dict[str, object]:
    """The recorded row of the first seed that fits."""
    rows = results.load_table(results.table_path(bench, table))
    return results.select(rows, [*where.split(), "calibration_seed=0"]).to_dict("records")[0]


def again(row: dict[str, object]) -> dict[str, object]:
    """What a recorded row measures today: the cells that are results, and its key."""
    from qlib.benches import load_bench
    from qlib.laboratory import Laboratory

    run = results.run_of(row)
    laboratory = Laboratory(load_bench(run.bench))
    return {"key": laboratory.identity(run)["key"], **laboratory.measure(run)}


def otherwise(a: dict[str, object], b: dict[str, object]) -> float:
    """The share of images, in percent, that one of two measurements gets right and the other does not."""
    first, second = (results.measurement_of(row).values for row in (a, b))
    return 100 * float(np.mean(first != second))


def measure(row: dict[str, object], instructions: str) -> dict[str, object]:
    """`again` in a process that keeps to a set of instructions, on one thread."""
    script = (
        "import json, sys; from qlib.book import processors; row = json.load(sys.stdin); "
        "print(json.dumps(processors.again(row)))"
    )
    environment = {**os.environ, **SETS[instructions], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(row),
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return json.loads(done.stdout.splitlines()[-1])


def load() -> pd.DataFrame:
    return pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=["bench", "table", "where"])


def of_gpus() -> list[tuple[str, str, dict[str, object]]]:
    """Of every table with rows that a GPU recorded and whose bits were not learned: its name, the GPU's, and
    such a row, drawn by the table's name.
    """
    drawn = []
    for path in sorted((ROOT / "book" / "results").glob("*/*.csv")):
        table = results.load_table(path)
        gpus = {i: s["device"] for i, s in enumerate(table.attrs["sessions"]) if "device" in s}
        rows = [r for r in table.to_dict("records") if r["session"] in gpus and not learned_bits(r)]
        if rows:
            row = random.Random(path.stem).choice(sorted(rows, key=lambda r: r["key"]))
            drawn.append((path.stem, gpus[row["session"]], row))
    return drawn


def learned_bits(row: dict[str, object]) -> bool:
    """Whether they were learned in a recorded row."""
    allocation = results.run_of(row).allocation
    return allocation is not None and allocation.learned


def main() -> None:
    for name, gpu, row in of_gpus():
        table = pd.read_csv(GPUS) if GPUS.exists() else pd.DataFrame(columns=["key"])
        if row["key"] in set(table.key):
            continue
        cells = measure(row, "all")
        line = {
            "bench": row["bench"],
            "table": name,
            "key": row["key"],
            "gpu": gpu,
            "recorded": row["top1"],
            "processor": cells["top1"],
            "changed": round(otherwise(row, {**row, **cells}), 3),
            "commit": commit(),
            "date": time.strftime("%Y-%m-%d"),
        }
        write_whole(GPUS, pd.DataFrame([*table.to_dict("records"), line]).to_csv(index=False))
        print(line, flush=True)
    for bench, name, where in ROWS:
        table = load()
        if ((table.bench == bench) & (table.table == name) & (table["where"] == where)).any():
            continue
        row = row_of(bench, name, where)
        found = {instructions: measure(row, instructions) for instructions in SETS}
        line = {
            "bench": bench,
            "table": name,
            "where": where,
            "recorded": row["top1"],
            **{f"top1 {k}": cells["top1"] for k, cells in found.items()},
            **{
                f"changed {k}": round(otherwise({**row, **found["all"]}, {**row, **cells}), 3)
                for k, cells in found.items()
                if k != "all"
            },
            "changed recorded": round(otherwise(row, {**row, **found["all"]}), 3),
            "commit": commit(),
            "date": time.strftime("%Y-%m-%d"),
        }
        write_whole(TABLE, pd.DataFrame([*table.to_dict("records"), line]).to_csv(index=False))
        print(line, flush=True)


def as_markdown() -> str:
    """The table as Markdown, and what it comes to."""
    table = load()
    learned = table.table.isin(("allowed-bitwidths", "pseudo-labels"))
    others = [k for k in SETS if k != "all"]
    moved = (table[[f"top1 {k}" for k in others]].sub(table["top1 all"], axis=0)).abs().max(axis=1)
    changed = table[[f"changed {k}" for k in others]].max(axis=1)
    said = [
        f"{len(table)} recorded rows were made again on one processor with all its instructions, and with "
        f"those of older ones ({', '.join(others)}). Where bits are uniform or analytic, at most "
        f"{changed[~learned].max():.1f} % of the images changed their answer, and the accuracy moved by "
        f"{moved[~learned].max():.2f} points at most; where bits are learned, {changed[learned].max():.1f} % "
        f"and {moved[learned].max():.2f} points.",
        "",
        "| row | recorded | all instructions | " + " | ".join(others) + " | answers changed |",
        "| --- " * (4 + len(others)) + "|",
    ]
    for row in table.to_dict("records"):
        cells = [f"{row[f'top1 {k}']:.2f} %" for k in SETS]
        most = max(row[f"changed {k}"] for k in others)
        said.append(
            f"| {row['bench']}, {row['table']}: {row['where']} | {row['recorded']:.2f} % | "
            f"{' | '.join(cells)} | {most:.2f} % |"
        )
    gpus = pd.read_csv(GPUS)
    moved = (gpus.processor - gpus.recorded).abs()
    most = gpus.loc[gpus.changed.idxmax()]
    said += [
        "",
        f"{len(gpus)} rows that a GPU recorded ({', '.join(sorted(set(gpus.gpu)))}), one of each such table "
        "whose bits are not learned, were made again on a processor. In the median "
        f"{gpus.changed.median():.2f} % of the images changed their answer, at most {most.changed:.1f} % "
        f"({most.bench}, {most.table}: {most.recorded:.2f} % there, {most.processor:.2f} % here), and the "
        f"accuracy moved by {moved.max():.2f} points at most.",
    ]
    return "\n".join(said)


if __name__ == "__main__":
    main()
