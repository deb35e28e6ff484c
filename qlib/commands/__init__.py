"""The parts of the `qlib` command: each adds its commands to a parser, and says what they do."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


class Parser(argparse.ArgumentParser):
    """Takes no option by its beginning, and says what is wrong in one line."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, allow_abbrev=False, **options)

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
        """As of any parser; fields may stand between options and behind them, too."""
        found, rest = self.parse_known_args(args, namespace)
        if rest and hasattr(found, "fields") and not any(part.startswith("-") for part in rest):
            found.fields = [*found.fields, *rest]
        elif rest:
            command = f"{self.prog} {getattr(found, 'command', '')}".strip()
            said = " ".join(rest)
            self.exit(2, f"qlib: unrecognized arguments: {' '.join(said.split())} (see {command} --help)\n")
        return found

    def error(self, message: str) -> None:
        self.exit(2, f"qlib: {' '.join(message.split())} (see {self.prog} --help)\n")


def add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace the file if there is one")


def new_file(path: Path, force: bool, suffixes: tuple[str, ...] = ()) -> Path:
    """``path``, to be written.

    Raises
    ------
    ValueError
        It is there and not to be replaced, its folder is not, or it ends in none of ``suffixes``.
    """
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"{path} is to end in {' or '.join(suffixes)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"{path} {'is a folder' if path.is_dir() else 'lies in a folder that is not there'}")
    if path.exists() and not force:
        raise ValueError(f"{path} exists: choose another name, or --force to replace it")
    return path


def laid_out(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as lines of text, in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def in_one_line(error: Exception) -> str:
    """An error or a warning for a terminal, with the file that could not be read."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
