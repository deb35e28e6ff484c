"""What choices were worth travels with the package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import qlib
from qlib.book import worths as made
from qlib.cards import worth

PACKAGE = Path(qlib.__file__).parent
SHIPPED = json.loads(made.PATH.read_text("utf8"))
RECORDS = list(made.records())
STALE = "the tables say something else than qlib/cards/worths.json: run python -m qlib.book.worths"


def numbers(record):
    return [record["value"], *record["interval"], *record["seeds"]]


def test_the_shipped_file_says_what_the_tables_say():
    def about(record):
        return {name: part for name, part in record.items() if name not in ("value", "interval", "seeds")}

    assert list(map(about, SHIPPED)) == list(map(about, RECORDS)), STALE
    for shipped, record in zip(SHIPPED, RECORDS, strict=True):
        assert numbers(shipped) == pytest.approx(numbers(record)), STALE


def test_turned_round_a_worth_is_that_of_the_rows_turned_round():
    for record in SHIPPED[::7]:
        (entry,) = [
            e for e in worth.entries() if (e["field"], e["table"]) == (record["field"], record["table"])
        ]
        back = made.measured(entry, record["b"], record["a"], record["bench"], record["bits"])
        values = [entry["values"][record[place]][0] for place in "ba"]
        values = [{"better": 77, "worse": 70}.get(v, v) if isinstance(v, str) else v for v in values]
        sides = {entry["side"]: [record["bits"]]}
        (found,) = [
            w
            for w in worth.worth(record["field"], *values, sides)
            if (w.bench, w.table) == (record["bench"], record["table"])
        ]
        assert found.condition == back["condition"]
        points = {"value": found.points.value, "interval": found.points.interval, "seeds": found.points.seeds}
        assert numbers(points) == pytest.approx(numbers(back), abs=1e-9)


def test_the_package_alone_answers_as_the_clone_does(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(PACKAGE, tmp_path / "alone" / "qlib", ignore=shutil.ignore_patterns("__pycache__"))

    def diff(folder):
        code = "import qlib, sys; print(qlib.__file__); from qlib.cli import main; main(sys.argv[1:])"
        command = [sys.executable, "-c", code, "card", "diff", "brecq", "adaround", "--json"]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=elsewhere)
        where, said = done.stdout.splitlines()
        assert Path(where).parent == folder / "qlib", done.stderr
        return json.loads(said)

    alone = diff(tmp_path / "alone")
    assert alone == diff(PACKAGE.parent)
    assert len([choice for choice in alone if choice["worth"]]) >= 2


def test_it_is_among_the_files_that_are_packed():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf8"))
    packed = settings["tool"]["setuptools"]["package-data"]["qlib.cards"]
    folder = PACKAGE / "cards"
    found = {path for pattern in packed for path in folder.glob(pattern)}
    assert made.PATH in found
    assert {path for path in folder.rglob("*.*") if path.suffix in (".json", ".yaml")} == found
