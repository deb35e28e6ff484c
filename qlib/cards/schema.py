"""What of JSON Schema the schemas of cards and of hardware profiles use: checked in a page, without a
compiled grammar.

The package `jsonschema` says the same of every card (the tests hold the two against each other), but where
Jupyter is installed, importing it compiles a grammar of addresses that no card asks for, which takes a
second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from reprlib import repr as brief  # values come from strangers
from typing import Any, NamedTuple

from ..choices import same

ANNOTATIONS = {"$schema", "$defs", "title", "description", "examples", "observation", "outcome"}
ANNOTATIONS |= {"since", "needs", "like"}  # what `qlib.cards.fields` makes of them
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "integer": lambda value: TYPES["number"](value) and value == value // 1,
}
LEAST = {"minimum": "number", "minLength": "string", "minItems": "array", "minProperties": "object"}
MOST = {"maximum": "number", "maxLength": "string", "maxItems": "array", "maxProperties": "object"}


class Fault(NamedTuple):
    """What is wrong with ``value``, which stands at ``path`` of what was checked."""

    path: tuple[str | int, ...]
    value: Any
    message: str


def fault(value: Any, schema: Mapping[str, Any]) -> Fault | None:
    """The first of the faults that lie least deep, so that what a reader is told is the most that is wrong;
    ``None`` if ``value`` fits. Of the kinds that ``anyOf`` offers the one that ``value`` comes closest to is
    what it was meant to be, and there the deepest fault counts.

    Raises ``KeyError`` for a keyword that is not known here.
    """
    return min(_faults(value, schema, schema, ()), key=lambda found: len(found.path), default=None)


def _faults(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], path: tuple) -> Iterator[Fault]:
    for keyword, wanted in schema.items():
        if keyword not in ANNOTATIONS:
            yield from KEYWORDS[keyword](value, wanted, schema, root, path)


def _type(value, wanted, schema, root, path):
    kinds = [wanted] if isinstance(wanted, str) else wanted
    if not any(TYPES[kind](value) for kind in kinds):
        yield Fault(path, value, f"{brief(value)} is not of type {' or '.join(kinds)}")


def _enum(value, wanted, schema, root, path):
    if not any(same(value, allowed) for allowed in wanted):
        yield Fault(path, value, f"{brief(value)} is not one of {wanted!r}")


def _const(value, wanted, schema, root, path):
    return _enum(value, [wanted], schema, root, path)


def _pattern(value, wanted, schema, root, path):
    if isinstance(value, str) and not re.search(wanted, value):
        yield Fault(path, value, f"{brief(value)} does not match {wanted!r}")


def _limit(kind, sign):
    def check(value, wanted, schema, root, path):
        if TYPES[kind](value):
            size = value if kind == "number" else len(value)
            if sign * size < sign * wanted:
                yield Fault(
                    path, value, f"{brief(value)} is {'below' if sign > 0 else 'above'} the limit of {wanted}"
                )

    return check


def _any_of(value, wanted, schema, root, path):
    closest = []
    for kind in wanted:
        found = list(_faults(value, kind, root, path))
        if not found:
            return
        closest += found
    deepest = max(closest, key=lambda found: len(found.path))
    yield (
        deepest
        if len(deepest.path) > len(path)
        else Fault(path, value, f"{brief(value)} is none of what it may be")
    )


def _reference(value, wanted, schema, root, path):
    return _faults(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, path)


def _items(value, wanted, schema, root, path):
    for i, item in enumerate(value if isinstance(value, list) else ()):
        yield from _faults(item, wanted, root, (*path, i))


def _required(value, wanted, schema, root, path):
    for name in wanted if isinstance(value, dict) else ():
        if name not in value:
            yield Fault(path, value, f"{name!r} is a required property")


def _properties(value, wanted, schema, root, path):
    for name, part in wanted.items() if isinstance(value, dict) else ():
        if name in value:
            yield from _faults(value[name], part, root, (*path, name))


def _additional(value, wanted, schema, root, path):
    for name in value if isinstance(value, dict) else ():
        if name not in schema.get("properties", {}):
            if wanted is False:
                yield Fault(path, value, f"{name!r} does not belong there")
            else:
                yield from _faults(value[name], wanted, root, (*path, name))


def _names(value, wanted, schema, root, path):
    for name in value if isinstance(value, dict) else ():
        yield from _faults(name, wanted, root, path)


KEYWORDS: dict[str, Callable[..., Iterator[Fault]]] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    "pattern": _pattern,
    "anyOf": _any_of,
    "$ref": _reference,
    "items": _items,
    "required": _required,
    "properties": _properties,
    "additionalProperties": _additional,
    "propertyNames": _names,
    **{keyword: _limit(kind, 1) for keyword, kind in LEAST.items()},
    **{keyword: _limit(kind, -1) for keyword, kind in MOST.items()},
}
