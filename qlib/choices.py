"""What is stated about a choice, once: in the metadata of its field.

`QuantConfig`, the settings of a learner and those of a method are frozen dataclasses of such fields. Checks,
keys and columns of recorded rows, the fields of a card, controls and tables are derived from what stands
here.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .names import suggestion
from .own import named, place_of


@dataclass(frozen=True)
class Choice:
    """What is known of a field, beside its name, its type and its default.

    Parameters
    ----------
    title
        A few words, the label of a control and of a line on a card.
    help
        One sentence.
    values
        The words that it may be; empty where its default's type, or a check of its own, decides.
    least, most
        Bound of a number, itself allowed.
    above
        Lower bound of a number, itself not allowed.
    whole
        Whether it is a whole number where its default, ``None``, does not say so.
    side
        ``"weight"`` or ``"activation"``, where it acts on that side alone, which may stay in float.
    acts
        From all fields' values as a card has them, whether it means anything beside the others.
    since
        The version with which it came, if rows were recorded before; such a field enters the key of a row
        only where it is not its default, so a default must never change.
    none
        The word for ``None``.
    category
        Its place on a card.
    schema
        The JSON schema of its value there, where ``values`` and type do not say it.
    examples
        Of values on a card.
    observation
        The number of the paper's observation about it.
    paper
        The paper's word for it, and the sections that speak about it.
    unwritten
        The values that pairs of QuantizeLinear and DequantizeLinear cannot say (`qlib.export`).
    needs
        Of a value that makes sense beside a certain value of another field only, that field and value.
    card_since
        The version of a card's schema with which it came, if there were cards before.
    """

    title: str
    help: str
    values: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    most: float | None = None
    whole: bool = False
    side: str | None = None
    acts: Callable[[Mapping[str, Any]], bool] | None = None
    since: str | None = None
    none: str | None = None
    category: str = "method"
    schema: Mapping[str, Any] | None = None
    examples: tuple[Any, ...] = ()
    observation: int | None = None
    paper: tuple[str, str] = ("not stated", "")
    unwritten: tuple[Any, ...] = ()
    needs: Mapping[Any, tuple[str, Any]] = dataclasses.field(default_factory=dict)
    card_since: int | None = None

    @property
    def word(self) -> str:
        """What stands for ``None`` on a card."""
        return "none" if self.none is None else self.none

    def acting(self, values: Mapping[str, Any]) -> bool:
        """Whether it means anything beside the others, whose ``values`` are as a card has them."""
        if self.side is not None and values[f"{self.side}_bits"] == "float":
            return False
        return self.acts is None or bool(self.acts(values))


def choice(default: Any, title: str, help: str, **more: Any) -> Any:
    """A field of a frozen dataclass derived from `Settings`.

    Parameters
    ----------
    default
        Its default.
    title, help : str
        As for `Choice`.
    **more
        What else `Choice` has.
    """
    return dataclasses.field(default=default, metadata={"choice": Choice(title, help, **more)})


def choices(settings: type | Settings) -> dict[str, Choice]:
    """By name, what is stated about the fields of a dataclass of settings."""
    return {
        field.name: field.metadata["choice"]
        for field in dataclasses.fields(settings)
        if "choice" in field.metadata
    }


class _Signature:
    """Of a class of settings; help would else show the arguments of `Settings.__new__`."""

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        signature = inspect.signature(owner.__init__)
        return signature.replace(parameters=list(signature.parameters.values())[1:])


class Settings:
    """Base of frozen dataclasses whose fields are choices. A field's value is checked by what is stated about
    it: one of its words, a switch, a whole number or a number within its bounds.

    Raises
    ------
    ValueError
        Naming field, value and what is allowed.
    TypeError
        For a field that is not there.
    """

    __signature__ = _Signature()

    def __new__(cls, *values: Any, **fields: Any) -> Settings:
        cls.refuse_undecorated()
        cls.refuse_unknown(fields, TypeError)  # as Python does, and with a suggestion
        return super().__new__(cls)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__hash__ = Settings.__hash__  # which a dataclass then leaves: values may be dictionaries

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), list):  # as YAML and JSON have a tuple
                object.__setattr__(self, field.name, _tuples(value))
        for name, known in choices(self).items():
            value = getattr(self, name)
            check(name, value, known, self.defaults()[name])
            if known.needs:
                self._refuse_alone(name, value, known)

    def _refuse_alone(self, name: str, value: Any, known: Choice) -> None:
        field, wanted = known.needs.get(value, (name, value))
        if getattr(self, field) != wanted:
            raise ValueError(f"{name}={value!r} needs {field}={wanted!r}, got {getattr(self, field)!r}")

    def __hash__(self) -> int:
        return hash(_hashable(self.to_dict()))

    def __reduce__(self) -> tuple[Any, ...]:
        """A class of the reader's own is found by its file, so that other processes can have it."""
        return restored, (place_of(type(self)), self.to_dict())

    def __copy__(self) -> Settings:
        return self  # it is frozen

    def __deepcopy__(self, memo: dict[int, Any]) -> Settings:
        return self  # as above; nor does a copy of a network need the file that its configuration is of

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The default of every field."""
        return {field.name: field.default for field in dataclasses.fields(cls)}

    def replace(self, **changes: Any) -> Settings:
        """These settings with some fields changed, checked again."""
        return type(self).from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain ints, floats, strings, lists and dictionaries: what YAML and JSON hold."""
        return {field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def identity(self) -> dict[str, Any]:
        """`to_dict` as the key of a recorded row needs it: without the fields that were added later and have
        their default, so that a new field changes no key.
        """
        later = {name for name, known in choices(self).items() if known.since is not None}
        defaults = self.defaults()
        return {
            name: value
            for name, value in self.to_dict().items()
            if name not in later or getattr(self, name) != defaults[name]
        }

    def in_words(self) -> dict[str, Any]:
        """`to_dict` as a card has it: with words for ``None``."""
        known = choices(self)
        return {
            name: known[name].word if value is None and name in known else value
            for name, value in self.to_dict().items()
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Settings:
        """The inverse of `to_dict`; fields left out keep their default, an unknown one is an error."""
        if not isinstance(fields, Mapping):
            raise ValueError(
                f"a {cls.__name__} is a mapping of field names to values, got {type(fields).__name__}"
            )
        cls.refuse_undecorated()
        cls.refuse_unknown(fields, ValueError)
        return cls(**fields)

    @classmethod
    def refuse_undecorated(cls) -> None:
        """A class that is no dataclass itself has the fields of its base, and its own count for nothing."""
        for name, value in vars(cls).items():
            if isinstance(value, dataclasses.Field):
                raise ValueError(
                    f"{cls.__name__} states the field {name!r}, but is no dataclass: put "
                    "@dataclass(frozen=True) above it"
                )

    @classmethod
    def refuse_unknown(cls, names: Iterable[object], error: type[Exception]) -> None:
        known = [field.name for field in dataclasses.fields(cls)]
        for name in names:
            if name not in known:
                raise error(f"{cls.__name__} has no field {name!r}{suggestion(name, known)}")


def check(name: str, value: Any, known: Choice, default: Any) -> None:
    """Raises ``ValueError`` where ``value`` is not what is stated about the field ``name``."""
    if value is default is None:
        return
    if known.values:
        if value not in known.values:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known.values))}; got {value!r}")
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")
    elif (known.least, known.above, known.most) != (None, None, None):
        _check_number(name, value, known, default)
    elif known.schema is not None or known.none is not None and value is None:
        return  # by a check of its own
    elif isinstance(default, (int, float)):
        _check_number(name, value, known, default)
    elif isinstance(default, str) and not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {value!r}")


def _check_number(name: str, value: Any, known: Choice, default: Any) -> None:
    bounds = {"from": known.least, "above": known.above, "at most": known.most}
    said = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    whole = known.whole or isinstance(default, int)
    number = int if whole else (int, float)
    low = -math.inf if known.least is None else known.least
    high = math.inf if known.most is None else known.most
    right = isinstance(value, number) and not isinstance(value, bool) and low <= value <= high
    if not right or not math.isfinite(value) or known.above is not None and value <= known.above:
        said += ", or None" if default is None else ""
        kind = f"{'whole ' if whole else ''}number {said}".strip()
        raise ValueError(f"{name} must be a {kind}, got {value!r}")


def restored(kind: type[Settings] | str, fields: Mapping[str, Any]) -> Settings:
    """The settings of a pickle."""
    return (named(kind, "settings") if isinstance(kind, str) else kind).from_dict(fields)


def plain(value: Any) -> Any:
    """Tuples as lists, at any depth."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    """Lists as tuples, at any depth."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _hashable(value: Any) -> Any:
    """Plain values with equal hashes where they are equal: of 3 and 3.0, say."""
    if isinstance(value, Mapping):
        return frozenset((key, _hashable(part)) for key, part in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def same(a: Any, b: Any) -> bool:
    """Equality as JSON has it: 1 and 1.0 are one value, 1 and true are not."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and a == b
