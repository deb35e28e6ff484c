"""Which axis of a tensor is that of channels, and whether that of examples stays the first.

Channels are axis 1 of images, as convolutions give them, and the last axis of tokens, as linear layers do.
"""

from __future__ import annotations

from torch import fx, nn

from .operations import (
    BATCH_NORMS,
    CONVOLUTIONS,
    WEIGHT_LAYERS,
    argument,
    data_of,
    known_name,
    label,
    layer_of,
)

_SWAPS = ("transpose", "swapaxes", "swapdims", "movedim", "moveaxis")
_RESHAPES = (
    "view",
    "reshape",
    "unflatten",
    "t",
    "T",
    "mT",
    "matmul",
    "bmm",
    "einsum",
    "windows",
    "image_of_windows",
)
_ALONG = (  # functions that work along the axis that is their second argument, or all axes
    "mean sum prod amax amin max min argmax argmin std var norm logsumexp cumsum cumprod cummax cummin "
    "softmax log_softmax sort argsort flip roll unbind index_select gather scatter"
).split()


def channel_axes(module: fx.GraphModule) -> dict[fx.Node, int]:
    """By node, the axis of channels in what it gives, where it can be told; negative ones count from
    the end.
    """
    axes: dict[fx.Node, int] = {}
    for node in module.graph.nodes:
        axis = _channel_axis(node, layer_of(node, module), axes)
        if axis is not None:
            axes[node] = axis
    return axes


def _channel_axis(node: fx.Node, layer: nn.Module | None, axes: dict[fx.Node, int]) -> int | None:
    if isinstance(layer, CONVOLUTIONS):
        return 1
    if isinstance(layer, nn.Linear):
        return -1
    before = next((axes[n] for n in node.all_input_nodes if n in axes), None)
    name = known_name(node) or label(node)
    if before is None or name in _RESHAPES or isinstance(layer, nn.Unflatten):
        return None
    if name == "permute":
        order = _order(node)
        if not order or before % len(order) not in order:
            return None
        place = order.index(before % len(order))
        return -1 if place == len(order) - 1 else place
    if name in _SWAPS:
        return _swapped(before, _integers(node.args[1:]) + _integers(tuple(node.kwargs.values())))
    return before


def _swapped(axis: int, pair: list[int]) -> int | None:
    if len(pair) == 2 and axis in pair:
        return pair[1 - pair.index(axis)]
    # Whether axis 2 is the last is not known.
    return axis if len(pair) == 2 and all((other < 0) == (axis < 0) for other in pair) else None


def _order(node: fx.Node) -> list[int]:
    """The axes in the order that a permutation gives them; none where it is not known."""
    order = _integers(
        tuple(node.args[1:]) or tuple(v for v in node.kwargs.values() if isinstance(v, (list, tuple)))
    )
    return [axis % len(order) for axis in order]


def _integers(arguments: tuple) -> list[int]:
    flat = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], (list, tuple)) else arguments
    return [a for a in flat if isinstance(a, int)]


def mover_of_examples(module: fx.GraphModule, aside: set[fx.Node]) -> str:
    """A word for the first operation that may move the axis of examples, or put them together; empty if there
    is none.
    """
    for node in module.graph.nodes:
        if node.op.startswith("call_") and node not in aside and data_of(node) not in aside:
            if _moves_examples(node, layer_of(node, module)):
                return f"{node.target!r}" if node.op == "call_module" else f"{label(node)} ({node.name})"
    return ""


def _moves_examples(node: fx.Node, layer: nn.Module | None) -> bool:
    name = known_name(node)
    if layer is not None:
        unknown = (
            node.meta.get("float")
            and any(True for _ in layer.parameters())
            and not isinstance(layer, WEIGHT_LAYERS)
        )
        mixes = isinstance(layer, BATCH_NORMS) and layer.running_mean is None
        return unknown or mixes or isinstance(layer, nn.Flatten) and layer.start_dim == 0
    if name in ("t", "T"):
        return True
    if name == "permute":
        order = _order(node)
        return not order or order[0] != 0
    if name in _SWAPS:
        return 0 in _integers(node.args[1:]) or 0 in node.kwargs.values()
    if name in _ALONG:
        axes = argument(
            node, 2 if name in ("softmax", "log_softmax", "roll") and node.op == "call_function" else 1, "dim"
        )
        axes = argument(node, 2, "dims") if name == "roll" else node.kwargs.get("dims", axes)
        axes = axes if isinstance(axes, (list, tuple)) else (axes,)
        return None in axes or 0 in axes
    if name == "getitem":
        index = argument(node, 1, "index")
        first = index[0] if isinstance(index, tuple) and index else index
        return isinstance(first, int) or isinstance(first, slice) and first != slice(None)
    return name == "flatten" and argument(node, 1, "start_dim", 0) == 0
