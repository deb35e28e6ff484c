"""`verify`: whether what was read computes what was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import BaseTorchFunctionMode, TorchFunctionMode
from torch.utils import _pytree as pytree

from .copies import evaluation_copy
from .inputs import call, copied, device_of, examples_in, first, on, one_line, run
from .network import Network, read
from .rewrite import folded
from .trace import HALF, TOP

EXAMPLES = 4
TOLERANCE = 1e-6  # of a difference, relative to how much outputs differ between examples
LEAST_SPREAD = 1e-5  # of outputs, relative to their size: below, what examples differ by is itself rounding


def verify(
    model: nn.Module, network: Network, inputs: Any, what: str, float_layers: tuple[str, ...] = ()
) -> None:
    """Compare once what was read with what was given, on up to four examples, both in float64.

    Parameters
    ----------
    model : nn.Module
        What was given.
    network : Network
        What was read.
    inputs : Tensor, tuple or dict
        Of a batch.
    what : str
        The name of that batch, for errors.
    float_layers : tuple of str
        Those that it was read with.

    Raises
    ------
    ValueError
        Naming the first layer whose outputs differ, if those of the networks differ by more than 1e-6 of how
        much they differ between examples.
    """
    inputs = on(inputs, device_of(model))
    given = network.given or evaluation_copy(model)
    network.given = None
    problem: Exception | None = None
    few = first(inputs, EXAMPLES)
    # All examples where few do not fit (their axis is not the first); a mode that is slower where numbers are
    # made or cast.
    for some, context in ((few, _Plain), (few, _Doubling), (inputs, _Plain), (inputs, _Doubling)):
        exact = _doubled_inputs(some)
        try:
            with context():
                expected = _run_in_float64(given, exact)
                found = _read_in_float64(model, exact, float_layers) if network.rounded else network
                if _agree(_run_in_float64(found.module, exact, _exact_folds(found)), expected):
                    network.unverified = None
                    return
        except Exception as error:
            problem = error
            continue
        if context is _Doubling:
            _refuse(model, given, found, exact, expected)
    with torch.no_grad():
        run(evaluation_copy(model), inputs, what)
    raise ValueError(
        f"{type(model).__name__} cannot be compared with what was read of it: {one_line(problem)}"
    ) from problem


def _refuse(model: nn.Module, given: nn.Module, found: Network, inputs: Any, expected: Any) -> None:
    with _Doubling():
        again = _agree(_run_in_float64(given, inputs), expected)
        where = _first_difference(given, found, inputs)
    if not again:
        raise ValueError(
            f"{type(model).__name__} gives other outputs when it is run again, in evaluation mode: look for "
            "dropout or random numbers that evaluation mode does not switch off"
        )
    left = (
        "move it into a module and leave that in float"
        if where == TOP
        else f"leave it in float: float_layers=({where!r},)"
    )
    raise ValueError(
        f"{type(model).__name__} was read wrongly: the outputs of {where} differ from those of the network "
        f"given. Write that part in other words, or {left}"
    )


@contextmanager
def _in_float64(model: nn.Module, exact: dict[str, Tensor]) -> Iterator[None]:
    """While it lasts, all that a module holds is in float64; ``exact``: what to put there by name."""
    before = []
    for path, module in model.named_modules():
        for held in (module._parameters, module._buffers, vars(module)):
            for name, value in list(held.items()):
                if isinstance(value, Tensor) and value.is_floating_point():
                    before.append((held, name, value))
                    wide = exact.get(f"{path}.{name}", value.detach()).double()
                    held[name] = (
                        nn.Parameter(wide, requires_grad=False) if isinstance(value, nn.Parameter) else wide
                    )
    try:
        yield
    finally:
        for held, name, value in before:
            held[name] = value


def _run_in_float64(model: nn.Module, inputs: Any, exact: dict[str, Tensor] | None = None) -> Any:
    with torch.no_grad(), _in_float64(model, exact or {}):
        return call(model, copied(inputs))


def _read_in_float64(model: nn.Module, inputs: Any, float_layers: tuple[str, ...]) -> Network:
    with _in_float64(doubled := evaluation_copy(model), {}):
        return read(doubled, inputs, float_layers)


def _exact_folds(network: Network) -> dict[str, Tensor]:
    """The weights and biases of folded layers, folded in float64."""
    folds = {path: folded(layer, norm, torch.float64) for path, (layer, norm) in network.folds.items()}
    return {
        f"{path}.{name}": t
        for path, pair in folds.items()
        for name, t in zip(("weight", "bias"), pair, strict=True)
    }


def _doubled_inputs(inputs: Any) -> Any:
    return pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t, inputs)


def _agree(actual: Any, expected: Any) -> bool:
    """Whether outputs are the same: tensors within the tolerance, all else equal."""
    actual, structure = pytree.tree_flatten(_plain(actual))
    expected, other = pytree.tree_flatten(_plain(expected))
    if structure != other:
        return False
    return all(map(_close, actual, expected))


def _plain(outputs: Any) -> Any:
    """Dictionaries of whatever kind as such: a traced network gives a ``dict`` for an ``OrderedDict``."""
    if isinstance(outputs, Mapping):
        return {key: _plain(value) for key, value in sorted(outputs.items(), key=lambda item: str(item[0]))}
    return type(outputs)(map(_plain, outputs)) if type(outputs) in (list, tuple) else outputs


def _close(actual: Any, expected: Any) -> bool:
    if not isinstance(actual, Tensor) or not isinstance(expected, Tensor):
        return actual is expected or actual == expected
    if actual.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(actual, expected)
    finite = torch.isfinite(expected)
    if not torch.allclose(actual[~finite], expected[~finite], equal_nan=True):
        return False
    actual = torch.where(finite, actual, 0).double()
    expected = torch.where(finite, expected, 0).double()
    spread = (expected - expected.mean(0)).norm() if expected.dim() else expected.norm()
    return bool((actual - expected).norm() <= TOLERANCE * max(spread, LEAST_SPREAD * expected.norm()))


class _Plain(BaseTorchFunctionMode):
    """Changes nothing; but with any such mode torch's transformers leave their fast path, which keeps padded
    places at zero.
    """


class _Doubling(TorchFunctionMode):
    """Lets a network compute in float64 though it asks for float32: in casts, and in tensors that it
    makes.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        narrow = (torch.float32, *HALF)

        def widened(argument: Any) -> Any:
            return torch.float64 if isinstance(argument, torch.dtype) and argument in narrow else argument

        args, kwargs = pytree.tree_map(widened, (args, kwargs or {}))
        if func in (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16):
            func = torch.Tensor.double
        result = func(*args, **kwargs)
        return result.double() if isinstance(result, Tensor) and result.dtype in narrow else result


class _Recorded(fx.Interpreter):
    """Runs a network and keeps what the modules of the one given would have given."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.outputs: dict[tuple[str, int], Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for place in n.meta.get("gives", ()):
            self.outputs[place] = result
        return result


def _first_difference(given: nn.Module, network: Network, inputs: Any) -> str:
    """The first module whose outputs differ."""
    outputs: dict[tuple[str, int], Any] = {}
    calls: dict[str, int] = {}

    def keep(path: str, result: Any) -> None:
        calls[path] = calls.get(path, 0) + 1
        outputs[path, calls[path]] = pytree.tree_map(
            lambda t: t.clone() if isinstance(t, Tensor) else t, result
        )

    hooks = [
        m.register_forward_hook(lambda _, __, result, path=path: keep(path, result))
        for path, m in given.named_modules()
        if path
    ]
    seen = _Recorded(network.module)
    try:
        _run_in_float64(given, inputs)
        with torch.no_grad(), _in_float64(network.module, _exact_folds(network)):
            call(seen.run, inputs, [n.target for n in network.module.graph.nodes if n.op == "placeholder"])
    except Exception:  # what was recorded until then says where
        pass
    finally:
        for hook in hooks:
            hook.remove()
    for place, expected in outputs.items():
        if place in seen.outputs and not _agree(seen.outputs[place], expected):
            return place[0]
    return TOP


def examples_first(model: nn.Module, inputs: Any) -> bool:
    """Whether a network treats the examples along the first axis of its inputs and outputs one by one."""
    given = evaluation_copy(model)
    whole = _doubled_inputs(on(inputs, device_of(model)))
    if examples_in(whole) < 2:
        return True
    few = first(whole, EXAMPLES)
    last = pytree.tree_map(lambda t: t[-1:], few)
    with _Doubling():
        try:
            together, *alone = (
                pytree.tree_leaves(_run_in_float64(given, some)) for some in (few, first(few, 1), last)
            )
        except Exception:
            return False
    of_one = zip([t[:1] for t in together] + [t[-1:] for t in together], alone[0] + alone[1], strict=True)
    return all(t.dim() for t in together if isinstance(t, Tensor)) and all(
        _close(t, one) for t, one in of_one
    )
