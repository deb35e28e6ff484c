"""`qlib run`, `sweep` and `export`: a network of a bench, or of the reader's own."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .. import experiments, recording, results
from ..benches import load_bench, network_of
from ..config import configuration_named
from ..devices import PRECISIONS
from ..experiments import CALIBRATION_IMAGES
from ..metrics import TOP1, find_metric
from ..strict_yaml import read_fields
from . import add_force, new_file
from .given import (
    WIDTH,
    add_bench,
    add_config_class,
    add_configuration,
    add_how,
    add_method,
    calibration_of,
    given_bench,
    given_how,
    load_fields,
    method_of,
    positive,
    warn_of_classes,
    what_there_is,
)
from .measured import say_failures, say_missed
from .recorded import KEPT, add_machine, record_one

if TYPE_CHECKING:
    import pandas as pd

GRID_FIELDS = """\
fields of a grid, all optional but vary; one value may stand where a list does:
  vary                 a list; all combinations of one element of each: {weight_bits: [2, 3, 4]}, or a list of
                       mappings of several choices, [{weight_bits: 4}, {weight_bits: 3, method: bias}]
  fixed                choices that all rows share, as qlib run --help lists them, and method
  seeds                each draws other calibration images: [0, 1, 2] repeats every row three times
  calibration_images   how many (320, or all if there are fewer)
  images               to evaluate on (10000, or all if there are fewer)
  bench, networks      a bench and its networks (digits, base)
  own                  a network and images of yours: {model: ..., weights: ..., data: ..., preprocess: ...}
  float_baseline       whether the network in float is a row, too (true)
  metric, config_class as the options of these names
"""
IMAGES = 2000  # of a run, where nothing is said


def add(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser(
        "run",
        help="measure one configuration, and the network in float",
        description=textwrap.fill(
            "Measure one configuration, and the network in float: of a bench, or your own. For example: qlib "
            "run weight_bits=4 activation_bits=4 --model mine.py:network --weights mine.safetensors --data "
            "images/",
            WIDTH,
        ),
        epilog=what_there_is(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_configuration(run, CALIBRATION_IMAGES)
    run.add_argument(
        "--images",
        type=positive,
        metavar="N",
        help="to evaluate on (default: 2000, or all if there are fewer)",
    )
    run.add_argument(
        "--out",
        type=Path,
        metavar="TABLE.csv",
        help="a table to keep the rows in, beside those that are there",
    )
    run.add_argument("--device", default="cpu", help="as torch names it")
    run.add_argument("--precision", default="float32", choices=PRECISIONS)
    run.set_defaults(run=_run)
    sweep = commands.add_parser(
        "sweep",
        help="compute the rows of a grid in a file of your own",
        description="Compute the rows of a grid in a file of your own; the same command goes on where it was "
        "stopped.",
        epilog=GRID_FIELDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sweep.add_argument("file", type=Path, metavar="GRID.yaml", help="a mapping of the fields below")
    sweep.add_argument("--out", type=Path, metavar="TABLE.csv", help="default: GRID.rows.csv")
    add_machine(sweep)
    sweep.set_defaults(run=_sweep, kept=KEPT)
    add_bench(run, "default: digits")
    add_bench(sweep, "instead of the file's")
    add_how(run)
    add_how(sweep)
    export = commands.add_parser(
        "export",
        help="write a network, quantized, as ONNX",
        description="Write a network, of a bench or your own, quantized, as ONNX with 8- and 4-bit integers.",
    )
    export.add_argument("path", type=Path, metavar="MODEL.onnx")
    add_configuration(export, CALIBRATION_IMAGES)
    export.add_argument(
        "--config", type=Path, metavar="CONFIG.yaml", help="fields in a file; those given here go before"
    )
    add_bench(export, "default: digits")
    export.add_argument(
        "--for",
        dest="target",
        choices=("exact", "onnxruntime"),
        default="exact",
        help="exact: computes what qlib does where the graph is run as it stands, without graph "
        "optimizations; onnxruntime: in a form that runs on its integer kernels, and what that changes, and "
        "which layers are not fused, is printed (default: exact)",
    )
    add_force(export)
    add_method(export)
    add_config_class(export)
    export.set_defaults(run=_export)


def _run(arguments: argparse.Namespace) -> int:
    fields = read_fields(arguments.fields)
    given = given_bench(arguments, "digits")
    if arguments.out:
        arguments.kept = KEPT
        new_file(arguments.out, force=True, suffixes=(".csv",))  # to which rows are added
    bench = load_bench(given["bench"], given["own"])
    warn_of_classes(bench, arguments.network)
    experiment = experiments.Experiment(
        "run",
        **{"fixed": fields, **given, **given_how(arguments, fields)},
        vary=(),
        networks=(arguments.network,),
        images=arguments.images or min(IMAGES, getattr(bench, "available", {}).get("validation", IMAGES)),
        calibration_images=arguments.calibration_images and (arguments.calibration_images,),
        seeds=(arguments.seed,),
    ).measuring(bench)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.out or Path(folder) / "run.csv"
        table = recording.record(
            experiment,
            path,
            command=arguments.said,
            device=arguments.device,
            precision=arguments.precision,
            retry=True,
            bench=bench,
        )
        return _say(experiment, table, results.failures(path), " ".join(arguments.fields))


def _say(
    experiment: experiments.Experiment, table: pd.DataFrame, failures: Mapping[str, str], fields: str
) -> int:
    """Print what was measured; the status."""
    rows = {row["key"]: row for row in table.to_dict("records")}
    asked = dict(zip(table.attrs["asked"], experiment.runs(), strict=True))
    metric = find_metric(experiment.metric or TOP1)
    measured = "" if metric is TOP1 else f"{metric.title or metric.name} "
    for key, run in asked.items():
        what = fields or "quantized, 8 bits"
        if run.method != "nearest" and "method=" not in fields:
            what += f" method={run.method}"
        if key != table.attrs["asked"][-1]:
            what = "float"
        found = results.measurement_of(rows[key]) if key in rows else "failed"
        print(f"{what}: {measured}{found}")
    missed = say_missed(table[table.key.isin(asked)])
    return missed | say_failures(failures[key] for key in asked if key not in rows)


def _sweep(arguments: argparse.Namespace) -> int:
    experiment = experiments.Experiment.load(arguments.file)
    if arguments.method and any("method" in part for axis in experiment.vary for part in axis):
        raise ValueError(f"{arguments.file} varies the method: leave out --method, or method in the file")
    given = given_bench(arguments, experiment.bench, experiment.own)
    path = arguments.out or arguments.file.with_suffix(".rows.csv")
    new_file(path, force=True, suffixes=(".csv",))  # to which rows are added
    given |= given_how(arguments, dict(experiment.fixed))
    experiment = dataclasses.replace(experiment, **given)
    return record_one(experiment, path, arguments.said, arguments)


def _export(arguments: argparse.Namespace) -> int:
    from ..export import export_onnx, in_words
    from ..network.inputs import first

    path = new_file(arguments.path, arguments.force, (".onnx",))
    fields = load_fields(arguments.config) if arguments.config else {}
    config = configuration_named(arguments.config_class).from_dict(fields | read_fields(arguments.fields))
    method = method_of(arguments)
    given = given_bench(arguments, "digits")
    bench = load_bench(given["bench"], given["own"])
    network = network_of(bench, arguments.network)
    calibration = calibration_of(bench, arguments, CALIBRATION_IMAGES)
    example = first(calibration[0][0], 1)
    changes = export_onnx(network, config, calibration, example, path, method, target=arguments.target)
    print(f"wrote {path}", *in_words(changes), sep="\n")
    return 0
