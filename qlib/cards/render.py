"""A card as Markdown, HTML, LaTeX and plain text. Cards come from strangers: whatever they say is escaped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from .card import CATEGORIES, FIELDS, NOT_REPORTED, SCHEMA, QuantizationCard

PERCENT = ("accuracy", "float_accuracy")
ENUMERATED = {word for field in FIELDS.values() for kind in field["anyOf"] for word in kind.get("enum", ())}

STYLE = """
.qcard { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --line: #b0b0b0; --head: #f0f0f0;
  --link: #0b5cad; max-width: 46rem; font: 0.95rem/1.45 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); padding: 0.75rem; }
.qcard table { border-collapse: collapse; width: 100%; margin: 0; }
.qcard caption { text-align: left; font-weight: 600; font-size: 1.1rem; padding: 0.25rem 0;
  color: var(--ink); }
.qcard th, .qcard td { text-align: left; vertical-align: top; padding: 0.2rem 0.5rem;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; color: var(--ink);
  background: var(--paper); font-weight: 400; }
.qcard thead th { position: static; font-weight: 600; background: var(--head); }
.qcard tbody th { width: 45%; }
.qcard .unknown { font-style: italic; }
.qcard a { color: var(--link); }
"""
DARK = ".qcard { --ink: #ececec; --paper: #16181b; --line: #555a60; --head: #24282d; --link: #8ab8ff; }"


def shown(field: str, value: Any) -> str:
    """A field's value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping) and "top1" in value:
        return f"{value['top1']:g} % ({value['low']:g} to {value['high']:g}, n = {value['n']:,})"
    if isinstance(value, Mapping):
        if len(value) <= 4:
            return ", ".join(f"{name}: {shown(field, bits)}" for name, bits in value.items())
        every = [b for bits in value.values() for b in (bits if isinstance(bits, list) else [bits])]
        return f"by layer, {min(every)} to {max(every)} ({len(value)} entries)"
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        more = f" and {len(value) - 16} more" if len(value) > 16 else ""
        return ", ".join(value[:16]) + more or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) if len(value) <= 16 else f"by channel, {min(value)} to {max(value)}"
    if value in ENUMERATED:
        return value.replace("_", " ")
    if isinstance(value, (int, float)):
        number = f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
        return f"{number} %" if field in PERCENT else f"{number} s" if field == "time" else number
    return str(value)


def table(card: QuantizationCard) -> Iterator[tuple[str, list[tuple[str, str, bool]]]]:
    """Category by category: its title, and of each field the label, the value in words, and whether it is
    reported.
    """
    for category, fields in CATEGORIES.items():
        yield (
            SCHEMA["properties"][category]["title"],
            [
                (field["title"], shown(name, card[name]), card[name] != NOT_REPORTED)
                for name, field in fields.items()
            ],
        )


def facts(card: QuantizationCard) -> list[tuple[str, str]]:
    """What stands outside the categories, where there is something to say."""
    found = [(SCHEMA["properties"][key]["title"], card.data[key]) for key in ("authors", "link", "remarks")]
    found = [(title, text) for title, text in found if text != NOT_REPORTED]
    other = [
        f"{FIELDS[name]['title']}: {', '.join(shown(name, v) for v in values)}"
        for name, values in card.data["deviations"].items()
    ]
    sources = [f"{FIELDS[name]['title']}: {where}" for name, where in card.data["sources"].items()]
    return found + [
        (title, "; ".join(lines))
        for title, lines in (("Other runs used", other), ("Sources", sources))
        if lines
    ]


def markdown(card: QuantizationCard) -> str:
    """For a model's README: a heading and one table."""
    lines = [f"### {_md(card.name)}", "", "| | |", "| --- | --- |"]
    for title, rows in table(card):
        lines.append(f"| **{_md(title)}** | |")
        lines += [
            f"| {_md(label)} | {_md(value) if known else f'*{_md(value)}*'} |" for label, value, known in rows
        ]
    lines += ["", *(f"{_md(title)}: {_md(text)}  " for title, text in facts(card))]
    return "\n".join(lines).rstrip() + "\n"


def html(card: QuantizationCard) -> str:
    """Self-contained, light and dark, readable on a phone; also what a notebook shows."""
    rows = []
    for title, fields in table(card):
        rows.append(f'<thead><tr><th colspan="2" scope="colgroup">{escape(title)}</th></tr></thead><tbody>')
        for label, value, known in fields:
            kind = "" if known else ' class="unknown"'
            rows.append(f'<tr><th scope="row">{escape(label)}</th><td{kind}>{escape(value)}</td></tr>')
        rows.append("</tbody>")
    notes = []
    for title, text in facts(card):
        said = (
            f'<a href="{escape(text)}" rel="nofollow">{escape(text)}</a>' if title == "Link" else escape(text)
        )
        notes.append(f"<p>{escape(title)}: {said}</p>")
    asked = f"@media (prefers-color-scheme: dark) {{ html:not([data-theme=light]) {DARK} }}"
    dark = f"{asked} html[data-theme=dark] {DARK}"
    return (
        f'<section class="qcard" lang="en"><style>{STYLE}{dark}</style>'
        f"<table><caption>{escape(card.name)}</caption>"
        f"{''.join(rows)}</table>{''.join(notes)}</section>"
    )


def latex(card: QuantizationCard) -> str:
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
    for category, fields in CATEGORIES.items():
        said = [_tex(phrase) for phrase in phrases(card, category)]
        missing = sum(card[name] == NOT_REPORTED and card.acts(name) for name in fields)
        said += [rf"\textit{{{missing} not reported}}"] if missing else []
        lines.append(rf"{_tex(SCHEMA['properties'][category]['title'])} & {' $|$ '.join(said)} \\")
    lines += [
        rf"{_tex(title)} & {_tex(said)} \\"
        for title, said in facts(card)
        if title in ("Remarks", "Other runs used")
    ]
    lines += [r"\hline", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def phrases(card: QuantizationCard, category: str) -> list[str]:
    """A category's choices in the words of the paper's tables 3 and 4; after them, what these tables have no
    words for.
    """

    def both(weights: str, activations: str, words: Mapping[Any, str], alike: str = "{}") -> str | None:
        values = {"weights": card[weights], "activations": card[activations]}
        known = {side: words[value] for side, value in values.items() if value in words}
        done.update(
            field
            for field, value in zip((weights, activations), values.values(), strict=True)
            if value in words
        )
        if len(known) == 2 and len(set(known.values())) == 1 and alike:
            return alike.format(known["weights"])
        return ", ".join(f"{word} {side}" for side, word in known.items()) or None

    def one(field: str, words: Mapping[Any, str]) -> str | None:
        value = card[field]
        key = type(value) if isinstance(value, (list, dict)) or value not in words else value
        if value == NOT_REPORTED or key not in words:
            return None
        done.add(field)
        return words[key].replace("{}", shown(field, value))

    done: set[str] = set()
    percentile = shown("percentile", card["percentile"])
    found: list[str | None]
    if category == "method":
        found = [
            one("quantizer", {str: "{}"}),
            both("weight_symmetric", "activation_symmetric", {True: "Symmetric", False: "Asymmetric"}),
            both(
                "weight_granularity",
                "activation_granularity",
                {
                    name: name.capitalize().replace("_", "-")
                    for name in ("per_channel", "per_tensor", "per_group", "per_token")
                },
                alike="",
            ),
            one(
                "activation_dynamic",
                {True: "Dynamic quantizer parameters", False: "Static quantizer parameters"},
            ),
            *(
                one(
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
        done |= {name for name in ("percentile", "symmetric_grid") if not card.acts(name)}
        done |= {"percentile"} if "percentile" in (card["weight_range"], card["activation_range"]) else set()
    elif category == "operations":
        found = [
            *(
                one(
                    f"quantize_{side}",
                    {True: f"Quantized {side} connection", False: f"Full precision {side} connection"},
                )
                for side in ("skip", "residual")
            ),
            one(
                "pooling",
                {
                    "high_precision": "Average pooling computed at high precision and requantized",
                    "float": "Average pooling left in float",
                    "low_precision": "Average pooling computed at low precision",
                },
            ),
        ]
        done |= {"float_layers"} if not card.acts("float_layers") else set()
    elif category == "mixed_precision":
        found = [
            one(
                "weight_bits",
                {
                    int: "{} bit weights",
                    "float": "Full precision weights",
                    "mixed": "Mixed precision weights",
                },
            ),
            one(
                "activation_bits",
                {
                    int: "{} bit activations",
                    "float": "Full precision activations",
                    "mixed": "Mixed precision activations",
                    list: "Fixed activation bitwidth ({})",
                },
            ),
            one(
                "first_last_bits",
                {
                    int: "First and last layer weights at {} bits, output activations of first and last "
                    "layer "
                    "at {} bits",
                    "float": "First and last layer in full precision",
                    "like the rest": "All layers quantized",
                },
            ),
            one("bit_choices", {"any integer": "Any integer bitwidth", list: "Allowed bitwidths: {}"})
            if card.acts("bit_choices")
            else done.add("bit_choices"),
        ]
        done |= {"allocation"} if not card.acts("allocation") or card["allocation"] == "uniform" else set()
    elif category == "resources":
        kind = (
            {"none": "Unlabeled {}", "true": "Labeled {}"}.get(card["labels"])
            if card["data"] != NOT_REPORTED
            else None
        )
        done |= {"data", "labels"} if kind else set()
        found = [
            one("images", {int: "{} examples"}),
            kind and kind.replace("{}", card["data"]),
            one("time", dict.fromkeys((str, int, float), "{}")),
        ]
    else:
        found = [
            one(field, dict.fromkeys((dict, int, float, str), f"{title}: {{}}"))
            for field, title in (("float_accuracy", "Baseline accuracy"), ("accuracy", "Quantized accuracy"))
        ]
    other = [
        f"{field['title']}: {shown(name, card[name])}"
        for name, field in CATEGORIES[category].items()
        if name not in done and card[name] != NOT_REPORTED
    ]
    return [phrase[:1].upper() + phrase[1:] for phrase in found if phrase] + other


def text(card: QuantizationCard) -> str:
    """For a terminal."""
    lines = [card.name]
    for title, rows in table(card):
        lines += ["", title, *(f"  {label:32} {value}" for label, value, _ in rows)]
    lines += ["", *(f"{title}: {said}" for title, said in facts(card))]
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines).rstrip()


def _md(said: str) -> str:
    plain = re.sub(r"\s+", " ", said).strip()
    return (
        re.sub(r"([\\`*_{}\[\]()#+!|~$@:])", r"\\\1", plain)
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )


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
