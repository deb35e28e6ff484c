"""What is found in a checkpoint: fields of a card, where each stands, and remarks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...choices import same
from ..fields import NOT_REPORTED, PLAIN

WORDS = 200  # characters of a stranger's text
SOURCE = 1000
REMARKS = 5000
MOST_ENTRIES = 2000  # that a card has room for
FLOATS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}
HEAD = re.compile(r"(re:)?\^?(\.\*|\*)?([\w.]+\.)?lm_head(\.\*|\*)?\$?")  # by name or pattern
NAMED = ("network", "authors")  # files may name these differently without contradicting each other


@dataclass
class Found:
    """Fields, the source of each, and what no field asks for. ``about`` says of which file it is; ``open``
    are fields of which it says something, and not enough, so that another file's word does not settle them.
    """

    about: str
    fields: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    open: set[str] = field(default_factory=set)

    def say(self, source: str, **fields: Any) -> None:
        """State fields, all by one source in the file; what is ``None`` is not stated."""
        for name, value in fields.items():
            if value is not None and value != NOT_REPORTED:
                self.fields[name] = value
                self.sources[name] = f"{self.about}: {source}"[:SOURCE]

    def unsay(self, *names: str) -> None:
        """Take back fields of which something else has come to say otherwise."""
        for name in names:
            self.fields.pop(name, None)
            self.sources.pop(name, None)

    def say_left(self, source: str, value: Any) -> None:
        """State which layers are left in float, the head among them, if ``value`` is a list of names."""
        left = names(value)
        if left is not None:
            self.say(source, float_layers=left, head_bits="float" if any(map(HEAD.fullmatch, left)) else None)
        elif isinstance(value, list):
            self.remark(f"{source}: {len(value):,} entries, which no card has room for, are left in float.")

    def remark(self, text: str) -> None:
        self.remarks.append(text)


def words(value: Any, most: int = WORDS) -> str | None:
    """A stranger's text in one line of characters that can be printed; ``None`` for what is no text."""
    if not isinstance(value, str):
        return None
    plain = " ".join("".join(c if c.isprintable() else " " for c in value[: 4 * most]).split())
    return (plain if len(plain) <= most else f"{plain[: most - 1]}…") or None


def listed(values: Iterable[Any], most: int = 5) -> str:
    """A few of the texts among ``values``, and how many more there are."""
    texts = [text for text in map(words, values) if text]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def names(value: Any) -> list[str] | None:
    """A list of names of layers as a card has it; ``None`` for what is no such list, or too long for one."""
    if not isinstance(value, list) or len(value) > MOST_ENTRIES:
        return None
    plain = [words(name) for name in value]
    return None if None in plain else sorted(set(plain))


def number(value: Any, least: int, most: int) -> int | None:
    """A whole number within bounds; ``None`` for anything else."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and least <= value <= most else None


def truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def agreed(values: Iterable[Any]) -> Any:
    """The one value that all have; ``None`` if there is none, or if they differ."""
    first, *rest = [*values] or [None]
    return first if all(same(first, other) for other in rest) else None


def joined(parts: Iterable[Found]) -> Found:
    """All that several files say. What two of them contradict is not reported, and said."""
    whole = Found("")
    against: set[str] = set()
    for part in parts:
        whole.remarks += part.remarks
        against |= part.open
        for name, value in part.fields.items():
            if name not in whole.fields:
                whole.fields[name], whole.sources[name] = value, part.sources[name]
            elif name not in NAMED and not same(whole.fields[name], value):
                against.add(name)
                whole.remark(
                    f"Contradiction in {name}: {_short(whole.fields[name])} ({whole.sources[name]}) against "
                    f"{_short(value)} ({part.sources[name]})."
                )
    whole.unsay(*against)
    return whole


def of_card(found: Found) -> dict[str, Any]:
    """What `QuantizationCard.of` takes."""
    text = " ".join(found.remarks)
    text = text if len(text) <= REMARKS else f"{text[: REMARKS - 1]}…"
    sources = {name: where for name, where in found.sources.items() if name in PLAIN}
    return {**found.fields, "sources": sources, **({"remarks": text} if text else {})}


def _short(value: Any) -> str:
    text = f"{len(value)} entries" if isinstance(value, Mapping) else str(value)
    return text if len(text) <= 100 else f"{text[:99]}…"
