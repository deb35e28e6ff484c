"""The `qlib` command. Exit codes: 0 done, 1 a comparison or check found something or a run failed, 2 bad
input, 130 interrupted (what is recorded stays).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from . import __version__, experiments, results
from .benches import load_bench, network_of
from .cards import QuantizationCard, catalogue, compare, hardware
from .config import QuantConfig
from .files import write_whole
from .names import suggestion


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="qlib", description="Measure what quantization papers leave out.")
    parser.add_argument("--version", action="version", version=f"qlib {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser(
        "record",
        help="compute the rows that a recorded table lacks",
        description="Compute the rows that a table in book/results lacks. May be stopped and run again.",
    )
    record.add_argument(
        "names", nargs="*", metavar="NAME", help="an experiment in book/experiments, such as skip-residual"
    )
    _add_machine(record)
    record.add_argument(
        "--list", action="store_true", help="list the experiments and how much of each is recorded"
    )
    record.set_defaults(run=lambda a: _list() if a.list or not a.names else _record(a))
    merge = commands.add_parser("merge", help="put the tables of shards together")
    merge.add_argument("names", nargs="+", metavar="NAME")
    merge.set_defaults(run=_merge)
    _add_own_commands(commands)
    _add_card_commands(commands)
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
    export.set_defaults(run=_export)
    arguments = parser.parse_args(argv)
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # who reads, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"qlib: {_message(error)}", file=sys.stderr)
        if getattr(arguments, "json", False):
            print(json.dumps({"error": _message(error)}))
        return 2
    except KeyboardInterrupt:
        print("qlib: stopped; finished rows are kept, the same command goes on from there", file=sys.stderr)
        return 130


def _message(error: ValueError | OSError) -> str:
    """In one line, with the file that could not be read."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


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
    for experiment in _experiments(arguments.names):
        path = results.table_path(experiment.bench, experiment.name)
        status |= _record_one(
            experiment, path, f"qlib record {experiment.bench}/{experiment.name}", arguments
        )
    return status


def _record_one(
    experiment: experiments.Experiment, path: Path, command: str, arguments: argparse.Namespace
) -> int:
    options = {
        name: getattr(arguments, name)
        for name in ("device", "precision", "workers", "scheduler", "shard", "retry")
    }
    table = results.record(experiment, path, command=command, **options)
    path = path if arguments.shard == (1, 1) else results.shard_path(path, *arguments.shard)
    print(f"{path}: {len(table)} rows")
    for row in table.to_dict("records"):
        if row["weight_bits"] is None and row["activation_bits"] is None:
            print(f"{row['network']} in float: {results.accuracy_of(row)}")
    for error in results.failures(path).values():
        print(f"qlib: failed, the rest is recorded: {error}", file=sys.stderr)
    return int(bool(results.failures(path)))


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="cpu", help="where networks run, as torch names it: cuda, cuda:1 (default: cpu)"
    )
    parser.add_argument(
        "--precision", default="float32", choices=experiments.PRECISIONS, help="of products and their sums"
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


def _add_own_commands(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser(
        "run",
        help="measure one configuration, and the network in float",
        description="Measure one configuration, and the network in float: of a bench, or your own. For "
        "example: qlib run weight_bits=4 activation_bits=4 --model mine.py:network --weights "
        "mine.safetensors --data images/",
    )
    run.add_argument(
        "fields",
        nargs="*",
        metavar="FIELD=VALUE",
        help="of QuantConfig or an allocation, such as weight_bits=4",
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
    run.add_argument("--precision", default="float32", choices=experiments.PRECISIONS)
    run.set_defaults(run=_run)
    sweep = commands.add_parser("sweep", help="compute the rows of a grid in a file of your own")
    sweep.add_argument(
        "file", type=Path, metavar="GRID.yaml", help="with the fields of those in book/experiments"
    )
    sweep.add_argument("--out", type=Path, metavar="TABLE.csv", help="default: GRID.rows.csv")
    _add_machine(sweep)
    sweep.set_defaults(run=_sweep)
    for parser in (run, sweep):
        parser.add_argument("--bench", help="instead of the file's" if parser is sweep else "default: digits")
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


def _given_bench(arguments: argparse.Namespace, default: str, own: dict | None = None) -> dict:
    """The fields ``bench`` and ``own`` of an experiment, as the arguments say."""
    given = {
        name: getattr(arguments, name) for name in ("model", "weights", "data") if getattr(arguments, name)
    }
    if not given:
        return {"bench": arguments.bench or default, "own": None if arguments.bench else own}
    if len(given) < 3:
        raise ValueError("a network of your own needs all of --model, --weights and --data")
    name = arguments.bench or Path(given["data"]).name
    return {"bench": name, "own": {**given, "preprocess": yaml.safe_load(arguments.preprocess)}}


def _run(arguments: argparse.Namespace) -> int:
    fields = dict(field.partition("=")[::2] for field in arguments.fields)
    given = _given_bench(arguments, "digits")
    images = arguments.images
    calibration = arguments.calibration_images
    if given["own"]:
        bench = load_bench(given["bench"], given["own"])
        images = images or min(2000, len(bench.held_out))
        calibration = calibration or min(320, len(bench.train))
    experiment = experiments.Experiment(
        "run",
        **given,
        fixed={k: yaml.safe_load(v) for k, v in fields.items()},
        vary=(),
        networks=(arguments.network,),
        images=images or 2000,
        calibration_images=(calibration or 320,),
        seeds=(arguments.seed,),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.out or Path(folder) / "run.csv"
        results.record(
            experiment,
            path,
            command=" ".join(["qlib run", *arguments.fields]),
            device=arguments.device,
            precision=arguments.precision,
            retry=True,
            keep=True,
        )
        table = results.load_table(path)
        asked = experiment.runs()
        rows = {results.run_of(row): row for row in table.to_dict("records")}
        for run, what in zip(
            asked, ("float", " ".join(arguments.fields) or "quantized, 8 bits"), strict=True
        ):
            print(f"{what}: {results.accuracy_of(rows[run]) if run in rows else 'failed'}")
        failed = not all(run in rows for run in asked)
        for error in (
            dict.fromkeys(results.failures(path).values()) if failed else ()
        ):  # often one reason for both
            print(f"qlib: {error}", file=sys.stderr)
        return int(failed)


def _sweep(arguments: argparse.Namespace) -> int:
    experiment = experiments.Experiment.load(arguments.file)
    experiment = dataclasses.replace(experiment, **_given_bench(arguments, experiment.bench, experiment.own))
    path = arguments.out or arguments.file.with_suffix(".rows.csv")
    return _record_one(experiment, path, f"qlib sweep {arguments.file.name}", arguments)


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
    default = QuantConfig().to_dict()
    for row in table.to_dict("records"):
        choices = [f"{k}={json.dumps(row[k])}" for k in results.FIELDS if row[k] != default[k]]
        choices += [f"{k}={v}" for k, v in (row["allocation"] or {}).items() if v is not None]
        print(
            f"{row['network']} seed {row['calibration_seed']} {' '.join(choices) or 'defaults'}: "
            f"{results.accuracy_of(row)}"
        )
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    for experiment in _experiments(arguments.names):
        path = results.table_path(experiment.bench, experiment.name)
        print(f"{path}: {len(results.merge(experiment, path))} of {len(experiment.runs())} rows")
    return 0


def _experiments(names: Sequence[str]) -> list[experiments.Experiment]:
    """Those of these names; without a bench, a name is one of ``digits``."""
    known = results.experiments()
    full = [name if "/" in name else f"digits/{name}" for name in names]
    for name in full:
        if name not in known:
            raise ValueError(f"there is no experiment {name!r}{suggestion(name, known)}")
    return [experiments.Experiment.load(known[name]) for name in full]


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 2/4")
    return int(part), int(parts)


def _export(arguments: argparse.Namespace) -> int:
    from .export import export_onnx

    bench = load_bench(arguments.bench)
    network = network_of(bench, arguments.network)
    config = QuantConfig.from_yaml(arguments.config.read_text("utf8")) if arguments.config else QuantConfig()
    calibration = bench.calibration(arguments.calibration_images, seed=arguments.seed)
    export_onnx(network, config, calibration, calibration[0][0][:1], arguments.path)
    print(f"wrote {arguments.path}")
    return 0


def _add_card_commands(commands: argparse._SubParsersAction) -> None:
    codes = "Exit codes: 0 fine; 1 differences, or a choice that the target cannot run or slows; 2 bad input."
    card = commands.add_parser(
        "card",
        help="quantization cards: make, show, check, compare",
        epilog=codes,
        description="State, show, check and compare the choices behind a quantized network's accuracy.",
    )
    verbs = card.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: object, help: str, files: Sequence[str] = ("card",)) -> argparse.ArgumentParser:
        parser = verbs.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=codes)
        for file in files:
            parser.add_argument(
                file, type=Path, metavar=f"{file.upper()}.yaml", help="a file, or a name in the catalogue"
            )
        parser.add_argument("--json", action="store_true", help='print JSON; of an error too: {"error": ...}')
        parser.set_defaults(run=run)
        return parser

    new = verb("new", _card_new, "write a card with nothing reported yet, or that of recorded rows", ())
    new.add_argument("card", type=Path, metavar="CARD.yaml", help="the file to write")
    new.add_argument("--name", help="what the card is about")
    new.add_argument(
        "--experiment",
        metavar="NAME",
        help="an experiment whose rows are recorded, such as skip-residual, or a table of yours (.csv)",
    )
    new.add_argument(
        "--where", nargs="*", default=[], metavar="FIELD=VALUE", help="which of its rows; values as in YAML"
    )
    new.add_argument("--force", action="store_true", help="replace the file if there is one")
    show = verb("show", _card_show, "print a card")
    show.add_argument("--format", choices=("text", "markdown", "html", "latex"), default="text")
    reads = verb("from-onnx", _card_from_onnx, "what a quantized ONNX model's graph shows", ())
    reads.add_argument("model", type=Path, metavar="MODEL.onnx")
    reads.add_argument(
        "--out", type=Path, metavar="CARD.yaml", help="write the card there instead of printing it"
    )
    verb("catalogue", _card_catalogue, "list the cards of published methods", ())
    verb("validate", _card_validate, "say whether a file is a card", ())
    verbs.choices["validate"].add_argument("cards", type=Path, nargs="+", metavar="CARD.yaml", help="files")
    verb(
        "diff",
        _card_diff,
        "in which choices two cards differ, and what each was worth on the recorded bench",
        ("a", "b"),
    )
    check = verb("check", _card_check, "what a chip or runtime cannot do")
    check.add_argument(
        "--target", required=True, metavar="NAME", help=f"{', '.join(hardware.profiles())}, or a .yaml file"
    )


def _card_new(arguments: argparse.Namespace) -> int:
    if arguments.card.exists() and not arguments.force:
        raise ValueError(f"{arguments.card} exists: choose another name, or --force to replace it")
    name = arguments.name or arguments.card.stem
    if arguments.experiment:
        bench, _, experiment = arguments.experiment.rpartition("/")
        own = Path(arguments.experiment) if experiment.endswith(".csv") else None
        if own is None:
            _experiments([arguments.experiment])  # or else an error with the name that was meant
        table = results.load_table(own or results.table_path(bench or "digits", experiment))
        rows = results.select(table, arguments.where)
        quantized = rows[rows.weight_bits.notna() | rows.activation_bits.notna()]
        rows = quantized if len(quantized) else rows  # a table's row in float is the baseline
        card = QuantizationCard.from_rows(rows, table, name=name)
    else:
        card = QuantizationCard.of(name)
    card.save(arguments.card)
    print(json.dumps(card.data) if arguments.json else f"wrote {arguments.card}")
    return 0


def _card(path: Path) -> QuantizationCard:
    """From a file, or by its name in the catalogue."""
    if path.exists() or path.suffix:
        return QuantizationCard.load(path)
    known = catalogue()
    if str(path) not in known:
        raise ValueError(
            f"there is no file {path}, and no card of that name in the catalogue{suggestion(path, known)}"
        )
    return known[str(path)]


def _card_catalogue(arguments: argparse.Namespace) -> int:
    cards = catalogue()
    print(
        json.dumps({name: card.data for name, card in cards.items()})
        if arguments.json
        else "\n".join(f"{name:14} {card.name}, {card.data['authors']}" for name, card in cards.items())
    )
    return 0


def _card_from_onnx(arguments: argparse.Namespace) -> int:
    card = QuantizationCard.from_onnx(arguments.model)
    if arguments.out:
        card.save(arguments.out)
    print(json.dumps(card.data) if arguments.json else f"wrote {arguments.out}" if arguments.out else card)
    return 0


def _card_show(arguments: argparse.Namespace) -> int:
    card = _card(arguments.card)
    views = {
        "text": str,
        "markdown": QuantizationCard.to_markdown,
        "html": QuantizationCard.to_html,
        "latex": QuantizationCard.to_latex,
    }
    print(json.dumps(card.data) if arguments.json else views[arguments.format](card))
    return 0


def _card_validate(arguments: argparse.Namespace) -> int:
    errors = {str(path): _error(path) for path in arguments.cards}
    for path, error in errors.items():
        if error:
            print(f"qlib: {error}", file=sys.stderr)
        elif not arguments.json:
            print(f"{path}: a valid card")
    if arguments.json:
        print(json.dumps({path: error is None or {"error": error} for path, error in errors.items()}))
    return 2 if any(errors.values()) else 0


def _error(path: Path) -> str | None:
    """What is wrong with a card; None if nothing is."""
    try:
        QuantizationCard.load(path)
    except (ValueError, OSError) as error:
        return _message(error)


def _card_diff(arguments: argparse.Namespace) -> int:
    a = _card(arguments.a)
    b = _card(arguments.b)
    found = a.differences(b)
    print(
        json.dumps([choice.to_dict() for choice in found]) if arguments.json else compare.report(a, b, found)
    )
    return 1 if any(choice.a != choice.b for choice in found) else 0


def _card_check(arguments: argparse.Namespace) -> int:
    card = _card(arguments.card)
    profile = hardware.load_profile(arguments.target)
    found = card.fits(profile)
    if arguments.json:
        print(json.dumps([finding.to_dict() for finding in found]))
    else:
        print("\n".join(map(str, found)) or f"nothing in this card stands against {profile['title']}")
    return 1 if any(finding.verdict != "unknown" for finding in found) else 0


if __name__ == "__main__":
    sys.exit(main())
