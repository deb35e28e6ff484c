"""Rewrites of a traced network, each a small function that leaves what is computed as it is.

Their order matters: `without_in_place`, `compute_constants`, `make_layers`, `fold_batch_norms`, `separate_elements`.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections import Counter
from collections.abc import Callable, Container
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from .nodes import changed_copy, of_rank, overwritten
from .operations import (
    BATCH_NORMS,
    TUPLES,
    VIEWS,
    WEIGHT_LAYERS,
    argument,
    constant,
    data_of,
    holds_shape,
    is_instance,
    known_name,
    layer_of,
    rows_of,
    same_tensor,
    weight_of_rows,
)
from .trace import AUGMENTED, TOP, place_of

AS_LAYERS = {
    F.linear: nn.Linear,
    F.conv1d: nn.Conv1d,
    F.conv2d: nn.Conv2d,
    F.conv3d: nn.Conv3d,
    F.conv_transpose1d: nn.ConvTranspose1d,
    F.conv_transpose2d: nn.ConvTranspose2d,
    F.conv_transpose3d: nn.ConvTranspose3d,
}

def replace(node: fx.Node, new: fx.Node) -> None:
    """Let ``new`` stand wherever ``node`` stood, also as the output of its module."""
    node.replace_all_uses_with(new)
    new.meta = {**node.meta, **new.meta, "gives": node.meta.get("gives", [])}
    node.graph.erase_node(node)


def owner(node: fx.Node) -> str:
    """The module to name in an error, and to leave in float where there is one."""
    return node.target if node.op == "call_module" else place_of(node)


def way_out(node: fx.Node) -> str:
    """The end of a refusal: how to leave the module of a node in float."""
    if owner(node) == TOP:
        return "or move it into a module and leave that in float by float_layers"
    return f"or leave it in float: float_layers=({owner(node)!r},)"


# --------------------------------------------------------------------------------------------------------------------------
# Operations in place


def without_in_place(module: fx.GraphModule) -> None:
    """Turn operations in place into ordinary ones: a tensor may now be wanted both before and after quantization.

    Whatever is the same memory (the tensor, what it is a view of, and other views of that) and is read afterwards, is read from
    the result instead. Raises ``ValueError`` for a network that changes its own parameters or buffers while it runs.
    """
    graph = module.graph
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if (target := _overwritten_by(node, module)) is None:
            node.target = AUGMENTED.get(node.target, node.target)  # of numbers
            continue
        root, path = _root(target, module)
        if root.op == "get_attr":
            raise ValueError(f"{place_of(node)} changes {root.target!r} in place while it runs: compute a new tensor instead, "
                             f"{way_out(node)}")  # fmt: skip
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
    """The arguments of a function by name; none where it does not tell its parameters, and so takes no ``inplace``."""
    try:
        return inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments
    except (ValueError, TypeError):
        return {}


def _is_number(node: fx.Node) -> bool:
    """Whether a node holds a number or a shape rather than a tensor."""
    if holds_shape(node):
        return True
    before = node.all_input_nodes
    operators = node.op == "call_function" and getattr(node.target, "__module__", "") in ("_operator", "math", "builtins")
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
    if layer is not None or name in ("dropout", "data", "detach", "pos", "positive"):
        return None
    rest = view.args[1:] if view.target is not getattr else ()
    kwargs = {key: value for key, value in view.kwargs.items() if key not in ("input", "tensor")}
    return "__getitem__" if name == "getitem" else name, rest, kwargs


def _seen_through(path: list[fx.Node], root: fx.Node, order: dict[fx.Node, int]) -> fx.Node:
    """Copies of the views on ``path``, of ``root``."""
    last = root
    for view in path:
        with root.graph.inserting_after(last):
            new = root.graph.node_copy(view, lambda n, view=view, last=last: last if n is data_of(view) else n)
        new.meta.pop("gives", None)
        order[new], last = order[root], new
    return last


def _make_ordinary(node: fx.Node) -> None:
    """Let a node give a new tensor."""
    if node.op == "call_module":
        return
    name, graph = known_name(node), node.graph
    if "out" in node.kwargs:
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "out"}
    elif node.target in AUGMENTED:
        node.target = AUGMENTED[node.target]
    elif node.op == "call_function" and _arguments(node).get("inplace") is True:
        arguments = _arguments(node)
        node.args, node.kwargs = (), {**arguments, "inplace": False}
    elif node.op == "call_method" and callable(getattr(Tensor, name[:-1], None)) and not name.startswith("_"):
        node.target = name[:-1]
    elif node.op == "call_function" and (twin := _twin(name)) is not None:
        node.target = twin
    else:
        method = "__setitem__" if name == "setitem" else name
        args = (node.args[0], method, *node.args[1:])
        with graph.inserting_before(node):
            new = graph.call_function(changed_copy, args, dict(node.kwargs))
        node.op, node.target, node.args, node.kwargs = "call_function", changed_copy, new.args, new.kwargs
        graph.erase_node(new)


def _twin(name: str) -> Callable | None:
    """The function that does not work in place, of one that does."""
    found = (getattr(place, name.removesuffix("_"), None) for place in (F, torch))
    return next((function for function in found if callable(function)), None)


# --------------------------------------------------------------------------------------------------------------------------
# Constants and layers


def compute_constants(module: fx.GraphModule) -> bool:
    """Compute once what follows from parameters, buffers and numbers alone, and keep it as buffers. Whether there was any."""
    graph, values = module.graph, {}
    for node in graph.nodes:
        before = node.all_input_nodes
        if node.op == "get_attr":
            values[node] = constant(module, node)
        elif node.op.startswith("call_") and before and values.keys() >= set(before) and "device" not in node.args:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                if node.op == "call_method":
                    values[node] = getattr(args[0], node.target)(*args[1:], **kwargs)
                else:
                    call = module.get_submodule(node.target) if node.op == "call_module" else node.target
                    values[node] = call(*args, **kwargs)
    for node, value in values.items():
        wanted = [user for user in node.users if user not in values]
        if node.op == "get_attr" or not wanted:
            continue
        if isinstance(value, Tensor):
            module.register_buffer(name := free_name(module, f"constant_{node.name}"), value.detach().clone())
            with graph.inserting_before(node):
                value = graph.get_attr(name)
        for user in wanted:
            args, kwargs = fx.node.map_arg((user.args, user.kwargs), lambda n, node=node, value=value: value if n is node else n)
            user.args, user.kwargs = args, kwargs
    for node in reversed(values):
        if not node.users:
            graph.erase_node(node)
    return any(node.op != "get_attr" for node in values)


def free_name(module: nn.Module, name: str) -> str:
    """``name``, with underscores if the module has something of that name."""
    while hasattr(module, name):
        name += "_"
    return name


def make_layers(module: fx.GraphModule) -> None:
    """Put a layer in the place of every linear function or convolution that is called with parameters as its weights.

    Calls with the same weights and options share a layer; layers with one weight keep it as one tensor.
    """
    parameters, made = dict(module.named_parameters()), {}
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in AS_LAYERS or node.meta.get("float"):
            continue
        kind = AS_LAYERS[node.target]
        names = ["input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"]
        if not _is_transposed(kind):
            names[5:] = ["dilation", "groups"]
        options = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        x, weight, bias = (options.pop(name, None) for name in names[:3])
        if x.op == "get_attr" or any(n is not x and n.op != "get_attr" for n in node.all_input_nodes) or weight is x:
            continue
        tensors = [n and constant(module, n) for n in (weight, bias)]
        key = (kind, weight.target, bias and bias.target, str(sorted(options.items())))
        if key not in made:
            made[key] = _layer_path(module, node, weight.target, parameters, made.values())
            module.add_submodule(made[key], _layer(kind, *tensors, **options))
        with module.graph.inserting_before(node):
            call = module.graph.call_module(made[key], (x,))
        replace(node, call)
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)


def _is_transposed(kind: type[nn.Module]) -> bool:
    return issubclass(kind, nn.modules.conv._ConvTransposeNd)


def _layer_path(module: fx.GraphModule, node: fx.Node, weight: str, parameters: Container[str], taken: Container[str]) -> str:
    """That of the layer which owns the weight or computes it, or else one that says which function of which module this is."""
    path = weight.removesuffix("weight").rstrip("._") if weight in parameters and weight.endswith("weight") else place_of(node)
    there = dict(module.named_modules()).get(path)
    bare = type(there) is nn.Module and not list(there.children())  # what is left of a layer that was traced into
    wanted = {n.target for n in module.graph.nodes if n.op == "get_attr" and n.target.startswith(f"{path}.")}
    free = (there is None or bare) and wanted <= {f"{path}.weight", f"{path}.bias"}
    called = any(n.op == "call_module" and n.target == path for n in module.graph.nodes)
    own = isinstance(there, AS_LAYERS[node.target]) and weight == f"{path}.weight"
    if path and path not in taken and not called and (free or own):
        return path
    path = f"{place_of(node)}.{node.name}".removeprefix(f"{TOP}.").replace("@", "_")
    while path in taken or path in dict(module.named_modules()):
        path += "_"
    return path


def _layer(kind: type[nn.Module], weight: Tensor, bias: Tensor | None, **options) -> nn.Module:
    groups = options.get("groups", 1)
    sizes = [weight.shape[1] * groups, len(weight)]
    sizes = sizes[::-1] if _is_transposed(kind) else sizes
    kernel = () if kind is nn.Linear else (tuple(weight.shape[2:]),)
    layer = kind(*sizes, *kernel, bias=bias is not None, device="meta", **options)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            setattr(layer, name, tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.detach()))
    return layer.eval()


# --------------------------------------------------------------------------------------------------------------------------
# Batch norms


Folds = dict[str, tuple[nn.Module, nn.Module]]  # the layer and the batch norm that a folded layer is made of, by its path


def fold_batch_norms(module: fx.GraphModule, ranks: Callable[[], dict[fx.Node, int]]) -> Folds:
    """Fold every batch norm into the convolution or linear layer whose output it alone reads, where their channels are one axis.

    ``ranks``: finds how many axes the outputs of nodes have. A norm behind a linear layer acts on the last axis only where there
    are two; where that is not known, the folded network refuses other outputs when it runs.
    """
    folds: Folds = {}
    users = _users_of_parameters(module)
    calls = Counter(n.target for n in module.graph.nodes if n.op == "call_module")
    for node in list(module.graph.nodes):
        norm = layer_of(node, module)
        if not is_instance(norm, BATCH_NORMS):
            continue
        before = node.all_input_nodes[0]
        layer = layer_of(before, module)
        if not is_instance(layer, WEIGHT_LAYERS) or len(before.users) > 1 or calls[before.target] > 1 or calls[node.target] > 1:
            continue
        if users[same_tensor(layer.weight)] > 1 or node.meta["float"] and not before.meta["float"]:
            continue
        if norm.running_mean is None:
            raise ValueError(f"batch norm {node.target!r} keeps no running statistics, so it cannot be folded: give it some, "
                             f"{way_out(node)}")  # fmt: skip
        rank = ranks().get(before) if isinstance(layer, nn.Linear) else 2
        if rank not in (None, 2):
            continue
        fused = copy.copy(layer)
        fused._parameters = dict(zip(("weight", "bias"), map(nn.Parameter, folded(layer, norm)), strict=True))
        module.set_submodule(before.target, fused)
        folds[before.target] = layer, norm
        replace(node, before)
        if rank is None:
            why = (f"batch norm {node.target!r} is folded into {before.target!r}, which is right for outputs (n, features) "
                   "alone: pass data (calibration, or an example input) so that this can be known")
            with module.graph.inserting_after(before):
                check = module.graph.call_function(of_rank, (before, 2, why))
            before.replace_all_uses_with(check, lambda user, check=check: user is not check)
    module.delete_all_unused_submodules()
    return folds


def _users_of_parameters(module: fx.GraphModule) -> Counter:
    """How many different layers and reads share each tensor."""
    users: Counter = Counter()
    for target in {n.target for n in module.graph.nodes if n.op == "call_module"}:
        users.update(same_tensor(p) for p in module.get_submodule(target).parameters())
    users.update(same_tensor(constant(module, n)) for n in module.graph.nodes if n.op == "get_attr")
    return users


def folded(layer: nn.Module, norm: nn.Module, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """The weight and bias with which ``layer`` gives what ``norm`` makes of its outputs; computed in ``dtype``, if given."""
    given = (layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    weight, bias, mean, variance, scale, shift = (t if t is None else t.detach().to(dtype or t.dtype) for t in given)
    if isinstance(layer, nn.Linear):
        scale = torch.ones_like(mean) if scale is None else scale
        shift = torch.zeros_like(mean) if shift is None else shift
        return fuse_linear_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    rows, bias = fuse_conv_bn_weights(rows_of(weight, layer), bias, mean, variance, norm.eps, scale, shift)
    return weight_of_rows(rows.detach(), layer), bias


# --------------------------------------------------------------------------------------------------------------------------
# Operations that give several tensors


def separate_elements(module: fx.GraphModule) -> None:
    """Give every element of a chunk, split or unbind an operation of its own, so that each can be quantized or not."""
    for node in list(module.graph.nodes):
        if known_name(node) not in TUPLES or not all(_picks(user) for user in node.users):
            continue
        for user in list(node.users)[1:]:
            with module.graph.inserting_before(user):
                user.replace_input_with(node, module.graph.node_copy(node))


def _picks(user: fx.Node) -> bool:
    return known_name(user) == "getitem" and isinstance(argument(user, 1, "index"), int)

