"""Recorded results: rows of experiments, keyed by what they depend on, and their provenance.

A table is a CSV file, one row a configuration, network and calibration draw; beside it a YAML file says for
every recording session which command, commit, versions and hardware made the rows, and which runs failed.
Every finished row rewrites the table whole, so a killed recording loses at most the rows in hand, and running
it again continues. One process writes, any number compute (`qlib.workers`).
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import functools
import io
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from .benches import Bench, load_bench
from .config import QuantConfig
from .evaluation import Accuracy, wilson
from .experiments import ALLOCATION_FIELDS, Allocation, Experiment, Laboratory, Run
from .files import write_whole
from .names import suggestion
from .workers import spread

if TYPE_CHECKING:
    import pandas as pd

FIELDS = tuple(f.name for f in dataclasses.fields(QuantConfig))
COLUMNS = (
    "key",
    "session",
    "bench",
    "network",
    "weights",
    "data",
    "code_version",
    "calibration_images",
    "calibration_seed",
    *FIELDS,
    "allocation",
    "precision",
    "n",
    "top1",
    "low",
    "high",
    "average_weight_bits",
    "average_activation_bits",
    "bits",
    "seconds",
    "correct",
)
_USUAL = QuantConfig()
LATER = {  # columns that older tables lack, and what their rows would hold there
    "precision": "float32",
    **{name: value for name, value in _USUAL.to_dict().items() if name not in _USUAL.identity()},
}


def record(
    experiment: Experiment,
    path: Path,
    command: str = "",
    progress: bool = True,
    device: str = "cpu",
    precision: str = "float32",
    workers: int = 0,
    scheduler: str | None = None,
    shard: tuple[int, int] = (1, 1),
    retry: bool = False,
    keep: bool = False,
    bench: Bench | None = None,
) -> pd.DataFrame:
    """Compute the rows of ``experiment`` that the table at ``path`` (CSV) lacks, and return the table.

    ``device`` and ``precision`` as for `Laboratory`; ``workers`` and ``scheduler`` as for
    `qlib.workers.spread`, where every row is computed by one thread, so that the table does not depend on how
    many work on it. ``shard``: the i-th of n parts of the rows, in a table of its own beside ``path``, for
    machines that share no disk; `merge` puts such tables together. A run that fails is noted with its error
    beside the table and does not stop the rest; it is tried again with ``retry``. ``bench``: one made in
    Python, such as `qlib.benches.Loaders`, in the place of the experiment's; other processes do not have it.

    Rows of other code versions, weights or data than today's are dropped, as are rows that the experiment no
    longer asks for, unless ``keep``. Several recordings of one table at once keep each other's rows.
    """
    from tqdm import tqdm

    apart = bool(workers) or scheduler is not None
    if bench and apart:
        raise ValueError("a bench made in Python stays in this process: leave out workers and scheduler")
    laboratory = Laboratory(bench or experiment.load_bench(), device, precision)
    wanted = {laboratory.identity(run)["key"]: run for run in experiment.runs()}
    part, parts = shard
    if parts > 1:
        path = shard_path(path, part, parts)
        wanted = dict(list(wanted.items())[part - 1 :: parts])
    with _locked(path):
        rows = {row["key"] for row in _read_rows(path)}
        notes = _notes(path)
        missing = [
            (key, run)
            for key, run in wanted.items()
            if key not in rows and (retry or key not in notes["failed"])
        ]
        if missing:
            notes["sessions"].append(_provenance(command, experiment, laboratory, apart))
            _write_notes(path, notes)
        if not path.exists():
            _write_rows(path, [])
    session = len(notes["sessions"]) - 1
    title = f"{experiment.bench}/{path.stem}"
    place = (experiment.bench, json.dumps(experiment.own), device, precision)
    attempt = (
        functools.partial(_attempt_elsewhere, place) if apart else functools.partial(_attempt, laboratory)
    )
    finished = spread(attempt, missing, workers, scheduler)
    for (key, run), cells in tqdm(
        finished, desc=title, total=len(missing), unit="row", disable=None if progress else True
    ):
        with _locked(path):
            rows = {row["key"]: row for row in _read_rows(path) if keep or row["key"] in wanted}
            notes = _notes(path)
            failed = {k: error for k, error in notes["failed"].items() if (keep or k in wanted) and k != key}
            if "error" in cells:
                failed[key] = cells["error"]
            else:
                cells = {
                    **dict.fromkeys(COLUMNS),
                    **LATER,
                    **laboratory.identity(run),
                    **cells,
                    "session": session,
                }
                rows[key] = {name: _cell(value) for name, value in cells.items()}
            if failed != notes["failed"]:
                _write_notes(path, {**notes, "failed": failed})
            _write_rows(
                path, [rows[k] for k in (*(k for k in rows if k not in wanted), *wanted) if k in rows]
            )
    return load_table(path)


def _attempt(laboratory: Laboratory, item: tuple[str, Run]) -> dict[str, Any]:
    """The cells of a row that are results, or the error of a run that cannot be carried out. Other errors are
    the machine's.
    """
    start = time.perf_counter()
    try:
        return {**laboratory.measure(item[1]), "seconds": round(time.perf_counter() - start, 2)}
    except (ValueError, RuntimeError, ArithmeticError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


@functools.lru_cache(1)
def _laboratory(bench: str, own: str, *options: str) -> Laboratory:
    """A worker's."""
    return Laboratory(load_bench(bench, json.loads(own)), *options)


def _attempt_elsewhere(place: tuple[str, ...], item: tuple[str, Run]) -> dict[str, Any]:
    laboratory = _laboratory(*place)
    if laboratory.identity(item[1])["key"] != item[0]:
        raise OSError(
            f"a worker ({platform.node()}) has other code, weights or data than the process that records"
        )
    return _attempt(laboratory, item)


def merge(experiment: Experiment, path: Path) -> pd.DataFrame:
    """Put the shards' tables beside ``path`` into the table there, delete them, and return it.

    Raises ``FileNotFoundError`` if there are none.
    """
    shards = sorted(path.parent.glob(f"{path.stem}.*-of-*.csv"))
    if not shards:
        raise FileNotFoundError(
            f"{path.parent} holds no shard of {path.stem} (such as {shard_path(path, 1, 2).name})"
        )
    order = {run: i for i, run in enumerate(experiment.runs())}
    with _locked(path):
        rows = {row["key"]: row for row in _read_rows(path)}
        notes = _notes(path)
        for shard in shards:
            more = _notes(shard)
            earlier = len(notes["sessions"])
            for row in _read_rows(shard):
                rows.setdefault(row["key"], {**row, "session": str(int(row["session"]) + earlier)})
            notes = {
                "sessions": notes["sessions"] + more["sessions"],
                "failed": {**notes["failed"], **more["failed"]},
            }
        _write_notes(
            path,
            {**notes, "failed": {key: error for key, error in notes["failed"].items() if key not in rows}},
        )
        place = {key: order.get(run_of(_values(row)), len(order)) for key, row in rows.items()}
        _write_rows(path, sorted(rows.values(), key=lambda row: place[row["key"]]))
    for shard in shards:
        shard.unlink()
        _sidecar(shard).unlink(missing_ok=True)
    return load_table(path)


def shard_path(path: Path, part: int, parts: int) -> Path:
    """Where the ``part``-th of ``parts`` shards of the table at ``path`` lies."""
    if not 1 <= part <= parts:
        raise ValueError(f"there is no shard {part} of {parts}: they count from 1")
    return path.with_name(f"{path.stem}.{part}-of-{parts}.csv")


def load_table(path: Path) -> pd.DataFrame:
    """A recorded table, one row a run; columns as in ``COLUMNS``. ``correct`` stays packed: see
    `accuracy_of`. Selections of rows keep its recording sessions (``.attrs["sessions"]``, see `provenance`).

    Raises ``FileNotFoundError`` saying how to record it.
    """
    import pandas as pd

    table = pd.DataFrame(load_rows(path), columns=list(COLUMNS), dtype=object)  # object: bits may be None
    table = table.astype(
        dict.fromkeys(("session", "calibration_images", "calibration_seed", "n"), int)
        | dict.fromkeys(("top1", "low", "high", "seconds"), float)
    )
    table.attrs["sessions"] = provenance(path)
    return table


def load_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of `load_table` as dictionaries, for a look at a few of them that is not to wait for
    pandas.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not recorded yet: run `qlib record {path.stem}`")
    return [_values(row) for row in _read_rows(path)]


def table_path(bench: str, name: str) -> Path:
    """Where a recorded table lies in a clone: ``book/results/<bench>/<name>.csv``, seen from any folder of
    the clone.
    """
    return clone() / "book" / "results" / bench / f"{name}.csv"


def clone() -> Path:
    """The clone that holds the book: around the working directory, else around the package itself."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "book" / "experiments").is_dir():
                return folder
    raise FileNotFoundError("no book/experiments here: work inside a clone of the repository")


def experiments() -> dict[str, Path]:
    """The named experiments of the clone, ``<bench>/<name>``, and their files."""
    folder = clone() / "book" / "experiments"
    return {str(p.relative_to(folder).with_suffix("")): p for p in sorted(folder.glob("*/*.yaml"))}


def accuracy_of(row: Mapping[str, Any]) -> Accuracy:
    """The accuracy of a row, with its answer for every image."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(row["correct"]), np.uint8))
    return Accuracy(bits[: int(row["n"])].astype(bool))


def accuracies(table: pd.DataFrame, **where: Any) -> list[Accuracy]:
    """Of the rows whose columns equal ``where``, in order: one for every calibration draw. ``ValueError`` if
    there is none.
    """
    rows = table[
        np.logical_and.reduce(
            [table[name].map(lambda v, value=value: v == value) for name, value in where.items()]
        )
    ]
    if rows.empty:
        raise ValueError(f"no recorded row has {where}")
    return [accuracy_of(row) for row in rows.to_dict("records")]


def float_accuracy(bench: str, network: str, table: pd.DataFrame | None = None) -> Accuracy | None:
    """The recorded accuracy of a network in float, from ``table`` or else the bench's table
    ``float-baseline``; ``None`` if neither has it.
    """
    path = table_path(bench, "float-baseline")
    for rows in (table, load_table(path) if path.exists() else None):
        if rows is not None:
            found = rows[
                [w is None and a is None for w, a in zip(rows.weight_bits, rows.activation_bits, strict=True)]
            ]
            found = found[found.network == network]
            if len(found):
                return accuracy_of(found.iloc[0])
    return None


def with_allocation(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with the fields of `Allocation` as columns of their own, ``None`` where a run has none."""
    import pandas as pd

    given = {name: [(a or {}).get(name) for a in table.allocation] for name in ALLOCATION_FIELDS}
    return table.assign(
        **{name: pd.Series(values, index=table.index, dtype=object) for name, values in given.items()}
    )


def select(table: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The rows for which all ``conditions``, each ``FIELD=VALUE`` with the value as in YAML, hold; fields are
    columns, or what an allocation has. ``ValueError`` names the condition that is malformed or leaves no
    row.
    """
    for condition in conditions:
        field, equals, text = condition.partition("=")
        if not equals or field not in (*COLUMNS, *ALLOCATION_FIELDS):
            raise ValueError(
                f"{condition!r} is not FIELD=VALUE{suggestion(field, (*COLUMNS, *ALLOCATION_FIELDS))}"
            )
        value = yaml.safe_load(text)
        has = list(with_allocation(table)[field])
        known = sorted({json.dumps(v) for v in has})
        table = table[[v == value and isinstance(v, bool) == isinstance(value, bool) for v in has]]
        if table.empty:
            raise ValueError(f"no recorded row has {condition}; {field} is {', '.join(known)[:200]}")
    return table


def summary(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Per combination of the columns ``by``: mean accuracy over calibration draws, its 95 % interval for the
    sampling of images, standard deviation over draws, number of draws and images. In percent.
    """
    import pandas as pd

    groups = []
    for values, rows in table.groupby(list(by), sort=False):
        evaluations = [accuracy_of(row) for row in rows.to_dict("records")]
        mean = np.mean([e.top1 for e in evaluations])
        low, high = wilson(mean / 100, evaluations[0].n)
        spread = np.std([e.top1 for e in evaluations], ddof=1) if len(evaluations) > 1 else np.nan
        groups.append((*values, mean, low, high, spread, len(evaluations), evaluations[0].n))
    return pd.DataFrame(groups, columns=[*by, "top1", "low", "high", "spread", "draws", "n"])


def run_of(row: Mapping[str, Any]) -> Run:
    """The run that a row of `load_table` records."""
    config = QuantConfig.from_dict({name: row[name] for name in FIELDS})
    numbers = (int(row[c]) for c in ("calibration_images", "calibration_seed", "n"))
    allocation = row["allocation"] and Allocation(**row["allocation"])
    return Run(row["bench"], row["network"], config, *numbers, allocation)


def _cell(value: Any) -> Any:
    return value if isinstance(value, str) else json.dumps(value)


def _value(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def _values(row: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: cell if name in ("key", "weights", "data", "correct") else _value(cell)
        for name, cell in row.items()
    }


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, encoding="utf8", newline="") as file:
        reader = csv.DictReader(file)
        if set(COLUMNS) - set(reader.fieldnames or ()) - set(LATER) or set(reader.fieldnames or ()) - set(
            COLUMNS
        ):
            raise ValueError(
                f"{path} is not a table of this version of qlib (its columns differ): move it away and "
                "record again"
            )
        later = {name: _cell(value) for name, value in LATER.items()}
        return [{**later, **row} for row in reader]


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".yaml")


def _notes(path: Path) -> dict[str, Any]:
    """What stands beside a table: its recording sessions, and the error of every run that failed, by key."""
    sidecar = _sidecar(path)
    return {
        "sessions": [],
        "failed": {},
        **(yaml.safe_load(sidecar.read_text("utf8")) if sidecar.exists() else {}),
    }


def _write_notes(path: Path, notes: dict[str, Any]) -> None:
    notes = {name: value for name, value in notes.items() if value}
    write_whole(_sidecar(path), yaml.safe_dump(notes, sort_keys=False))


def provenance(path: Path) -> list[dict[str, Any]]:
    """The recording sessions of a table, oldest first."""
    return _notes(Path(path))["sessions"]


def failures(path: Path) -> dict[str, str]:
    """The errors of a table's runs that failed, by the key that their row would have."""
    return _notes(Path(path))["failed"]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among processes that write tables into this folder, where its file system can lock; else on
    trust.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl

        folder = os.open(path.parent, os.O_RDONLY)
    except ImportError:  # Windows
        yield
        return
    try:
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _provenance(
    command: str, experiment: Experiment, laboratory: Laboratory, spread_out: bool
) -> dict[str, Any]:
    import torch

    gpu = laboratory.device.type == "cuda"
    return {
        "command": command or " ".join(sys.argv),
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "seeds": list(experiment.seeds),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "hardware": f"{_processor()}, {1 if spread_out else torch.get_num_threads()} threads",
        **({"device": torch.cuda.get_device_name(laboratory.device)} if gpu else {}),
        "precision": laboratory.precision,
    }


def commit() -> str:
    """Of the package: its hash, and whether there are local changes; "unknown" outside a clone."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, cwd=here
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            " with local changes" if git("status", "--porcelain", "--", ".") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
