"""Benches: data and float networks to measure on, all with one interface."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..names import suggestion
from ..own import named

if TYPE_CHECKING:
    from torch import Tensor, nn

Batches = Sequence[tuple["Tensor", "Tensor"]]


class Bench(Protocol):
    """Data and networks.

    Batches are pairs of float32 images ``(b, c, h, w)``, ready for the network, and int64 labels, or whatever
    the network and ``metric`` take. A bench without the attribute ``metric`` is measured by top-1; one with
    ``available`` says there how many examples it has, a mapping with ``calibration`` and ``validation``.
    """

    name: str
    models: Mapping[str, nn.Module]

    def calibration(self, n: int, seed: int = 0) -> Batches:
        """``n`` training images to find ranges on; another seed, another draw."""

    def training(self, n: int, seed: int = 0) -> Batches:
        """``n`` labelled training images."""

    def validation(self, n: int) -> Batches:
        """Always the first ``n`` validation images."""


BENCHES = {  # by name: module and what makes it
    "digits": ("digits", "Digits"),
    "digits-tuning": ("digits", "Tuning"),
    "cifar10": ("cifar10", "cifar10"),
    "cifar10-jpeg": ("cifar10", "cifar10_jpeg"),
    "imagenet": ("imagenet", "imagenet"),
    "imagenet-generated": ("imagenet", "generated"),
    "imagenet-sample": ("imagenet_sample", "imagenet_sample"),
    "imagenet-sample-240": ("imagenet_sample", "imagenet_sample_240"),
    "sentences": ("sentences", "sentences"),
    "language": ("language", "language"),
    "language-256": ("language", "language_256"),
    "language-2048": ("language", "language_2048"),
    "language-begin": ("language", "language_begin"),
    "language-other": ("language", "language_other"),
    "language-own": ("language", "own"),
}


@dataclass(frozen=True)
class Loaders:
    """A bench of your own loaders.

    Parameters
    ----------
    name : str
        Its name.
    models : mapping
        Float networks by name.
    train, held_out : iterable of pairs
        Give batches of inputs and targets, such as a ``DataLoader`` does; inputs are a tensor, a tuple or a
        dictionary of such, targets what ``metric`` takes. Draws are the first images that ``train`` gives
        after its seed is set, so a loader that shuffles gives others for every seed; ``held_out`` must not
        shuffle.
    metric : str
        What is measured.

    Raises
    ------
    ValueError
        When data is asked for, where a loader has too few images.
    """

    name: str
    models: Mapping[str, nn.Module]
    train: Iterable[tuple[Tensor, Tensor]]
    held_out: Iterable[tuple[Tensor, Tensor]]
    metric: str = "top1"

    def calibration(self, n: int, seed: int = 0) -> Batches:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._first(self.train, n)

    training = calibration

    def validation(self, n: int) -> Batches:
        return self._first(self.held_out, n)

    def _first(self, loader: Iterable[tuple[Tensor, Tensor]], n: int) -> Batches:
        from ..network.inputs import as_inputs, as_targets, examples_in, first, first_targets

        batches = []
        left = n
        for x, targets in loader:
            inputs = as_inputs(x)
            try:
                some = first_targets(as_targets(targets), examples_in(inputs), left)
            except ValueError as error:
                raise ValueError(f"bench {self.name!r}: {error}") from None
            batches.append((first(inputs, left), some))
            left -= examples_in(batches[-1][0])
            if not left:
                return batches
        raise ValueError(f"bench {self.name!r}: a loader has {n - left:,} images; {n:,} are asked for")


def load_bench(name: str, own: Mapping[str, object] | None = None) -> Bench:
    """The bench of that name.

    Parameters
    ----------
    name : str
        ``"digits"`` is built in, the modules of the others say what they need.
    own : mapping, optional
        The arguments of `qlib.benches.images.own`: a bench of your own network and images, called ``name``;
        or ``{"bench": "FILE.py:NAME"}``, one that a file makes.

    Returns
    -------
    Bench
        Data and networks.

    Raises
    ------
    ValueError
        For a name that is not known or a folder that is not named.
    OSError
        For data that is not there.
    """
    if own and set(own) == {"bench"}:
        return _own_bench(str(own["bench"]))
    if own:
        from . import images

        known = list(inspect.signature(images.own).parameters)[1:]
        for part in own:
            if part not in known:
                raise ValueError(f"own has no field {part!r}{suggestion(part, known)}")
        if lacks := [part for part in ("model", "weights", "data") if not isinstance(own.get(part), str)]:
            raise ValueError(f"own: {lacks[0]} must be a text, got {own.get(lacks[0])!r:.60}")
        return images.own(name, **own)
    if name not in BENCHES:
        raise ValueError(f"there is no bench {name!r}; benches: {', '.join(map(repr, BENCHES))}")
    module, maker = BENCHES[name]
    bench = getattr(importlib.import_module(f".{module}", __name__), maker)()
    bench.packaged = True
    return bench


def is_packaged(bench: Bench) -> bool:
    """Whether `load_bench` made it by its name, so that it is no bench of the reader's own, whatever that
    may be called.
    """
    return getattr(bench, "packaged", False)


def _own_bench(spec: str) -> Bench:
    bench = named(spec, "bench")
    bench = bench() if callable(bench) else bench
    refuse_lacking(bench, repr(spec))
    return bench


def refuse_lacking(bench: Bench, made_by: str) -> None:
    """Raises ``ValueError`` naming what a bench of the reader's own, of ``made_by``, does not have."""
    lacks = [part for part in ("name", "models") if not hasattr(bench, part)]
    streams = ("calibration", "training", "validation")
    lacks += [part for part in streams if not callable(getattr(bench, part, None))]
    if lacks:
        raise ValueError(f"{made_by} gives a {type(bench).__name__}, which lacks {', '.join(lacks)}")


def network_of(bench: Bench, name: str) -> nn.Module:
    """A bench's float network by its name.

    Raises
    ------
    ValueError
        If the bench has none of that name.
    """
    if name not in bench.models:
        raise ValueError(f"bench {bench.name!r} has no network {name!r}{suggestion(name, bench.models)}")
    return bench.models[name]


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers, names included: 16 hexadecimal digits."""
    from torch import Tensor

    return _hash(
        (name.encode(), tensor) for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)
    )


def structure_hash(model: nn.Module) -> str:
    """SHA-256 of what a network computes beside its weights: its modules, and the operations between them
    where these can be traced. 16 hexadecimal digits.
    """
    from ..network import read

    said = repr(model)
    try:
        said += read(model).module.code
    except ValueError:  # it cannot be traced, and so not be quantized
        pass
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def data_hash(batches: Batches) -> str:
    """SHA-256 of images and labels, however they are batched: 16 hexadecimal digits. Batches may know their
    own ``hash``.
    """
    from torch.utils import _pytree as pytree

    if (known := getattr(batches, "hash", None)) is not None:
        return known
    inputs, targets = [], []
    by_example = True
    for batch in batches:
        inputs.append(pytree.tree_leaves(batch[0]))
        targets.append(pytree.tree_leaves(batch[1]))
        by_example &= all(_has_examples(t, len(inputs[-1][0])) for t in targets[-1])
    # All of one tensor, and then of the next, so that batches may be of any size
    parts = [*zip(*inputs, strict=True), *(zip(*targets, strict=True) if by_example else targets)]
    return _hash((b"", leaf) for leaves in parts for leaf in leaves if leaf is not None)


def _has_examples(leaf: Any, n: int) -> bool:
    """Whether a leaf of targets holds those of ``n`` examples, and is not, say, a word of a list of such."""
    return getattr(leaf, "shape", ())[:1] == (n,)


def _hash(parts: Iterable[tuple[bytes, Any]]) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in parts:
        digest.update(name)
        if not isinstance(tensor, torch.Tensor):  # a word among targets
            digest.update(repr(tensor).encode())
            continue
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
