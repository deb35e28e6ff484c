"""How codes and ranges are found, given the choices: one file a method.

A method is a frozen dataclass of its settings with one function, `Method.apply`. It is named by its file,
such as ``"bias"``; one of your own by ``FILE.py:NAME``. Torch is imported where a method is applied, not
before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from ..names import suggestion
from ..own import is_spec, named, origin
from .method import STAGES, Method, Turn, Work

__all__ = [
    "STAGES",
    "Method",
    "Turn",
    "Work",
    "find_methods",
    "identity",
    "known_methods",
    "names",
    "spelled",
    "unspelled",
    "words",
]

NEAREST = "nearest"
PAPERS = {
    "brecq": "blocks",
    "qdrop": "blocks",
    "cle": "equalize",
    "smoothquant": "smooth",
    "quarot": "hadamard",
    "lsq": "ranges",
    "rtn": NEAREST,
}
"""Other names of methods, each with the name it has here."""


@cache
def known_methods() -> dict[str, type[Method]]:
    """The methods of this package, by name."""
    files = [module.name for module in iter_modules(__path__) if module.name != "method"]
    return {name: _method_of(import_module(f".{name}", __name__)) for name in files}


def _method_of(module: Any) -> type[Method]:
    kinds = (kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Method))
    return next(kind for kind in kinds if kind.__module__ == module.__name__)


def find_methods(method: Any) -> tuple[Method, ...]:
    """The methods that are meant, in the order in which they are applied, with one that rounds.

    Parameters
    ----------
    method
        A name; ``FILE.py:NAME``; a mapping of ``name`` and settings; an instance; or a list of such, each at
        its stage: before ranges are found, rounding, after.

    Raises
    ------
    ValueError
        There is no such method or setting; the order is not that of the stages; two of them round.
    """
    return tuple(one for _, one in _in_order(method))


def _in_order(method: Any) -> list[tuple[str, Method]]:
    """What `find_methods` finds, with names."""
    named_methods = _named(method)
    found = list(named_methods)
    stages = [STAGES.index(one.stage) for _, one in found]
    if stages != sorted(stages):
        said = ", ".join(f"{name!r} works {one.stage}" for name, one in named_methods)
        raise ValueError(f"methods come in the order of their stages, {', '.join(STAGES)}; here {said}")
    rounding = STAGES.index("rounding")
    if stages.count(rounding) > 1:
        both = " and ".join(repr(name) for name, one in named_methods if one.stage == "rounding")
        raise ValueError(f"weights are rounded once, but {both} would do it: choose one")
    if rounding not in stages:
        found.insert(sum(stage < rounding for stage in stages), (NEAREST, known_methods()[NEAREST]()))
    return found


def _named(method: Any) -> list[tuple[str, Method]]:
    """The methods given, with the names by which they can be found again."""
    given = method if isinstance(method, (list, tuple)) else [method]
    return [_one(part) for part in given]


def _one(part: Any) -> tuple[str, Method]:
    settings: Mapping[str, Any] = {}
    if isinstance(part, Mapping) and "name" not in part:
        raise ValueError(
            "a method with settings is a mapping with its name, such as {name: gptq, damping: 0.1}; got "
            f"{part!r:.80}"
        )
    if isinstance(part, Mapping):
        settings = {key: value for key, value in part.items() if key != "name"}
        part = part.get("name")
    found = part
    if is_spec(part):
        found = named(part, "method")
    elif isinstance(part, str):
        if part not in known_methods():
            raise ValueError(f"there is no method {part!r}{_suggestion(part)}")
        found = known_methods()[part]
    if isinstance(found, type) and issubclass(found, Method):
        found = found.from_dict(settings)
    elif settings:
        raise ValueError(
            f"settings ({', '.join(settings)}) need the name of a class of methods, got {part!r:.80}"
        )
    if not isinstance(found, Method):
        raise ValueError(f"a method is a name, or an instance of qlib.methods.Method; got {part!r:.80}")
    name = _name_of(found, part)
    if found.stage not in STAGES:
        raise ValueError(f"the method {name!r} works {found.stage!r}, which is none of {', '.join(STAGES)}")
    return name, found


def _suggestion(name: str) -> str:
    known = known_methods()
    own = PAPERS.get(name.casefold(), name.casefold())
    return f"; it is {own!r} here" if own in known else suggestion(name, known)


def _name_of(method: Method, given: Any) -> str:
    """That of this package, or else as it was given, or that of its class."""
    kinds = {kind: name for name, kind in known_methods().items()}
    return kinds.get(type(method), given if isinstance(given, str) else type(method).__name__)


def spelled(method: Any) -> str:
    """Methods as one text, the same for the same ones: ``"nearest"``, ``"bias"``, or JSON with settings; what
    a row has, and what `unspelled` reads.

    Raises
    ------
    ValueError
        As `find_methods`; and for an instance of a class of your own, which another process could not find by
        its name.
    """
    find_methods(method)
    parts = []
    for name, one in _named(method):
        if not is_spec(name) and type(one) not in known_methods().values():
            raise ValueError(
                f"say where the method {name!r} stands, such as FILE.py:{name}, and what it is set to"
            )
        changed = {k: v for k, v in one.to_dict().items() if getattr(one, k) != one.defaults()[k]}
        if is_spec(name) and not isinstance(named(name, "method"), type):
            changed = {}  # it names an instance, with its settings
        parts.append({"name": name, **changed} if changed else name)
    parts = [part for part in parts if part != NEAREST] or [NEAREST]  # what rounds where nothing else does
    only = parts[0] if len(parts) == 1 else parts
    return only if isinstance(only, str) else json.dumps(only, sort_keys=True)


def unspelled(text: str) -> Any:
    """What `spelled` had been given, as `find_methods` takes it."""
    return json.loads(text) if text[:1] in ("{", "[") else text


def identity(text: str) -> list[dict[str, Any]]:
    """What the key of a row holds of methods, `spelled`: names, settings (those that were added later where
    they are not their default), and what tells the reader's own code from other code of that name.
    """
    found = _named(unspelled(text))
    return [{"name": name, **one.identity(), **origin(one)} for name, one in found]


def names(method: Any) -> list[str]:
    """The names in what a row or a reader says of methods; nothing is looked up."""
    given = method if isinstance(method, (list, tuple)) else [method]
    return [str(part.get("name") if isinstance(part, Mapping) else part) for part in given]


def words(method: Any) -> dict[str, Any]:
    """The fields of a card that methods fill in; texts of several are joined, numbers such as steps added,
    settings that are not the usual ones named, and so is a method without words.
    """
    said: dict[str, Any] = {"technique": "post-training"}
    for name, one in _in_order(method):
        for field, value in _with_settings(one, one.card() or {"technique": name}).items():
            before = said.get(field)
            if isinstance(before, str):
                value = f"{before}, {value}"
            elif type(before) in (int, float):
                value = before + value
            said[field] = value
    return said


def _with_settings(method: Method, said: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of a method, with the settings that are not the usual ones and that it leaves out."""
    usual = method.defaults()
    changed = {
        name: value for name, value in method.to_dict().items() if getattr(method, name) != usual[name]
    }
    texts = [value for value in said.values() if isinstance(value, str)]
    others = [
        f"{name} {value}"
        for name, value in changed.items()
        if name not in said and not (isinstance(value, str) and any(value in text for text in texts))
    ]
    field = next((name for name, value in said.items() if isinstance(value, str)), None)
    if not others or field is None:
        return dict(said)
    return {**said, field: f"{said[field]} ({', '.join(others)})"}
