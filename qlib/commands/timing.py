"""`qlib time`: how long a quantized network takes, against itself in float."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from ..benches import load_bench, network_of
from ..config import configuration_named
from ..strict_yaml import read_fields
from .given import add_bench, add_config_class, given_bench, positive

if TYPE_CHECKING:
    from ..kernels.latency import Latency


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "time",
        help="how long a quantized network takes on integer kernels, against itself in float",
        description="Time a network, of a bench or your own, quantized, in turn with itself in float, both "
        "written as ONNX and run by ONNX Runtime in several processes. Choices are fields as for qlib run; "
        "weight_bits=null activation_bits=null times the float network against itself.",
    )
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="a choice, as qlib run lists them")
    parser.add_argument("--network", default="base")
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="images at once (default: 1)")
    parser.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="that run a network (default: 1)"
    )
    parser.add_argument(
        "--processes", type=positive, default=3, metavar="N", help="over which the interval is (default: 3)"
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="for which each of them measures (default: 3)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_bench(parser, "default: digits")
    add_config_class(parser)
    parser.set_defaults(run=_time)


def _time(arguments: argparse.Namespace) -> int:
    from ..kernels.latency import latency

    config = configuration_named(arguments.config_class).from_dict(read_fields(arguments.fields))
    given = given_bench(arguments, "digits")
    bench = load_bench(given["bench"], given["own"])
    found = latency(
        network_of(bench, arguments.network),
        config,
        bench.validation(arguments.batch)[0][0],
        threads=arguments.threads,
        processes=arguments.processes,
        seconds=arguments.seconds,
    )
    print(json.dumps(dataclasses.asdict(found) | {"busy": found.busy}) if arguments.json else _said(found))
    return 0


def _said(found: Latency) -> str:
    quiet = {True: "busy with other programs", False: "idle otherwise", None: "nobody knows whether idle"}
    return "\n".join(
        [
            str(found),
            f"one run: {found.milliseconds[1]:.3g} ms, in float {found.milliseconds[0]:.3g} ms",
            f"on: {found.runtime}, {found.hardware}, {quiet[found.busy]}",
            f"kernels: {', '.join(f'{count} {kind}' for kind, count in found.kernels.items())}",
            *found.slow,
        ]
    )
