"""Experiments: named grids of runs. `qlib.laboratory` measures one of them, and `qlib.recording` all.

Grids are read without torch.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .benches import Bench, load_bench
from .bits.settings import LearnerSettings
from .choices import choice, choices
from .config import QuantConfig, configuration_named
from .methods import spelled
from .metrics import TOP1, find_metric
from .names import suggestion
from .strict_yaml import load_yaml
from .strict_yaml import short as cut

IMAGES = 10_000  # evaluated, and
CALIBRATION_IMAGES = 320  # of a draw: where nothing is said, and the bench has so many
TRAINING = "training"
DATA = (TRAINING, "noise", "distilled", "photographs")  # images, and what stands in for them


@dataclass(frozen=True)
class Allocation(LearnerSettings):
    """How a run chooses its bits by layer: learned where a target is given, else analytic.

    Parameters
    ----------
    labels : {"true", "hard", "soft"}
        What bits are learned on: true labels, or hard or soft ones of the float network.
    largest_map_bits : int, optional
        Bits are analytic: no feature map is larger than the largest of a network with so many in every layer
        but the last.
    **settings
        The fields of `LearnerSettings`.

    Raises
    ------
    ValueError
        Where neither a target nor ``largest_map_bits`` is given, or both are.
    """

    labels: str = choice(
        "true",
        "Labels",
        "True ones, or the float network's: its best class (hard) or its probabilities (soft).",
        values=("true", "hard", "soft"),
    )
    largest_map_bits: int | None = choice(
        None,
        "Bits of the largest map",
        "No feature map is larger than the largest of a network with so many bits.",
        least=1,
        whole=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learned == (self.largest_map_bits is not None):
            raise ValueError(
                "an allocation needs target_weight_bits or target_activation_bits, or else largest_map_bits; "
                "a setting of a method stands with its name, such as {name: adaround, steps: 10}"
            )

    @property
    def learned(self) -> bool:
        return bool(self.targets)


ALLOCATION_FIELDS = tuple(f.name for f in dataclasses.fields(Allocation))
OF_RUNS = ("method", "calibration_images")  # what a partial configuration may say beside these


@dataclass(frozen=True)
class Run:
    """One row to be: what is quantized, how, and on which data it is calibrated (and, if so, learned) and
    evaluated.

    Parameters
    ----------
    bench : str
        Its name.
    network : str
        Its name on that bench.
    config : QuantConfig
        The choices.
    calibration_images : int
        How many training images are calibrated on; bits are learned on these too.
    calibration_seed : int
        What draws them.
    images : int
        How many images are evaluated.
    allocation : Allocation, optional
        How bits by layer are chosen; ``None`` for those of ``config``.
    method : str
        As `qlib.methods.spelled` has it.
    metric : str
        A name, or ``FILE.py:NAME``.
    rounding_seed : int
        Which rounding of the weights, as for `qlib.quantize`.
    data : str
        What is calibrated and learned on: ``"training"`` images, or a kind of `qlib.benches.substitutes`.
    weights_first : bool
        Whether weights are quantized, by whatever method, while all activations are in float
        (`qlib.quantization.weights_first`), and ranges of activations are found then.
    """

    bench: str
    network: str
    config: QuantConfig
    calibration_images: int
    calibration_seed: int
    images: int
    allocation: Allocation | None = None
    method: str = "nearest"
    metric: str = TOP1.name
    rounding_seed: int = 0
    data: str = TRAINING
    weights_first: bool = False


@dataclass(frozen=True)
class Experiment:
    """A grid of runs on one bench.

    Parameters
    ----------
    name : str
        Its name.
    bench : str
        The name of the bench.
    fixed : mapping
        A partial configuration, which all runs share: from field of `QuantConfig` or of `Allocation` to
        value, from ``method`` to a name, a mapping of name and settings, or a list of such, or from
        ``calibration_images`` to a number, which goes before that of the grid.
    vary : tuple of tuples of mappings
        The configurations are all combinations of one element, a partial configuration like ``fixed``, from
        each list in it.
    networks : tuple of str
        Of the bench.
    images : int, optional
        How many images are evaluated; ``None`` for 10,000, or all where the bench has fewer.
    calibration_images : tuple of int, optional
        Each configuration is run with every number of them; ``None`` for 320, or all where there are fewer.
    seeds : tuple of int
        Each configuration is run with every one, which draws the calibration images,
    rounding_seeds : tuple of int
        and with every one of these; 0 is the rounding that a network is shipped with. Of several seeds and
        several of these the i-th go together, so that no draw has several roundings and is counted anew.
    data : tuple of str
        Each configuration is run with every kind of images to calibrate and to learn on (`Run.data`).
    weights_first : bool
        As for `Run`: weights that several configurations have alike are then quantized once.
    float_baseline : bool
        Whether every network is also recorded unquantized, unless it is what the metric measures against.
    own : mapping, optional
        As for `qlib.load_bench`.
    metric : str, optional
        What is measured; ``None`` for what the bench says, or else top-1.
    config_class : str, optional
        Where a configuration with more choices stands, ``FILE.py:NAME``.

    Raises
    ------
    ValueError
        Naming the field.
    """

    name: str
    bench: str
    fixed: Mapping[str, Any]
    vary: tuple[tuple[Mapping[str, Any], ...], ...]
    networks: tuple[str, ...] = ("base",)
    images: int | None = None
    calibration_images: tuple[int, ...] | None = None
    seeds: tuple[int, ...] = (0,)
    rounding_seeds: tuple[int, ...] = (0,)
    data: tuple[str, ...] = (TRAINING,)
    weights_first: bool = False
    float_baseline: bool = True
    own: Mapping[str, Any] | None = None
    metric: str | None = None
    config_class: str | None = None

    def __post_init__(self) -> None:
        for field, (right, what) in _FIELDS.items():
            if not right(getattr(self, field)):
                raise ValueError(f"{field} must be {what}, got {cut(getattr(self, field))}")
        if len({1, len(self.seeds), len(self.rounding_seeds)}) > 2:
            raise ValueError(
                f"{len(self.seeds)} seeds and {len(self.rounding_seeds)} rounding_seeds: the i-th go "
                "together, so give equally many, or one of either"
            )

    def configurations(self) -> type[QuantConfig]:
        """The class of this grid's configurations."""
        found = configuration_named(self.config_class)
        taken = [name for name in found.defaults() if name in (*ALLOCATION_FIELDS, *OF_RUNS)]
        if taken:
            raise ValueError(
                f"{self.config_class!r} calls a choice {taken[0]!r}, which a grid has: rename it"
            )
        return found

    def own_choices(self) -> dict[str, Any]:
        """The choices that its configurations have beside those of `QuantConfig`, and their defaults."""
        return {k: v for k, v in self.configurations()().to_dict().items() if k not in choices(QuantConfig)}

    def _throws(self) -> list[tuple[int, int]]:
        """Seeds of draws, each with that of its rounding."""
        if min(len(self.seeds), len(self.rounding_seeds)) > 1:
            return list(zip(self.seeds, self.rounding_seeds, strict=True))
        return list(itertools.product(self.seeds, self.rounding_seeds))

    def load_bench(self) -> Bench:
        return load_bench(self.bench, self.own) if self.own else load_bench(self.bench)

    def measuring(self, bench: Bench) -> Experiment:
        """This grid on ``bench``, with what it does not say: the metric, and how many images."""
        there = getattr(bench, "available", {})
        images = self.images or min(IMAGES, there.get("validation", IMAGES))
        calibration = min(CALIBRATION_IMAGES, there.get("calibration", CALIBRATION_IMAGES))
        return dataclasses.replace(
            self,
            metric=self.metric or getattr(bench, "metric", None),
            images=images,
            calibration_images=self.calibration_images or (calibration,),
        )

    @classmethod
    def load(cls, path: Path) -> Experiment:
        """From a YAML file with these fields.

        Parameters
        ----------
        path : Path
            In the file, ``vary`` is a list of axes, each a list of partial configurations or one mapping from
            a field to its values. One value may stand where a list does.

        Raises
        ------
        ValueError
            Naming the file and the field.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        try:
            given = load_yaml(path)
            if not isinstance(given, Mapping):
                raise ValueError("expected a mapping of fields")
            for field in given:
                if field not in known:
                    raise ValueError(f"no field {field!r}{suggestion(field, known)}")
            if "bench" not in given:
                given = {"bench": name_of(given.get("own")), **given}
            lists = ("networks", "seeds", "rounding_seeds", "data", "calibration_images")
            several = [k for k in lists if given.get(k) is not None]
            tuples = {k: tuple(_listed(given[k])) for k in several}
            axes = tuple(map(_axis, _listed(given.get("vary", []))))
            experiment = cls(**{"name": path.stem, "fixed": {}, **given, **tuples, "vary": axes})
            experiment.runs()
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error
        return experiment

    def runs(self) -> list[Run]:
        """Every run of the grid, in order; no run twice."""
        runs = {}
        kind = self.configurations()
        metric = TOP1.name if self.metric is None else self.metric
        images, draws = self.images or IMAGES, self.calibration_images or (CALIBRATION_IMAGES,)
        baseline = self.float_baseline and find_metric(metric).against != "reference"
        for network in self.networks:
            if baseline:
                config = kind(weight_bits=None, activation_bits=None)
                runs[Run(self.bench, network, config, 0, 0, images, metric=metric)] = None
            for parts in itertools.product(*self.vary):
                fields = {**self.fixed, **functools.reduce(lambda a, b: {**a, **b}, parts, {})}
                chosen = {name: fields.pop(name) for name in ALLOCATION_FIELDS if name in fields}
                method = spelled(fields.pop("method", "nearest"))
                own = _own_number(fields.pop("calibration_images", None)) or draws
                config = kind.from_dict(fields)
                method = "nearest" if config.in_float else method  # which then has nothing to do
                allocation = Allocation(**chosen) if chosen else None
                first = self.weights_first and None not in (config.weight_bits, config.activation_bits)
                if first and allocation:
                    raise ValueError(
                        "weights_first quantizes at given bits: leave it out where bits are chosen"
                    )
                for n, data, (seed, rounding) in itertools.product(own, self.data, self._throws()):
                    how = (allocation, method, metric, rounding, data, first)
                    runs[Run(self.bench, network, config, n, seed, images, *how)] = None
        return list(runs)


def _own_number(images: Any) -> tuple[int, ...]:
    """That of calibration images of a partial configuration; empty where it says none."""
    right, what = _FIELDS["calibration_images"]
    if images is not None and not right((images,)):
        raise ValueError(f"calibration_images must be {what}, got {cut(images)}")
    return () if images is None else (images,)


def name_of(own: Any) -> str:
    """Of the bench that a grid with ``own`` is about, where none is said: the folder's of the data, or that
    of what makes one.
    """
    own = own if isinstance(own, Mapping) else {}
    return Path(str(own.get("data", ""))).name or str(own.get("bench", "digits")).rpartition(":")[2]


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _each(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, tuple) and bool(values) and all(map(right, values))


def _name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _optional(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or right(value)


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_name, "a name"),
    "bench": (_name, "the name of a bench"),
    "fixed": (lambda value: isinstance(value, Mapping), "a mapping from field to value"),
    "networks": (_each(_name), "names of networks"),
    "images": (_optional(lambda n: _whole(n, 1)), "a whole number above 0"),
    "calibration_images": (_optional(_each(lambda n: _whole(n, 1))), "whole numbers above 0"),
    "seeds": (_each(lambda n: _whole(n, 0)), "whole numbers from 0"),
    "rounding_seeds": (_each(lambda n: _whole(n, 0)), "whole numbers from 0"),
    "data": (_each(lambda kind: kind in DATA), f"kinds of images, {', '.join(DATA)}"),
    "weights_first": (lambda value: isinstance(value, bool), "true or false"),
    "float_baseline": (lambda value: isinstance(value, bool), "true or false"),
    "own": (
        _optional(lambda value: isinstance(value, Mapping) and bool(value)),
        "a mapping of model, weights, data and preprocess",
    ),
    "metric": (_optional(_name), "a name or FILE.py:NAME, by which it is found"),
    "config_class": (_optional(_name), "FILE.py:NAME"),
}


def _listed(value: Any) -> list[Any]:
    """One value may stand where a list does."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _axis(axis: Any) -> tuple[Mapping[str, Any], ...]:
    """An element of ``vary``: partial configurations, or the values of one field."""
    if isinstance(axis, Mapping):
        if len(axis) != 1:
            raise ValueError(
                f"vary: {cut(axis)} has {len(axis)} fields: give each a line of its own for all "
                "combinations, or list the configurations that are meant, - [{...}, {...}]"
            )
        ((name, values),) = axis.items()
        return tuple({name: value} for value in _listed(values))
    parts = _listed(axis)
    if not all(isinstance(part, Mapping) for part in parts):
        raise ValueError(f"vary: {cut(axis)} is not a mapping from a field to its values, nor a list of such")
    return tuple(parts)
