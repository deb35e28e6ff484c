"""A simulated Colab: its ipywidgets, its module `google.colab`, and a lesson's set-up, imports and panel in
such a kernel.

Real Colab was not run. What is old there is ipywidgets, which is installed here into a folder that comes
first on the path.
"""

import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from qlib.book.address import SETUP_TAG

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PANELS = [path for path in NOTEBOOKS if "qlib.explore(" in path.read_text("utf8")]
OLD = ["ipywidgets==7.7.1", "ipython_genutils"]  # the second it needs, and the new ones do not
STATE = "application/vnd.jupyter.widget-state+json"
FAKE = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')\n"
# In Colab the set-up cell fetches the project; here it is there already.
OFFLINE = "get_ipython().system = get_ipython().run_line_magic = lambda *_, **__: None"


@pytest.fixture(scope="session")
def old_widgets(request):
    """A folder with the ipywidgets of Colab."""
    folder = Path(request.config.cache.mkdir("ipywidgets-7.7.1"))
    if not all((folder / one.split("=")[0]).is_dir() for one in OLD):
        with tempfile.TemporaryDirectory(dir=folder.parent) as own:  # another process may be at it, too
            installed = Path(own, "installed")
            options = ["--quiet", "--no-deps", "--target", installed]
            install = [sys.executable, "-m", "pip", "install", *options, *OLD]
            done = subprocess.run(install, capture_output=True, text=True, timeout=120)
            if done.returncode:
                pytest.skip(f"pip cannot install {OLD[0]}: {done.stderr.strip().splitlines()[-1]}")
            with suppress(OSError):  # the other was faster
                installed.rename(folder)
    return folder


def execute(cells, folder, monkeypatch):
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    where = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    return notebook


def test_a_panel_works_with_the_old_ipywidgets_and_is_saved_whole(old_widgets, monkeypatch):
    notebook = execute(
        [
            FAKE + "import ipywidgets\nassert ipywidgets.__version__ == '7.7.1'",
            "import qlib",
            "panel = qlib.explore(qlib.load_bench('digits'), images=500, front=('weight_bits', "
            "'percentile'))\npanel",
            "top1 = f'{panel.accuracy.top1:.2f} %'\nprint(top1)",
        ],
        old_widgets,
        monkeypatch,
    )
    assert "application/vnd.jupyter.widget-view+json" in notebook.cells[2].outputs[0].data
    top1 = notebook.cells[3].outputs[0].text.strip()
    saved = [w["state"].get("value") for w in notebook.metadata.widgets[STATE]["state"].values()]
    (answer,) = [value for value in saved if isinstance(value, str) and "role=" in value]
    assert top1 in answer and "On all 500 validation images" in answer and 'aria-busy="false"' in answer
    execute(
        [
            FAKE + "import qlib, ipywidgets as W",
            "panel = qlib.explore(qlib.load_bench('digits'), images=250)",
            """
for name, control in panel.controls.items():
    if isinstance(control, W.Checkbox):
        control.value = not control.value
    elif isinstance(control, W.SelectMultiple):
        control.value = control.options[1:4:2]
    elif "range" not in name and hasattr(control, "options"):
        control.index = len(control.options) - 1 if control.index else 1
panel.controls["weight_bits"].index = panel.controls["activation_bits"].index = 3
accuracy = panel.wait(120).accuracy
expected = qlib.evaluate(qlib.quantize(panel.model, panel.config, panel.calibration), panel.validation)
assert (accuracy.correct == expected.correct).all() and f"{expected.top1:.2f} %" in panel._answer.value
panel.controls["bit_choices"].value = ()
assert panel.wait(120).accuracy is None and "cannot be done" in panel._answer.value
""",
        ],
        old_widgets,
        monkeypatch,
    )


def test_every_lesson_sets_up_and_imports(old_widgets, monkeypatch):
    kept = "fetched = []\nget_ipython().system = lambda line: fetched.append(line)\n"
    kept += "get_ipython().run_line_magic = lambda name, line, *_: fetched.append(f'{name} {line}')"
    lessons = [nbformat.read(path, as_version=4).cells for path in NOTEBOOKS]
    first = [[cell.source for cell in lesson if cell.cell_type == "code"][:2] for lesson in lessons]
    assert all(
        "google.colab" in setup and re.search("^(import|from) qlib", imports, re.M)
        for setup, imports in first
    )
    lines = f"assert [line.split()[0] for line in fetched] == ['git', 'pip'] * {len(NOTEBOOKS)}, fetched"
    execute([FAKE + kept, *(source for cells in first for source in cells), lines], old_widgets, monkeypatch)


@pytest.mark.parametrize("path", PANELS[:1], ids=lambda path: path.stem)
def test_a_lesson_sets_up_imports_and_shows_its_panel(path, old_widgets, monkeypatch):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    (panel,) = [i for i, cell in enumerate(cells) if "qlib.explore(" in cell.source]
    wanted = [
        cell.source
        for cell in cells[:panel]
        if {SETUP_TAG, "parameters"} & set(cell.metadata.get("tags", []))
        or any(word in cell.source for word in ("import", "load_bench", "calibration = ", "validation = "))
    ]
    notebook = execute(
        [
            FAKE + OFFLINE,
            *wanted,
            cells[panel].source,
            "assert panel.accuracy.n == len(panel.baseline.correct)",
        ],
        old_widgets,
        monkeypatch,
    )
    assert "application/vnd.jupyter.widget-view+json" in notebook.cells[-2].outputs[0].data


def test_figures_act_without_widgets_and_the_painter_asks_for_colabs_manager(old_widgets, monkeypatch):
    fake = (
        FAKE
        + """asked = []
sys.modules["google.colab.output"] = types.SimpleNamespace(enable_custom_widget_manager=lambda: asked.append(True))
import qlib
from qlib.widgets.painter import paint_bits
from qlib.widgets.tradeoffs import tradeoff_explorer
"""  # noqa: E501
    )
    notebook = execute(
        [
            fake,
            "painted = paint_bits(qlib.load_bench('digits'))\npainted",
            "tradeoff_explorer()",
            "assert asked and painted.panel.wait(120).accuracy",
        ],
        old_widgets,
        monkeypatch,
    )
    assert set(notebook.cells[1].outputs[0].data) == {
        "text/plain",
        "application/vnd.jupyter.widget-view+json",
    }
    assert '<script type="module">' in notebook.cells[2].outputs[0].data["text/html"]
