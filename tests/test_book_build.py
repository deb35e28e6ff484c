"""The build step between papermill and Jupyter Book."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

pytest.importorskip("papermill")
pytest.importorskip("jupyter_cache")

from qlib.book import WIDGET_NOTE, WIDGET_VIEW, build  # noqa: E402


def notebook(*code, prose="Prose."):
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return new_notebook(cells=[new_markdown_cell(prose), *map(new_code_cell, code)], metadata=kernel)


@pytest.fixture
def book(tmp_path, monkeypatch):
    """An empty book in `tmp_path`; returns a function that writes a notebook into it."""
    places = {
        "ROOT": "",
        "NOTEBOOKS": "notebooks",
        "EXECUTED": "_build/executed",
        "CACHE": "_build/.jupyter_cache",
    }
    for name, place in places.items():
        monkeypatch.setattr(build, name, tmp_path / place)
    monkeypatch.setattr(build, "STATUS", tmp_path / "_build/executed/status.json")
    (tmp_path / "notebooks").mkdir()
    return lambda *code, **more: nbformat.write(
        notebook(*code, **more), tmp_path / "notebooks/01-lesson.ipynb"
    )


def test_a_notebook_runs_once_and_again_when_its_code_changes(book, capsys):
    book("print(1 + 1)")
    assert build.main() == 0
    assert "succeeded" in capsys.readouterr().out
    book("print(1 + 1)", prose="Better prose.")
    assert build.main() == 0
    assert "unchanged" in capsys.readouterr().out

    _, shown = build.get_cache(build.CACHE).merge_match_into_notebook(notebook("print(1 + 1)"))
    assert [output.text for output in shown.cells[1].outputs] == ["2\n"]

    book("print(1 + 2)")
    assert build.main() == 0
    assert "succeeded" in capsys.readouterr().out


def test_a_failing_cell_fails_the_build_and_is_named(book, capsys):
    book("one = 1", "one / 0")
    assert build.main() == 1
    assert "notebooks/01-lesson.ipynb failed in cell [2]" in capsys.readouterr().err
    assert json.loads(build.STATUS.read_text("utf8"))["01-lesson"]["state"] == "failed in cell [2]"
    assert build.main() == 1, "a failed run is never taken for a valid one"


def test_execution_key_covers_package_and_results(book, tmp_path):
    keys = [build.execution_key(notebook("1"))]
    for name in (
        "qlib/affine.py",
        "qlib/widgets/kit.js",
        "qlib/benches/weights/base.safetensors",
        "book/results/digits/03.csv",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("changed")
        keys.append(build.execution_key(notebook("1")))
    assert len(set(keys)) == 5


def test_widgets_become_one_note_and_what_they_drew():
    figure = new_output("display_data", {"image/png": "AAAA"})
    widgets = {
        "box": {"state": {"children": ["IPY_MODEL_slider", "IPY_MODEL_area"]}},
        "slider": {"state": {"value": 4}},
        "area": {"state": {"outputs": [dict(figure)]}},
    }
    views = [new_output("display_data", {WIDGET_VIEW: {"model_id": name}}) for name in ("slider", "box")]
    text = new_output("stream", text="before\n")

    shown = build.page_outputs([text, *views], widgets)
    assert shown == [text, new_output("display_data", {"text/markdown": f"*{WIDGET_NOTE}*"}), figure]


def test_a_widget_that_brings_a_picture_of_its_own_for_pages_is_shown_by_that():
    both = new_output(
        "display_data",
        {WIDGET_VIEW: {"model_id": "painter"}, "text/html": "<div></div>", "text/plain": "Painter"},
    )
    (shown,) = build.page_outputs([both], {"painter": {"state": {}}})
    assert shown == new_output("display_data", {"text/html": "<div></div>", "text/plain": "Painter"})
