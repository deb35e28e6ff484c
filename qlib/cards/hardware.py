"""What a chip or a runtime does with a card's choices: profiles are YAML files, a source for every statement.

A profile speaks about one ``version`` of a target. Each of its statements takes ``values`` of one of the
card's fields and says whether they run, fall back (to something slower or less precise) or cannot be run,
``why``, and its ``source``: an address, or the script that measured it. ``where`` narrows it to cards that
have certain values in other fields; of several statements about a value the first that fits counts. Where
the card does not tell which that is, what they agree on is said, and on which fields the rest depends. What
no statement speaks about is unknown. ``notes`` hold of all that a profile says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..choices import same
from .fields import NOT_REPORTED, PLAIN, Card, Fields
from .profile import load_profile
from .render import faults, shown

UNKNOWN = (NOT_REPORTED, "mixed")
# What is said about weights holds for those of two layers, and for a head in float
ALSO = {"first_last_bits": "weight_bits", "head_bits": "weight_bits"}
ALIKE = {"folded or none": "folded"}  # of a file, in which a target sees no batch norm either way
CATEGORIES = ("method", "operations", "mixed_precision")
UNSEEN = {  # how codes and ranges were found, which no target sees; float layers are seen by their bits
    *("technique", "rounding", "weight_range", "activation_range", "percentile", "calibration_upstream"),
    *("column_order", "sequential", "allocation", "bit_choices", "float_layers"),
}
ORDER = ("cannot", "falls back", "unknown", "runs")
WOULD = {"falls back": "it would fall back", "cannot": "it could not be run"}
NOT_JUDGED = (
    "not judged: attention, tables that are looked up, and how much memory there is; times are of networks "
    "for images or of linear layers alone, and the profile's notes about the former are left out"
)
UNOPENED = "not judged: whether it opens the file ({}), of which the profile says nothing"
SILENT_CARD, SILENT_PROFILE = "The card does not say", "Nothing is known about it."


@dataclass(frozen=True)
class Finding:
    """What a target does with a choice.

    Parameters
    ----------
    field : str
        The choice.
    value
        Of a choice that holds several values, those concerned.
    verdict : {"runs", "falls back", "cannot", "unknown"}
        ``"unknown"`` where the card or the profile does not say.
    why : str
        The reason, or what it falls back to.
    source : str
        Where that is written, or what measured it.
    times : mapping
        By kind of network, its time as a multiple of that in float32, where measured.
    layers : tuple of str
        The layers that have the value, if the card says.
    fields : Fields
        Those of the card.
    """

    field: str
    value: Any
    verdict: str
    why: str
    source: str = ""
    times: Mapping[str, float] = dataclasses.field(default_factory=dict)
    layers: tuple[str, ...] = ()
    fields: Fields = dataclasses.field(default=PLAIN, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: value for name, value in vars(self).items() if name != "fields"}

    @property
    def choice(self) -> str:
        """The choice and its value in words."""
        where = f" in {', '.join(self.layers[:3])}" if self.layers else ""
        where += f" and {len(self.layers) - 3} more" if len(self.layers) > 3 else ""
        return f"{self.fields[self.field]['title']} = {shown(self.field, self.value, self.fields)}{where}"

    def __str__(self) -> str:
        times = _sentence(self.times) if self.verdict == "falls back" else ""
        source = f" ({self.source})" if self.source else ""
        return _printable(f"{self.verdict}: {self.choice}. {self.why}{times}{source}")


def check(card: Card, target: Any) -> list[Finding]:
    """What a target does with every choice of a card that it can see: what it cannot run first, then what
    falls back, what is unknown, and what runs.

    Parameters
    ----------
    card : Card
    target : str, path or mapping
        As for `qlib.cards.profile.load_profile`.
    """
    statements = load_profile(target, card.fields)["statements"]
    found = [
        finding for name in _seen(card.fields, statements) for finding in _findings(card, name, statements)
    ]
    return sorted(found, key=lambda finding: ORDER.index(finding.verdict))


def nothing_reported(findings: Iterable[Finding]) -> bool:
    """Whether the card says nothing of what a target could be asked about."""
    return all(finding.value in UNKNOWN for finding in findings)


def lines(findings: Iterable[Finding]) -> list[str]:
    """What runs in one line, then a line for whatever falls back or cannot run, then what is unknown, a line
    for each reason.
    """
    findings = list(findings)
    if nothing_reported(findings):
        return ["nothing was checked: the card reports nothing that a target could be asked about"]
    by_verdict = {verdict: [f for f in findings if f.verdict == verdict] for verdict in ORDER}
    reasons = dict.fromkeys(finding.why for finding in by_verdict["unknown"])
    unknown = {why: [f for f in by_verdict["unknown"] if f.why == why] for why in reasons}
    return [
        *([f"runs: {_names(by_verdict['runs'])}"] if by_verdict["runs"] else []),
        *(str(finding) for verdict in ("falls back", "cannot") for finding in by_verdict[verdict]),
        *(f"unknown: {_names(group)}. {why}" for why, group in unknown.items()),
    ]


def report(profile: Mapping[str, Any], findings: Iterable[Finding], card: Card | None = None) -> str:
    """For a terminal: the target and what holds of all that is said about it, then `lines`. Of the ``card``
    of a language model, which tells of a head, it says what is not judged instead of what holds of networks
    for images.
    """
    findings = list(findings)
    language = card is not None and card.acts("head_bits")
    usual = profile.get("times")
    head = [f"{profile['title']}, {profile['version']}"]
    head += [f"where nothing falls back, times float32's time: {_in_words(usual)}"] if usual else []
    for said in () if language else profile.get("notes", ()):
        head.append(f"note: {said['note']}{_sentence(said.get('times', {}))} ({said['source']})")
    head += [NOT_JUDGED] if language else []
    head += _of_files(card, findings) if card is not None else []
    return "\n".join(map(_printable, [*head, *lines(findings)]))


def _of_files(card: Card, findings: list[Finding]) -> list[str]:
    """What is wrong with a card's files, and whether the profile says that the target opens them."""
    answered = card["container"] == NOT_REPORTED or any(found.field == "container" for found in findings)
    return [*faults(card), *([] if answered else [UNOPENED.format(card["container"])])]


def _sentence(times: Mapping[str, float]) -> str:
    return f" Times float32's time: {_in_words(times)}." if times else ""


def _in_words(times: Mapping[str, float]) -> str:
    return ", ".join(f"{time:g} for {network}" for network, time in times.items())


def _names(findings: list[Finding]) -> str:
    return "; ".join(f.fields[f.field]["title"] if f.value in UNKNOWN else f.choice for f in findings)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _seen(fields: Fields, statements: list[Mapping[str, Any]]) -> Iterator[str]:
    """The choices that a target sees, and what a profile speaks about beside them."""
    spoken = {statement["field"] for statement in statements}
    for name in fields:
        choice = fields.category_of[name] in CATEGORIES and not fields[name].get("outcome")
        if name in spoken or choice and name not in UNSEEN:
            yield name


def _findings(card: Card, name: str, statements: list[Mapping[str, Any]]) -> Iterator[Finding]:
    """One for every statement that answers for a value of the field."""
    if not card.acts(name):
        return
    other = ALSO.get(name) if name != "head_bits" or card[name] == "float" else None
    about = [s for field in (name, other) for s in statements if s["field"] == field]
    groups: dict[Any, tuple[Finding, dict[Any, bool], dict[str, bool]]] = {}
    for layer, value in [*_single(card[name]), *_in_float(card, name)]:
        found = _answer(card, name, layer, value, about)
        if found is None:
            continue
        answer = (found.verdict, found.why, *found.times.items())
        _, values, layers = groups.setdefault(answer, (found, {}, {}))
        values[value] = True
        layers[layer] = True
    for first, values, layers in groups.values():
        value = list(values) if len(values) > 1 else first.value
        known = tuple(layer for layer in layers if layer is not None)
        yield dataclasses.replace(first, value=value, layers=known)


def _answer(
    card: Card, name: str, layer: str | None, value: Any, about: list[Mapping[str, Any]]
) -> Finding | None:
    """What the statements about a field say of one of its values; ``None`` where other fields answer."""
    if value in UNKNOWN:
        return Finding(name, value, "unknown", _silent(card, name, layer, about), fields=card.fields)
    possible: list[Mapping[str, Any] | None] = []
    open_ends: dict[str, bool] = {}
    for statement in about:
        if any(same(ALIKE.get(value, value), other) for other in statement["values"]):
            fits, silent = _fits(card, statement.get("where", {}), layer)
            if fits is False:
                continue
            possible.append(statement)
            if fits:
                break
            open_ends |= dict.fromkeys(silent, True)
    else:
        possible.append(None)
    titles = ", ".join(card.fields[field]["title"] for field in open_ends)
    if len({said and said["verdict"] for said in possible}) > 1:
        return Finding(name, value, "unknown", f"It depends on: {titles}.", fields=card.fields)
    said = possible[0]
    if said is None:
        # "like the rest" is what the rest is
        rest = name in ALSO and not isinstance(value, int) and value != "float"
        return None if rest else Finding(name, value, "unknown", SILENT_PROFILE, fields=card.fields)
    if any((other["why"], other.get("times")) != (said["why"], said.get("times")) for other in possible):
        why = f"What comes of it depends on: {titles}."
        return Finding(name, value, said["verdict"], why, fields=card.fields)
    times = said.get("times", {})
    return Finding(name, value, said["verdict"], said["why"], said["source"], times, fields=card.fields)


def _silent(card: Card, name: str, layer: str | None, about: list[Mapping[str, Any]]) -> str:
    """That a card does not say the value of a field, and which values would not run."""
    values = dict.fromkeys(value for statement in about for value in statement["values"])
    answers = [_answer(card, name, layer, value, about) for value in values]
    parts = ["; ".join(faults(card, name)) or SILENT_CARD]
    for verdict, would in WOULD.items():
        group = [found for found in answers if found is not None and found.verdict == verdict]
        if group:
            times = {_in_words(found.times) for found in group}
            alike = f" (times float32's time: {times.pop()})" if len(times) == 1 and times != {""} else ""
            names = ", ".join(str(shown(name, found.value, card.fields)) for found in group)
            parts.append(f"if {names}, {would}{alike}")
    return "; ".join(parts) + "."


def _fits(card: Card, where: Mapping[str, Any], layer: str | None) -> tuple[bool | None, list[str]]:
    """Whether a card, or what it says of a layer, has certain values: ``None`` where it does not say, or only
    some layers have them; then also the fields that leave it open.
    """
    open_ends = []
    for name, wanted in where.items():
        if not card.acts(name):
            return False, []
        of_layers = _single(card[name])
        own = [
            value for at, value in [*of_layers, *_in_float(card, name)] if layer is not None and at == layer
        ]
        values = own or [value for _, value in of_layers]
        known = [value for value in values if value not in UNKNOWN]
        hits = [value for value in known if same(value, wanted)]
        if known and not hits and len(known) == len(values):
            return False, []
        if len(hits) < len(values):
            open_ends.append(name)
    return (None if open_ends else True), open_ends


def _in_float(card: Card, name: str) -> list[tuple[str, str]]:
    """The layers that are left in float whole, where a field says the bits of all others."""
    if name not in ("weight_bits", "activation_bits") or card[name] == "float":
        return []
    return [(layer, "float") for layer in card["float_layers"]] if card.acts("float_layers") else []


def _single(value: Any, layer: str | None = None) -> list[tuple[str | None, Any]]:
    """The single values in a field with the layer that has each, if there are such: of a list, each value."""
    if isinstance(value, Mapping):
        return [pair for name, inner in value.items() for pair in _single(inner, name)]
    return [(layer, v) for v in value] if isinstance(value, list) else [(layer, value)]
