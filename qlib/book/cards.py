"""What the book's pages about cards show, as Markdown and HTML: the catalogue, the schema field by field, and
a form.
"""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from qlib import headline
from qlib.cards import CATEGORIES, FIELDS, NOT_REPORTED, SCHEMA, catalogue
from qlib.cards.render import shown

COLUMNS = (
    "weight_bits",
    "activation_bits",
    "weight_symmetric",
    "activation_symmetric",
    "weight_granularity",
    "quantize_skip",
    "quantize_residual",
    "first_last_bits",
    "images",
    "data",
    "labels",
    "network",
    "float_accuracy",
    "accuracy",
)
FIRST = (1, 2, 3, 4, 7, 8)  # columns that are shown at first, beside the names


def catalogue_table() -> str:
    """One row a method; the script beside the page sorts and filters it, and without the script it is a plain
    table.
    """
    head = "".join(f'<th scope="col">{escape(FIELDS[name]["title"])}</th>' for name in COLUMNS)
    rows = []
    for card in catalogue().values():
        missing = sum(card[name] == NOT_REPORTED for name in FIELDS if card.acts(name))
        cells = "".join(f"<td>{escape(shown(name, card[name]))}</td>" for name in COLUMNS)
        link = f'<a href="{escape(card.data["link"])}">{escape(card.name)}</a>'
        rows.append(f'<tr><th scope="row">{link}</th><td>{missing}</td>{cells}</tr>')
    head = f'<th scope="col">Method</th><th scope="col">Not reported</th>{head}'
    return (
        f'<div class="catalogue" data-columns="{" ".join(map(str, FIRST))}" role="region" '
        'aria-label="Published methods, a wide table" tabindex="0">'
        "<table><caption>Published methods and their choices</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def catalogue_cards() -> str:
    """Every card of the catalogue, folded; of methods that were crossed with choices here, with the way to
    our rows.
    """
    ours = {entry.get("card") for entry in headline.plan()["methods"]}
    link = '<p><a href="headline.html">Our rows</a>: this method and others, under every choice alike.</p>'
    return "\n".join(
        f"<details><summary>{escape(card.name)}, "
        f"{escape(card.data['authors'])}</summary>{card.to_html()}{link if short in ours else ''}</details>"
        for short, card in catalogue().items()
    )


def fields_table() -> str:
    """The schema, field by field, as Markdown."""
    lines = []
    for category, fields in CATEGORIES.items():
        lines += [
            f"### {SCHEMA['properties'][category]['title']}",
            "",
            f"In the file: `{category}`.",
            "",
            "| field | what it says | for example | observation |",
            "| --- | --- | --- | --- |",
        ]
        for name, field in fields.items():
            examples = ", ".join(f"`{json.dumps(example)}`" for example in field["examples"])
            said = field["description"] + _asked(field)
            lines.append(f"| `{name}` | {said} | {examples} | {field.get('observation', '')} |")
        lines.append("")
    return "\n".join(lines)


def _asked(field: Mapping[str, Any]) -> str:
    """Of which cards a field is asked, if not of all."""
    needs = field.get("needs")
    if needs is None:
        return ""
    where = " or ".join(f"`{other}` is {' or '.join(values)}" for other, values in needs.items())
    return f" Asked where {where}." if where else " Shown where it is filled in."


def form() -> str:
    """The schema for the page's script, which makes a form of it."""
    schema = json.dumps(SCHEMA).replace("<", "\\u003c")
    return (
        f'<script type="application/json" id="card-schema">{schema}</script>\n'
        '<div id="card-form"><noscript>The form needs '
        "JavaScript. <code>qlib card new mine.yaml</code> writes the same file to fill in.</noscript></div>"
    )


MARKS = {
    "<!-- catalogue table -->": catalogue_table,
    "<!-- catalogue cards -->": catalogue_cards,
    "<!-- fields of a card -->": fields_table,
    "<!-- form for a card -->": form,
}
