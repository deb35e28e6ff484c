"""The front matter of a checkpoint's README: what somebody wrote about it, taken as text and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ...strict_yaml import read_yaml
from .found import Found, listed, words

MOST = 100_000  # characters of front matter
ABOUT = "README.md"


def of_readme(text: str) -> Found:
    """What a README says at its head; one that cannot be read is left out, and that is said."""
    found = Found(ABOUT)
    head = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*$", text[:MOST], re.DOTALL | re.MULTILINE)
    if head is None:
        return found
    try:
        data = read_yaml(head[1])
    except ValueError as error:
        found.remark(f"The head of README.md is left out: {words(str(error))}.")
        return found
    if isinstance(data, dict):
        _of_data(data, found)
    return found


def _texts(value: Any) -> list[str]:
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]


def _of_data(data: dict[str, Any], found: Found) -> None:
    base = _texts(data.get("base_model"))
    found.say("base_model", network=words(base[0]) if len(base) == 1 else None)
    found.say("quantized_by", authors=words(data.get("quantized_by")))
    for key, title in (
        ("base_model_relation", "Relation to its base model"),
        ("datasets", "Data sets that README.md names, to whatever end"),
        ("metrics", "Metrics that README.md names"),
    ):
        said = listed(_texts(data.get(key)))
        if said:
            found.remark(f"{title}: {said}.")
    results = list(_results(data.get("model-index")))
    if results:
        found.remark(f"Results in README.md, not said whether quantized: {listed(results)}.")


def _results(index: Any) -> Iterator[str]:
    """Each result of a model-index in a few words."""
    for model in index if isinstance(index, list) else ():
        for result in _list(model, "results"):
            data = result.get("dataset") if isinstance(result, dict) else None
            where = words(data.get("name"), 60) if isinstance(data, dict) else None
            for metric in _list(result, "metrics"):
                value = metric.get("value") if isinstance(metric, dict) else None
                kind = words(metric.get("type"), 40) if isinstance(metric, dict) else None
                if kind and isinstance(value, (int, float, str)):
                    yield f"{kind} {str(value)[:40]}" + (f" on {where}" if where else "")


def _list(part: Any, name: str) -> list[Any]:
    found = part.get(name) if isinstance(part, dict) else None
    return found if isinstance(found, list) else []
