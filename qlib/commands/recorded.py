"""`qlib record`, `merge` and `results`: the recorded tables of the book."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .. import experiments, recording, results
from ..config import QuantConfig
from ..devices import PRECISIONS
from ..files import write_whole
from ..names import suggestion
from ..tables import cell, read_notes
from . import add_force, new_file
from .compared import compared_table
from .measured import measured_table, say_failures, say_missed

KEPT = "finished rows are kept, the same command goes on from there"


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
    record.set_defaults(kept=KEPT)
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
    show.add_argument(
        "--compare",
        nargs=3,
        metavar=("FIELD", "A", "B"),
        help="A minus B, all else alike, with the paired interval: --compare method bias nearest",
    )
    show.add_argument("--out", type=Path, metavar="FILE", help="ending in .csv or .json")
    add_force(show)
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
    parser.add_argument(
        "--prune",
        action="store_true",
        help="drop the table's rows that are not asked for: of other networks, data, code or fields",
    )


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
        for name in ("device", "precision", "workers", "scheduler", "shard", "retry", "prune")
    }
    table = recording.record(experiment, path, command=command, **options)
    path = path if arguments.shard == (1, 1) else recording.shard_path(path, *arguments.shard)
    asked = set(table.attrs["asked"])
    found = table[table.key.isin(asked)]
    others = len(table) - len(found)
    more = f", and {others} of other grids, networks, data or code, which --prune drops" if others else ""
    if found_table := measured_table(found):
        print(found_table)
    print(f"{path}: {len(found)} of {len(asked)} rows{more}")
    say_missed(found)
    return say_failures(error for key, error in results.failures(path).items() if key in asked)


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


def table_named(name: str) -> Path:
    """Where the table of an experiment lies, or a file that ends in ``.csv``.

    Raises
    ------
    ValueError
        There is no such file, or no such experiment, with the name that may be meant.
    """
    if not name.endswith(".csv"):
        if files := [f for f in (f"{name}.rows.csv", f"{name}.csv") if Path(f).is_file()]:
            raise ValueError(f"a table is named by its file: {files[0]}")
        (experiment,) = experiments_named([name])
        return results.table_path(experiment.bench, experiment.name)
    path = Path(name)
    if not path.is_file():
        near = [str(found) for found in sorted(path.parent.glob("*.csv"))]
        raise ValueError(f"there is no table {name}{suggestion(name, near) if near else ''}")
    return path


def _results(arguments: argparse.Namespace) -> int:
    if not arguments.table:
        return _list()
    path = table_named(arguments.table)
    table = results.select(results.load_table(path), arguments.where)
    if arguments.compare:
        if arguments.out:
            raise ValueError("--compare prints a table and --out writes rows: give one of the two")
        print(compared_table(table, *arguments.compare))
        return 0
    if arguments.out:
        new_file(arguments.out, arguments.force, (".csv", ".json"))
        text = (
            table.to_csv(index=False)
            if arguments.out.suffix == ".csv"
            else table.to_json(orient="records", indent=1)
        )
        write_whole(arguments.out, text)
        print(f"{arguments.out}: {len(table)} rows")
        return 0
    own = read_notes(path)["choices"]
    rows = table.to_dict("records")
    apart = [name for name in ("bench", "weights", "n") if table[name].nunique() > 1]
    names = []
    for row in rows:
        known = [f"{name}={row[name]}" for name in apart]
        names.append(" ".join([row["network"], *known, f"seed {results.seed_of(row)}", *_choices(row, own)]))
    for row, name in zip(rows, names, strict=True):
        key = f" key={row['key']}" if names.count(name) > 1 else ""  # of other code, or other images
        print(f"{name}{key}: {results.measurement_of(row)}")
    return 0


def _choices(row: dict, own: dict) -> list[str]:
    """What a row does not leave at its default. ``own``: the defaults of choices of the reader's own."""
    default = {**QuantConfig().to_dict(), **own}
    always = ("weight_bits", "activation_bits")
    said = [f"{k}={json.dumps(row[k])}" for k in default if k in always or row[k] != default[k]]
    said += [f"{k}={v}" for k, v in (row["allocation"] or {}).items() if v is not None]
    if row["method"] != "nearest":
        said.append(f"method={cell(row['method'])}")
    if row["metric"] != "top1":
        said.append(f"metric={results.measurement_of(row).metric.name}")
    return said
