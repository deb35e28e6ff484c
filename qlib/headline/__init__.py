"""Do choices beside a method move more than methods do? The plan of that experiment, its rows, and what they
say.
"""

from .crossing import (
    SETS,
    Crossing,
    as_recorded,
    crossed,
    in_float,
    level_words,
    methods_of,
    other_draws,
    planned_cells,
)
from .orders import Order, Swapped, flips, own_cards, own_cells, section_5
from .plan import address, bench_of, beside, grid, minutes, names, plan, rows_of, runs

__all__ = [
    "SETS",
    "Crossing",
    "Order",
    "Swapped",
    "address",
    "as_recorded",
    "bench_of",
    "beside",
    "crossed",
    "flips",
    "grid",
    "in_float",
    "level_words",
    "methods_of",
    "minutes",
    "names",
    "other_draws",
    "own_cards",
    "own_cells",
    "plan",
    "planned_cells",
    "rows_of",
    "runs",
    "section_5",
]
