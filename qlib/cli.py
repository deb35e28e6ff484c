"""The `qlib` command. Exit codes: 0 done, 1 a comparison or check found something or a run failed, 2 bad
input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import warnings

from . import __version__
from .commands import Parser, cards, diagnose, in_one_line, measure, recorded, timing


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = Parser(prog="qlib", description="Measure what quantization papers leave out.")
    parser.add_argument("--version", action="version", version=f"qlib {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for part in (recorded, measure, diagnose, timing, cards):
        part.add(commands)
    arguments = parser.parse_args(argv)
    arguments.said = shlex.join(["qlib", *(sys.argv[1:] if argv is None else argv)])
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"qlib: {in_one_line(message)}", file=sys.stderr)
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # who reads, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"qlib: {in_one_line(error)}", file=sys.stderr)
        if getattr(arguments, "json", False):
            print(json.dumps({"error": in_one_line(error)}))
        return 2
    except KeyboardInterrupt:
        kept = getattr(arguments, "kept", "nothing was written")
        print(f"qlib: stopped; {kept}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
