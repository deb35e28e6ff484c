"""Layers that share a weight: which do, and what cannot be shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .operations import TRANSPOSED, Kind, layer_of, same_tensor
from .trace import TOP, owner, way_out

if TYPE_CHECKING:
    from .network import Network, Operation


def tied_layers(network: Network) -> dict[str, str]:
    """The layers whose weight is that of an earlier one, and the first that has it.

    Raises ``ValueError`` where one of two layers is left in float, where output channels are another axis for
    one than for the other, and where weights are different views of one memory, such as a matrix and its
    transpose.
    """
    tied: dict[str, str] = {}
    owners: dict[tuple, Operation] = {}
    for operation in network.operations.values():
        for weight in network.weights_of(operation):
            earlier = owners.setdefault(same_tensor(weight), operation)
            if earlier.in_float != operation.in_float:
                quantized, left = sorted((earlier, operation), key=lambda o: o.in_float)
                modules = tuple(owner(o.node) for o in (left, quantized))
                both = f"leave both in float: float_layers={modules}"
                if TOP in modules:
                    both = (
                        "move that use of it into a module, and leave both modules in float by float_layers"
                    )
                raise ValueError(
                    f"{left.name!r} is left in float, but its weight is that of {quantized.name!r}, which is "
                    f"quantized: {both}"
                )
            if (
                operation.kind not in (Kind.WEIGHT, Kind.TABLE)
                or operation.in_float
                or earlier.node.target == operation.node.target
            ):
                continue
            if _form(operation, network) != _form(earlier, network):
                raise ValueError(
                    f"{operation.name!r} and {earlier.name!r} share a weight, but not its axis of output "
                    f"channels: give them weights of their own, {way_out(operation.node)}"
                )
            tied[operation.node.target] = earlier.node.target
    _refuse_overlaps(owners)
    return tied


def _form(operation: Operation, network: Network) -> tuple:
    """What decides which axes of a weight are output channels."""
    layer = layer_of(operation.node, network.module)
    return isinstance(layer, TRANSPOSED), isinstance(layer, TRANSPOSED) and layer.groups


def _refuse_overlaps(owners: dict[tuple, Operation]) -> None:
    seen: dict[int, list[tuple[int, int, Operation]]] = {}
    for (storage, start, shape, strides), operation in owners.items():
        end = start + 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        for other_start, other_end, other in seen.setdefault(storage, []):
            if start < other_end and other_start < end and not (operation.in_float and other.in_float):
                raise ValueError(
                    f"the weights of {other.name!r} and {operation.name!r} are different views of one "
                    "tensor, whose codes cannot serve both: give them weights of their own, "
                    f"{way_out(operation.node)}"
                )
        seen[storage].append((start, end, operation))
