"""Float networks that others made: the functions that make them, and their weights, read or downloaded."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from ..files import whole
from ..own import named


def cache() -> Path:
    """Where downloads and decoded pixels go: ``$QLIB_CACHE``, or else ``~/.cache/qlib``."""
    folder = Path(os.environ.get("QLIB_CACHE") or "~/.cache/qlib").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Networks(Mapping):
    """Float networks by name, each made when it is first asked for, in evaluation mode."""

    def __init__(self, makers: Mapping[str, Callable[[], nn.Module]]):
        self.makers = makers
        self.made = {}

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self.made:
            self.made[name] = self.makers[name]().eval()
        return self.made[name]

    def __contains__(self, name: object) -> bool:  # without making it
        return name in self.makers

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


def factory(spec: str) -> Callable[[], nn.Module]:
    """The function that ``"package.module:function"`` or ``"folder/file.py:function"`` names. That code is
    run.
    """
    maker = named(spec, "network factory")
    if isinstance(maker, nn.Module) or not callable(maker):
        raise ValueError(f"{spec!r} is a {type(maker).__name__}, not a function that makes a network")

    @functools.wraps(maker)
    def made() -> nn.Module:
        try:
            return maker()
        except Exception as error:  # the reader's code has whatever errors it has
            raise ValueError(
                f"{spec!r}, called without arguments, makes no network: {type(error).__name__}: {error}"
            ) from error

    return made


def load_weights(network: nn.Module, path: Path) -> nn.Module:
    """``network`` with the weights of a file: safetensors, or what torch reads without running code
    (``weights_only``).

    Raises ``ValueError`` in one line for a file that is damaged, holds anything but tensors, or is another
    network's.
    """
    if not isinstance(network, nn.Module):
        raise ValueError(f"the network's factory made a {type(network).__name__}, not an nn.Module")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = (
                state["state_dict"]
                if isinstance(state, dict) and isinstance(state.get("state_dict"), dict)
                else state
            )
        network.load_state_dict(state)
    except FileNotFoundError:
        raise
    except Exception as error:  # each reader has its own errors; here they all mean the same
        reason = "".join(c for c in " ".join(str(error).split()) if c.isprintable())[:200]
        if "Missing key(s)" in reason and "module." in str(error):
            reason = "its names begin with 'module.': save the state_dict of what DataParallel holds"
        elif "weights_only" in str(error) or "pickle" in str(error).lower():
            reason = "nothing but a state_dict is read: torch.save(network.state_dict(), ...)"
        raise ValueError(
            f"{path} does not hold weights for this {type(network).__name__}: {reason}"
        ) from error
    return network


def fetch(url: str, name: str, algorithm: str, digest: str) -> Path:
    """The file ``name`` in the cache, downloaded from ``url`` if it is not there (and unzipped if that ends
    in ``.zip``).

    Its hash is verified at every call, before anything reads it. Raises ``OSError`` in one line if it cannot
    be downloaded, or is not the file that was published; ``digest`` is in hexadecimal and may be the
    beginning of one.
    """
    import zipfile

    path = cache() / name
    if not path.exists():
        try:
            with whole(path) as temporary:
                print(f"downloading {url} to {path.parent}", file=sys.stderr)
                torch.hub.download_url_to_file(url, str(temporary))
                if url.endswith(".zip"):
                    with zipfile.ZipFile(temporary) as archive:
                        data = archive.read(name)
                    temporary.write_bytes(data)
                _verify(temporary, url, algorithm, digest)
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise OSError(
                f"cannot download {url}: {error}. Without a network, put the file at {path} (the folder is "
                "$QLIB_CACHE)"
            ) from error
    _verify(path, str(path), algorithm, digest)
    return path


def _verify(path: Path, what: str, algorithm: str, digest: str) -> None:
    found = hashlib.new(algorithm, path.read_bytes()).hexdigest()
    if not found.startswith(digest):
        raise OSError(
            f"{what} is damaged or was changed: its {algorithm} is {found}, not {digest}; delete it to "
            "download again"
        )
