"""What a chip or a runtime can do with a card's choices: profiles are YAML files, a link for every statement.

A profile of your own needs ``name``, ``title``, ``link`` and ``statements``, each with the card's ``field``, what ``runs``
(values), what is ``slower`` (values), ``why``, and a ``link``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from ..config import suggestion
from .card import FIELDS, NOT_REPORTED, QuantizationCard, load_yaml, read_yaml
from .render import shown

PROFILES = files(__package__) / "profiles"
_VALUES = {"type": "array", "items": {"type": ["string", "integer", "boolean"]}}
_LINK = {"type": "string", "pattern": "^https?://[^\\s<>\"]+$"}
PROFILE_SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["name", "title", "link", "statements"],
    "properties": {
        "name": {"type": "string", "minLength": 1}, "title": {"type": "string", "minLength": 1}, "link": _LINK,
        "statements": {"type": "array", "minItems": 1, "items": {
            "type": "object", "additionalProperties": False, "required": ["field", "runs", "why", "link"],
            "properties": {"field": {"enum": list(FIELDS)}, "runs": _VALUES, "slower": _VALUES,
                           "why": {"type": "string", "minLength": 1}, "link": _LINK}}}},
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A choice that the target ``cannot`` run or runs ``slower``, or that is ``unknown`` because the card does not say."""

    field: str
    value: Any
    verdict: str
    why: str
    link: str

    def __str__(self) -> str:
        return f"{self.verdict}: {FIELDS[self.field]['title']} = {shown(self.field, self.value)}. {self.why} ({self.link})"


def profiles() -> list[str]:
    """The names of the profiles that come with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in PROFILES.iterdir() if path.name.endswith(".yaml"))


def load_profile(target: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """A profile by name, from a YAML file (a path that ends in ``.yaml``), or as a mapping; checked. ``ValueError`` if bad."""
    if isinstance(target, Mapping):
        profile = target
    elif str(target).endswith((".yaml", ".yml")):
        profile = load_yaml(target)
    elif target in profiles():
        profile = read_yaml((PROFILES / f"{target}.yaml").read_text("utf8"))
    else:
        raise ValueError(f"there is no target {str(target)!r}{suggestion(target, profiles())}, or give a .yaml file of your own")
    error = best_match(Draft202012Validator(PROFILE_SCHEMA).iter_errors(profile))
    if error is not None:
        where = ".".join(map(str, error.absolute_path)) or "profile"
        raise ValueError(f"{where}: {json.dumps(error.instance, default=repr)[:80]}: {error.message[:120]}")
    return profile


def check(card: QuantizationCard, target: str | Path | Mapping[str, Any]) -> list[Finding]:
    """What ``target`` cannot run, runs slower, or might not: in this order. An empty list: nothing stands against it."""
    found = []
    for statement in load_profile(target)["statements"]:
        field, verdicts = statement["field"], set()
        if not card.acts(field):
            continue
        for value in _single(card[field]):
            known = [*statement["runs"], *statement.get("slower", [])]
            if value == NOT_REPORTED:
                verdicts.add("unknown")
            elif not any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in known):
                verdicts.add("cannot")
            elif value in statement.get("slower", []):
                verdicts.add("slower")
        for verdict in ("cannot", "slower", "unknown"):
            if verdict in verdicts:
                found.append(Finding(field, card[field], verdict, statement["why"], statement["link"]))
                break
    return sorted(found, key=lambda finding: ("cannot", "slower", "unknown").index(finding.verdict))


def _single(value: Any) -> list[Any]:
    """The single values in a field: of bits by layer, each layer's; of a list, each."""
    if isinstance(value, Mapping):
        return [v for inner in value.values() for v in _single(inner)]
    return [v for inner in value for v in _single(inner)] if isinstance(value, list) else [value]
