"""`QuantizationCard`: the choices behind an accuracy, in the paper's five categories (section 3, table 1)
and a sixth about how it was measured.

What a card holds is said by its fields (`qlib.cards.fields`). What is unknown is ``not reported``, never
blank. The class stands on top of all that reads, shows and compares cards; none of these knows it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import QuantConfig
from ..files import write_whole
from ..names import suggestion
from ..strict_yaml import load_yaml, read_yaml, to_json, to_yaml
from .data import MODELS, checked, sorted_in
from .fields import NOT_REPORTED, Fields, fields_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from ..benches import Bench
    from ..footprints import Footprint
    from ..kernels.latency import Latency
    from ..metrics import Measurement
    from .compare import Choice
    from .hardware import Finding


@dataclasses.dataclass(frozen=True)
class QuantizationCard:
    """A card, checked. ``card["weight_bits"]`` is a field's value, whatever its category.

    Parameters
    ----------
    data : mapping
        Plain dictionaries, lists, strings and numbers as the schema says. What it leaves out is filled in as
        ``not reported``.
    config_class : class
        Of the configuration that the card is about. A class of your own, derived from `QuantConfig`, may add
        choices, which are fields of the card like all others.

    Raises
    ------
    ValueError
        In one line, naming the field.
    """

    data: Mapping[str, Any]
    config_class: type[QuantConfig] = dataclasses.field(default=QuantConfig, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "data", checked(self.data, self.fields))

    def __getitem__(self, field: str) -> Any:
        self._know(field)
        return self.data[self.fields.category_of[field]][field]

    def _know(self, field: str) -> None:
        if field not in self.fields:
            raise KeyError(f"a card has no field {field!r}{suggestion(field, self.fields)}")

    @property
    def name(self) -> str:
        return self.data["name"]

    @property
    def fields(self) -> Fields:
        """What is known of its fields, by name."""
        return fields_of(self.config_class)

    def acts(self, field: str) -> bool:
        """Whether a field means anything beside the others; what it needs is stated about it (`qlib.choices`,
        `qlib.cards.fields`). What does not: a percentile where no range is one, the kind of a
        symmetric grid where none is symmetric, choices of bits where there is one bitwidth, calibration where
        ranges are dynamic, layers left in float where none is named, those of a side that stays in float,
        those of maps that the placement leaves in float (`qlib.placement`), and the context of what is not
        measured by perplexity.
        """
        self._know(field)
        values = {name: self.data[category][name] for name, category in self.fields.category_of.items()}
        return self.fields.acts(field, values)

    @classmethod
    def of(
        cls,
        name: str,
        *,
        config_class: type[QuantConfig] = QuantConfig,
        authors: str = NOT_REPORTED,
        link: str = NOT_REPORTED,
        remarks: str = NOT_REPORTED,
        faults: Sequence[Mapping[str, Any]] = (),
        deviations: Mapping[str, list] | None = None,
        sources: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> QuantizationCard:
        """A card from its fields by name, without their categories."""
        about = {
            "name": name,
            "authors": authors,
            "link": link,
            "remarks": remarks,
            "faults": list(faults),
            "deviations": dict(deviations or {}),
            "sources": dict(sources or {}),
        }
        return cls(sorted_in(fields_of(config_class), fields, about), config_class)

    @classmethod
    def from_run(
        cls,
        config: QuantConfig,
        accuracy: Measurement | Sequence[Measurement] | None = None,
        *,
        method: Any = "nearest",
        baseline: Measurement | None = None,
        size: Footprint | None = None,
        model: nn.Module | None = None,
        bench: Bench | None = None,
        network: str = NOT_REPORTED,
        latency: Latency | None = None,
        name: str = "a run of qlib",
        **known: Any,
    ) -> QuantizationCard:
        """The card of a run: every field that is known of it.

        Parameters
        ----------
        config : QuantConfig
            Also one of a class of your own that adds choices.
        accuracy : Measurement or sequence
            As measured, by whatever metric; several are one for each seed.
        method
            How codes and ranges were found, as for `qlib.quantize`.
        baseline, size, model, latency : Measurement, Footprint, nn.Module, Latency
            The first and the third of the float network, the others (`qlib.latency`) of the quantized one.
        bench : Bench
            Which knows its data, and the network of the name ``network``.
        known
            What only a person can say: any field of the card or of `of`.

        Raises
        ------
        ValueError
            Naming the field, or the network that the bench does not have.
        """
        from .from_run import from_run

        fields = from_run(
            config,
            accuracy,
            method=method,
            baseline=baseline,
            size=size,
            model=model,
            bench=bench,
            network=network,
            latency=latency,
        )
        return cls.of(name, config_class=type(config), **{**fields, **known})

    @classmethod
    def from_rows(
        cls,
        rows: pd.DataFrame,
        table: pd.DataFrame | None = None,
        config_class: type[QuantConfig] = QuantConfig,
        **known: Any,
    ) -> QuantizationCard:
        """The card of recorded rows that differ in nothing but their seed. Where bits were learned those of
        the first seed stand for all.

        Parameters
        ----------
        rows : DataFrame
            Of `qlib.results.load_table`.
        table : DataFrame
            All rows of the same work. The settings in which they differ from ``rows`` become ``deviations``,
            and the row in float is the baseline.
        config_class : class
            Of the rows' configurations; its choices are columns.
        known
            What only a person can say: any field of the card or of `of`.

        Raises
        ------
        ValueError
            Naming the columns in which the rows differ, the one that they lack, or the choices that
            ``config_class`` does not have.
        """
        from .from_rows import from_rows

        fields = from_rows(rows, table, config_class)
        return cls.of(config_class=config_class, **{**fields, **known})

    @classmethod
    def from_yaml(cls, text: str, config_class: type[QuantConfig] = QuantConfig) -> QuantizationCard:
        """From a card's YAML.

        Raises
        ------
        ValueError
            In one line.
        """
        return cls(read_yaml(text), config_class)

    @classmethod
    def load(cls, path: str | Path, config_class: type[QuantConfig] = QuantConfig) -> QuantizationCard:
        """From a YAML or JSON file.

        Parameters
        ----------
        path : path
        config_class : class
            Of the configuration that the card is about, where that adds choices of its own.

        Raises
        ------
        ValueError
            In one line, naming the file and the field.
        OSError
            If the file cannot be read.
        """
        try:
            return cls(load_yaml(path), config_class)
        except ValueError as error:
            kind, command = MODELS.get(Path(path).suffix, (None, None))
            if kind:
                raise ValueError(
                    f"{path} is {kind}, not a card: qlib card {command} {path} makes its card"
                ) from None
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_onnx(cls, path: str | Path, name: str | None = None, **known: Any) -> QuantizationCard:
        """What a quantized ONNX model's graph shows, see `qlib.cards.from_onnx`. ``name`` is the card's, by
        default the file's; ``known`` what the graph does not show.
        """
        from .from_onnx import from_onnx

        return cls.of(name or Path(path).stem, **{**from_onnx(path), **known})

    @classmethod
    def from_checkpoint(cls, path: str | Path, name: str | None = None, **known: Any) -> QuantizationCard:
        """What the files of a checkpoint show, a GGUF file, or a folder as model hubs have them, see
        `qlib.cards.from_checkpoint`; otherwise as `from_onnx`."""
        from .from_checkpoint import from_checkpoint, name_of

        return cls.of(name or name_of(path), **{**from_checkpoint(path), **known})

    def to_yaml(self) -> str:
        return to_yaml(dict(self.data))

    def save(self, path: str | Path) -> None:
        """Write the file whole, or not at all: YAML, or JSON where ``path`` ends in it."""
        as_json = Path(path).suffix == ".json"
        write_whole(path, to_json(dict(self.data)) if as_json else self.to_yaml())

    def differences(self, other: QuantizationCard, measure: bool = True) -> list[Choice]:
        """The choices in which two cards differ; see `qlib.cards.compare`."""
        from .compare import differences

        return differences(self, other, measure)

    def fits(self, target: str | Path | Mapping[str, Any]) -> list[Finding]:
        """What a target cannot run, where it falls back, and what is unknown, in this order; see
        `qlib.cards.hardware`. An empty list: nothing stands against it.
        """
        from .hardware import check

        return [finding for finding in check(self, target) if finding.verdict != "runs"]

    def to_markdown(self) -> str:
        from .render import markdown

        return markdown(self)

    def to_html(self) -> str:
        from .render import html

        return html(self)

    def to_latex(self) -> str:
        from .latex import latex

        return latex(self)

    def __str__(self) -> str:
        from .render import text

        return text(self)

    def _repr_html_(self) -> str:
        return self.to_html()
