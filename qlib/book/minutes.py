"""How long a lesson takes to read: its words on the page by 200 a minute, and half a minute for every figure.

python -m qlib.book.minutes
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from qlib.book import ROOT

WORDS_A_MINUTE = 200
MINUTES_A_FIGURE = 0.5
MOST = 15  # that a lesson may take
FOLDED = re.compile(r"^(`{3,}|:{3,})\{dropdown\}.*?^\1\s*$", re.M | re.S)
HIDDEN = ("remove-cell", "remove-output")
STATED = re.compile(r"about \w+ minutes")


def words(markdown: str) -> int:
    """The words that a reader sees of some Markdown: what is folded away, and addresses of links, not."""
    text = FOLDED.sub("", markdown)
    text = re.sub(r"\]\([^)]*\)|\{\w+\}|<[^>]+>|[`*_#|$\\]|-{3,}", " ", text)
    return len(re.findall(r"[\w’'.,%+-]*\w[\w’'.,%+-]*", text))


def minutes(notebook: NotebookNode) -> int:
    """Of an executed lesson, as its page shows it, rounded."""
    seen = figures = 0
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "remove-cell" in tags:
            continue
        if cell.cell_type == "markdown":
            seen += words(cell.source)
            continue
        if not {"remove-input", "hide-input"} & set(tags):
            seen += words(cell.source)
        for output in cell.get("outputs", []) if "remove-output" not in tags else []:
            data = output.get("data", {})
            if any(kind.startswith("image/") for kind in data) or "qlib-figure" in data.get("text/html", ""):
                figures += 1
            elif "text/html" in data and "<details" in data["text/html"]:
                continue
            else:
                seen += words(data.get("text/markdown") or data.get("text/plain") or output.get("text", ""))
    return round(seen / WORDS_A_MINUTE + MINUTES_A_FIGURE * figures)


def main(paths: list[str]) -> None:
    for path in map(Path, paths) if paths else sorted((ROOT / "_build" / "executed").glob("*.ipynb")):
        print(f"{path.stem}: {minutes(nbformat.read(path, 4))} minutes")


if __name__ == "__main__":
    main(sys.argv[1:])
