"""Benches: data and float networks to measure on, all with one interface."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

Batches = list[tuple[Tensor, Tensor]]


class Bench(Protocol):
    """Data and networks. Batches are pairs of float32 images ``(b, c, h, w)``, ready for the network, and int64 labels."""

    name: str
    models: Mapping[str, nn.Module]

    def calibration(self, n: int, seed: int = 0) -> Batches:
        """``n`` training images to find ranges on; another seed, another draw."""

    def training(self, n: int, seed: int = 0) -> Batches:
        """``n`` labelled training images."""

    def validation(self, n: int) -> Batches:
        """Always the first ``n`` validation images."""


def load_bench(name: str) -> Bench:
    """The bench of that name: ``"digits"`` is built in. Raises ``ValueError`` for a name that is not known."""
    if name != "digits":
        raise ValueError(f"there is no bench {name!r}; benches: 'digits'")
    from .digits import Digits

    return Digits()


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers, names included: 16 hexadecimal digits."""
    return _hash((name.encode(), tensor) for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor))


def data_hash(batches: Batches) -> str:
    """SHA-256 of images and labels, however they are batched: 16 hexadecimal digits."""
    return _hash((b"", part) for which in (0, 1) for part in (batch[which] for batch in batches))


def _hash(parts: Iterable[tuple[bytes, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in parts:
        digest.update(name)
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
