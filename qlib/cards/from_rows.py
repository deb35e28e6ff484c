"""What recorded rows say about themselves: the fields of a card by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..benches import load_bench, network_of, weights_hash
from ..choices import choices
from ..config import QuantConfig
from ..methods import known_methods, names, words
from ..results import seed_of
from .fields import NOT_REPORTED, fields_of
from .from_run import from_run, of_bench

if TYPE_CHECKING:
    import pandas as pd

    from ..footprints import Footprint

SUBSTITUTES = {  # kinds of `qlib.benches.substitutes`, in words
    "noise": "normal noise, in the place of images",
    "distilled": "images distilled from the network's batch-norm statistics",
    "photographs": "photographs of something else",
}
AVERAGES = ("average_weight_bits", "average_activation_bits")


def from_rows(
    rows: pd.DataFrame, table: pd.DataFrame | None = None, config_class: type[QuantConfig] = QuantConfig
) -> dict[str, Any]:
    """The fields that recorded rows know, with ``name`` and ``deviations``, see
    `qlib.QuantizationCard.from_rows`.
    """
    from .. import results

    fields_of(config_class)  # or else an error that says why
    if rows.empty:
        raise ValueError("there are no rows to make a card of")
    _refuse_lacking(rows, config_class)
    own = rows.attrs.get("choices", ())
    if differs := results.differing(rows, [*results.SETTING, *own, *choices(config_class)]):
        raise ValueError(
            f"these rows differ in {', '.join(differs)}: a card is about one setting; select by it"
        )
    results.refuse_twice(rows)
    records = rows.to_dict("records")
    row = records[0]
    table = rows if table is None else table
    stated = {*results.COLUMNS, *own, *choices(config_class)}  # a table may have got other columns since
    config = results.config_of({name: row[name] for name in row if name in stated}, config_class)
    measured = (row["bench"], row["network"], table, row["metric"], row["weights"])
    size = _size_of(row, config)
    fields = {
        **from_run(
            config, results.measurements_of(records), baseline=results.float_accuracy(*measured), size=size
        ),
        **_of_method(row["method"], config),
        **of_bench(row["bench"], row["network"], _packaged(rows, size)),
        **_of_row(row),
        "name": f"{row['network']} on {row['bench']}",
        "time": round(float(rows["seconds"].mean()), 1),
        "hardware": _hardware(rows),
        "deviations": _deviations(table, row, config_class),
    }
    return fields | _over_seeds(records, fields)


def _over_seeds(records: list[dict[str, Any]], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Average bits are means over seeds as the accuracy is; what else follows from bits that a run chose is
    the first seed's, and says so.
    """
    found = {
        name: round(float(np.mean([record[name] for record in records])), 4)
        for name in AVERAGES
        if all(record[name] is not None for record in records)
    }
    if len(records) == 1 or not found or len({json.dumps(record["bits"]) for record in records}) == 1:
        return {}
    seed = f"Bits by layer, bytes and effective bits are those of seed {seed_of(records[0])}."
    before = fields.get("remarks")
    return found | {"remarks": f"{before} {seed}" if before else seed}


def _of_method(method: Any, config: QuantConfig) -> dict[str, Any]:
    """What is said of a row's methods. Those that are not this package's are named, and not looked up: a row
    may come from a stranger.
    """
    if config.in_float:
        return {"steps": 0}
    if set(names(method)) <= set(known_methods()):
        return {"steps": 0, **words(method)}  # of those that take none; a row says whether bits were learned
    return {"technique": f"post-training, {', '.join(names(method))}"[:1000], "rounding": NOT_REPORTED}


def _refuse_lacking(rows: pd.DataFrame, config_class: type[QuantConfig]) -> None:
    """Choices that came later than rows may be missing: they have their default there."""
    for name, known in choices(config_class).items():
        if name not in rows and known.since is None:
            raise ValueError(
                f"these rows have no column {name!r}, which is a choice of {config_class.__name__}"
            )


def _of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    allocation = row["allocation"] or {}
    fields: dict[str, Any] = {
        "weights_hash": row["weights"],
        "images": int(row["calibration_images"]),
        "labels": "none",
    }
    if allocation.get("largest_map_bits") is not None:
        fields |= {"allocation": "analytic, by the largest feature map", "constraint": "largest feature map"}
    elif allocation:
        fields |= {
            "allocation": "learned, by channel" if allocation["per_channel"] else "learned",
            "labels": allocation["labels"],
            "steps": allocation["steps"],
            "constraint": "average",
            **{name: allocation[name] for name in ("learning_rate", "penalty", "checkpoint")},
        }
    if row["kind_of_data"] in SUBSTITUTES:
        fields["data"] = SUBSTITUTES[row["kind_of_data"]]
    remarks = [] if row["feasible"] else ["Learning met no limit on bits, and ended above it."]
    if row["precision"] != "float32":
        remarks.append(f"Products and their sums in {row['precision']}.")
    if row["weights_first"]:
        remarks.append("Weights were quantized while activations were in float.")
    if remarks:
        fields["remarks"] = " ".join(remarks)
    fields |= {name: round(row[name], 4) for name in AVERAGES if row[name] is not None}
    return fields | _chosen_bits(row)


def _chosen_bits(row: Mapping[str, Any]) -> dict[str, Any]:
    """The bits by layer that a run chose for itself, instead of those that it started from."""
    allocation = row["allocation"] or {}
    found = {}
    sides = {
        "weight": (0, allocation.get("target_weight_bits")),
        "activation": (1, allocation.get("target_activation_bits") or allocation.get("largest_map_bits")),
    }
    for side, (i, target) in sides.items():
        if target is not None:
            bits = {name: pair[i] for name, pair in row["bits"].items() if pair[i]}
            whole = all(value == int(value) for value in bits.values())  # by channel only means are recorded
            found[f"{side}_bits"] = (
                {name: int(value) for name, value in bits.items()} if whole else NOT_REPORTED
            )
    return found | ({"activation_range": "learned"} if allocation.get("learn_ranges") else {})


def _sessions(rows: pd.DataFrame) -> list[Mapping[str, Any]]:
    """In which these rows were recorded, as their table says."""
    sessions = rows.attrs.get("sessions", [])
    return [sessions[number] for number in dict.fromkeys(rows["session"]) if number < len(sessions)]


def _hardware(rows: pd.DataFrame) -> str:
    """On which these rows were recorded."""
    named = [
        ", ".join(session[key] for key in ("device", "hardware") if key in session)
        for session in _sessions(rows)
    ]
    return "; ".join(dict.fromkeys(filter(None, named))) or NOT_REPORTED


def _size_of(row: Mapping[str, Any], config: QuantConfig) -> Footprint | None:
    """``None`` where the row's network is not at hand, such as one of the reader's own, whatever its name."""
    from ..footprints import footprint

    try:
        bench = load_bench(row["bench"])
        network = network_of(bench, row["network"])
    except (ValueError, OSError):
        return None
    if weights_hash(network) != row["weights"]:
        return None
    found = footprint(network, bench.validation(1)[0][0], config)
    layers = found.layers
    if row["bits"]:  # chosen by the run, by layer
        layers = (
            dataclasses.replace(
                layer, weight_bits=row["bits"][layer.name][0], activation_bits=row["bits"][layer.name][1]
            )
            for layer in layers
        )
    return dataclasses.replace(found, layers=tuple(layers))


def _packaged(rows: pd.DataFrame, size: Footprint | None) -> bool:
    """Whether rows are of a bench of this package: ``size`` is that of its network, and no session of theirs
    names data of the reader's own.
    """
    return size is not None and not any("own" in session for session in _sessions(rows))


def _deviations(
    table: pd.DataFrame, row: Mapping[str, Any], config_class: type[QuantConfig]
) -> dict[str, list]:
    """By field, what the quantized rows of ``table`` have (words for what is not a number or a switch), the
    card's own left out.
    """
    sides = zip(table.weight_bits, table.activation_bits, strict=True)
    quantized = table[[weights is not None or activations is not None for weights, activations in sides]]
    stated = choices(config_class)
    found = {}
    for name in (name for name in (*stated, "network") if name in table and name in row):
        values: dict[str, Any] = {}
        for value in quantized[name]:
            simple = stated[name].word if value is None else "none" if value == [] else value
            simple = simple if isinstance(simple, (str, int, float, bool)) else json.dumps(simple)[:200]
            values.setdefault(json.dumps(value), simple)
        values.pop(json.dumps(row[name]), None)
        if values:
            found[name] = list(values.values())[:200]
    return found
