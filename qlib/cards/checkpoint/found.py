"""What is found in a checkpoint: fields of a card, where each stands, what is wrong, and remarks."""

from __future__ import annotations

import json
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
MOST_FAULTS = 100
MAX_GROUP = 2**20
HEAD = re.compile(r"(re:)?\^?(\.\*|\*)?([\w.]+\.)?lm_head(\.\*|\*)?\$?")  # by name or pattern
NAMED = ("network", "authors")  # files may name these differently without contradicting each other


@dataclass
class Found:
    """Fields, the source of each, what is wrong (as a card has it), and what no field asks for. ``about``
    says of which file it is; ``open`` are fields of which it says something, and not enough, so that another
    file's word does not settle them; ``usual`` are fields that it does not state, filled in by what its
    writer does where nothing is said, so that another file's word takes their place.
    """

    about: str
    fields: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    usual: set[str] = field(default_factory=set)

    def say(self, source: str, **fields: Any) -> None:
        """State fields, all by one source in the file; what is ``None`` is not stated."""
        for name, value in fields.items():
            if value is not None and value != NOT_REPORTED:
                self.fields[name] = value
                self.sources[name] = f"{self.about}: {source}"[:SOURCE]

    def say_usual(self, source: str, **fields: Any) -> None:
        """State what the file does not say and its writer does unless told otherwise; ``source`` says whose
        habit that is.
        """
        fields = {name: value for name, value in fields.items() if name not in self.fields}
        self.say(source, **fields)
        self.usual |= fields.keys() & self.fields.keys()

    def number(self, name: str, key: str, value: Any, least: int, most: int) -> int | None:
        """A whole number within bounds for the field ``name``; what else stands at ``key`` is a fault."""
        found = number(value, least, most)
        if found is None:
            self.wrong(name, key, value)
        return found

    def truth(self, name: str, key: str, value: Any) -> bool | None:
        """Likewise, a truth value."""
        if not isinstance(value, bool):
            self.wrong(name, key, value)
        return truth(value)

    def wrong(self, name: str, key: str, value: Any) -> None:
        """Say that a key holds what the field ``name`` cannot be, and leave it open; nothing is no fault."""
        if value is not None:
            self.open.add(name)
            said = {"value": plain(value, quoted=True), "source": f"{self.about}: {key}"[:SOURCE]}
            self.faults.append({"kind": "no value", "field": name, "said": [said]})

    def differ(self, what: str, **values: Iterable[Any]) -> None:
        """Remark in what several parts differ that a card has one field for."""
        for key, every in values.items():
            kinds = sorted({_written(value) for value in every if value is not None})
            if len(kinds) > 1:
                self.remark(f"{what} differ in {key}: {listed(kinds)}.")

    def broken(self, text: str) -> None:
        """Say that the file itself is broken."""
        self.faults.append({"kind": "broken file", "said": [{"value": text, "source": self.about}]})

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
    some = value[: 4 * most]
    some = some if some.isprintable() else "".join(c if c.isprintable() else " " for c in some)
    plain = " ".join(some.split())
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


def plain(value: Any, quoted: bool = False) -> bool | int | float | str:
    """A value as a fault names it: numbers and truth values as they are, texts in one line, of lists and
    mappings how many entries they have.
    """
    if isinstance(value, (list, Mapping)):
        return f"{'a list' if isinstance(value, list) else 'a mapping'} of {len(value):,} entries"
    if isinstance(value, (int, float)) and not abs(value) < 2**53:
        return "a number beyond 2^53"
    if isinstance(value, float) and quoted:
        return f"the float {value:g}"
    if isinstance(value, (bool, int, float)):
        return value
    text = words(value, 100) or ""
    return json.dumps(text, ensure_ascii=False) if quoted else text


def _written(value: Any) -> str:
    """A value in a remark."""
    value = plain(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def contradiction(said: Iterable[tuple[Any, str]], field: str | None = None) -> dict[str, Any]:
    """A fault as a card has it, of values and the source of each."""
    each = [{"value": plain(value), "source": source} for value, source in said]
    return {"kind": "contradiction", **({"field": field} if field else {}), "said": each}


def agreed(values: Iterable[Any]) -> Any:
    """The one value that all have; ``None`` if there is none, or if they differ."""
    first, *rest = [*values] or [None]
    return first if all(same(first, other) for other in rest) else None


def say_group(size: Any, found: Found, key: str = "group_size") -> None:
    """The weights of a group; -1 is a whole row."""
    if size == -1 and isinstance(size, int):
        found.say(key, weight_granularity="per_channel")
        found.open.add("group_size")  # where another file has one
    else:
        group = found.number("group_size", key, size, 1, MAX_GROUP)
        found.say(key, group_size=group, weight_granularity="per_group" if group else None)


def joined(parts: Iterable[Found]) -> Found:
    """All that several files say. What two of them contradict is not reported, and said."""
    whole = Found("")
    said: dict[str, list[tuple[Any, str]]] = {}
    for part in parts:
        whole.remarks += part.remarks
        whole.faults += part.faults
        whole.open |= part.open
        for name, value in part.fields.items():
            if name not in whole.fields or name in whole.usual and name not in part.usual:
                whole.fields[name], whole.sources[name] = value, part.sources[name]
                whole.usual = whole.usual - {name} | part.usual & {name}
                said[name] = [(value, part.sources[name])]
            elif name not in {*NAMED, *part.usual}:
                said[name].append((value, part.sources[name]))
    against = {
        name: each for name, each in said.items() if name not in NAMED and agreed(v for v, _ in each) is None
    }
    faults = [contradiction(each, name) for name, each in against.items()]
    named = [{said["source"] for said in fault["said"]} for fault in faults]
    # What no field asks for is told once, by the field that it stands for where there is one
    faults += [
        f
        for f in whole.faults
        if "field" in f or not any({s["source"] for s in f["said"]} <= n for n in named)
    ]
    whole.faults = faults
    whole.unsay(*against, *whole.open)
    return whole


def of_card(found: Found) -> dict[str, Any]:
    """What `QuantizationCard.of` takes."""
    more = len(found.faults) - MOST_FAULTS
    text = " ".join([*([f"Left out are {more:,} more faults."] if more > 0 else []), *found.remarks])
    text = text if len(text) <= REMARKS else f"{text[: REMARKS - 1]}…"
    sources = {name: where for name, where in found.sources.items() if name in PLAIN}
    said = {"remarks": text} if text else {}
    return {**found.fields, "sources": sources, "faults": found.faults[:MOST_FAULTS], **said}
