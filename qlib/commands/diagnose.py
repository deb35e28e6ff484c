"""`qlib diagnose`: which layer hurts, and why."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..benches import load_bench, network_of
from ..config import configuration_named
from ..experiments import Laboratory
from ..files import write_whole
from ..metrics import TOP1, find_metric
from ..provenance import session
from ..tables import sidecar, write_notes
from . import add_force, new_file
from .given import (
    add_bench,
    add_configuration,
    add_how,
    calibration_of,
    fields_of,
    given_bench,
    positive,
    value_of,
)

if TYPE_CHECKING:
    import pandas as pd

CALIBRATION_IMAGES = 64  # on which noise is measured, too
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
        default=20,
        metavar="N",
        help="for how many of the noisiest (default: 20), which takes as many evaluations",
    )
    parser.add_argument("--out", type=Path, metavar="TABLE.csv", help="write all rows there")
    add_force(parser)
    add_bench(parser, "default: digits")
    add_how(parser)
    parser.set_defaults(run=_diagnose)


def _diagnose(arguments: argparse.Namespace) -> int:
    from ..diagnosis import diagnose

    config = configuration_named(arguments.config_class).from_dict(fields_of(arguments.fields))
    method = value_of("--method", arguments.method) if arguments.method else "nearest"
    if arguments.out:
        new_file(arguments.out, arguments.force, (".csv",))
    given = given_bench(arguments, "digits")
    bench = load_bench(given["bench"], given["own"])
    metric = find_metric(arguments.metric or getattr(bench, "metric", TOP1))
    found = diagnose(
        network_of(bench, arguments.network),
        config,
        calibration_of(bench, arguments, CALIBRATION_IMAGES),
        bench.validation(arguments.images) if arguments.images else None,
        method=method,
        metric=metric,
        most=arguments.most,
    )
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
    lines = [[title, *values] for title, values in columns.items()]
    widths = [max(map(len, column)) for column in lines]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*lines, strict=True)
    ]
    more = [f"and {len(found) - LINES} more, less noisy"] if len(found) > LINES else []
    reached = [f"{name}: {found.attrs[name]}" for name in ("float", "quantized") if name in found.attrs]
    return "\n".join([*table, *more, *reached, *found.attrs["advice"]])


def _back(row: Mapping[str, Any]) -> str:
    """What comes back, with its interval; nothing where it was not measured."""
    if math.isnan(row["back"]):
        return ""
    return f"{row['back']:+.2f} ({row['back_low']:+.2f} to {row['back_high']:+.2f})"
