"""Recorded results: rows of experiments, what they measured, and what several of them amount to.

A table is a CSV file, one row a configuration, network and calibration draw (`qlib.tables`), made by
`qlib.recording`; beside it a YAML file says for every recording session which command, commit, versions and
hardware made the rows, and which runs failed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .choices import same
from .comparison import mean_of
from .config import QuantConfig
from .experiments import ALLOCATION_FIELDS, Allocation, Run
from .metrics import Accuracy, Measurement, described
from .names import suggestion
from .strict_yaml import read_fields
from .tables import COLUMNS, FIELDS, cell, read_notes, read_rows, values

if TYPE_CHECKING:
    import pandas as pd

SIDES = ("weight", "activation")
SETTING = (
    *(*FIELDS, "bench", "network", "allocation", "method", "metric"),
    *("calibration_images", "kind_of_data", "weights_first", "precision"),
)


def load_table(path: Path) -> pd.DataFrame:
    """A recorded table, one row a run.

    Parameters
    ----------
    path : Path
        CSV, beside its notes.

    Returns
    -------
    DataFrame
        Columns as in ``COLUMNS``, and those of choices that the table's configurations bring beside them.
        ``correct`` and ``values`` stay packed: see `measurement_of`. Selections of rows keep the recording
        sessions (``.attrs["sessions"]``, see `provenance`), and the names of those choices
        (``.attrs["choices"]``).

    Raises
    ------
    FileNotFoundError
        Saying how to record it.
    """
    import pandas as pd

    path = Path(path)
    rows = load_rows(path)
    columns = [*COLUMNS, *read_notes(path)["choices"]]
    table = pd.DataFrame(rows, columns=columns, dtype=object)  # object: bits may be None
    try:
        table = table.astype(
            dict.fromkeys(("session", "calibration_images", "calibration_seed", "rounding_seed", "n"), int)
            | dict.fromkeys(("top1", "value", "low", "high", "seconds"), float)
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} is not a table of qlib: {error}") from None
    table.attrs["sessions"] = provenance(path)
    table.attrs["choices"] = list(read_notes(path)["choices"])
    return table


def load_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of `load_table` as dictionaries, for a look at a few of them that is not to wait for
    pandas.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not recorded yet: run `qlib record {path.stem}`")
    return [values(row) for row in read_rows(path)]


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the fields of its allocation beside its columns (``None`` where it has none), and two more:
    ``whole_limit``, its limit on learned weight bits rounded down; ``uniform_bits``, those of all activations
    where none but those named apart have others.
    """
    allocation = {**dict.fromkeys(ALLOCATION_FIELDS), **(row["allocation"] or {})}
    limit, bits = allocation["target_weight_bits"], row["activation_bits"]
    uniform = bits["default"] if row["allocation"] is None and isinstance(bits, Mapping) else None
    return {
        **row,
        **allocation,
        "whole_limit": None if limit is None else int(limit),
        "uniform_bits": uniform,
    }


def fits(row: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """Whether a row has what ``where`` says."""
    return all(same(row[name], value) for name, value in where.items())


def flat_rows(bench: str, name: str) -> list[dict[str, Any]]:
    """The rows of a recorded table, each as `flat` gives it.

    Raises
    ------
    FileNotFoundError
        Saying how to record it.
    """
    return list(map(flat, load_rows(table_path(bench, name))))


def measured(rows: Iterable[Mapping[str, Any]], where: Mapping[str, Any]) -> list[Measurement]:
    """What the rows measured that have what ``where`` says."""
    return measurements_of([row for row in rows if fits(row, where)])


def provenance(path: Path) -> list[dict[str, Any]]:
    """The recording sessions of a table, oldest first."""
    return read_notes(Path(path))["sessions"]


def failures(path: Path) -> dict[str, str]:
    """The errors of a table's runs that failed, by the key that their row would have."""
    return read_notes(Path(path))["failed"]


def table_path(bench: str, name: str) -> Path:
    """Where a recorded table lies in a clone, seen from any folder of the clone.

    Parameters
    ----------
    bench, name : str
        As in ``book/results/<bench>/<name>.csv``.

    Returns
    -------
    Path
        Whether it is there or not.
    """
    return clone() / "book" / "results" / bench / f"{name}.csv"


def clone() -> Path:
    """The clone that holds the book: around the working directory, else around the package itself."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "book" / "experiments").is_dir():
                return folder
    raise FileNotFoundError("no book/experiments here: work inside a clone of the repository")


def experiments() -> dict[str, Path]:
    """The named experiments of the clone, ``<bench>/<name>``, and their files."""
    folder = clone() / "book" / "experiments"
    return {str(p.relative_to(folder).with_suffix("")): p for p in sorted(folder.glob("*/*.yaml"))}


def measurement_of(row: Mapping[str, Any], label: Hashable = None) -> Measurement:
    """What a row measured.

    Parameters
    ----------
    row : mapping
        One of a table of `load_table`.
    label : hashable, optional
        Its label; by default the seed of the row (`seed_of`).

    Returns
    -------
    Measurement
        With its value for every example; an `Accuracy` of top-1, one label an image. A metric of the reader's
        own is described by the row; it can be compared, not measured again.
    """
    label = seed_of(row) if label is None else label
    if row["correct"]:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(row["correct"]), np.uint8))
        return Accuracy(bits[: int(row["n"])].astype(bool), label)
    each = np.frombuffer(base64.b64decode(row["values"]), "<f4").astype(float)
    return Measurement(described(row["metric"]), float(row["value"]), each, label)


def seed_of(row: Mapping[str, Any]) -> int | str | None:
    """What tells a row from others of its setting: the seed of its calibration draw, and that of the rounding
    of its weights where it has another than the usual one.
    """
    draw = row.get("calibration_seed")
    rounding = row.get("rounding_seed") or 0
    return f"{draw}, rounding {rounding}" if rounding else draw if draw is None else int(draw)


def of_common_seeds(*sides: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The rows of every side whose seed (`seed_of`) all others have, too, so that a table that is recorded in
    part can be compared; a network in float has no seed, and stays.
    """
    seeds = [{seed_of(row) for row in side if not _in_float(row)} for side in sides]
    common = set.intersection(*filter(None, seeds)) if any(seeds) else set()
    return [[row for row in side if _in_float(row) or seed_of(row) in common] for side in sides]


def _in_float(row: Mapping[str, Any]) -> bool:
    return row["weight_bits"] is None and row["activation_bits"] is None


def measurements_of(rows: Sequence[Mapping[str, Any]]) -> list[Measurement]:
    """What rows of one setting measured, labelled by the seed of their calibration draw; where they differ in
    the network or in the rounding of weights, by (network, rounding, draw), of which the outermost that
    varies counts as the seed (`qlib.compare`): draws of one rounding are one throw of the weights.
    """
    factors = [name for name in ("network", "rounding_seed") if len({row.get(name) for row in rows}) > 1]
    if not factors:
        return [measurement_of(row) for row in rows]
    factors = (*factors, "calibration_seed")
    return [measurement_of(row, tuple(row[name] for name in factors)) for row in rows]


def accuracy_of(row: Mapping[str, Any]) -> Accuracy:
    """The accuracy of a row, with its answer for every image.

    Raises
    ------
    ValueError
        It measured something else.
    """
    found = measurement_of(row)
    if not isinstance(found, Accuracy):
        raise ValueError(f"this row measures {found.metric.name}, not top-1 accuracy: use measurement_of")
    return found


def measurements(table: pd.DataFrame, **where: Any) -> list[Measurement]:
    """What some rows measured.

    Parameters
    ----------
    table : DataFrame
        As `load_table` gives it.
    **where
        What columns must equal.

    Returns
    -------
    list of Measurement
        Of the rows whose columns equal ``where``, in order, labelled as by `measurements_of`.

    Raises
    ------
    ValueError
        There is none.
    """
    rows = table[[fits(row, where) for row in table.to_dict("records")]]
    if rows.empty:
        raise ValueError(f"no recorded row has {where}")
    return measurements_of(rows.to_dict("records"))


def accuracies(table: pd.DataFrame, **where: Any) -> list[Accuracy]:
    """`measurements` of top-1 accuracy."""
    return measurements(table, **where)


def in_float(table: pd.DataFrame) -> pd.DataFrame:
    """The rows in which nothing is quantized."""
    sides = zip(table.weight_bits, table.activation_bits, strict=True)
    return table[[weights is None and activations is None for weights, activations in sides]]


def float_accuracy(
    bench: str,
    network: str,
    table: pd.DataFrame | None = None,
    metric: str = "top1",
    weights: str | None = None,
) -> Measurement | None:
    """What a network reaches in float, from ``table`` or else the bench's table ``float-baseline``; ``None``
    if neither has it.

    Parameters
    ----------
    weights
        Their hash (`qlib.benches.weights_hash`), by which a network is known; without it the names of bench
        and network are trusted.
    """
    path = table_path(bench, "float-baseline")
    for rows in (table, load_table(path) if path.exists() else None):
        if rows is not None:
            found = in_float(rows)
            found = found[(found.bench == bench) & (found.network == network)]
            found = found[(found.weights == weights) | (weights is None)]
            found = found[[same(m, metric) for m in found.metric]]
            if len(found):
                return measurement_of(found.iloc[0])
    return None


def with_allocation(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with the fields of `Allocation` as columns of their own, ``None`` where a run has none."""
    import pandas as pd

    given = {name: [(a or {}).get(name) for a in table.allocation] for name in ALLOCATION_FIELDS}
    return table.assign(
        **{name: pd.Series(values, index=table.index, dtype=object) for name, values in given.items()}
    )


def select(table: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The rows for which all conditions hold.

    Parameters
    ----------
    table : DataFrame
        As `load_table` gives it.
    conditions : sequence of str
        Each ``FIELD=VALUE`` with the value as in YAML; fields are columns, or what an allocation has.

    Returns
    -------
    DataFrame
        One row or more.

    Raises
    ------
    ValueError
        Naming the condition that is malformed or leaves no row.
    """
    fields = (*table.columns, *ALLOCATION_FIELDS)
    for field, value in read_fields(conditions).items():
        if field not in fields:
            raise ValueError(f"rows have no field {field!r}{suggestion(field, fields)}")
        has = list(with_allocation(table)[field])
        if field == "metric":  # one of the reader's own is described there
            has = [said["name"] if isinstance(said, Mapping) else said for said in has]
        known = sorted({json.dumps(v) for v in has})
        table = table[[same(v, value) for v in has]]
        if table.empty:
            raise ValueError(
                f"no recorded row has {field}={json.dumps(value)}; {field} is {', '.join(known)[:200]}"
            )
    return table


def summary(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Means over calibration draws.

    Parameters
    ----------
    table : DataFrame
        Rows as `load_table` gives them.
    by : sequence of str
        Columns; the result has a row for each combination of their values.

    Returns
    -------
    DataFrame
        Columns ``value`` (of top-1 also under that name), ``low`` and ``high`` (the 95 % interval, see
        `mean_of`), ``spread`` (standard deviation over draws), ``draws``, ``n``, and the averages over
        draws of ``average_weight_bits`` and ``average_activation_bits`` in use (NaN where rows do not say);
        ``.attrs["metric"]`` is the metric that they are values of.

    Raises
    ------
    ValueError
        Rows of one combination differ in more than their draw, or rows measure several metrics, whose values
        are no column.
    """
    import pandas as pd

    if differing(table, ["metric"]):
        said = ", ".join(dict.fromkeys(cell(metric) for metric in table.metric))
        raise ValueError(f"these rows differ in metric ({said[:200]}): select those of one")
    groups = []
    settings = [*SETTING, *table.attrs.get("choices", ())]
    keys = [table[name].map(_hashable) for name in by]
    for _, rows in table.groupby(keys, sort=False, dropna=False):  # None is a value like others
        _refuse_differing(rows, by, settings)
        mean = mean_of(measurements_of(rows.to_dict("records")))
        found = rows.iloc[0][list(by)]
        used = (_average_in_use(rows, side) for side in SIDES)
        groups.append((*found, mean.value, *mean.interval, mean.spread, mean.seeds, mean.n, *used))
    columns = [*by, "value", "low", "high", "spread", "draws", "n", *(f"average_{s}_bits" for s in SIDES)]
    result = pd.DataFrame(groups, columns=columns)
    for i, name in enumerate(by):
        if result[name].isna().any():  # None as in the table, and not NaN
            result[name] = pd.Series([group[i] for group in groups], dtype=object)
    result.attrs["metric"] = mean.metric if groups else described("top1")
    return result.assign(top1=result.value) if result.attrs["metric"].name == "top1" else result


def _average_in_use(rows: pd.DataFrame, side: str) -> float:
    """The average bits that rows use: as they say, or the same in every layer, the ends included."""
    uniform = [
        bits if isinstance(bits, int) and ends is None else None
        for bits, ends in zip(rows[f"{side}_bits"], rows.first_last_bits, strict=True)
    ]
    said = rows[f"average_{side}_bits"]
    used = [u if s is None else float(s) for s, u in zip(said, uniform, strict=True)]
    return float("nan") if None in used else float(np.mean(used))


def _hashable(value: Any) -> Any:
    """To group by: bits by layer, methods and metrics may be mappings and lists."""
    return cell(value) if isinstance(value, (list, dict)) else value


def differing(rows: pd.DataFrame, settings: Sequence[str]) -> list[str]:
    """The columns among ``settings`` in which rows differ, once each."""
    known = {name: list(rows[name]) for name in settings if name in rows and len(rows)}
    return [name for name, given in known.items() if not all(same(value, given[0]) for value in given)]


def refuse_twice(rows: pd.DataFrame) -> None:
    """Rows of one setting and one seed are of other weights, or of other code of the reader's own.

    Raises
    ------
    ValueError
        A seed stands there twice.
    """
    seeds = [seed_of(row) for row in rows.to_dict("records")]
    twice = [seed for i, seed in enumerate(seeds) if seed in seeds[:i]]
    if twice:
        raise ValueError(
            f"several rows of seed {twice[0]} differ in nothing but weights or code: keep "
            "those of one in a table of their own"
        )


def _refuse_differing(rows: pd.DataFrame, by: Sequence[str], settings: Sequence[str]) -> None:
    """An average over rows of several settings is a number about none of them."""
    if differ := differing(rows, settings):
        raise ValueError(
            f"rows of one combination of {', '.join(by)} differ in {', '.join(differ)}, too: select by it, "
            "or add it"
        )
    refuse_twice(rows)


def run_of(row: Mapping[str, Any], config_class: type[QuantConfig] = QuantConfig) -> Run:
    """The run that a row of `load_table` records.

    Raises
    ------
    ValueError
        It has choices that ``config_class`` does not have.
    """
    config = config_of(row, config_class)
    numbers = (int(row[c]) for c in ("calibration_images", "calibration_seed", "n"))
    allocation = row["allocation"] and Allocation(**row["allocation"])
    metric = row["metric"] if isinstance(row["metric"], str) else row["metric"]["name"]
    method = cell(row["method"]) if not isinstance(row["method"], str) else row["method"]
    more = (int(row["rounding_seed"]), row["kind_of_data"], row["weights_first"])
    return Run(row["bench"], row["network"], config, *numbers, allocation, method, metric, *more)


def config_of(row: Mapping[str, Any], config_class: type[QuantConfig] = QuantConfig) -> QuantConfig:
    """The configuration of a row.

    Raises
    ------
    ValueError
        It has choices that ``config_class`` does not have.
    """
    names = list(config_class.defaults())
    more = [name for name in row if name not in COLUMNS and name not in names]
    if more:
        raise ValueError(
            f"this row has {', '.join(more)}, which {config_class.__name__} does not have: pass the class "
            "that has, as config_class="
        )
    return config_class.from_dict({name: row[name] for name in names if name in row})
