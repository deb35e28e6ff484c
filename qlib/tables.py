"""Files of recorded rows: a CSV file, and beside it ``NAME.csv.meta.yaml`` with its sessions and failures.

Tables are written whole, so that others see the old one or the new one. A column that came later, or that a
configuration of the reader's own brings, is filled with its default where a table lacks it.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from .choices import choices
from .config import QuantConfig
from .files import write_whole

FIELDS = tuple(field.name for field in dataclasses.fields(QuantConfig))
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
    "method",
    "precision",
    "rounding_seed",
    "kind_of_data",
    "weights_first",
    "metric",
    "n",
    "top1",
    "value",
    "low",
    "high",
    "average_weight_bits",
    "average_activation_bits",
    "bits",
    "feasible",
    "seconds",
    "correct",
    "values",
)
LATER = {  # columns that older tables lack, and what their rows would hold there
    "method": "nearest",
    "precision": "float32",
    "rounding_seed": 0,
    "kind_of_data": "training",
    "weights_first": False,
    "metric": "top1",
    "feasible": True,  # else learning met no limit, and what is measured has more bits
    "value": None,  # of top-1: the column of that name
    "values": None,
    **{name: value for name, value in QuantConfig().to_dict().items() if choices(QuantConfig)[name].since},
}
MOST = 2**31 - 1  # characters of a cell: a value for every example is one text
TEXT = ("key", "weights", "data", "correct", "values")  # columns that are no JSON


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table, cells as they are written; none where there is no file.

    Raises
    ------
    ValueError
        It has columns that are not known, or lacks some, or is no such file.
    """
    if not path.exists():
        return []
    own = {name: cell(value) for name, value in read_notes(path)["choices"].items()}
    csv.field_size_limit(MOST)
    try:
        with open(path, encoding="utf8", newline="") as file:
            reader = csv.DictReader(file, restkey="more")
            given = set(reader.fieldnames or ())
            if set(COLUMNS) - given - set(LATER) or given - set(COLUMNS) - set(own):
                raise ValueError("its columns differ")
            later = {name: cell(value) for name, value in LATER.items()}
            found = []
            for row in reader:
                if "more" in row or None in row.values() or not row["key"]:
                    raise ValueError(f"line {reader.line_num} has more or fewer cells than there are columns")
                found.append({**later, **own, **row})
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is not a table of this version of qlib ({error}): mend it, or move it away and record "
            "again"
        ) from None
    for row in found:
        if row["value"] == cell(None) and row["metric"] == "top1":
            row["value"] = row["top1"]
    return found


def write_rows(
    path: Path, rows: Sequence[Mapping[str, str]], own: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write a table whole. ``own``: columns beside `COLUMNS`, and what rows that lack them hold there."""
    text = io.StringIO()
    lacking = {name: cell(value) for name, value in own.items()}
    writer = csv.DictWriter(text, (*COLUMNS, *own), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**lacking, **row} for row in rows)
    write_whole(path, text.getvalue())


def cell(value: Any) -> str:
    """A value as a table has it: JSON, or text as it is."""
    return value if isinstance(value, str) else json.dumps(value)


def values(row: Mapping[str, str]) -> dict[str, Any]:
    """The values of a row's cells."""
    return {name: text if name in TEXT else _value(text) for name, text in row.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def sidecar(path: Path) -> Path:
    """Where the notes of a table lie."""
    return path.with_name(f"{path.name}.meta.yaml")


def read_notes(path: Path) -> dict[str, Any]:
    """What stands beside a table: its recording ``sessions``, oldest first; in ``failed`` the error of every
    run that failed, by key; and in ``choices`` the columns of choices that are not this package's, with their
    defaults.

    Raises
    ------
    ValueError
        The file of that name is something else.
    """
    notes = sidecar(path)
    empty: dict[str, Any] = {"sessions": [], "failed": {}, "choices": {}}
    if not notes.exists():
        _refuse_older(path, notes)
        return empty
    try:
        found = {**empty, **yaml.safe_load(notes.read_text("utf8"))}
        kinds = {name: type(found[name]) for name in found}
    except (ValueError, TypeError, yaml.YAMLError):  # also a text that is not UTF-8
        kinds = {}
    if kinds != {name: type(value) for name, value in empty.items()}:
        raise ValueError(f"{notes} is not what stands beside a table of qlib: move it away")
    return found


def _refuse_older(path: Path, notes: Path) -> None:
    """What a version before wrote beside a table: without it, its rows would be said to be of no session."""
    older = path.with_suffix(".yaml")
    if path.exists() and older.exists() and "\nsessions:" in f"\n{older.read_text('utf8', 'replace')}":
        raise ValueError(
            f"{older} holds how the rows of {path.name} were recorded: rename it to {notes.name}"
        )


def write_notes(path: Path, notes: Mapping[str, Any]) -> None:
    said = {name: value for name, value in notes.items() if value}
    write_whole(sidecar(path), yaml.safe_dump(said, sort_keys=False))


@contextmanager
def locked(path: Path) -> Iterator[None]:
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
