"""What a network is given: one tensor, a tuple of several, or a dictionary by name; on batches, each with
examples first.

A batch of data is such inputs, or a pair (inputs, labels); the labels of a pair may be ``None``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def inputs_of(calibration: Iterable | Tensor | None, what: str = "calibration") -> list[Any]:
    """The inputs of batches that may be inputs or (inputs, labels) pairs; one tensor or dictionary counts as
    one batch.

    Batches without examples are left out. Raises ``ValueError`` naming the batch that is neither.
    """
    if calibration is None:
        return []
    batches = [calibration] if isinstance(calibration, (Tensor, Mapping)) else list(calibration)
    inputs = [as_inputs(b[0]) if isinstance(b, (tuple, list)) and len(b) > 0 else b for b in batches]
    for i, batch in enumerate(inputs):
        check_inputs(
            batch,
            f"{what} batch {i}",
            "a tensor (n, ...), a tuple or dictionary of such, or an (input, label) pair",
        )
    return [b for b in inputs if examples_in(b)]


def as_inputs(given: Any) -> Any:
    """A list of inputs, as a ``DataLoader`` makes of a tuple, as a tuple again."""
    return tuple(given) if isinstance(given, list) else given


def as_targets(given: Any) -> Any:
    """Targets as tensors, at any depth; what is no number, such as ``None`` or a text, as it is."""
    if isinstance(given, (list, tuple)) and not any(
        isinstance(t, (Tensor, list, tuple, dict)) for t in given
    ):
        return _as_tensor(given)
    return pytree.tree_map(_as_tensor, given)


def _as_tensor(given: Any) -> Any:
    try:
        return given if given is None or isinstance(given, Tensor) else torch.as_tensor(given, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        return given


def check_inputs(
    inputs: object, what: str, wanted: str = "a tensor (n, ...), or a tuple or dictionary of such"
) -> None:
    """Raises ``ValueError`` for inputs that are not as ``wanted``."""
    tensors = (
        list(inputs.values())
        if isinstance(inputs, Mapping)
        else list(inputs)
        if isinstance(inputs, tuple)
        else [inputs]
    )
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.dim() < (
            2 if len(tensors) == 1 and not isinstance(inputs, Mapping) else 1
        ):
            got = (
                f"tensor of shape {tuple(tensor.shape)}"
                if isinstance(tensor, Tensor)
                else type(tensor).__name__
            )
            raise ValueError(f"{what} must be {wanted}, got a {got}")
    if not tensors:
        raise ValueError(f"{what} holds no inputs")


def examples_in(inputs: Any) -> int:
    """How many examples there are."""
    return len(pytree.tree_leaves(inputs)[0])


def device_of_inputs(inputs: Any) -> torch.device:
    """Where inputs are."""
    return pytree.tree_leaves(inputs)[0].device


def first(inputs: Any, count: int) -> Any:
    """The inputs of the first ``count`` examples."""
    return pytree.tree_map(lambda t: t[:count], inputs)


def picked(given: Any, start: int, end: int) -> Any:
    """The examples ``start`` to ``end`` of inputs or targets; what is no tensor, such as ``None``, stays."""
    return pytree.tree_map(lambda t: t[start:end] if isinstance(t, Tensor) else t, given)


def first_targets(targets: Any, examples: int, count: int) -> Any:
    """The targets of the first ``count`` of so many ``examples``: of tensors with examples first, at any
    depth, or of a list of what is said of each; single numbers and words stay.

    Raises
    ------
    ValueError
        They are not by example.
    """
    if count >= examples:
        return targets
    rows = [isinstance(t, Tensor) and t.dim() > 0 and len(t) == examples for t in pytree.tree_leaves(targets)]
    if isinstance(targets, (list, tuple)) and len(targets) == examples and not all(rows):
        return targets[:count]
    sizes = [tuple(t.shape) for t in pytree.tree_leaves(targets) if isinstance(t, Tensor) and t.dim()]
    if any(size[0] != examples for size in sizes):
        found = ", ".join(map(str, sizes))
        raise ValueError(f"{examples} examples with targets of {found}, of which {count} are wanted")
    return pytree.tree_map(lambda t: t[:count] if isinstance(t, Tensor) and t.dim() else t, targets)


def pooled(batches: list[Any]) -> Any:
    """The inputs of all batches as one."""
    return pytree.tree_map(lambda *parts: torch.cat(parts), *batches)


def picked_from(inputs: Any, index: Tensor) -> Any:
    """The inputs of the examples that ``index`` picks."""
    return pytree.tree_map(lambda t: t[index], inputs)


def split(inputs: Any, size: int) -> list[Any]:
    """Inputs in batches of ``size`` examples, the last one smaller."""
    return [
        pytree.tree_map(lambda t, i=i: t[i : i + size], inputs) for i in range(0, examples_in(inputs), size)
    ]


def copied(inputs: Any) -> Any:
    """Inputs that a network may overwrite."""
    return pytree.tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, inputs)


def on(inputs: Any, device: torch.device) -> Any:
    """The inputs on a device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    return pytree.tree_map(lambda t: t.to(device, non_blocking=True), inputs)


def call(network: Callable, inputs: Any, names: list[str] | None = None) -> Any:
    """What a network gives. ``names``: of its inputs, in order, where it takes them by position only."""
    if isinstance(inputs, Mapping):
        return network(*(inputs[name] for name in names)) if names is not None else network(**inputs)
    return network(*inputs) if isinstance(inputs, tuple) else network(inputs)


def names_of(inputs: Any) -> tuple[str | int, ...]:
    """The names or positions of inputs."""
    if isinstance(inputs, Mapping):
        return tuple(inputs)
    return tuple(range(len(inputs))) if isinstance(inputs, tuple) else (0,)


def device_of(model: nn.Module) -> torch.device:
    """Where a network's parameters are, and so where its inputs must be; the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def run(model: nn.Module, batch: Any, what: str) -> Any:
    """What a network gives for inputs, with an error that names the batch (``what``) and the layer where it
    does not fit.
    """
    tensors = pytree.tree_leaves(batch)
    if not all(torch.isfinite(t).all() for t in tensors if t.is_floating_point()):
        raise ValueError(f"{what} holds NaN or infinity")
    trail: list[str] = []
    try:
        return call(model, batch)
    except ValueError:
        raise
    except Exception as error:
        hooks = [
            m.register_forward_pre_hook(lambda _, __, name=n: trail.append(name))
            for n, m in model.named_modules()
            if n
        ]
        try:
            call(model, batch)
        except Exception:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        where = f" at layer {trail[-1]!r}" if trail else ""
        lacks = isinstance(error, TypeError) and "missing" in str(error)
        hint = "; several inputs are a pair ((a, b), labels), where labels may be None" if lacks else ""
        shapes = " and ".join(f"shape {tuple(t.shape)} and type {t.dtype}" for t in tensors)
        raise ValueError(
            f"{what} of {shapes} does not fit the network{where}: {one_line(error)}{hint}"
        ) from error


def one_line(error: Exception) -> str:
    """The first line of an error's message, with those after it for as long as they end in a colon."""
    found = []
    for line in str(error).splitlines():
        found.append(line.strip())
        if not line.rstrip().endswith(":"):
            break
    return " ".join(found) if found else repr(error)
