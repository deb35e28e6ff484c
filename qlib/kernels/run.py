"""One pass of an `IntegerNetwork`: its graph node by node, on values in integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ..affine import Grid, quantize
from ..export.naming import Names
from ..network.inputs import call, names_of
from ..network.operations import (
    Kind,
    argument,
    data_of,
    holds_shape,
    is_activation,
    is_relu,
    kind_of,
    known_name,
    layer_of,
    operands,
)
from ..quantizer import OnCodes, Quantizer
from .arithmetic import largest_of
from .means import divisor
from .refusals import name_of, refuse
from .sums import Seen, multiplied
from .values import Cause, Codes, Floats, Joined, Part, Sums, Value, acts, as_sums

if TYPE_CHECKING:
    from .integers import IntegerNetwork

MATRIX_PRODUCTS = ("matmul", "bmm", "mm")


class Run(fx.Interpreter):
    """One pass of an `IntegerNetwork`.

    Attributes
    ----------
    seen : dict
        By layer, the sums of this pass.
    """

    def __init__(self, network: IntegerNetwork, through: Cause | None = None):
        super().__init__(network.quantized)
        self.extra_traceback = False  # errors are one line
        self.network = network
        self.through = through or network.through
        # Where none overflows, no sum has to be added up in turn
        wide = replace(network.accumulator, bits=32, overflow="wrap")
        self.accumulator = network.accumulator if acts(Cause.OVERFLOW, self.through) else wide
        self.seen: dict[str, Seen] = {}

    def outputs(self, inputs: Any) -> Any:
        """Of the network, for inputs as it takes them: a tensor, a tuple, or a dictionary by name."""
        with torch.no_grad():
            return call(self.run, inputs, given_names(self.module, inputs))

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "placeholder":
            value = super().run_node(n)
            return Floats(value) if isinstance(value, Tensor) and value.is_floating_point() else value
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "output":
            return pytree.tree_map(lambda v: v.floats(self.through) if _is_value(v) else v, args[0])
        values = [v for v in pytree.tree_leaves((args, kwargs)) if _is_value(v)]
        if not values:
            return getattr(self, n.op)(n.target, args, kwargs)
        if holds_shape(n):
            return self._on_numbers(n)[0]
        if isinstance(layer := layer_of(n, self.module), Quantizer):
            return self.quantized(n, layer, self._of(n))
        if isinstance(layer, OnCodes):
            return self.on_codes(n, layer, self._of(n))
        return self._operation(n, layer)

    def _of(self, node: fx.Node) -> Value:
        """The value that an operation works on."""
        return self.env[data_of(node)]

    def _on_numbers(self, node: fx.Node) -> tuple[Any, Value]:
        """What an operation gives for counts from the zero-point, in float64, where they are exact; and the
        value that it works on.
        """
        found: list[Value] = []

        def number(value: Any) -> Any:
            if not _is_value(value):
                return value
            found.append(value)
            return value.counts.double() if isinstance(value, Codes) else value.floats(self.through)

        args, kwargs = pytree.tree_map(number, self.fetch_args_kwargs_from_env(node))
        return getattr(self, node.op)(node.target, args, kwargs), found[0]

    def _operation(self, node: fx.Node, layer: nn.Module | None) -> Value:
        """An operation on values, by its kind."""
        if is_activation(node, self.module) and not self._keeps_grid(node):
            return self._cut(node, layer)
        aside = {operand for operand in node.all_input_nodes if not _holds_value(self.env[operand])}
        kind = kind_of(node, self.module, aside)
        steps: dict[Kind, Callable] = {
            Kind.WEIGHT: self._layer,
            Kind.ADD: self._add,
            Kind.MULTIPLY: self._multiply,
            Kind.CONCAT: self._join,
            Kind.PRODUCT: self._product,
            Kind.POOL: self._pool,
            Kind.KEEPS_GRID: self._move,
        }
        if kind not in steps:
            self.refuse(node, "computes in float")
        return steps[kind](node)

    def _keeps_grid(self, node: fx.Node) -> bool:
        """Whether an activation function gives codes of the grid that it gets."""
        return isinstance(self._of(node), (Codes, Floats)) and is_relu(node, self.module)

    def refuse(self, node: fx.Node, what: str) -> NoReturn:
        refuse(name_of(node), what, self.network.quantized)

    def codes(self, node: fx.Node, value: Any) -> Codes:
        """An operand that must have codes."""
        if not isinstance(value, Codes):
            self.refuse(node, "gets values that are not quantized")
        return value

    # Quantizers

    def quantized(self, node: fx.Node, quantizer: Quantizer, value: Value) -> Codes:
        """Codes of the quantizer's grid."""
        grid = quantizer.grid
        if isinstance(value, Floats):
            return Codes(quantize(value.values, grid).long() - grid.zero_point.long(), grid)
        return self.requantized(node, quantizer, value, self.through)

    def requantized(self, node: fx.Node, quantizer: Quantizer, value: Value, through: Cause) -> Codes:
        """From integers to integers."""
        value = value if isinstance(value, Joined) else as_sums(value, name_of(node))
        found = value.on(quantizer.grid, through)
        return replace(found, counts=found.counts.clamp(min=0)) if quantizer.rectifies else found

    def on_codes(self, node: fx.Node, layer: OnCodes, value: Value) -> Codes:
        """Before a mean of codes, codes as they are; behind it, the codes of rounded means."""
        return self.rounded_mean(node, layer.source.grid, value, self.through) if layer.back else value

    def rounded_mean(self, node: fx.Node, grid: Grid, value: Sums, through: Cause) -> Codes:
        """Means are rounded as codes, counted from 0: half to even is another way for odd zero-points."""
        (part,) = value.parts
        zero_point = grid.zero_point.long()
        offset = (zero_point * grid.scale.double() / part.factor).round().long()  # in so many values
        from_zero = replace(part, sums=part.sums + offset, held=part.held + offset)
        counts = replace(value, parts=(from_zero,)).counted(grid.scale, through) - zero_point
        return Codes(counts, grid)

    # Operations, by kind

    def _layer(self, node: fx.Node) -> Sums:
        layer = self.network.layers[node.target]
        return self._noted(*layer.sums(self.codes(node, self._of(node)), self.accumulator))

    def _noted(self, sums: Sums, seen: Seen) -> Sums:
        if seen.layer in self.seen:  # a layer that is called again
            self.seen[seen.layer].add(seen)
        else:
            self.seen[seen.layer] = seen
        return sums

    def _product(self, node: fx.Node) -> Sums:
        values = [self.env[n] for n in node.all_input_nodes]
        if known_name(node) not in MATRIX_PRODUCTS or not 1 <= len(values) <= 2:
            self.refuse(node, "is a product of another kind than matmul")
        one, other = (self.codes(node, v) for v in (values * 2)[:2])
        if min(one.counts.dim(), other.counts.dim()) < 2:
            self.refuse(node, "is a product of vectors")
        name = Names(self.seen).free(name_of(node))  # as footprints number products of one name
        part, seen = multiplied(name, one, other, self.accumulator)
        return self._noted(Sums((part,), name), seen)

    def _two(self, node: fx.Node) -> list[Codes]:
        if len(node.args) + len(node.kwargs) > 2:
            self.refuse(node, "scales what it adds")
        return [self.codes(node, self.env[operand]) for operand in operands(node)]

    def _add(self, node: fx.Node) -> Sums:
        parts = tuple(as_sums(codes, "").parts[0] for codes in self._two(node))
        return Sums(parts, name_of(node))

    def _multiply(self, node: fx.Node) -> Sums:
        one, other = self._two(node)
        sums = one.counts * other.counts
        if largest_of(sums) >= 2**31:
            self.refuse(node, "gives products of more than 32 bits")
        return Sums((Part(sums, one.grid.scale.double() * other.grid.scale.double(), sums),), name_of(node))

    def _join(self, node: fx.Node) -> Joined:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        values = args[0] if args else kwargs["tensors"]
        axis = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
        if not isinstance(values, (list, tuple)) or not all(isinstance(v, (Codes, Sums)) for v in values):
            self.refuse(node, "joins values that are not quantized")
        return Joined(tuple(values), axis)

    def _pool(self, node: fx.Node) -> Sums:
        means, value = self._on_numbers(node)
        self.codes(node, value)
        count = divisor(node, layer_of(node, self.module), value.counts.shape, means.shape)
        if count is None:
            self.refuse(node, "takes means of more values at one place than at another")
        sums = (means * count).round().long()  # exact: float64 rounds far below half of one
        return Sums((Part(sums, value.grid.scale.double() / count, sums),), name_of(node))

    def _move(self, node: fx.Node) -> Any:
        """What keeps its grid, on counts from the zero-point."""
        moved, value = self._on_numbers(node)
        if isinstance(value, Floats):
            return pytree.tree_map(Floats, moved)
        codes = self.codes(node, value)
        return pytree.tree_map(lambda t: Codes(t.long(), codes.grid), moved)

    def _cut(self, node: fx.Node, layer: nn.Module | None) -> Sums | Joined:
        """What only limits values does so to their codes."""
        value, ends = self._of(node), cut_ends(node, layer)
        if ends is None or isinstance(value, Floats):
            self.refuse(node, "computes in float")
        if isinstance(value, Joined):
            return replace(value, values=tuple(as_sums(v, name_of(node)).cut(*ends) for v in value.values))
        return as_sums(value, name_of(node)).cut(*ends)


def given_names(module: fx.GraphModule, inputs: Any) -> list[str]:
    """The names of a network's inputs, in order, that are given by name."""
    names = [node.target for node in module.graph.nodes if node.op == "placeholder"]
    return [name for name in names if name in names_of(inputs)]


def cut_ends(node: fx.Node, layer: nn.Module | None) -> tuple[float, float] | None:
    """Between which ends an activation function leaves values as they are, and cuts others; ``None`` where it
    does something else.
    """
    name = known_name(node)
    if name == "relu" or type(layer) is nn.ReLU:
        return 0.0, inf
    if name == "relu6" or type(layer) is nn.ReLU6:
        return 0.0, 6.0
    if type(layer) is nn.Hardtanh:
        return layer.min_val, layer.max_val
    if name == "hardtanh":
        return argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0)
    return None


def _is_value(value: Any) -> bool:
    return isinstance(value, (Floats, Codes, Sums, Joined))


def _holds_value(value: Any) -> bool:
    return any(map(_is_value, pytree.tree_leaves(value)))
