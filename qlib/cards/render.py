"""A card as Markdown, HTML and plain text; as LaTeX: `qlib.cards.latex`. Cards come from strangers: whatever
they say is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from .fields import NOT_REPORTED, PLAIN, Card, Fields

PERCENT = ("accuracy", "float_accuracy")

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


def shown(field: str, value: Any, fields: Fields = PLAIN) -> str:
    """A value in words.

    Parameters
    ----------
    field : str
        The name of a field.
    value
        Of that field, or a part of such a value.
    fields : Fields
        Among which the field is.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping) and "top1" in value:
        return f"{value['top1']:g} % ({value['low']:g} to {value['high']:g}, n = {value['n']:,})"
    if isinstance(value, Mapping) and "metric" in value:
        unit = f" {value['unit']}" if value.get("unit") else ""
        ends = f"{value['low']:g} to {value['high']:g}, " if {"low", "high"} <= set(value) else ""
        about = ends + (f"n = {value['n']:,}" if "n" in value else "")
        return f"{value['metric']} {value['value']:g}{unit}" + (
            f" ({about.removesuffix(', ')})" if about else ""
        )
    if isinstance(value, Mapping):
        if len(value) <= 4:
            return ", ".join(f"{name}: {shown(field, part, fields)}" for name, part in value.items())
        every = [b for part in value.values() for b in (part if isinstance(part, list) else [part])]
        return f"by layer, {_span(every)} ({len(value)} entries)"
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        more = f" and {len(value) - 16} more" if len(value) > 16 else ""
        return ", ".join(value[:16]) + more or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) if len(value) <= 16 else f"by channel, {_span(value)}"
    if isinstance(value, str) and any(value in kind.get("enum", ()) for kind in fields[field]["anyOf"]):
        return value.replace("_", " ")
    if isinstance(value, (int, float)):
        number = f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
        return f"{number} %" if field in PERCENT else f"{number} s" if field == "time" else number
    return str(value)


def _span(values: list[Any]) -> str:
    numbers = [value for value in values if isinstance(value, (int, float))]
    if not numbers:
        return "in words"
    return f"{min(numbers)} to {max(numbers)}" + (" and float" if "float" in values else "")


def faults(card: Card, field: str | None = None) -> list[str]:
    """What is wrong with the files that a card was read from, or with what they say in a field: in a line
    each, with each value where it stands.
    """
    return [
        f"{fault['kind']}: "
        + (f"{card.fields[fault['field']]['title']}: " if "field" in fault else "")
        + " against ".join(f"{_plain(said['value'])} ({said['source']})" for said in fault["said"])
        for fault in card.data["faults"]
        if field is None or fault.get("field") == field
    ]


def _plain(value: Any) -> str:
    """A value as a file of settings has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(card: Card) -> Iterator[tuple[str, list[tuple[str, str, bool]]]]:
    """Category by category: its title, and of each field the label, the value in words, and whether it is
    reported. What is not reported and does not act is left out.
    """
    faulty = {
        fault["field"]: f"{NOT_REPORTED} ({fault['kind']})"
        for fault in card.data["faults"]
        if "field" in fault
    }
    for category, known in card.fields.categories.items():
        yield (
            card.fields.heading(category),
            [
                (titled(card, name), shown(name, card[name], card.fields), True)
                if card[name] != NOT_REPORTED
                else (titled(card, name), faulty.get(name, NOT_REPORTED), False)
                for name in known
                if name in faulty or card.acts(name) or card.fields.said(name, card)
            ],
        )


def titled(card: Card, name: str) -> str:
    """A field's title; where a card tells the head apart, first and last are layers of the blocks."""
    blocks = name == "first_last_bits" and card["head_bits"] != NOT_REPORTED
    return f"{card.fields[name]['title']} of the blocks" if blocks else card.fields[name]["title"]


def facts(card: Card) -> list[tuple[str, str]]:
    """What stands outside the categories, where there is something to say."""
    fields = card.fields
    found = [(fields.heading(key), card.data[key]) for key in ("authors", "link", "remarks")]
    found = [(title, text) for title, text in found if text != NOT_REPORTED]
    other = [
        f"{fields[name]['title']}: {', '.join(shown(name, value, fields) for value in values)}"
        for name, values in card.data["deviations"].items()
    ]
    sources = [f"{fields[name]['title']}: {where}" for name, where in card.data["sources"].items()]
    return found + [
        (title, "; ".join(lines))
        for title, lines in (("Other runs used", other), ("Sources", sources))
        if lines
    ]


def markdown(card: Card) -> str:
    """For a model's README: a heading and one table."""
    wrong = [f"- {_md(said)}" for said in faults(card)]
    lines = [f"### {_md(card.name)}", "", *([*wrong, ""] if wrong else []), "| | |", "| --- | --- |"]
    for title, rows in table(card):
        lines.append(f"| **{_md(title)}** | |")
        lines += [
            f"| {_md(label)} | {_md(value) if known else f'*{_md(value)}*'} |" for label, value, known in rows
        ]
    lines += ["", *(f"{_md(title)}: {_md(text)}  " for title, text in facts(card))]
    return "\n".join(lines).rstrip() + "\n"


def html(card: Card) -> str:
    """Self-contained, light and dark, readable on a phone; also what a notebook shows."""
    rows = []
    for title, fields in table(card):
        rows.append(f'<thead><tr><th colspan="2" scope="colgroup">{escape(title)}</th></tr></thead><tbody>')
        for label, value, known in fields:
            kind = "" if known else ' class="unknown"'
            rows.append(f'<tr><th scope="row">{escape(label)}</th><td{kind}>{escape(value)}</td></tr>')
        rows.append("</tbody>")
    wrong = "".join(f"<li>{escape(said)}</li>" for said in faults(card))
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
        f"{f'<ul>{wrong}</ul>' if wrong else ''}<table><caption>{escape(card.name)}</caption>"
        f"{''.join(rows)}</table>{''.join(notes)}</section>"
    )


def text(card: Card) -> str:
    """For a terminal."""
    lines = [card.name, *faults(card)]
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
