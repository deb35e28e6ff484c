"""Measuring a network: what a metric finds of each example, and what that amounts to.

Torch is imported when a network is measured, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .metrics import TOP1, Accuracy, Measurement, Metric, find_metric

if TYPE_CHECKING:
    from torch import Tensor, nn


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    metric: str | Metric | Callable[[Any, Any], Tensor] = "top1",
    reference: nn.Module | None = None,
) -> Measurement:
    """A metric of ``model`` on batches, in evaluation mode.

    Parameters
    ----------
    model
        Any network.
    batches
        Pairs of inputs and targets. Inputs are a tensor ``(n, ...)``, a tuple of several, or a dictionary by
        name; targets are what the metric understands: for ``"top1"`` integer labels ``(n,)``, or ``(n,
        height, width)`` for maps of class scores ``(n, classes, height, width)``. A metric against a
        reference looks at no targets: they may be ``None``.
    metric
        ``"top1"``, ``"top5"``, ``"mse"``, ``"perplexity"``, ``"spearman"``; ``"agreement"``, ``"sqnr"`` and
        ``"kl"`` (these three against ``reference``); a `qlib.metrics.Metric`, or a function of (outputs,
        targets) to a value ``(n,)``.
    reference
        The float network.

    Returns
    -------
    Measurement
        A `Measurement`; an `Accuracy` where the metric is top-1 and an example has one label.

    Raises
    ------
    ValueError
        Naming the batch: there are no examples, a batch is not such a pair, does not fit the network, or is
        not finite; the network's output is not; or the metric cannot be computed of it.
    """
    metric = find_metric(metric)
    return measured(metric, examples(model, batches, metric, reference))


def measured(metric: Metric, parts: np.ndarray) -> Measurement:
    """What the parts of `examples` amount to; several may be joined along axis 0."""
    found = metric.measure(parts)
    return Accuracy(parts == 100) if metric is TOP1 and found.yes_or_no else found


def examples(
    model: nn.Module, batches: Iterable[tuple[Any, Any]], metric: Metric, reference: nn.Module | None = None
) -> np.ndarray:
    """What ``metric`` finds of each example, ``(n,)`` or parts ``(n, k)``; arguments and errors as of
    `evaluate`.
    """
    import torch

    if metric.against == "reference" and reference is None:
        raise ValueError(
            f"{metric.name!r} is measured against a reference: pass reference=, the float network"
        )
    networks = [model] if reference is None or metric.against != "reference" else [model, reference]
    training = [module for network in networks for module in network.modules() if module.training]
    found = []
    for network in networks:
        network.eval()
    try:
        with torch.inference_mode():
            for i, batch in enumerate(batches):
                part = _of_batch(networks, batch, metric, f"evaluation batch {i}")
                found.append(part.cpu().double().numpy())
    finally:
        for module in training:
            module.training = True
    if not sum(map(len, found)):
        raise ValueError(
            "there are no images to evaluate: batches is empty (a generator may have been used up already)"
        )
    return np.concatenate(found)


def _of_batch(networks: Sequence[nn.Module], batch: Any, metric: Metric, what: str) -> Tensor:
    import torch
    from torch import Tensor
    from torch.utils import _pytree as pytree

    from .network.inputs import as_inputs, as_targets, check_inputs, device_of, examples_in, on, one_line, run

    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if not pair or not isinstance(batch[0], (Tensor, tuple, list, dict)):
        raise ValueError(f"{what} must be a pair of inputs and labels, got a {type(batch).__name__}")
    if batch[1] is None and metric.against == "targets":
        raise ValueError(f"{what} has no labels or other targets, which {metric.name!r} looks at")
    x = as_inputs(batch[0])
    check_inputs(x, what)
    model, *references = networks
    copies = pytree.tree_map(torch.clone, x) if references else None  # networks may overwrite what they get
    outputs = _finite(run(model, on(x, device_of(model)), what), what)
    if references:
        against = _finite(run(references[0], on(copies, device_of(references[0])), what), what, "reference")
    else:
        against = as_targets(batch[1])
    device = device_of(model)
    against = pytree.tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, against)
    try:
        found = metric.each(outputs, against)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    except Exception as error:  # of the reader's function
        said = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{what}: the metric {metric.name!r} fails: {said}") from error
    n = examples_in(x)
    shape = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
    wanted = f"({n}, parts)" if metric.in_parts else f"({n},)"
    if not isinstance(found, Tensor) or found.dim() != 1 + metric.in_parts or len(found) != n:
        raise ValueError(f"{what}: the metric {metric.name!r} gives {shape}, not a tensor {wanted}")
    if not torch.isfinite(found).all():
        raise ValueError(f"{what}: the metric {metric.name!r} gives NaN or infinity")
    return found


def _finite(outputs: Any, what: str, whose: str = "network") -> Any:
    import torch
    from torch.utils import _pytree as pytree

    for output in pytree.tree_leaves(outputs):
        if isinstance(output, torch.Tensor) and not torch.isfinite(output).all():
            raise ValueError(f"the {whose}'s output for {what} holds NaN or infinity")
    return outputs
