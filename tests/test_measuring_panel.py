"""The panel that measures in the page: what it says, how it is moved, and what happens where it cannot."""

import re
import shutil

import pytest

import qlib
from qlib.cards import CATEGORIES
from qlib.choices import choices
from qlib.widgets import opening, painter
from qlib.widgets.engine import bundle
from qlib.widgets.measuring import _controls, measuring_panel

PAGE = """<!doctype html><html lang="en" data-content_root="./"><head><meta charset="utf-8">
<title>A panel</title><meta name="viewport" content="width=device-width"></head>
<body style="margin: 8px">{html}</body></html>"""
ALL = 2000


@pytest.fixture
def opened(browser, measured_site, tmp_path):
    """Opens a panel on a page of its own, from a disk."""
    contexts = []

    def opened(query="", folder=measured_site, start=None, script="", **options):
        place = folder / "panel.html"
        place.write_text(PAGE.format(html=measuring_panel(**(start or {})).to_html()), "utf8")
        context = browser.new_context(**{"viewport": {"width": 900, "height": 900}, **options})
        contexts.append(context)
        context.add_init_script(script)
        page = context.new_page()
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(place.as_uri() + query)
        page.get_by_role("button", name="Load the network").wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()


def load(page):
    page.get_by_role("button", name="Load the network").click()
    settled(page)


def settled(page):
    """Waits until all images are answered."""
    page.locator("[aria-busy=false] [data-top1]").wait_for(timeout=60_000)
    page.get_by_role("rowheader", name="In float").wait_for(timeout=60_000)


def accuracy(page):
    return float(page.locator("[data-top1]").get_attribute("data-top1"))


def in_python(config, method="nearest", network="base"):
    bench = qlib.load_bench("digits")
    model = bench.models[network]
    return qlib.evaluate(qlib.quantize(model, config, bench.calibration(320), method), bench.validation(ALL))


def test_nothing_is_loaded_before_a_click_and_then_two_files(opened):
    page = opened()
    assert [url for url in page.asked if bundle.FOLDER in url] == []
    load(page)
    names = sorted(url.rsplit("/", 1)[1] for url in page.asked if bundle.FOLDER in url)
    assert names == ["digits-base.js", "engine.js"]


def test_a_click_loads_as_much_as_it_says(measured_site):
    (megabytes,) = {each["megabytes"] for each in measuring_panel().state["networks"].values()}
    files = [measured_site / bundle.FOLDER / f"{name}.js" for name in ("engine", "digits-base")]
    assert sum(file.stat().st_size for file in files) / 1e6 == pytest.approx(megabytes, abs=0.1)


def test_it_says_what_python_says_and_its_card_is_that_of_the_run(opened):
    config = qlib.QuantConfig(weight_bits=4, activation_bits=5, activation_range="percentile")
    page = opened(
        "?measuring.weight_bits=4&measuring.activation_bits=5&measuring.activation_range=percentile"
    )
    load(page)
    expected = in_python(config)
    assert accuracy(page) == pytest.approx(expected.top1, abs=0.11)
    ends = re.search(r"interval (\S+) to (\S+)\)", page.locator("section").inner_text()).groups()
    assert tuple(map(float, ends)) == pytest.approx(expected.interval, abs=0.12)
    card = qlib.QuantizationCard.from_yaml(page.locator("pre").text_content())
    bench = qlib.load_bench("digits")
    float_accuracy = qlib.evaluate(bench.models["base"], bench.validation(ALL))
    own = qlib.QuantizationCard.from_run(
        config,
        expected,
        baseline=float_accuracy,
        bench=bench,
        network="base",
        images=320,
        labels="none",
        steps=0,
    )
    for category in CATEGORIES:
        theirs = {**own.data[category]}
        found = {**card.data[category]}
        for name in ("accuracy", "float_accuracy"):
            if name in theirs:
                assert found.pop(name)["top1"] == pytest.approx(theirs.pop(name)["top1"], abs=0.11)
        assert found == theirs


def test_a_difference_is_paired_with_what_stood_before(opened):
    page = opened("?measuring.weight_bits=4")
    load(page)
    before = accuracy(page)
    page.get_by_role("slider", name="Activation bits").press("Home")
    page.get_by_role("slider", name="Activation bits").press("ArrowRight")
    page.get_by_role("slider", name="Activation bits").press("ArrowRight")
    page.get_by_role("slider", name="Activation bits").press("ArrowRight")
    page.get_by_text("Against what stood before").wait_for()
    settled(page)
    row = page.locator("tr", has_text="Against what stood before").inner_text()
    points = accuracy(page) - before
    assert f"{abs(points):.2f} points" in row and ("−" in row) == (points < 0)
    sides = [in_python(qlib.QuantConfig(weight_bits=4, activation_bits=b)) for b in (4, 8)]
    found = qlib.compare(*sides)
    low, high = (float(x.replace("−", "-")) for x in re.search(r"\((\S+) to (\S+)\)", row).groups())
    assert (low, high) == pytest.approx(found.interval, abs=0.3)


def test_the_last_of_forty_moves_is_answered_and_no_other(opened):
    page = opened()
    load(page)
    page.evaluate("""() => {
      const root = document.querySelector('.qlib-figure > div').shadowRoot;
      const slider = root.querySelector('input[aria-label="Weight bits"]');
      window.seen = new Set();
      new MutationObserver(() => {
        const shown = root.querySelector('[aria-busy=false] [data-top1]');
        if (shown) window.seen.add(shown.dataset.top1);
      }).observe(root, { subtree: true, childList: true, attributes: true });
      window.seen.clear();
      for (let i = 0; i < 40; i++) { slider.value = i % 2 ? 2 : 7; slider.dispatchEvent(new Event('input')); }
    }""")
    page.wait_for_timeout(300)
    settled(page)
    page.wait_for_timeout(1500)
    assert page.evaluate("[...window.seen].map(Number)") == [accuracy(page)]
    assert accuracy(page) == pytest.approx(in_python(qlib.QuantConfig(weight_bits=3)).top1, abs=0.3)


def test_a_link_leads_back_to_the_setting(opened):
    page = opened()
    page.get_by_text("All other choices").click()
    page.get_by_label("Skip quantized").uncheck()
    page.get_by_role("combobox", name="Method").select_option("bias")
    page.get_by_role("combobox", name="Network").select_option("better-seed-2")
    page.get_by_role("slider", name="First and last layer").press("End")
    page.get_by_role("link", name="Link to this setting").click()
    page.reload()
    assert not page.get_by_label("Skip quantized").is_checked()  # what differs from the usual is unfolded
    assert page.get_by_role("combobox", name="Method").input_value() == "bias"
    assert page.get_by_role("combobox", name="Network").input_value() == "better-seed-2"
    slider = page.get_by_role("slider", name="First and last layer")
    assert slider.get_attribute("aria-valuetext") == "like the rest"
    assert page.get_by_label("Average pooling").is_disabled()  # means nothing beside a skip left in float


def test_a_method_that_was_learned_elsewhere_sets_the_weights_for_which_it_was(opened):
    page = opened("?measuring.network=better-seed-2")
    page.get_by_text("All other choices").click()
    page.get_by_role("combobox", name="Method").select_option("blocks")
    assert page.get_by_role("combobox", name="Network").input_value() == "base"
    assert page.get_by_role("slider", name="Weight bits").get_attribute("aria-valuetext") == "3"
    load(page)
    assert accuracy(page) > in_python(qlib.QuantConfig(weight_bits=3)).top1 + 8
    row = page.locator("tr", has_text="Method").inner_text()
    assert "blocks: learned by blocks" in row and "activations in float" in row
    assert "learned by blocks" in page.locator("pre").text_content()
    page.get_by_role("slider", name="Weight bits").press("ArrowRight")
    page.get_by_role("alert").wait_for()
    assert "weight_bits must be 3 here" in page.get_by_role("alert").inner_text()


@pytest.mark.parametrize("fault", ["truncated", "changed", "missing"])
def test_a_broken_download_says_so_and_can_be_tried_again(opened, measured_site, tmp_path, fault):
    folder = tmp_path / "site"
    shutil.copytree(measured_site, folder)
    file = folder / bundle.FOLDER / "digits-base.js"
    text = file.read_text("utf8")
    if fault == "missing":
        file.unlink()
    else:
        at = len(text) // 2
        other = "A" if text[at] != "A" else "B"
        file.write_text(text[:at] if fault == "truncated" else text[:at] + other + text[at + 1 :], "utf8")
    page = opened(folder=folder)
    page.get_by_role("button", name="Load the network").click()
    said = page.get_by_role("alert")
    said.wait_for()
    assert "digits-base.js" in said.inner_text()
    file.write_text(text, "utf8")
    page.get_by_role("button", name="Try again").click()
    settled(page)


def test_a_browser_without_simd_is_told_so(opened):
    page = opened(script="WebAssembly.validate = () => false")
    page.get_by_role("button", name="Load the network").click()
    page.get_by_role("alert").wait_for()
    assert "WebAssembly with SIMD" in page.get_by_role("alert").inner_text()


def test_a_setting_that_cannot_be_says_why(opened):
    page = opened("?measuring.weight_bits=1&measuring.weight_symmetric=true")
    page.get_by_role("button", name="Load the network").click()
    page.get_by_role("alert").wait_for()
    assert "weight_bits must be a whole number of bits from 2" in page.get_by_role("alert").inner_text()


def test_controls_are_those_of_the_configuration():
    controls = _controls()
    left = {"float_layers", "bit_choices", "group_size", "embedding_bits", "kv_bits"}
    assert set(choices(qlib.QuantConfig)) - set(controls) == left
    for name, control in controls.items():
        assert control["title"] == choices(qlib.QuantConfig)[name].title
        assert control["default"] == qlib.QuantConfig.defaults()[name]


def test_screen_readers_find_nothing_serious(opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened()
    page.get_by_text("All other choices").click()
    load(page)
    page.get_by_text("The card of this setting").click()
    found = axe.run(page, context=".qlib-figure").response
    bad = {rule["id"]: rule["nodes"][0]["html"][:200] for rule in found["violations"]}
    assert {
        name for name in bad if name not in ("region", "landmark-one-main", "page-has-heading-one")
    } == set()
    for name in ("combobox", "slider", "checkbox"):
        every = page.get_by_role(name).all()
        assert every and all(
            each.get_attribute("aria-label") or each.evaluate("e => e.labels.length") for each in every
        )


def test_painted_bits_are_measured_in_the_page(browser, measured_site):
    bench = qlib.load_bench("digits")
    start = qlib.QuantConfig(first_last_bits=None, weight_bits=5, activation_bits=5)
    presets = {"five bits": (start, ""), "four": (start.replace(weight_bits=4), "")}
    figure = painter.bits_painter(
        bench.models["base"],
        bench.validation(1)[0][0],
        presets,
        measured="base",
        activation_range="percentile",
    )
    place = measured_site / "painter.html"
    place.write_text(PAGE.format(html=figure.to_html()), "utf8")
    page = browser.new_page()
    page.goto(place.as_uri())
    page.get_by_role("button", name="Measure the network").click()
    page.get_by_text(re.compile("Measured here.*: .* of 2,000 images")).wait_for(timeout=60_000)
    page.get_by_role("combobox", name="Start from").select_option("four")
    page.get_by_text(re.compile("of 2,000 images .* against the bits before")).wait_for(timeout=60_000)
    text = page.get_by_text("Measured here").inner_text()
    layers = figure.state["layers"]
    bits = {"weights": [4] * len(layers["weights"]), "maps": [5] * len(layers["maps"])}
    config = painter.painted_config(start, layers, bits).replace(activation_range="percentile")
    assert float(re.search(r": (\S+) %", text)[1]) == pytest.approx(in_python(config).top1, abs=0.11)
    page.close()


def test_the_opening_figure_measures_its_two_papers(browser, measured_site):
    figure = opening.opening_figure("03-skip-and-residual")
    place = measured_site / "opening.html"
    place.write_text(PAGE.format(html=figure.to_html()), "utf8")
    page = browser.new_page()
    page.goto(place.as_uri())
    page.get_by_role("button", name="Measure both here").click()
    said = page.get_by_text(re.compile("Measured here, now, on 2,000 images with 4 bits"))
    said.wait_for(timeout=60_000)
    sides = [float(x) for x in re.findall(r"Paper [AB] (\S+) %", said.inner_text())]
    (point,) = (p for p in figure.state["choices"][0]["points"] if p["bits"] == 4)
    configs = [qlib.QuantConfig.from_dict(setting["config"]) for setting in point["settings"]]
    assert sides == pytest.approx([in_python(config).top1 for config in configs], abs=0.11)
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_panel_fits_a_phone_in_both_themes(opened, theme):
    page = opened(viewport={"width": 375, "height": 800}, has_touch=True, is_mobile=True)
    colours = {"light": ["#111", "#fff"], "dark": ["#eee", "#111"]}[theme]
    page.evaluate(
        "([ink, paper]) => Object.assign(document.body.style, { color: ink, background: paper })", colours
    )
    page.get_by_text("All other choices").tap()
    page.get_by_role("button", name="Load the network").tap()
    settled(page)
    page.get_by_text("The card of this setting").tap()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    for slider in page.get_by_role("slider").all():
        assert slider.get_attribute("aria-valuetext")


def test_wrong_panels_are_refused():
    with pytest.raises(ValueError, match="no network 'bas'.*did you mean"):
        measuring_panel(network="bas")
    with pytest.raises(ValueError, match="no field 'depth'"):
        measuring_panel(front=["depth"])
    with pytest.raises(ValueError, match="no control of 'float_layers'"):
        measuring_panel(front=["float_layers"])
    with pytest.raises(ValueError, match="weight_bits must be"):
        measuring_panel(weight_bits=99)


def test_what_the_page_does_not_compute_is_not_offered():
    from qlib.widgets.measuring import BEYOND, _controls

    offered = {name: control["values"] for name, control in _controls().items()}
    assert {word for values in offered.values() for word in values}.isdisjoint(BEYOND)
    assert offered["weight_granularity"] == ["per_channel", "per_tensor"]
    with pytest.raises(ValueError, match="the page does not compute weight_granularity='per_group'"):
        measuring_panel(weight_granularity="per_group")
