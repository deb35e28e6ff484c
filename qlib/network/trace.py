"""Reads a network with `torch.fx`: a traced copy, before anything in it is rewritten.

Weights that are computed from others (weight norm, spectral norm, pruning, any parametrization) are computed
first. Attention is written out (`qlib.network.attention`). Hooks become a part of the network. Inputs that
are not given have their default.
"""

from __future__ import annotations

import inspect
import operator
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..names import matches, suggestion
from .attention import WRITTEN_OUT, scaled_dot_product_attention
from .copies import compute_weights, evaluation_copy
from .inputs import one_line
from .nodes import single

_TRACING = threading.Lock()  # while it traces, torch.fx swaps methods of nn.Module itself
HALF = (torch.float16, torch.bfloat16)
TOP = "the top level"


def place_of(node: fx.Node) -> str:
    """The path of the module in which a node was traced."""
    stack = node.meta.get("nn_module_stack")
    return (list(stack)[-1] if stack else "") or TOP


def owner(node: fx.Node) -> str:
    """The module to name in an error, and to leave in float where there is one."""
    return node.target if node.op == "call_module" and not node.meta.get("made") else place_of(node)


def way_out(node: fx.Node) -> str:
    """The end of a refusal: how to leave the module of a node in float."""
    if owner(node) == TOP:
        return "or move that into a module and leave it in float by float_layers"
    return f"or leave it in float: float_layers=({owner(node)!r},)"


class Traced(NamedTuple):
    """A traced copy of a network; whether weights of it were computed first; and, if neither they nor hooks
    stood in the way, the copy that was traced, which still computes what was given.
    """

    module: fx.GraphModule
    computed: bool
    given: nn.Module | None


def traced(
    model: nn.Module, inputs: Collection[str | int] = (), float_layers: tuple[str, ...] = ()
) -> Traced:
    """``model`` traced in evaluation mode. ``inputs``: the names or positions of those that will be given.

    Nodes of modules that ``float_layers`` names have ``meta["float"]``; those of a module's output have
    ``meta["gives"]``, the module's path and the number of its call. Raises ``ValueError`` naming the layer
    when the model cannot be traced.
    """
    if isinstance(model, nn.Module):
        _check_readable(model, float_layers)
    names = _names_by_path(model) if float_layers and isinstance(model, nn.Module) else {}
    _check_float_layers(names, float_layers)
    for whole in ((), float_layers) if float_layers else ((),):  # first, look into modules left in float, too
        network = evaluation_copy(model)
        computed = compute_weights(network)
        halves = [p for p in (*network.parameters(), *network.buffers()) if p.dtype in HALF]
        tracer = _Tracer(inputs, whole)
        try:
            with _TRACING, _traceable_factories():
                graph = tracer.trace(network)
            break
        except Exception as error:
            where = tracer.path[-1] if tracer.path else TOP
            problem = ValueError(
                f"{type(model).__name__} cannot be traced by torch.fx, at {where}: {one_line(error)}. "
                f"{_way_out(error, tracer.path)}"
            )
            problem.__cause__ = error
    else:
        raise problem
    changed = _clear_hooks(network, except_in=whole) or any(_holds_proxies(m) for m in network.modules())
    graph._tracer_cls = None  # an unpickled network is traced again, by torch's own tracer
    module = fx.GraphModule(network, graph, type(model).__name__)
    for node in graph.nodes:
        around = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
        around += [node.target] if node.op == "call_module" else []
        node.meta["float"] = any(
            matches(name, float_layers) for path in around for name in names.get(path, ())
        )
    if halves:
        warnings.warn(
            f"{type(model).__name__} is of {halves[0].dtype}: it is simulated in float32", stacklevel=2
        )
        _in_single_precision(module)
    return Traced(module, computed, None if computed or changed else network)


def _check_readable(model: nn.Module, float_layers: tuple[str, ...]) -> None:
    """Refuse what is no network of modules any more, or not yet."""
    name = type(model).__name__
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(f"{name} holds the network to read: pass its .module")
    if hasattr(model, "_orig_mod"):
        raise ValueError(
            f"{name} is compiled: pass the network that was given to torch.compile (its ._orig_mod)"
        )
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and not (path and matches(path, float_layers)):
            what = f"{path!r} is" if path else f"{name} is"
            raise ValueError(
                f"{what} compiled by TorchScript and cannot be read: pass the module that it was made from"
                + (f", or leave it in float: float_layers=({path!r},)" if path else "")
            )
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
            raise ValueError(
                f"{path} is not made yet: run the network once on an input, which makes lazy layers"
            )
    for held in (*model._modules, *model._parameters, *model._buffers):
        if hasattr(fx.GraphModule, held) or held in ("graph", "meta", "_code"):
            raise ValueError(
                f"{name} has something named {held!r}, a name that torch.fx needs itself: rename it"
            )


def _names_by_path(model: nn.Module) -> dict[str, list[str]]:
    """All names of every module, by the one under which it is traced."""
    paths: dict[int, str] = {id(module): path for path, module in reversed(list(model.named_modules()))}
    names: dict[str, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if name:
            names.setdefault(paths[id(module)], []).append(name)
    return names


def _check_float_layers(names: dict[str, list[str]], patterns: tuple[str, ...]) -> None:
    known = [name for several in names.values() for name in several]
    for pattern in patterns:
        if not any(matches(name, (pattern,)) for name in known):
            raise ValueError(
                f"float_layers: the network has no module {pattern!r}{suggestion(pattern, known)}"
            )


def _way_out(error: Exception, path: list[str]) -> str:
    """The end of a refusal to trace."""
    left = f"float_layers=({path[-1] if path else 'its name'!r},)"
    if isinstance(error, NotImplementedError):
        return f"Leave that module in float: {left}"
    return (
        "Control flow that depends on values or shapes of tensors must be rewritten, moved into a function "
        f"marked by torch.fx.wrap, or moved into a module that is left in float: {left}"
    )


def _holds_proxies(module: nn.Module) -> bool:
    """Whether tracing has left something in a module that was assigned while it ran."""
    return any(isinstance(value, fx.Proxy) for value in vars(module).values())


@contextmanager
def _traceable_factories() -> Iterator[None]:
    """While it lasts, functions that make tensors of a shape, dimension by dimension, can be traced."""
    names = ("zeros", "ones", "empty", "rand", "randn")
    before = {name: getattr(torch, name) for name in names}

    def traceable(function: Callable) -> Callable:
        def make(*args, **kwargs):
            proxies = [a for a in args if isinstance(a, fx.Proxy)]
            if proxies:
                return proxies[0].tracer.create_proxy("call_function", function, args, kwargs)
            return function(*args, **kwargs)

        return make

    for name, function in before.items():
        setattr(torch, name, traceable(function))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(torch, name, function)


def _clear_hooks(network: nn.Module, except_in: tuple[str, ...]) -> bool:
    """Forget the hooks that have become a part of the graph. Whether there were any."""
    found = [
        hooks
        for name, module in network.named_modules()
        if not (except_in and matches(name, except_in))
        for hooks in _hooks_of(module)
        if hooks
    ]
    for hooks in found:
        hooks.clear()
    return bool(found)


def _hooks_of(module: nn.Module) -> list[dict]:
    names = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
        "_forward_hooks_always_called",
    )
    return [getattr(module, name) for name in names]


def _in_single_precision(module: fx.GraphModule) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dtype in HALF:
            tensor.data = tensor.data.float()
    for node in [n for n in module.graph.nodes if n.op == "placeholder"]:
        with module.graph.inserting_after(node):
            cast = module.graph.call_function(single, (node,))
        node.replace_all_uses_with(cast, lambda user, cast=cast: user is not cast)


AUGMENTED = {  # what `x += y` and its like call, and what `x + y` does
    getattr(operator, f"i{name.rstrip('_')}"): getattr(operator, name)
    for name in "add sub mul matmul truediv floordiv mod pow and_ or_ xor lshift rshift".split()
}


class Proxy(fx.Proxy):
    """A tensor to be that may be changed in place."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _augmented(in_place: Callable, ordinary: Callable) -> Callable:
    def method(self: Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", in_place, (self, other), {}, name=ordinary.__name__)

    return method


for _in_place, _ordinary in AUGMENTED.items():
    setattr(Proxy, f"__{_in_place.__name__}__", _augmented(_in_place, _ordinary))


class _Tracer(fx.Tracer):
    """Symbolic tracing that writes attention out, keeps hooks, remembers which module it is in and which
    nodes are the outputs of which, and lets networks that run in other threads run.
    """

    def __init__(self, inputs: Collection[str | int], whole: tuple[str, ...]):
        super().__init__()
        self.inputs = inputs
        self.whole = whole
        self.path: list[str] = []
        self.calls: dict[str, int] = {}
        self.thread = threading.get_ident()
        self.autocast = _autocast()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if self.whole and matches(module_qualified_name, self.whole):
            return True
        return self._is_plain(m, module_qualified_name) and not any(_hooks_of(m))

    def _is_plain(self, m: nn.Module, path: str) -> bool:
        """Whether a module is torch's own, consists of nothing else, and runs as it was written."""
        return super().is_leaf_module(m, path) and not any(m.children()) and "forward" not in vars(m)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self.path.append(path)
        with self._replaced_forward(m, path):
            result = super().call_module(m, forward, args, kwargs)
        self.path.pop()
        call = self.calls.get(path, 0) + 1
        self.calls[path] = call
        if isinstance(result, fx.Proxy):
            result.node.meta.setdefault("gives", []).append((path, call))
        return result

    @contextmanager
    def _replaced_forward(self, m: nn.Module, path: str) -> Iterator[None]:
        """While ``m`` is called: what is written out in the place of its forward, or, of a layer with hooks,
        a node.
        """
        written = WRITTEN_OUT.get(_full_name(m)) if "forward" not in vars(m) else None
        if self.is_leaf_module(m, path) or (written is None and not self._is_plain(m, path)):
            yield
            return
        signature = inspect.signature(type(m).forward)

        def node_or_written(*args, **kwargs):
            if written is not None:
                given = signature.bind(m, *args, **kwargs).arguments
                return written(m, **dict(list(given.items())[1:]))
            if _holds_proxies(m):  # weights that a hook has just computed
                return type(m).forward(m, *args, **kwargs)
            return self.create_proxy("call_module", path, args, kwargs)

        before = dict(vars(m))
        m.forward = node_or_written
        try:
            yield
        finally:
            for name in [n for n, value in vars(m).items() if value is not before.get(n) and n not in before]:
                delattr(m, name)

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """Inputs that have a default and are not given have that; hooks of the whole network are called."""
        fn, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        for i, arg in enumerate(args):
            if i > 0 and isinstance(arg, fx.Proxy) and arg.node.args:
                if i == 1 or i - 1 in self.inputs or arg.node.target in self.inputs:
                    arg.node.args = ()  # a network read with an input needs it
                    continue
                args[i] = arg.node.args[0]
                self.graph.erase_node(arg.node)
        if any(_hooks_of(self.root)):
            return type(self.root).__call__, args
        return fn, args

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Proxy(node, self)

    def create_proxy(self, kind, target, args, kwargs, *more, **options):
        if _autocast() != self.autocast:
            raise NotImplementedError(
                "autocast inside a network is lost in tracing: switch it on around the network"
            )
        if target is F.scaled_dot_product_attention:
            return scaled_dot_product_attention(*args, **kwargs)
        return super().create_proxy(kind, target, args, kwargs, *more, **options)


def _autocast() -> list[bool]:
    return [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")]


def _full_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
