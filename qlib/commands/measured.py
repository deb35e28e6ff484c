"""What is printed of measured rows: a table of a grid, and what failed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .. import results
from ..metrics import TOP1
from ..tables import cell
from . import laid_out

if TYPE_CHECKING:
    import pandas as pd

MOST = 40  # lines of a table


def measured_table(rows: pd.DataFrame) -> str:
    """Lines of text, one for every configuration and network: where they differ, and what was measured, over
    the seeds that there are.
    """
    if rows.empty:
        return ""
    rows = results.with_allocation(rows)
    fields = settings_of(rows)
    kinds = results.in_float(rows).index
    varied = results.differing(rows[~rows.index.isin(kinds)], fields)
    named = ["network"] if rows.network.nunique() > 1 and "network" not in varied else []
    only = not varied and len(kinds) < len(rows)  # one configuration, which has no field of its own to show
    lines = []
    for _, group in groups(rows, fields):
        settings = group.to_dict("records")[0]  # with numbers of Python, which JSON knows
        metric, value = _over_seeds(group)
        quantized = not set(group.index) & set(kinds)
        said = [cell(settings[f]) if quantized or f == "network" else "float" for f in [*named, *varied]]
        lines.append([*said, *(["quantized" if quantized else "float"] if only else []), value, metric])
    several = len({metric for *_, metric in lines}) > 1
    head = [*named, *varied, *([""] if only else []), lines[0][-1] if not several else "measured"]
    body = [[*said, f"{metric} {value}" if several else value] for *said, value, metric in lines]
    shown = laid_out([head, *body[:MOST]])
    more = [f"and {len(body) - MOST} more: qlib results TABLE"] if len(body) > MOST else []
    return "\n".join([*shown, *more])


def settings_of(rows: pd.DataFrame) -> list[str]:
    """The columns that say how a network was quantized and measured, those of an allocation one by one."""
    fields = [*results.SETTING, *rows.attrs.get("choices", ()), *results.ALLOCATION_FIELDS]
    return [name for name in fields if name != "allocation"]


def groups(rows: pd.DataFrame, fields: list[str]) -> Iterable[tuple[str, pd.DataFrame]]:
    """Rows that differ in nothing but their seed, by what they have in common."""
    keys = rows[fields].map(cell).agg("\n".join, axis=1)
    return rows.groupby(keys, sort=False)


def _over_seeds(rows: pd.DataFrame) -> tuple[str, str]:
    """The name of what rows of one configuration measured, and its value with interval."""
    found = results.measurements_of(rows.to_dict("records"))
    metric = found[0].metric
    mean = results.mean_of(found) if len(found) > 1 else found[0]
    return "top-1" if metric is TOP1 else metric.title or metric.name, str(mean)


def say_missed(rows: pd.DataFrame) -> int:
    """Say how many runs missed their limit, and what to do; the status."""
    missed = rows[~rows.feasible.astype(bool)]
    if len(missed):
        print(
            f"qlib: {len(missed)} of {len(rows)} rows missed their limit on learned bits (feasible=false): "
            "allow more steps, a larger learning_rate or penalty",
            file=sys.stderr,
        )
    return int(bool(len(missed)))


def say_failures(errors: Iterable[str]) -> int:
    """Say why rows are missing, each reason once, with how many rows it costs; the status."""
    reasons = Counter(errors)
    for reason, count in reasons.items():
        rows = f"{count} rows" if count > 1 else "a row"
        print(f"qlib: {rows} failed: {reason}", file=sys.stderr)
    return int(bool(reasons))
