"""Operations in place, made ordinary: a tensor may be wanted both before and after quantization."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .nodes import changed_copy, overwritten
from .operations import VIEWS, data_of, holds_shape, known_name, layer_of
from .trace import AUGMENTED, place_of, way_out


def without_in_place(module: fx.GraphModule) -> None:
    """Turn operations in place into ordinary ones: a tensor may now be wanted both before and after
    quantization.

    Whatever is the same memory (the tensor, what it is a view of, and other views of that) and is read
    afterwards, is read from the result instead. Raises ``ValueError`` for a network that changes its own
    parameters or buffers while it runs.
    """
    graph = module.graph
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if (target := _overwritten_by(node, module)) is None:
            node.target = AUGMENTED.get(node.target, node.target)  # of numbers
            continue
        root, path = _root(target, module)
        if root.op == "get_attr":
            raise ValueError(
                f"{place_of(node)} changes {root.target!r} in place while it runs: compute a new tensor "
                f"instead, {way_out(node)}"
            )
        before = [n for n in _same_memory(root, module) if order.get(n, order[node]) < order[node]]
        later = {n: [u for u in n.users if order[u] > order[node]] for n in before}
        later[node] = list(node.users)
        _make_ordinary(node)
        after = node
        if path and any(users for n, users in later.items() if n not in (target, node)):
            steps = [_as_method(view, module) for view in path]
            with graph.inserting_after(node):
                after = graph.call_function(overwritten, (root, node, [s for s in steps if s is not None]))
            after.meta["nn_module_stack"] = node.meta.get("nn_module_stack", {})
            order[after] = order[node]
        for old, users in later.items():
            if not users or (old is node and after is node):
                continue
            new = node
            if after is not node or old is not target:
                new = _seen_through(_root(target if old is node else old, module)[1], after, order)
            for user in users:
                user.replace_input_with(old, new)
    for path, layer in list(module.named_modules()):
        if getattr(layer, "inplace", None) is True:
            ordinary = copy.copy(layer)  # the network given may share the other
            ordinary.inplace = False
            module.set_submodule(path, ordinary)


def _overwritten_by(node: fx.Node, module: fx.GraphModule) -> fx.Node | None:
    """The tensor that a node overwrites, if it does."""
    target = data_of(node) if node.op.startswith("call_") else None
    if target is None or _is_number(target):
        return None
    if isinstance(node.kwargs.get("out"), fx.Node):
        return node.kwargs["out"]
    if node.op == "call_module":
        return target if getattr(layer_of(node, module), "inplace", None) is True else None
    name = known_name(node)
    if node.op == "call_method":
        if name == "__setitem__":
            return target
        works = name.endswith("_") and not name.endswith("__") and hasattr(Tensor, name)
        return target if works and name not in ("requires_grad_", "retain_grad_") else None
    if node.target in AUGMENTED or node.target is operator.setitem:
        return target
    torchs = getattr(node.target, "__module__", "") not in ("_operator", "operator")
    if torchs and name.endswith("_") and not name.endswith("__"):
        return target
    return target if _arguments(node).get("inplace") is True else None


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a function by name; none where it does not tell its parameters, and so takes no
    ``inplace``.
    """
    try:
        return inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments
    except (ValueError, TypeError):
        return {}


def _is_number(node: fx.Node) -> bool:
    """Whether a node holds a number or a shape rather than a tensor."""
    if holds_shape(node):
        return True
    before = node.all_input_nodes
    operators = node.op == "call_function" and getattr(node.target, "__module__", "") in (
        "_operator",
        "math",
        "builtins",
    )
    return operators and bool(before) and all(map(_is_number, before))


def _viewed(node: fx.Node, module: fx.GraphModule) -> fx.Node | None:
    """The tensor of which a node may be a view, or the very tensor."""
    layer = layer_of(node, module)
    if layer is None:
        return data_of(node) if known_name(node) in VIEWS else None
    same = (nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten)
    return data_of(node) if isinstance(layer, same) or type(layer).__name__ == "StochasticDepth" else None


def _root(node: fx.Node, module: fx.GraphModule) -> tuple[fx.Node, list[fx.Node]]:
    """The node that made the memory of ``node``, and the views on the way from there."""
    path: list[fx.Node] = []
    while (before := _viewed(node, module)) is not None:
        path.insert(0, node)
        node = before
    return node, path


def _same_memory(root: fx.Node, module: fx.GraphModule) -> list[fx.Node]:
    """``root`` and all that may be views of it."""
    found = [root]
    for node in found:
        found += [u for u in node.users if u not in found and _viewed(u, module) is node]
    return found


def _as_method(view: fx.Node, module: fx.GraphModule) -> tuple[str, tuple, dict] | None:
    """A view as a method of a tensor with its arguments; ``None`` for one that gives the very tensor."""
    layer = layer_of(view, module)
    if isinstance(layer, nn.Flatten):
        return "flatten", (layer.start_dim, layer.end_dim), {}
    if isinstance(layer, nn.Unflatten):
        return "unflatten", (layer.dim, layer.unflattened_size), {}
    name = known_name(view)
    if layer is not None or "dropout" in name or name in ("data", "detach", "pos", "positive"):
        return None
    rest = view.args[1:] if view.target is not getattr else ()
    kwargs = {key: value for key, value in view.kwargs.items() if key not in ("input", "tensor")}
    return "__getitem__" if name == "getitem" else name, rest, kwargs


def _seen_through(path: list[fx.Node], root: fx.Node, order: dict[fx.Node, int]) -> fx.Node:
    """Copies of the views on ``path``, of ``root``."""
    last = root
    for view in path:
        with root.graph.inserting_after(last):
            new = root.graph.node_copy(
                view, lambda n, view=view, last=last: last if n is data_of(view) else n
            )
        new.meta.pop("gives", None)
        order[new] = order[root]
        last = new
    return last


def _make_ordinary(node: fx.Node) -> None:
    """Let a node give a new tensor."""
    if node.op == "call_module":
        return
    name = known_name(node)
    graph = node.graph
    if "out" in node.kwargs:
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "out"}
    elif node.target in AUGMENTED:
        node.target = AUGMENTED[node.target]
    elif node.op == "call_function" and _arguments(node).get("inplace") is True:
        arguments = _arguments(node)
        node.args = ()
        node.kwargs = {**arguments, "inplace": False}
    elif node.op == "call_method" and callable(getattr(Tensor, name[:-1], None)) and not name.startswith("_"):
        node.target = name[:-1]
    elif node.op == "call_function" and (twin := _twin(name)) is not None:
        node.target = twin
    else:
        method = "__setitem__" if name == "setitem" else name
        args = (node.args[0], method, *node.args[1:])
        with graph.inserting_before(node):
            new = graph.call_function(changed_copy, args, dict(node.kwargs))
        node.op = "call_function"
        node.target = changed_copy
        node.args = new.args
        node.kwargs = new.kwargs
        graph.erase_node(new)


def _twin(name: str) -> Callable | None:
    """The function that does not work in place, of one that does."""
    found = (getattr(place, name.removesuffix("_"), None) for place in (F, torch))
    return next((function for function in found if callable(function)), None)
