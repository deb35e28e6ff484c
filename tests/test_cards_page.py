"""The pages about cards, driven in a browser: the catalogue sorts and filters, the form writes cards,
everyone can read them.
"""

from pathlib import Path

import pytest

from qlib import QuantConfig, QuantizationCard
from qlib.book import cards as pages
from qlib.cards import FIELDS, NOT_REPORTED, catalogue
from qlib.cards.render import shown

ASSETS = Path(__file__).resolve().parents[1] / "book" / "assets"
THEMES = {
    "light": "#ffffff #222832 #48566b #1364b5 #f3f4f5 #b02a37",
    "dark": "#121212 #ced6dd #9ca4af #72a7ff #29313d #f06a74",
}
NAMES = ("background", "text-base", "text-muted", "link", "surface", "danger")
# The contrast of every text with the colour that it stands on (WCAG 2.2), of placeholders too.
CONTRASTS = """() => {
  const parts = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const ground = (e) => { for (; e; e = e.parentElement) { const [r, g, b, a = 1] = parts(getComputedStyle(e).backgroundColor);
    if (a > 0) return [r, g, b]; } return parts(getComputedStyle(document.body).backgroundColor); };
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!e.checkVisibility() || !(own || e.placeholder)) continue;
    const style = getComputedStyle(e, own ? null : "::placeholder");
    const [a, b] = [light(parts(style.color)), light(ground(e))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), e.tagName + " " + (e.textContent || e.placeholder).trim().slice(0, 40)]);
  }
  return found; }"""  # noqa: E501


def document(theme, *parts):
    """A page with the book's style and script; the theme's colours stand in for Sphinx's."""
    colours = ";".join(
        f"--pst-color-{name}:{colour}" for name, colour in zip(NAMES, THEMES[theme].split(), strict=True)
    )
    style = (
        f":root{{{colours};--pst-color-border:#888}} a{{color:var(--pst-color-link)}} "
        "body{background:var(--pst-color-background);color:var(--pst-color-text-base)}"
    )
    return (
        f'<!doctype html><html lang="en" data-theme="{theme}"><head><title>Cards</title>'
        f'<meta name="viewport" content="width=device-width"><style>{style}{(ASSETS / "book.css").read_text("utf8")}</style>'  # noqa: E501
        f'</head><body><main class="bd-article"><h1>Cards</h1>{"".join(parts)}</main>'
        f"<script>{(ASSETS / 'cards.js').read_text('utf8')}</script></body></html>"
    )


@pytest.fixture
def show(browser):
    """Opens a page of these parts, and fails the test if its script does."""
    errors = []
    opened = []

    def show(*parts, theme="light", width=1280):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
        opened.append(page)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request", lambda request: errors.append(request.url) if request.url.startswith("http") else None
        )
        page.set_content(document(theme, *parts))
        return page

    yield show
    for page in opened:
        page.close()
    assert errors == []


def column(page, title):
    """The cells of a column, top to bottom, of the rows in view."""
    return page.evaluate(
        """(title) => { const table = document.querySelector(".catalogue table");
      const i = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === title);
      return [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[i].textContent); }""",  # noqa: E501
        title,
    )


def test_the_catalogue_sorts_and_filters(show):
    page = show(pages.catalogue_table())
    everything = sorted(card.name for card in catalogue().values())
    page.get_by_role("button", name="Method").click()
    assert column(page, "Method") == sorted(everything, key=str.lower)
    page.get_by_text("Choose columns").click()
    page.get_by_role("checkbox", name="Amount of data").check()
    page.get_by_role("button", name="Amount of data").click()
    data = column(page, "Amount of data")
    numbers = [float(text.replace(",", "")) for text in data if text != NOT_REPORTED]
    assert numbers == sorted(numbers) and data[len(numbers) :] == [NOT_REPORTED] * (len(data) - len(numbers))
    page.get_by_role("button", name="Amount of data").press("Enter")
    assert [float(t.replace(",", "")) for t in column(page, "Amount of data")[: len(numbers)]] == numbers[
        ::-1
    ]
    assert page.locator("th[aria-sort]").evaluate_all("all => all.map((e) => e.ariaSort)") == ["descending"]
    page.get_by_label("Filter").fill("per GROUP")
    assert (
        column(page, "Method") == ["AWQ"]
        and page.get_by_role("status").inner_text() == f"1 of {len(everything)}"
    )
    page.get_by_label("Filter").fill("not reported")
    page.get_by_label("in", exact=True).select_option("Weight bits")
    unknown = [card.name for card in catalogue().values() if card["weight_bits"] == NOT_REPORTED]
    assert sorted(column(page, "Method")) == sorted(unknown) and unknown


def fill(page, field, value):
    box = page.locator(f"[id$='-{field}']:is(input, select)")
    text = (
        value
        if isinstance(value, str)
        else str(value).lower()
        if isinstance(value, bool)
        else repr(value).replace("'", '"')
    )
    box.select_option(text) if box.evaluate("e => e.tagName") == "SELECT" else box.fill(text)


@pytest.mark.parametrize("name", catalogue())
def test_the_form_writes_the_card_that_was_typed(show, name):
    card = catalogue()[name]
    page = show(pages.form())
    for field in ("name", "authors", "link", "remarks"):
        fill(page, field, card.data[field] if card.data[field] != NOT_REPORTED else "")
    for field in FIELDS:
        if card[field] != NOT_REPORTED:
            fill(page, field, card[field])
    written = QuantizationCard.from_yaml(page.locator("#card-yaml").inner_text())
    assert {**written.data, "deviations": 0, "sources": 0} == {**card.data, "deviations": 0, "sources": 0}
    assert page.locator("[role=status]").inner_text() == "This is a valid card."
    with page.expect_download() as download:
        page.get_by_role("link", name="Save card.yaml").click()
    assert QuantizationCard.load(download.value.path()) == written


HOSTILE = (
    "<img src=x onerror=alert(1)> \"\\ ' {a: &b [*b]} !!python/object # \u2028 \x85 ☠ \\input{x} - : yes 1.0"
)
TYPED = [  # what is typed, and what the card then holds
    ("name", HOSTILE, HOSTILE),
    ("name", "5", "5"),
    ("labels", "true", "true"),
    ("weight_bits", "2, 3, 4", [2, 3, 4]),
    ("weight_bits", '{"default": 4, "fc": [8, 2]}', {"default": 4, "fc": [8, 2]}),
    ("weight_bits", "4.0", 4),
    ("float_layers", '["fc", "layer1.*"]', ["fc", "layer1.*"]),
    ("float_layers", "[]", []),
    ("time", "12.5", 12.5),
    ("time", "4 % of an epoch", "4 % of an epoch"),
    ("bias", "float", "float"),
    (
        "accuracy",
        '{"top1": 71.6, "low": 71.2, "high": 72, "n": 50000}',
        {"top1": 71.6, "low": 71.2, "high": 72, "n": 50000},
    ),
]


@pytest.mark.parametrize("field, typed, value", TYPED)
def test_what_is_typed_is_what_the_card_holds(show, field, typed, value):
    page = show(pages.form())
    fill(page, field, typed)
    card = QuantizationCard.from_yaml(page.locator("#card-yaml").inner_text())
    assert (card.name if field == "name" else card[field]) == value
    assert page.locator("[aria-invalid=true]").count() == 0


MISTAKES = [
    ("weight_bits", "four"),
    ("weight_bits", "33"),
    ("weight_bits", "{}"),
    ("images", "2.5"),
    ("images", "-1"),
    ("link", "javascript:alert(1)"),
    ("accuracy", "101"),
    ("accuracy", '{"top1": 3}'),
    ("weights_hash", "xyz"),
    ("bit_choices", "8"),
    ("percentile", "null"),
    ("float_layers", "fc"),
    ("float_layers", '["fc", 3]'),
]


@pytest.mark.parametrize("field, typed", MISTAKES)
def test_the_form_says_what_cannot_be_on_a_card(show, field, typed):
    page = show(pages.form())
    fill(page, field, typed)
    with pytest.raises(ValueError):
        QuantizationCard.from_yaml(page.locator("#card-yaml").inner_text())
    assert page.locator("[aria-invalid=true]").get_attribute("id").endswith(f"-{field}")
    assert page.locator("[role=status]").inner_text().startswith("1 of the fields")
    assert "for example" in page.locator(".card-wrong:not(:empty)").inner_text()
    fill(page, field, "")
    assert (
        page.locator("[aria-invalid=true]").count() == 0
        and not page.locator(".card-wrong:not(:empty)").count()
    )


PARTS = {
    "catalogue": lambda: [
        pages.catalogue_table(),
        pages.catalogue_cards().replace("<details>", "<details open>", 1),
    ],
    "form": lambda: [pages.form()],
    "card": lambda: [QuantizationCard.from_run(QuantConfig()).to_html()],
}


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("part", PARTS)
def test_everyone_can_read_it(show, part, theme, width):
    page = show(*PARTS[part](), theme=theme, width=width)
    if part == "form":
        fill(page, "images", "some")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 40 and [text for ratio, text in contrasts if ratio < 4.5] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = """all => all.filter((e) => !(e.labels && e.labels.length) && !e.ariaLabel && !e.textContent.trim()).length"""  # noqa: E501
    assert page.locator("input, select, button, a").evaluate_all(unnamed) == 0
    assert page.locator("th:not([scope]), table:not(:has(caption))").count() == 0
    ids = page.locator("[id]").evaluate_all("all => all.map((e) => e.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("part", PARTS)
def test_a_checker_for_accessibility_finds_nothing(show, part, theme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    ).Axe()
    found = axe.run(show(*PARTS[part](), theme=theme)).response["violations"]
    assert [(one["id"], [node["html"][:100] for node in one["nodes"][:3]]) for one in found] == []


def test_the_list_of_fields_says_of_which_cards_one_is_asked():
    rows = {line.split("`")[1]: line for line in pages.fields_table().splitlines() if line.startswith("| `")}
    assert set(rows) == set(FIELDS)
    assert "Asked where `metric` is perplexity." in rows["bos"] and "Asked" not in rows["weight_bits"]
    assert "Shown where it is filled in." in rows["runtime"]


def test_without_a_script_the_table_is_there_and_the_form_says_what_to_do():
    assert all(
        shown("weight_bits", card["weight_bits"]) in pages.catalogue_table() for card in catalogue().values()
    )
    assert "<noscript>" in pages.form() and "qlib card new" in pages.form()
