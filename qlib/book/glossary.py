"""The words of ``book/glossary.md``, and where a text uses one."""

import re
from collections.abc import Iterator
from functools import cache

from qlib.book import ROOT

PATH = ROOT / "book" / "glossary.md"
AS_WRITTEN = {"code": "codes"}  # in the singular it is mostly a program; no program has codes


@cache
def terms() -> dict[str, str]:
    """The first spelling of each entry, by every spelling of it."""
    return {spelling: spellings[0] for spellings, _ in _entries() for spelling in spellings}


@cache
def meanings() -> dict[str, str]:
    """What each entry means, in plain words, by every spelling of it."""
    return {spelling: _plain(text) for spellings, text in _entries() for spelling in spellings}


def _entries() -> list[tuple[list[str], str]]:
    block = re.search(r"```\{glossary\}\n(.*?)\n```", PATH.read_text("utf8"), re.S).group(1)
    parts = [part.split("\n  ") for part in re.split(r"\n\n+", block) if not part.startswith(":")]
    return [(head.splitlines(), " ".join(line.strip() for line in lines)) for head, *lines in parts]


def _plain(markdown: str) -> str:
    text = re.sub(
        r"\{\w+\}`([^`<]+?)(?:\s*<[^>]*>)?`|\[([^\]]*)\]\([^)]*\)", lambda m: m[1] or m[2] or "", markdown
    )
    return re.sub(r"[`*]|\s+(?=[.,;:])", "", text)


def uses(text: str) -> Iterator[tuple[re.Match, str]]:
    """Every use of a term in ``text``, singular or plural, upper or lower case, the longest spelling first:
    its match and the spelling in the glossary.
    """
    for match in _pattern().finditer(text):
        yield match, next(term for group, term in zip(match.groups(), _spellings(), strict=True) if group)


def _spellings() -> list[str]:
    return sorted(terms(), key=len, reverse=True)


@cache
def _pattern() -> re.Pattern:
    words = [
        re.escape(AS_WRITTEN.get(term, f"{term}@"))
        .replace(r"\ ", r"\s+")
        .replace("'", "['’]")
        .replace("@", "s?")
        for term in _spellings()
    ]
    return re.compile(r"(?<![\w-])(?:" + "|".join(f"({word})" for word in words) + r")(?![\w-])", re.I)
