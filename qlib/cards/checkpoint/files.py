"""Files of a stranger's checkpoint, opened with care: within bounds, none but plain files, and no link that
leads elsewhere.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

MAX_BYTES = 16_000_000  # of a file of settings, or the header of a file of weights
MAX_DEPTH = 20
MAX_PARTS = 200_000  # lists and mappings of a JSON text
MAX_VALUES = 1_000_000  # in them, all together
MAX_ENTRIES = 10_000  # of a folder


@contextmanager
def opened(path: Path, follow: bool = False) -> Iterator[BinaryIO]:
    """A plain file, to be read.

    Parameters
    ----------
    path : Path
    follow : bool
        Whether it may be a symbolic link: only where its reader named it.

    Raises
    ------
    ValueError
        For a link, a folder, a pipe or a device.
    OSError
        If it cannot be read.
    """
    if not follow and path.is_symlink():
        raise ValueError(
            f"{path} is a symbolic link, which is not followed: copy the folder with its links resolved "
            "(cp -rL)"
        )
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError(f"{path} is not a plain file")
        yield file


def entries(folder: Path) -> list[str]:
    """The names in a folder, sorted. Raises ``ValueError`` if there are very many."""
    found = []
    with os.scandir(folder) as every:
        for entry in every:
            found.append(entry.name)
            if len(found) > MAX_ENTRIES:
                raise ValueError(f"{folder} holds more than {MAX_ENTRIES:,} files: name one of them")
    return sorted(found)


def read_text(path: Path, follow: bool = False, most: int = MAX_BYTES) -> str:
    """A text file in UTF-8. Raises ``ValueError`` if it is larger than ``most`` bytes, or no text."""
    with opened(path, follow) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path}: larger than {most:,} bytes")
    try:
        return content.decode("utf8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file in UTF-8") from None


def read_json(path: Path, follow: bool = False) -> dict[str, Any]:
    """The mapping that a JSON file holds. Raises ``ValueError`` in one line, naming the file."""
    return parse_json(read_text(path, follow), path)


def parse_json(text: str, path: Path) -> dict[str, Any]:
    """The mapping that a JSON text holds: no key twice, no number that is not finite, nothing too deep.

    Raises
    ------
    ValueError
        In one line, naming the file.
    """
    if text.count("{") + text.count("[") > MAX_PARTS or text.count(",") > MAX_VALUES:
        raise ValueError(f"{path}: more than {MAX_PARTS:,} lists and mappings, or {MAX_VALUES:,} values")
    try:
        data = json.loads(text, object_pairs_hook=_once, parse_constant=_finite)
        _shallow(data)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON, line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path}: {str(error)[:200]}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: holds no mapping of settings")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"{twice[:60]!r} stands there twice")
    return found


def _finite(text: str) -> float:
    raise ValueError(f"holds a number that is not finite ({text})")


def _shallow(data: Any) -> None:
    level = [data] if isinstance(data, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [part for values in inner for part in values if isinstance(part, (dict, list))]
        if not level:
            return
    raise ValueError("nested too deeply")
