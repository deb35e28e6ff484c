"""The panel that measures on the published page: every choice as a control, and what it does to the accuracy
of the built-in network, quantized and run in the reader's browser.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..benches import load_bench, network_of, weights_hash
from ..benches.digits import WEIGHTS
from ..cards import CATEGORIES, SCHEMA, QuantizationCard
from ..cards.from_run import of_bench
from ..choices import Choice, choices
from ..config import QuantConfig
from ..methods import words
from ..names import suggestion
from .controls import EVERY, PERCENTILES, kind_of
from .engine import roundings
from .engine.bundle import BENCH, BEYOND, IMAGES, OF_TEXTS
from .figure import Figure, table

METHODS = ("nearest", "bias")  # that the page applies itself
BESIDE = 430_000  # bytes that are loaded beside a network's weights: ranges, the graph, what computes
OFFERED = ("switch", "words", "percentile", "bits")  # kinds of controls; other choices stay as they are


def measuring_panel(
    front: Iterable[str] = ("weight_bits", "activation_bits"), network: str = "base", **start: Any
) -> Figure:
    """The panel. It loads nothing before its reader asks for it, and then two files that lie beside the page
    (`qlib.widgets.engine.bundle.write_bundle`); where there is a kernel, `qlib.explore` is its like.

    Parameters
    ----------
    front : iterable of str
        The fields of the configuration whose controls stand in front; all others are folded away.
    network : str
        Of the bench ``digits``, with which it starts.
    **start
        Fields that do not start at their default.

    Returns
    -------
    Figure
        Acts without a kernel.

    Raises
    ------
    ValueError
        Naming a field, a value or a network that cannot be.
    """
    network_of(load_bench(BENCH), network)
    QuantConfig.refuse_unknown((*front, *start), ValueError)
    config = QuantConfig(**start)
    controls = _controls()
    for name in front:
        if name not in controls:
            raise ValueError(f"the page has no control of {name!r}{suggestion(name, controls)}")
    for name, control in controls.items():
        if control["kind"] == "words" and getattr(config, name) not in control["values"]:
            raise ValueError(f"the page does not compute {name}={getattr(config, name)!r}")
    state = {
        "controls": controls,
        "front": list(front),
        "start": {name: value for name, value in config.to_dict().items() if name in controls},
        "network": network,
        "networks": _networks(),
        "categories": {name: SCHEMA["properties"][name]["title"] for name in CATEGORIES},
        "counts": [64, 256, IMAGES["validation"]],
        "card": _card(),
        "methods": {name: words(name) for name in METHODS}
        | {name: roundings.card(name) for name in roundings.METHODS},
        "shipped": {name: {"network": roundings.NETWORK, **roundings.needs()} for name in roundings.METHODS},
    }
    rows = {controls[name]["title"]: str(getattr(config, name)) for name in front}
    return Figure("measuring", state, table("Measured where scripts run", rows))


def _networks() -> dict[str, dict[str, Any]]:
    """By name, what a card says of a network, and the megabytes that it takes to load it."""
    bench = load_bench(BENCH)
    return {
        name: {
            "network": of_bench(BENCH, name, True)["network"],
            "weights_hash": _hash(name),
            "megabytes": _megabytes(WEIGHTS / f"{BENCH}-{name}.safetensors"),
        }
        for name in bench.models
    }


def _megabytes(weights: Path) -> float:
    """What a click loads: weights as base64, and what lies beside them."""
    return round((weights.stat().st_size * 4 / 3 + BESIDE) / 1e6, 1)


@cache
def _hash(name: str) -> str:
    return weights_hash(load_bench(BENCH).models[name])


def _card() -> dict[str, Any]:
    """A card with what is the same of all that the page measures."""
    known = of_bench(BENCH, "", True) | {"images": IMAGES["calibration"], "labels": "none", "steps": 0}
    return QuantizationCard.from_run(QuantConfig(), **{**known, "batch_norm": "folded"}).data


def _controls() -> dict[str, dict[str, Any]]:
    """What the page needs to know of every choice that has a control there."""
    usual = QuantConfig.defaults()
    found = {}
    for name, known in choices(QuantConfig).items():
        kind = kind_of(name, known, usual[name])
        if kind in OFFERED and name not in OF_TEXTS:
            found[name] = {
                "title": known.title,
                "help": known.help,
                "kind": kind,
                "default": usual[name],
                "none": known.none,
                "category": known.category,
                "values": _values(kind, known),
                "acting": _acting(known),
            }
    return found


def _values(kind: str, known: Choice) -> list[Any]:
    every: dict[str, list[Any]] = {
        "switch": [True, False],
        "words": [word for word in known.values if word not in BEYOND],
        "percentile": list(PERCENTILES),
        "bits": [*EVERY, None],
    }
    return every[kind]


def _acting(known: Choice) -> dict[str, Any]:
    """When a choice means anything beside the others: the fields that this depends on, and with which values
    of theirs it is so.
    """
    usual = QuantConfig().in_words()
    reads: list[str] = []
    while True:
        combinations = list(itertools.product(*(_examples(name) for name in reads)))
        cards = [_Read({**usual, **dict(zip(reads, values, strict=True))}) for values in combinations]
        acts = [known.acting(card) for card in cards]
        further = sorted(set().union(*(card.read for card in cards)).difference(reads))
        if not further:
            keys = [",".join(map(_kind, values)) for values in combinations]
            return {"reads": reads, "acts": [key for key, does in zip(keys, acts, strict=True) if does]}
        reads += further


class _Read(dict):
    """A card's values, and which of them were read."""

    def __init__(self, values: Mapping[str, Any]):
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)


def _examples(name: str) -> list[Any]:
    """A value of every kind that a field may have on a card."""
    known, usual = choices(QuantConfig)[name], QuantConfig.defaults()[name]
    if known.values or isinstance(usual, bool):
        return list(known.values) or [True, False]
    if name in ("weight_bits", "activation_bits"):
        return [usual, {"default": usual}, known.word]
    return [QuantConfig().in_words()[name], *([known.word] if known.none else [])]


def _kind(value: Any) -> str:
    """Of a value on a card; numbers are of one kind."""
    if isinstance(value, bool) or isinstance(value, str):
        return str(value).lower()
    return "number" if isinstance(value, (int, float)) else "object"
