"""`qlib record`, `merge` and `results`: the recorded tables of the book."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import experiments, recording, results
from ..config import QuantConfig
from ..devices import PRECISIONS
from ..files import write_whole
from ..names import suggestion
from ..tables import cell, read_notes


def add(commands: argparse._SubParsersAction) -> None:
    record = commands.add_parser(
        "record",
        help="compute the rows that a recorded table lacks",
        description="Compute the rows that a table in book/results lacks. May be stopped and run again.",
    )
    record.add_argument(
        "names", nargs="*", metavar="NAME", help="an experiment in book/experiments, such as skip-residual"
    )
    add_machine(record)
    record.add_argument(
        "--list", action="store_true", help="list the experiments and how much of each is recorded"
    )
    record.set_defaults(run=lambda a: _list() if a.list or not a.names else _record(a))
    merge = commands.add_parser("merge", help="put the tables of shards together")
    merge.add_argument("names", nargs="+", metavar="NAME")
    merge.set_defaults(run=_merge)
    show = commands.add_parser("results", help="list recorded rows, or write them as CSV or JSON")
    show.add_argument(
        "table",
        nargs="?",
        metavar="NAME",
        help="an experiment, or a table's file; default: list the experiments",
    )
    show.add_argument(
        "--where", nargs="*", default=[], metavar="FIELD=VALUE", help="which rows; values as in YAML"
    )
    show.add_argument("--out", type=Path, metavar="FILE", help="ending in .csv or .json")
    show.set_defaults(run=_results)


def add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="cpu", help="where networks run, as torch names it: cuda, cuda:1 (default: cpu)"
    )
    parser.add_argument(
        "--precision", default="float32", choices=PRECISIONS, help="of products and their sums"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes of one thread each (default: this one)"
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="a Dask cluster's, to compute the rows there")
    parser.add_argument(
        "--shard",
        type=_part,
        default=(1, 1),
        metavar="I/N",
        help="the I-th of N parts, in a table of its own",
    )
    parser.add_argument("--retry", action="store_true", help="try runs again that failed before")


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 2/4")
    return int(part), int(parts)


def _list() -> int:
    for name, path in results.experiments().items():
        experiment = experiments.Experiment.load(path)
        table = results.table_path(experiment.bench, experiment.name)
        recorded = len(results.load_table(table)) if table.exists() else 0
        failed = f", {n} failed" if (n := len(results.failures(table))) else ""
        print(f"{name:40} {recorded:4} of {len(experiment.runs()):4} rows{failed}")
    return 0


def _record(arguments: argparse.Namespace) -> int:
    status = 0
    for experiment in experiments_named(arguments.names):
        path = results.table_path(experiment.bench, experiment.name)
        status |= record_one(experiment, path, f"qlib record {experiment.bench}/{experiment.name}", arguments)
    return status


def record_one(
    experiment: experiments.Experiment, path: Path, command: str, arguments: argparse.Namespace
) -> int:
    options = {
        name: getattr(arguments, name)
        for name in ("device", "precision", "workers", "scheduler", "shard", "retry")
    }
    table = recording.record(experiment, path, command=command, **options)
    path = path if arguments.shard == (1, 1) else recording.shard_path(path, *arguments.shard)
    print(f"{path}: {len(table)} rows")
    for row in table.to_dict("records"):
        if row["weight_bits"] is None and row["activation_bits"] is None:
            print(f"{row['network']} in float: {results.measurement_of(row)}")
    for error in results.failures(path).values():
        print(f"qlib: failed, the rest is recorded: {error}", file=sys.stderr)
    return int(bool(results.failures(path)))


def _merge(arguments: argparse.Namespace) -> int:
    for experiment in experiments_named(arguments.names):
        path = results.table_path(experiment.bench, experiment.name)
        print(f"{path}: {len(recording.merge(experiment, path))} of {len(experiment.runs())} rows")
    return 0


def experiments_named(names: Sequence[str]) -> list[experiments.Experiment]:
    """Those of these names; without a bench, a name is one of ``digits``."""
    known = results.experiments()
    full = [name if "/" in name else f"digits/{name}" for name in names]
    for name in full:
        if name not in known:
            raise ValueError(f"there is no experiment {name!r}{suggestion(name, known)}")
    return [experiments.Experiment.load(known[name]) for name in full]


def _results(arguments: argparse.Namespace) -> int:
    if not arguments.table:
        return _list()
    name = arguments.table if "/" in arguments.table else f"digits/{arguments.table}"
    path = (
        Path(arguments.table) if arguments.table.endswith(".csv") else results.table_path(*name.split("/", 1))
    )
    table = results.select(results.load_table(path), arguments.where)
    if arguments.out and arguments.out.suffix not in (".csv", ".json"):
        raise ValueError(f"{arguments.out}: write to a .csv or .json file")
    if arguments.out:
        text = (
            table.to_csv(index=False)
            if arguments.out.suffix == ".csv"
            else table.to_json(orient="records", indent=1)
        )
        write_whole(arguments.out, text)
        print(f"{arguments.out}: {len(table)} rows")
        return 0
    own = read_notes(path)["choices"]
    for row in table.to_dict("records"):
        said = " ".join(_choices(row, own)) or "defaults"
        print(f"{row['network']} seed {row['calibration_seed']} {said}: {results.measurement_of(row)}")
    return 0


def _choices(row: dict, own: dict) -> list[str]:
    """What a row does not leave at its default. ``own``: the defaults of choices of the reader's own."""
    default = {**QuantConfig().to_dict(), **own}
    said = [f"{k}={json.dumps(row[k])}" for k in default if row[k] != default[k]]
    said += [f"{k}={v}" for k, v in (row["allocation"] or {}).items() if v is not None]
    if row["method"] != "nearest":
        said.append(f"method={cell(row['method'])}")
    if row["metric"] != "top1":
        said.append(f"metric={results.measurement_of(row).metric.name}")
    return said
