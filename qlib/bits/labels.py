"""Labels that a network gives itself, to learn bits from where there are no true ones (observation 7)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..network import evaluation_copy
from ..network.inputs import device_of, inputs_of, on, run


def pseudo_labels(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], soft: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """The same images with the labels that a network gives them.

    Parameters
    ----------
    model : nn.Module
        The float network.
    batches : iterable of pairs
        Images and labels; labels given are not looked at.
    soft : bool
        Whether a label is the network's probabilities, which the paper suggests and did not run, rather than
        its best class.

    Returns
    -------
    list of pairs
        The images, and labels ``(n,)``, or ``(n, classes)`` if ``soft``.

    Source
    ------
    Observation 7.
    """
    network = evaluation_copy(model)
    device = device_of(network)
    labelled = []
    with torch.no_grad():  # not inference mode: its tensors could not be learned from
        for x in inputs_of(batches, "image"):
            output = run(network, on(x, device), f"batch {len(labelled)}").cpu()
            labelled.append((x, output.softmax(1) if soft else output.argmax(1)))
    return labelled
