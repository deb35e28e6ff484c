"""What a chip or a runtime can do with a card's choices: profiles are YAML files, a link for every statement.

A profile of your own needs ``name``, ``title``, ``link`` and ``statements``, each with the card's ``field``,
what ``runs`` (values), what is ``slower`` (values), ``why``, and a ``link``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..choices import same
from ..names import suggestion
from ..strict_yaml import load_yaml, read_yaml, short
from .data import checked, sorted_in
from .fields import NOT_REPORTED, PLAIN, Card, Fields
from .render import shown
from .schema import fault

PROFILES = files(__package__) / "profiles"
_VALUES = {"type": "array", "items": {"type": ["string", "integer", "boolean"]}}
_LINK = {"type": "string", "pattern": '^https?://[^\\s<>"]+$'}
PROFILE_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "title", "link", "statements"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "title": {"type": "string", "minLength": 1},
        "link": _LINK,
        "statements": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["field", "runs", "why", "link"],
                "properties": {
                    "field": {"type": "string"},
                    "runs": _VALUES,
                    "slower": _VALUES,
                    "why": {"type": "string", "minLength": 1},
                    "link": _LINK,
                },
            },
        },
    },
}


@dataclass(frozen=True)
class Finding:
    """A choice that the target cannot run or runs slower, or of which the card does not say.

    Parameters
    ----------
    field : str
        The choice.
    value
        Of a choice that holds several values, those concerned.
    verdict : {"cannot", "slower", "unknown"}
        ``"unknown"`` where the card does not say.
    why : str
        The reason.
    link : str
        Where it is written.
    layers : tuple of str
        The layers that have the value, if the card says.
    fields : Fields
        Those of the card.
    """

    field: str
    value: Any
    verdict: str
    why: str
    link: str
    layers: tuple[str, ...] = ()
    fields: Fields = dataclasses.field(default=PLAIN, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: value for name, value in vars(self).items() if name != "fields"}

    def __str__(self) -> str:
        where = f" in {', '.join(self.layers[:3])}" if self.layers else ""
        where += f" and {len(self.layers) - 3} more" if len(self.layers) > 3 else ""
        value = f"{shown(self.field, self.value, self.fields)}{where}"
        line = f"{self.verdict}: {self.fields[self.field]['title']} = {value}. {self.why} ({self.link})"
        return "".join(c if c.isprintable() else "?" for c in line)


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
        In one line, for a profile that is not there or is none.
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
        raise ValueError("a profile is a mapping with name, title, link and statements")
    for statement in profile["statements"] if isinstance(profile.get("statements"), list) else ():
        name = statement.get("field") if isinstance(statement, Mapping) else None
        if isinstance(name, str) and name not in fields:
            raise ValueError(f"a card has no field {short(name)}{suggestion(name, fields)}")
    found = fault(profile, PROFILE_SCHEMA)
    if found is not None:
        where = ".".join(map(str, found.path))
        raise ValueError(f"{where}: {found.message[:150]}" if where else found.message[:150])
    for statement in profile["statements"]:
        for value in [*statement["runs"], *statement.get("slower", [])]:
            # That a card can hold, so none is a slip of the pen
            checked(sorted_in(fields, {statement["field"]: value}, {"name": "values"}), fields)
    return profile


def check(card: Card, target: str | Path | Mapping[str, Any]) -> list[Finding]:
    """What ``target`` cannot run, runs slower, or might not: in this order. An empty list: nothing stands
    against it.
    """
    found = []
    statements = load_profile(target, card.fields)["statements"]
    # What runs the weights runs these
    if "first_last_bits" not in {statement["field"] for statement in statements}:
        ends = [
            {**s, "field": "first_last_bits", "runs": [*s["runs"], "like the rest"]}
            for s in statements
            if s["field"] == "weight_bits"
        ]
        statements = [*statements, *ends]
    for statement in statements:
        name = statement["field"]
        by_verdict = {}
        if not card.acts(name):
            continue
        for layer, value in [*_single(card[name]), *_in_float(card, name)]:
            verdict = (
                "unknown"
                if value in UNKNOWN
                else "slower"
                if _among(value, statement.get("slower", []))
                else None
                if _among(value, statement["runs"])
                else "cannot"
            )
            values, layers = by_verdict.setdefault(verdict, ({}, {}))
            values[value] = True
            layers[layer] = True
        for verdict, (values, layers) in by_verdict.items():
            if verdict is not None:
                value = list(values) if len(values) > 1 else next(iter(values))
                known = tuple(layer for layer in layers if layer is not None)
                said = (statement["why"], statement["link"])
                found.append(Finding(name, value, verdict, *said, known, card.fields))
    return sorted(found, key=lambda finding: ("cannot", "slower", "unknown").index(finding.verdict))


UNKNOWN = (NOT_REPORTED, "mixed")


def _in_float(card: Card, field: str) -> list[tuple[str, str]]:
    """The layers that are left in float whole, where a field says the bits of all others."""
    of_bits = field in ("weight_bits", "activation_bits") and card[field] != "float"
    return [(name, "float") for name in card["float_layers"]] if of_bits and card.acts("float_layers") else []


def _among(value: Any, known: list[Any]) -> bool:
    return any(same(value, other) for other in known)


def _single(value: Any, layer: str | None = None) -> list[tuple[str | None, Any]]:
    """The single values in a field with the layer that has each, if there are such: of a list, each value."""
    if isinstance(value, Mapping):
        return [pair for name, inner in value.items() for pair in _single(inner, name)]
    return [(layer, v) for v in value] if isinstance(value, list) else [(layer, value)]
