"""What the arguments of a command say: a bench, or a network and images of one's own; choices; a method."""

from __future__ import annotations

import argparse
import contextlib
import textwrap
import warnings
from pathlib import Path
from typing import Any

from .. import experiments
from ..benches import Batches, Bench, is_packaged, network_of
from ..choices import Settings, choices
from ..config import QuantConfig
from ..methods import Method, known_methods
from ..metrics import METRICS
from ..own import is_spec
from ..strict_yaml import load_yaml, read_value
from ..tables import cell

WIDTH = 100  # of lines of help that are laid out here


def natural(text: str, least: int = 0) -> int:
    """A whole number from ``least``."""
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is no whole number from {least} to 999999999")
    return int(text)


def positive(text: str) -> int:
    return natural(text, 1)


def add_configuration(parser: argparse.ArgumentParser, calibration: int) -> None:
    """One configuration of one network, calibrated on so many images where there are as many."""
    parser.add_argument(
        "fields", nargs="*", metavar="FIELD=VALUE", help="a choice, as qlib run --help lists them"
    )
    parser.add_argument("--network", default="base")
    parser.add_argument(
        "--calibration-images",
        type=positive,
        metavar="N",
        help=f"default: {calibration}, or all if there are fewer",
    )
    parser.add_argument("--seed", type=natural, default=0, help="of the draw of calibration images")


def calibration_of(bench: Bench, arguments: argparse.Namespace, usual: int) -> Batches:
    """The images to calibrate on, ``usual`` of them where nothing is said and there are as many."""
    most = getattr(bench, "available", {}).get("calibration", usual)
    return bench.calibration(arguments.calibration_images or min(usual, most), seed=arguments.seed)


def add_bench(parser: argparse.ArgumentParser, default: str) -> None:
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
        metavar="YAML",
        help="as in training: {resize: 256, crop: 224, mean: [...], std: [...]} of pixels from 0 to 1, or a "
        ".yaml file that says so (default: ImageNet's)",
    )


def add_how(parser: argparse.ArgumentParser) -> None:
    """How it is quantized and measured, beside the choices."""
    add_method(parser)
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="what is measured: a metric, or FILE.py:NAME (is run; a plain function counts as better where "
        "it is greater; default: what the bench says, or top1)",
    )
    add_config_class(parser)


def add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method",
        metavar="NAME",
        help="how codes and ranges are found: a method, FILE.py:NAME (is run), a YAML mapping of name and "
        "settings, or a list of such (default: nearest)",
    )


def method_of(arguments: argparse.Namespace) -> Any:
    """What ``--method`` says."""
    return "nearest" if arguments.method is None else read_value("--method", arguments.method)


def add_config_class(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-class",
        metavar="FILE.py:NAME",
        help="a configuration with choices of your own, derived from QuantConfig (is run)",
    )


def what_there_is() -> str:
    """The end of the help: choices, fields of an allocation, and the names of methods and metrics."""
    return "\n".join(
        (
            "choices, and their defaults:",
            *_fields(QuantConfig),
            "",
            "an allocation, which chooses the bits by layer (learned where a target is given):",
            *_fields(experiments.Allocation),
            "",
            "methods, and their settings, such as --method '{name: gptq, damping: 0.1}':",
            *(_method_line(name, kind) for name, kind in known_methods().items()),
            f"metrics: {', '.join(METRICS)}",
        )
    )


def _method_line(name: str, kind: type[Method]) -> str:
    settings = ", ".join(f"{field}={cell(value)}" for field, value in kind.defaults().items())
    return f"  {name}: {settings or 'no settings'}"


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


def given_bench(arguments: argparse.Namespace, default: str, own: dict | None = None) -> dict:
    """The fields ``bench`` and ``own`` of an experiment, as the arguments say."""
    given = {
        name: getattr(arguments, name) for name in ("model", "weights", "data") if getattr(arguments, name)
    }
    if is_spec(arguments.bench):
        if given:
            raise ValueError("--bench FILE.py:NAME brings networks and data: leave out --model and the like")
        made = {"bench": arguments.bench}
        return {"bench": experiments.name_of(made), "own": made}
    if not given:
        if arguments.preprocess is not None:
            raise ValueError("--preprocess is for images of your own: it needs --model, --weights and --data")
        return {"bench": arguments.bench or default, "own": None if arguments.bench else own}
    if lacks := [f"--{name}" for name in ("model", "weights", "data") if name not in given]:
        raise ValueError(
            f"a network of your own needs all of --model, --weights and --data: {lacks[0]} is missing"
        )
    said = arguments.preprocess
    own = {**given, "preprocess": "imagenet" if said is None else _preprocess(said)}
    return {"bench": arguments.bench or experiments.name_of(given), "own": own}


def _preprocess(said: str) -> Any:
    in_file = said.endswith((".yaml", ".yml"))
    return load_fields(Path(said)) if in_file else read_value("--preprocess", said)


def warn_of_classes(bench: Bench, network: str) -> None:
    """Say where a network tells more classes than images of the reader's own have: a folder that is missing
    shifts the labels of all later ones.
    """
    classes = getattr(getattr(bench, "held_out", None), "classes", None)
    if classes is None or is_packaged(bench):
        return
    with contextlib.suppress(Exception):  # said where it is measured
        from ..network import evaluation_copy

        outputs = evaluation_copy(network_of(bench, network))(bench.validation(1)[0][0])
        if outputs.dim() == 2 and outputs.shape[1] > len(classes):
            warnings.warn(
                f"the network tells {outputs.shape[1]} classes, the images have {len(classes)} folders: "
                "labels count the folders in alphabetical order, so one that lacks shifts all later ones",
                stacklevel=2,
            )


def given_how(arguments: argparse.Namespace, fixed: dict[str, Any]) -> dict[str, Any]:
    """The fields of an experiment that say how it is quantized and measured, where the arguments do."""
    given = {"metric": arguments.metric, "config_class": arguments.config_class}
    given = {name: value for name, value in given.items() if value}
    if arguments.method is not None:
        given["fixed"] = {**fixed, "method": method_of(arguments)}
    return given


def load_fields(path: Path) -> dict[str, Any]:
    """The fields of a YAML file.

    Raises
    ------
    ValueError
        Naming the file.
    """
    try:
        fields = load_yaml(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: a mapping of field names to values is wanted")
    return fields
