"""What two cards differ in, which observation speaks about each choice, and what it was worth on the recorded
bench.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..choices import same
from .fields import NOT_REPORTED, PLAIN, Card, Fields
from .methods import method_worth
from .render import faults, shown
from .worth import Worth, known, number, worth

UNMEASURED = "not measured"
LESSONS = {
    **{"quantizer": "00", "weight_bits": "00", "activation_bits": "00"},
    **{"bias": "00a", "accumulator_bits": "00a", "activation_dynamic": "01b", "calibration_upstream": "01b"},
    **dict.fromkeys(("weight_range", "activation_range", "percentile"), "00b"),
    **{"rounding": "02a", "images": "02c", "pooling": "02c", "float_layers": "04", "embedding_bits": "04"},
    **dict.fromkeys(("learning_rate", "penalty", "checkpoint"), "09a"),
}
"""The lessons that speak about choices of which no observation does, by the number of their notebook."""
OTHER_BITS = "not measured at these bits"


@dataclass(frozen=True)
class Choice:
    """One field in which two cards differ, or that one of them does not report (``confound``): then nobody
    can say.

    Parameters
    ----------
    field : str
        Its name.
    a, b
        Its value on the first card, on the second.
    worth : tuple of Worth
        What it was worth on recorded rows at the cards' own bits; empty where that is not known.
    unmeasured : str
        Why it is not known: ``"not measured"``, or only not at these bits.
    fields : Fields
        Among which it is.
    """

    field: str
    a: Any
    b: Any
    worth: tuple[Worth, ...] = ()
    unmeasured: str = ""
    fields: Fields = dataclasses.field(default=PLAIN, repr=False, compare=False)

    @property
    def confound(self) -> bool:
        return NOT_REPORTED in (self.a, self.b)

    @property
    def category(self) -> str:
        return self.fields.heading(self.fields.category_of[self.field])

    @property
    def observation(self) -> int | None:
        """The number of the paper's observation about this choice."""
        return self.fields[self.field].get("observation")

    @property
    def lesson(self) -> str | None:
        """The number of the notebook that speaks about it: an observation has that of its own number."""
        return f"{self.observation:02}" if self.observation else LESSONS.get(self.field)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        worth = [
            {
                "a": w.a,
                "b": w.b,
                "condition": w.condition,
                "bench": w.bench,
                "table": w.table,
                "points": w.points.points,
                "low": w.points.interval[0],
                "high": w.points.interval[1],
                "n": w.points.n,
            }
            for w in self.worth
        ]
        return {
            "field": self.field,
            "category": self.category,
            "observation": self.observation,
            "lesson": self.lesson,
            "a": self.a,
            "b": self.b,
            "confound": self.confound,
            "worth": worth,
            "unmeasured": self.unmeasured,
        }

    def __str__(self) -> str:
        about = f", observation {self.observation}" if self.observation else ""
        about = about or (f", lesson {self.lesson}" if self.lesson else "")
        values = " | ".join(shown(self.field, value, self.fields) for value in (self.a, self.b))
        line = f"{self.fields[self.field]['title']}: {values}  ({self.category}{about})"
        return "\n".join([line, *(f"    {said}" for said in [*self._entries(), *self.said()])])

    def _entries(self) -> list[str]:
        """Of values layer by layer, in how many they differ, in a line."""
        if not isinstance(self.a, Mapping) or not isinstance(self.b, Mapping):
            return []
        every = {**self.a, **self.b}
        both = {name: (self.a.get(name, "none"), self.b.get(name, "none")) for name in every}
        apart = [f"{name} {a} | {b}" for name, (a, b) in both.items() if not same(a, b)]
        more = ", ..." if len(apart) > 3 else ""
        return [f"in {len(apart):,} of {len(every):,} entries: {', '.join(apart[:3])}{more}"]

    def said(self) -> list[str]:
        """What it was worth, or why that is not known, in lines."""
        return [str(w) for w in self.worth] or [self.unmeasured] * bool(self.unmeasured)


def union(*cards: Card) -> dict[str, Fields]:
    """The names of all fields that any of the cards has, category by category, each with the fields of the
    first card that has it.
    """
    found: dict[str, Fields] = {}
    for card in cards:
        found |= {name: card.fields for name in card.fields if name not in found}
    order = list(PLAIN.categories)
    return dict(sorted(found.items(), key=lambda item: order.index(item[1].category_of[item[0]])))


def value(card: Card, name: str) -> Any:
    """What a card says in a field, which it may not have."""
    return card[name] if name in card.fields else NOT_REPORTED


def acts(card: Card, name: str) -> bool:
    """Whether a field means anything on a card, which may not have it."""
    return name in card.fields and card.acts(name)


def silent(card: Card, name: str, other: Any) -> bool:
    """Whether a card leaves a field open that it has to fill in: one that would mean something if it said
    what the ``other`` card says, or that it does not know.
    """
    if value(card, name) != NOT_REPORTED:
        return False
    if name not in card.fields:
        return True
    return card.fields.acts(name, {**{known: card[known] for known in card.fields}, name: other})


def differences(a: Card, b: Card, measure: bool = True) -> list[Choice]:
    """The design choices in which the cards differ, reported ones first, then those that either card leaves
    open. What follows from choices (sizes, times, accuracies) is not among them, nor what does not act on
    either card (`QuantizationCard.acts`).

    ``measure``: look up what each was worth in recorded rows at the cards' own bits (`qlib.cards.worth`)."""
    names = {
        name: fields
        for name, fields in union(a, b).items()
        if not fields[name].get("outcome") and (acts(a, name) or acts(b, name))
    }
    bits = {side: _bits(a, side) & _bits(b, side) for side in ("weight", "activation")}
    alike = a["dataset"] == b["dataset"]  # or else accuracies do not say which network is the better one
    found = []
    for name, fields in names.items():
        both = (value(a, name), value(b, name))
        if silent(a, name, both[1]) or silent(b, name, both[0]):
            found.append(Choice(name, *both, fields=fields))
        elif NOT_REPORTED not in both and not same(*both):
            measured = measure and (alike or name != "float_accuracy")
            here = worth(name, *both, bits) if measured else ()
            why = OTHER_BITS if known(name, *both) else UNMEASURED
            found.append(Choice(name, *both, here, why if measured and not here else "", fields))
    return sorted(found, key=lambda choice: choice.confound)


def _bits(card: Card, side: str) -> frozenset[float]:
    """The bits that a side of a card may have, one number for all layers."""
    bits = card[f"{side}_bits"]
    return frozenset(b for b in (bits if isinstance(bits, list) else [bits]) if isinstance(b, int))


def gap(a: Card, b: Card) -> float | None:
    """Accuracy of ``a`` minus that of ``b`` in points, where both report a number in percent."""
    both = [number(card["accuracy"]) for card in (a, b)]
    return None if None in both else both[0] - both[1]


def _follows(a: Card, b: Card) -> list[str]:
    """In which sizes and times that both report the cards differ."""
    return [
        f"{fields[name]['title']}: {shown(name, a[name], fields)} | {shown(name, b[name], fields)}"
        for name, fields in union(a, b).items()
        if fields[name].get("outcome")
        and name not in ("accuracy", "spread", "seeds", "examples")
        and NOT_REPORTED not in (value(a, name), value(b, name))
        and not same(a[name], b[name])
    ]


def report(a: Card, b: Card, found: Iterable[Choice]) -> str:
    """`differences` for a terminal."""
    found = list(found)
    apart = gap(a, b)
    lines = [f"{a.name} | {b.name}" + ("" if apart is None else f": {abs(apart):.1f} points apart")]
    if apart is not None:
        lines.append(
            f"{PLAIN['accuracy']['title']}: {shown('accuracy', a['accuracy'])} | "
            f"{shown('accuracy', b['accuracy'])}"
        )
    neither = [c for c in found if c.a == c.b == NOT_REPORTED]
    parts = {
        "Their methods alone": method_worth(a.name, b.name),
        "They differ in": [line for c in found if not c.confound for line in str(c).splitlines()],
        "What follows from choices differs, too": _follows(a, b),
        "Their files contradict each other or are broken": [
            f"{card.name}: {line}" for card in (a, b) for line in faults(card)
        ],
        "Not reported on one side, so possible confounds": [
            line for c in found if c.confound and c not in neither for line in str(c).splitlines()
        ],
        "Not reported on either side, so possible confounds": [
            ", ".join(c.fields[c.field]["title"] for c in neither)
        ]
        if neither
        else [],
    }
    for title, part in parts.items():
        if part:
            lines += ["", f"{title}:", *(f"  {line}" for line in part)]
    text = "\n".join(lines)
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
