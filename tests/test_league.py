"""The league table has the numbers of rows, and one choice of one method reorders it without a kernel."""

import numpy as np
import pytest
from crossed_rows import IMAGES, accuracy, eighty, keys_of, planned

from qlib import headline
from qlib.headline import crossing, orders
from qlib.widgets import league

PAGE = """<!doctype html><html lang="en" data-content_root="./"><head><meta charset="utf-8"><title>A figure</title>
<meta name="viewport" content="width=device-width"></head><body style="margin: 8px">{html}</body></html>"""  # noqa: E501


@pytest.fixture
def rows(monkeypatch):
    """Made-up rows of all tables; networks differ a little, so that intervals have a width."""

    def answers(setting, table):
        found = planned(setting, table)
        return {key: right if key[0] == "base" else np.roll(right, 1) & right for key, right in found.items()}

    monkeypatch.setattr(crossing, "answers", answers)
    monkeypatch.setattr(orders, "answers", answers)
    monkeypatch.setattr(crossing, "_ended", lambda table: False)
    monkeypatch.setattr(league, "in_float", eighty)
    return answers


def test_points_lost_are_those_of_the_rows(rows):
    state = league.league_table().state
    assert [setting["name"] for setting in state["settings"]] == list(headline.plan()["settings"])
    titles = [setting["title"] for setting in state["settings"]]
    assert (
        len({*titles}) == len(titles) and [s["cards"] for s in state["settings"]] == [True] * 3 + [False] * 2
    )
    first = state["settings"][0]
    found = headline.crossed("W4A8", headline.methods_of("W4A8", "with nearest"))
    granularity = next(c for c in first["choices"] if c["name"] == "granularity")
    assert granularity["levels"] == ["per channel", "per tensor"]
    for level, lost in zip(granularity["levels"], granularity["lost"], strict=True):
        here = [level in cell for cell in found.cells]
        expected = 80 - found.values[:, :, here].mean(2).T
        assert np.allclose(lost, expected, atol=1e-3)
    assert np.allclose(first["own"]["AdaRound"], 80 - 100 * rows_of_card(rows), atol=1e-3)
    assert state["quantiles"] == pytest.approx({"3": 4.3027, "6": 2.5706}, abs=1e-4)


def rows_of_card(rows):
    held = rows("W4A8", "headline-cards")
    keys = [key for key in keys_of("W4A8", "headline-cards") if key[1] == "AdaRound"]
    return np.array([[held[key].mean() for key in keys]])


def test_without_rows_it_says_so(monkeypatch):
    monkeypatch.setattr(crossing, "answers", lambda *_: {})
    monkeypatch.setattr(crossing, "_ended", lambda table: False)
    figure = league.league_table()
    assert figure.state["settings"] == [] and "as they are recorded" in figure.fallback


def test_quick_methods_are_shown_until_the_slow_ones_are_there(rows, monkeypatch):
    quick = crossing.answers
    monkeypatch.setattr(crossing, "answers", lambda s, table: {} if "slow" in table else quick(s, table))
    first = league.league_table().state["settings"][0]
    assert [m["name"] for m in first["methods"]] == ["nearest", "bias correction", "equalized + bias", "GPTQ"]
    assert first["cells"] == 32


@pytest.mark.parametrize("width", [800, 375])
def test_one_choice_of_one_method_reorders_the_table(rows, browser, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_content(PAGE.format(html=league.league_table().to_html()))
    region = page.get_by_role("region", name="A league table of methods")
    region.locator("svg").first.wait_for()
    said = region.locator("p").first
    assert said.inner_text().startswith("by blocks (BRECQ) loses least")
    assert "stand elsewhere" not in said.inner_text()
    level = region.get_by_role("combobox", name="by blocks (BRECQ): level of the choice")
    level.select_option(label="per tensor")
    assert said.inner_text().startswith("AdaRound loses least")
    assert (
        "6 of 6 stand elsewhere than where all have per channel" in said.inner_text()
        and "over 6 networks" in said.inner_text()
    )
    region.get_by_role("button", name="All alike").click()
    assert said.inner_text().startswith("by blocks (BRECQ) loses least")
    region.get_by_role("button", name="As each paper ran it").click()
    assert "what a card leaves open" in said.inner_text() and level.is_disabled()
    assert "than by their means over all cells" in said.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= width and not errors
    page.close()


def test_made_up_rows_are_what_they_say():
    key, right = next(iter(planned("W4A8", "headline-w4a8").items()))
    assert right.sum() == round(IMAGES * accuracy(key[1], key[2]))
