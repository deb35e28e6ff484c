"""Where quantizers go under a configuration (paper, section 2.2 and figure 1).

`place` decides, for a network that `qlib.network` has read and a `QuantConfig`, which tensors are quantized,
in which form every operation receives its inputs, and with how many bits. It looks at no data.

**Everything quantized** (``quantize_skip=True, quantize_residual=True``): the image; every output of a
convolution or linear layer, after the activation function that directly follows; every addition,
multiplication and concatenation, likewise; average pooling; the logits. Max-pooling, padding, slicing,
flattening, dropout keep the grid they got. Other operations (a batch norm that does not follow a convolution,
layer norm, softmax, an addition or multiplication with a parameter or number, ...) compute in float, and what
they give is quantized where it enters a convolution or linear layer.

**Matrix products** of two activations, such as those in attention, are treated like a layer: their inputs are
quantized under every configuration, so the softmax's output is, and their own output is wherever a layer's
would be. Scaling, relative positions, masks and softmax are in float, from quantized scores. The bits of a
product count as no feature map.

**quantize_residual=False**: the residual branch's last layer enters the addition unquantized.

**quantize_skip=False**: the skip path carries high precision, the projection's output included; additions and
what is pooled from them stay in float, and whatever feeds a convolution or linear layer is quantized at its
input.

**pooling="low_precision"** averages codes where what is averaged has one grid; means over grids of several
channels, or of two operations, are computed in float and quantized again.

**Both False**: only the inputs of convolution and linear layers are quantized.

**float_layers**, and layers with 32 bits in both dictionaries, compute in float like other operations do:
what enters is not quantized for them, and what they give is quantized where it enters a layer. They are never
the first or last layer.

**Lookup tables** are never the first layer. One of them has ``embedding_bits``, an entry in
``weight_bits``, or those of the layer that has the same weight, such as a head; else it is in float. What it
gives is treated like what a float operation gives.

**Rotations** (the method ``hadamard``) take a tensor in float and stand in its place: what they give is
quantized where it enters a layer, with the bits that the tensor would have.

**kv_bits** are those of the tensors that become keys and values of attention, behind all that happens to them
in float (positions that are turned into keys).

**Tied weights** are one tensor with one set of bits: those given to one of its layers, else
``first_last_bits`` if one of them is the first or last.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from torch import fx

from .config import MAX_BITS, MAX_LAYER_BITS, Bits, QuantConfig
from .names import entry, is_pattern, suggestion
from .network import Kind, Network, Operation
from .network.attended import attentions
from .network.operations import TUPLES, argument, data_of, known_name, moves_channels


@dataclass
class Placement:
    """Where a configuration puts its quantizers.

    Parameters
    ----------
    weight_bits
        Bits by layer, in execution order; empty if weights stay in float.
    quantizers
        Name and bits of the tensor quantized right behind a node (bits above 16 stay in float and have none).
    takes_quantized
        The (consumer, producer) edges that carry the quantized tensor.
    integer_means
        Poolings that work on codes, with the node whose quantizer made these.
    feature_maps
        By operation name, the bits its tensor is stored with, ``None`` where it is float.
    ends
        The first and the last layer.
    last
        The last one.
    in_float
        The operations left in float whole.
    """

    weight_bits: dict[str, Bits]
    quantizers: dict[fx.Node, tuple[str, Bits]]
    takes_quantized: set[tuple[fx.Node, fx.Node]]
    integer_means: dict[fx.Node, fx.Node]
    feature_maps: dict[str, Bits | None]
    ends: frozenset[str]
    last: str
    in_float: frozenset[fx.Node]


def place(network: Network, config: QuantConfig) -> Placement:
    """Where quantizers go in ``network`` under ``config``.

    Parameters
    ----------
    network : Network
        As `qlib.network.read` gives it; its data is not looked at.
    config : QuantConfig
        The choices.

    Returns
    -------
    Placement
        Of weights and activations.

    Raises
    ------
    ValueError
        For bits of a layer that is not there.
    """
    return _Placer(network, config).place()


IN_FLOAT = (Kind.OTHER, Kind.TABLE, Kind.ROTATION)  # what they give is quantized where it enters a layer


class _Wish(Enum):
    """What a consumer asks of a tensor."""

    QUANTIZED = 1  # a convolution or linear layer: its inputs are always quantized
    AS_IT_COMES = 2  # quantized where its producer quantizes
    FLOAT = 3


class _Placer:
    """One pass over the network from its end: every operation says in which form it wants its inputs."""

    def __init__(self, network: Network, config: QuantConfig):
        self.network = network
        self.config = config
        self.operations = network.operations
        self.in_float = {node for node, o in network.operations.items() if o.in_float or self._has_32_bits(o)}
        layers = [
            o.node.target
            for node, o in self.operations.items()
            if o.kind is Kind.WEIGHT and node not in self.in_float
        ]
        self.ends = frozenset(layers[:1] + layers[-1:])
        self.last = layers[-1] if layers else ""
        self.producers = {o.result: o for o in network.operations.values()}
        # By producer, consumer
        self.wishes: dict[fx.Node, dict[fx.Node, _Wish]] = {n: {} for n in network.module.graph.nodes}
        self.quantized: set[fx.Node] = set()
        self.settled = self._settled()
        self.kept = self._kept() if config.kv_bits is not None else frozenset()

    def place(self) -> Placement:
        config = self.config
        names = [o.name for o in self.network.listed()]
        left = {o.name for o in self.network.listed() if o.in_float}
        held = [*self.network.layers, *self.network.tables]
        weights = dict.fromkeys([*held, *(name for name in names if name in left)])
        _check_names("weight_bits", config.weight_bits, weights, left)
        _check_names("activation_bits", config.activation_bits, names, left)
        weight_bits = (
            {}
            if config.weight_bits is None
            else {name: self.weight_bits(name) for name in self._in_order(held) if self._has_codes(name)}
        )
        rest = self.ends, self.last, frozenset(self.in_float)
        if config.activation_bits is None:
            return Placement(weight_bits, {}, set(), {}, dict.fromkeys(names), *rest)
        for node in reversed(self.network.module.graph.nodes):
            self._ask(node)
        quantizers = {
            node: (self.producer(node).name, self.activation_bits(self.producer(node)))
            for node in self.network.module.graph.nodes
            if node in self.quantized
        }
        quantizers = {
            node: q for node, q in quantizers.items() if not isinstance(q[1], int) or q[1] <= MAX_BITS
        }
        edges = {
            (consumer, node)
            for node in self.quantized
            for consumer, wish in self.wishes[node].items()
            if self._receives_quantized(node, wish)
        }
        means = {}
        if config.pooling == "low_precision" and config.quantize_skip:
            for node, operation in self.operations.items():
                pools = (
                    operation.kind is Kind.POOL and node not in self.in_float and self._within_channels(node)
                )
                if pools and (source := self._grid_of(data_of(node), quantizers)):
                    means[node] = source
                    quantizers.pop(node, None)
        maps = {
            o.name: self.activation_bits(o) if self._stored_quantized(o) else None
            for o in self.network.listed()
        }
        return Placement(weight_bits, quantizers, edges, means, maps, *rest)

    # Bits: an entry by name, then first_last_bits, then the default

    def _has_32_bits(self, operation: Operation) -> bool:
        """Whether a layer has 32 bits in both dictionaries, and so is left in float whole."""
        given = (("weight_bits", self.config.weight_bits), ("activation_bits", self.config.activation_bits))
        return operation.kind is Kind.WEIGHT and all(
            isinstance(table, Mapping) and entry(field, table, operation.name) == MAX_LAYER_BITS
            for field, table in given
        )

    def _in_order(self, names: Iterable[str]) -> list[str]:
        """Layers and tables in execution order, in which the first of those that share a weight has it."""
        order = {o.node.target: i for i, o in reversed(list(enumerate(self.operations.values())))}
        return sorted(names, key=order.__getitem__)

    def _has_codes(self, name: str) -> bool:
        """Whether a weight gets bits: a table only where it, or a layer of the same weight, is given some."""
        tied = self._tied(name)
        alone = set(tied) <= set(self.network.tables)
        return not alone or self.config.embedding_bits is not None or any(map(self._own_bits, tied))

    def _tied(self, layer: str) -> list[str]:
        """Those that have its weight, itself among them."""
        first = self.network.tied.get(layer, layer)
        return [first, *(name for name, other in self.network.tied.items() if other == first)]

    def _own_bits(self, name: str) -> Bits | None:
        """Those given to a layer or table: by its name, or to all tables."""
        given = self._entry("weight_bits", name)
        return self.config.embedding_bits if given is None and name in self.network.tables else given

    def weight_bits(self, layer: str) -> Bits:
        tied = self._tied(layer)
        given = {name: self._own_bits(name) for name in tied}
        given = {name: bits for name, bits in given.items() if bits is not None}
        if len(set(given.values())) > 1:
            each = " and ".join(f"{bits} for {name!r}" for name, bits in given.items())
            raise ValueError(
                f"weight_bits: {', '.join(map(repr, tied))} share one weight, which cannot have {each}"
            )
        if given:
            return next(iter(given.values()))
        return self._usual_bits("weight_bits", not self.ends.isdisjoint(tied))

    def activation_bits(self, operation: Operation) -> Bits:
        config = self.config
        if operation.kind is Kind.INPUT:
            if config.first_last_bits and not config.quantize_skip and not config.quantize_residual:
                return min(config.input_bits, config.first_last_bits)  # the first layer's input
            return config.input_bits
        if operation.kind is Kind.ROTATION:
            return self.activation_bits(self.producer(data_of(operation.node)))
        given = self._entry("activation_bits", operation.name)
        if given is not None and operation.node not in self.in_float:
            return given
        if operation.node in self.kept:
            return self.config.kv_bits
        return self._usual_bits(
            "activation_bits", operation.kind is Kind.WEIGHT and operation.node.target in self.ends
        )

    def _entry(self, field: str, name: str) -> Bits | None:
        table = getattr(self.config, field)
        return entry(field, table, name) if isinstance(table, Mapping) else None

    def _usual_bits(self, field: str, first_or_last: bool) -> Bits:
        """Those of a name that the configuration does not give."""
        if first_or_last and self.config.first_last_bits is not None:
            return self.config.first_last_bits
        given = getattr(self.config, field)
        return given.get("default", 8) if isinstance(given, Mapping) else given

    def _kept(self) -> frozenset[fx.Node]:
        """The operations that give keys and values of attention."""
        found = set()
        for query, key, value in attentions(self.network):
            asked, *kept = (self.producer(node) for node in (query, key, value))
            if asked in kept:
                raise ValueError(
                    f"kv_bits: {asked.name!r} gives keys or values in one tensor with queries, which has one "
                    "set of bits: make them by layers of their own"
                )
            if given := [operation.name for operation in kept if operation.kind is Kind.INPUT]:
                raise ValueError(
                    f"kv_bits: keys or values are the input {given[0]!r} as it is given, which has "
                    "input_bits: leave kv_bits=None"
                )
            found |= {operation.node for operation in kept}
        if not found:
            raise ValueError(
                "kv_bits: the network has no attention (a softmax between two matrix products), so it keeps "
                "no keys and values: leave kv_bits=None"
            )
        return frozenset(found)

    # Form of every tensor

    def _settled(self) -> dict[fx.Node, bool]:
        """Whether the configuration itself decides about a node: puts it on a grid, or leaves it in float
        deliberately.
        """
        settled: dict[fx.Node, bool] = {}
        for node in self.network.module.graph.nodes:
            operation = self.producers.get(node)
            if operation is None or operation.node in self.in_float and operation.kind is not Kind.KEEPS_GRID:
                settled[node] = False
            elif operation.kind is Kind.KEEPS_GRID:
                settled[node] = settled[data_of(node)]
            elif self.config.quantize_skip:
                settled[node] = operation.kind not in IN_FLOAT
            else:
                settled[node] = operation.kind is Kind.INPUT
        return settled

    def _ask(self, node: fx.Node) -> None:
        """Decide from its consumers' wishes whether ``node`` is quantized, then make its own wishes."""
        config = self.config
        wishes = set(self.wishes[node].values())
        operation = self.operations.get(node)
        if node in self.network.aside:
            return
        if node.op == "output":
            quantized = config.quantize_output and (config.quantize_skip or config.quantize_residual)
            self._wish(node, _Wish.AS_IT_COMES if quantized else _Wish.FLOAT)
        elif operation and operation.kind is Kind.KEEPS_GRID:
            passes = wishes <= {_Wish.AS_IT_COMES} or (self.settled[node] and _Wish.FLOAT not in wishes)
            image_in_float = self.producer(node).kind is Kind.INPUT and config.input_bits is None
            wanted = _Wish.QUANTIZED in wishes or (self.settled[node] and _Wish.AS_IT_COMES in wishes)
            if wanted and not passes and not image_in_float and known_name(node) not in TUPLES:
                self.quantized.add(node)
            self._wish(node, _Wish.AS_IT_COMES if passes else _Wish.FLOAT)
        else:
            if any(self._receives_quantized(node, wish) for wish in wishes):
                self.quantized.add(node)
            # The activation function of a layer, a constant, what tokens are looked up in, or what is turned
            if operation is None or operation.kind in (Kind.TABLE, Kind.ROTATION):
                self._wish(node, _Wish.FLOAT)
            elif operation.kind in (Kind.WEIGHT, Kind.PRODUCT) and node not in self.in_float:
                self._wish(node, _Wish.QUANTIZED)
            elif operation.residual is None or node in self.in_float:
                self._wish(
                    node,
                    _Wish.AS_IT_COMES if config.quantize_skip or config.quantize_residual else _Wish.FLOAT,
                )
            else:
                for operand in node.all_input_nodes:
                    kept = config.quantize_residual if operand is operation.residual else config.quantize_skip
                    self.wishes[operand][node] = _Wish.AS_IT_COMES if kept else _Wish.FLOAT

    def _wish(self, node: fx.Node, wish: _Wish) -> None:
        for operand in node.all_input_nodes:
            self.wishes[operand][node] = wish

    def _receives_quantized(self, node: fx.Node, wish: _Wish) -> bool:
        """Whether a consumer with this wish gets the quantized form of what ``node`` produces."""
        operation = self.producers.get(node)
        if operation is None or wish is _Wish.FLOAT:
            return False
        if operation.kind is Kind.INPUT:
            return self._may_have_codes(operation)
        if operation.kind is Kind.ROTATION and wish is _Wish.QUANTIZED:
            return self._may_have_codes(self.producer(data_of(operation.node)))
        if operation.kind in IN_FLOAT or operation.node in self.in_float:
            return wish is _Wish.QUANTIZED
        if operation.kind is Kind.POOL and self.config.quantize_skip:
            return self.config.pooling != "float"
        if operation.kind in (Kind.ADD, Kind.POOL) and not self.config.quantize_skip:
            return wish is _Wish.QUANTIZED
        return True

    def _may_have_codes(self, operation: Operation) -> bool:
        """All but the image, which may be left in float."""
        return operation.kind is not Kind.INPUT or self.config.input_bits is not None

    def _stored_quantized(self, operation: Operation) -> bool:
        """Whether every consumer takes the quantized tensor, be it after max-pooling and the like."""
        node = operation.result
        if operation.node in self.in_float:
            return False
        if node in self.quantized:
            return all(self._receives_quantized(node, wish) for wish in self.wishes[node].values())
        keeps = [self.operations.get(user) for user in node.users]
        return bool(keeps) and all(
            o and o.kind is Kind.KEEPS_GRID and self._stored_quantized(o) for o in keeps
        )

    def producer(self, node: fx.Node) -> Operation:
        """The operation that computed what ``node`` holds, before max-pooling and the like."""
        while (operation := self.producers.get(node)) is None or operation.kind is Kind.KEEPS_GRID:
            node = data_of(node)
        return operation

    def _by_channel(self) -> bool:
        """Whether channels of an activation may have grids of their own."""
        return self.config.activation_granularity == "per_channel" or isinstance(
            self.config.activation_bits, Mapping
        )

    def _within_channels(self, pool: fx.Node) -> bool:
        """Whether what a pooling averages has one grid, so that its codes can be averaged."""
        if self.config.activation_granularity == "per_token":
            return False
        if not self._by_channel():
            return True
        axes = argument(pool, 1, "dim", ()) if known_name(pool) == "mean" else ()
        axes = axes if isinstance(axes, (list, tuple)) else (axes,)
        return self.network.channels.get(data_of(pool)) == 1 and all(axis == -1 or axis > 1 for axis in axes)

    def _grid_of(self, node: fx.Node, quantizers: Mapping[fx.Node, object]) -> fx.Node | None:
        """The node whose quantizer gave ``node`` its grid; none where channels with grids of their own have
        moved since.
        """
        while node not in quantizers:
            if self.operations.get(node) is None or self.operations[node].kind is not Kind.KEEPS_GRID:
                return None
            if self._by_channel() and moves_channels(node, self.network.module):
                return None
            node = data_of(node)
        return node


def _check_names(field_name: str, given: object, known: Iterable[str], left_in_float: Container[str]) -> None:
    for name, bits in given.items() if isinstance(given, Mapping) else ():
        fits = [k for k in known if k == name or is_pattern(name) and fnmatchcase(k, name)]
        if name != "default" and not fits:
            raise ValueError(
                f"{field_name}: the network has no {name!r}{suggestion(name, [*known, 'default'])}"
            )
        if name in left_in_float and bits != MAX_LAYER_BITS:
            raise ValueError(
                f"{field_name} gives {name!r} {bits} bits, but float_layers leave it in float: decide for one"
            )
