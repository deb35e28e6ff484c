"""What a reader brings: a method, a metric, a bench, a network or a kind of configuration in a file of
theirs.

It is named ``FILE.py:NAME`` or ``package.module:NAME``, and that code is run. Names in recorded rows and
cards, which may come from strangers, are never looked up here.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "qlib_own_"  # of the modules that files become
_SOURCES: dict[str, bytes] = {}  # by module, what was run


def is_spec(name: object) -> bool:
    """Whether ``name`` says where something of the reader's is. A line of YAML, such as ``name: bias``, does
    not.
    """
    if not isinstance(name, str) or ":" not in name:
        return False
    return re.search(r"\.py:\S", name) is not None or re.search(r"\s", name) is None


def short(spec: str) -> str:
    """``FILE.py:NAME`` without the folder: what the key of a row holds, so that a file may be named from
    anywhere. Files of one name are told apart by their code. Other names stay as they are.
    """
    place, colon, name = spec.rpartition(":")
    return f"{Path(place).name}:{name}" if colon and place.endswith(".py") else spec


def named(spec: str, what: str) -> Any:
    """What stands under a name in a file or a module. A file is run once in a process, and again once it has
    changed.

    Parameters
    ----------
    spec
        ``"folder/file.py:name"`` or ``"package.module:name"``.
    what
        What is wanted, for the error.

    Raises
    ------
    ValueError
        There is no such file or module, it cannot be run, or has no such name.
    """
    place, _, name = spec.rpartition(":")
    try:
        module = _module(spec)
    except (ImportError, AttributeError, ValueError, OSError) as error:
        raise ValueError(f"no {what} {spec!r} ({error}): give package.module:name or file.py:name") from error
    if not hasattr(module, name):
        raise ValueError(f"no {what} {spec!r}: {place} has no {name!r}")
    return getattr(module, name)


def _module(spec: str) -> ModuleType:
    place = spec.rpartition(":")[0]
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).resolve()
    return _file(str(path), path.read_bytes())


@cache
def _file(path: str, source: bytes) -> ModuleType:
    """The module of a file. What is run is what was read, which its rows are told by: never what Python may
    have kept of an earlier state of the file.
    """
    name = PREFIX + hashlib.sha256(path.encode() + source).hexdigest()[:16]
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, path))
    sys.modules[name] = module  # where dataclasses look for it
    try:
        exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path
        ]
        where = f", line {lines[-1]}" if lines else ""
        raise ValueError(f"it cannot be run{where}: {type(error).__name__}: {error}") from error
    _SOURCES[name] = source
    return module


def place_of(kind: type) -> type | str:
    """Where another process finds a class: itself, or, if it is of a reader's file, ``FILE.py:NAME``."""
    if not kind.__module__.startswith(PREFIX):
        return kind
    return f"{sys.modules[kind.__module__].__file__}:{kind.__qualname__}"


def origin(*things: Any) -> dict[str, str]:
    """What tells the reader's code from other code of that name, for the key of a row.

    Parameters
    ----------
    *things
        Classes, functions, instances, and names such as ``FILE.py:NAME``; ``None`` counts for nothing.

    Returns
    -------
    dict
        ``{"code": hash}`` of the files in which they, or that of which they are instances, stand; an empty
        dictionary for what this package or Python brings.

    Raises
    ------
    ValueError
        The source of one cannot be read.
    """
    sources = dict.fromkeys(_source(thing) for thing in things if thing is not None)
    sources.pop(None, None)
    return {"code": hashlib.sha256(b"".join(sources)).hexdigest()[:16]} if sources else {}


def _source(thing: Any) -> bytes | None:
    """Of the file in which something stands; ``None`` if it is brought along."""
    if is_spec(thing):
        module = _module(thing).__name__
    else:
        thing = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
        module = thing.__module__ or "builtins"  # as functions of torch have it
    if module.split(".")[0] in (__name__.split(".")[0], *sys.stdlib_module_names):
        return None
    try:
        return _source_of(module)
    except (KeyError, AttributeError, TypeError, OSError):
        try:
            return inspect.getsource(thing).encode()
        except (TypeError, OSError):
            raise ValueError(
                f"the source of {thing.__qualname__} cannot be read, so nothing could tell its rows from "
                "those of other code of that name: put it into a file"
            ) from None


@cache
def _source_of(module: str) -> bytes:
    """Of a module, as it was when it was first asked for: what is imported does not change with its file."""
    return _SOURCES.get(module) or Path(sys.modules[module].__file__).read_bytes()
