"""The paper's statements on cost, judged by recorded times, and what pages quote of them."""

import re

import pytest
from test_costs import row

from qlib.book import ROOT, choose, cost_statements
from qlib.kernels.grid import NAMED, PAIRS, Cell, cells
from qlib.widgets.costs import TRADED

ASYMMETRIC = NAMED["zero-points of weights"]


def test_a_statement_holds_where_the_interval_lies_above_one():
    rows = [row(name, {}, 0.3, 0.3, 0.3) for name in "abc"]
    slower, same, unsure = (0.6, 0.61, 0.62), (0.3, 0.301, 0.299), (0.2, 0.4, 0.6)
    rows += [
        row(name, ASYMMETRIC, *ratios) for name, ratios in zip("abc", (slower, same, unsure), strict=True)
    ]
    first, *others = cost_statements.judged(rows)
    assert first[0] == "zero-points of weights cost time" and first[1] == "2.1"
    assert first[2] == "1.00 (b) to 2.03 (a)" and first[3] == "holds in 1 of 3, within a tenth in 1"
    untimed = others[: len(cost_statements.STATEMENTS) - 1]
    assert all(each[2:] == ("not timed yet", "not timed yet") for each in untimed)
    busy = [row("a", {}, 0.3, 0.3, 0.3, busy=True), row("a", ASYMMETRIC, 0.6, 0.6, 0.6)]
    assert cost_statements.judged(busy)[0][3] == "holds in 1 of 1 (busy machine)"


def test_every_statement_and_every_drawn_choice_is_among_what_is_timed():
    timed = [cell.choices for cell in cells()]
    for statement in cost_statements.STATEMENTS:
        assert statement.choices in timed and statement.than in timed, statement.says
    assert all(choices in timed for choices in cost_statements.TIMED.values())
    assert all(traded.choices in timed for traded in TRADED)


def test_pairs_stand_beside_the_product_of_what_each_costs():
    a, b = PAIRS[0]
    rows = [row("n", {}, 0.2, 0.2), row("n", NAMED[a], 0.4, 0.4), row("n", NAMED[b], 0.6, 0.6)]
    assert cost_statements.pairs(rows) == []
    ((name, product, both),) = cost_statements.pairs([*rows, row("n", {**NAMED[a], **NAMED[b]}, 0.7, 0.7)])
    assert name == f"{a} and {b}" and product == pytest.approx(6) and both.value == pytest.approx(3.5)


def test_a_table_has_a_line_for_every_choice_and_a_gap_where_nothing_was_timed():
    rows = [row("a", {}, 0.3) | {"ratio": 0.3}, row("b", ASYMMETRIC, 0.7) | {"ratio": 0.7}]
    heads, lines = cost_statements.times(rows)
    found = {line[0]: line[1:] for line in lines}
    assert heads[1:] == ["a", "b"] and found["the base"] == ["0.30", ""]
    assert found["zero-points of weights"] == ["", "0.70"] and list(found) == list(cost_statements.TIMED)


def test_rows_that_repeat_within_a_tenth_are_counted():
    rows = [row("a", {}, 0.3, 0.3, 0.32), row("b", {}, 0.3, 0.3, 0.34)]
    assert cost_statements.alike(rows, 1) == "1 of 2 rows" and cost_statements.alike(rows, 2) == "0 of 0 rows"


def test_what_takes_longer_is_named_with_its_interval():
    rows = [row("a", {}, 0.3, 0.3, 0.3), row("a", ASYMMETRIC, 0.6, 0.6, 0.6)]
    rows.append(row("a", NAMED["one range a weight tensor"], 0.3, 0.3, 0.3))
    said = cost_statements.dear(rows, NAMED, "a")
    assert said == ["zero-points of weights 2.00 (2.00 to 2.00) times as long"]
    assert cost_statements.dear(rows, NAMED, "b") == []


def test_memory_of_both_ends_is_that_of_the_papers_network():
    # 25,502,912 weights, of which 9,408 in the first layer and 2,048,000 in the last
    assert cost_statements.memory_of_ends() == pytest.approx(5 * 2_057_408 / (3 * 25_502_912))
    (said,) = [each for each in cost_statements.judged([]) if "memory" in each[0]]
    assert said[2:] == ("13.4 % more", "holds")


def test_bytes_moved_are_those_of_activations():
    def moving(choices, count):
        return row("a", choices, 0.3) | {"work": {"Conv": {"activation_bytes": count, "constant_bytes": 9}}}

    rows = [moving({}, 100), moving(cost_statements.INPUTS_ONLY, 250)]
    assert cost_statements.bytes_moved(rows, cost_statements.INPUTS_ONLY) == "2.5 times the bytes"
    assert cost_statements.bytes_moved(rows[:1], cost_statements.INPUTS_ONLY) == "not timed yet"


def test_refused_ranges_of_channels_are_counted():
    refused = {Cell("a", cost_statements.PER_CHANNEL).key: "cannot be written"}
    assert cost_statements.refusals(refused) == ['`activation_granularity="per_channel"` (1 networks)']
    assert "1 of 2 networks" in cost_statements.ranges_of_channels(refused, ["a", "b"])


def test_pages_quote_times_or_say_that_there_is_none(monkeypatch):
    mark = "<!-- time: zero-points of weights -->"
    rows = [row("a", {}, 0.3, 0.3, 0.3), row("a", ASYMMETRIC, 0.6, 0.6, 0.6)]
    monkeypatch.setattr(choose, "tables", lambda: rows)
    where = "(ONNX Runtime, one thread of an x86 processor, one image)"
    assert choose.fill(mark) == f"**2.00 (2.00 to 2.00), a** times as long as all in codes {where}"
    monkeypatch.setattr(choose, "tables", lambda: [*rows[:1], rows[1] | {"busy": True}])
    assert choose.fill(mark).endswith(f"all in codes {where} (timed while other programs ran)")
    monkeypatch.setattr(choose, "tables", list)
    assert choose.fill(mark) == "a time that is not recorded yet"
    text = (ROOT / "book" / "choose.md").read_text("utf8")
    names = re.findall(r"<!-- time: (.+?) -->", text)
    assert len(names) >= 3 and set(names) <= set(NAMED)
