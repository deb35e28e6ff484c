"""A card as LaTeX: the paper's table of two columns, in the paper's words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from .fields import NOT_REPORTED, Card
from .render import facts, faults, shown, titled

GRANULARITIES = {
    "per_channel": "Per-channel",
    "per_tensor": "Per-tensor",
    "per_group": "Per-group",
    "per_token": "Per-token",
}
POOLINGS = {
    "high_precision": "Average pooling computed at high precision and requantized",
    "float": "Average pooling left in float",
    "low_precision": "Average pooling computed at low precision",
}
ENDS = {
    int: "First and last layer weights at {} bits, output activations of first and last layer at {} bits",
    "float": "First and last layer in full precision",
    "like the rest": "All layers quantized",
}


def latex(card: Card) -> str:
    """The paper's table of two columns, a category and its choices in the paper's words where it has some;
    what is not reported is counted, not listed. Needs nothing but LaTeX; accents that plain LaTeX cannot set
    are left away, characters beyond Latin script become question marks.
    """
    lines = [
        r"\noindent\begin{tabular}{@{}p{0.22\linewidth}p{0.74\linewidth}@{}}",
        r"\hline",
        rf"\multicolumn{{2}}{{@{{}}p{{0.96\linewidth}}@{{}}}}{{\textbf{{{_tex(card.name)}}}}} \\ \hline",
        r" & \textbf{Design tradeoffs} \\ \hline",
    ]
    for category, fields in card.fields.categories.items():
        said = [_tex(phrase) for phrase in phrases(card, category)]
        missing = sum(card[name] == NOT_REPORTED and card.acts(name) for name in fields)
        said += [rf"\textit{{{missing} not reported}}"] if missing else []
        lines.append(rf"{_tex(card.fields.heading(category))} & {' $|$ '.join(said)} \\")
    lines += [
        rf"{_tex(title)} & {_tex(said)} \\"
        for title, said in [*([("Faults", "; ".join(faults(card)))] if faults(card) else []), *facts(card)]
        if title in ("Faults", "Remarks", "Other runs used")
    ]
    lines += [r"\hline", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def phrases(card: Card, category: str) -> list[str]:
    """A category's choices in the words of the paper's tables 3 and 4; after them, what these tables have no
    words for.
    """
    words = _Words(card)
    found = [phrase for phrase in _OF[category](words) if phrase]
    other = [
        f"{titled(card, name)}: {shown(name, card[name], card.fields)}"
        for name in card.fields.categories[category]
        if name not in words.told and card.fields.said(name, card)
    ]
    return [phrase[:1].upper() + phrase[1:] for phrase in found] + other


class _Words:
    """The phrases about a card, and the fields that they have ``told`` of or that need no word."""

    def __init__(self, card: Card):
        self.card = card
        self.told: set[str] = set()

    def one(self, field: str, words: Mapping[Any, str]) -> str | None:
        """By a field's value, or by the type of one that ``words`` does not have; ``{}`` is the value."""
        value = self.card[field]
        key = type(value) if isinstance(value, (list, dict)) or value not in words else value
        if value == NOT_REPORTED or key not in words:
            return None
        self.told.add(field)
        return words[key].replace("{}", shown(field, value, self.card.fields))

    def both(self, field: str, words: Mapping[Any, str], together: bool) -> str | None:
        """Of weights and of activations; in one word, ``together``, where it is the same."""
        known = {side: words.get(self.card[f"{side}_{field}"]) for side in ("weight", "activation")}
        known = {side: word for side, word in known.items() if word is not None}
        self.told |= {f"{side}_{field}" for side in known}
        if together and len(known) == 2 and len(set(known.values())) == 1:
            return known["weight"]
        return ", ".join(f"{word} {side}s" for side, word in known.items()) or None

    def idle(self, *fields: str) -> None:
        """Those that do not act need no word."""
        self.told |= {field for field in fields if not self.card.acts(field)}


def _method(words: _Words) -> list[str | None]:
    card = words.card
    percentile = shown("percentile", card["percentile"], card.fields)
    words.idle("percentile", "symmetric_grid")
    if "percentile" in (card["weight_range"], card["activation_range"]):
        words.told.add("percentile")
    return [
        words.one("quantizer", {str: "{}"}),
        words.both("symmetric", {True: "Symmetric", False: "Asymmetric"}, together=True),
        words.both("granularity", GRANULARITIES, together=False),
        words.one(
            "activation_dynamic", {True: "Dynamic quantizer parameters", False: "Static quantizer parameters"}
        ),
        *(
            words.one(
                f"{side}_range",
                {
                    "percentile": f"Percentile clipping at {percentile}th percentile for {side}s",
                    "minmax": f"{side} quantizer min/max",
                    "learned": f"Learned {side} quantizer min/max",
                },
            )
            for side in ("weight", "activation")
        ),
    ]


def _operations(words: _Words) -> list[str | None]:
    words.idle("float_layers")
    return [
        *(
            words.one(
                f"quantize_{side}",
                {True: f"Quantized {side} connection", False: f"Full precision {side} connection"},
            )
            for side in ("skip", "residual")
        ),
        words.one("pooling", POOLINGS),
    ]


def _mixed_precision(words: _Words) -> list[str | None]:
    words.idle("bit_choices", "allocation")
    if words.card["allocation"] == "uniform":
        words.told.add("allocation")
    allowed = {"any integer": "Any integer bitwidth", list: "Allowed bitwidths: {}"}
    return [
        words.one("weight_bits", {int: "{} bit weights", **_kinds("weights")}),
        words.one(
            "activation_bits",
            {int: "{} bit activations", list: "Fixed activation bitwidth ({})", **_kinds("activations")},
        ),
        words.one("first_last_bits", ENDS) if words.card["head_bits"] == NOT_REPORTED else None,
        None if "bit_choices" in words.told else words.one("bit_choices", allowed),
    ]


def _kinds(side: str) -> dict[Any, str]:
    return {"float": f"Full precision {side}", "mixed": f"Mixed precision {side}"}


def _resources(words: _Words) -> list[str | None]:
    card = words.card
    kind = {"none": "Unlabeled {}", "true": "Labeled {}"}.get(card["labels"])
    if card["data"] == NOT_REPORTED or kind is None:
        data = None
    else:
        data = kind.replace("{}", card["data"])
        words.told |= {"data", "labels"}
    return [
        words.one("images", {int: "{} examples"}),
        data,
        words.one("time", dict.fromkeys((str, int, float), "{}")),
    ]


def _pretrained(words: _Words) -> list[str | None]:
    return [
        words.one(field, dict.fromkeys((dict, int, float, str), f"{title}: {{}}"))
        for field, title in (("float_accuracy", "Baseline accuracy"), ("accuracy", "Quantized accuracy"))
    ]


def _evaluation(words: _Words) -> list[str | None]:
    return [words.one("metric", {"top1": "Top-1 accuracy", str: "{}"})]


_OF: dict[str, Callable[[_Words], list[str | None]]] = {
    "method": _method,
    "operations": _operations,
    "mixed_precision": _mixed_precision,
    "resources": _resources,
    "pretrained": _pretrained,
    "evaluation": _evaluation,
}
_TEX: dict[str, str] = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
}


_ACCENTS = dict(
    zip(
        "\u0300\u0301\u0302\u0303\u0308\u0304\u0306\u0307\u030a\u030b\u030c\u0327",
        "`'^~\"=u.rHvc",
        strict=True,
    )
)
_LETTERS = dict(
    zip("ßæÆœŒøØłŁıđĐðÐþÞ", r"\ss \ae \AE \oe \OE \o \O \l \L \i d D d D th Th".split(), strict=True)
)


def _tex(said: str) -> str:
    return "".join(
        _TEX.get(c) or (c if " " <= c <= "~" else _letter(c)) for c in re.sub(r"\s+", " ", said).strip()
    )


def _letter(c: str) -> str:
    if c in _LETTERS:
        return _LETTERS[c] + "{}" if _LETTERS[c].startswith("\\") else _LETTERS[c]
    base, *accents = unicodedata.normalize("NFD", c)
    if not (base.isascii() and base.isalpha()):
        return "?"
    accent = _ACCENTS.get(accents[0]) if len(accents) == 1 else None
    return f"\\{accent}{{{base}}}" if accent else base
