"""Names of layers and tensors, and shell patterns of such: which entry of a table speaks about which name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any


def suggestion(name: object, known: Iterable[str]) -> str:
    """The end of an error message: the closest known name, or all of them, up to thirty."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(known) - 30} more" if len(known) > 30 else ""
    return f"; known names: {', '.join(known[:30])}{more}"


def is_pattern(name: str) -> bool:
    """Whether a name is a shell pattern: whether it holds a wildcard."""
    return any(wildcard in name for wildcard in "*?[")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether the module ``name``, or one around it, has one of these names or fits one of these patterns."""
    parts = name.split(".")
    around = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(module == pattern or fnmatchcase(module, pattern) for pattern in patterns for module in around)


def entry(field: str, table: Mapping[str, Any], name: str) -> Any:
    """What a table says of ``name``: under the name itself, else under the most specific pattern that it
    fits, else ``None``; ``"default"`` is left to the caller.

    Raises ``ValueError`` naming ``field`` where two equally specific patterns fit.
    """
    if name in table and name != "default":
        return table[name]
    fitting = sorted((key for key in table if is_pattern(key) and fnmatchcase(name, key)), key=_specificity)
    if len(fitting) > 1 and _specificity(fitting[-2]) == _specificity(fitting[-1]):
        both = " and ".join(map(repr, fitting[-2:]))
        raise ValueError(
            f"{field}: the patterns {both} are equally specific and both fit {name!r}; "
            f"give {name!r} an entry of its own, or make one pattern longer"
        )
    return table[fitting[-1]] if fitting else None


def _specificity(pattern: str) -> int:
    """How many characters of a shell pattern are no wildcards."""
    return len(re.sub(r"\*|\?|\[!?\]?[^\]]*\]", "", pattern))
