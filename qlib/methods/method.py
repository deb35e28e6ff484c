"""What a method is, and what it works on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ..choices import Settings
from ..config import MAX_BITS, QuantConfig
from ..progress import tracked

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

    from ..affine import Grid
    from ..network import Network
    from ..placement import Placement
    from ..quantizer import Quantizer

STAGES = ("before ranges", "rounding", "after")


class Turn(NamedTuple):
    """A layer whose weight is to be rounded.

    Parameters
    ----------
    name : str
        Of the layer.
    rows : Tensor
        Its weight ``(out channels, ...)`` in float.
    grid : Grid
        Its values; broadcasts against ``rows``.
    layer : nn.Module
        What it computes.
    given, wanted : list of Tensor
        By batch, what it is given, and what it gives in the float network.
    """

    name: str
    rows: Tensor
    grid: Grid
    layer: nn.Module
    given: list[Tensor]
    wanted: list[Tensor]


@dataclass
class Work:
    """A network on its way from float to quantized: what a method sees, and changes.

    Attributes
    ----------
    config
        What is asked for.
    network
        The one that is being quantized, batch norm folded; before ranges are found it has no quantizers.
    placement
        Where quantizers go, with the bits of every layer, and the layers that are left in float.
    batches
        Calibration inputs (`qlib.network.inputs`).
    floats
        A copy of the network in float, as it was when ranges were to be found; ``None`` before that, and
        where weights are rounded to nearest and nothing else is done.
    quantizers
        By node that they follow.
    grids
        By layer, that of its rounded weights ``(out channels, ...)``.
    rounding_seed
        As for `qlib.quantize`.
    """

    config: QuantConfig
    network: Network
    placement: Placement
    batches: list[Any]
    floats: Network | None = None
    quantizers: dict[fx.Node, Quantizer] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)
    rounding_seed: int = 0

    def weights(self) -> Iterator[tuple[str, Tensor, Grid]]:
        """Every weight that gets codes, once: its layer's name, itself as rows ``(out channels, ...)``, and
        its grid, which broadcasts against them. Those of 17 bits and more stay as they are.
        """
        from ..network.operations import rows_of
        from ..quantizer import weight_grid

        for name, bits in self.placement.weight_bits.items():
            if not isinstance(bits, tuple) and bits > MAX_BITS:
                continue
            if name in self.network.tied:
                self.grids[name] = self.grids[self.network.tied[name]]
                continue
            layer = self.network.module.get_submodule(name)
            rows = rows_of(layer.weight.data, layer)
            self.grids[name] = weight_grid(name, rows, self.config, bits, self.rounding_seed)
            yield name, rows, self.grids[name]

    def in_turn(self, inputs: str) -> Iterator[Turn]:
        """Every weight of a layer that gets codes, in the order of execution, each after those before it have
        been put. One that is used several times has its turn where it is first used. Lookup tables, whose
        rows are outputs as they stand, are rounded to nearest before.

        Parameters
        ----------
        inputs : {"quantized", "float"}
            Whether layers are given what the network gives as it is quantized so far, or in float.
        """
        from ..network.operations import data_of
        from ..network.steps import first_calls

        found = dict(self.of_layers())
        floats = first_calls(self.floats, self.batches, set(found))
        sides = ((one, one) for one in floats)
        if inputs == "quantized":
            sides = zip(floats, first_calls(self.network, self.batches, set(found)), strict=True)
        for (_, there, clean), (name, node, runs) in tracked(sides, "rounding", len(found), "layer"):
            layer = self.network.module.get_submodule(name)
            given = [run.env[data_of(node)] for run in runs]
            yield Turn(name, *found[name], layer, given, [run.env[there] for run in clean])
            if inputs == "quantized":
                for run in runs:  # as it is now
                    run.step(node)

    def of_layers(self) -> Iterator[tuple[str, tuple[Tensor, Grid]]]:
        """`weights` of layers; those of lookup tables are put at once."""
        from ..affine import fake_quantize

        tables = self.network.tables
        for name, rows, grid in self.weights():
            if name in tables:
                self.put_weight(name, fake_quantize(rows, grid))
            else:
                yield name, (rows, grid)

    def put_weight(self, name: str, rows: Tensor) -> None:
        """Give layer ``name`` the values of codes ``(out channels, ...)``, in place.

        Raises ``ValueError`` for another shape than that of its weight as rows.
        """
        from ..network.operations import rows_of, weight_of_rows

        layer = self.network.module.get_submodule(name)
        asked = rows_of(layer.weight.data, layer).shape
        if rows.shape != asked:
            raise ValueError(
                f"put_weight: {name!r} has a weight of {tuple(asked)} as rows (out channels, ...), but was "
                f"given {tuple(rows.shape)}"
            )
        layer.quantized_by_qlib = True  # which copies and unpickled networks keep
        layer.weight.data.copy_(weight_of_rows(rows, layer))


@dataclass(frozen=True)
class Method(Settings):
    """Base of methods: frozen dataclasses of settings, each field stated by `qlib.choices.choice`.

    Attributes
    ----------
    stage
        ``"before ranges"`` are found, while all is in float; ``"rounding"`` weights, one method only; or
        ``"after"`` weights are rounded and ranges fixed.
    words
        What a card says of it, by field of a card, such as ``{"technique": "bias correction"}``.
    """

    stage: ClassVar[str] = "rounding"
    words: ClassVar[Mapping[str, Any]] = {}

    def apply(self, work: Work) -> None:
        """Do it, in place.

        Raises
        ------
        ValueError
            Naming the layer, where it cannot be done.
        """
        raise NotImplementedError(f"{type(self).__name__} has no function apply(self, work)")

    def ask(self, work: Work, side: str = "weight", data: bool = True) -> None:
        """Raises ``ValueError`` where there is nothing to do, because ``side`` stays in float, or no ``data``
        to look at.
        """
        name = type(self).__module__.rpartition(".")[2]
        if getattr(work.config, f"{side}_bits") is None:
            raise ValueError(
                f"the method {name!r} works on {side}s, but {side}_bits=None leaves them in float: give them "
                f"bits, or leave out {name!r}"
            )
        if data and not work.batches:
            raise ValueError(f"the method {name!r} looks at calibration data: pass at least one batch")

    def card(self) -> dict[str, Any]:
        """The fields of a card that it fills in: its words."""
        return dict(self.words)
