"""The headers of safetensors files: types and sizes of tensors. Weights are not read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import MAX_BYTES, opened, parse_json, read_json

INDEX = "model.safetensors.index.json"
MAX_FILES = 1_000
MAX_TENSORS = 300_000
BITS = {
    **{f"{sign}{bits}": bits for sign in "IU" for bits in (8, 16, 32, 64)},
    **{"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "BOOL": 8},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}


@dataclass(frozen=True)
class Tensor:
    """Its type, as the format names it, and its sizes."""

    kind: str
    sizes: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def bits(self) -> int:
        """Of the whole tensor."""
        return self.elements * BITS[self.kind]


def read_header(path: Path, follow: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises
    ------
    ValueError
        In one line, for a file that is none, or whose header is out of bounds.
    OSError
        If it cannot be read.
    """
    with opened(path, follow) as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= MAX_BYTES:
            raise ValueError(
                f"{path} is not a safetensors file that a card can read: its header claims {length:,} bytes"
            )
        content = file.read(length)
        end = file.seek(0, 2)
    if len(content) < length:
        raise ValueError(f"{path} is not a safetensors file: it ends within its header")
    try:
        header = parse_json(content.decode("utf8"), path)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a safetensors file: its header is no text") from None
    header.pop("__metadata__", None)
    return {name: _tensor(path, name, entry, end - 8 - length) for name, entry in header.items()}


def _tensor(path: Path, name: str, entry: Any, room: int) -> Tensor:
    """A tensor from its entry, held against what of the file is left for weights."""
    entry = entry if isinstance(entry, dict) else {}
    kind, sizes, place = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    wrong = f"{path}: the tensor {json.dumps(name[:60])}"
    if not isinstance(kind, str) or kind not in BITS:
        raise ValueError(f"{wrong} is of type {json.dumps(str(kind)[:30])}, which this qlib does not know")
    if not _whole(sizes) or len(sizes) > 16:
        raise ValueError(f"{wrong} has no sizes")
    tensor = Tensor(kind, tuple(sizes))
    if not _whole(place) or len(place) != 2 or 8 * (place[1] - place[0]) != tensor.bits:
        raise ValueError(f"{wrong} does not have the bytes of its sizes")
    if place[1] > room:
        raise ValueError(f"{wrong} lies beyond the end of the file")
    return tensor


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**60 for value in values)


def read_headers(folder: Path, names: Iterable[str]) -> dict[str, Tensor] | None:
    """The tensors of a folder's checkpoint by name; ``None`` where there are none, or where some of its
    files are not there.

    Raises
    ------
    ValueError
        In one line, for a file that is none, that lies elsewhere, or that holds a tensor once more.
    """
    names = set(names)
    wanted = {name for name in names if name.endswith(".safetensors")}
    if INDEX in names:
        files = read_json(folder / INDEX).get("weight_map")
        files = set(files.values()) if isinstance(files, dict) and _texts(files.values()) else set()
        if not files or any(re.search(r"[/\\\0]", name) or name in (".", "..") for name in files):
            raise ValueError(f"{folder / INDEX} names no files of its folder")
        if not files <= wanted:
            return None
        wanted = files
    else:
        wanted = _whole_checkpoint(wanted)
    if len(wanted) > MAX_FILES:
        raise ValueError(f"{folder} holds more than {MAX_FILES:,} files of weights")
    found: dict[str, Tensor] = {}
    for name in sorted(wanted):
        header = read_header(folder / name)
        if not found.keys().isdisjoint(header):
            raise ValueError(f"{folder / name} holds a tensor that another file of the folder holds, too")
        found |= header
        if len(found) > MAX_TENSORS:
            raise ValueError(f"{folder} holds more than {MAX_TENSORS:,} tensors")
    return found or None


def _whole_checkpoint(files: set[str]) -> set[str]:
    """Of files without an index those that are one checkpoint whole; none where that cannot be told."""
    if "model.safetensors" in files:
        return {"model.safetensors"}
    parts = [re.search(r"-of-(\d{5})\.safetensors$", name) for name in files]
    whole = len(files) == 1 and parts == [None] or all(part and int(part[1]) == len(files) for part in parts)
    return files if whole else set()


def _texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
