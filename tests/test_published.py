"""The figures on the pages of the built site, served from this machine with every other host out of reach."""

import json
from pathlib import Path

import pytest

from qlib import footprint, load_bench
from qlib.widgets import painter, quantizer

EXPLORER = "book/explore.html"
OPENING = "book/intro.html"
QUANTIZER = "notebooks/00-uniform-quantization.html"
PAINTED = (
    "04-first-and-last-layer",
    "05-allowed-bitwidths",
    "06-largest-feature-map",
    "09-learning-bitwidths",
)
SOURCES = Path(__file__).resolve().parents[1]
PAGES = [*SOURCES.glob("notebooks/*.ipynb"), *SOURCES.glob("book/*.md")]
PAINTERS = [f"notebooks/{name}.html" for name in PAINTED]


@pytest.fixture
def see(visit):
    """Opens a page and hears what its figures complain about."""
    complaints = []

    def see(name, *options, **more):
        page = visit(name, *options, **more)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type == "error" else None
        )
        page.reload()
        page.locator(".qlib-figure svg").first.wait_for()
        return page

    yield see
    assert [text for text in complaints if "404" not in text] == []


def numbers(page):
    cells = page.locator(".qlib-figure td[data-name]").all()
    return {cell.get_attribute("data-name"): json.loads(cell.get_attribute("data-value")) for cell in cells}


@pytest.mark.parametrize("name", [EXPLORER, OPENING, QUANTIZER, *PAINTERS])
@pytest.mark.parametrize("theme, width", [("light", 1280), ("dark", 375)])
def test_a_figure_draws_in_either_theme_at_either_width(see, name, theme, width):
    page = see(name, theme, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.locator(".qlib-figure section").first.evaluate("e => e.classList.contains('dark')")
    assert dark == (theme == "dark")


@pytest.mark.parametrize("name", sorted(str(path.relative_to(SOURCES)) for path in PAGES))
def test_no_page_scrolls_sideways_on_a_phone(visit, name):
    page = visit(str(Path(name).with_suffix(".html")), viewport={"width": 375, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_the_quantizer_on_its_page_shows_the_numbers_of_qlib_and_its_link_holds(see, bench):
    page = see(QUANTIZER)
    page.get_by_role("slider", name="Bits", exact=True).press("ArrowLeft")
    page.get_by_label("Symmetric", exact=True).uncheck()
    state = json.loads(
        page.evaluate("""async () => {
        const text = await (await fetch(location.href)).text();
        return new DOMParser().parseFromString(text, "text/html").querySelector(".qlib-figure script").textContent; }""")  # noqa: E501
    )
    which = int(page.get_by_role("combobox", name="Tensor").input_value())
    assert len(state["tensors"]) == 6 and which == 5
    layers = [entry["name"].removeprefix("weights of ") for entry in state["tensors"][:3]]
    tensors = quantizer.tensors_of(bench.models["base"], bench.calibration(320), layers)
    expected = quantizer.measure(list(tensors.values())[which], 3, 99.99)
    assert numbers(page) == {name: pytest.approx(value, rel=5e-7) for name, value in expected.items()}
    page.get_by_role("link", name="Link to this setting").first.click()
    before = numbers(page)
    page.reload()
    page.locator(".qlib-figure svg").first.wait_for()
    assert numbers(page) == before and "quantizer.bits=3" in page.url


def test_the_painter_on_its_page_shows_the_footprint_of_a_recorded_preset(see):
    page = see(PAINTERS[-1])
    bench = load_bench("digits")
    for name, (config, recorded) in painter.recorded_presets("digits").items():
        page.get_by_role("combobox", name="Start from").select_option(name)
        size = footprint(bench.models["base"], bench.validation(1)[0][0], config)
        assert numbers(page) == {key: pytest.approx(getattr(size, key), rel=5e-7) for key in numbers(page)}
        assert recorded in page.get_by_role("region", name="Bits painter").inner_text()


def test_the_steps_of_learning_move_on_their_page_and_a_link_holds_them(see):
    page = see(PAINTERS[-1])
    figure = page.get_by_role("region", name="Bits while they are learned")
    figure.get_by_role("slider", name="Step").press("Home")
    assert "Step 0 of 399" in figure.inner_text() and "8.00 bits on average" in figure.inner_text()
    assert set(
        figure.locator("rect title").evaluate_all("all => all.map(e => e.textContent.split(': ')[1])")
    ) == {"8 bits"}
    figure.get_by_role("link", name="Link to this setting").click()
    page.reload()
    figure.get_by_text("Step 0 of 399").wait_for()


def test_the_explorer_leads_to_the_lesson(see):
    page = see(EXPLORER)
    page.get_by_role("combobox", name="Observation").select_option("float-baseline")
    page.get_by_role("link", name="The lesson").click()
    page.get_by_role("heading", name="A better float network", level=1).wait_for()
    assert page.url.endswith("notebooks/08-float-baseline.html")


def test_the_table_of_networks_sorts_and_filters(visit):
    page = visit("book/networks.html")
    page.get_by_role("button", name="At 8 bits").click()
    assert page.locator(".catalogue th", has_text="At 8 bits").get_attribute("aria-sort") == "ascending"
    column = page.locator(".catalogue thead th button").all_inner_texts().index("At 8 bits")
    cells = page.locator(".catalogue tbody tr").evaluate_all(
        "(rows, i) => rows.map(row => row.cells[i].textContent)", column
    )
    errors = [float(cell.removesuffix(" %")) for cell in cells if cell]
    assert errors == sorted(errors) and len(errors) > 100 and cells[-1] == ""
    page.get_by_role("searchbox").fill("vit_h_14")
    assert page.locator(".catalogue tbody tr:visible").count() == 1
