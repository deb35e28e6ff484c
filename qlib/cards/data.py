"""The data of a card: sorted into categories, filled in and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..config import QuantConfig
from ..names import suggestion
from ..strict_yaml import short
from .fields import NOT_REPORTED, Fields
from .schema import fault

MODELS = {
    ".onnx": ("an ONNX file", "from-onnx"),
    ".gguf": ("a GGUF file", "from-checkpoint"),
    ".safetensors": ("a file of weights", "from-checkpoint"),
}
"""Files that are no cards, by their ending, and the command that makes the card of one."""


def sorted_in(fields: Fields, values: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a card.

    Parameters
    ----------
    fields : Fields
    values : mapping
        By name of a field.
    about : mapping
        What stands outside the categories, such as the card's name.

    Raises
    ------
    ValueError
        For a name that is not a field's.
    """
    for name in values:
        if name not in fields:
            raise ValueError(f"a card has no field {name!r}{suggestion(name, fields)}{_added(fields)}")
    version = fields.schema["properties"]["schema_version"]["const"]
    return {
        "schema_version": version,
        **about,
        **{
            category: {name: values[name] for name in known if name in values}
            for category, known in fields.categories.items()
        },
    }


def checked(data: Any, fields: Fields) -> dict[str, Any]:
    """``data`` with every missing field as ``not reported``, in the schema's order.

    Raises
    ------
    ValueError
        In one line, naming the field.
    """
    if not isinstance(data, Mapping):
        what = "nothing" if data is None else f"a {type(data).__name__}"
        raise ValueError(f"a card is a mapping of categories, not {what}")
    version = data.get("schema_version", NOT_REPORTED)
    latest = fields.schema["properties"]["schema_version"]["const"]
    if version not in range(1, latest + 1) or isinstance(version, bool):
        newer = "; a newer one may read it" if isinstance(version, int) and version > latest else ""
        raise ValueError(
            f"schema_version is {short(version)}, but this qlib reads versions 1 to {latest}{newer}"
        )
    whole = _in_float(_copied(_filled(data if version == latest else _newer(data, fields), fields)), fields)
    found = fault(whole, fields.schema)
    if found is not None:
        path = [str(part) for part in found.path]
        field = fields.get(path[1]) if len(path) > 1 else None
        examples = ", ".join(map(short, field["examples"])) if field else ""
        hint = f"; {field['title']}: {field['description']} For example {examples}" if field else ""
        raise ValueError(f"{'.'.join(path) or 'card'}: {short(found.value)} is not what belongs there{hint}")
    return whole


def _newer(data: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """A card of version 1 as one of version 2: it says what it said, and of what came since nothing.

    Raises
    ------
    ValueError
        Naming what version 1 did not have.
    """
    properties = fields.schema["properties"]
    claimed = [name for name, part in properties.items() if name in data and part.get("since") == 2]
    for category in fields.categories:
        given = data.get(category)
        inner = [name for name in given if name in fields] if isinstance(given, Mapping) else []
        claimed += [name for name in inner if fields[name].get("since") == 2]
    if claimed:
        raise ValueError(
            f"{claimed[0]} came with version 2 of the schema: write schema_version: 2 to state it"
        )
    return {**data, "schema_version": properties["schema_version"]["const"]}


def _in_float(whole: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """32 bits of weights or activations are float, and ``float`` is the word for it."""
    for category, own in fields.categories.items():
        for name in own:
            if fields.float_at_32(name):
                value = whole[category][name]
                inner = isinstance(value, dict)
                whole[category][name] = (
                    {layer: _word(bits) for layer, bits in value.items()} if inner else _word(value)
                )
    return whole


def _word(bits: Any) -> Any:
    return "float" if bits == 32 else bits


def _filled(data: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    known = list(fields.schema["properties"])
    for name in data:
        if name not in known:
            place = _place(name, fields) or suggestion(str(name)[:100], known)
            raise ValueError(f"a card has no {short(name)}{place}")
    empty = {"faults": [], "deviations": {}, "sources": {}}
    whole = {name: data.get(name, empty.get(name, NOT_REPORTED)) for name in known}
    for category, own in fields.categories.items():
        given = data.get(category, {})
        if not isinstance(given, Mapping):
            raise ValueError(f"{category} must be a mapping of fields, got {short(given)}")
        for name in given:
            if name not in own:
                place = _place(name, fields) or suggestion(str(name)[:100], own) + _added(fields)
                raise ValueError(f"{category} has no field {short(name)}{place}")
        whole[category] = {name: given.get(name, NOT_REPORTED) for name in own}
    return whole


def _copied(whole: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of our own, of lists instead of tuples."""
    try:
        text = json.dumps(whole, ensure_ascii=False)
        text.encode("utf8")
    except UnicodeEncodeError:
        raise ValueError("the card holds half of a character (a lone surrogate), which no file can") from None
    return json.loads(text, parse_float=_number)


def _number(text: str) -> int | float:
    """8.0 and 8 are one value in JSON, and so on a card."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _place(name: Any, fields: Fields) -> str:
    return f"; it belongs to {fields.category_of[name]}" if name in fields.category_of else ""


def _added(fields: Fields) -> str:
    """The way out for who reads the card of a configuration that adds a choice."""
    own = fields.config_class is not QuantConfig
    return "" if own else " (A choice that your own configuration adds: pass its class as config_class.)"
