"""The site that `make book` built: nothing broken, nothing blank, nothing fetched from elsewhere."""

from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from qlib.book import WIDGET_VIEW
from qlib.book.address import is_placeholder, repository

BeautifulSoup = pytest.importorskip("bs4").BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
PAGES = sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

built = pytest.mark.skipif(not PAGES, reason="the site is not built: run `make book` first")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(SITE).as_posix())


@cache
def read(page):
    return BeautifulSoup(page.read_text("utf8"), "html.parser")


@cache
def anchors(page):
    return {tag["id"] for tag in read(page).select("[id]")}


@built
def test_every_notebook_has_its_page():
    assert [path.stem for path in NOTEBOOKS if not (SITE / "notebooks" / f"{path.stem}.html").is_file()] == []


@built
@every_page
def test_no_error_output(page):
    assert [tag.get_text() for tag in read(page).select(".cell_output .traceback, .system-message")] == []


@built
@every_page
def test_no_widget_that_cannot_act(page):
    assert not read(page).select(f'script[type="{WIDGET_VIEW}"]')


@built
@every_page
def test_images_exist_and_have_a_description(page):
    for image in read(page).find_all("img"):
        source, description = image["src"], image.get("alt", "").strip()
        assert (page.parent / unquote(source)).is_file(), source
        assert description and not description.endswith((".png", ".svg")), f"{source} has no alt text of its own"


@built
def test_figures_have_distinct_descriptions():
    descriptions = [image.get("alt") for page in PAGES for image in read(page).select("article img")]
    assert sorted(descriptions) == sorted(set(descriptions))


@built
@every_page
def test_internal_links_resolve(page):
    for link in read(page).select("a[href]"):
        url = urlsplit(link["href"])
        if url.scheme or url.netloc or link["href"] == "#":
            continue
        target = (page.parent / unquote(url.path)).resolve() if url.path else page
        assert target.is_file(), f"{link['href']} leads nowhere"
        if url.fragment and target.suffix == ".html":
            assert unquote(url.fragment) in anchors(target), f"{link['href']} has no such anchor"


@built
@every_page
def test_nothing_is_fetched_from_another_host(page):
    fetched = read(page).select("script[src], img[src], iframe[src], link[rel=stylesheet], link[rel=preload]")
    sources = [tag.get("src") or tag.get("href") for tag in fetched]
    assert [source for source in sources if urlsplit(source).netloc] == []
    local = [source for source in sources if not source.startswith("data:")]
    assert [source for source in local if not (page.parent / unquote(urlsplit(source).path)).is_file()] == []


@built
@every_page
def test_tables_are_tables(page):
    """Markdown that no parser made a table of stays a line of bars."""
    assert [p.get_text()[:60] for p in read(page).select("article p") if p.get_text().lstrip().startswith("|")] == []


@built
def test_formulas_are_drawn():
    page = SITE / "book" / "notation.html"
    assert read(page).select(".math") and [s for s in read(page).select("script[src]") if "mathjax" in s["src"]]


@built
@every_page
def test_launch_buttons(page):
    """No link to the repository while its owner is a placeholder; a Colab button on every notebook afterwards."""
    links = [link["href"] for link in read(page).select("a[href]")]
    if is_placeholder(repository()):
        assert [link for link in links if "/OWNER/" in link or "colab.research.google.com" in link] == []
    elif page.parent.name == "notebooks":
        slug = repository().removeprefix("https://github.com/")
        colab = f"https://colab.research.google.com/github/{slug}/blob/main/notebooks/{page.stem}.ipynb"
        assert colab in links


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "language_info" in notebook.metadata  # papermill asks for it
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
