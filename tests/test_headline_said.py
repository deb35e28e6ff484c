"""What the lesson and the page say of methods crossed with choices follows from rows, whatever there is of
them.
"""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from crossed_rows import IMAGES, eighty, keys_of, planned

from qlib import headline, results
from qlib.book.headline_page import results_as_markdown
from qlib.comparison import UNDECIDED
from qlib.headline import crossing, orders, pictures, said


@pytest.fixture
def rows(monkeypatch):
    """Made-up rows in which granularity moves most, and networks differ by an image."""
    held = {}

    def answers(setting, table):
        if (setting, table) not in held:
            found = planned(setting, table)
            shifts = {name: i for i, name in enumerate(headline.grid(table).networks)}
            held[setting, table] = {k: v | (np.arange(IMAGES) < shifts[k[0]]) for k, v in found.items()}
        return held[setting, table]

    for module in (crossing, orders):
        monkeypatch.setattr(module, "answers", answers)
    monkeypatch.setattr(crossing, "_ended", lambda table: False)
    monkeypatch.setattr(pictures, "in_float", eighty)
    yield answers
    plt.close("all")


@pytest.fixture
def none(monkeypatch):
    for module in (crossing, orders):
        monkeypatch.setattr(module, "answers", lambda *_: {})
    monkeypatch.setattr(crossing, "_ended", lambda table: False)


def test_the_outcome_is_that_of_the_rule(rows):
    text = said.outcome()
    assert (
        text.count("**holds**") == 4
        and "6 networks" in text
        and "1 network, which decides nothing" in text
        and "Still to come" not in text
    )
    assert [row[0] for row in said.decision_rows()] == [*headline.plan()["settings"]]
    assert [row[3] for row in said.decision_rows()] == ["**holds**"] * 4 + [f"**{UNDECIDED}**"]
    of_weights = [row[2] for row in said.beside_rows("W4A4") if said.OF_WEIGHTS in row[1]]
    assert text.count(said.OF_WEIGHTS) == 1 and f"{said.OF_WEIGHTS} {of_weights[0]};" in text
    assert said.decision_rows()[0][1] == "5 methods, 8 cells"
    methods, choices = map(float, said.decision_rows()[0][4].split(" and "))
    assert 0 < methods < choices


def test_what_stands_beside_it(rows):
    found = {row[1].split(":")[0]: row for row in said.beside_rows("W4A8")}
    assert list(found) == [
        "with nearest",
        "quick methods",
        "quick methods on the cells of all",
        "learned rounding alone",
        "clipping is part of the method",
        "other images too",
        "logits",
        "less the luck of draws",
        "without granularity (moves most)",
    ]
    assert "6 methods, 8 cells" in found["with nearest"][1]
    assert "3 methods, 32 cells" in found["quick methods"][1]
    assert "3 methods, 8 cells" in found["quick methods on the cells of all"][1]
    few = headline.crossed("W4A8", headline.methods_of("W4A8")).only(["GPTQ", "bias correction"])
    same = headline.crossed("W4A8", ["GPTQ", "bias correction"]).values[:, :, :1]
    assert few.methods == ("GPTQ", "bias correction") and (few.values[:, :, :1] == same).all()
    primary = said.decisions()["W4A8"][1].value
    smaller = said._without(headline.crossed("W4A8", headline.methods_of("W4A8")), "granularity").value
    assert primary - smaller == pytest.approx(np.log((20**2 + 5**2) / 5**2), abs=0.2)


def test_each_way_to_look_at_a_setting_is_named_with_its_verdict(rows):
    text = said.beside_sentence("W4A8")
    for _, compared, _, verdict in said.beside_rows("W4A8"):
        (part,) = [part for part in text.split("; ") if f"*{verdict}*: " in part]
        assert compared.split(":")[0] in part


@pytest.mark.parametrize(
    ("times", "shown"), [(96.8, "97"), (0.918, "0.92"), (1.03, "1.03"), (0.998, "1.00"), (1.29, "1.3")]
)
def test_ratios_next_to_1_have_a_digit_more(times, shown):
    assert said._number(times) == shown


def test_choices_that_move_activations_too_are_not_among_those_of_weights_alone(rows):
    """With 4-bit activations, end layers and images move activations too."""
    for table in headline.plan()["settings"]["W4A4"]["tables"]:
        for (_, method, cell), right in rows("W4A4", table).items():
            worth = 0.2 * ("8 bits" in cell) + 0.02 * (method == "AdaRound") + 0.05 * ("per channel" in cell)
            right[:] = np.arange(IMAGES) < round(IMAGES * (0.5 + worth))
    found = headline.crossed("W4A4", headline.methods_of("W4A4"))
    assert said._acting_on("weight", found) == ["clipping", "weight grid", "granularity"]
    assert said._acting_on("activation", found) == ["placement", "activation grid", "activation clipping"]
    beside = {name: ratio for name, _, ratio in said._beside("W4A4")}
    method = 2**2 * 4 / 25  # one of five methods is two points better
    alone = np.exp(beside["choices that act on weights alone"].value)
    both = np.exp(beside["choices that act on weights or on both sides"].value)
    assert alone == pytest.approx(2.5**2 / method, rel=0.05)
    assert both == pytest.approx((2.5**2 + 10**2) / method, rel=0.05)


def test_without_rows_it_says_that_nothing_is_judged(none):
    assert said.outcome().startswith("The sentence is not judged yet")
    assert {row[3] for row in said.decision_rows()} == {said.NOTHING}
    assert said.beside_rows("W4A8") == [] and said.shown() == {}
    assert said.NOTHING in results_as_markdown()


def test_two_networks_are_named_as_too_few(rows):
    for table in ("headline-w4a8", "headline-w4-slow"):
        for key in [k for k in rows("W4A8", table) if k[0] not in ("base", "better")]:
            del rows("W4A8", table)[key]
    assert "2 networks, which decide nothing" in said.outcome() and UNDECIDED in said.outcome()
    assert said.decision_rows()[0][3] == f"**{UNDECIDED}** so far"
    two = headline.crossed("W4A8", headline.methods_of("W4A8"))
    assert "no order is certain yet" in said.flip_sentence(two)
    for choice in ("granularity", "weight grid"):
        for row in said.worth_rows(said.shown()["W4A8"], choice):
            assert all("2 of 3 networks that an interval needs" in cell for cell in row[1:])
    assert "nan" not in results_as_markdown()


def test_the_page_has_every_setting(rows):
    text = results_as_markdown()
    for setting in headline.plan()["settings"]:
        assert f"### {setting}: orders" in text and f"### {setting}: granularity under each method" in text


def test_flips_are_said_of_pairs_whose_order_is_certain(rows):
    found = headline.crossed("W4A8", headline.methods_of("W4A8"))
    rates = said.flip_rates(headline.flips(found))
    assert rates["together"] == rates["drawn"] == 0 and 0.3 < rates["apart"] < 0.5
    text = said.flip_sentence(found)
    assert "Of 10 pairs, 10 have an order that is certain over 6 networks" in text
    assert f"**{rates['apart']:.0%}**" in text and "another draw for one of the two in 0%" in text
    assert rates["sure_together"] == 0 < rates["sure_apart"] < rates["apart"]
    assert text.endswith(f"chance it does so in {rates['sure_apart']:.0%} and 0%.")


def test_cards_turn_an_order_round_or_leave_it_open(rows):
    found = headline.crossed("W4A8", headline.methods_of("W4A8"))
    swaps = {row[0]: row for row in said.swap_rows(found)}
    # alike AdaRound is a point above GPTQ; by its card it has one range a tensor and a restricted grid
    assert swaps["GPTQ minus AdaRound"][1].startswith("-1.0")
    assert swaps["GPTQ minus AdaRound"][2:] == ["+24.0", "turned round"]
    assert swaps["GPTQ minus by blocks (BRECQ)"][3] == "as alike"
    for key in keys_of("W4A8", "headline-cards"):
        if key[1] == "GPTQ" and "1,024" in key[2]:
            rows("W4A8", "headline-w4a8")[key] = rows("W4A8", "headline-cards")[key] = np.arange(IMAGES) < 90
    open_ = {row[0]: row for row in said.swap_rows(found)}["GPTQ minus AdaRound"]
    assert open_[3] == "left open" and " to " in open_[2]
    gptq, adaround = (found.methods.index(name) for name in ("GPTQ", "AdaRound"))
    found.right[:, gptq] = found.right[:, adaround]  # and alike nothing is certain
    uncertain = {row[0]: row for row in said.swap_rows(found)}["GPTQ minus AdaRound"]
    assert uncertain[3] == "not certain when all are alike"


def test_what_a_level_is_worth_under_a_method_and_more_than_under_nearest(rows):
    found = headline.crossed("W4A8", headline.methods_of("W4A8", "with nearest"))
    lines = said.worth_rows(found, "granularity")
    assert [line[0] for line in lines] == list(headline.methods_of("W4A8"))
    for _, worth, more in lines:
        assert worth.startswith("+20.00") and more.startswith("+0.00")


def test_strips_have_a_dot_a_cell(rows):
    found = headline.crossed("W4A8", headline.methods_of("W4A8"))
    ax = pictures.strips(found, "granularity")
    dots = sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() != "None")
    assert dots == 5 * 8 and [t.get_text() for t in ax.get_yticklabels()] == list(found.methods)


def test_bars_of_shares_are_the_whole(rows):
    found = {"W4A8": headline.crossed("W4A8", headline.methods_of("W4A8"))}
    bars = pictures.shares_by_setting(found).patches
    (label,) = [text.get_text() for text in pictures.shares_by_setting(found).get_yticklabels()]
    assert label == "W4A8\n5 methods, 6 networks"
    assert len(bars) == 3 and sum(bar.get_width() for bar in bars) == pytest.approx(100, abs=0.5)
    parts = said.shares_of(found["W4A8"])
    assert bars[1].get_width() == pytest.approx(100 * parts["choices"].mean())
    assert len(pictures.one_by_one(found["W4A8"]).patches) == 1 + 5


def test_ratios_flips_and_lines_are_drawn_from_their_numbers(rows):
    found = headline.crossed("W4A8", headline.methods_of("W4A8", "with nearest"))
    ratio = found.ratio()
    ax = pictures.ratios({"W4A8": ratio})
    assert max(ax.lines[0].get_xdata()) == pytest.approx(np.exp(max(ratio.networks.values())))
    published = headline.crossed("W4A8", headline.methods_of("W4A8"))
    shown = [text.get_text() for text in pictures.flip_map(published).texts]
    assert shown == [f"{100 * order.apart:.0f}" for order in headline.flips(published)]
    axes = pictures.interaction_lines(found, ["granularity", "weight grid"])
    low, high = axes[0].lines[0].get_ydata()
    assert high - low == pytest.approx(20, abs=0.3) and len(axes[0].lines) == 6


def test_methods_of_one_kind_are_compared_by_themselves(rows):
    """Methods that learn differ by a point here, the others by four, and choices move all alike."""
    kinds = said._kinds(headline.crossed("W4A8", headline.methods_of("W4A8")))
    assert [kind.methods for kind in kinds] == [
        ("bias correction", "equalized + bias", "GPTQ"),
        ("AdaRound", "by blocks (BRECQ)"),
    ]
    setting, *cells = next(row for row in said.kind_rows() if row[0] == "W4A8")
    ratios = (*kinds, said.decisions()["W4A8"][0])
    assert cells == [f"{n} methods: {said.said(r.ratio())}" for n, r in zip((3, 2, 5), ratios, strict=True)]
    lite0 = next(row for row in said.kind_rows() if row[0] == "Lite0 W4A8")
    assert lite0[1] == lite0[3] and lite0[2] == ""  # none of its methods learns


def test_what_the_readme_says_is_what_came_out():
    """From the recorded rows: where one of these verdicts changes, so must its words."""
    found = {setting: pair[1] and pair[1].verdict for setting, pair in said.decisions().items()}
    assert (found["W4A4"], found["W4A8"], found["W3A8"]) == ("holds", "undecided here", "does not hold")
    readme = " ".join((results.clone() / "README.md").read_text("utf8").split())
    assert "with 4-bit activations choices do, by far; with 4-bit weights alone it is undecided, " in readme
    assert "and with 3-bit ones methods do" in readme
