"""Rewrites of a traced network, each a small function that leaves what is computed as it is.

Their order matters: `compute_constants`, `make_layers`, `fold_batch_norms`, `separate_elements`, all after
`qlib.network.in_place`.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Container

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from .nodes import of_rank
from .operations import (
    BATCH_NORMS,
    TUPLES,
    WEIGHT_LAYERS,
    argument,
    constant,
    is_instance,
    known_name,
    layer_of,
    rows_of,
    same_tensor,
    weight_of_rows,
)
from .trace import TOP, place_of, way_out

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


# ------------------------------------------------------------------------------------------------------------
# Constants and layers


def compute_constants(module: fx.GraphModule) -> bool:
    """Compute once what follows from parameters, buffers and numbers alone, and keep it as buffers. Whether
    there was any.
    """
    graph = module.graph
    values = {}
    for node in graph.nodes:
        before = node.all_input_nodes
        if node.op == "get_attr":
            values[node] = constant(module, node)
        elif (
            node.op.startswith("call_")
            and before
            and values.keys() >= set(before)
            and "device" not in node.args
        ):
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
            # A weight is not copied, and so is seen to share memory, if it does
            weighs = all(user.target in AS_LAYERS for user in wanted)
            value = value.detach() if weighs else value.detach().clone()
            module.register_buffer(name := free_name(module, f"constant_{node.name}"), value)
            with graph.inserting_before(node):
                value = graph.get_attr(name)
        for user in wanted:
            args, kwargs = fx.node.map_arg(
                (user.args, user.kwargs), lambda n, node=node, value=value: value if n is node else n
            )
            user.args = args
            user.kwargs = kwargs
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
    """Put a layer in the place of every linear function or convolution that is called with parameters as its
    weights.

    Calls with the same weights and options share a layer; layers with one weight keep it as one tensor.
    """
    parameters = dict(module.named_parameters())
    made = {}
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in AS_LAYERS or node.meta.get("float"):
            continue
        kind = AS_LAYERS[node.target]
        names = ["input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"]
        if not _is_transposed(kind):
            names[5:] = ["dilation", "groups"]
        options = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        x, weight, bias = (options.pop(name, None) for name in names[:3])
        if (
            x.op == "get_attr"
            or any(n is not x and n.op != "get_attr" for n in node.all_input_nodes)
            or weight is x
        ):
            continue
        tensors = [n and constant(module, n) for n in (weight, bias)]
        key = (kind, weight.target, bias and bias.target, str(sorted(options.items())))
        if key not in made:
            made[key] = _layer_path(module, node, weight.target, parameters, made.values())
            module.add_submodule(made[key], _layer(kind, *tensors, **options))
        with module.graph.inserting_before(node):
            call = module.graph.call_module(made[key], (x,))
        call.meta["made"] = True
        replace(node, call)
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)


def _is_transposed(kind: type[nn.Module]) -> bool:
    return issubclass(kind, nn.modules.conv._ConvTransposeNd)


def _layer_path(
    module: fx.GraphModule, node: fx.Node, weight: str, parameters: Container[str], taken: Container[str]
) -> str:
    """That of the layer which owns the weight or computes it, or else one that says which function of which
    module this is.
    """
    path = (
        weight.removesuffix("weight").rstrip("._")
        if weight in parameters and weight.endswith("weight")
        else place_of(node)
    )
    there = dict(module.named_modules()).get(path)
    # What is left of a layer that was traced into
    bare = type(there) is nn.Module and not list(there.children())
    wanted = {n.target for n in module.graph.nodes if n.op == "get_attr" and n.target.startswith(f"{path}.")}
    free = (there is None or bare) and wanted <= {f"{path}.weight", f"{path}.bias"}
    called = any(n.op == "call_module" and n.target == path for n in module.graph.nodes)
    own = isinstance(there, AS_LAYERS[node.target]) and weight == f"{path}.weight"
    if path not in ("", TOP) and path not in taken and not called and (free or own):
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
            setattr(
                layer, name, tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.detach())
            )
    return layer.eval()


# ------------------------------------------------------------------------------------------------------------
# Batch norms

# The layer and the batch norm that a folded layer is made of, by its path
Folds = dict[str, tuple[nn.Module, nn.Module]]


def fold_batch_norms(module: fx.GraphModule, ranks: Callable[[], dict[fx.Node, int]]) -> Folds:
    """Fold every batch norm into the convolution or linear layer whose output it alone reads, where their
    channels are one axis.

    ``ranks``: finds how many axes the outputs of nodes have. A norm behind a linear layer acts on the last
    axis only where there are two; where that is not known, the folded network refuses other outputs when it
    runs.
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
        if (
            not is_instance(layer, WEIGHT_LAYERS)
            or len(before.users) > 1
            or calls[before.target] > 1
            or calls[node.target] > 1
        ):
            continue
        if users[same_tensor(layer.weight)] > 1 or node.meta["float"] and not before.meta["float"]:
            continue
        if norm.running_mean is None:
            raise ValueError(
                f"batch norm {node.target!r} keeps no running statistics, so it cannot be folded: give it "
                f"some, {way_out(node)}"
            )
        rank = ranks().get(before) if isinstance(layer, nn.Linear) else 2
        if rank not in (None, 2):
            continue
        fused = copy.copy(layer)
        fused._parameters = dict(zip(("weight", "bias"), map(nn.Parameter, folded(layer, norm)), strict=True))
        module.set_submodule(before.target, fused)
        folds[before.target] = layer, norm
        replace(node, before)
        if rank is None:
            why = (
                f"batch norm {node.target!r} is folded into {before.target!r}, which is right for inputs (n, "
                "features) alone: pass data (calibration, or an example input) so that this can be known"
            )
            entering = before.all_input_nodes[0]
            with module.graph.inserting_before(before):
                before.replace_input_with(entering, module.graph.call_function(of_rank, (entering, 2, why)))
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
    """The weight and bias with which ``layer`` gives what ``norm`` makes of its outputs; computed in
    ``dtype``, if given.
    """
    given = (layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    weight, bias, mean, variance, scale, shift = (
        t if t is None else t.detach().to(dtype or t.dtype) for t in given
    )
    if isinstance(layer, nn.Linear):
        scale = torch.ones_like(mean) if scale is None else scale
        shift = torch.zeros_like(mean) if shift is None else shift
        return fuse_linear_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    rows, bias = fuse_conv_bn_weights(rows_of(weight, layer), bias, mean, variance, norm.eps, scale, shift)
    return weight_of_rows(rows.detach(), layer), bias


# ------------------------------------------------------------------------------------------------------------
# Operations that give several tensors


def separate_elements(module: fx.GraphModule) -> None:
    """Give every element of a chunk, split or unbind an operation of its own, so that each can be quantized
    or not.
    """
    for node in list(module.graph.nodes):
        if known_name(node) not in TUPLES or not all(_picks(user) for user in node.users):
            continue
        for user in list(node.users)[1:]:
            with module.graph.inserting_before(user):
                user.replace_input_with(node, module.graph.node_copy(node))


def _picks(user: fx.Node) -> bool:
    return known_name(user) == "getitem" and isinstance(argument(user, 1, "index"), int)
