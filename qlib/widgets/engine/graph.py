"""A network and the places of its quantizers, as the page's engine takes them."""

from __future__ import annotations

import itertools
from math import prod
from typing import Any

from torch import Tensor, fx, inference_mode, nn

from ...benches.digits import BATCH
from ...config import QuantConfig
from ...network import Kind, Network
from ...network.operations import known_name, layer_of
from ...placement import place


def graph_of(network: Network, example: Tensor) -> dict[str, Any]:
    """What JSON can hold of a network that has been read.

    Parameters
    ----------
    network : Network
        Of convolutions, linear layers, ReLUs, additions and poolings alone.
    example : Tensor
        One image ``(1, ...)``.

    Returns
    -------
    dict
        ``ops``, in execution order; ``output``, the last of them; ``layers`` and ``tensors``, the names that
        a configuration can give bits; ``maps``, the operations whose outputs are counted, and their elements;
        ``batch``, how many images calibration sees at a time; and ``placements``, of which ``index`` says
        which belongs to which choices.

    Raises
    ------
    ValueError
        Naming an operation that the engine does not have.
    """
    shapes = _Shapes(network.module)
    with inference_mode():
        shapes.run(example)
    nodes = nodes_of(network)
    (output,) = (node for node in network.module.graph.nodes if node.op == "output")
    ids = {node: number for number, node in enumerate(nodes)} | {output: len(nodes)}
    names = {node: operation.name for node, operation in network.operations.items()}
    ops = [
        {
            **_described(node, network.module),
            "inputs": [ids[n] for n in node.all_input_nodes if n in ids],
            "shape": list(shapes.of[node][1:]),
            "name": names.get(node),
        }
        for node in nodes
    ]
    placements, index = _placements(network, ids)
    return {
        "ops": ops,
        "output": ids[output.all_input_nodes[0]],
        "layers": network.layers,
        "tensors": [operation.name for operation in network.listed()],
        "maps": [[ids[o.node], prod(shapes.of[o.result][1:])] for o in network.listed() if o.counted],
        "batch": BATCH,
        "placements": placements,
        "index": index,
    }


def nodes_of(network: Network) -> list[fx.Node]:
    """By their number in the page, the nodes that give activations."""
    return [n for n in network.module.graph.nodes if n.op != "output" and n not in network.aside]


class _Shapes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.of: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.of[n] = tuple(result.shape)
        return result


def _described(node: fx.Node, module: fx.GraphModule) -> dict[str, Any]:
    """The kind of an operation, and its settings."""
    layer = layer_of(node, module)
    if node.op == "placeholder":
        return {"kind": "input"}
    if isinstance(layer, nn.Linear):
        return {"kind": "conv", "layer": node.target, "size": 1, "stride": 1, "pad": 0}
    if isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.dilation == (1, 1):
        return {"kind": "conv", "layer": node.target, **_window(layer)}
    if type(layer) is nn.ReLU:
        return {"kind": "relu"}
    if isinstance(layer, nn.MaxPool2d) and not layer.ceil_mode and layer.dilation == 1:
        return {"kind": "maxpool", **_window(layer)}
    if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size == 1:
        return {"kind": "mean"}
    if known_name(node) == "add" and len(node.all_input_nodes) == 2:
        return {"kind": "add"}
    if known_name(node) in ("view", "flatten"):
        return {"kind": "view"}
    raise ValueError(f"the page's engine has no {node.target!r} ({type(layer).__name__})")


def _window(layer: nn.Conv2d | nn.MaxPool2d) -> dict[str, int]:
    """Of a square window, whose settings are numbers or pairs of equal ones."""
    given = {"size": layer.kernel_size, "stride": layer.stride, "pad": layer.padding}
    sizes = {name: set(value if isinstance(value, tuple) else (value,)) for name, value in given.items()}
    if any(len(found) > 1 for found in sizes.values()):
        raise ValueError(f"the page's engine has square windows alone, not {given}")
    return {name: found.pop() for name, found in sizes.items()}


def _placements(network: Network, ids: dict[fx.Node, int]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Every placement of quantizers once, and which one belongs to which choices.

    Integer means stand beside quantizers: they replace one where the source of their codes has one.
    """
    found: list[dict[str, Any]] = []
    index = {}
    switches = (True, False)
    for skip, residual, pooled, output, image in itertools.product(*[switches] * 5):
        choices = {
            "quantize_skip": skip,
            "quantize_residual": residual,
            "pooling": "high_precision" if pooled else "float",
            "quantize_output": output,
            "input_bits": 8 if image else None,
        }
        one = _placement(network, ids, QuantConfig(**choices))
        one["means"] = []
        if pooled:
            integer = place(network, QuantConfig(**{**choices, "pooling": "low_precision"})).integer_means
            one["means"] = [[ids[pool], ids[source]] for pool, source in integer.items()]
        if one not in found:
            found.append(one)
        index[",".join(str(c).lower() for c in (skip, residual, pooled, output, image))] = found.index(one)
    return found, index


def _placement(network: Network, ids: dict[fx.Node, int], config: QuantConfig) -> dict[str, Any]:
    """By quantizer: which operation it follows, whose bits and name it has, who takes what it gives; and the
    operations whose outputs are stored quantized.
    """
    placement = place(network, config)
    by_name = {operation.name: node for node, operation in network.operations.items()}
    by_name |= {o.name: n for n, o in network.operations.items() if o.kind is Kind.INPUT}
    return {
        "quantizers": [
            [ids[node], ids[by_name[name]], sorted(ids[c] for c, n in placement.takes_quantized if n is node)]
            for node, (name, _) in placement.quantizers.items()
        ],
        "stored": [ids[by_name[name]] for name, bits in placement.feature_maps.items() if bits is not None],
    }
