"""The card of a checkpoint's file, made in a reader's browser, and what a label of GGUF files stands for."""

from __future__ import annotations

from typing import Any

from ..cards import FIELDS
from ..cards.checkpoint import (
    awq,
    bitsandbytes,
    compressed_tensors,
    files,
    found,
    gguf,
    gguf_header,
    gptq,
    modelopt,
)
from ..cards.fields import PLAIN
from ..cards.from_checkpoint import CONTAINERS, METHODS, SETTINGS, TELLING
from .figure import Figure, table

START = "Q4_K_M"


def checkpoint_reader() -> Figure:
    """A figure on which a reader drops a GGUF file, or a file of settings: it shows what
    `QuantizationCard.from_checkpoint` says of that file. Of formats that it does not read it says so.

    Returns
    -------
    Figure
        Acts without a kernel, and sends nothing anywhere.
    """
    return Figure("checkpoint", {"data": _data()}, table("Types of tensors in GGUF files", _bits()))


def _bits() -> dict[str, str]:
    kinds = gguf_header.tables()["tensor_types"].values()
    return {
        kind["name"]: f"{kind['code_bits']:g} bits, {8 * kind['bytes'] / kind['block']:g} with scales"
        for kind in kinds
        if isinstance(kind["bits"], int)
    }


def _data() -> dict[str, Any]:
    """The tables and the bounds of the readers in Python."""
    return {
        "start": START,
        "settings": SETTINGS,
        "fields": [_field(name) for name in FIELDS],
        "headings": {name: PLAIN.heading(name) for name in ("authors", "remarks", "sources")},
        "gguf": gguf_header.tables(),
        "slack": gguf.SLACK,
        "lookups": gguf.TABLES.pattern,
        "head": found.HEAD.pattern,
        "methods": list(METHODS),
        "containers": CONTAINERS,
        "telling": TELLING,
        "modelopt": {"algorithms": modelopt.ALGORITHMS, "caches": modelopt.CACHES},
        "compressed": {
            "kinds": compressed_tensors.KINDS,
            "weight_ranges": compressed_tensors.WEIGHT_RANGES,
            "activation_ranges": compressed_tensors.ACTIVATION_RANGES,
            "orders": compressed_tensors.ORDERS,
            "observers": compressed_tensors.OBSERVERS,
            "no_order": compressed_tensors.NO_ORDER,
            "float_codes": compressed_tensors.FLOAT_CODES,
        },
        "usual": {
            "gptq": gptq.BLOCKS,
            "awq": awq.BLOCKS,
            "bitsandbytes": bitsandbytes.SKIPPED,
            "block": bitsandbytes.BLOCK,
        },
        "limits": {
            "versions": gguf_header.VERSIONS,
            "header": gguf_header.MAX_HEADER,
            "keys": gguf_header.MAX_KEYS,
            "tensors": gguf_header.MAX_TENSORS,
            "items": gguf_header.MAX_ITEMS,
            "name": gguf_header.MAX_NAME,
            "dimensions": gguf_header.MAX_DIMENSIONS,
            "depth": gguf_header.MAX_DEPTH,
            "kept": gguf_header.KEPT,
            "bytes": files.MAX_BYTES,
            "parts": files.MAX_PARTS,
            "values": files.MAX_VALUES,
            "json_depth": files.MAX_DEPTH,
            "remarks": found.REMARKS,
            "faults": found.MOST_FAULTS,
        },
    }


def _field(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "title": PLAIN[name]["title"],
        "category": PLAIN.heading(PLAIN.category_of[name]),
        "words": [word for kind in PLAIN[name]["anyOf"] for word in kind.get("enum", ())],
        "float": PLAIN.float_at_32(name),
    }
