"""`qlib results --compare`: one value of a choice against another, all else alike, paired."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import results
from ..choices import same
from ..comparison import compare
from ..metrics import Measurement
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
    pairs = [_same_seeds(group, of_second[key]) for key, group in of_first.items() if key in of_second]
    pairs = [pair for pair in pairs if len(pair[0])]
    if not pairs:
        raise ValueError(f"no two rows of one seed differ in {field} alone: something else differs, too")
    settings = [a.to_dict("records")[0] for a, _ in pairs]
    varied = [name for name in alike if not all(same(s[name], settings[0][name]) for s in settings)]
    lines = [
        [*(cell(s[name]) for name in varied), str(compare(*map(_measurements, pair)))]
        for s, pair in zip(settings, pairs, strict=True)
    ]
    return "\n".join(laid_out([[*varied, f"{first} minus {second}"], *lines]))


def _same_seeds(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of either side whose seed the other has, too."""
    seeds = [[results.seed_of(row) for row in side.to_dict("records")] for side in (a, b)]
    return tuple(
        side[[seed in others for seed in own]]
        for side, own, others in zip((a, b), seeds, seeds[::-1], strict=True)
    )


def _measurements(rows: pd.DataFrame) -> list[Measurement]:
    results.refuse_twice(rows)
    return results.measurements_of(rows.to_dict("records"))
