"""How recorded rows were made: command, commit, versions, hardware."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .laboratory import Laboratory


def session(
    command: str,
    seeds: Sequence[int],
    laboratory: Laboratory,
    threads: int | None,
    own: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What stands beside a table of the rows that are about to be made.

    Parameters
    ----------
    command
        That makes them again; empty for the one that runs.
    threads
        That compute a row; ``None`` for those that torch uses.
    own
        A network and data of the reader's own, as for `qlib.load_bench`: what it is made of is listed with
        the hashes of its files, and the folder from which they are named.
    """
    import torch

    gpu = laboratory.device.type == "cuda"
    return {
        "command": command or " ".join(sys.argv),
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "seeds": list(seeds),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "hardware": f"{processor()}, {threads or torch.get_num_threads()} threads",
        **({"device": torch.cuda.get_device_name(laboratory.device)} if gpu else {}),
        "precision": laboratory.precision,
        **({"folder": str(Path.cwd()), "own": dict(own), "sha256": _hashes(own)} if own else {}),
    }


def _hashes(own: Mapping[str, Any]) -> dict[str, str]:
    """Of the files of a network of the reader's own, by the name that they were given."""
    named = [str(own[part]) for part in ("bench", "model", "weights") if part in own]
    files = [name.rpartition(":")[0] if name.rpartition(":")[0].endswith(".py") else name for name in named]
    return {f: hashlib.sha256(Path(f).read_bytes()).hexdigest() for f in files if Path(f).is_file()}


def commit() -> str:
    """Of the package: its hash, and whether there are local changes; "unknown" outside a clone."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=here)
        return done.stdout.strip()

    try:
        changed = " with local changes" if git("status", "--porcelain", "--", ".") else ""
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """The name of the one that runs this."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
