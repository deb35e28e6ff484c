"""Files that others see whole: the old one or the new one, never a part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place once the block has ended well.

    Parameters
    ----------
    path : path
        Where the file shall lie; its folder is there.

    Raises
    ------
    OSError
        If it cannot be written. Whatever ends the block, what was there stays, and nothing is left beside it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:  # on the disk before it gets its name
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, with its line ends as they are, see `whole`."""
    with whole(path) as temporary, open(temporary, "w", encoding="utf8", newline="") as file:
        file.write(text)
