"""A thing has one colour and one marker, in every figure that Python or the page draws."""

import json
import re

import matplotlib
import nbformat
import pytest

from qlib import plots, results
from qlib.book import ROOT
from qlib.comparison import VERDICTS
from qlib.looks import COLOURS, LOOKS, MARKERS, colours
from qlib.widgets.opening import opening_figure
from qlib.widgets.tradeoffs import tradeoff_explorer

matplotlib.use("Agg")
KIT = (ROOT / "qlib" / "widgets" / "kit.js").read_text("utf8")


def test_the_page_has_the_same_palette():
    (palette,) = re.findall(r"export const COLOURS = (\[.*?\]);", KIT)
    assert sorted(json.loads(palette)) == sorted(COLOURS.values())


def test_the_explorer_draws_every_thing_that_has_a_look_with_it():
    state = tradeoff_explorer().state
    assert state["looks"] == {n: [look.colour, MARKERS.index(look.marker)] for n, look in LOOKS.items()}
    values = {
        value
        for table in state["tables"]
        for bench in table["benches"].values()
        for line in bench["lines"]
        for value in line["fields"].values()
    }
    for name in ("everything quantized", "inputs only", "asymmetric", "symmetric, full", "each channel"):
        assert name in values & set(LOOKS), name


def test_a_thing_under_two_names_has_one_look():
    for name, other in (
        ("per channel", "each channel"),
        ("per tensor", "the whole tensor"),
        ("hard", "hard, by the float network"),
        ("any integer", "1, 2, 3, 4, 5, 6, 7, 8"),
    ):
        assert LOOKS[name] == LOOKS[other]
    assert all(series.colour == LOOKS[series.name].colour for series in plots.PLACEMENTS.values())
    assert set(VERDICTS) <= set(LOOKS)


def test_curves_take_a_things_marker_whatever_their_order():
    table = results.load_table(results.table_path("digits", "skip-residual"))
    table = table[table.activation_bits.notna()]
    pairs = zip(table.quantize_skip, table.quantize_residual, strict=True)
    table = table.assign(placement=[plots.PLACEMENTS[pair].name for pair in pairs])
    names = ["everything quantized", "inputs only"]
    summary = results.summary(table[table.placement.isin(names)], ["placement", "activation_bits"])
    ax = plots.accuracy_curves(summary, "activation_bits", "placement", colours(*names), "bits")
    shown = {
        text.get_text(): line for text, line in zip(ax.legend_.texts, ax.legend_.get_lines(), strict=True)
    }
    for name, line in shown.items():
        assert line.get_color() == LOOKS[name].colour
        assert line.get_marker() == LOOKS[name].marker
    plots.plt.close(ax.figure)


def test_the_front_page_has_the_colours_of_the_lessons():
    for choice in opening_figure().state["choices"]:
        for paper in choice["papers"]:
            assert paper["colour"] in COLOURS.values()
    placements = opening_figure().state["choices"][0]["papers"]
    assert [p["colour"] for p in placements] == [
        LOOKS[name].colour for name in ("inputs only", "everything quantized")
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_no_lesson_gives_a_thing_a_colour_of_its_own(path):
    """A name that has a look is never given a colour beside it."""
    source = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code")
    given = re.findall(r"\"([^\"]+)\": plots\.COLOURS\[\"(\w+)\"\]", source)
    assert [name for name, _ in given if name in LOOKS] == []
