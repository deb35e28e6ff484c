"""`qlib card`: quantization cards made, shown, checked and compared."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import results
from ..cards import NOT_REPORTED, QuantizationCard, catalogue, compare, hardware
from ..cards.profile import load_profile, profiles
from ..cards.render import faults
from ..config import QuantConfig, configuration_named
from ..names import suggestion
from ..strict_yaml import load_yaml
from ..tables import sidecar
from . import add_force, in_one_line, new_file
from .recorded import table_named

FORMATS = (".yaml", ".yml", ".json")
CHECKPOINTS = (".gguf", ".safetensors")  # beside folders


def add(commands: argparse._SubParsersAction) -> None:
    codes = (
        "Exit codes: 0 fine; 1 differences (diff), a choice that the target cannot run or that falls back "
        "(check; with --strict also one that is unknown), or files that contradict each other, hold what is "
        "no value or are broken, whose card is made all the same (from-checkpoint); 2 bad input."
    )
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
                file,
                type=Path,
                metavar=f"{file.upper()}.yaml",
                help="a file, a name in the catalogue, or a checkpoint: its folder or .gguf file",
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
    add_force(new)
    show = verb("show", _card_show, "print a card")
    show.add_argument("--format", choices=("text", "markdown", "html", "latex"), default="text")
    reads = verb("from-onnx", _card_from_onnx, "what a quantized ONNX model's graph shows", ())
    reads.add_argument("model", type=Path, metavar="MODEL.onnx")
    _add_out(reads)
    reads = verb(
        "from-checkpoint", _card_from_checkpoint, "what the files of a quantized checkpoint show", ()
    )
    reads.add_argument(
        "checkpoint", type=Path, metavar="FOLDER|FILE", help="a GGUF file, or a folder with a config.json"
    )
    _add_out(reads)
    verb("catalogue", _card_catalogue, "list the cards of published methods", ())
    verb("validate", _card_validate, "say whether a file is a card", ())
    verbs.choices["validate"].add_argument("cards", type=Path, nargs="+", metavar="CARD.yaml", help="files")
    verb(
        "diff",
        _card_diff,
        "in which choices two cards differ, and what each was worth on the recorded bench",
        ("a", "b"),
    )
    check = verb("check", _card_check, "what a chip or runtime runs, falls back from, or cannot run")
    check.description += (
        " Times are those of the networks that its lines name, on the processor that its first line names; "
        "operators between layers, which a card does not show, may cost more."
    )
    check.add_argument(
        "--target", required=True, metavar="NAME", help=f"{', '.join(profiles())}, or a .yaml file"
    )
    check.add_argument(
        "--strict", action="store_true", help="exit with 1 for what is unknown too, such as an empty card"
    )
    for name in ("new", "show", "validate", "diff", "check"):
        verbs.choices[name].add_argument(
            "--config-class",
            metavar="FILE.py:NAME",
            help="a configuration with choices of your own, which are fields of the card (is run)",
        )


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        metavar="CARD.yaml",
        help=f"write the card there instead of printing it; ends in {', '.join(FORMATS)}",
    )
    add_force(parser)


def _card_new(arguments: argparse.Namespace) -> int:
    _new_card(arguments.card, arguments.force)
    if arguments.card.name.endswith(sidecar(Path(".csv")).name):
        raise ValueError(f"{arguments.card} is where a table keeps how it was recorded: choose another name")
    name = arguments.name or arguments.card.stem
    config_class = configuration_named(arguments.config_class)
    if arguments.experiment:
        table = results.load_table(table_named(arguments.experiment))
        rows = results.select(table, arguments.where)
        quantized = rows[rows.weight_bits.notna() | rows.activation_bits.notna()]
        rows = quantized if len(quantized) else rows  # a table's row in float is the baseline
        card = QuantizationCard.from_rows(rows, table, config_class, name=name)
    else:
        card = QuantizationCard.of(name, config_class=config_class)
    card.save(arguments.card)
    print(json.dumps(card.data) if arguments.json else f"wrote {arguments.card}")
    return 0


def _card(path: Path, config_class: str | None) -> QuantizationCard:
    """From a file, by its name in the catalogue, or of a checkpoint."""
    if path.is_dir() or path.suffix in CHECKPOINTS and path.exists():
        return QuantizationCard.from_checkpoint(path)
    if path.exists() or path.suffix:
        return QuantizationCard.load(path, configuration_named(config_class))
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
    return _card_from(QuantizationCard.from_onnx, arguments.model, arguments)


def _card_from_checkpoint(arguments: argparse.Namespace) -> int:
    return _card_from(QuantizationCard.from_checkpoint, arguments.checkpoint, arguments)


def _card_from(read: Callable[[Path], QuantizationCard], path: Path, arguments: argparse.Namespace) -> int:
    """The card of what lies at ``path``, written or printed; 1 if something is wrong with its files."""
    if arguments.out and arguments.json:
        raise ValueError("--out writes the card and --json prints it: leave one out; a .json file is JSON")
    if arguments.out:
        _new_card(arguments.out, arguments.force)
    card = read(path)
    if arguments.out:
        card.save(arguments.out)
    said = [] if card.data["remarks"] == NOT_REPORTED else [card.data["remarks"]]
    wrote = "\n".join([*said, f"wrote {arguments.out}"])
    print(json.dumps(card.data) if arguments.json else wrote if arguments.out else card)
    for line in faults(card):
        print(f"qlib: {in_one_line(line)}", file=sys.stderr)
    return int(bool(card.data["faults"]))


def _new_card(path: Path, force: bool) -> None:
    """Where a card is to be written. What is there already is replaced only if it is a card."""
    new_file(path, force, FORMATS)
    if path.exists():
        try:
            data = load_yaml(path)
        except ValueError:
            data = None
        if not isinstance(data, dict) or "schema_version" not in data:
            raise ValueError(f"{path} is no card, and stays: choose another name")


def _card_show(arguments: argparse.Namespace) -> int:
    card = _card(arguments.card, arguments.config_class)
    views = {
        "text": str,
        "markdown": QuantizationCard.to_markdown,
        "html": QuantizationCard.to_html,
        "latex": QuantizationCard.to_latex,
    }
    print(json.dumps(card.data) if arguments.json else views[arguments.format](card))
    return 0


def _card_validate(arguments: argparse.Namespace) -> int:
    config_class = configuration_named(arguments.config_class)
    errors = {str(path): _error(path, config_class) for path in arguments.cards}
    for path, error in errors.items():
        if error:
            print(f"qlib: {error}", file=sys.stderr)
        elif not arguments.json:
            print(f"{path}: a valid card")
    if arguments.json:
        print(json.dumps({path: error is None or {"error": error} for path, error in errors.items()}))
    return 2 if any(errors.values()) else 0


def _error(path: Path, config_class: type[QuantConfig]) -> str | None:
    """What is wrong with a card; None if nothing is."""
    try:
        QuantizationCard.load(path, config_class)
    except (ValueError, OSError) as error:
        return in_one_line(error)


def _card_diff(arguments: argparse.Namespace) -> int:
    a = _card(arguments.a, arguments.config_class)
    b = _card(arguments.b, arguments.config_class)
    found = a.differences(b)
    print(
        json.dumps([choice.to_dict() for choice in found]) if arguments.json else compare.report(a, b, found)
    )
    return 1 if any(choice.a != choice.b for choice in found) else 0


def _card_check(arguments: argparse.Namespace) -> int:
    card = _card(arguments.card, arguments.config_class)
    profile = load_profile(arguments.target, card.fields)
    found = hardware.check(card, profile)
    if arguments.json:
        print(json.dumps([finding.to_dict() for finding in found]))
    else:
        print(hardware.report(profile, found, card))
    against = {"cannot", "falls back", *(["unknown"] if arguments.strict else [])}
    return int(any(finding.verdict in against for finding in found))
