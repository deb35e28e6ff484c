"""Reads a network with `torch.fx`: a traced copy in a form that can be quantized, and what its operations are.

Batch norms are folded, in-place operations made ordinary, and all weights put into layers. It looks at no data and no
configuration; where quantizers go is `qlib.placement`.

**Attention** is written out in linear layers, matrix products and a softmax (`qlib.attention`).

**Parameters.** What follows from parameters and numbers alone (standardized weights, tables of relative positions) is computed
once, in float; it is quantized only where it is the weight of a convolution or linear function, which then becomes a layer.

Of an addition's two operands, the *residual* is the one with more convolution and linear layers on its own path, the *skip*
the other (if equal, the second operand).
"""

from __future__ import annotations

import copy
import functools
import inspect
import operator
import threading
from collections.abc import Container
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from .attention import WRITTEN_OUT, scaled_dot_product_attention


class Kind(str, Enum):
    """What an operation is to a quantizer."""

    INPUT = "input"
    WEIGHT = "weight layer"
    ADD = "addition"
    MULTIPLY = "multiplication"
    CONCAT = "concatenation"
    PRODUCT = "matrix product"
    POOL = "average pooling"
    KEEPS_GRID = "keeps its grid"
    OTHER = "float"


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHT_LAYERS = (*CONVOLUTIONS, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
FLOAT_LAYERS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.PReLU,
                nn.RMSNorm)

_ACTIVATIONS = ("relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu celu gelu silu silu_ mish hardswish hardswish_ "
                "hardsigmoid hardsigmoid_ hardtanh hardtanh_ sigmoid sigmoid_ tanh tanh_ softplus prelu").split()
_KEEPERS = ("max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d boolean_dispatch pad dropout dropout_ "
            "dropout2d alpha_dropout feature_dropout stochastic_depth drop_block2d flatten view reshape permute transpose "
            "squeeze unsqueeze chunk split narrow select getitem contiguous clone detach expand pixel_shuffle "
            "pixel_unshuffle channel_shuffle t T mT movedim swapaxes unflatten roll flip amax max unbind tile repeat windows "
            "image_of_windows _patch_merging_pad").split()
_POOLS = ("avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d").split()
_NAMES: dict[str, Kind] = {
    **dict.fromkeys(("add", "add_", "iadd"), Kind.ADD),
    **dict.fromkeys(("mul", "mul_", "imul", "multiply"), Kind.MULTIPLY),
    **dict.fromkeys(("cat", "concat", "concatenate"), Kind.CONCAT),
    **dict.fromkeys(("matmul", "bmm", "mm", "einsum"), Kind.PRODUCT),
    **dict.fromkeys(_POOLS, Kind.POOL),
    **dict.fromkeys(_KEEPERS, Kind.KEEPS_GRID),
}
_WITH_WEIGHTS = ("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear bilinear embedding matmul bmm "
                 "mm einsum multi_head_attention_forward").split()
_SHAPES = ("shape", "ndim", "dtype", "device", "is_cuda")
_AS_LAYERS = {F.linear: nn.Linear, F.conv1d: nn.Conv1d, F.conv2d: nn.Conv2d, F.conv3d: nn.Conv3d}
_TRACING = threading.Lock()  # while it traces, torch.fx swaps methods of nn.Module itself
_IN_PLACE = {operator.iadd: operator.add, operator.imul: operator.mul}
_MODULES: tuple[tuple[tuple[type, ...], Kind], ...] = (
    (WEIGHT_LAYERS, Kind.WEIGHT),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), Kind.POOL),
    ((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.modules.padding._ConstantPadNd,
      nn.modules.padding._ReflectionPadNd, nn.modules.padding._ReplicationPadNd, nn.modules.dropout._DropoutNd, nn.Flatten,
      nn.Unflatten, nn.Identity, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle), Kind.KEEPS_GRID),
)  # fmt: skip
_ACTIVATION_MODULES = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
                       nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.PReLU)  # fmt: skip


@dataclass
class Operation:
    """One node of the traced network. ``name`` is the layer's path, or the module's path and the operation's name."""

    node: fx.Node
    kind: Kind
    name: str
    result: fx.Node  # the activation function that directly follows, or the node itself
    residual: fx.Node | None = None  # of an addition of two tensors: the operand that is the residual branch
    counted: bool = False  # as a feature map (outputs of convolution, addition and linear layers)


@dataclass
class Network:
    """A folded, traced network in evaluation mode, its operations by node, and its weight layers in execution order.

    ``aside``: nodes that hold shapes, or follow from parameters alone; to a quantizer they are not there.
    """

    module: fx.GraphModule
    operations: dict[fx.Node, Operation]
    layers: list[str] = field(default_factory=list)
    aside: set[fx.Node] = field(default_factory=set)

    def listed(self) -> list[Operation]:
        """The operations whose outputs a configuration can name, in execution order."""
        return [o for o in self.operations.values() if o.kind not in (Kind.INPUT, Kind.KEEPS_GRID)]


class _Tracer(fx.Tracer):
    """Symbolic tracing that writes attention out, remembers which module it is in, to name it when tracing fails, and lets
    networks that run in other threads run."""

    def __init__(self):
        super().__init__()
        self.path: list[str] = []
        self.thread = threading.get_ident()

    def is_leaf_module(self, m, module_qualified_name):
        return _full_name(m) not in WRITTEN_OUT and super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m, forward, args, kwargs):
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        self.path.append(self.path_of_module(m))
        if _full_name(m) in WRITTEN_OUT:
            forward = partial(WRITTEN_OUT[_full_name(m)], m)
        result = super().call_module(m, forward, args, kwargs)
        self.path.pop()
        return result

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """Inputs but the first that have a default, have that."""
        fn, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        for i, arg in enumerate(args):
            if i > 1 and isinstance(arg, fx.Proxy) and arg.node.args:
                args[i] = arg.node.args[0]
                self.graph.erase_node(arg.node)
        return fn, args

    def create_proxy(self, kind, target, args, kwargs, *more, **options):
        if target is F.scaled_dot_product_attention:
            return scaled_dot_product_attention(*args, **kwargs)
        return super().create_proxy(kind, target, args, kwargs, *more, **options)


def _full_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def read(model: nn.Module) -> Network:
    """Trace a copy of ``model`` in evaluation mode, fold its batch norms and classify its operations.

    Raises ``ValueError`` naming the layer when the model cannot be traced, holds weights that are not convolution or linear
    layers, or no weights at all; and when a weight is NaN or infinite.
    """
    model = evaluation_copy(model)
    if any(_full_name(m) == "qlib.model.Quantizer" for m in model.modules()):
        raise ValueError("this network is quantized already: take the float network that it was made from")
    tracer = _Tracer()
    try:
        with _TRACING:
            graph = tracer.trace(model)
    except Exception as error:
        where = tracer.path[-1] if tracer.path else "the top level"
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise ValueError(
            f"{type(model).__name__} cannot be traced by torch.fx, at {where}: {reason}. "
            "Control flow that depends on tensor values must be rewritten, or moved into a module marked by torch.fx.wrap"
        ) from error
    module = fx.GraphModule(model, graph, type(model).__name__)
    _compute_constants(module)
    _make_layers(module)
    _refuse_other_weights(module)
    _fold_batch_norms(module)
    _without_in_place(module)
    module.recompile()
    network = Network(module, {})
    _classify(network)
    if not network.layers:
        raise ValueError(f"{type(model).__name__} has no convolution or linear layer: there are no weights to quantize")
    for name, parameter in [*module.named_parameters(), *module.named_buffers()]:
        if not isinstance(parameter, nn.Parameter):
            parameter = parameter.masked_fill(parameter == float("-inf"), 0)  # which masks of attention may hold
        if parameter.is_floating_point() and not parameter.is_meta and not torch.isfinite(parameter).all():
            raise ValueError(f"{name} holds NaN or infinity (after folding batch norm): mend the weights first")
    return network


def evaluation_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode. Raises ``ValueError`` for what is not a module."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a torch.nn.Module, got {type(model).__name__}")
    return copy.deepcopy(model).eval()


def _refuse_other_weights(module: fx.GraphModule) -> None:
    called = {n.target for n in module.graph.nodes if n.op == "call_module"}
    for path in called:
        layer = module.get_submodule(path)
        if isinstance(layer, WEIGHT_LAYERS + FLOAT_LAYERS):
            continue
        weights = [name for name, _ in layer.named_parameters()]
        if weights:
            raise ValueError(f"layer {path!r} ({type(layer).__name__}) holds the weight {weights[0]!r}, and only convolution "
                             "(Conv1d to Conv3d) and Linear layers can be quantized: replace it by these")
    for node in module.graph.nodes:
        own = [n for n in node.all_input_nodes if n.op == "get_attr" and _constant(module, n).dim() > 1]
        name = _function_name(node)
        if own and (name in _WITH_WEIGHTS or _is_foreign(node)) or name in _WITH_WEIGHTS and _NAMES.get(name) is not Kind.PRODUCT:
            raise ValueError(f"{_place_of(node)} calls {name} with weights of its own: use the layer module (nn.Conv2d, "
                             "nn.Linear) so that its weights can be found")


def _is_foreign(node: fx.Node) -> bool:
    """Whether a node calls a function that torch did not define, and so can do anything with a weight."""
    place = (getattr(node.target, "__module__", None) or "torch").split(".")[0] if node.op == "call_function" else "torch"
    return place not in ("torch", "_operator", "builtins", "math", __name__.split(".")[0])


def _constant(module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    """The parameter or buffer of a ``get_attr`` node."""
    return functools.reduce(getattr, node.target.split("."), module)


def _compute_constants(module: fx.GraphModule) -> None:
    """Compute once what follows from parameters, buffers and numbers alone, and keep it as buffers."""
    graph, values = module.graph, {}
    for node in graph.nodes:
        before = node.all_input_nodes
        if node.op == "get_attr":
            values[node] = _constant(module, node)
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
        if isinstance(value, torch.Tensor):
            module.register_buffer(name := f"constant_{node.name}", value.detach().clone())
            with graph.inserting_before(node):
                value = graph.get_attr(name)
        for user in wanted:
            args, kwargs = fx.node.map_arg((user.args, user.kwargs), lambda n, node=node, value=value: value if n is node else n)
            user.args, user.kwargs = args, kwargs
    for node in reversed(values):
        if not node.users:
            graph.erase_node(node)


def _make_layers(module: fx.GraphModule) -> None:
    """Put a layer in the place of every linear function or convolution that is called with parameters as its weights."""
    parameters, made = dict(module.named_parameters()), {}
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in _AS_LAYERS:
            continue
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        options = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        x, weight, bias = (options.pop(name, None) for name in names[:3])
        if x.op == "get_attr" or any(n is not x and n.op != "get_attr" for n in node.all_input_nodes):
            continue
        tensors = [n and _constant(module, n).detach() for n in (weight, bias)]
        if (weight, bias) not in made:
            made[weight, bias] = _layer_path(module, node, weight.target, parameters, made.values())
            module.add_submodule(made[weight, bias], _layer(_AS_LAYERS[node.target], *tensors, **options))
        with module.graph.inserting_before(node):
            call = module.graph.call_module(made[weight, bias], (x,))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)


def _layer_path(module: fx.GraphModule, node: fx.Node, weight: str, parameters: Container[str], taken: Container[str]) -> str:
    """That of the layer which owns the weight or computes it, or else one that says which function of which module this is."""
    path = weight.removesuffix("weight").rstrip("._") if weight in parameters and weight.endswith("weight") else _place_of(node)
    there = dict(module.named_modules()).get(path)
    bare = type(there) is nn.Module and not list(there.children())  # what is left of a layer that was traced into
    wanted = {n.target for n in module.graph.nodes if n.op == "get_attr" and n.target.startswith(f"{path}.")}
    free = (there is None or bare) and wanted <= {f"{path}.weight", f"{path}.bias"}
    if path and path not in taken and (free or isinstance(there, _AS_LAYERS[node.target]) and weight == f"{path}.weight"):
        return path
    return f"{_place_of(node)}.{node.name}".removeprefix("the top level.")


def _layer(kind: type[nn.Module], weight: torch.Tensor, bias: torch.Tensor | None, **options) -> nn.Module:
    inputs = weight.shape[1] * options.get("groups", 1)
    shape = (inputs, len(weight)) if kind is nn.Linear else (inputs, len(weight), tuple(weight.shape[2:]))
    layer = kind(*shape, bias=bias is not None, device="meta", **options)
    layer.weight, layer.bias = nn.Parameter(weight), None if bias is None else nn.Parameter(bias)
    return layer.eval()


def _fold_batch_norms(module: fx.GraphModule) -> None:
    calls: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.op == "call_module":
            calls[node.target] = calls.get(node.target, 0) + 1
    for node in list(module.graph.nodes):
        if node.op != "call_module" or not isinstance(norm := module.get_submodule(node.target), BATCH_NORMS):
            continue
        before = node.all_input_nodes[0]
        if before.op != "call_module" or len(before.users) > 1 or calls[before.target] > 1 or calls[node.target] > 1:
            continue
        layer = module.get_submodule(before.target)
        if norm.running_mean is None:
            raise ValueError(f"batch norm {node.target!r} keeps no running statistics: it cannot be folded")
        if isinstance(layer, CONVOLUTIONS):
            fused = fuse_conv_bn_eval(layer, norm)
        elif isinstance(layer, nn.Linear):
            fused = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        module.set_submodule(before.target, fused)
        node.replace_all_uses_with(before)
        module.graph.erase_node(node)
    module.delete_all_unused_submodules()


def _without_in_place(module: fx.GraphModule) -> None:
    """Turn in-place operations into ordinary ones: a tensor may now be wanted both before and after quantization.

    What reads the overwritten tensor afterwards reads the result instead.
    """
    order = {node: i for i, node in enumerate(module.graph.nodes)}
    in_place = [node for node in module.graph.nodes if _is_in_place(node, module)]
    for node in in_place:
        overwritten = node.all_input_nodes[0]
        for user in list(overwritten.users):
            if order[user] > order[node]:
                user.replace_input_with(overwritten, node)
        if node.op == "call_method":
            node.target = node.target[:-1]
        elif node.op == "call_function" and node.target in _IN_PLACE:
            node.target = _IN_PLACE[node.target]
        elif node.op == "call_function" and node.target.__name__.endswith("_"):
            name = node.target.__name__[:-1]
            node.target = getattr(F, name, None) or getattr(torch, name)
        elif node.op == "call_function":
            arguments = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments
            node.args, node.kwargs = (), {**arguments, "inplace": False}
    for layer in module.modules():
        if getattr(layer, "inplace", None) is True:
            layer.inplace = False


def _is_in_place(node: fx.Node, module: fx.GraphModule) -> bool:
    if node.op == "call_module":
        return getattr(module.get_submodule(node.target), "inplace", None) is True
    if node.op == "call_method":
        return node.target.endswith("_") and hasattr(torch.Tensor, node.target[:-1]) and not node.target.startswith("_")
    if node.op != "call_function":
        return False
    if node.target in _IN_PLACE or getattr(node.target, "__name__", "").endswith("_"):
        return True
    try:
        return inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments.get("inplace") is True
    except (ValueError, TypeError):  # a built-in function does not tell its parameters, and takes no ``inplace``
        return False


def _function_name(node: fx.Node) -> str:
    if node.op == "call_method":
        return node.target
    if node.target is getattr:  # x.shape, x.mT
        return node.args[1]
    return getattr(node.target, "__name__", str(node.target)) if node.op == "call_function" else ""


def _is_activation(node: fx.Node, module: fx.GraphModule) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(node.target), _ACTIVATION_MODULES)
    return _function_name(node) in _ACTIVATIONS


def is_relu(node: fx.Node, module: fx.GraphModule) -> bool:
    if node.op == "call_module":
        return type(module.get_submodule(node.target)) is nn.ReLU
    return _function_name(node) == "relu"


def _kind(node: fx.Node, module: fx.GraphModule, aside: set[fx.Node]) -> Kind:
    if node.op == "placeholder":
        return Kind.INPUT
    if node.op == "call_module":
        layer = module.get_submodule(node.target)
        return next((kind for types, kind in _MODULES if isinstance(layer, types)),
                    Kind.KEEPS_GRID if type(layer) is nn.ReLU or type(layer).__name__ == "StochasticDepth" else Kind.OTHER)
    name = _function_name(node)
    if name == "mean":
        axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        return Kind.POOL if isinstance(axes, (list, tuple)) or axes in (-1, 2, 3) else Kind.OTHER
    kind = _NAMES.get(name, Kind.KEEPS_GRID if is_relu(node, module) else Kind.OTHER)
    if kind in (Kind.ADD, Kind.MULTIPLY) and not all(isinstance(a, fx.Node) and a not in aside for a in _operands(node)):
        return Kind.OTHER  # with a constant
    if kind is Kind.PRODUCT and any(n in aside for n in node.all_input_nodes):
        return Kind.OTHER
    return kind


def _operands(node: fx.Node) -> list[object]:
    """The two operands of an addition or multiplication, be they given by position or by name."""
    return [*node.args, *node.kwargs.values()][:2]


def _is_aside(node: fx.Node, aside: set[fx.Node]) -> bool:
    """Whether a node holds (part of) a shape, or follows from shapes and parameters alone."""
    if node.op == "get_attr" or _function_name(node) in ("size", "dim", "numel", *_SHAPES):
        return True
    return node.op.startswith("call_") and aside.issuperset(node.all_input_nodes)


def _place_of(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    return (list(stack)[-1] if stack else "") or "the top level"


def _classify(network: Network) -> None:
    module, taken, absorbed = network.module, set(), set()
    for node in module.graph.nodes:
        if node.op == "output" or node in absorbed:
            continue
        if _is_aside(node, network.aside):
            network.aside.add(node)
            continue
        kind = _kind(node, module, network.aside)
        path = node.target if node.op == "call_module" else _place_of(node) + "." + (_function_name(node) or node.name)
        stem = name = str(path).removeprefix("the top level.").replace(".iadd", ".add").replace("iadd", "add")
        number = 1
        while name in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name)
        operation = Operation(node, kind, name, node)
        if kind in (Kind.WEIGHT, Kind.ADD, Kind.MULTIPLY, Kind.CONCAT, Kind.PRODUCT) and len(node.users) == 1:
            (user,) = node.users
            if _is_activation(user, module) and user.all_input_nodes[0] is node:
                operation.result = user
                absorbed.add(user)
        operation.counted = kind in (Kind.WEIGHT, Kind.ADD)
        network.operations[node] = operation
        if kind is Kind.WEIGHT and node.target not in network.layers:
            network.layers.append(node.target)
    _find_residuals(network)


def _find_residuals(network: Network) -> None:
    """Which operand of every addition is the residual branch: the one with more weight layers that the other lacks."""
    above: dict[fx.Node, frozenset[fx.Node]] = {}  # the weight layers that lead to a node
    for node in network.module.graph.nodes:
        before = frozenset().union(*(above[n] for n in node.all_input_nodes))
        operation = network.operations.get(node)
        above[node] = before | {node} if operation and operation.kind is Kind.WEIGHT else before
        if operation and operation.kind is Kind.ADD:
            first, second = _operands(node)
            own = [len(above[first] - above[second]), len(above[second] - above[first])]
            operation.residual = second if own[1] > own[0] else first
