"""`qlib results --compare`: one value of a choice against another, all else alike, paired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import results
from ..choices import same
from ..comparison import compare
from ..metrics import Measurement
from ..names import suggestion
from ..strict_yaml import read_value
from ..tables import cell
from . import laid_out
from .measured import groups, settings_of

if TYPE_CHECKING:
    import pandas as pd


def compared_table(rows: pd.DataFrame, field: str, first: str, second: str) -> str:
    """Lines of text, one for every configuration and network of which there are rows of both values: where
    they differ from one another, and the first value minus the second.

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
    values = [read_value(field, text) for text in (first, second)]
    sides = [_with(rows, field, value) for value in values]
    alike = [name for name in fields if name != field]
    of_first, of_second = ({key: group for key, group in groups(side, alike)} for side in sides)
    pairs = [(group, of_second[key]) for key, group in of_first.items() if key in of_second]
    if not pairs:
        raise ValueError(f"no two rows differ in {field} alone: something else differs wherever it does")
    settings = [a.to_dict("records")[0] for a, _ in pairs]
    varied = [name for name in alike if not all(same(s[name], settings[0][name]) for s in settings)]
    lines = [
        [*(cell(s[name]) for name in varied), str(compare(*map(_measurements, pair)))]
        for s, pair in zip(settings, pairs, strict=True)
    ]
    return "\n".join(laid_out([[*varied, f"{cell(values[0])} minus {cell(values[1])}"], *lines]))


def _with(rows: pd.DataFrame, field: str, value: Any) -> pd.DataFrame:
    found = rows[[same(other, value) for other in rows[field]]]
    if found.empty:
        known = ", ".join(sorted({cell(other) for other in rows[field]}))
        raise ValueError(f"no recorded row has {field}={cell(value)}; {field} is {known[:200]}")
    return found


def _measurements(rows: pd.DataFrame) -> list[Measurement]:
    results.refuse_twice(rows)
    return results.measurements_of(rows.to_dict("records"))
