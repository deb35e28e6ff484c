"""The parts of the `qlib` command: each adds its commands to a parser, and says what they do."""

from __future__ import annotations


def in_one_line(error: ValueError | OSError) -> str:
    """An error for a terminal, with the file that could not be read."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
