"""YAML of strangers, read as plain data and no more than that; and what is written so that it is read back.

A card or a grid comes from anybody: what a few lines could blow up, or turn into objects, is refused before
anything is built of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

# Of a file
MAX_BYTES = 1_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 20
# Ends of a line to YAML, which are written bare where a text may fold
BREAKS = re.compile("[\x85\u2028\u2029]")
# What YAML forbids or takes for the end of a line, and JSON allows
BARE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

# A text of JSON, or a number that YAML takes for text: it wants a point
POWER = re.compile(r'("(?:[^"\\]|\\.)*")|(?<![\d.])(\d+)(e[-+]\d+)')


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Plain YAML: no tags, no key twice, no endless number."""

    def construct_mapping(self, node, deep=False):
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise ValueError(
                    f"line {key.start_mark.line + 1}: names must be text; put what looks like a number in "
                    "quotes"
                )
            if key.value in seen:
                raise ValueError(f"line {key.start_mark.line + 1}: {short(key.value)} stands there twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node):
        if len(node.value) > 30:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of {len(node.value):,} digits")
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _bounded(text: str) -> None:
    """Refuse what a few lines of text can blow up, before anything is built of it: aliases, depth, and too
    many values.
    """
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        where = f"line {event.start_mark.line + 1}: "
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"{where}aliases are not allowed here")
        if depth > MAX_DEPTH:
            raise ValueError(f"{where}nested too deeply")
        if count > MAX_VALUES:
            raise ValueError(f"{where}more than {MAX_VALUES:,} values")


def read_yaml(text: str) -> Any:
    """Plain data from YAML text of at most a megabyte. Raises ``ValueError`` in one line."""
    if len(text.encode("utf8", "replace")) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES:,} bytes")
    try:
        _bounded(text)
        data = yaml.load(text, Loader=_Loader)  # a safe loader
        json.dumps(data, allow_nan=False)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    except TypeError as error:
        raise ValueError(
            f"holds more than text, numbers, lists and mappings ({error}); put dates in quotes"
        ) from None
    except ValueError as error:
        raise ValueError(
            "holds a number that is not finite" if "JSON" in str(error) else str(error)
        ) from None
    return data


def load_yaml(path: str | Path) -> Any:
    """`read_yaml` of a file, which is not read if it is too large."""
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES:,} bytes")
    try:
        return read_yaml(content.decode("utf8"))
    except UnicodeDecodeError:
        raise ValueError("not a text file in UTF-8") from None


def read_value(name: str, text: str) -> Any:
    """What an argument called ``name`` says, as in YAML. Raises ``ValueError`` in one line that names it."""
    if not text.strip():
        raise ValueError(f"{name} needs a value, such as null for none")
    try:
        return read_yaml(text)
    except ValueError as error:
        raise ValueError(f"{name}: {text!r:.80}: {error}") from None


def read_fields(said: Iterable[str]) -> dict[str, Any]:
    """The fields of arguments ``FIELD=VALUE``; errors as of `read_value`, and for a field without a value or
    with two.
    """
    fields = {}
    for argument in said:
        name, equals, text = argument.partition("=")
        if not equals:
            raise ValueError(f"{argument!r} is not FIELD=VALUE: what is {argument} to be?")
        if name in fields:
            raise ValueError(f"{name} is given twice")
        fields[name] = read_value(name, text)
    return fields


def short(value: Any) -> str:
    """A value in an error message."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:59] + "…"


class _Dumper(yaml.SafeDumper):
    """Plain YAML that is read back as it was."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = '"' if BREAKS.search(text) else None  # quoted so, such a character is escaped
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def to_yaml(data: Any) -> str:
    """Plain data as YAML, in its order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def to_json(data: Any) -> str:
    """Plain data as JSON that YAML reads alike."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    text = POWER.sub(lambda match: match[1] or f"{match[2]}.0{match[3]}", text)
    return BARE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
