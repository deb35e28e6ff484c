"""`QuantConfig`: every design tradeoff of a quantizer in the paper is one field of one frozen dataclass.

What is known of a choice (its values, its side, its name in words, when it acts, since when it is there)
stands in its field's metadata, and nowhere else: see `qlib.choices`.
"""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from . import acting
from .choices import Settings, choice, choices
from .own import named
from .strict_yaml import read_yaml

Bits = int | tuple[int, ...]
SYMMETRIC_GRIDS = ("full", "restricted", "authors")  # as `qlib.affine.make_grid` makes them
RANGES = ("minmax", "percentile", "mse", "aciq")  # as `qlib.ranges` finds them
MAX_BITS = 16  # finer grids are not exact in float32
MAX_GROUP = 2**20  # weights that share a range
MAX_LAYER_BITS = 32  # 17 to 32 pass through as float and count at their bits

# On a card a side may say more than a configuration: what is found in papers and in files of others.
_LAYER_BITS = {"$ref": "#/$defs/layer_bits"}
_TEXT = {"$ref": "#/$defs/text"}
_BITS = {"$ref": "#/$defs/bits"}
_CHOICES = {
    "anyOf": [
        {"const": "any integer"},
        {
            "type": "array",
            "items": {"type": "integer", "minimum": 1, "maximum": 32},
            "minItems": 1,
            "maxItems": 32,
        },
    ]
}


@dataclass(frozen=True)
class QuantConfig(Settings):
    """How a network is quantized; the object that builds the model also labels its result and prints as its
    card.

    Parameters
    ----------
    weight_bits, activation_bits : int, dict or None
        An int (1 to 16), ``None`` to leave that side in float, or a dictionary from layer or tensor name (as
        `qlib.footprint` lists them) to bits, where ``"default"`` (8 if absent) is for names not given, and a
        value may be a tuple with one int per output channel. In a dictionary 17 to 32 bits are allowed: such
        a tensor stays in float and counts at its bits (paper, figure 7). A name may be a shell pattern, such
        as ``"layer1.*"`` (with case): an exact name goes before a pattern, a pattern before ``"default"``, of
        two patterns the more specific (more characters that are no wildcards); two equally specific ones that
        fit one name are an error.
    weight_symmetric, activation_symmetric : bool
        Whether a grid has its zero-point at 0; symmetric needs 2 bits or more.
    symmetric_grid : {"full", "restricted", "authors"}
        Section 2.1 and `qlib.affine.make_grid`.
    weight_granularity : {"per_channel", "per_tensor", "per_group"}
        One range per output channel of a weight (axis 0), one per tensor, or one for every ``group_size``
        weights of an output channel, as they lie in memory (inputs, then places of a kernel).
    group_size : int
        Weights in a group; the last group of a channel may be shorter.
    activation_granularity : {"per_tensor", "per_channel", "per_token"}
        One range per tensor, per channel of an activation (axis 1 of images, the last of tokens), or per
        token: for each example and position one range of all its channels (in attention, of those of one
        head). Ranges per token are found while the network runs, so they need ``activation_dynamic=True``.
    weight_range, activation_range : {"minmax", "percentile", "mse", "aciq"}
        How the clipping range is found, see `qlib.ranges`.
    percentile : float
        Where it is found by one.
    activation_dynamic : bool
        A range per image, found while it runs.
    quantize_skip, quantize_residual : bool
        Figure 1 of the paper is (True, True), (True, False), (False, False); what each leaves in float:
        `qlib.placement`.
    pooling : {"high_precision", "low_precision", "float"}
        Average pooling in float and requantized, as a rounded integer mean, or left in float; it acts where
        the averaged map is quantized, so not with ``quantize_skip=False``.
    input_bits : int or None
        Of the image (``None``: float).
    quantize_output : bool
        Quantize the logits.
    calibration_upstream : {"float", "quantized"}
        Whether layers upstream compute in float while ranges are found, or quantized as in the published
        code.
    first_last_bits : int or None
        Of the first and the last layer's weights and of what these two produce (``None``: treated like the
        rest).
    embedding_bits : int or None
        Of tables that tokens are looked up in, which are never the first layer (``None``: float, or, where
        the head has the same weight, as the head). What a table gives is quantized where it enters a layer.
    kv_bits : int or None
        Of the keys and values of attention, which a language model keeps of earlier tokens (``None``: like
        the rest). With ``activation_bits={"default": 32}`` nothing else of the activations is quantized.
    float_layers : tuple of str
        Names or shell patterns of modules that are left in float whole, whatever they hold (embeddings,
        recurrent layers, modules of your own, a whole submodule). What enters them is not quantized for them;
        what leaves them is float until it enters a layer. They count 32 bits and are never the first or the
        last layer. A convolution or linear layer with 32 bits in both dictionaries is the same thing.
    bit_choices : tuple of int
        What mixed precision may choose from (section 2.3).

    Raises
    ------
    ValueError
        Naming the field, the value and what is allowed.
    """

    weight_bits: int | Mapping[str, Bits] | None = choice(
        8,
        "Weight bits",
        "One number, a list of those tried, bits by layer, or 'mixed' where these are not given.",
        category="mixed_precision",
        none="float",
        schema=_LAYER_BITS,
        examples=(4, {"default": 4, "fc": 8}, [2, 3, 4]),
        paper=("bitwidth of weights", "section 2"),
    )
    activation_bits: int | Mapping[str, Bits] | None = choice(
        8,
        "Activation bits",
        "One number, a list of those tried, bits by tensor, or 'mixed'.",
        category="mixed_precision",
        none="float",
        schema=_LAYER_BITS,
        examples=(8, "float", {"default": 4}),
        paper=("bitwidth of activations", "section 2"),
    )
    weight_symmetric: bool = choice(
        False,
        "Symmetric weights",
        "Whether the grid of the weights has its zero-point at 0.",
        side="weight",
        observation=1,
        paper=("symmetric or asymmetric quantizers", "2.1, observation 1"),
    )
    activation_symmetric: bool = choice(
        False,
        "Symmetric activations",
        "Whether the grid of the activations has its zero-point at 0.",
        side="activation",
        observation=1,
        paper=("symmetric or asymmetric quantizers", "2.1, observation 1"),
    )
    symmetric_grid: str = choice(
        "full",
        "Symmetric grid",
        "Which grid 'symmetric' means: full has 2^B codes, restricted 2^B - 1, authors that of the paper's "
        "published code.",
        values=SYMMETRIC_GRIDS,
        acts=acting.symmetric,
        observation=1,
        paper=("symmetric or asymmetric quantizers", "2.1, observation 1"),
        unwritten=("authors",),
    )
    weight_granularity: str = choice(
        "per_channel",
        "Range of weights for",
        "What shares one range of the weights.",
        values=("per_channel", "per_tensor", "per_group"),
        side="weight",
        observation=2,
        paper=("per-tensor or per-channel parameters", "2.1, observation 2"),
        unwritten=("per_group",),
    )
    group_size: int = choice(
        128,
        "Weights in a group",
        "How many weights of an output channel share one range, where ranges are for groups.",
        least=1,
        most=MAX_GROUP,
        side="weight",
        since="0.1.1",
        card_since=2,
        acts=acting.grouped,
        schema={"type": "integer", "minimum": 1},
        examples=(128, 32),
        observation=2,
    )
    activation_granularity: str = choice(
        "per_tensor",
        "Range of activations for",
        "What shares one range of the activations.",
        values=("per_tensor", "per_channel", "per_token"),
        side="activation",
        observation=2,
        paper=("per-tensor or per-channel parameters", "2.1, observation 2"),
        unwritten=("per_channel", "per_token"),
        needs={"per_token": ("activation_dynamic", True)},
    )
    weight_range: str = choice(
        "minmax",
        "Clipping of weights",
        "How the range of the weights is found: minmax, percentile, mse, aciq, learned, or in words.",
        values=RANGES,
        side="weight",
        schema=_TEXT,
        examples=("minmax", "mse"),
        paper=("clipping: min/max, percentile", "4.1"),
    )
    activation_range: str = choice(
        "minmax",
        "Clipping of activations",
        "How the range of the activations is found: minmax, percentile, mse, aciq, learned, or in words.",
        values=RANGES,
        side="activation",
        schema=_TEXT,
        examples=("percentile", "learned"),
        paper=("clipping: min/max, percentile", "4.1"),
    )
    percentile: float = choice(
        99.99,
        "Percentile",
        "The percentile, where ranges are found by one.",
        above=50,
        most=100,
        acts=acting.percentile,
        examples=(99.99, 99.9),
        paper=("clipping: min/max, percentile", "4.1"),
    )
    activation_dynamic: bool = choice(
        False,
        "Dynamic activations",
        "Whether a range is found for every input at run time, rather than once by calibration.",
        side="activation",
        paper=("static or dynamic parameters", "2.1"),
        unwritten=(True,),
    )
    quantize_skip: bool = choice(
        True,
        "Skip quantized",
        "Whether the skip connection enters its addition quantized.",
        category="operations",
        side="activation",
        observation=3,
        paper=("quantized skip and residual connections", "2.2, observation 3"),
    )
    quantize_residual: bool = choice(
        True,
        "Residual quantized",
        "Whether the residual branch enters the addition quantized.",
        category="operations",
        side="activation",
        observation=3,
        paper=("quantized skip and residual connections", "2.2, observation 3"),
    )
    pooling: str = choice(
        "high_precision",
        "Average pooling",
        "Computed in high precision and requantized, in low precision, or left in float.",
        values=("high_precision", "low_precision", "float"),
        category="operations",
        side="activation",
        acts=acting.unlike("quantize_skip", False),
        paper=("precision of average pooling", "2.2"),
        unwritten=("low_precision",),
    )
    input_bits: int | None = choice(
        8,
        "Bits of the input",
        "Of the image or other input.",
        category="operations",
        side="activation",
        none="float",
        schema=_BITS,
        examples=(8, "float"),
    )
    quantize_output: bool = choice(
        True,
        "Output quantized",
        "Whether the logits are quantized.",
        category="operations",
        side="activation",
        acts=lambda card: (card["quantize_skip"], card["quantize_residual"]) != (False, False),
    )
    calibration_upstream: str = choice(
        "float",
        "Calibration upstream",
        "Whether the layers before a tensor compute in float or already quantized while its range is found.",
        values=("float", "quantized"),
        side="activation",
        acts=acting.unlike("activation_dynamic", True),
    )
    first_last_bits: int | None = choice(
        8,
        "First and last layer",
        "Their bits, or 'like the rest'.",
        category="mixed_precision",
        none="like the rest",
        acts=acting.quantized,
        schema=_BITS,
        examples=(8, "like the rest"),
        observation=4,
        paper=("all layers quantized, or first and last apart", "2.3, observation 4"),
    )
    embedding_bits: int | None = choice(
        None,
        "Bits of embeddings",
        "Of the tables that tokens or categories are looked up in.",
        category="mixed_precision",
        none="float, or as the head",
        since="0.1.1",
        card_since=2,
        acts=acting.of_language("embedding_bits", "float, or as the head"),
        schema=_BITS,
        examples=(8, "float"),
    )
    kv_bits: int | None = choice(
        None,
        "Bits of keys and values",
        "Of what attention keeps of earlier tokens.",
        category="operations",
        none="like the rest",
        since="0.1.1",
        card_since=2,
        acts=acting.of_language("kv_bits", "like the rest"),
        schema={"anyOf": [_BITS, {"enum": ["float8", "float4"]}]},
        examples=(8, "float8", "float"),
    )
    float_layers: tuple[str, ...] = choice(
        (),
        "Layers left in float",
        "Modules left in float whole, by name or shell pattern; an empty list where there are none.",
        category="operations",
        since="0.1.1",
        acts=lambda card: card["float_layers"] not in ([], acting.NOT_REPORTED) and acting.quantized(card),
        schema={"type": "array", "items": _TEXT, "minItems": 0, "maxItems": 2000},
        examples=(["fc", "layer1.*"], []),
    )
    bit_choices: tuple[int, ...] = choice(
        (1, 2, 3, 4, 5, 6, 7, 8),
        "Allowed bits",
        "What mixed precision may choose from; or 'any integer'.",
        category="mixed_precision",
        acts=acting.mixed,
        schema=_CHOICES,
        examples=([2, 4, 8], [1, 2, 3]),
        observation=5,
        paper=("bitwidths that mixed precision may choose from", "2.3, observation 5"),
    )

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits"):
            symmetric = self.weight_symmetric if name == "weight_bits" else self.activation_symmetric
            self._set(name, _side(name, getattr(self, name), 2 if symmetric is True else 1))
        least_input = 1 + (self.activation_symmetric is True and self.activation_bits is not None)
        least_weight = 1 + (self.weight_symmetric is True and self.weight_bits is not None)
        least_bits = {
            "input_bits": least_input,
            "first_last_bits": max(least_weight, least_input),
            "embedding_bits": least_weight,
            "kv_bits": least_input,
        }
        for name, least in least_bits.items():
            if getattr(self, name) is not None:
                self._set(name, _bits(name, getattr(self, name), MAX_BITS, least))
        for name, side in (("embedding_bits", "weight_bits"), ("kv_bits", "activation_bits")):
            if getattr(self, name) is not None and getattr(self, side) is None:
                raise ValueError(
                    f"{name}={getattr(self, name)} with {side}=None, which leaves that side in float: to "
                    f"quantize nothing else of it, give {side}={{'default': 32}}"
                )
        super().__post_init__()
        self._set("percentile", float(self.percentile))
        self._set("float_layers", _names("float_layers", self.float_layers))
        self._set("bit_choices", _bit_choices(self.bit_choices))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def in_float(self) -> bool:
        """Whether both sides stay in float."""
        return self.weight_bits is None and self.activation_bits is None

    def of_side(self, side: str) -> QuantConfig:
        """The choices of one side, ``"weight"`` or ``"activation"``, with the other in float and its choices
        at their defaults.
        """
        other = "activation" if side == "weight" else "weight"
        defaults = self.defaults()
        theirs = {name: defaults[name] for name, known in choices(self).items() if known.side == other}
        return dataclasses.replace(self, **theirs, **{f"{other}_bits": None})

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str) -> QuantConfig:
        return cls.from_dict(read_yaml(text))

    def to_json(self) -> str:
        """Canonical: the same configuration always gives the same text."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> QuantConfig:
        return cls.from_dict(json.loads(text))


def configuration_named(spec: str | None) -> type[QuantConfig]:
    """The class of configurations that ``FILE.py:NAME`` names, which is run; `QuantConfig` without a name.

    Raises
    ------
    ValueError
        There is no such class, or it is not derived from `QuantConfig`.
    """
    found = QuantConfig if spec is None else named(spec, "configuration")
    if not (isinstance(found, type) and issubclass(found, QuantConfig)):
        raise ValueError(f"{spec!r} is not a class derived from QuantConfig")
    return found


def _bit_choices(value: Any) -> tuple[int, ...]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise ValueError(f"bit_choices must be a sequence of ints, got {value!r}")
    allowed = sorted({_bits("bit_choices", bits, MAX_BITS) for bits in value})
    if not allowed:
        raise ValueError("bit_choices must hold at least one bitwidth")
    return tuple(allowed)


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
