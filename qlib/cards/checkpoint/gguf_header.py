"""The header of a GGUF file, read with care: its metadata and what its tensors are, never a weight.

Versions 2 and 3 in either byte order, as ggml's ``docs/gguf.md`` lays them down.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

from .files import opened

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER = 64_000_000  # bytes: most of a header are the words of a tokenizer
MAX_KEYS = 10_000
MAX_TENSORS = 20_000
MAX_ITEMS = 1_000_000  # of arrays of texts
MAX_NAME = 1_000
MAX_DIMENSIONS = 8
MAX_DEPTH = 4  # of arrays in arrays
KEPT = 1_000  # bytes of a text that is kept
CHUNK = 1 << 16

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9


@cache
def tables() -> dict[str, Any]:
    """What each type of tensor is, and what each label of a file promises (``gguf_types.json``)."""
    return json.loads(files(__package__).joinpath("gguf_types.json").read_text("utf8"))


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file: its name, its sizes (the one along which blocks lie first), and its type's entry
    in `tables`.
    """

    name: str
    sizes: tuple[int, ...]
    kind: dict[str, Any]

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def bytes(self) -> int:
        return self.elements // self.kind["block"] * self.kind["bytes"]


@dataclass(frozen=True)
class Header:
    """``metadata`` holds numbers, truth values and texts by key; of an array only its length. ``complete``:
    the file is long enough for the weights that its header names.
    """

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    complete: bool


def read_header(path: Path, follow: bool = False) -> Header:
    """The header of a GGUF file.

    Raises
    ------
    ValueError
        In one line, for a file that is none, or that is out of bounds.
    OSError
        If it cannot be read.
    """
    try:
        with opened(path, follow) as file:
            return _header(_Cursor(file))
    except (struct.error, UnicodeDecodeError):
        raise ValueError(f"{path} is not a GGUF file: it has names that are not text") from None
    except _Fault as fault:
        raise ValueError(f"{path} is not a GGUF file that a card can read: {fault}") from None


class _Fault(Exception):
    """What is wrong with a header."""


class _Cursor:
    """The bytes of a header, one after another; no more of them are held than are asked for at once."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.taken = 0
        self.order = "<"

    def take(self, count: int) -> bytes:
        self._count(count)
        found = self.file.read(count)
        if len(found) < count:
            raise _Fault("it ends within its header")
        return found

    def skip(self, count: int) -> None:
        self._count(count)
        while count > 0:
            found = len(self.file.read(min(count, CHUNK)))
            if not found:
                raise _Fault("it ends within its header")
            count -= found

    def _count(self, count: int) -> None:
        self.taken += count
        if self.taken > MAX_HEADER:
            raise _Fault(f"its header is longer than {MAX_HEADER:,} bytes")

    def number(self, code: str) -> Any:
        code = self.order + code
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def count(self, what: str, most: int) -> int:
        found = self.number("Q")
        if found > most:
            raise _Fault(f"it claims {found:,} {what}, more than {most:,}")
        return found

    def text(self, most: int) -> str:
        return self.take(self.count("bytes of a name", most)).decode("utf8")


def _header(cursor: _Cursor) -> Header:
    magic = cursor.file.read(4)
    cursor.taken = len(magic)
    if magic != MAGIC:
        raise _Fault("it does not begin with GGUF" if magic else "it is empty")
    version = cursor.number("I")
    if version not in VERSIONS and int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        cursor.order = ">"
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in VERSIONS:
        raise _Fault(f"version {version}, not 2 or 3")
    count = cursor.count("tensors", MAX_TENSORS)
    metadata: dict[str, Any] = {}
    items = [MAX_ITEMS]
    for _ in range(cursor.count("keys", MAX_KEYS)):
        key = cursor.text(MAX_NAME)
        if key in metadata:
            raise _Fault(f"the key {key[:60]!r} stands there twice")
        metadata[key] = _value(cursor, cursor.number("I"), items)
    ends = [0]
    tensors = tuple(_tensor(cursor, ends) for _ in range(count))
    if len({tensor.name for tensor in tensors}) < count:
        raise _Fault("two of its tensors have one name")
    align = metadata.get("general.alignment", 32)
    start = -(-cursor.taken // align) * align if isinstance(align, int) and align > 0 else cursor.taken
    return Header(metadata, tensors, start + max(ends) <= cursor.file.seek(0, 2))


def _value(cursor: _Cursor, kind: int, items: list[int], depth: int = 0) -> Any:
    """A value; of an array its length. ``items`` holds how many texts and arrays may still come."""
    if kind in SCALARS:
        return cursor.number(SCALARS[kind])
    if kind == TEXT:
        length = cursor.count("bytes of a text", MAX_HEADER)
        kept = cursor.take(min(length, KEPT)).decode("utf8", "replace")
        cursor.skip(length - min(length, KEPT))
        return kept
    if kind != ARRAY:
        raise _Fault(f"a value of type {kind}, which there is not")
    if depth == MAX_DEPTH:
        raise _Fault("arrays nested too deeply")
    inner, length = cursor.number("I"), cursor.number("Q")
    if inner in SCALARS:
        cursor.skip(length * struct.calcsize("<" + SCALARS[inner]))
        return length
    items[0] -= length
    if items[0] < 0:
        raise _Fault(f"its arrays hold more than {MAX_ITEMS:,} texts")
    for _ in range(length):
        if inner == TEXT:
            cursor.skip(cursor.number("Q"))
        else:
            _value(cursor, inner, items, depth + 1)
    return length


def _tensor(cursor: _Cursor, ends: list[int]) -> Tensor:
    """A tensor; where its weights end is put into ``ends``."""
    name = cursor.text(MAX_NAME)
    dimensions = cursor.number("I")
    if dimensions > MAX_DIMENSIONS:
        raise _Fault(f"the tensor {name[:60]!r} has {dimensions:,} dimensions")
    sizes = tuple(cursor.number("Q") for _ in range(dimensions))
    kind, offset = cursor.number("I"), cursor.number("Q")
    known = tables()["tensor_types"].get(str(kind))
    if known is None:
        raise _Fault(f"the tensor {name[:60]!r} is of type {kind}, which this qlib does not know")
    if math.prod(sizes) > 2**48 or (sizes or (1,))[0] % known["block"]:
        raise _Fault(f"the tensor {name[:60]!r} has sizes that {known['name']} does not allow")
    tensor = Tensor(name, sizes, known)
    ends.append(offset + tensor.bytes)
    return tensor
