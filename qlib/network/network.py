"""`read`: from a module to a `Network`, in a form that can be quantized.

Batch norms are folded, operations in place made ordinary, and all weights put into layers. Where quantizers
go is `qlib.placement`; all that is asked of a configuration here is what it leaves in float.

**Parameters.** What follows from parameters and numbers alone (standardized weights, tables of relative
positions) is computed once, in float; it is quantized only where it is the weight of a convolution or linear
function, which then becomes a layer.

Of an addition's two operands, the *residual* is the one with more convolution and linear layers on its own
path, the *skip* the other (if equal, the second operand).
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn

from .axes import channel_axes, mover_of_examples
from .in_place import without_in_place
from .inputs import call, copied, device_of, first, names_of, on
from .nodes import single
from .operations import (
    NORMS,
    VIEWS,
    WEIGHT_LAYERS,
    Kind,
    constant,
    data_of,
    holds_shape,
    is_activation,
    is_instance,
    is_known,
    kind_by_table,
    kind_of,
    known_name,
    label,
    layer_of,
    operands,
)
from .rewrite import compute_constants, fold_batch_norms, make_layers, separate_elements
from .tied import tied_layers
from .trace import TOP, place_of, traced, way_out


@dataclass
class Operation:
    """One node of the traced network. ``name`` is the layer's path, or the module's path and the operation's
    name.
    """

    node: fx.Node
    kind: Kind
    name: str
    result: fx.Node  # the activation function that directly follows, or the node itself
    residual: fx.Node | None = None  # of an addition of two tensors: the operand that is the residual branch
    counted: bool = False  # as a feature map (outputs of convolution, addition and linear layers)
    in_float: bool = False  # left in float whole


@dataclass
class Network:
    """A folded, traced network in evaluation mode.

    Parameters
    ----------
    module
        The graph that is run.
    operations
        By node.
    layers
        Its weight layers, in execution order.
    aside
        Nodes that hold shapes, or follow from parameters alone; to a quantizer they are not there.
    tied
        Layers whose weight is that of an earlier one, and the first that has it.
    folds
        The layer and the batch norm that every folded layer is made of.
    rounded
        Whether weights were computed first, so that float32 rounded them once more.
    channels
        By node, the axis of channels of what it gives, where that is known.
    moves_examples
        An operation after which examples may no longer be the first axis, or nothing.
    given
        A copy of what was read, where there is one at hand.
    float_layers
        Those that it was read with.
    unverified
        The network given, until what was read has been compared with it.
    """

    module: fx.GraphModule
    operations: dict[fx.Node, Operation]
    layers: list[str] = field(default_factory=list)
    aside: set[fx.Node] = field(default_factory=set)
    tied: dict[str, str] = field(default_factory=dict)
    folds: dict[str, tuple[nn.Module, nn.Module]] = field(default_factory=dict)
    rounded: bool = False
    channels: dict[fx.Node, int] = field(default_factory=dict)
    moves_examples: str = ""
    given: nn.Module | None = None
    float_layers: tuple[str, ...] = ()
    unverified: nn.Module | None = None

    def copy(self) -> Network:
        """A network of its own, to be quantized, of which this one sees nothing."""
        module = copy.deepcopy(self.module)
        there = dict(zip(self.module.graph.nodes, module.graph.nodes, strict=True))
        operations = {
            there[node]: replace(
                o, node=there[o.node], result=there[o.result], residual=o.residual and there[o.residual]
            )
            for node, o in self.operations.items()
        }
        return replace(
            self,
            module=module,
            operations=operations,
            layers=list(self.layers),
            aside={there[node] for node in self.aside},
            channels={there[node]: axis for node, axis in self.channels.items()},
        )

    def listed(self) -> list[Operation]:
        """The operations whose outputs a configuration can name, in execution order."""
        return [o for o in self.operations.values() if o.kind not in (Kind.INPUT, Kind.KEEPS_GRID)]

    @property
    def tables(self) -> list[str]:
        """Its lookup tables that are not left in float, in execution order."""
        found = (o.node.target for o in self.operations.values() if o.kind is Kind.TABLE and not o.in_float)
        return list(dict.fromkeys(found))

    def weights_of(self, operation: Operation) -> list[Tensor]:
        """The weights that an operation multiplies with."""
        layer = layer_of(operation.node, self.module)
        if operation.kind in (Kind.WEIGHT, Kind.TABLE) and layer is not None:
            return [layer.weight]
        if not operation.in_float:
            return []
        own = list(layer.parameters()) if layer is not None else []
        own += [constant(self.module, n) for n in operation.node.all_input_nodes if n.op == "get_attr"]
        return [p for p in own if p.dim() > 1 and p.is_floating_point()]


def read(model: nn.Module | Network, example: object = None, float_layers: tuple[str, ...] = ()) -> Network:
    """Trace a copy of ``model`` in evaluation mode, fold its batch norms and classify its operations.

    Parameters
    ----------
    model : nn.Module or Network
        A module; or a network that was read before, of which a copy is given.
    example : Tensor, tuple or dict, optional
        Inputs of a few examples, as the network takes them (a tensor, a tuple, or a dictionary by name),
        where there are some: they say which inputs are given, and how many axes tensors have.
    float_layers : tuple of str
        As in `QuantConfig`.

    Returns
    -------
    Network
        Not compared yet with what was given: see `verify`.

    Raises
    ------
    ValueError
        Naming the layer when the model cannot be traced, holds weights that are not convolution or linear
        layers, or no weights at all; and when a weight is NaN or infinite.
    """
    if isinstance(model, Network):
        if model.float_layers != float_layers:
            raise ValueError(
                f"this network was read with float_layers={model.float_layers}, not {float_layers}: read it "
                "again"
            )
        return model.copy()
    if isinstance(model, nn.Module) and any(
        getattr(m, "quantized_by_qlib", False) is True for m in model.modules()
    ):
        raise ValueError("this network is quantized already: take the float network that it was made from")
    module, computed, given = traced(model, names_of(example), float_layers)
    without_in_place(module)
    rounded = compute_constants(module) or computed
    make_layers(module)
    _refuse_other_weights(module)
    folds = fold_batch_norms(module, functools.cache(lambda: _ranks(module, example)))
    separate_elements(module)
    # Rewrites have made views idle
    module.graph.eliminate_dead_code(lambda node: known_name(node) not in VIEWS)
    module.recompile()
    network = Network(module, {}, folds=folds, rounded=rounded, given=given, float_layers=float_layers)
    network.unverified = model
    _classify(network)
    network.tied = tied_layers(network)
    if not network.layers:
        why = (
            "float_layers leave every layer in float" if float_layers else "there are no weights to quantize"
        )
        raise ValueError(f"{type(model).__name__} has no convolution or linear layer: {why}")
    for name, parameter in [*module.named_parameters(), *module.named_buffers()]:
        if not isinstance(parameter, nn.Parameter):
            # Masks of attention may hold -inf
            parameter = parameter.masked_fill(parameter == float("-inf"), 0)
        if parameter.is_floating_point() and not parameter.is_meta and not torch.isfinite(parameter).all():
            raise ValueError(
                f"{name} holds NaN or infinity (after folding batch norm): mend the weights first"
            )
    return network


class _Ranks(fx.Interpreter):
    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.of: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.of[n] = result.dim()
        return result


def _ranks(module: fx.GraphModule, example: object) -> dict[fx.Node, int]:
    """How many axes every tensor of a network has; of none where there is no example, or it does not fit."""
    if example is None:
        return {}
    for inputs in (first(example, 1), example):
        found = _Ranks(module)
        names = [n.target for n in module.graph.nodes if n.op == "placeholder"]
        try:
            with torch.no_grad():
                call(found.run, copied(on(inputs, device_of(module))), names)
            return found.of
        except Exception:  # said where the network is run, with the batch's name
            continue
    return {}


# ------------------------------------------------------------------------------------------------------------
# Refusals


def _refuse_other_weights(module: fx.GraphModule) -> None:
    aside: set[fx.Node] = set()
    for node in module.graph.nodes:
        if _is_aside(node, aside):
            aside.add(node)
            continue
        if node.meta.get("float"):
            continue
        layer = layer_of(node, module)
        if layer is not None:
            _refuse_unknown_layer(node, layer)
            continue
        own = [n for n in node.all_input_nodes if n.op == "get_attr"]
        name = known_name(node) or label(node)
        kind = kind_by_table(node, module)
        most = max((constant(module, n).dim() for n in own), default=0)
        weights = (
            most > 0
            if kind is Kind.PRODUCT
            else kind is Kind.WEIGHT or (most > 1 and not _takes_tables(node))
        )
        if weights:
            raise ValueError(
                f"{place_of(node)} calls {name} with weights of its own: use the layer module (nn.Conv2d, "
                f"nn.Linear) so that its weights can be found, {way_out(node)}"
            )


def _takes_tables(node: fx.Node) -> bool:
    """Whether a function may take parameters that are no weights, such as positions that are added."""
    return is_known(node) or node.op == "output" or node.target is single


def _refuse_unknown_layer(node: fx.Node, layer: nn.Module) -> None:
    weights = [name for name, _ in layer.named_parameters()]
    fine = is_instance(layer, (*WEIGHT_LAYERS, nn.Embedding)) or isinstance(layer, (*NORMS, nn.PReLU))
    if weights and not fine:
        raise ValueError(
            f"layer {node.target!r} ({type(layer).__name__}) holds the weight {weights[0]!r}, and only "
            "convolution (Conv1d to Conv3d, also transposed), Linear and Embedding layers can be quantized: "
            f"replace it by these, {way_out(node)}"
        )
    if getattr(layer, "max_norm", None) is not None:
        raise ValueError(
            f"layer {node.target!r} changes its table while it runs (max_norm): set max_norm=None, "
            f"{way_out(node)}"
        )


# ------------------------------------------------------------------------------------------------------------
# Operations


def _is_aside(node: fx.Node, aside: set[fx.Node]) -> bool:
    """Whether a node holds (part of) a shape, or follows from shapes and parameters alone."""
    if node.op == "get_attr" or holds_shape(node):
        return True
    return node.op.startswith("call_") and aside.issuperset(node.all_input_nodes)


def _classify(network: Network) -> None:
    module = network.module
    taken = set()
    absorbed = set()
    for node in module.graph.nodes:
        if node.op == "output" or node in absorbed:
            continue
        in_float = node.meta.get("float", False)
        if _is_aside(node, network.aside) and not (in_float and node.op == "call_module"):
            network.aside.add(node)
            continue
        kind = kind_of(node, module, network.aside)
        path = node.target if node.op == "call_module" else place_of(node) + "." + (label(node) or node.name)
        stem = str(path).removeprefix(f"{TOP}.")
        name = stem
        number = 1
        while name in taken:
            name = f"{stem}_{number}"
            number = number + 1
        taken.add(name)
        operation = Operation(node, kind, name, node, in_float=in_float)
        followed = (Kind.WEIGHT, Kind.ADD, Kind.MULTIPLY, Kind.CONCAT, Kind.PRODUCT)
        if kind in followed and len(node.users) == 1:
            (user,) = node.users
            if is_activation(user, module) and data_of(user) is node:
                operation.result = user
                absorbed.add(user)
        operation.counted = kind in (Kind.WEIGHT, Kind.ADD) or bool(network.weights_of(operation))
        network.operations[node] = operation
        if kind is Kind.WEIGHT and not in_float and node.target not in network.layers:
            network.layers.append(node.target)
    network.channels = channel_axes(module)
    network.moves_examples = mover_of_examples(module, network.aside)
    _find_residuals(network)


def _find_residuals(network: Network) -> None:
    """Which operand of every addition is the residual branch: the one with more weight layers that the other
    lacks.
    """
    above: dict[fx.Node, frozenset[fx.Node]] = {}  # the weight layers that lead to a node
    for node in network.module.graph.nodes:
        before = frozenset().union(*(above[n] for n in node.all_input_nodes))
        operation = network.operations.get(node)
        above[node] = before | {node} if operation and operation.kind is Kind.WEIGHT else before
        if operation and operation.kind is Kind.ADD:
            one, other = operands(node)
            own = [len(above[one] - above[other]), len(above[other] - above[one])]
            operation.residual = other if own[1] > own[0] else one
