"""The table of choices on the page of notation: what the paper calls each, and where it speaks of it."""

from qlib import QuantConfig
from qlib.choices import Choice, choices

MARK = "<!-- choices -->"
NOT_STATED = "not stated"


def as_markdown() -> str:
    """One line for all choices that the paper has one word for; of those that it does not state, what they
    are.
    """
    lines: dict[tuple[str, str], list[str]] = {}
    for name, known in choices(QuantConfig).items():
        lines.setdefault(_said(known), []).append(f"`{name}`")
    return "\n".join(
        [
            "| field | the paper's word for it | paper |",
            "| --- | --- | --- |",
            *(f"| {', '.join(names)} | {word} | {section} |" for (word, section), names in lines.items()),
        ]
    )


def _said(known: Choice) -> tuple[str, str]:
    word, section = known.paper
    help = known.help[:1].lower() + known.help[1:].removesuffix(".")
    return (f"{word}: {help}" if word == NOT_STATED else word, section)
