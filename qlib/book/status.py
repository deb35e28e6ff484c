"""The status page's table: per notebook when it ran, how long it took, how it ended and with which
versions.
"""

import platform
from importlib.metadata import version

import qlib


def versions() -> dict[str, str]:
    """The versions that a notebook's numbers may depend on, by name."""
    python = platform.python_version()
    return {"python": python, "qlib": qlib.__version__, "torch": version("torch"), "numpy": version("numpy")}


def as_markdown(status: dict[str, dict]) -> str:
    """`status`, as `qlib.book.build` writes it, as a Markdown table for a page in `book/`."""
    rows = [["notebook", "ran (UTC)", "took", "ended", *versions()]]
    rows.append(["---"] * len(rows[0]))
    for name, run in sorted(status.items()):
        if not run:  # its run was cut short
            continue
        link = f"[](../notebooks/{name}.ipynb)"
        rows.append([link, run["ran"], f"{run['seconds']:.0f} s", run["state"], *run["versions"].values()])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
