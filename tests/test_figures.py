"""The figures that need no kernel, in a browser that reaches no other host: qlib's numbers, keys, touch,
themes, links.
"""

import dataclasses
import json
import math
import re
from functools import cache
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import torch

import qlib
from qlib import results
from qlib.book import evidence_page
from qlib.cards import catalogue, hardware
from qlib.cards.methods import method_worth
from qlib.experiments import Run
from qlib.looks import LOOKS
from qlib.metrics import PERPLEXITY, Measurement
from qlib.quantizer import Quantizer
from qlib.widgets import (
    checkpoint,
    comparison,
    costs,
    learning,
    measuring,
    opening,
    painter,
    perplexities,
    quantizer,
    rounding,
    tokens,
    tradeoffs,
)
from qlib.widgets.figure import Figure, module

PAGE = """<!doctype html><html lang="en" data-content_root="./"><head><meta charset="utf-8"><title>A figure</title>
<meta name="viewport" content="width=device-width"></head><body style="margin: 8px">{html}</body></html>"""  # noqa: E501
LAYERS = ("features.init_block.conv.conv", "features.stage2.unit2.body.conv2.conv")
OWN_CHARACTERS = 110_000  # of a figure's code, before compression: what a page may bear


@cache
def tensors():
    bench = qlib.load_bench("digits")
    return quantizer.tensors_of(bench.models["base"], bench.calibration(16), LAYERS)


@cache
def example():
    bench = qlib.load_bench("digits")
    return bench.models["base"], bench.validation(1)[0][0]


def uniform(bits):
    return qlib.QuantConfig(weight_bits=bits, activation_bits=bits, first_last_bits=None)


@cache
def learned():
    bench = qlib.load_bench("digits")
    config = qlib.QuantConfig(first_last_bits=None)
    few = {"steps": 30, "learning_rate": 0.1, "allow_infeasible": True}
    return qlib.learn_bitwidths(bench.models["base"], config, bench.training(64), 6, progress=False, **few)


@cache
def figure(name):
    if name == "quantizer":
        return quantizer.quantizer_explorer(tensors())
    if name == "painter":
        return painter.bits_painter(*example(), {"four": (uniform(4), "recorded"), "two": (uniform(2), "")})
    if name == "learning":
        return learning.learning_steps(learned(), 6)
    if name == "comparison":
        return comparison.card_comparison(
            {card.name: card for card in catalogue().values()}, "BRECQ", "QDrop"
        )
    if name == "forest":
        return evidence_page.picture()
    if name == "measuring":
        return measuring.measuring_panel()
    if name == "checkpoint":
        return checkpoint.checkpoint_reader()
    if name == "costs":
        return costs.tradeoff_costs(TIMES)
    if name == "rounding":
        return rounding.rounding_ways(WEIGHTS, LEVELS, WAYS)
    if name == "tokens":
        return tokens.token_ranges(
            {"a layer": (["a", "few", "words"], LOUD), "other": (["x", "y"], LOUD[:2])}
        )
    if name == "perplexities":
        return perplexities.perplexity_bits(POINTS, MEASURED)
    return {"opening": opening.opening_figure, "tradeoffs": tradeoffs.tradeoff_explorer}[name]()


WEIGHTS, LEVELS = [0.2, -0.6, 0.9], [-1, 0, 1]
WAYS = {
    "nearest": rounding.Way([WEIGHTS, [0, -1, 1]], [0, 2.0]),
    "other": rounding.Way([WEIGHTS, [0, -0.7, 0.8], [0, 0, 0.8], [0, 0, 1]], [0, 0.25, 0.5, 1.0], "column"),
}
TIME = {"hardware": "a chip", "runtime": "a runtime, 1 thread", "threads": 1, "busy": False}
TIMES = [
    TIME | {"network": network, "choices": choices, "batch": 1, "ratio": r, "low": r - 0.1, "high": r + 0.1}
    for network, choices, r in (
        ("small", {}, 0.3),
        ("small", {"weight_symmetric": False}, 0.7),
        ("large", {}, 0.4),
        ("large", {"quantize_residual": False}, 0.9),
        ("large", {"weight_symmetric": False}, 15.0),
    )
]
LOUD = np.random.default_rng(0).normal(size=(3, 16)).round(4)
LOUD[:, 5] += 40
MEASURED = Measurement(PERPLEXITY, 30.0, 30 + np.array([-2.0, 0, 2]))
POINTS = [
    perplexities.Point(Run("language", "base", config, 1, 0, 16, method=method), bits, found)
    for config, method, bits, found in (
        (
            qlib.QuantConfig(weight_bits=3),
            "nearest",
            (3.0, 4.1, 4.2),
            Measurement(PERPLEXITY, 5000.0, np.arange(4000.0, 6001)),
        ),
        (
            qlib.QuantConfig(weight_bits=3, weight_granularity="per_group"),
            "nearest",
            (3.0, 4.1, 4.6),
            MEASURED,
        ),
        (qlib.QuantConfig(weight_bits=4), "gptq", (4.0, 4.9, 5.0), None),
    )
]
WITHOUT_PICTURE = ("comparison", "checkpoint", "measuring")
NAMES = (
    "quantizer",
    "tradeoffs",
    "opening",
    "painter",
    "learning",
    "forest",
    "rounding",
    "costs",
    "tokens",
    "perplexities",
    *WITHOUT_PICTURE,
)


@pytest.fixture
def show(browser, tmp_path):
    """Opens a figure on a page of its own; the page may ask for nothing, and must not complain."""
    contexts = []
    complaints = []

    def opened(name, query="", **options):
        path = tmp_path / f"{name}.html"
        path.write_text(PAGE.format(html=figure(name).to_html()), "utf8")
        context = browser.new_context(**{"viewport": {"width": 900, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                complaints.append(request.url) if request.url[:4] not in ("file", "data") else None
            ),
        )
        page.goto(path.as_uri() + query)
        page.locator(".qlib-figure section").wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def shown(page):
    """The numbers in a figure's table, by name."""
    cells = page.locator("td[data-name]").all()
    return {cell.get_attribute("data-name"): json.loads(cell.get_attribute("data-value")) for cell in cells}


def agree(found, expected):
    for name, value in expected.items():
        pairs = zip(found[name], value, strict=True) if isinstance(value, list) else [(found[name], value)]
        for a, b in pairs:
            assert (a is None and not math.isfinite(b)) or a == pytest.approx(b, rel=5e-7, abs=1e-12), (
                name,
                found[name],
                value,
            )


SETTINGS = [
    {},
    {"bits": 1},
    {"bits": 8, "percentile": 99.5},
    {"bits": 3, "percentile": 97.31, "granularity": "per_channel"},
    {"bits": 2, "symmetric": True},
    {"bits": 5, "symmetric": True, "grid": "restricted", "percentile": 99.99},
    {"bits": 4, "symmetric": True, "grid": "authors", "percentile": 98},
    {"bits": 6, "symmetric": True, "grid": "authors", "granularity": "per_channel"},
    {"bits": 3, "channel": 2},
    {"bits": 4, "channel": 5, "granularity": "per_channel", "percentile": 95.5, "symmetric": True},
]


@pytest.mark.parametrize("which", range(4))
def test_the_quantizer_explorer_shows_the_numbers_of_qlib(show, which):
    name, rows = list(tensors().items())[which]
    page = show("quantizer")
    address = page.url
    for setting in SETTINGS:
        query = "&".join(
            f"quantizer.{key}={json.dumps(value).strip(chr(34))}" for key, value in setting.items()
        )
        page.goto(f"{address}?quantizer.tensor={which}&{query}")
        page.locator(".qlib-figure section").wait_for()
        expected = quantizer.measure(rows, **{"bits": 4, **setting})
        agree(shown(page), expected)
        text = page.locator("td[data-name=error]").inner_text()
        assert float(text) == pytest.approx(expected["error"], rel=5e-6)  # six digits stand on the page


def test_rounding_is_half_to_even_and_a_tensor_of_zeros_has_no_error(show, monkeypatch):
    halves = torch.tensor([[0.0, 0.5, 1.5, 2.5, 3.5, 15.0], [0.0] * 6])
    explorer = quantizer.quantizer_explorer({"halves": halves}, granularity="per_channel")
    monkeypatch.setitem(globals(), "figure", lambda name: explorer)
    page = show("quantizer")
    agree(shown(page), quantizer.measure(halves, 4, granularity="per_channel"))
    assert shown(page)["error"] == pytest.approx(4 * 0.25 / 12)


def test_keys_move_the_explorer_and_the_address_keeps_the_setting(show):
    page = show("quantizer")
    bits = page.get_by_role("slider", name="Bits")
    bits.focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    page.get_by_label("Symmetric", exact=True).press(" ")
    page.get_by_role("combobox", name="A range for").select_option("per_channel")
    before = shown(page)
    agree(
        before,
        quantizer.measure(next(iter(tensors().values())), 2, symmetric=True, granularity="per_channel"),
    )
    page.get_by_role("link", name="Link to this setting").click()
    page.reload()
    page.locator("svg").first.wait_for()
    assert shown(page) == before
    assert page.get_by_role("slider", name="Bits").get_attribute("aria-valuetext") == "2"
    page.get_by_role("slider", name="Bits").press("ArrowLeft")
    assert shown(page)["levels"] == before["levels"]  # a symmetric grid has no fewer than two bits


NONSENSE = (
    "?quantizer.tensor=99&quantizer.channel=77&quantizer.bits=x",
    "?quantizer.bits=-3&quantizer.grid=%3Cb%3E",
    "?tradeoffs.table=none&tradeoffs.bench=%3Cimg%20src=x%20onerror=alert(1)%3E",
    "?tradeoffs.bench=toString",
    "?opening.choice=9&opening.bits=1e9",
    "?painter.weights=zz&painter.side=toString",
    "?learning.step=later",
    "?measuring.weight_bits=many",
    "?perplexities.count=9",
)


@pytest.mark.parametrize("query", NONSENSE)
def test_an_address_that_makes_no_sense_gives_what_is_usual(show, query):
    # Or, of bits, the nearest that there are
    name = query[1:].split(".")[0]
    page = show(name, query)
    usual = show(name)
    assert page.locator("img").count() == 0
    said, usually = (each.locator("section").inner_text() for each in (page, usual))
    asked = unquote(query[1:].split("&")[0]).replace("=", " = ", 1)
    assert (
        name == "opening" or f"The link that led here asks for {asked}" in said and "led here" not in usually
    )
    if ".bits=1e9" not in query and ".bits=-3" not in query:
        assert said.split("The link")[0].strip() == usually.split("Link")[0].strip()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_figure_fits_a_phone_and_both_themes(show, name, theme):
    page = show(name, viewport={"width": 375, "height": 800}, has_touch=True, is_mobile=True)
    colours = {"light": ["#111", "#fff"], "dark": ["#eee", "#111"]}[theme]
    page.evaluate(
        "([ink, paper]) => Object.assign(document.body.style, { color: ink, background: paper })", colours
    )
    page.wait_for_function(
        "dark => document.querySelector('.qlib-figure > div').shadowRoot.querySelector('section')"
        ".classList.contains('dark') === dark",
        arg=theme == "dark",
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    inks = page.locator("svg text").evaluate_all("every => every.map(e => getComputedStyle(e).fill)")
    assert set(inks) <= {page.evaluate("getComputedStyle(document.body).color")} and (
        inks or name in WITHOUT_PICTURE
    )


def test_touch_and_mouse_move_sliders_and_bars(show):
    page = show("painter", viewport={"width": 375, "height": 800}, has_touch=True)
    box = page.locator("svg").bounding_box()
    before = shown(page)
    page.touchscreen.tap(box["x"] + 40, box["y"] + 60)
    assert shown(page)["weight_bytes"] > before["weight_bytes"]
    quantizer_page = show("quantizer", has_touch=True)
    slider = quantizer_page.get_by_role("slider", name="Bits")
    at = slider.bounding_box()
    quantizer_page.touchscreen.tap(at["x"] + at["width"] - 3, at["y"] + at["height"] / 2)
    assert slider.input_value() == "8"


def test_the_painter_shows_the_sizes_of_footprint(show):
    page = show("painter")
    model, image = example()
    box = page.locator("svg").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 120)
    page.mouse.down()
    page.mouse.move(box["x"] + 600, box["y"] + 60, steps=5)  # far apart: the bars between are painted too
    page.mouse.up()
    page.get_by_role("button", name="Feature maps").click()
    slider = page.get_by_role("slider")
    slider.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowRight", "2", "End", "PageDown"):
        page.keyboard.press(key)
    page.get_by_role("link", name="Link to this setting").click()
    state = dict(part.split("=") for part in page.url.split("?")[1].split("&"))
    bits = {side: [int(c, 36) for c in state[f"painter.{side}"]] for side in ("weights", "maps")}
    assert len(set(bits["weights"])) > 3 and bits["maps"][2:4] == [6, 2]
    assert 4 not in bits["weights"][4:30]
    layers = figure("painter").state["layers"]
    size = qlib.footprint(model, image, painter.painted_config(uniform(4), layers, bits))
    agree(shown(page), {name: getattr(size, name) for name in shown(page)})
    before = shown(page)
    page.reload()
    page.locator("svg").first.wait_for()
    assert shown(page) == before
    page.get_by_role("combobox", name="Start from").select_option("two")
    agree(shown(page), {"average_weight_bits": 2.0, "average_activation_bits": 2.0})


def test_the_steps_of_learning_show_its_history_and_can_be_played(show):
    page = show("learning", "?learning.step=3")
    history = learned().history
    step = page.get_by_role("slider", name="Step")
    text = page.locator("section")

    def agrees(i):
        row = history.iloc[i]
        limit = "which meets" if row.feasible else "above"
        assert f"Step {i} of 29" in text.inner_text() and f"{limit} the limit of 6" in text.inner_text()
        assert f"loss {row.loss:.3f}, {row.average_weight_bits:.2f} bits on average" in text.inner_text()
        bars = page.locator("svg rect title").all_text_contents()
        assert bars == [
            f"{c.split(':')[1]}: {round(row[c])} bits" for c in history if c.startswith("weight:")
        ]

    agrees(3)
    step.press("ArrowRight")
    agrees(4)
    page.get_by_role("link", name="Link to this setting").click()
    page.reload()
    page.locator("svg").wait_for()
    agrees(4)
    step.press("Home")
    page.get_by_role("button", name="Play").click()
    page.get_by_text("Step 29 of 29").wait_for()
    page.get_by_role("button", name="Play").wait_for()
    agrees(29)
    assert learned().feasible and learned().step > 0
    step.press("Home")
    page.get_by_role("button", name="The step that was kept").click()
    agrees(learned().step)
    page.get_by_text("the one that was kept:").wait_for()


def test_steps_of_learning_are_rounded_to_the_choices_there_are():
    found = learned()
    few = dataclasses.replace(found, config=found.config.replace(bit_choices=[2, 4, 8]))
    bits = learning.learning_steps(few, 6).state["bits"]
    values = found.history.filter(like="weight:").to_numpy()
    assert {b for row in bits for b in row} <= {2, 4, 8}
    assert bits == [[min((2, 4, 8), key=lambda b: (abs(b - v), b)) for v in row] for row in values]


def test_rows_that_leave_other_layers_in_float_are_no_point_together():
    table = results.load_table(results.table_path("digits", "skip-residual"))
    apart = table.assign(float_layers=[["output"] if seed else [] for seed in table.calibration_seed])
    whole, parted = (tradeoffs.lines(rows, "activation_bits", ()) for rows in (table, apart))
    assert whole["same"]["Layers left in float"] == "none"
    assert {line["fields"]["Layers left in float"] for line in parted["lines"]} == {"none", "output"}


def test_the_tradeoff_explorer_shows_recorded_rows(show):
    page = show("tradeoffs")
    page.get_by_text("The numbers", exact=True).click()
    table = results.load_table(results.table_path("digits", "skip-residual"))
    rows = results.accuracies(table, activation_bits=3, quantize_skip=False, quantize_residual=False)
    mean = sum(a.top1 for a in rows) / len(rows)
    line = page.locator("tbody tr", has_text="inputs only").first
    assert line.locator("td").all_inner_texts()[:2] == ["3", f"{mean:.2f}"]
    assert page.locator("svg polyline").count() == 4


def test_every_table_of_the_explorer_draws_on_every_bench_and_a_link_comes_back_to_it(show):
    page = show("tradeoffs")
    observation = page.get_by_role("combobox", name="Observation")
    for table in [option.get_attribute("value") for option in observation.locator("option").all()]:
        observation.select_option(table)
        benches = page.get_by_role("combobox", name="Bench")
        for option in benches.locator("option:not([disabled])").all():
            benches.select_option(option.get_attribute("value"))
            assert (
                page.locator("svg polyline").count() >= 1
                and "undefined" not in page.locator("section").inner_text()
            )
    observation.select_option("weight-granularity")
    page.get_by_role("combobox", name="Bench").select_option("cifar10-jpeg")
    page.get_by_role("combobox", name="A range of weights for").select_option("each channel")
    page.get_by_role("combobox", name="Codes of weights").select_option("compare all")
    parts = page.locator("section > :not([role=status])")  # which is said once changes have come to rest
    before = parts.all_inner_texts()
    page.get_by_role("link", name="Link to this setting").click()
    page.reload()
    page.locator("svg").first.wait_for()
    after = [
        text.replace("Link copied, and in the address bar", "Link to this setting")
        for text in parts.all_inner_texts()
    ]
    assert before and after == before


def test_downloaded_rows_are_the_recorded_ones(show):
    page = show("tradeoffs", "?tradeoffs.table=float-baseline")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download these rows").click()
    found = pd.read_csv(download.value.path())
    table = results.load_table(results.table_path("digits", "float-baseline"))
    table = table[table.weight_bits.notna()]
    assert len(found) == len(table)
    key = ["Float network", "weight bits", "seed"]
    recorded = {(r.network, r.weight_bits, r.calibration_seed): r.top1 for r in table.itertuples()}
    assert {tuple(row[key]): row.top1 for _, row in found.iterrows()} == pytest.approx(recorded, abs=1e-3)
    ends = {(r.network, r.weight_bits, r.calibration_seed): r.high - r.low for r in table.itertuples()}
    assert {tuple(row[key]): row.high - row.low for _, row in found.iterrows()} == pytest.approx(
        ends, abs=2e-3
    )


def test_the_opening_figure_shows_a_paired_difference(show):
    page = show("opening")
    table = results.load_table(results.table_path("digits", "skip-residual"))
    for bits in (4, 3):
        sides = [
            results.accuracies(table, activation_bits=bits, quantize_skip=s, quantize_residual=s)
            for s in (False, True)
        ]
        assert f"{qlib.compare(*sides).points:.1f} points" in page.locator("section").inner_text()
        page.get_by_role("slider", name="Bits").press("ArrowLeft")


def test_the_forest_shows_every_verdict_and_tells_what_stands_behind_it(show):
    page = show("forest")
    found = [j for _, _, j in evidence_page.everything() if j]
    rows = page.get_by_role("button")
    assert rows.count() == len(found)
    told = page.get_by_role("status")
    for i in (0, len(found) // 2, len(found) - 1):
        row, judged = rows.nth(i), found[i]
        label = row.get_attribute("aria-label")
        assert judged.claim["claim"] in label and judged.said in label and judged.verdict in label
        assert f"holds in {judged.holds_in} networks" in label
        assert row.locator(".count").inner_text() == judged.holds_in.replace(" of ", "/")
        mark = row.locator("svg > :last-child")
        assert mark.get_attribute("fill") == LOOKS[judged.verdict].colour
        dots = row.locator("circle[r='2']").count()
        assert dots == (len(judged.difference.seeds) if len(judged.difference.seeds) > 1 else 0)
        row.focus()
        assert f"{judged.bench}: {judged.verdict}" in told.inner_text()
        assert judged.claim["paper"] in told.inner_text() and evidence_page.about(judged) in told.inner_text()
        assert f"holds in {judged.holds_in} networks: " in told.inner_text()
        assert all(f"{name} " in told.inner_text() for name in judged.networks)
        lesson = told.get_by_role("link").get_attribute("href")
        assert lesson.startswith(f"./notebooks/0{judged.claim['observation']}-")
    rows.nth(1).hover()
    assert f"{found[1].bench}: {found[1].verdict}" in told.inner_text()
    rows.nth(1).click()  # pinned
    rows.nth(3).hover()
    assert f"{found[1].difference.points:+.2f}" in told.inner_text()
    rows.nth(1).click()
    rows.nth(3).hover()
    assert f"{found[3].difference.points:+.2f}".replace("-", "−") in told.inner_text()


def test_the_way_to_a_rounding_is_shown_step_by_step(show):
    page = show("rounding")
    step, said = page.get_by_role("slider", name="Step"), page.locator("p").first

    def dots():
        return page.locator("circle.now").evaluate_all(
            "dots => dots.map(dot => Number(dot.getAttribute('cy')))"
        )

    at_first = dots()
    step.press("End")
    assert "nearest, step 1 of 1: the error of the weights is 100 %" in said.inner_text()
    page.get_by_role("combobox", name="Method").select_option("other")
    assert dots() == at_first and step.input_value() == "0"
    step.press("ArrowRight")
    step.press("ArrowRight")
    assert "other, column 2 of 3: " in said.inner_text() and "gives 25 % of nearest's" in said.inner_text()
    low, middle, high = page.locator("svg line[stroke-opacity]").evaluate_all(
        "lines => lines.map(line => Number(line.getAttribute('y1')))"
    )
    assert dots()[:2] == [middle, middle] and low > middle > dots()[2] > high
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Play").wait_for(timeout=20_000)  # it has ended
    assert "column 3 of 3" in said.inner_text() and dots() == [middle, middle, high]
    apart = (0.2**2 + 0.6**2 + 0.1**2) / (0.2**2 + 0.4**2 + 0.1**2)
    assert f"the error of the weights is {100 * apart:.0f} %" in said.inner_text()


def test_a_way_that_ends_beside_the_grid_is_refused():
    with pytest.raises(
        ValueError, match="'nearest' ends at values that the grid does not have, by up to 0.1"
    ):
        rounding.rounding_ways(WEIGHTS, LEVELS, {"nearest": rounding.Way([[0, -1, 0.9]], [1.0])})


def test_what_the_paper_measured_stands_beside_ours(show):
    page = show("forest")
    found = [j for _, _, j in evidence_page.everything() if j]
    marked = [j for j in found if "paper_points" in j.claim]
    assert marked and page.locator("button path[fill=none]").count() == len(marked)


def test_the_comparison_says_what_differences_and_fits_say(show):
    page = show("comparison")
    cards = list(catalogue().values())
    first, second, target = (
        page.get_by_role("combobox", name=name) for name in ("First card", "Second card", "Chip")
    )
    for i, a in enumerate(cards):
        first.select_option(a.name)
        for b in cards[i % 3 :: 3]:
            second.select_option(b.name)
            rows = page.locator("tr[data-field]").evaluate_all("rows => rows.map(row => row.dataset.field)")
            found = a.differences(b)
            assert rows == sorted(rows, key=[choice.field for choice in found].index) and len(rows) == len(
                found
            )
            text = page.locator("section").inner_text()
            assert all(said in text for choice in found for said in choice.said())
            assert all(said in text for said in method_worth(a.name, b.name))
    assert any(method_worth(a.name, b.name) for a in cards for b in cards)
    second.select_option(cards[0].name)
    shown = (cards[-1], cards[0])
    findings = [line for card in shown for line in hardware.lines(hardware.check(card, "tensorrt-int8"))]
    target.select_option(index=4)
    assert [item.strip() for item in page.locator("li").all_inner_texts()] == findings
    page.get_by_role("link", name="Link to this setting").click()
    before = page.locator("section").inner_text().split("Link")[0]
    page.reload()
    assert page.locator("section").inner_text().split("Link")[0] == before


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_stays_light_and_what_strangers_wrote_is_data(name):
    assert len(figure(name).to_html()) - len(json.dumps(figure(name).state)) < OWN_CHARACTERS
    html = Figure("painter", {"name": "</script><img src=x onerror=alert(1)>"}, "").to_html()
    assert "<img" not in html and html.count("</script>") == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_carries_every_module_once(name):
    code = module(name)
    inside = re.findall(r"^const \$(\w+) = \(\(\) => \{$", code, re.M)
    assert "kit" in inside and len(inside) == len(set(inside))
    assert not re.search(r"^import |^\} from |data:text/javascript", code, re.M)


def test_bad_tensors_and_settings_are_refused():
    with pytest.raises(ValueError, match="there is no tensor"):
        quantizer.quantizer_explorer({})
    for rows in (torch.zeros(3), torch.tensor([[1.0, math.nan]])):
        with pytest.raises(ValueError, match="'mine' must be a matrix"):
            quantizer.quantizer_explorer({"mine": rows})
    with pytest.raises(ValueError, match="start knows .*; got depth"):
        quantizer.quantizer_explorer(tensors(), depth=3)
    with pytest.raises(ValueError, match="no layer 'nowhere' with weights"):
        quantizer.tensors_of(*example(), ["nowhere"])
    with pytest.raises(ValueError, match="belongs to lesson '3'.*known names|did you mean"):
        tradeoffs.tradeoff_explorer("3")
    with pytest.raises(ValueError, match="no activation bits were learned"):
        learning.learning_steps(learned(), 6, "activation")
    with pytest.raises(ValueError, match="needs two cards, got 0"):
        comparison.card_comparison({})
    with pytest.raises(ValueError, match="side must be"):
        painter.bits_painter(*example(), {"four": (uniform(4), "")}, side="both")
    with pytest.raises(ValueError, match="at least one preset"):
        painter.bits_painter(*example(), {})
    channels = uniform(4).replace(weight_bits={LAYERS[0]: (1, 2, 3, 4, 5, 6, 7, 7)})
    with pytest.raises(ValueError, match="'odd' gives channels of 'features.init_block.conv.conv'"):
        painter.bits_painter(*example(), {"odd": (channels, "")})


def test_painted_bits_are_measured_where_there_is_a_kernel(bench):
    painted = painter.paint_bits(bench)
    learned = painted.figure.state["presets"][1]
    painted._widget.bits = {"weights": learned["weights"], "maps": learned["maps"]}
    painted.panel.wait(120)
    config = painter.recorded_presets("digits")[learned["name"]][0]
    bits = {
        layer["name"]: b
        for layer, b in zip(painted.figure.state["layers"]["weights"], learned["weights"], strict=True)
    }
    assert painted.config.weight_bits == bits == config.weight_bits
    expected = qlib.evaluate(
        qlib.quantize(bench.models["base"], config, bench.calibration(320)), bench.validation(2000)
    )
    assert (painted.panel.accuracy.correct == expected.correct).all()
    assert {"text/html", "application/vnd.jupyter.widget-view+json"} <= set(painted._repr_mimebundle_())


def test_costs_show_every_choice_with_both_intervals_and_say_what_is_not_recorded(show):
    page = show("costs")
    moved = costs.gains()
    figure = page.get_by_role("region", name="What a tradeoff buys")
    rows = {
        row.locator("th").inner_text()[2:]: row.locator("td").all_inner_texts()
        for row in figure.locator("tbody tr").all()
    }
    assert list(rows) == [traded.name for traded in costs.TRADED]
    difference = moved["zero-points of weights"][4]
    assert rows["zero-points of weights"][0].startswith(f"{difference.points:+.2f}".replace("-", "−"))
    assert rows["zero-points of weights"][1] == "0.70 (0.60 to 0.80)"
    assert rows["inputs only"][1] == "not recorded" and figure.locator("circle").count() == 1
    figure.get_by_role("combobox", name="Network").select_option("large")
    assert "0.40 of its float time" in figure.inner_text() and figure.locator("circle").count() == 2
    far = figure.locator("circle").first.bounding_box()
    assert far["x"] + far["width"] <= 900 and "15.0 \u2192" in figure.locator("svg").text_content()
    figure.get_by_role("slider", name="Bits").press("End")
    eight = f"{moved['inputs only'][8].points:+.2f}".replace("-", "−")
    assert eight in figure.locator("tbody tr", has_text="inputs only").inner_text()


def test_costs_without_times_show_the_points(browser, tmp_path):
    (tmp_path / "empty.html").write_text(PAGE.format(html=costs.tradeoff_costs([]).to_html()), "utf8")
    page = browser.new_context().new_page()
    page.goto((tmp_path / "empty.html").as_uri())
    figure = page.get_by_role("region", name="What a tradeoff buys")
    figure.get_by_text("no times are recorded").wait_for()
    assert "Times are not recorded yet" in figure.inner_text()
    assert figure.locator("tbody tr").count() == len(costs.TRADED)
    page.context.close()


def test_a_loud_channel_costs_the_others_as_python_says(show):
    page = show("tokens")
    bits, said = page.get_by_role("slider", name="Bits"), page.locator("p").first
    for ranges in tokens.RANGES:
        page.get_by_role("combobox", name="Ranges").select_option(ranges)
        for at in (8, 5, 2):
            bits.fill(str(at))
            assert f"{ranges}, {at} bits" in said.inner_text()
            assert f"{100 * tokens.lost(LOUD, at, ranges):.1f} %" in said.inner_text()
            now = tokens.quantized(LOUD, at, ranges)
            grey = page.locator("rect[fill='#9A9A9A']").count()
            assert grey == (now == 0).sum()


@pytest.mark.parametrize("ranges", tokens.RANGES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_ranges_of_the_loud_channel_are_those_of_the_package(ranges, bits):
    config = {
        "per tensor": {},
        "per token": {"activation_granularity": "per_token"},
        "per group": {"activation_granularity": "per_token"},
    }[ranges]
    wanted = torch.tensor(LOUD, dtype=torch.float32)[None]
    shape = (1, -1, tokens.GROUP) if ranges == "per group" else wanted.shape
    dynamic = qlib.QuantConfig(activation_dynamic=True, **config)
    found = Quantizer(dynamic, "x", bits, -1)(wanted.reshape(shape)).reshape(wanted.shape)[0]
    assert found.numpy() == pytest.approx(tokens.quantized(LOUD, bits, ranges), abs=1e-4)


def test_runs_move_with_what_counts_as_bits_and_say_what_is_not_recorded(show):
    page = show("perplexities")
    count = page.get_by_role("combobox", name="Count the bits")
    rows = lambda: [row.locator("td").all_inner_texts() for row in page.locator("tbody tr").all()]  # noqa: E731
    places = []
    for way, which in enumerate(perplexities.COUNTS):
        count.select_option(label=which)
        assert [float(bits) for bits, _ in rows()] == [point.bits[way] for point in POINTS]
        places.append([round(c.bounding_box()["x"]) for c in page.locator("circle").all()])
    assert len(set(map(tuple, places))) == 3 and places[0][0] == places[0][1] < places[2][0] < places[2][1]
    assert rows()[1][1] == "30 (25.03 to 34.97)" and rows()[2][1] == "not recorded yet"
    assert "5,000 ↑" in page.locator("svg").text_content()  # too far for the chart
    assert page.locator("circle[fill=none], path[fill=none]").count() == 1
    assert "“3 bits” are 4.20 to 4.60" in page.locator("p").first.inner_text()
    page.get_by_role("combobox", name="Show").select_option("4")
    assert len(rows()) == 1 and "1 of 1 are not recorded yet" in page.locator("p").first.inner_text()
