"""`QuantConfig`: every design tradeoff of a quantizer in the paper is one field of one frozen dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import yaml

Bits = int | tuple[int, ...]
SYMMETRIC_GRIDS = ("full", "restricted", "authors")  # as `qlib.affine.make_grid` makes them
RANGES = ("minmax", "percentile", "mse")  # as `qlib.ranges` finds them
CHOICES = {
    "symmetric_grid": SYMMETRIC_GRIDS,
    "weight_granularity": ("per_channel", "per_tensor"),
    "activation_granularity": ("per_tensor", "per_channel"),
    "weight_range": RANGES,
    "activation_range": RANGES,
    "pooling": ("high_precision", "low_precision", "float"),
    "calibration_upstream": ("float", "quantized"),
}
SWITCHES = (
    "weight_symmetric",
    "activation_symmetric",
    "activation_dynamic",
    "quantize_skip",
    "quantize_residual",
    "quantize_output",
)
MAX_BITS = 16  # finer grids are not exact in float32
MAX_LAYER_BITS = 32  # 17 to 32 pass through as float and count at their bits
LATER = {"later": True}  # metadata of a field that was added after rows were recorded: `QuantConfig.identity`


@dataclass(frozen=True)
class QuantConfig:
    """How a network is quantized; the object that builds the model also labels its result and prints as its
    card.

    ``weight_bits``, ``activation_bits``: an int (1 to 16), ``None`` to leave that side in float, or a
    dictionary from layer or tensor name (as `qlib.footprint` lists them) to bits, where ``"default"`` (8 if
    absent) is for names not given, and a value may be a tuple with one int per output channel. In a
    dictionary 17 to 32 bits are allowed: such a tensor stays in float and counts at its bits (paper, figure
    7). A name may be a shell pattern, such as ``"layer1.*"`` (with case): an exact name goes before a
    pattern, a pattern before ``"default"``, of two patterns the more specific (more characters that are no
    wildcards); two equally specific ones that fit one name are an error.

    ``weight_symmetric``, ``activation_symmetric``, ``symmetric_grid``: section 2.1 and
    `qlib.affine.make_grid`; symmetric needs 2 bits or more. ``..._granularity``: one range per output channel
    of a weight (axis 0), per channel of an activation (axis 1), or one per tensor. ``..._range`` and
    ``percentile``: how the clipping range is found, see `qlib.ranges`. ``activation_dynamic``: a range per
    image, found while it runs. ``calibration_upstream``: whether layers upstream compute in float while
    ranges are found, or quantized as in the published code.

    ``quantize_skip``, ``quantize_residual``: figure 1 of the paper is (True, True), (True, False), (False,
    False); what each leaves in float: `qlib.placement`. ``pooling``: average pooling in float and
    requantized, as a rounded integer mean, or left in float; it acts where the averaged map is quantized, so
    not with ``quantize_skip=False``. ``input_bits``: of the image (``None``: float). ``quantize_output``:
    quantize the logits. ``first_last_bits``: of the first and the last layer's weights and of what these two
    produce (``None``: treated like the rest). ``bit_choices``: what mixed precision may choose from (section
    2.3).

    ``float_layers``: names or shell patterns of modules that are left in float whole, whatever they hold
    (embeddings, recurrent layers, modules of your own, a whole submodule). What enters them is not quantized
    for them; what leaves them is float until it enters a layer. They count 32 bits and are never the first or
    the last layer. A convolution or linear layer with 32 bits in both dictionaries is the same thing.

    Raises ``ValueError`` naming the field, the value and what is allowed.
    """

    weight_bits: int | Mapping[str, Bits] | None = 8
    activation_bits: int | Mapping[str, Bits] | None = 8
    weight_symmetric: bool = False
    activation_symmetric: bool = False
    symmetric_grid: str = "full"
    weight_granularity: str = "per_channel"
    activation_granularity: str = "per_tensor"
    weight_range: str = "minmax"
    activation_range: str = "minmax"
    percentile: float = 99.99
    activation_dynamic: bool = False
    quantize_skip: bool = True
    quantize_residual: bool = True
    pooling: str = "high_precision"
    input_bits: int | None = 8
    quantize_output: bool = True
    calibration_upstream: str = "float"
    first_last_bits: int | None = 8
    float_layers: tuple[str, ...] = dataclasses.field(default=(), metadata=LATER)
    bit_choices: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)

    def __new__(cls, *values: Any, **fields: Any) -> QuantConfig:
        cls._refuse_unknown(fields, TypeError)  # as Python does, and with a suggestion
        return super().__new__(cls)

    def __post_init__(self):
        for name in ("weight_bits", "activation_bits"):
            symmetric = self.weight_symmetric if name == "weight_bits" else self.activation_symmetric
            object.__setattr__(self, name, _side(name, getattr(self, name), 2 if symmetric is True else 1))
        lowest = {"input_bits": 1 + (self.activation_symmetric is True and self.activation_bits is not None)}
        lowest["first_last_bits"] = max(
            1 + (self.weight_symmetric is True and self.weight_bits is not None), lowest["input_bits"]
        )
        for name, least in lowest.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _bits(name, getattr(self, name), MAX_BITS, least))
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, allowed))}; got {getattr(self, name)!r}"
                )
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if isinstance(self.percentile, bool) or not isinstance(self.percentile, (int, float)):
            raise ValueError(f"percentile must be a number above 50 and at most 100, got {self.percentile!r}")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must be above 50 and at most 100, got {self.percentile!r}")
        object.__setattr__(self, "percentile", float(self.percentile))
        object.__setattr__(self, "float_layers", _names("float_layers", self.float_layers))
        if isinstance(self.bit_choices, (str, Mapping)) or not isinstance(self.bit_choices, Iterable):
            raise ValueError(f"bit_choices must be a sequence of ints, got {self.bit_choices!r}")
        choices = sorted({_bits("bit_choices", b, MAX_BITS) for b in self.bit_choices})
        if not choices:
            raise ValueError("bit_choices must hold at least one bitwidth")
        object.__setattr__(self, "bit_choices", tuple(choices))

    def __hash__(self) -> int:
        return hash(self.to_json())

    def replace(self, **changes: Any) -> QuantConfig:
        """This configuration with some fields changed, checked again."""
        return type(self).from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain ints, floats, strings, lists and dictionaries: what YAML and JSON hold."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def identity(self) -> dict[str, Any]:
        """`to_dict` as the key of a recorded row needs it: without the fields that were added later and have
        their default, so that a new field changes no key."""
        later = {field.name: field.default for field in dataclasses.fields(self) if field.metadata == LATER}
        return {
            name: value
            for name, value in self.to_dict().items()
            if name not in later or getattr(self, name) != later[name]
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> QuantConfig:
        """The inverse of `to_dict`; fields left out keep their default, an unknown one is a
        ``ValueError``.
        """
        if not isinstance(fields, Mapping):
            raise ValueError(
                f"a configuration is a mapping of field names to values, got {type(fields).__name__}"
            )
        cls._refuse_unknown(fields, ValueError)
        return cls(**fields)

    @classmethod
    def _refuse_unknown(cls, names: Iterable[object], error: type[Exception]) -> None:
        known = [f.name for f in dataclasses.fields(cls)]
        for name in names:
            if name not in known:
                raise error(f"QuantConfig has no field {name!r}{suggestion(name, known)}")

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str) -> QuantConfig:
        return cls.from_dict(yaml.safe_load(text))

    def to_json(self) -> str:
        """Canonical: the same configuration always gives the same text."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> QuantConfig:
        return cls.from_dict(json.loads(text))


# Without this, help and documentation would show the arguments of `__new__`.
_signature = inspect.signature(QuantConfig.__init__)
QuantConfig.__signature__ = _signature.replace(parameters=list(_signature.parameters.values())[1:])


def suggestion(name: object, known: Iterable[str]) -> str:
    """The end of an error message: the closest known name, or all of them, up to thirty."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(known) - 30} more" if len(known) > 30 else ""
    return f"; known names: {', '.join(known[:30])}{more}"


def is_pattern(name: str) -> bool:
    """Whether a name is a shell pattern: whether it holds a wildcard."""
    return any(wildcard in name for wildcard in "*?[")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether the module ``name``, or one around it, has one of these names or fits one of these patterns."""
    parts = name.split(".")
    around = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(module == pattern or fnmatchcase(module, pattern) for pattern in patterns for module in around)


def entry(field: str, table: Mapping[str, Bits], name: str) -> Bits | None:
    """What a bits dictionary says of ``name``: under the name itself, else under the most specific pattern
    that it fits, else ``None``; ``"default"`` is left to the caller.

    Raises ``ValueError`` naming ``field`` where two equally specific patterns fit.
    """
    if name in table and name != "default":
        return table[name]
    fitting = sorted((key for key in table if is_pattern(key) and fnmatchcase(name, key)), key=_specificity)
    if len(fitting) > 1 and _specificity(fitting[-2]) == _specificity(fitting[-1]):
        both = " and ".join(map(repr, fitting[-2:]))
        raise ValueError(
            f"{field}: the patterns {both} are equally specific and both fit {name!r}; "
            f"give {name!r} an entry of its own, or make one pattern longer"
        )
    return table[fitting[-1]] if fitting else None


def _specificity(pattern: str) -> int:
    """How many characters of a shell pattern are no wildcards."""
    return len(re.sub(r"\*|\?|\[!?\]?[^\]]*\]", "", pattern))


def _names(field: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError(
            f"{field} must be a tuple of names or patterns, got {value!r}: write ({value!r},), "
            f"or in YAML [{value}]"
        )
    if not isinstance(value, (tuple, list)):
        raise ValueError(f"{field} must be a tuple of names or patterns of modules, got {value!r}")
    for name in value:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{field}: names and patterns are strings that are not empty, got {name!r}")
    return tuple(sorted(set(value)))


def _side(name: str, value: Any, least: int) -> int | dict[str, Bits] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return _bits(name, value, MAX_BITS, least)
    result: dict[str, Bits] = {}
    for key, bits in value.items():
        if not isinstance(key, str):
            raise ValueError(f"{name}: names must be strings, got {key!r}")
        where = f"{name}[{key!r}]"
        if isinstance(bits, (tuple, list)):
            if not bits:
                raise ValueError(
                    f"{where}: a tuple of bits needs one int per output channel, got an empty one"
                )
            result[key] = tuple(_bits(where, b, MAX_BITS, least) for b in bits)
        else:
            result[key] = _bits(where, bits, MAX_LAYER_BITS, least)
    return result


def _bits(name: str, value: Any, most: int, least: int = 1) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        bits = operator.index(value)
    except TypeError:
        raise ValueError(
            f"{name} must be a whole number of bits from {least} to {most}, got {value!r}"
        ) from None
    if not least <= bits <= most:
        why = " (a symmetric grid needs 2 bits or more)" if least == 2 and bits == 1 else ""
        raise ValueError(f"{name} must be a whole number of bits from {least} to {most}, got {bits}{why}")
    return bits


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
