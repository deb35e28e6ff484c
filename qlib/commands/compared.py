"""`qlib results --compare`: one value of a choice against another, all else alike, paired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import results
from ..choices import same
from ..comparison import compare
from ..names import suggestion
from ..tables import cell
from . import laid_out
from .measured import groups, settings_of

if TYPE_CHECKING:
    import pandas as pd


def compared_table(rows: pd.DataFrame, field: str, first: str, second: str) -> str:
    """Lines of text, one for every configuration and network of which there are rows of both values: where
    they differ from one another, and the first value minus the second, over the seeds that both have.

    Parameters
    ----------
    rows : DataFrame
        As `results.load_table` gives them.
    field, first, second : str
        A choice, and two of its values as in YAML.

    Raises
    ------
    ValueError
        There is no such choice, no row of a value, or no two rows that differ in it alone.
    """
    rows = results.with_allocation(rows)
    fields = settings_of(rows)
    if field not in fields:
        raise ValueError(f"rows have no choice {field!r}{suggestion(field, fields)}")
    sides = [results.select(rows, [f"{field}={text}"]) for text in (first, second)]
    alike = [name for name in fields if name != field]
    of_first, of_second = ({key: group for key, group in groups(side, alike)} for side in sides)
    both = [(group, of_second[key]) for key, group in of_first.items() if key in of_second]
    pairs = [results.of_common_seeds(*map(_rows, pair)) for pair in both]
    pairs = [pair for pair in pairs if all(pair)]
    if not pairs:
        raise ValueError(f"no two rows of one seed differ in {field} alone: something else differs, too")
    settings = [a[0] for a, _ in pairs]
    varied = [name for name in alike if not all(same(s[name], settings[0][name]) for s in settings)]
    lines = [
        [*(cell(s[name]) for name in varied), str(compare(*map(results.measurements_of, pair)))]
        for s, pair in zip(settings, pairs, strict=True)
    ]
    return "\n".join(laid_out([[*varied, f"{first} minus {second}"], *lines]))


def _rows(side: pd.DataFrame) -> list[dict[str, Any]]:
    results.refuse_twice(side)
    return side.to_dict("records")
