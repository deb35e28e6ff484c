"""The built pages of lessons as a reader meets them, without a kernel: the figure first, the time it takes,
answers that are checked, words that are explained.
"""

import json
import re
from pathlib import Path

import pytest

from qlib.book.minutes import MOST

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))
DEEPER = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9][a-z]-*.ipynb"))
STATUS = ROOT / "_build" / "executed" / "status.json"
SCREENS = {"desktop": (1280, 900), "phone": (375, 800)}

each_lesson = pytest.mark.parametrize("name", LESSONS)


@each_lesson
@pytest.mark.parametrize("screen", SCREENS)
def test_the_first_screen_shows_a_living_figure(visit, name, screen):
    width, height = SCREENS[screen]
    page = visit(f"notebooks/{name}.html", viewport={"width": width, "height": height})
    figure = page.locator(".qlib-figure").first
    figure.locator("section").wait_for()
    box = figure.bounding_box()
    assert box["y"] + min(box["height"], 200) <= height
    above = page.locator("article.bd-article").evaluate(
        """(article) => {
          const figure = article.querySelector('.qlib-figure');
          const before = (cell) => cell.compareDocumentPosition(figure) & Node.DOCUMENT_POSITION_FOLLOWING;
          const cells = [...article.querySelectorAll('.cell')];
          return cells.filter((cell) => before(cell) && !cell.contains(figure)).map((c) => c.textContent);
        }"""
    )
    assert above == []


@pytest.mark.parametrize("name", [*LESSONS, *DEEPER])
def test_the_stated_minutes_are_computed_and_few(visit, name):
    page = visit(f"notebooks/{name}.html")
    stated = re.search(r"(\d+) minutes", page.locator("article.bd-article em").first.inner_text())
    computed = json.loads(STATUS.read_text("utf8"))[name]["minutes"]
    assert int(stated[1]) == computed <= MOST


@pytest.mark.parametrize("name", [*LESSONS, *DEEPER])
def test_no_strip_of_hidden_code_and_no_dead_panel_is_on_a_page(visit, name):
    page = visit(f"notebooks/{name}.html")
    assert page.locator("details.hide").count() == 0
    assert "The sliders act in JupyterLab or Colab" not in page.locator("article.bd-article").inner_text()


@each_lesson
def test_a_prediction_is_kept_and_stands_beside_the_result(visit, name):
    page = visit(f"notebooks/{name}.html")
    asked = page.get_by_role("region", name="Your prediction", exact=True)
    told = page.get_by_role("region", name="Your prediction and the measurement")
    assert "nothing yet" in told.inner_text()
    last = asked.get_by_role("button").last
    last.click()
    assert last.get_attribute("aria-pressed") == "true"
    assert f"You predicted: {last.inner_text()}" in told.inner_text()
    page.reload()
    told.get_by_text(last.inner_text()).first.wait_for()
    assert f"You predicted: {last.inner_text()}" in told.inner_text()


@each_lesson
def test_every_exercise_checks_right_and_wrong_answers_without_a_kernel(visit, name):
    page = visit(f"notebooks/{name}.html")
    source = """async () => {
        const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
        return [...page.querySelectorAll(".qlib-figure script")].map((script) => script.textContent); }"""
    states = [state for state in map(json.loads, page.evaluate(source)) if "hint" in state]
    boxes = page.get_by_role("region", name="Exercise", exact=True)
    boxes.first.wait_for()
    assert boxes.count() == len(states) >= 2
    for i, state in enumerate(states):
        box = boxes.nth(i)
        said = box.get_by_role("status")
        box.get_by_role("button", name="Check").click()
        assert said.inner_text() == "Waiting for your answer."
        for wrong in (True, False):
            for field in state["fields"]:
                if "options" in field:
                    answer = (int(field["answer"]) + wrong) % len(field["options"])
                    box.get_by_label(field["label"], exact=True).select_option(str(answer))
                else:
                    answer = field["answer"] + wrong * (field["within"] + 1)
                    box.get_by_label(field["label"], exact=True).fill(str(answer))
            box.get_by_role("button", name="Check").click()
            if wrong:
                assert said.inner_text() == f"Not yet: {state['hint']}"
            else:
                assert said.inner_text() == f"Right. {state['right']}".strip()
        numbers = [field for field in state["fields"] if "options" not in field]
        if numbers:
            box.get_by_label(numbers[0]["label"], exact=True).fill("many")
            box.get_by_role("button", name="Check").click()
            assert said.inner_text() == "“many” is not a number."


@pytest.mark.parametrize(
    "name", ["notebooks/03-skip-and-residual", "book/evidence", "book/catalogue", "book/intro"]
)
def test_no_page_complains_on_the_console(browser, address, name):
    complaints = []
    page = browser.new_context().new_page()
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{address}{name}.html")
    page.wait_for_load_state("networkidle")
    page.context.close()
    assert [text for text in complaints if "404" not in text] == []


def test_a_dotted_word_explains_itself_on_hover_focus_and_tap(visit):
    page = visit(
        "notebooks/03-skip-and-residual.html", viewport={"width": 375, "height": 800}, has_touch=True
    )
    term = page.locator("a:has(.std-term)").first
    bubble = page.get_by_role("tooltip")
    assert not bubble.is_visible()
    term.hover()
    assert len(bubble.inner_text()) > 20
    page.keyboard.press("Escape")
    assert not bubble.is_visible()
    term.focus()
    assert bubble.is_visible() and term.get_attribute("aria-describedby") == bubble.get_attribute("id")
    box = bubble.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 375
    page.keyboard.press("Escape")
    address = page.url
    term.tap()
    assert bubble.is_visible() and page.url == address
    term.tap()
    page.wait_for_url(re.compile("glossary.html#term-"))


def test_a_static_figure_enlarges_on_click(visit):
    page = visit("notebooks/03-skip-and-residual.html")
    picture = page.get_by_role("button", name=re.compile(r"\(enlarge\)")).first
    assert ".svg" in picture.get_attribute("src")
    picture.click()
    dialog = page.get_by_role("dialog")
    assert dialog.is_visible() and dialog.locator("img").bounding_box()["width"] > 700
    dialog.click()
    assert not dialog.is_visible()


def test_a_lesson_that_is_named_is_a_link_and_the_sidebar_numbers_lessons(visit):
    page = visit("book/teachers.html")
    assert (
        page.locator("article a", has_text=re.compile("^lesson 3$"))
        .first.get_attribute("href")
        .endswith("03-skip-and-residual.html")
    )
    entries = page.locator(".bd-sidebar-primary a[href*='notebooks/']").all_inner_texts()
    numbered = [int(m[1]) for text in entries if (m := re.match(r"(\d+)\s", text.strip()))]
    assert numbered == list(range(len(LESSONS)))


@pytest.mark.parametrize("words", ["W4A4", "confidence interval", "PTQ"])
def test_search_finds_what_a_newcomer_types(visit, words):
    page = visit(f"search.html?q={words.replace(' ', '+')}")
    page.locator("#search-results li").first.wait_for()
    assert "glossary" in page.locator("#search-results").inner_html().lower()


def test_the_catalogue_shows_any_column_and_stacks_on_a_phone(visit):
    page = visit("book/catalogue.html", viewport={"width": 1280, "height": 900})
    heads = page.locator(".catalogue thead th")
    seen = page.locator(".catalogue thead th:visible").count()
    assert 5 < seen < heads.count()
    hidden = page.get_by_role("checkbox", checked=False).first
    hidden.check()
    assert page.locator(".catalogue thead th:visible").count() == seen + 1
    phone = visit("book/catalogue.html", viewport={"width": 375, "height": 800})
    cell = phone.locator(".catalogue tbody td:visible").first
    assert cell.bounding_box()["width"] > 250
    label = cell.evaluate("cell => getComputedStyle(cell, '::before').content")
    assert json.loads(label) == cell.get_attribute("data-label") != ""


def test_a_table_that_is_cut_off_fades_until_its_end_is_seen(visit):
    page = visit("book/evidence.html", viewport={"width": 375, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    wide = page.locator(".pst-scrollable-table-container.more").first
    wide.wait_for()
    assert wide.evaluate("box => box.scrollWidth > box.clientWidth")
    box = wide.element_handle()
    box.evaluate("box => box.scrollTo(box.scrollWidth, 0)")
    page.wait_for_function("box => !box.classList.contains('more')", arg=box)


def test_two_switches_move_the_quantizers_and_both_bars(visit):
    page = visit("notebooks/03-skip-and-residual.html")
    figure = page.get_by_role("region", name="A residual block and its quantizers")
    figure.locator("svg").first.wait_for()
    said = [figure.inner_text()]
    places = [figure.locator("text", has_text=re.compile("^Q$")).count()]
    for name in ("quantize the skip connection", "quantize the residual"):
        figure.get_by_role("checkbox", name=name).uncheck()
        said.append(figure.inner_text())
        places.append(figure.locator("text", has_text=re.compile("^Q$")).count())
    assert places == [3, 2, 1] and len(set(said)) == 3
    assert "inputs only, 4 bits" in said[-1] and "kB" in figure.locator("svg").last.text_content()


def test_the_interval_is_shown_with_images_and_seeds(visit):
    page = visit("book/verdicts.html")
    figure = page.get_by_role("region", name="An interval of a difference")
    figure.locator("svg").wait_for()
    assert "undecided (images only)" in figure.inner_text()
    seeds = figure.get_by_role("slider", name="Seeds")
    for _ in range(4):
        seeds.press("ArrowRight")
    assert "holds" in figure.inner_text() and figure.locator("circle").count() == 1 + 5
