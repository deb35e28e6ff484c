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
import sys
from functools import cache
from pathlib import Path
from typing import Any

PREFIX = "qlib_own_"  # of the modules that files become


def is_spec(name: object) -> bool:
    """Whether ``name`` says where something of the reader's is."""
    return isinstance(name, str) and ":" in name


def named(spec: str, what: str) -> Any:
    """What stands under a name in a file or a module; the file is run once in a process.

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
        module = (
            _file(str(Path(place).resolve())) if place.endswith(".py") else importlib.import_module(place)
        )
        return getattr(module, name)
    except (ImportError, AttributeError, ValueError, OSError) as error:
        raise ValueError(f"no {what} {spec!r} ({error}): give package.module:name or file.py:name") from error


@cache
def _file(path: str) -> Any:
    name = PREFIX + hashlib.sha256(path.encode()).hexdigest()[:16]
    found = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # where dataclasses look for it
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def place_of(kind: type) -> type | str:
    """Where another process finds a class: itself, or, if it is of a reader's file, ``FILE.py:NAME``."""
    if not kind.__module__.startswith(PREFIX):
        return kind
    return f"{sys.modules[kind.__module__].__file__}:{kind.__qualname__}"


def origin(thing: Any) -> dict[str, str]:
    """What tells the reader's code from other code of that name, for the key of a row.

    Returns
    -------
    dict
        ``{"code": hash}`` of the file in which the class or function ``thing``, or that of which it is an
        instance, stands; an empty dictionary for what this package brings.

    Raises
    ------
    ValueError
        Its source cannot be read.
    """
    thing = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    if thing.__module__.split(".")[0] == __name__.split(".")[0]:
        return {}
    try:
        source = Path(sys.modules[thing.__module__].__file__).read_bytes()
    except (KeyError, AttributeError, TypeError, OSError):
        try:
            source = inspect.getsource(thing).encode()
        except (TypeError, OSError):
            raise ValueError(
                f"the source of {thing.__qualname__} cannot be read, so nothing could tell its rows from "
                "those "
                "of other code of that name: put it into a file"
            ) from None
    return {"code": hashlib.sha256(source).hexdigest()[:16]}
