"""Execute the notebooks and hand their outputs to Jupyter Book.

    python -m qlib.book.build

Papermill writes an executed copy of every notebook to `_build/executed/`. Its outputs, set into the source
notebook, go into Jupyter Book's own cache, where `jupyter-book build .` finds them. A notebook whose code,
and whatever that code depends on, has not changed since its last run is not run again; its prose and captions
may change freely.
"""

import hashlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import datetime, timezone

import nbformat
import papermill
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbformat import NotebookNode
from nbformat.v4 import new_output

from qlib.book import ROOT, WIDGET_NOTE, WIDGET_VIEW
from qlib.book.minutes import minutes
from qlib.book.status import versions
from qlib.files import write_whole

NOTEBOOKS = ROOT / "notebooks"
EXECUTED = ROOT / "_build" / "executed"
STATUS = EXECUTED / "status.json"
CACHE = ROOT / "_build" / ".jupyter_cache"
DEPENDENCIES = (
    "qlib/**/*.py",
    "qlib/**/*.js",
    "qlib/**/*.wasm",
    "qlib/benches/weights/*",
    "book/results/**/*",
)
WORKERS = 2  # notebooks that run at a time; each holds about 1.5 GB
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execution_key(notebook: NotebookNode) -> str:
    """A hash of everything the outputs of `notebook` depend on; equal keys mean that no new run is needed."""
    digest = hashlib.sha256(json.dumps(versions()).encode())
    for cell in code_cells(notebook):
        digest.update(cell.source.encode() + b"\0")
    for path in sorted(path for pattern in DEPENDENCIES for path in ROOT.glob(pattern) if path.is_file()):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def drawn(widgets: dict, model_id: str) -> list[NotebookNode]:
    """What the output areas inside a widget showed when the notebook ended."""
    state = widgets.get(model_id, {}).get("state", {})
    found = [nbformat.from_dict(output) for output in state.get("outputs", [])]
    for child in state.get("children", []):
        found += drawn(widgets, child.removeprefix("IPY_MODEL_"))
    return found


def page_outputs(outputs: list[NotebookNode], widgets: dict) -> list[NotebookNode]:
    """`outputs` as a page without a kernel can show them: for sliders, their own HTML if they have any, else
    a note and what they drew.
    """
    note = new_output("display_data", {"text/markdown": f"*{WIDGET_NOTE}*"})
    shown = []
    for output in outputs:
        view = output.get("data", {}).get(WIDGET_VIEW)
        if view is None or "text/html" in output["data"]:
            data = {kind: value for kind, value in output.get("data", {}).items() if kind != WIDGET_VIEW}
            shown.append(NotebookNode(output, data=NotebookNode(data)) if view else output)
        else:
            shown += ([] if note in shown else [note]) + drawn(widgets, view["model_id"])
    return shown


def fill_cache(name: str, source: NotebookNode, seconds: float) -> None:
    """Put the outputs of the executed copy `name` under the key that Jupyter Book computes from `source`."""
    executed = nbformat.read(EXECUTED / f"{name}.ipynb", as_version=4)
    widgets = executed.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for cell, ran in zip(code_cells(source), code_cells(executed), strict=True):
        cell.execution_count = ran.execution_count
        cell.outputs = page_outputs(ran.outputs, widgets)
    bundle = CacheBundleIn(source, str(NOTEBOOKS / f"{name}.ipynb"), data={"execution_seconds": seconds})
    get_cache(CACHE).cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def _as_on_the_page(name: str, source: NotebookNode) -> NotebookNode:
    """The executed copy with the prose of today."""
    executed = nbformat.read(EXECUTED / f"{name}.ipynb", as_version=4)
    outputs = iter(code_cells(executed))
    cells = [
        {**cell, "outputs": next(outputs).outputs} if cell.cell_type == "code" else cell
        for cell in source.cells
    ]
    return nbformat.from_dict({**source, "cells": cells})


def execute(name: str) -> dict:
    """Run `notebooks/<name>.ipynb` where it lies, and return what the status page says about the run."""
    ran = datetime.now(timezone.utc)
    start = time.perf_counter()
    state = "succeeded"
    try:
        papermill.execute_notebook(
            NOTEBOOKS / f"{name}.ipynb",
            EXECUTED / f"{name}.ipynb",
            cwd=NOTEBOOKS,
            kernel_name="python3",
            progress_bar=False,  # several run at a time
        )
    except Exception as error:  # a failing cell, but also a kernel that died or is not there
        cell = getattr(error, "exec_count", None)
        state = f"failed in cell [{cell}]" if cell else "failed"
        print(error)
    seconds = time.perf_counter() - start
    return {"ran": f"{ran:%Y-%m-%d %H:%M}", "seconds": seconds, "state": state, "versions": versions()}


def _finish(name: str, source: NotebookNode, key: str, status: dict) -> None:
    """What an executed copy that is there gives to the site."""
    status[name]["key"] = key
    fill_cache(name, source, status[name]["seconds"])
    status[name]["minutes"] = minutes(_as_on_the_page(name, source))


def main() -> int:
    EXECUTED.mkdir(parents=True, exist_ok=True)
    sources = {path.stem: nbformat.read(path, as_version=4) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    status = json.loads(STATUS.read_text("utf8")) if STATUS.is_file() else {}
    status = {name: status.get(name, {}) for name in sources}
    keys = {name: execution_key(source) for name, source in sources.items()}
    known = {
        name
        for name in sources
        if status[name].get("key") == keys[name] and (EXECUTED / f"{name}.ipynb").is_file()
    }
    for name in sorted(known):
        print(f"notebooks/{name}.ipynb: unchanged since {status[name]['ran']}")
        _finish(name, sources[name], keys[name], status)
    # Until a run has ended well, there is none.
    write_whole(STATUS, json.dumps(status | {name: {} for name in sources if name not in known}))
    workers = max(1, min(WORKERS, os.cpu_count() or 1))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(execute, name): name for name in sources if name not in known}
        for number, run in enumerate(as_completed(running), start=1):
            name = running[run]
            status[name] = run.result()
            state, seconds = status[name]["state"], status[name]["seconds"]
            print(f"[{number}/{len(running)}] notebooks/{name}.ipynb: {state}, {seconds:.0f} s", flush=True)
            if state == "succeeded":
                _finish(name, sources[name], keys[name], status)
            write_whole(STATUS, json.dumps(status, indent=1))
    write_whole(STATUS, json.dumps(status, indent=1))
    failed = [
        f"notebooks/{name}.ipynb {run['state']}"
        for name, run in status.items()
        if run["state"] != "succeeded"
    ]
    print("\n".join(failed), file=sys.stderr, end="\n" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
