"""Where networks run, in which precision, and how data gets there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .benches import Batches

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PRECISIONS = ("float32", "tf32", "bfloat16")  # of products and their sums


class Prefetched:
    """Batches on their way to a device: while one is computed on, the next is made, pinned and copied."""

    def __init__(self, batches: Batches, device: torch.device):
        self.batches = batches
        self.device = device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        with ThreadPoolExecutor(1) as pool:
            coming = [pool.submit(self._load, i) for i in range(min(1, len(self.batches)))]
            for i in range(len(self.batches)):
                batch = coming.pop().result()
                coming += [pool.submit(self._load, i + 1)] if i + 1 < len(self.batches) else []
                yield batch

    def _load(self, i: int) -> tuple[Tensor, Tensor]:
        x, y = self.batches[i]
        from torch.utils import _pytree as pytree

        from .network.inputs import on

        pinned = pytree.tree_map(lambda t: t.pin_memory(), x) if self.device.type == "cuda" else x
        return on(pinned, self.device), y


def device_named(name: str) -> torch.device:
    """Raises ``ValueError`` where torch does not know the device or this machine has none."""
    import torch

    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error


@contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """Products in this precision; torch's own settings before and after."""
    import torch

    places = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = precision == "tf32"
        # Without its cache, which would not see that the learner writes new values into the weights.
        with torch.autocast(
            device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False
        ):
            yield
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed
