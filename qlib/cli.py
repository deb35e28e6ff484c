"""The `qlib` command. Exit codes: 0 done, 2 bad input, 130 interrupted (what is recorded stays)."""

from __future__ import annotations

import argparse
import sys

from . import __version__, results
from .config import suggestion


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="qlib", description="Measure what quantization papers leave out.")
    parser.add_argument("--version", action="version", version=f"qlib {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", help="compute the rows that a recorded table lacks",
                                 description="Compute the rows that a table in book/results lacks. May be stopped and run again.")
    record.add_argument("names", nargs="*", metavar="NAME", help="an experiment in book/experiments, such as skip-residual")
    record.add_argument("--device", default="cpu", help="where networks run, as torch names it: cuda, cuda:1 (default: cpu)")
    record.add_argument("--precision", default="float32", choices=results.PRECISIONS, help="of products and their sums")
    record.add_argument("--list", action="store_true", help="list the experiments and how much of each is recorded")
    arguments = parser.parse_args(argv)
    try:
        return _list() if arguments.list or not arguments.names else _record(arguments)
    except (ValueError, OSError) as error:
        print(f"qlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("qlib: stopped; finished rows are kept, the same command goes on from there", file=sys.stderr)
        return 130


def _list() -> int:
    for name, path in results.experiments().items():
        experiment = results.Experiment.load(path)
        table = results.table_path(experiment.bench, experiment.name)
        recorded = len(results.load_table(table)) if table.exists() else 0
        print(f"{name:40} {recorded:4} of {len(experiment.runs()):4} rows")
    return 0


def _record(arguments: argparse.Namespace) -> int:
    names = arguments.names
    known = results.experiments()
    short = {name.split("/")[1]: name for name in known}
    for name in names:
        if name not in known and name not in short:
            raise ValueError(f"there is no experiment {name!r}{suggestion(name, known)}")
    for name in names:
        experiment = results.Experiment.load(known[short.get(name, name)])
        path = results.table_path(experiment.bench, experiment.name)
        table = results.record(experiment, path, command=f"qlib record {name}", device=arguments.device,
                               precision=arguments.precision)  # fmt: skip
        print(f"{path}: {len(table)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
