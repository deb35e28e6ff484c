"""The fields of a card: those that ``schema.json`` lists, and the choices of a configuration, which follow
from what is stated about them (`qlib.choices`).

Beside what JSON schema knows, ``schema.json`` states of a field, where there is something to state:

- ``outcome``: it is measured, or follows from choices, and is none itself;
- ``observation``: the paper's observation about it, by number;
- ``since``: the version of the schema with which it came;
- ``needs``: values of other fields of which one makes it one that is asked for; it acts where that is so or
  where it is reported, and else says nothing;
- ``like``: the choice with which it acts.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Protocol

from ..acting import NOT_REPORTED
from ..choices import Choice, choices, plain
from ..config import QuantConfig
from ..names import suggestion
from .schema import fault

FLOAT_AT_32 = ("#/$defs/bits", "#/$defs/layer_bits")
CHOICES = "<choices>"  # stands in schema.json where a category's choices go


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Fields(Mapping):
    """The fields of cards of one class of configurations: by name, title, description, examples and the JSON
    schema of its value.

    Parameters
    ----------
    config_class : class
        Whose choices are among them.
    schema : mapping
        JSON schema of a whole card.
    """

    config_class: type[QuantConfig]
    schema: Mapping[str, Any]
    __eq__ = object.__eq__  # there is one of each class
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"fields_of({self.config_class.__name__})"

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self.categories[self.category_of[name]][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.category_of)

    def __len__(self) -> int:
        return len(self.category_of)

    @cached_property
    def categories(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The fields by category."""
        return {name: entry["properties"] for name, entry in _categories(self.schema).items()}

    @cached_property
    def category_of(self) -> dict[str, str]:
        return {name: category for category, fields in self.categories.items() for name in fields}

    def heading(self, category: str) -> str:
        """The title of a category, or of what stands outside them."""
        return self.schema["properties"][category]["title"]

    def float_at_32(self, name: str) -> bool:
        """Whether 32 bits in a field are float, as they are of weights and activations; of codes, such as
        those of biases (``code_bits`` in the schema), they are 32 bits.
        """
        return any(kind.get("$ref") in FLOAT_AT_32 for kind in self[name]["anyOf"])

    def said(self, name: str, card: Card) -> bool:
        """Whether there is something to show of a field: it is reported, and no choice of texts, which came
        later, that does not act.
        """
        later = name in choices(self.config_class) and "since" in self[name]
        return card[name] != NOT_REPORTED and (not later or card.acts(name))

    def acts(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether a field means anything beside the others' ``values``, as is stated about it."""
        field = self[name]
        known = choices(self.config_class).get(field.get("like", name))
        if known is not None:
            return known.acting(values)
        needs = field.get("needs")
        if needs is None or values[name] != NOT_REPORTED:
            return True
        return any(values[other] in wanted for other, wanted in needs.items())


class Card(Protocol):
    """What those who show, compare and check cards ask of one (`qlib.QuantizationCard`)."""

    name: str
    data: Mapping[str, Any]
    fields: Fields

    def __getitem__(self, field: str) -> Any:
        """A field's value."""

    def acts(self, field: str) -> bool:
        """Whether a field means anything beside the others."""


def fields_of(config_class: type[QuantConfig]) -> Fields:
    """The fields of a card of a configuration.

    Parameters
    ----------
    config_class : class
        `QuantConfig`, or a frozen dataclass derived from it that adds choices of its own.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        For a field that no card can hold, naming it.
    """
    if not inspect.isclass(config_class) or not issubclass(config_class, QuantConfig):
        raise TypeError(
            f"config_class must be QuantConfig or a class derived from it, got {str(config_class)[:100]}"
        )
    return _fields_of(config_class)


@cache
def _fields_of(config_class: type[QuantConfig]) -> Fields:
    schema = json.loads(files(__package__).joinpath("schema.json").read_text("utf8"))
    stated = choices(config_class)
    _refuse(config_class, stated, schema)
    for category, entry in _categories(schema).items():
        own = {
            field.name: _field(config_class, field, stated[field.name], schema["$defs"])
            for field in dataclasses.fields(config_class)
            if stated[field.name].category == category
        }
        entry["properties"] = {
            name: field
            for place, given in entry["properties"].items()
            for name, field in (own.items() if place == CHOICES else [(place, given)])
        }
        later = {name for name in own if stated[name].since is not None}  # which older cards lack
        entry["required"] = [name for name in entry["properties"] if name not in later]
    schema["required"] = list(schema["properties"])
    found = Fields(config_class, schema)
    schema["$defs"]["field"] = {"enum": list(found)}
    return found


def _categories(schema: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: entry for name, entry in schema["properties"].items() if "properties" in entry}


def _refuse(config_class: type[QuantConfig], stated: Mapping[str, Choice], schema: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` naming the first field that has no place on a card."""
    categories = _categories(schema)
    taken = {*schema["properties"], "config_class"}
    taken |= {name for entry in categories.values() for name in entry["properties"]}
    for field in dataclasses.fields(config_class):
        where = f"{config_class.__name__}.{field.name}"
        if field.name not in stated:
            raise ValueError(
                f"{where}: nothing is stated about it, so no card can hold it: make it a choice(...)"
            )
        if field.name in taken:
            raise ValueError(f"{where}: a card has something else of that name: choose another one")
        category = stated[field.name].category
        if category not in categories:
            raise ValueError(
                f"{where}: there is no category {category!r} on a card{suggestion(category, categories)}"
            )


def _field(
    config_class: type[QuantConfig], field: dataclasses.Field, known: Choice, defs: Mapping[str, Any]
) -> dict[str, Any]:
    """The schema of a choice, from what is stated about it."""
    value = _value(field.default, known)
    if value is None:
        where = f"{config_class.__name__}.{field.name}"
        raise ValueError(f"{where}: its default does not tell what a card may hold: state its schema=...")
    kinds = [{"const": NOT_REPORTED}, *(value["anyOf"] if set(value) == {"anyOf"} else [value])]
    if (known.none is not None or field.default is None) and fault(
        known.word, {"anyOf": kinds, "$defs": defs}
    ):
        kinds.append({"const": known.word})
    usual = known.word if field.default is None else plain(field.default)
    first = known.values[:2] or ((True, False) if isinstance(field.default, bool) else (usual,))
    found = {
        "title": known.title,
        "description": known.help,
        "anyOf": kinds,
        "examples": list(plain(known.examples or first)),
    }
    stated = {"observation": known.observation, "since": known.card_since}
    return {**found, **{word: value for word, value in stated.items() if value is not None}}


def _value(default: Any, known: Choice) -> dict[str, Any] | None:
    """The schema of its values other than ``None``; ``None`` if that cannot be told."""
    if known.schema is not None:
        return plain(known.schema)
    if known.values:
        return {"enum": list(known.values)}
    least = known.above if known.least is None else known.least
    bounds = {
        name: bound for name, bound in (("minimum", least), ("maximum", known.most)) if bound is not None
    }
    if isinstance(default, bool):
        return {"type": "boolean"}
    if isinstance(default, int):
        return {"type": "integer", **bounds}
    if isinstance(default, float) or bounds:
        return {"type": "number", **bounds}
    return {"$ref": "#/$defs/text"} if isinstance(default, str) else None


PLAIN = fields_of(QuantConfig)
