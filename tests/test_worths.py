"""What choices were worth travels with the package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import qlib
from qlib.book import cards as pages
from qlib.book import worths as made
from qlib.cards import catalogue, compare, methods, worth

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


METHODS_STALE = "the tables say something else than qlib/cards/methods.json: run python -m qlib.book.worths"


def test_what_methods_were_worth_is_what_tables_say():
    assert made.methods_as_json() == made.METHODS.read_text("utf8"), METHODS_STALE


def test_a_comparison_of_cards_says_what_their_methods_were_worth(monkeypatch):
    record = {
        **{"a": "GPTQ", "b": "AdaRound", "bench": "digits", "setting": "W4A8", "points": -1.5},
        **{"interval": [-2.0, -1.0], "networks": 6, "cells": 8},
    }
    monkeypatch.setattr(methods, "recorded", lambda: [record])
    cards = catalogue()
    text = compare.report(cards["adaround"], cards["gptq"], [])
    assert "AdaRound over GPTQ, W4A8 on digits, all else alike: +1.50 points" in text
    assert "(95 % interval +1.00 to +2.00, 6 networks, 8 combinations of choices)" in text
    assert "Their methods alone" not in compare.report(cards["brecq"], cards["gptq"], [])
    assert methods.method_worth("GPTQ", "GPTQ") == []


def test_a_card_in_the_catalogue_leads_to_our_rows_of_its_method():
    folded = pages.catalogue_cards().split("<details>")[1:]
    with_link = [part.split(",")[0] for part in folded if 'href="headline.html"' in part]
    assert [part.removeprefix("<summary>") for part in with_link] == ["AdaRound", "BRECQ", "GPTQ"]
