"""`QuantizationCard`: the choices behind an accuracy, in the paper's five categories (section 3, table 1).

``schema.json`` is the only list of the fields: their categories, names, what they may hold, and the
observation that speaks about each. What is unknown is ``not reported``, never blank. Fields that are also
fields of `QuantConfig` have its names.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ..benches import Bench, load_bench, weights_hash
from ..config import QuantConfig
from ..intervals import wilson
from ..metrics import Accuracy
from ..names import suggestion
from .schema import fault

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from ..footprints import Footprint

NOT_REPORTED = "not reported"
# Of a card on disk; they come from strangers.
MAX_BYTES = 1_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 20
SCHEMA: dict[str, Any] = json.loads(files(__package__).joinpath("schema.json").read_text("utf8"))
CATEGORIES: dict[str, dict[str, Any]] = {
    name: entry["properties"] for name, entry in SCHEMA["properties"].items() if "properties" in entry
}
FIELDS: dict[str, dict[str, Any]] = {
    name: field for fields in CATEGORIES.values() for name, field in fields.items()
}
CATEGORY_OF = {name: category for category, fields in CATEGORIES.items() for name in fields}
OF_WEIGHTS = ("weight_symmetric", "weight_granularity", "weight_range")
OF_ACTIVATIONS = (
    "activation_symmetric",
    "activation_granularity",
    "activation_range",
    "activation_dynamic",
    "calibration_upstream",
    "quantize_skip",
    "quantize_residual",
    "pooling",
    "input_bits",
    "quantize_output",
)
# What the configuration says by None:
WORDS = {
    "weight_bits": "float",
    "activation_bits": "float",
    "input_bits": "float",
    "first_last_bits": "like the rest",
}


@dataclasses.dataclass(frozen=True)
class QuantizationCard:
    """A card, checked. ``data``: plain dictionaries, lists, strings and numbers as ``schema.json`` says; what
    it leaves out is filled in as ``not reported``.

    ``card["weight_bits"]`` is a field's value, whatever its category. Raises ``ValueError`` in one line
    naming the field.
    """

    data: Mapping[str, Any]

    def __post_init__(self):
        object.__setattr__(self, "data", _checked(self.data))

    def __getitem__(self, field: str) -> Any:
        if field not in FIELDS:
            raise KeyError(f"a card has no field {field!r}{suggestion(field, FIELDS)}")
        return self.data[CATEGORY_OF[field]][field]

    @property
    def name(self) -> str:
        return self.data["name"]

    def acts(self, field: str) -> bool:
        """Whether a field means anything beside the others: a percentile where no range is one, the kind of a
        symmetric grid where none is symmetric, choices of bits where there is one bitwidth, calibration where
        ranges are dynamic, layers left in float where none is named, those of a side that stays in float, and
        those of maps that the placement leaves in float (`qlib.placement`).
        """
        weights = self["weight_bits"] != "float"
        activations = self["activation_bits"] != "float"
        if field in OF_WEIGHTS and not weights or field in OF_ACTIVATIONS and not activations:
            return False
        if field == "percentile":
            return any(
                side and self[name] == "percentile"
                for side, name in ((weights, "weight_range"), (activations, "activation_range"))
            )
        if field == "symmetric_grid":
            return (
                weights
                and self["weight_symmetric"] is True
                or activations
                and self["activation_symmetric"] is not False
            )
        if field in ("bit_choices", "allocation"):
            return not isinstance(self["weight_bits"], int) or not isinstance(
                self["activation_bits"], (int, str)
            )
        if field == "first_last_bits":
            return weights or activations
        if field == "float_layers":
            return self[field] not in ([], NOT_REPORTED) and (weights or activations)
        if field == "calibration_upstream":
            return self["activation_dynamic"] is not True
        if field == "pooling":
            return self["quantize_skip"] is not False
        return field != "quantize_output" or (self["quantize_skip"], self["quantize_residual"]) != (
            False,
            False,
        )

    @classmethod
    def of(
        cls,
        name: str,
        *,
        authors: str = NOT_REPORTED,
        link: str = NOT_REPORTED,
        remarks: str = NOT_REPORTED,
        deviations: Mapping[str, list] | None = None,
        sources: Mapping[str, str] | None = None,
        **fields: Any,
    ):
        """A card from its fields by name, without their categories."""
        for field in fields:
            if field not in FIELDS:
                raise ValueError(f"a card has no field {field!r}{suggestion(field, FIELDS)}")
        data = {
            "schema_version": SCHEMA["properties"]["schema_version"]["const"],
            "name": name,
            "authors": authors,
            "link": link,
            "remarks": remarks,
            "deviations": dict(deviations or {}),
            "sources": dict(sources or {}),
        }
        for category, known in CATEGORIES.items():
            data[category] = {field: fields[field] for field in known if field in fields}
        return cls(data)

    @classmethod
    def from_run(
        cls,
        config: QuantConfig,
        accuracy: Accuracy | Sequence[Accuracy] | None = None,
        *,
        baseline: Accuracy | None = None,
        size: Footprint | None = None,
        model: nn.Module | None = None,
        bench: Bench | None = None,
        network: str = NOT_REPORTED,
        name: str = "a run of qlib",
        **known: Any,
    ) -> QuantizationCard:
        """The card of a run: every field that the configuration, the measured accuracies (several: one for
        each seed), the footprint, the float ``model`` and the bench know; with a ``bench``, ``network`` is
        the name of one of its networks. ``known``: what only a person can say, any field of the schema or of
        `of`.
        """
        fields: dict[str, Any] = {
            "quantizer": "uniform",
            "rounding": "nearest",
            "technique": "post-training",
            "batch_norm": "folded",
            "bias": "float",
            "network": network,
        }
        if bench is not None:
            if network not in bench.models:
                raise ValueError(
                    f"bench {bench.name!r} has no network {network!r}{suggestion(network, bench.models)}"
                )
            from ..footprints import footprint

            model = bench.models[network] if model is None else model
            size = footprint(model, bench.validation(1)[0][0], config) if size is None else size
            fields |= {
                "network": f"{network} of the bench {bench.name}",
                "dataset": f"{bench.name}, validation images",
                "data": "training images",
            }
        if model is not None:
            fields["weights_hash"] = weights_hash(model)
        for field, value in config.to_dict().items():
            fields[field] = WORDS[field] if value is None else value
        given = (config.weight_bits, config.activation_bits)
        fields["allocation"] = "by layer" if any(isinstance(bits, Mapping) for bits in given) else "uniform"
        if accuracy is not None:
            runs = [accuracy] if isinstance(accuracy, Accuracy) else list(accuracy)
            fields |= {"accuracy": _measured(runs), "seeds": len(runs)}
            if len(runs) > 1:
                fields["spread"] = round(float(np.std([run.top1 for run in runs], ddof=1)), 2)
        if baseline is not None:
            fields["float_accuracy"] = _measured([baseline])
        if given == (None, None):
            fields |= {
                "quantizer": NOT_REPORTED,
                "rounding": NOT_REPORTED,
                "technique": "none: float",
                "batch_norm": "separate",
            }
        if size is not None:
            fields |= {
                key: round(getattr(size, key), 4)
                for key in (
                    "average_weight_bits",
                    "average_activation_bits",
                    "weight_bytes",
                    "activation_bytes",
                    "max_activation_bytes",
                )
            }
            if size.in_float:
                fields["remarks"] = f"Computed in float: {', '.join(size.in_float)}."
        return cls.of(name, **{**fields, **known})

    @classmethod
    def from_rows(
        cls, rows: pd.DataFrame, table: pd.DataFrame | None = None, **known: Any
    ) -> QuantizationCard:
        """The card of recorded rows that differ in nothing but their seed (`qlib.results.load_table`).

        ``table``: all rows of the same work; the settings in which they differ from ``rows`` become
        ``deviations``, and its row in float the baseline. Where bits were learned those of the first seed
        stand for all.
        """
        from .. import results

        names = [field.name for field in dataclasses.fields(QuantConfig)]
        if rows.empty:
            raise ValueError("there are no rows to make a card of")
        same = [*names, "network", "bench", "allocation", "calibration_images", "precision"]
        differs = [c for c in same if len({json.dumps(v, sort_keys=True) for v in rows[c]}) > 1]
        if differs:
            raise ValueError(
                f"these rows differ in {', '.join(differs)}: a card is about one setting; select by it"
            )
        row = rows.iloc[0]
        table = rows if table is None else table
        allocation = row["allocation"] or {}
        fields: dict[str, Any] = {
            "name": f"{row['network']} on {row['bench']}",
            "network": f"{row['network']} of the bench {row['bench']}",
            "dataset": f"{row['bench']}, validation images",
            "data": "training images",
            "weights_hash": row["weights"],
            "images": int(row["calibration_images"]),
            "labels": "none",
            "steps": 0,
            "time": round(float(rows["seconds"].mean()), 1),
            "hardware": _hardware(rows),
        }
        if allocation.get("largest_map_bits") is not None:
            fields["allocation"] = "analytic, by the largest feature map"
        if row["precision"] != "float32":
            fields["remarks"] = f"Products and their sums in {row['precision']}."
        if allocation.get("largest_map_bits") is None and allocation:
            fields |= {
                "allocation": "learned, by channel" if allocation["per_channel"] else "learned",
                "labels": allocation["labels"],
                "steps": allocation["steps"],
            }
        averages = ("average_weight_bits", "average_activation_bits")
        fields |= {name: round(row[name], 4) for name in averages if row[name] is not None}
        fields |= _chosen_bits(row)
        sides = zip(table.weight_bits, table.activation_bits, strict=True)
        quantized = table[[weights is not None or activations is not None for weights, activations in sides]]
        baseline = results.float_accuracy(row["bench"], row["network"], table)
        config = QuantConfig.from_dict({name: row[name] for name in names})
        runs = [results.accuracy_of(r) for r in rows.to_dict("records")]
        size = _size_of(row, config)
        deviations = _deviations(quantized, row, names)
        return cls.from_run(
            config, runs, baseline=baseline, size=size, **{**fields, "deviations": deviations, **known}
        )

    @classmethod
    def from_yaml(cls, text: str) -> QuantizationCard:
        """From a card's YAML. Raises ``ValueError`` in one line."""
        return cls(read_yaml(text))

    @classmethod
    def load(cls, path: str | Path) -> QuantizationCard:
        """From a YAML file. Raises ``ValueError`` naming the file, ``OSError`` if it cannot be read."""
        try:
            return cls(load_yaml(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_onnx(cls, path: str | Path, name: str | None = None, **known: Any) -> QuantizationCard:
        """What a quantized ONNX model's graph shows; see `qlib.cards.from_onnx`."""
        from .from_onnx import from_onnx

        return from_onnx(path, name, **known)

    def to_yaml(self) -> str:
        return yaml.safe_dump(dict(self.data), sort_keys=False, allow_unicode=True, width=120)

    def save(self, path: str | Path) -> None:
        """Write the file whole, or not at all: YAML, or JSON where ``path`` ends in it."""
        from ..files import write_whole

        path = Path(path)
        as_json = path.suffix == ".json"
        write_whole(
            path,
            json.dumps(dict(self.data), indent=2, ensure_ascii=False) + "\n" if as_json else self.to_yaml(),
        )

    def differences(self, other: QuantizationCard, measure: bool = True) -> list[Any]:
        """The choices in which two cards differ; see `qlib.cards.compare`."""
        from .compare import differences

        return differences(self, other, measure)

    def fits(self, target: str | Path | Mapping[str, Any]) -> list[Any]:
        """What a chip cannot run, or runs slower; see `qlib.cards.hardware`."""
        from .hardware import check

        return check(self, target)

    def to_markdown(self) -> str:
        from .render import markdown

        return markdown(self)

    def to_html(self) -> str:
        from .render import html

        return html(self)

    def to_latex(self) -> str:
        from .render import latex

        return latex(self)

    def __str__(self) -> str:
        from .render import text

        return text(self)

    def _repr_html_(self) -> str:
        return self.to_html()


def _measured(runs: Sequence[Accuracy]) -> dict[str, Any]:
    mean = float(np.mean([run.top1 for run in runs]))
    n = runs[0].n
    low, high = wilson(mean / 100, n)
    return {"top1": round(mean, 2), "low": round(low, 2), "high": round(high, 2), "n": n}


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


def _hardware(rows: pd.DataFrame) -> str:
    """On which these rows were recorded, as the sessions of their table say."""
    sessions = rows.attrs.get("sessions", [])
    numbers = [number for number in dict.fromkeys(rows["session"]) if number < len(sessions)]
    named = [
        ", ".join(sessions[i][key] for key in ("device", "hardware") if key in sessions[i]) for i in numbers
    ]
    return "; ".join(dict.fromkeys(filter(None, named))) or NOT_REPORTED


def _size_of(row: Mapping[str, Any], config: QuantConfig) -> Footprint | None:
    """``None`` where the row's bench is not at hand, such as one of the reader's own."""
    from ..footprints import Footprint, footprint

    try:
        bench = load_bench(row["bench"])
    except (ValueError, OSError):
        return None
    layers = footprint(bench.models[row["network"]], bench.validation(1)[0][0], config).layers
    if row["bits"]:  # chosen by the run, by layer
        layers = (
            dataclasses.replace(
                layer, weight_bits=row["bits"][layer.name][0], activation_bits=row["bits"][layer.name][1]
            )
            for layer in layers
        )
    return Footprint(tuple(layers))


def _deviations(table: pd.DataFrame, row: Mapping[str, Any], names: Sequence[str]) -> dict[str, list]:
    """By field, what other rows of ``table`` have (words for what is not a number or a switch), the card's
    own left out.
    """
    found = {}
    for name in (name for name in [*names, "network"] if name in FIELDS):
        values: dict[str, Any] = {}
        for value in table[name]:
            simple = WORDS[name] if value is None and name in WORDS else "none" if value == [] else value
            simple = simple if isinstance(simple, (str, int, float, bool)) else json.dumps(simple)[:200]
            values.setdefault(json.dumps(value), simple)
        values.pop(json.dumps(row[name]), None)
        if values:
            found[name] = list(values.values())[:200]
    return found


# ------------------------------------------------------------------------------------------------------------
# Reading what strangers wrote


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Plain YAML: no tags, no key twice, no endless number."""

    def construct_mapping(self, node, deep=False):
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise ValueError(
                    f"line {key.start_mark.line + 1}: names must be text; put what looks like a number in "
                    "quotes"
                )
            if key.value in seen:
                raise ValueError(f"line {key.start_mark.line + 1}: {_short(key.value)} stands there twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node):
        if len(node.value) > 30:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of {len(node.value):,} digits")
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _bounded(text: str) -> None:
    """Refuse what a few lines of text can blow up, before anything is built of it: aliases, depth, and too
    many values.
    """
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        where = f"line {event.start_mark.line + 1}: "
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"{where}aliases are not allowed here")
        if depth > MAX_DEPTH:
            raise ValueError(f"{where}nested too deeply")
        if count > MAX_VALUES:
            raise ValueError(f"{where}more than {MAX_VALUES:,} values")


def read_yaml(text: str) -> Any:
    """Plain data from YAML text of at most a megabyte. Raises ``ValueError`` in one line."""
    if len(text.encode("utf8", "replace")) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES:,} bytes")
    try:
        _bounded(text)
        data = yaml.load(text, Loader=_Loader)  # a safe loader
        json.dumps(data, allow_nan=False)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    except TypeError as error:
        raise ValueError(
            f"holds more than text, numbers, lists and mappings ({error}); put dates in quotes"
        ) from None
    except ValueError as error:
        raise ValueError(
            "holds a number that is not finite" if "JSON" in str(error) else str(error)
        ) from None
    return data


def load_yaml(path: str | Path) -> Any:
    """`read_yaml` of a file, which is not read if it is too large."""
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES:,} bytes")
    try:
        return read_yaml(content.decode("utf8"))
    except UnicodeDecodeError:
        raise ValueError("not a text file in UTF-8") from None


def _checked(data: Any) -> dict[str, Any]:
    """``data`` with every missing field as ``not reported``, in the schema's order."""
    if not isinstance(data, Mapping):
        what = "nothing" if data is None else f"a {type(data).__name__}"
        raise ValueError(f"a card is a mapping of categories, not {what}")
    version = data.get("schema_version", NOT_REPORTED)
    if version != 1 or isinstance(version, bool):
        newer = "; a newer one may read it" if isinstance(version, int) and version > 1 else ""
        raise ValueError(f"schema_version is {_short(version)}, but this qlib reads version 1{newer}")
    known = list(SCHEMA["properties"])
    for name in data:
        if name not in known:
            raise ValueError(
                f"a card has no {_short(name)}{_place(name) or suggestion(str(name)[:100], known)}"
            )
    empty = {"deviations": {}, "sources": {}}
    whole = {name: data.get(name, empty.get(name, NOT_REPORTED)) for name in known}
    for category, fields in CATEGORIES.items():
        given = data.get(category, {})
        if not isinstance(given, Mapping):
            raise ValueError(f"{category} must be a mapping of fields, got {_short(given)}")
        for name in given:
            if name not in fields:
                raise ValueError(
                    f"{category} has no field "
                    f"{_short(name)}{_place(name) or suggestion(str(name)[:100], fields)}"
                )
        whole[category] = {name: given.get(name, NOT_REPORTED) for name in fields}
    try:
        text = json.dumps(whole, ensure_ascii=False)
        text.encode("utf8")
    except UnicodeEncodeError:
        raise ValueError("the card holds half of a character (a lone surrogate), which no file can") from None
    whole = json.loads(text, parse_float=_number)  # tuples to lists, and a copy of our own
    found = fault(whole, SCHEMA)
    if found is not None:
        path = [str(part) for part in found.path]
        field = FIELDS.get(path[1]) if len(path) > 1 else None
        examples = ", ".join(map(_short, field["examples"])) if field else ""
        hint = f"; {field['title']}: {field['description']} For example {examples}" if field else ""
        raise ValueError(f"{'.'.join(path) or 'card'}: {_short(found.value)} is not what belongs there{hint}")
    return whole


def _number(text: str) -> int | float:
    """8.0 and 8 are one value in JSON, and so on a card."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _place(name: Any) -> str:
    return f"; it belongs to {CATEGORY_OF[name]}" if name in CATEGORY_OF else ""


def _short(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:59] + "…"
