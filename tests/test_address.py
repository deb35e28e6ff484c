"""The project's address stands in `_config.yml`; everything else that needs it derives from there."""

import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest

from qlib.book.address import SETUP_TAG, is_placeholder, repository, setup_cell, site

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
URL = "https://example.org/someone/lessons"


def tracked_files():
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git clone")
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def test_address_stands_in_one_place():
    address = repository().encode()
    derived = {ROOT / "_config.yml", *NOTEBOOKS}
    assert [path for path in tracked_files() if address in path.read_bytes() and path not in derived] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_setup_cell_derives_from_the_address(path):
    cells = nbformat.read(path, as_version=4).cells
    setup = next(cell for cell in cells if cell.cell_type == "code")
    assert {SETUP_TAG, "remove-cell"} <= set(setup.metadata.get("tags", [])), (
        "the first code cell is the set-up cell"
    )
    assert setup.source == setup_cell(repository()), "run `python -m qlib.book.address`"
    assert not any(repository() in cell.source for cell in cells if cell is not setup)


@pytest.mark.parametrize("in_colab", [True, False])
def test_setup_cell_acts_in_colab_only(in_colab, monkeypatch):
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    calls = []
    monkeypatch.setattr(shell, "system", lambda command: calls.append(command))
    monkeypatch.setattr(shell, "run_line_magic", lambda name, line, **_: calls.append(f"{name} {line}"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    if in_colab:
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    else:
        monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    shell.run_cell(setup_cell(URL)).raise_error()
    commands = [f"git clone -q --depth 1 {URL}", "pip install -q -e lessons anywidget"]
    assert calls == (commands if in_colab else [])
    assert ("/content/lessons" in sys.path) == in_colab


def test_placeholder():
    assert not is_placeholder(URL)
    assert is_placeholder(URL.replace("someone", "OWNER"))


def test_where_the_site_is_published():
    assert site("https://github.com/Ada/Tradeoffs/") == "https://ada.github.io/Tradeoffs/"
    assert site("https://github.com/Ada/ada.github.io") == "https://ada.github.io/"
    assert site(URL) == site("https://github.com/OWNER/tradeoffs") == site("https://github.com/ada") == ""
