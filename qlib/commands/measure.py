"""`qlib run`, `sweep` and `export`: a network of a bench, or of the reader's own."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .. import experiments, recording, results
from ..benches import load_bench, network_of
from ..choices import Settings, choices
from ..config import QuantConfig, configuration_named
from ..devices import PRECISIONS
from ..methods import known_methods
from ..metrics import METRICS, TOP1, find_metric
from ..own import is_spec
from ..tables import cell
from .recorded import add_machine, record_one

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 100  # of lines of help that are laid out here


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
        epilog=_what_there_is(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument(
        "fields",
        nargs="*",
        metavar="FIELD=VALUE",
        help="a choice or a field of an allocation, see below, such as weight_bits=4",
    )
    run.add_argument("--network", default="base")
    run.add_argument(
        "--images", type=int, help="to evaluate on (default: 2000, of your own folder all if it has fewer)"
    )
    run.add_argument(
        "--calibration-images",
        type=int,
        metavar="N",
        help="default: 320, or all if your own folder has fewer",
    )
    run.add_argument("--seed", type=int, default=0, help="of the draw of calibration images")
    run.add_argument(
        "--out",
        type=Path,
        metavar="TABLE.csv",
        help="a table to keep the rows in, beside those that are there",
    )
    run.add_argument("--device", default="cpu", help="as torch names it")
    run.add_argument("--precision", default="float32", choices=PRECISIONS)
    run.set_defaults(run=_run)
    sweep = commands.add_parser("sweep", help="compute the rows of a grid in a file of your own")
    sweep.add_argument(
        "file", type=Path, metavar="GRID.yaml", help="with the fields of those in book/experiments"
    )
    sweep.add_argument("--out", type=Path, metavar="TABLE.csv", help="default: GRID.rows.csv")
    add_machine(sweep)
    sweep.set_defaults(run=_sweep)
    _add_bench(run, "default: digits")
    _add_bench(sweep, "instead of the file's")
    _add_how(run)
    _add_how(sweep)
    export = commands.add_parser(
        "export",
        help="write a bench's network, quantized, as ONNX",
        description="Write a bench's network, quantized, as ONNX with 8- and 4-bit integers.",
    )
    export.add_argument("path", type=Path, metavar="MODEL.onnx")
    export.add_argument("--bench", default="digits")
    export.add_argument("--network", default="base")
    export.add_argument(
        "--config", type=Path, metavar="CONFIG.yaml", help="fields of QuantConfig; defaults without it"
    )
    export.add_argument("--calibration-images", type=int, default=320, metavar="N")
    export.add_argument("--seed", type=int, default=0, help="of the draw of calibration images")
    export.add_argument(
        "--for",
        dest="target",
        choices=("exact", "onnxruntime"),
        default="exact",
        help="exact: computes what qlib does; onnxruntime: in a form that runs on its integer kernels, and "
        "what that changes is printed (default: exact)",
    )
    _add_method(export)
    _add_config_class(export)
    export.set_defaults(run=_export)


def _add_bench(parser: argparse.ArgumentParser, default: str) -> None:
    """What is measured: a bench, or a network and images of the reader's own."""
    parser.add_argument("--bench", help=f"or FILE.py:NAME, which makes one (is run); {default}")
    parser.add_argument(
        "--model", metavar="MODULE:FUNCTION", help="makes your network; also FILE.py:FUNCTION (is run)"
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="its weights: .safetensors, or a .pth that holds no code"
    )
    parser.add_argument(
        "--data", metavar="FOLDER", help="your images: train/ and val/, a subfolder for every class"
    )
    parser.add_argument(
        "--preprocess",
        default="imagenet",
        metavar="YAML",
        help="as in training: {resize: 256, crop: 224, mean: [...], std: [...]} (default: ImageNet's)",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    """How it is quantized and measured, beside the choices."""
    _add_method(parser)
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="what is measured: a metric, or FILE.py:NAME (is run; default: what the bench says, or top1)",
    )
    _add_config_class(parser)


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method",
        metavar="NAME",
        help="how codes and ranges are found: a method, FILE.py:NAME (is run), a YAML mapping of name and "
        "settings, or a list of such (default: nearest)",
    )


def _add_config_class(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-class",
        metavar="FILE.py:NAME",
        help="a configuration with choices of your own, derived from QuantConfig (is run)",
    )


def _what_there_is() -> str:
    """The end of the help: choices, fields of an allocation, and the names of methods and metrics."""
    return "\n".join(
        (
            "choices, and their defaults:",
            *_fields(QuantConfig),
            "",
            "an allocation, which chooses the bits by layer (learned where a target is given):",
            *_fields(experiments.Allocation),
            "",
            f"methods: {', '.join(known_methods())}",
            f"metrics: {', '.join(METRICS)}",
        )
    )


def _fields(settings: type[Settings]) -> list[str]:
    """A line or two for every field: name and default, what it is, and its values where these are words."""
    found = []
    for name, known in choices(settings).items():
        default = settings.defaults()[name]
        values = known.values or (("true", "false") if isinstance(default, bool) else ())
        said = known.title + (f": {', '.join(values)}" if values else "")
        start = f"  {name}={cell(default)}".ljust(38)
        found += textwrap.wrap(said, WIDTH, initial_indent=f"{start} ", subsequent_indent=" " * 39)
    return found


def _given_bench(arguments: argparse.Namespace, default: str, own: dict | None = None) -> dict:
    """The fields ``bench`` and ``own`` of an experiment, as the arguments say."""
    given = {
        name: getattr(arguments, name) for name in ("model", "weights", "data") if getattr(arguments, name)
    }
    if is_spec(arguments.bench):
        if given:
            raise ValueError("--bench FILE.py:NAME brings networks and data: leave out --model and the like")
        return {"bench": arguments.bench.rpartition(":")[2], "own": {"bench": arguments.bench}}
    if not given:
        return {"bench": arguments.bench or default, "own": None if arguments.bench else own}
    if len(given) < 3:
        raise ValueError("a network of your own needs all of --model, --weights and --data")
    name = arguments.bench or Path(given["data"]).name
    return {"bench": name, "own": {**given, "preprocess": _value("--preprocess", arguments.preprocess)}}


def _given_how(arguments: argparse.Namespace, fixed: dict[str, Any]) -> dict[str, Any]:
    """The fields of an experiment that say how it is quantized and measured, where the arguments do."""
    given = {"metric": arguments.metric, "config_class": arguments.config_class}
    given = {name: value for name, value in given.items() if value}
    if arguments.method:
        given["fixed"] = {**fixed, "method": _value("--method", arguments.method)}
    return given


def _value(name: str, text: str) -> Any:
    """What an argument says, as in YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{name}: {text!r:.80} is no YAML: {said}") from error


def _run(arguments: argparse.Namespace) -> int:
    for field in arguments.fields:
        if "=" not in field:
            raise ValueError(f"{field!r} is not FIELD=VALUE: what is {field} to be?")
    fields = {name: _value(name, text) for name, _, text in (f.partition("=") for f in arguments.fields)}
    given = _given_bench(arguments, "digits")
    images = arguments.images or 2000
    calibration = arguments.calibration_images or 320
    bench = load_bench(given["bench"], given["own"])
    if "data" in (given["own"] or ()):
        images = arguments.images or min(images, len(bench.held_out))
        calibration = arguments.calibration_images or min(calibration, len(bench.train))
    experiment = experiments.Experiment(
        "run",
        **{"fixed": fields, **given, **_given_how(arguments, fields)},
        vary=(),
        networks=(arguments.network,),
        images=images,
        calibration_images=(calibration,),
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
            keep=True,
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
        if run.method != "nearest":
            what += f" method={run.method}"
        if key != table.attrs["asked"][-1]:
            what = "float"
        found = results.measurement_of(rows[key]) if key in rows else "failed"
        print(f"{what}: {measured}{found}")
    errors = dict.fromkeys(failures[key] for key in asked if key not in rows)  # often one reason for both
    for error in errors:
        print(f"qlib: {error}", file=sys.stderr)
    return int(bool(errors))


def _sweep(arguments: argparse.Namespace) -> int:
    experiment = experiments.Experiment.load(arguments.file)
    if arguments.method and any("method" in part for axis in experiment.vary for part in axis):
        raise ValueError(f"{arguments.file} varies the method: leave out --method, or method in the file")
    given = _given_bench(arguments, experiment.bench, experiment.own)
    given |= _given_how(arguments, dict(experiment.fixed))
    experiment = dataclasses.replace(experiment, **given)
    path = arguments.out or arguments.file.with_suffix(".rows.csv")
    return record_one(experiment, path, arguments.said, arguments)


def _export(arguments: argparse.Namespace) -> int:
    from ..export import export_onnx, in_words

    bench = load_bench(arguments.bench)
    network = network_of(bench, arguments.network)
    kind = configuration_named(arguments.config_class)
    config = kind.from_yaml(arguments.config.read_text("utf8")) if arguments.config else kind()
    method = _value("--method", arguments.method) if arguments.method else "nearest"
    calibration = bench.calibration(arguments.calibration_images, seed=arguments.seed)
    example = calibration[0][0][:1]
    path = arguments.path
    changes = export_onnx(network, config, calibration, example, path, method, target=arguments.target)
    print(f"wrote {path}", *in_words(changes), sep="\n")
    return 0
