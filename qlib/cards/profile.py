"""Profiles of chips and runtimes: read, and checked against what cards can hold. What they say of a card:
`qlib.cards.hardware`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..names import suggestion
from ..strict_yaml import load_yaml, read_yaml, short
from .data import checked, sorted_in
from .fields import PLAIN, Fields
from .schema import fault

PROFILES = files(__package__) / "profiles"
VERSION = 2
VERDICTS = ("runs", "falls back", "cannot")
_TEXT = {"type": "string", "minLength": 1}
_VALUE = {"type": ["string", "integer", "boolean"]}
_TIMES = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}
_LINK = {"type": "string", "pattern": '^https?://[^\\s<>"]+$'}
_SOURCE = {"type": "string", "pattern": '^(https?://[^\\s<>"]+|measured: \\S+)$'}
PROFILE_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["profile_version", "name", "title", "version", "link", "statements"],
    "properties": {
        "profile_version": {"const": VERSION},
        "name": _TEXT,
        "title": _TEXT,
        "version": _TEXT,
        "link": _LINK,
        "times": _TIMES,
        "notes": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["note", "source"],
                "properties": {"note": _TEXT, "times": _TIMES, "source": _SOURCE},
            },
        },
        "statements": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["field", "values", "verdict", "why", "source"],
                "properties": {
                    "field": {"type": "string"},
                    "values": {"type": "array", "minItems": 1, "items": _VALUE},
                    "where": {"type": "object", "additionalProperties": _VALUE},
                    "verdict": {"enum": list(VERDICTS)},
                    "why": _TEXT,
                    "times": _TIMES,
                    "source": _SOURCE,
                },
            },
        },
    },
}


def profiles() -> list[str]:
    """The names of the profiles that come with the package."""
    return sorted(
        path.name.removesuffix(".yaml") for path in PROFILES.iterdir() if path.name.endswith(".yaml")
    )


def load_profile(target: str | Path | Mapping[str, Any], fields: Fields = PLAIN) -> Mapping[str, Any]:
    """A profile, checked.

    Parameters
    ----------
    target : str, path or mapping
        Its name, a YAML file (a path that ends in ``.yaml``), or what such a file holds.
    fields : Fields
        Of the cards that it speaks about.

    Raises
    ------
    ValueError
        In one line, for a profile that is not there, has the old form, or is none.
    OSError
        If the file cannot be read.
    """
    try:
        if isinstance(target, Mapping):
            return _checked(target, fields)
        if str(target).endswith((".yaml", ".yml")):
            return _checked(load_yaml(target), fields)
    except ValueError as error:
        raise ValueError(f"{target if not isinstance(target, Mapping) else 'profile'}: {error}") from None
    if target not in profiles():
        raise ValueError(
            f"there is no target {str(target)!r}{suggestion(target, profiles())} (or give a .yaml file)"
        )
    return _checked(read_yaml((PROFILES / f"{target}.yaml").read_text("utf8")), fields)


def _checked(profile: Any, fields: Fields) -> Mapping[str, Any]:
    if isinstance(profile, Mapping) and "schema_version" in profile:
        raise ValueError("this is a card, not the profile of a target")
    if not isinstance(profile, Mapping):
        raise ValueError("a profile is a mapping with name, title, version, link and statements")
    if "statements" in profile and "profile_version" not in profile:
        raise ValueError(
            f"a profile of the old form (runs, slower): write profile_version: {VERSION}, the version of the "
            "target, and in each statement values, verdict (runs, falls back, cannot) and source"
        )
    for name in _names(profile):
        if name not in fields:
            raise ValueError(f"a card has no field {short(name)}{suggestion(name, fields)}")
    found = fault(profile, PROFILE_SCHEMA)
    if found is not None:
        where = ".".join(map(str, found.path))
        raise ValueError(f"{where}: {found.message[:150]}" if where else found.message[:150])
    return {**profile, "statements": [_as_on_cards(statement, fields) for statement in profile["statements"]]}


def _as_on_cards(statement: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """A statement with its values as a card holds them: 32 bits of weights are ``float``, and a value that no
    card can hold is a slip of the pen.
    """

    def held(name: str, value: Any) -> Any:
        card = checked(sorted_in(fields, {name: value}, {"name": "values"}), fields)
        return card[fields.category_of[name]][name]

    values = [held(statement["field"], value) for value in statement["values"]]
    where = {name: held(name, value) for name, value in statement.get("where", {}).items()}
    return {**statement, "values": values, **({"where": where} if where else {})}


def _names(profile: Mapping[str, Any]) -> list[str]:
    """The fields that a profile speaks about, as far as it has the form of one."""
    statements = profile.get("statements")
    found = []
    for statement in statements if isinstance(statements, list) else ():
        if isinstance(statement, Mapping):
            where = statement.get("where")
            found += [statement.get("field"), *(where if isinstance(where, Mapping) else ())]
    return [name for name in found if isinstance(name, str)]
