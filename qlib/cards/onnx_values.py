"""What is known of the tensors and layers of an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass

from .onnx_codes import UNREAD, CodeGrid, Stored


@dataclass(frozen=True)
class Value:
    """What is known of a tensor.

    Parameters
    ----------
    live : bool
        Whether it depends on the network's input.
    source : str
        The layer, other node or input whose values it has, seen through activation functions.
    grid : CodeGrid or str, optional
        On which its values lie; ``None``: float; ``UNREAD``: that cannot be told.
    kind : (int, bool), optional
        Bits and signedness, where it is codes.
    stored : Stored, optional
        Of a constant.
    behind : int
        A bit for every layer and input that it depends on.
    """

    live: bool
    source: str = ""
    grid: CodeGrid | str | None = None
    kind: tuple[int, bool] | None = None
    stored: Stored | None = None
    behind: int = 0


@dataclass(frozen=True)
class Layer:
    """A layer with weights: what its input lies on (``None`` for float), whose values it is, and its weights.

    ``reordered``: whether its groups follow another order than its inputs.
    """

    name: str
    inputs: CodeGrid | str | None
    source: str
    weights: Stored
    operator: str
    reordered: bool | None = None


NOTHING = Value(live=False)


def shared(values: list[Value]) -> CodeGrid | str | None:
    """The grid on which all lie; ``None`` where one is in float."""
    every = {value.grid if value.live else value.stored.codes if value.stored else None for value in values}
    return every.pop() if len(every) == 1 else None if None in every else UNREAD
