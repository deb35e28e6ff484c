"""Two cards side by side: in which choices they differ, what each was worth, and what a target says. It needs
no kernel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape

from ..cards import QuantizationCard, hardware
from ..cards.compare import acts, report, union, value
from ..cards.methods import method_worth
from ..cards.profile import load_profile, profiles
from ..cards.render import shown
from .figure import Figure


def card_comparison(
    cards: Mapping[str, QuantizationCard], first: str | None = None, second: str | None = None
) -> Figure:
    """A figure in which a reader picks two cards and a target; it says what `QuantizationCard.differences`
    and `qlib.cards.hardware.check` say.

    Parameters
    ----------
    cards : mapping
        Two or more, by name.
    first, second : str, optional
        Those that are compared at the beginning.

    Returns
    -------
    Figure
        Acts without a kernel.
    """
    if len(cards) < 2:
        raise ValueError(f"a comparison needs two cards, got {len(cards)}")
    names = list(cards)
    pairs = {}
    for i, a in enumerate(cards.values()):
        for j, b in enumerate(cards.values()):
            found = a.differences(b)
            worth = {choice.field: choice.said() for choice in found if choice.said()}
            confounds = [choice.field for choice in found if choice.confound]
            pairs[f"{i} {j}"] = {
                "head": report(a, b, found).splitlines()[0],
                "methods": method_worth(a.name, b.name),
                "worth": worth,
                "open": confounds,
            }
    known = {name: own for name, own in union(*cards.values()).items() if not own[name].get("outcome")}
    fields = [
        {
            "name": name,
            "title": own[name]["title"],
            "category": own.heading(own.category_of[name]),
            "observation": own[name].get("observation", 0),
        }
        for name, own in known.items()
    ]
    # In words two may look alike.
    different = {name: sorted({json.dumps(value(card, name)) for card in cards.values()}) for name in known}
    said = [
        {
            "name": title,
            "values": [shown(name, value(card, name), own) for name, own in known.items()],
            "which": [different[name].index(json.dumps(value(card, name))) for name in known],
            "acts": [int(acts(card, name)) for name in known],
        }
        for title, card in cards.items()
    ]
    targets = [
        {
            "title": load_profile(name)["title"],
            "findings": [hardware.lines(hardware.check(card, name)) for card in cards.values()],
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
