"""The graph of a quantized network as torch writes it to ONNX, with placeholders where codes belong.

torch names a node after the last part of the module it was traced in. Here every operation of the network is
traced in a module of its own that bears the operation's whole name, so that a node can be named after it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from ..methods import Work
from ..network.inputs import call, copied, device_of, names_of, on, one_line, run
from ..network.operations import label
from ..network.trace import TOP, place_of
from ..quantizer import Quantizer
from .naming import DOT, NETWORK, Names

MOST_OPSET = 20  # that torch's exporter writes


def write_graph(work: Work, names: dict[fx.Node, str], example: Any, path: Path, opset: int) -> None:
    """Write the network of ``work`` as ONNX: ``qlib::Codes`` stands behind every tensor that ``names`` names,
    and before every weight that has a grid, under the layer's name. One input is called ``input``, several as
    the network calls them; one output ``output``, several by their places, ``output_0``, or by their keys.

    Raises ``ValueError`` in one line for an example that does not fit the network, and for an operation that
    torch cannot write.
    """
    network = work.network.module
    example = on(example, device_of(network))
    with torch.no_grad():
        outputs = _by_name(run(network, copied(example), "example_input"))
    given = [node.target for node in network.graph.nodes if node.op == "placeholder"]
    examples = call(lambda *inputs: inputs, example, given[: len(names_of(example))])
    inputs = ["input"] if len(examples) == 1 else given[: len(examples)]
    free = Names(inputs)
    outputs = {free.free(name): value for name, value in outputs}
    batched = [*inputs, *(name for name, value in outputs.items() if value.dim())]
    try:
        with torch.no_grad(), _silence():
            torch.onnx.export(
                _Run(work, names),
                examples,
                str(path),
                dynamo=False,
                opset_version=min(opset, MOST_OPSET),
                input_names=inputs,
                output_names=list(outputs),
                custom_opsets={"qlib": 1} if names or work.grids else None,
                dynamic_axes={name: {0: "n"} for name in batched},
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(f"torch cannot write this network as ONNX: {one_line(error)}") from None


def _by_name(given: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """The tensors that a network gives, each with its name, in the order in which torch writes them."""
    if isinstance(given, Tensor):
        return [(name or "output", given)]
    if isinstance(given, Mapping):
        parts = {f"{name}_{key}" if name else str(key): value for key, value in given.items()}
    elif isinstance(given, (tuple, list)):
        parts = {f"{name or 'output'}_{place}": value for place, value in enumerate(given)}
    else:
        return []
    return [pair for part, value in parts.items() for pair in _by_name(value, part)]


@contextmanager
def _silence() -> Iterator[None]:
    """Without what torch's exporter prints of graphs, and warns of itself and of what it traces."""
    log = torch._C._jit_onnx_log  # which the exporter turns on, whatever was said
    torch._C._jit_onnx_log = lambda *_: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            warnings.filterwarnings("ignore", "Constant folding")  # which it leaves to the runtime
            yield
    finally:
        torch._C._jit_onnx_log = log


class _Run(nn.Module):
    """Runs a network operation by operation, each within a module that bears its name."""

    def __init__(self, work: Work, names: dict[fx.Node, str]):
        super().__init__()
        module = work.network.module
        for layer in work.grids:
            named = _Named(work.network.tied.get(layer, layer))
            parametrize.register_parametrization(module.get_submodule(layer), "weight", named, unsafe=True)
        self.add_module(NETWORK, module)
        free = Names([*dir(self), "interpreter"]).free
        steps = {
            node: self._step(free(_name(node, work).replace(".", DOT)))
            for node in module.graph.nodes
            if node.op.startswith("call_")
        }
        self.interpreter = _Interpreter(module, steps, names)

    def _step(self, name: str) -> nn.Module:
        self.add_module(name, _Step())
        return getattr(self, name)

    def forward(self, *inputs: Tensor) -> Any:
        return self.interpreter.run(*inputs)


def _name(node: fx.Node, work: Work) -> str:
    """The name of an operation, or of an activation function that its layer's name covers."""
    operation = work.network.operations.get(node)
    if operation is not None:
        return operation.name
    if node.op == "call_module":
        return node.target
    place = place_of(node)
    return f"{'' if place == TOP else place + '.'}{label(node) or node.name}"


class _Interpreter(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, steps: dict[fx.Node, nn.Module], names: dict[fx.Node, str]):
        super().__init__(module)
        self.steps = steps
        self.names = names

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module" and isinstance(self.module.get_submodule(n.target), Quantizer):
            source = n.all_input_nodes[0]
            value = self.env[source]
            return _Codes.apply(value, self.names[source]) if source in self.names else value
        step = self.steps.get(n)
        return super().run_node(n) if step is None else step(lambda: super(_Interpreter, self).run_node(n))


class _Step(nn.Module):
    """What is called here is traced under this module's name."""

    def forward(self, call: Callable[[], Any]) -> Any:
        return call()


class _Named(nn.Module):
    """Stands for the codes of a weight."""

    def __init__(self, name: str):
        super().__init__()
        self.name = f"{name}.weight"

    def forward(self, x: Tensor) -> Tensor:
        return _Codes.apply(x, self.name)


class _Codes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, name: str) -> Tensor:
        return x.clone()

    @staticmethod
    def symbolic(g: Any, x: Any, name: str) -> Any:
        return g.op("qlib::Codes", x, name_s=name).setType(x.type())
