"""A table of `qlib.diagnose` as HTML: the noisiest quantizers, and what is plain about them."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

LINES = 8


def diagnosed(table: pd.DataFrame) -> str:
    """The first rows, with their advice.

    Parameters
    ----------
    table : DataFrame
        Of `qlib.diagnose`.
    """
    heads = ("layer or tensor", "of", "bits", "own dB", "arriving dB", "clipped %", "peak", "spread")
    rows = [
        (
            html.escape(row["name"]),
            row["side"],
            f"{row['bits']:g}",
            *(f"{row[name]:.1f}" for name in ("sqnr", "arriving", "clipped", "peak", "spread")),
        )
        for row in table.head(LINES).to_dict("records")
    ]
    head = "".join(f"<th>{title}</th>" for title in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    said = "".join(f"<li>{html.escape(line)}</li>" for line in table.attrs["advice"])
    return f'<div class="qpanel"><table><tr>{head}</tr>{body}</table><ul>{said}</ul></div>'
