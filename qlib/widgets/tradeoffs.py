"""The tradeoff explorer: what a bench measures against bits, from every recorded table, with the tradeoffs as
controls.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import yaml

from .. import results
from ..cards import FIELDS
from ..cards.render import shown
from ..choices import choices, same
from ..comparison import mean_of
from ..config import QuantConfig
from ..experiments import Allocation
from ..looks import LOOKS, MARKERS
from ..metrics import described
from ..names import suggestion
from ..plots import PLACEMENTS
from ..tables import COLUMNS, LATER
from .figure import Figure

X = {  # by name in book/explorer.yaml: what stands below the chart
    "activation_bits": "activation bits",
    "weight_bits": "weight bits",
    "lowered_bits": "bits of all other layers",
    "average_weight_bits": "average weight bits used",
    "map_bits": "bits of the largest feature map",
    "calibration_images": "calibration images",
    "kv_bits": "bits of keys and values",
    "embedding_bits": "bits of embedding and head",
}
BENCHES = (
    "digits",
    "cifar10-jpeg",
    "imagenet-sample",
    "imagenet-sample-240",
    "imagenet",
    "sentences",
    "language",
)
SPOKEN = (  # choices that `_choices` says in words of its own; the others are said by their titles
    "weight_bits",
    "activation_bits",
    "weight_symmetric",
    "activation_symmetric",
    "symmetric_grid",
    "weight_granularity",
    "group_size",
    "activation_granularity",
    "weight_range",
    "activation_range",
    "percentile",
    "activation_dynamic",
    "quantize_skip",
    "quantize_residual",
    "pooling",
    "calibration_upstream",
    "first_last_bits",
    "float_layers",
    "bit_choices",
    "per_channel",
    "learn_ranges",
    "labels",
)
ALONG = ("weight_bits", "activation_bits", "kv_bits", "embedding_bits", "calibration_images")  # a line
LIMITS = ("target_weight_bits", "target_activation_bits", "largest_map_bits")  # along a line
BETWEEN_LAYERS = ("Additions", "Average pooling")
OF_ACTIVATIONS = (
    *BETWEEN_LAYERS,
    "Codes of activations",
    "A range of activations for",
    "Clipping of activations",
    "Ranges of activations",
    "Calibrated with layers upstream",
)
IN_FLOAT = {"default": 32}  # all but what has bits of its own
OF_WEIGHTS = ("Codes of weights", "A range of weights for", "Clipping of weights")
RULES = {"minmax": "min/max", "mse": "squared error"}


def tradeoff_explorer(lesson: str | None = None, benches: Iterable[str] = BENCHES) -> Figure:
    """The figure, from the tables of ``book/explorer.yaml``; it acts without a kernel.

    Parameters
    ----------
    lesson : str, optional
        Whose tables are shown, such as ``"03-skip-and-residual"``; ``None`` for all of them.
    benches : iterable of str
        On which they are recorded.

    Returns
    -------
    Figure
        With what is recorded.

    Raises
    ------
    ValueError
        For a lesson that has no table.
    """
    plan = yaml.safe_load((results.clone() / "book" / "explorer.yaml").read_text("utf8"))
    lessons = sorted({entry["lesson"] for entry in plan["tables"]})
    if lesson is not None and lesson not in lessons:
        raise ValueError(
            f"no table of book/explorer.yaml belongs to lesson {lesson!r}{suggestion(lesson, lessons)}"
        )
    plan["tables"] = [entry for entry in plan["tables"] if lesson in (None, entry["lesson"])]
    wanted = [(entry["table"], bench) for entry in plan["tables"] for bench in benches]
    paths = {key: path for key in wanted if (path := results.table_path(key[1], key[0])).exists()}
    recorded = {key: results.load_table(path) for key, path in paths.items()}
    ends = {bench: _ends(table for (_, of), table in recorded.items() if of == bench) for bench in benches}
    drawn = {
        (entry["table"], bench): lines(recorded[entry["table"], bench], entry["x"], ends[bench])
        for entry in plan["tables"]
        for bench in benches
        if (entry["table"], bench) in recorded
    }
    _share_float(drawn, {key: {*table.network} for key, table in recorded.items()})
    tables = []
    for entry in plan["tables"]:
        found = {bench: drawn[key] for bench in benches if (key := (entry["table"], bench)) in drawn}
        statement = plan["statements"].get(entry.get("observation"), "")
        tables.append(
            {
                **entry,
                "x": X[entry["x"]],
                "log": entry["x"] == "calibration_images",
                "statement": statement,
                "start": entry.get("start", {}),
                "benches": found,
            }
        )
    looks = {name: [look.colour, MARKERS.index(look.marker)] for name, look in LOOKS.items()}
    return Figure("tradeoffs", {"tables": tables, "looks": looks})


def lines(table: pd.DataFrame, x: str, ends: tuple[str, ...]) -> dict[str, Any]:
    """A table as lines of points: ``{"float": {network: value}, "same": {field: value}, "measure": of what,
    "lines": [{"fields", "points"}]}``.

    Rows that differ in nothing but the seed are one point; points that differ in nothing but ``x`` and the
    limit on learned bits are a line. ``same``: the choices that all lines share, in words. ``ends``: the
    bench's first and last layer.
    """
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    others = {name: title for name, title in _others(table).items() if name != x}
    for row in table.to_dict("records"):
        if row["weight_bits"] is None and row["activation_bits"] is None:
            continue
        said = json.dumps({**_acting(row, _choices(row, x, ends)), **_said(row, others)})
        allocation = row["allocation"] or {}
        limits = [allocation.get(name) for name in LIMITS]
        setting = json.dumps([*(row[name] for name in ALONG), limits])
        groups.setdefault(said, {}).setdefault(setting, []).append(row)
    fields = [json.loads(said) for said in groups]
    shared = {
        name: value for name, value in fields[0].items() if all(other.get(name) == value for other in fields)
    }
    found = []
    for said, settings in groups.items():
        points = [
            {"x": round(sum(_x(row, x) for row in rows) / len(rows), 4), **_value(rows)}
            for rows in settings.values()
        ]
        own = {name: value for name, value in json.loads(said).items() if name not in shared}
        found.append({"fields": own, "points": sorted(points, key=lambda point: point["x"])})
    of, metric = table.bench.iloc[0], table.metric.iloc[0]
    floats = {
        name: results.float_accuracy(of, name, table, metric=metric) for name in sorted(set(table.network))
    }
    known = {name: round(measured.value, 3) for name, measured in floats.items() if measured}
    return {"float": known, "same": shared, "measure": _measure(metric, found), "lines": found}


def _share_float(
    drawn: Mapping[tuple[str, str], dict[str, Any]], networks: Mapping[tuple[str, str], set[str]]
) -> None:
    """Give tables without a row in float those that other tables of the bench have of their networks."""
    for key, found in drawn.items():
        known = {}
        for (_, bench), other in drawn.items():
            if bench == key[1] and other["measure"]["name"] == found["measure"]["name"]:
                known |= {name: value for name, value in other["float"].items() if name in networks[key]}
        found["float"] = found["float"] or known


def _measure(said: str | Mapping[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
    """What a metric is to a chart. Where values differ tenfold and are above 0, it is logarithmic."""
    metric = described(said)
    values = [point["value"] for line in found for point in line["points"]]
    return {
        "name": metric.name,
        "label": metric.label,
        "unit": metric.unit,
        "greater": metric.greater_is_better,
        "log": min(values) > 0 and max(values) > 10 * min(values) and not metric.unit,
    }


def _value(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over seeds, its 95 % interval (see `mean_of`), and every seed's, with an interval of its own for
    the sampling of images.
    """
    results.refuse_twice(pd.DataFrame(rows))
    mean = mean_of([results.measurement_of(row) for row in rows])
    low, high = mean.interval
    seeds = [
        [results.seed_of(row), *(round(row[name], 3) for name in ("value", "low", "high"))] for row in rows
    ]
    return {
        "value": round(mean.value, 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "n": mean.n,
        "seeds": seeds,
    }


def _others(table: pd.DataFrame) -> dict[str, str]:
    """What distinguishes rows beside the choices that have words of their own, by column: its title."""
    default = QuantConfig().to_dict()
    stated = {name: known.title for name, known in choices(QuantConfig).items() if name not in SPOKEN}
    stated |= {"method": "Method", "precision": "Precision", "metric": "Metric"}
    usual = {**default, **LATER}
    own = {name: name for name in table.columns if name not in COLUMNS}
    told = {
        name: title
        for name, title in stated.items()
        if not all(same(value, usual[name]) for value in table[name])
    }
    learned = [row for row in table.allocation if row]
    settings = {name: known.title for name, known in choices(Allocation).items() if name not in LIMITS}
    varied = {
        name: title
        for name, title in settings.items()
        if name not in SPOKEN and len({json.dumps(row.get(name)) for row in learned}) > 1
    }
    return told | own | varied


def _said(row: Mapping[str, Any], others: Mapping[str, str]) -> dict[str, str]:
    given = {**row, **(row["allocation"] or {})}
    values = {name: given.get(name) for name in others}
    words = {name: v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}
    return {
        title: _words(name, values[name]) if name in FIELDS else words[name] for name, title in others.items()
    }


def _words(name: str, value: Any) -> str:
    """A value of a choice, as a card says it."""
    known = choices(QuantConfig)
    if name in known and (value is None or value == IN_FLOAT):
        return known[name].word
    return shown(name, value)


def _acting(row: Mapping[str, Any], said: Mapping[str, str]) -> dict[str, str]:
    """Without what is said of a side that stays in float; where only keys and values are quantized, of what
    lies between layers.
    """
    silent = [*OF_WEIGHTS] if row["weight_bits"] is None else []
    if row["activation_bits"] is None:
        silent += OF_ACTIVATIONS
    elif row["activation_bits"] == IN_FLOAT:
        silent += BETWEEN_LAYERS
    return {name: value for name, value in said.items() if name not in silent}


def _x(row: Mapping[str, Any], x: str) -> float:
    allocation = row["allocation"] or {}
    sides = [
        bits["default"] if isinstance(bits, Mapping) else bits
        for bits in (row["weight_bits"], row["activation_bits"])
    ]
    return {
        "activation_bits": sides[1],
        "weight_bits": sides[0],
        "lowered_bits": min(bits for bits in sides if bits is not None),
        "average_weight_bits": sides[0] if row["average_weight_bits"] is None else row["average_weight_bits"],
        "map_bits": allocation.get("largest_map_bits") or sides[1],
        "calibration_images": row["calibration_images"],
        "kv_bits": row["kv_bits"],
        "embedding_bits": row["embedding_bits"],
    }[x]


def _ends(tables: Iterable[pd.DataFrame]) -> tuple[str, ...]:
    """The first and the last layer with weights of a bench's networks, from a row that says its bits by
    layer.
    """
    bits = next((bits for table in tables for bits in table.bits if bits), {})
    layers = [name for name, (weight, _) in bits.items() if weight]
    return tuple(layers[:1] + layers[-1:])


def _choices(row: Mapping[str, Any], x: str, ends: tuple[str, ...]) -> dict[str, str]:
    """Every choice of a row but ``x``, in words."""
    allocation = row["allocation"] or {}
    learned = bool(allocation) and not allocation.get("largest_map_bits")
    found = {
        "Additions": PLACEMENTS[row["quantize_skip"], row["quantize_residual"]].name,
        "Codes of activations": f"symmetric, {row['symmetric_grid']}"
        if row["activation_symmetric"]
        else "asymmetric",
        "Codes of weights": f"symmetric, {row['symmetric_grid']}"
        if row["weight_symmetric"]
        else "asymmetric",
        "A range of weights for": _unit(row["weight_granularity"], row["group_size"]),
        "A range of activations for": _unit(row["activation_granularity"]),
        "Clipping of weights": _rule(row, "weight_range"),
        "Clipping of activations": "learned"
        if allocation.get("learn_ranges")
        else _rule(row, "activation_range"),
        "Ranges of activations": "found while it runs"
        if row["activation_dynamic"]
        else "fixed by calibration",
        "Calibrated with layers upstream": "in float"
        if row["calibration_upstream"] == "float"
        else "quantized",
        "Average pooling": shown("pooling", row["pooling"]).replace("_", " "),
        "First and last layer": _first_last(row, ends),
        "Layers left in float": shown("float_layers", row["float_layers"]),
        "Bits by layer": "uniform",
        "Allowed bits": shown("bit_choices", row["bit_choices"]) if learned else "one",
        "Labels": {
            "true": "true",
            "hard": "hard, by the float network",
            "soft": "soft, by the float network",
        }.get(allocation.get("labels") if learned else None, "none"),
        "Float network": row["network"],
    }
    if learned:
        found["Bits by layer"] = "learned by channel" if allocation["per_channel"] else "learned"
    elif allocation:
        found["Bits by layer"] = "as many as fit the limit"
    if x in ("weight_bits", "average_weight_bits"):
        learned_too = allocation.get("target_activation_bits") is not None
        found["Activation bits"] = (
            "learned" if learned_too else _words("activation_bits", row["activation_bits"])
        )
    elif x != "lowered_bits":
        found["Weight bits"] = _words("weight_bits", row["weight_bits"])
    else:
        found["Lowered"] = "weights" if _x(row, "weight_bits") == _x(row, x) else "activations"
    if x in ("calibration_images", "kv_bits", "embedding_bits"):
        found["Activation bits"] = _words("activation_bits", row["activation_bits"])
    if x != "calibration_images":
        found["Images to calibrate or learn on"] = f"{row['calibration_images']:,}"
    return found


def _unit(granularity: str, group_size: int = 0) -> str:
    return {
        "per_channel": "each channel",
        "per_tensor": "the whole tensor",
        "per_token": "each token",
        "per_group": f"every {group_size} weights of a channel",
    }[granularity]


def _rule(row: Mapping[str, Any], side: str) -> str:
    return RULES.get(row[side], f"percentile {row['percentile']:g}")


def _first_last(row: Mapping[str, Any], ends: tuple[str, ...]) -> str:
    if row["first_last_bits"] is not None:
        return f"{row['first_last_bits']} bits"
    sides = [side for side in (row["weight_bits"], row["activation_bits"]) if isinstance(side, Mapping)]
    named = {name for side in sides for name in side} - {"default"}
    if not named:
        return "like the rest"
    words = [word for word, name in zip(("first", "last"), ends, strict=False) if name in named]
    return f"{' and '.join(words) or ', '.join(sorted(named))} 8 bits"
