"""Compile what measures in the page: its C sources to WebAssembly, which is committed beside them.

    python -m pip install ziglang==0.17.1
    python -m qlib.book.engine

One version of the compiler gives the same bytes everywhere.
"""

import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from qlib.widgets.engine.bundle import HERE

COMPILER = "0.17.1"  # of ziglang
SOURCES = {"kernel": ["-Wl,--import-memory", "-Wl,--global-base=16384"], "draw": []}
OPTIONS = [
    "-target",
    "wasm32-freestanding",
    "-mcpu=generic+simd128+bulk_memory",
    "-O3",
    "-ffp-contract=off",
    "-Wall",
    "-Werror",
    "-nostdlib",
    "-Wl,--no-entry",
    "-Wl,--strip-all",
    "-Wl,-z,stack-size=16384",
]


def compiled(name: str) -> bytes:
    """``<name>.c`` as WebAssembly.

    Raises
    ------
    ModuleNotFoundError
        The compiler is not there, or another version of it.
    subprocess.CalledProcessError
        It refuses the source.
    """
    if not is_there():
        raise ModuleNotFoundError(f"this needs the compiler: python -m pip install ziglang=={COMPILER}")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"{name}.wasm"
        command = [sys.executable, "-m", "ziglang", "cc", *OPTIONS, *SOURCES[name], "-o", str(output)]
        subprocess.run([*command, f"{name}.c"], check=True, cwd=HERE)
        return output.read_bytes()


def is_there() -> bool:
    """Whether the compiler is installed, in the version that made what is committed."""
    try:
        return metadata.version("ziglang") == COMPILER
    except metadata.PackageNotFoundError:
        return False


def main() -> None:
    for name in SOURCES:
        data = compiled(name)
        (HERE / f"{name}.wasm").write_bytes(data)
        print(f"{name}.wasm: {len(data):,} bytes")


if __name__ == "__main__":
    main()
