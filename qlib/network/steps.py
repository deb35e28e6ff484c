"""Running a network operation by operation, so that values can be looked at or changed on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import fx

from .inputs import call, copied, device_of, on

if TYPE_CHECKING:
    from .network import Network


class Steps(fx.Interpreter):
    """A run of a graph on inputs that goes on when it is told to; ``env`` holds the values by node.

    Parameters
    ----------
    module : fx.GraphModule
        The graph.
    inputs
        As the network takes them: a tensor, a tuple, or a dictionary by name. They are not changed.
    """

    def __init__(self, module: fx.GraphModule, inputs: Any):
        super().__init__(module)
        names = [node.target for node in module.graph.nodes if node.op == "placeholder"]
        given = copied(on(inputs, device_of(module)))
        self.args_iter = iter(call(lambda *arguments: arguments, given, names))

    def step(self, node: fx.Node) -> Any:
        """Compute one node, whose inputs have been computed."""
        self.env[node] = self.run_node(node)
        return self.env[node]

    def forget(self, node: fx.Node) -> None:
        """Let go of values that nothing after ``node`` reads."""
        for done in self.user_to_last_uses.get(node, []):
            del self.env[done]


def first_calls(
    network: Network, batches: list[Any], layers: set[str]
) -> Iterator[tuple[str, fx.Node, list[Steps]]]:
    """Runs a network operation by operation, on all batches at once, and stops behind the first call of each
    of ``layers``: its name, its node, and by batch the run, whose values may be changed before it goes on.
    """
    runs = [Steps(network.module, batch) for batch in batches]
    waiting = set(layers)
    for node in network.module.graph.nodes:
        if node.op == "output" or not waiting:
            return
        for run in runs:
            run.step(node)
        if node.op == "call_module" and node.target in waiting:
            waiting.remove(node.target)
            yield node.target, node, runs
        for run in runs:
            run.forget(node)
