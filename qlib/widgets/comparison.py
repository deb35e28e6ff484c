"""Two cards side by side: in which choices they differ, what each was worth, and what a target says. It needs
no kernel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape

from ..cards import CATEGORIES, SCHEMA, QuantizationCard
from ..cards.compare import report
from ..cards.hardware import load_profile, profiles
from ..cards.render import shown
from .figure import Figure


def card_comparison(
    cards: Mapping[str, QuantizationCard], first: str | None = None, second: str | None = None
) -> Figure:
    """A figure in which a reader picks two of ``cards`` and a target. It says what
    `QuantizationCard.differences` and `QuantizationCard.fits` say. ``first``, ``second``: those that are
    compared at the beginning.
    """
    if len(cards) < 2:
        raise ValueError(f"a comparison needs two cards, got {len(cards)}")
    names = list(cards)
    pairs = {}
    for i, a in enumerate(cards.values()):
        for j, b in enumerate(cards.values()):
            found = a.differences(b)
            worth = {choice.field: [str(w) for w in choice.worth] for choice in found if choice.worth}
            pairs[f"{i} {j}"] = {"head": report(a, b, found).splitlines()[0], "worth": worth}
    fields = [
        {
            "name": name,
            "title": field["title"],
            "category": SCHEMA["properties"][category]["title"],
            "observation": field.get("observation", 0),
        }
        for category, known in CATEGORIES.items()
        for name, field in known.items()
        if not field.get("outcome")
    ]
    different = [
        sorted({json.dumps(card[f["name"]]) for card in cards.values()}) for f in fields
    ]  # in words two may look alike
    said = [
        {
            "name": name,
            "values": [shown(f["name"], card[f["name"]]) for f in fields],
            "which": [
                known.index(json.dumps(card[f["name"]])) for f, known in zip(fields, different, strict=True)
            ],
            "acts": [int(card.acts(f["name"])) for f in fields],
        }
        for name, card in cards.items()
    ]
    targets = [
        {
            "title": load_profile(name)["title"],
            "findings": [list(map(str, card.fits(name))) for card in cards.values()],
        }
        for name in profiles()
    ]
    start = {"a": names.index(first) if first else 0, "b": names.index(second) if second else 1, "target": 0}
    head = pairs[f"{start['a']} {start['b']}"]["head"]
    return Figure(
        "comparison",
        {"fields": fields, "cards": said, "pairs": pairs, "targets": targets, "start": start},
        f"<p>{escape(head)}</p>",
    )
