"""Every page of the built site for those who cannot see it as we do: screen readers, weak eyes, no motion,
paper.
"""

import pytest
from helpers import SITE

PAGES = [
    path.relative_to(SITE).as_posix() for path in sorted(SITE.rglob("*.html")) if "_static" not in path.parts
]
PAGES = [name for name in PAGES if name != "index.html"]  # which only leads to the front page
LESSON = "notebooks/03-skip-and-residual.html"
ALLOWED = {}  # rule of axe: why a violation that is the theme's, not ours, is left

pytestmark = pytest.mark.skipif(not PAGES, reason="the site is not built: run `make book` first")


@pytest.mark.parametrize("name", PAGES)
def test_no_serious_violation(visit, name):
    """All rules of axe in the light theme; then in the dark one, which only has other colours, that of
    contrast.
    """
    page = visit(name)
    assert serious(page) == {}
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme == 'dark'")
    assert serious(page, runOnly=["color-contrast"]) == {}


def serious(page, **options):
    """By rule, where axe finds a serious violation."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, options={"resultTypes": ["violations", "passes"], **options}).response
    assert "color-contrast" in [rule["id"] for rule in found["passes"]]  # it has looked
    return {
        rule["id"]: [node["html"][:200] for node in rule["nodes"][:5]]
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical") and rule["id"] not in ALLOWED
    }


def test_the_check_finds_what_is_wrong(visit):
    page = visit(PAGES[0])
    page.evaluate("""document.querySelector("article").innerHTML +=
        '<p style="color: #ccc; background: #fff">pale</p><input><img src="_static/file.png">'""")
    assert set(serious(page)) == {"color-contrast", "label", "image-alt"}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [LESSON, "book/choose.html"])
def test_on_paper_nothing_is_cut_off_or_folded_and_ink_is_black(visit, name, theme):
    page = visit(name, theme, viewport={"width": 680, "height": 960})  # A4 with its margins
    page.evaluate("document.querySelectorAll('details').forEach(folded => { folded.open = false })")
    page.emulate_media(media="print", color_scheme=theme)
    shown = """selector => [...document.querySelectorAll(selector)].filter(e => e.checkVisibility()
        && e.getBoundingClientRect().height > 0).length"""
    for gone in (
        "#pst-primary-sidebar",
        "#pst-secondary-sidebar",
        ".article-header-buttons",
        "details.hide",
        ".copybtn",
    ):
        assert page.evaluate(shown, gone) == 0, gone
    cut = """[...document.querySelectorAll('article :is(pre, table, img, p)')].filter(e => e.checkVisibility()
        && (e.getBoundingClientRect().right > innerWidth + 1 || e.scrollWidth > e.clientWidth + 1 && e.tagName == 'PRE'))
        .map(e => e.outerHTML.slice(0, 120))"""  # noqa: E501
    assert page.evaluate(cut) == []
    ink = "[...document.querySelectorAll('article :is(p, pre span, td, li)')].map(e => getComputedStyle(e).color)"  # noqa: E501
    assert set(page.evaluate(ink)) == {"rgb(0, 0, 0)"}
    if name == LESSON:
        solution = ".sd-dropdown .sd-card-body"
        assert page.evaluate(shown, solution) == page.locator(solution).count() >= 4


def test_the_printed_lesson_is_a_file_of_a_few_pages(visit):
    printed = visit(LESSON).pdf(format="A4")
    assert printed.startswith(b"%PDF") and 5 < printed.count(b"/Type /Page\n") < 25
