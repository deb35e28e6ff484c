"""Rows of methods crossed with choices become one array of what all compared methods have, from which follows
what is said.
"""

import dataclasses

import numpy as np
import pytest
from crossed_rows import IMAGES, accuracy, keys_of, planned

from qlib import headline, tables
from qlib.comparison import UNDECIDED
from qlib.headline import crossing, orders, said
from qlib.laboratory import pack


@pytest.fixture
def rows(monkeypatch):
    """What tables hold: by setting and table, made-up rows, of which a test may take some away."""
    held = {}

    def answers(setting, table):
        return held.setdefault((setting, table), planned(setting, table))

    monkeypatch.setattr(crossing, "answers", answers)
    monkeypatch.setattr(orders, "answers", answers)
    monkeypatch.setattr(crossing, "_ended", lambda table: False)
    return answers


def test_all_methods_have_the_cells_of_the_slow_ones(rows):
    found = headline.crossed("W4A8", headline.methods_of("W4A8"))
    assert found.right.shape == (6, 5, 8, IMAGES) and not found.waiting and not found.refused
    quick = headline.crossed("W4A8", headline.methods_of("W4A8", "quick"))
    assert quick.methods == ("bias correction", "equalized + bias", "GPTQ") and len(quick.cells) == 32
    assert set(found.cells) < set(quick.cells)
    assert list(quick.levels) == ["clipping", "weight grid", "granularity", "ends", "images"]
    both = headline.crossed("W4A4", headline.methods_of("W4A4", "with nearest"))
    assert both.right.shape == (6, 6, 32, IMAGES) and list(both.levels) == list(headline.plan()["choices"])


def test_values_stand_where_their_method_and_cell_are(rows):
    found = headline.crossed("W3A8", headline.methods_of("W3A8"))
    for j, method in enumerate(found.methods):
        for k, cell in enumerate(found.cells):
            assert found.values[:, j, k] == pytest.approx(100 * accuracy(method, cell), abs=0.3)


def test_the_ratio_says_that_granularity_moves_more(rows):
    found = headline.crossed("W4A8", headline.methods_of("W4A8"))
    ratio = found.ratio()
    variance = {name: of.choices for name, of in found.shares().items()}
    assert all(abs(v - (20**2 + 5**2) / 4) < 3 for v in variance.values())
    assert ratio.verdict == "holds" and min(ratio.networks.values()) > 3
    as_method = found.ratio(as_method=("granularity", "weight grid"))
    assert as_method.verdict == "does not hold" and as_method.least == found.networks
    assert found.ratio("logit").verdict == found.ratio(less_luck=True).verdict == "holds"


def test_a_network_of_which_rows_are_still_to_come_waits(rows):
    del rows("W4A8", "headline-w4-slow")[next(keys_of("W4A8", "headline-w4-slow"))]
    found = headline.crossed("W4A8", headline.methods_of("W4A8"))
    assert found.waiting == ("base",) and len(found.networks) == 5 and len(found.cells) == 8
    assert not headline.crossed("W4A8", headline.methods_of("W4A8", "quick")).waiting


def test_a_refused_cell_is_left_out_for_all_and_listed(rows, monkeypatch):
    monkeypatch.setattr(crossing, "_ended", lambda table: True)
    gone = next(keys_of("W4A8", "headline-w4-slow"))
    del rows("W4A8", "headline-w4-slow")[gone]
    found = headline.crossed("W4A8", headline.methods_of("W4A8"))
    assert found.refused == (gone,) and not found.waiting and len(found.networks) == 6
    assert len(found.cells) == 7 and gone[2] not in found.cells


def test_where_every_cell_was_refused_no_network_is_compared(rows, monkeypatch):
    monkeypatch.setattr(crossing, "_ended", lambda table: True)
    monkeypatch.setattr(crossing, "answers", lambda *_: {})
    found = headline.crossed("W4A8", headline.methods_of("W4A8"))
    assert found.networks == found.cells == found.waiting == () and len(found.refused) == 6 * 5 * 8


def test_without_rows_all_networks_wait(rows, monkeypatch):
    monkeypatch.setattr(crossing, "answers", lambda *_: {})
    found = headline.crossed("W4A8", headline.methods_of("W4A8"))
    assert found.right.shape[0] == 0 and len(found.waiting) == 6
    with pytest.raises(ValueError, match="record rows first"):
        found.ratio()


def test_two_networks_decide_nothing(rows):
    for network, method, cell in list(keys_of("W4A8", "headline-w4-slow")):
        if network not in ("base", "better"):
            rows("W4A8", "headline-w4-slow").pop((network, method, cell))
    ratio = headline.crossed("W4A8", headline.methods_of("W4A8")).ratio()
    assert len(ratio.networks) == 2 and ratio.verdict == UNDECIDED


def test_names_that_are_not_in_the_plan_are_refused():
    with pytest.raises(ValueError, match="setting must be one of W4A8, W3A8, W4A4"):
        headline.crossed("W2A8", ["GPTQ"])
    with pytest.raises(ValueError, match="no method 'gptq'"):
        headline.crossed("W4A8", ["gptq"])
    with pytest.raises(ValueError, match="published, with nearest, quick"):
        headline.methods_of("W4A8", "slow")


def test_flips_of_a_table_without_interaction(rows):
    """Under common cells no order turns round; under cells drawn apart it does as often as cells say."""
    found = headline.crossed("W4A8", ("bias correction", "AdaRound"))
    (order,) = headline.flips(found)
    assert order.difference == pytest.approx(-3, abs=0.01) and order.together == 0
    better = found.values[0, 1][:, None] > found.values[0, 0][None]
    assert order.apart == pytest.approx(1 - better.mean()) and 0.2 < order.apart < 0.5


def test_other_draws_are_seen_where_they_were_planned(rows):
    (order,) = headline.flips(headline.crossed("W4A8", ("bias correction", "AdaRound")))
    assert order.drawn == 0
    for key in keys_of("W4A8", "headline-draws-slow"):
        rows("W4A8", "headline-draws-slow")[key] = np.zeros(IMAGES, bool)
    (order,) = headline.flips(headline.crossed("W4A8", ("bias correction", "AdaRound")))
    assert order.drawn == 0.5  # with AdaRound's other draw every time, with the other's never
    (order,) = headline.flips(headline.crossed("W4A4", ("bias correction", "AdaRound")))
    assert order.drawn is None
    rows("W4A8", "headline-draws-slow").clear()  # what quick methods have is said all the same
    pairs = (("bias correction", other) for other in ("GPTQ", "AdaRound"))
    quick, slow = (headline.flips(headline.crossed("W4A8", pair))[0] for pair in pairs)
    assert quick.drawn == 0 and slow.drawn is None
    text = said.flip_sentence(headline.crossed("W4A8", headline.methods_of("W4A8")))
    assert (
        "with another draw for one of the two in 0% (of 3 pairs, in the cells drawn anew; 0% without)" in text
    )


@pytest.mark.parametrize("setting", ["W4A8", "W3A8", "W4A4"])
def test_what_cards_leave_open_is_recorded_with_every_value(setting):
    """The grid of own cards holds exactly the cells that cards allow."""
    wanted = {
        (entry["name"], cell)
        for entry in headline.plan()["methods"]
        if "card" in entry
        for cell in headline.own_cells(setting, entry)
    }
    assert {key[1:] for key in keys_of(setting, headline.plan()["cards"])} == wanted
    assert len(wanted) == (16 if setting == "W4A4" else 4)


def test_own_cards_give_bounds(rows):
    found = headline.crossed("W4A8", headline.methods_of("W4A8"))
    for key in keys_of("W4A8", "headline-cards"):
        if key[1] == "GPTQ" and "1,024" in key[2]:
            rows("W4A8", "headline-cards")[key] = np.ones(IMAGES, bool)
    swapped = {one.method: one for one in headline.own_cards(found)}
    assert list(swapped) == ["GPTQ", "AdaRound", "by blocks (BRECQ)"]
    rows("W4A8", "headline-w4a8").update(
        {key: right for key, right in rows("W4A8", "headline-cards").items() if key[1] == "GPTQ"}
    )
    low, high = {one.method: one for one in headline.own_cards(found)}["GPTQ"].bounds
    assert (low, high) == (pytest.approx(72), 100)
    assert swapped["AdaRound"].bounds == pytest.approx((48, 48), abs=0.3)
    assert swapped["AdaRound"].common == pytest.approx(73 - 12.5, abs=0.3)
    assert swapped["GPTQ"].filled.shape == (2, 6)


def test_own_cards_wait_for_all_of_their_cells(rows):
    rows("W4A8", "headline-cards").clear()
    found = headline.own_cards(headline.crossed("W4A8", headline.methods_of("W4A8")))
    assert [one.method for one in found] == ["GPTQ"]  # whose cells are among those of the quick methods


def test_what_a_level_is_worth_under_each_method(rows):
    found = headline.section_5(headline.crossed("W4A8", headline.methods_of("W4A8")), "granularity")
    assert list(found) == list(headline.methods_of("W4A8"))
    for values in found.values():
        assert values == pytest.approx(20, abs=0.3) and values.shape == (6,)


def _forget():
    crossing.answers.cache_clear()
    headline.rows_of.cache_clear()


def test_rows_are_read_as_they_are_recorded(tmp_path, monkeypatch):
    path = tmp_path / "headline-w3-slow.csv"
    monkeypatch.setattr(crossing.results, "table_path", lambda bench, table: tmp_path / f"{table}.csv")
    run = headline.runs("headline-w3-slow")[3]
    right = np.arange(run.images) % 3 == 0
    row = {
        **dict.fromkeys(tables.COLUMNS), **tables.LATER, **run.config.to_dict(), "key": "x", "session": 0,
        "bench": "digits", "network": run.network, "method": run.method, "n": run.images,
        "weights_first": True, "correct": pack(right),
        "calibration_images": run.calibration_images, "calibration_seed": 0, "top1": 100 * right.mean(),
    }  # fmt: skip
    other = {**row, "key": "y", "calibration_seed": 1, "correct": pack(~right)}  # which is not asked for
    rows = [{name: tables.cell(value) for name, value in each.items()} for each in (row, other)]
    tables.write_rows(path, rows)
    _forget()
    ((key, found),) = crossing.answers("W3A8", "headline-w3-slow").items()
    assert key == list(keys_of("W3A8", "headline-w3-slow"))[3] and (found == right).all()
    assert crossing.answers("W4A8", "headline-w3-slow") == {}
    assert not crossing._ended("headline-w3-slow") and not crossing._ended("headline-w3a8")
    _forget()


def test_the_images_of_a_row_that_is_not_planned_are_refused():
    (run, *_) = headline.runs("headline-w3-slow")
    row = {**run.config.to_dict(), "calibration_images": 64}
    with pytest.raises(ValueError, match="a level of 'images' that is not in the plan"):
        headline.level_words(row)
    assert dataclasses.replace(run, calibration_images=64) not in headline.runs("headline-w3-slow")
