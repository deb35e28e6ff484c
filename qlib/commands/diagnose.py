"""`qlib diagnose`: which layer hurts, and why."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..benches import load_bench, network_of
from ..config import configuration_named
from ..files import write_whole
from ..laboratory import Laboratory
from ..metrics import TOP1, find_metric
from ..provenance import session
from ..strict_yaml import read_fields
from ..tables import sidecar, write_notes
from . import add_force, laid_out, new_file
from .given import (
    add_bench,
    add_configuration,
    add_how,
    calibration_of,
    given_bench,
    method_of,
    positive,
    warn_of_classes,
)

if TYPE_CHECKING:
    import pandas as pd

CALIBRATION_IMAGES = 64  # on which noise is measured, too
MOST = 20  # rows for which it is measured what comes back
LINES = 15  # of the table that are printed


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "diagnose",
        help="which layer hurts, and why",
        description="List the quantizers of a network, the noisiest first: their own signal-to-noise ratio "
        "on float inputs, what arrives, what is clipped, how many codes are used; with --images, what comes "
        "back when one of them is left in float. Choices are fields as for qlib run.",
    )
    add_configuration(parser, CALIBRATION_IMAGES)
    parser.add_argument(
        "--images", type=positive, metavar="N", help="to measure on what comes back (default: it is not)"
    )
    parser.add_argument(
        "--most",
        type=positive,
        metavar="N",
        help=f"for how many of the noisiest (default: {MOST}), which takes as many evaluations",
    )
    parser.add_argument("--out", type=Path, metavar="TABLE.csv", help="write all rows there")
    add_force(parser)
    add_bench(parser, "default: digits")
    add_how(parser)
    parser.set_defaults(run=_diagnose)


def _diagnose(arguments: argparse.Namespace) -> int:
    from ..diagnosis import diagnose

    if arguments.most and not arguments.images:
        raise ValueError("--most says for how many it is measured what comes back, and needs --images")
    config = configuration_named(arguments.config_class).from_dict(read_fields(arguments.fields))
    method = method_of(arguments)
    if arguments.out:
        new_file(arguments.out, arguments.force, (".csv",))
        new_file(sidecar(arguments.out), arguments.force)
    given = given_bench(arguments, "digits")
    bench = load_bench(given["bench"], given["own"])
    warn_of_classes(bench, arguments.network)
    calibration = calibration_of(bench, arguments, CALIBRATION_IMAGES)
    metric = find_metric(arguments.metric or getattr(bench, "metric", TOP1))
    found = diagnose(
        network_of(bench, arguments.network),
        config,
        calibration,
        bench.validation(arguments.images) if arguments.images else None,
        method=method,
        metric=metric,
        most=arguments.most or MOST,
    )
    if "back" in found and not metric.greater_is_better:
        print(f"{metric.title or metric.name}: less is better")
    print(_said(found))
    if arguments.out:
        write_whole(arguments.out, found.to_csv(index=False))
        made = session(arguments.said, (arguments.seed,), Laboratory(bench), None, given["own"])
        reached = {name: str(found.attrs[name]) for name in ("float", "quantized") if name in found.attrs}
        write_notes(arguments.out, {"sessions": [{**made, **reached}]})
        print(f"wrote {arguments.out} and {sidecar(arguments.out).name}")
    return 0


def _said(found: pd.DataFrame) -> str:
    """The noisiest rows, what both networks reach, and the advice."""
    shown = found.head(LINES)
    columns = {
        "name": shown.name,
        "side": shown.side,
        "bits": shown.bits.map("{:g}".format),
        "own dB": shown.sqnr.map("{:.1f}".format),
        "arriving dB": shown.arriving.map("{:.1f}".format),
        "shift %": shown["shift"].map("{:.0f}".format),
        "clipped %": shown.clipped.map("{:.2f}".format),
        "codes": shown.codes.map(str),
        "peak": shown.peak.map("{:.1f}".format),
        "spread": shown.spread.map("{:.1f}".format),
    }
    if "back" in found:
        columns["back in float"] = [_back(row) for row in shown.to_dict("records")]
    table = laid_out(list(zip(*([title, *values] for title, values in columns.items()), strict=True)))
    more = [f"and {len(found) - LINES} more, less noisy"] if len(found) > LINES else []
    reached = [f"{name}: {found.attrs[name]}" for name in ("float", "quantized") if name in found.attrs]
    return "\n".join([*table, *more, *reached, *found.attrs["advice"]])


def _back(row: Mapping[str, Any]) -> str:
    """What comes back, with its interval; nothing where it was not measured."""
    if math.isnan(row["back"]):
        return ""
    return f"{row['back']:+.2f} ({row['back_low']:+.2f} to {row['back_high']:+.2f})"
