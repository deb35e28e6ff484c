"""Recording: the rows that a table lacks are computed and written, one by one.

Every finished row rewrites the table whole, so a killed recording loses at most the rows in hand, and running
it again continues. One process writes, any number compute (`qlib.workers`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .benches import Bench, load_bench, refuse_lacking
from .experiments import Experiment, Run
from .laboratory import Laboratory
from .metrics import TOP1
from .progress import tracked
from .provenance import session
from .results import load_table, run_of
from .tables import (
    COLUMNS,
    LATER,
    cell,
    locked,
    read_notes,
    read_rows,
    sidecar,
    values,
    write_notes,
    write_rows,
)
from .workers import spread

if TYPE_CHECKING:
    import pandas as pd


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
    prune: bool = False,
    bench: Bench | None = None,
) -> pd.DataFrame:
    """Compute the rows of ``experiment`` that a table lacks, and return the table.

    A run that fails is noted with its error beside the table and does not stop the rest. Several recordings
    of one table at once keep each other's rows.

    Parameters
    ----------
    experiment : Experiment
        The rows that are wanted.
    path : Path
        The table, CSV.
    command : str
        What makes the table again, for its notes.
    progress : bool
        Whether it is said how far it is.
    device, precision : str
        As for `Laboratory`.
    workers : int
        As for `qlib.workers.spread`, where every row is computed by one thread, so that the table does not
        depend on how many work on it.
    scheduler : str, optional
        Likewise.
    shard : (int, int)
        The i-th of n parts of the rows, in a table of its own beside ``path``, for machines that share no
        disk; `merge` puts such tables together.
    retry : bool
        Whether runs that failed are tried again.
    prune : bool
        Whether rows (and failures) are dropped that the experiment does not ask for, be it that they are of
        other weights, data or code versions than today's.
    bench : Bench, optional
        One made in Python, such as `qlib.benches.Loaders`, in the place of the experiment's; other processes
        do not have it.

    Returns
    -------
    DataFrame
        As `qlib.results.load_table` gives it; the keys of the rows that were asked for, in the order of the
        runs, are in its ``.attrs["asked"]``.

    Raises
    ------
    ValueError
        A choice is called like a column of every table, or ``bench`` was to go to other processes.
    OSError
        Code of the reader's own changes while a row is computed.
    """
    own = experiment.own_choices()
    if taken := [name for name in own if name in COLUMNS]:
        raise ValueError(f"a choice is called {taken[0]!r}, which is a column of every table: rename it")
    apart = bool(workers) or scheduler is not None
    if bench and apart:
        raise ValueError("a bench made in Python stays in this process: leave out workers and scheduler")
    if bench:
        refuse_lacking(bench, "bench=")
    bench = bench or experiment.load_bench()
    experiment = experiment.measuring(bench)
    laboratory = Laboratory(bench, device, precision)
    # Of this moment: files of the reader's own may be edited while rows are computed.
    identities = {run: laboratory.identity(run) for run in experiment.runs()}
    wanted = {identity["key"]: run for run, identity in identities.items()}
    part, parts = shard
    if parts > 1:
        path = shard_path(path, part, parts)
        wanted = dict(list(wanted.items())[part - 1 :: parts])
    with locked(path):
        rows = {row["key"] for row in read_rows(path)}
        notes = read_notes(path)
        missing = [
            (key, run)
            for key, run in wanted.items()
            if key not in rows and (retry or key not in notes["failed"])
        ]
        if missing:
            notes["sessions"].append(
                session(command, experiment.seeds, laboratory, 1 if apart else None, experiment.own)
            )
            notes["choices"] |= own
            write_notes(path, notes)
        if not path.exists():
            write_rows(path, [], own)
        if prune:
            _prune(path, set(wanted))
    number = len(notes["sessions"]) - 1
    place = (experiment.bench, json.dumps(experiment.own), device, precision)
    attempt = (
        functools.partial(_attempt_elsewhere, place) if apart else functools.partial(_attempt, laboratory)
    )
    finished = tracked(
        spread(attempt, missing, workers, scheduler),
        f"{experiment.bench}/{path.stem}",
        len(missing),
        shown=progress,
    )
    for (key, run), cells in finished:
        with locked(path):
            rows = {row["key"]: row for row in read_rows(path)}
            notes = read_notes(path)
            failed = {k: error for k, error in notes["failed"].items() if k != key}
            if "error" in cells:
                failed[key] = cells["error"]
            else:
                empty = {**dict.fromkeys(COLUMNS), **LATER, **own}
                row = {**empty, **identities[run], **cells, "session": number}
                rows[key] = {name: cell(value) for name, value in row.items()}
            if failed != notes["failed"]:
                write_notes(path, {**notes, "failed": failed})
            kept = [k for k in (*(k for k in rows if k not in wanted), *wanted) if k in rows]
            write_rows(path, [rows[k] for k in kept], notes["choices"])
    table = load_table(path)
    table.attrs["asked"] = list(wanted)
    return table


def _prune(path: Path, wanted: set[str]) -> None:
    """Drop what a table holds of other keys than those."""
    notes = read_notes(path)
    failed = {key: error for key, error in notes["failed"].items() if key in wanted}
    write_notes(path, {**notes, "failed": failed})
    write_rows(path, [row for row in read_rows(path) if row["key"] in wanted], notes["choices"])


def _attempt(laboratory: Laboratory, item: tuple[str, Run]) -> dict[str, Any]:
    """The cells of a row that are results, or the error of a run that cannot be carried out, whatever error a
    reader's own code has. Those of the machine (files, memory) are raised.
    """
    _refuse_changed(laboratory, item)
    start = time.perf_counter()
    try:
        cells = {**laboratory.measure(item[1]), "seconds": round(time.perf_counter() - start, 2)}
    except (OSError, MemoryError):
        raise
    except Exception as error:
        cells = {"error": f"{type(error).__name__}: {error}"}
    _refuse_changed(laboratory, item)
    return cells


def _refuse_changed(laboratory: Laboratory, item: tuple[str, Run]) -> None:
    """What is written under a key is what was measured: code of the reader's own is read when it is used."""
    key, run = item
    if laboratory.identity(run)["key"] != key:
        raise OSError(
            f"{platform.node()} has other code, weights or data than when the recording began, so this row "
            "is not kept: leave the files alone while it runs, and give the command again"
        )


@functools.lru_cache(1)
def _laboratory(bench: str, own: str, *options: str) -> Laboratory:
    """A worker's."""
    return Laboratory(load_bench(bench, json.loads(own)), *options)


def _attempt_elsewhere(place: tuple[str, ...], item: tuple[str, Run]) -> dict[str, Any]:
    return _attempt(_laboratory(*place), item)


def merge(experiment: Experiment, path: Path) -> pd.DataFrame:
    """Put the shards' tables beside ``path`` into the table there, and delete them.

    Parameters
    ----------
    experiment : Experiment
        The grid whose shards they are; it says the order of rows.
    path : Path
        The table, CSV.

    Returns
    -------
    DataFrame
        The table.

    Raises
    ------
    FileNotFoundError
        There are no shards.
    """
    shards = sorted(path.parent.glob(f"{path.stem}.*-of-*.csv"))
    if not shards:
        raise FileNotFoundError(
            f"{path.parent} holds no shard of {path.stem} (such as {shard_path(path, 1, 2).name})"
        )
    order = {_but_for_images(run, experiment): i for i, run in enumerate(experiment.runs())}
    config_class = experiment.configurations()
    with locked(path):
        rows = {row["key"]: row for row in read_rows(path)}
        notes = read_notes(path)
        for shard in shards:
            more = read_notes(shard)
            earlier = len(notes["sessions"])
            for row in read_rows(shard):
                rows.setdefault(row["key"], {**row, "session": str(int(row["session"]) + earlier)})
            notes = {
                "sessions": notes["sessions"] + more["sessions"],
                "failed": {**notes["failed"], **more["failed"]},
                "choices": {**notes["choices"], **more["choices"]},
            }
        failed = {key: error for key, error in notes["failed"].items() if key not in rows}
        write_notes(path, {**notes, "failed": failed})
        place = {}
        for key, row in rows.items():
            run = run_of(values(row), config_class)
            run = run if experiment.metric else dataclasses.replace(run, metric=TOP1.name)  # the bench's
            place[key] = order.get(_but_for_images(run, experiment), len(order))
        write_rows(path, sorted(rows.values(), key=lambda row: place[row["key"]]), notes["choices"])
    for shard in shards:
        shard.unlink()
        sidecar(shard).unlink(missing_ok=True)
    return load_table(path)


def _but_for_images(run: Run, experiment: Experiment) -> Run:
    """A run without the numbers of images that its experiment leaves to the bench."""
    open_ones = {"images": experiment.images, "calibration_images": experiment.calibration_images}
    return dataclasses.replace(run, **{name: 0 for name, said in open_ones.items() if said is None})


def shard_path(path: Path, part: int, parts: int) -> Path:
    """Where the ``part``-th of ``parts`` shards of the table at ``path`` lies."""
    if not 1 <= part <= parts:
        raise ValueError(f"there is no shard {part} of {parts}: they count from 1")
    return path.with_name(f"{path.stem}.{part}-of-{parts}.csv")
