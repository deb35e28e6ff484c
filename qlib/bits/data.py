"""What bits are learned from: images and labels, checked, pooled, and drawn in an order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..network import evaluation_copy
from ..network.inputs import (
    as_inputs,
    check_inputs,
    device_of,
    device_of_inputs,
    examples_in,
    inputs_of,
    on,
    picked_from,
    pooled,
    run,
)

if TYPE_CHECKING:
    from ..metrics import Metric


def pool(batches: Iterable[tuple[Any, Tensor]], metric: Metric, reference: nn.Module) -> tuple[Any, Tensor]:
    """All images and all targets: labels, or where the metric is against a reference what that gives.

    Raises
    ------
    ValueError
        Naming the batch that bits cannot be learned from, or the metric that has no loss.
    """
    if metric.loss is None:
        raise ValueError(f"the metric {metric.name!r} has no loss to learn by: Metric(..., loss=) gives one")
    if metric.against == "reference":
        batches = outputs_of(reference, batches)
    pairs = [_checked(batch, f"training batch {i}", metric) for i, batch in enumerate(batches)]
    if not sum(len(y) for _, y in pairs):
        raise ValueError(
            "there is no data to learn from: batches is empty (a generator may have been used up already)"
        )
    shapes = [pytree.tree_map(lambda t: t.shape[1:], x) for x, _ in pairs]
    if any(shape != shapes[0] for shape in shapes) or len({(y.shape[1:], y.dtype) for _, y in pairs}) > 1:
        raise ValueError("training batches differ in the shape of their images or the kind of their labels")
    images = pooled([x for x, _ in pairs])
    labels = torch.cat([y for _, y in pairs])
    found = classes(labels).unique() if metric.of_classes else ()
    if metric.of_classes and len(found) < 2:
        raise ValueError(
            f"all {len(labels)} training labels are class {found.item()}: bits cannot be learned from one "
            "class"
        )
    return images, labels


def _checked(batch: Any, what: str, metric: Metric) -> tuple[Any, Tensor]:
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2 and batch[1] is not None
    if not pair or not isinstance(batch[0], (Tensor, tuple, list, dict)):
        raise ValueError(f"{what} must be a pair of inputs and labels, got a {type(batch).__name__}")
    x = as_inputs(batch[0])
    check_inputs(x, what)
    n = examples_in(x)
    y = torch.as_tensor(batch[1], device=device_of_inputs(x))
    if any(len(t) != n for t in pytree.tree_leaves(x)):
        raise ValueError(f"{what}: its inputs do not hold equally many examples")
    if not metric.of_classes:
        if y.dim() == 0 or len(y) != n:
            raise ValueError(f"{what}: expected targets of {n} examples, got {tuple(y.shape)}")
        return x, y
    if y.is_floating_point() and (y.dim() == 1 or y.shape[1:] == (1,)):
        raise ValueError(
            f"{what}: expected {n} integer labels, got numbers {tuple(y.shape)}: pass a metric of them, such "
            'as metric="mse"'
        )
    if len(y) != n or y.dim() != (2 if y.is_floating_point() else 1):
        raise ValueError(
            f"{what}: expected {n} integer labels, or rows of class probabilities, "
            f"got {tuple(y.shape)} of {y.dtype}"
        )
    return x, y


def outputs_of(reference: nn.Module, batches: Iterable[Any]) -> list[tuple[Any, Tensor]]:
    """Every batch's inputs with what ``reference`` gives for them, one tensor."""
    network = evaluation_copy(reference)
    found = []
    with torch.no_grad():  # not inference mode: its tensors could not be learned from
        for x in inputs_of(batches, "training"):
            what = f"training batch {len(found)}"
            output = run(network, on(x, device_of(network)), what)
            if not isinstance(output, Tensor):
                raise ValueError(f"{what}: the network gives a {type(output).__name__}, not one tensor")
            found.append((x, output.to(device_of_inputs(x))))
    return found


def draw(images: Any, labels: Tensor, batch_size: int, steps: int, seed: int) -> Iterator[tuple[Any, Tensor]]:
    """A batch for each step: every image once before any comes again, in an order made from ``seed``."""
    # On the CPU, whose random numbers are the same everywhere.
    generator = torch.Generator("cpu").manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64, device="cpu")
    for _ in range(steps):
        while len(waiting) < batch_size:
            waiting = torch.cat([waiting, torch.randperm(len(labels), generator=generator, device="cpu")])
        picked = waiting[:batch_size]
        yield picked_from(images, picked), labels[picked]
        waiting = waiting[batch_size:]


def classes(labels: Tensor) -> Tensor:
    """The class of each label: itself, or the most probable."""
    return labels.argmax(1) if labels.is_floating_point() else labels


def check_output(output: Tensor, labels: Tensor) -> None:
    """Raises ``ValueError`` where a network's output does not fit its labels."""
    known = labels.shape[1] if labels.is_floating_point() else int(labels.max()) + 1
    if output.dim() != 2 or (output.shape[1] < known if labels.dim() == 1 else output.shape[1] != known):
        raise ValueError(
            f"the network gives {tuple(output.shape)}, which does not fit labels of {known} classes"
        )
    if labels.dim() == 1 and labels.min() < 0:
        raise ValueError(f"a label is {labels.min()}: classes count from 0")
