"""The site that `make book` built: nothing broken, nothing blank, nothing heavy, nothing fetched from
elsewhere.
"""

import gzip
import importlib.util
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml

from qlib.book import WIDGET_VIEW, glossary
from qlib.book.address import is_placeholder, repository, site
from qlib.widgets.engine.bundle import FOLDER

BeautifulSoup = pytest.importorskip("bs4").BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
PAGES = sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TOP = urlsplit(site(repository())).path or "/"  # what the host puts before the addresses of the site
# By us, or the glossary itself
NOT_WRITTEN = {"404", "genindex", "glossary", "index", "py-modindex", "references", "search"}

built = pytest.mark.skipif(not PAGES, reason="the site is not built: run `make book` first")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(SITE).as_posix())


@cache
def read(page):
    return BeautifulSoup(page.read_text("utf8"), "html.parser")


@cache
def anchors(page):
    return {tag["id"] for tag in read(page).select("[id]")}


def target(page, path):
    """The file that a link of a page leads to."""
    return SITE / unquote(path).removeprefix(TOP) if path.startswith("/") else page.parent / unquote(path)


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
        source = image["src"]
        description = image.get("alt", "").strip()
        assert target(page, source).is_file(), source
        assert description and not description.endswith((".png", ".svg")), (
            f"{source} has no alt text of its own"
        )


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
        to = target(page, url.path).resolve() if url.path else page
        assert to.is_file(), f"{link['href']} leads nowhere"
        if url.fragment and to.suffix == ".html":
            assert unquote(url.fragment) in anchors(to), f"{link['href']} has no such anchor"


@built
@every_page
def test_nothing_is_fetched_from_another_host(page):
    fetched = read(page).select("script[src], img[src], iframe[src], link[rel=stylesheet], link[rel=preload]")
    sources = [tag.get("src") or tag.get("href") for tag in fetched]
    assert [source for source in sources if urlsplit(source).netloc] == []
    local = [source for source in sources if not source.startswith("data:")]
    assert [source for source in local if not target(page, urlsplit(source).path).is_file()] == []


@built
@every_page
def test_tables_are_tables(page):
    """Markdown that no parser made a table of stays a line of bars."""
    assert [
        p.get_text()[:60] for p in read(page).select("article p") if p.get_text().lstrip().startswith("|")
    ] == []


@built
def test_formulas_are_drawn():
    page = SITE / "book" / "notation.html"
    assert read(page).select(".math") and [
        s for s in read(page).select("script[src]") if "mathjax" in s["src"]
    ]


@built
@every_page
def test_launch_buttons(page):
    """No link to the repository while its owner is a placeholder; a Colab button on every notebook
    afterwards.
    """
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


@built
def test_every_figure_of_a_lesson_has_caption_and_name():
    for path in NOTEBOOKS:
        for image in read(SITE / "notebooks" / f"{path.stem}.html").select(".cell_output img"):
            figure = image.find_parent("figure")
            if image.find_parent("section", id="move"):
                continue  # what a slider drew last
            assert (
                figure
                and figure.get("id")
                and figure.select_one("figcaption .caption-text").get_text().strip()
            ), image["src"]


def in_prose(text):
    """Whether a piece of a page is what the glossary is for: neither code, heading, quotation or caption, nor
    folded away.
    """
    aside = [
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "code",
        "pre",
        "blockquote",
        "figcaption",
        "script",
        "details",
        "dt",
    ]
    classes = ["cell_output", "math", "sd-card", "py", "catalogue", "qlib-figure"]
    return not text.find_parent(aside) and not text.find_parent(class_=classes)


def linked_terms(page):
    """The words of the glossary on a page: the first use of each, and whether it leads to the glossary."""
    first = {}
    for text in filter(in_prose, read(page).select_one("article.bd-article").find_all(string=True)):
        link = text.find_parent("a")
        if link and "glossary.html#term-" not in link["href"]:
            continue
        for match, term in glossary.uses(text):
            first.setdefault(glossary.terms()[term], (match.group(), bool(link)))
    return first


@built
@every_page
def test_a_word_of_the_glossary_is_linked_where_a_page_first_uses_it(page):
    if page.stem not in NOT_WRITTEN:
        assert [word for word, linked in linked_terms(page).values() if not linked] == []


@built
def test_no_word_of_the_glossary_is_idle_and_every_lesson_uses_some():
    uses = {page.stem: set(linked_terms(page)) for page in PAGES if page.stem not in NOT_WRITTEN}
    assert set(glossary.terms().values()) == set.union(*uses.values())
    assert all(len(uses[path.stem]) >= 5 for path in NOTEBOOKS if re.match(r"\d\d-", path.stem))


@built
@every_page
def test_a_page_says_what_it_is_to_those_who_share_it(page):
    head = {tag.get("property") or tag.get("name"): tag.get("content") for tag in read(page).select("meta")}
    assert all(
        head[name]
        for name in ("description", "og:title", "og:description", "og:type", "og:site_name", "twitter:card")
    )
    assert len(head["description"]) <= 200
    for name in ("og:image", "og:url"):  # absolute or absent
        assert (name in head) == bool(site(repository())) and head.get(name, "https://").startswith(
            "https://"
        )
    assert page == SITE / "index.html" or read(page).select_one("link[rel=icon]")


@built
def test_lessons_describe_themselves_differently():
    pages = [read(SITE / "notebooks" / f"{path.stem}.html") for path in NOTEBOOKS]
    assert len({page.select_one('meta[name="description"]')["content"] for page in pages}) == len(pages)


@built
def test_the_page_for_dead_addresses_works_at_any_depth():
    page = SITE / "404.html"
    named = [
        tag.get(name)
        for tag in read(page).find_all(True)
        for name in ("href", "src", "action", "data-content_root")
    ]
    assert [to for to in named if to and not to.startswith((TOP, "#", "https://", "data:"))] == []
    assert [link for link in read(page).select("article a") if link["href"] == f"{TOP}book/intro.html"]


PACKAGES = (
    "sphinx",
    "sphinx_book_theme",
    "pydata_sphinx_theme",
    "sphinx_thebe",
    "sphinx_togglebutton",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx-mathjax-offline",
    "myst_nb",
)


@cache
def own_assets():
    """Files of the site that are not the theme's or an extension's: name, bytes compressed, text."""
    found = [Path(importlib.util.find_spec(name).submodule_search_locations[0]) for name in PACKAGES]
    theirs = {path.name for folder in found for path in folder.rglob("*.*")}
    own = [
        path
        for folder in ("_static", "_images")
        for path in (SITE / folder).rglob("*.*")
        if path.name not in theirs
    ]
    return [(path, len(gzip.compress(path.read_bytes())), path.read_text("utf8", "ignore")) for path in own]


def needed(page):
    """The assets of our own that a page names, or that what it names does, by file name or, of a module, by
    quoted stem.
    """
    texts = [page.read_text("utf8")]
    found = {}
    for text in texts:
        for path, size, inside in own_assets():
            if path not in found and (
                path.name in text or (path.suffix in (".js", ".json") and f'"{path.stem}"' in text)
            ):
                found[path] = size
                if path.suffix in (".js", ".css"):
                    texts.append(inside)
    return found


@built
@every_page
def test_no_page_needs_more_than_400_kb_of_our_own(page):
    assets = needed(page)
    assert page.name == "index.html" or SITE / "_static" / "book.css" in assets
    assert len(gzip.compress(page.read_bytes())) + sum(assets.values()) <= 400_000, assets


@built
@every_page
def test_our_scripts_do_not_hold_up_the_page(page):
    own = {path.name for path in (ROOT / "book" / "assets").rglob("*.js")}
    for script in read(page).select("head script[src], body script[src]"):
        late = script.has_attr("defer") or script.has_attr("async") or script.get("type") == "module"
        assert late or Path(urlsplit(script["src"]).path).name not in own, script["src"]


def test_with_an_address_a_lesson_has_edit_colab_and_download_links_and_a_picture(tmp_path):
    """One lesson, built without running it, for an owner who is not a placeholder."""
    pytest.importorskip("jupyter_book")
    name = "03-skip-and-residual"
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    config["repository"]["url"] = "https://github.com/Ada/tradeoffs"
    config["execute"] = {"execute_notebooks": "off"}
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    toc = {
        "format": "jb-book",
        "root": "book/notation",
        "chapters": [{"file": "book/glossary"}, {"file": f"notebooks/{name}"}],
    }
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("results", "experiments"))
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", tmp_path / "notebooks")
    html = tmp_path / "_build" / "html"
    if (SITE / FOLDER).is_dir():  # what pages measure with takes long to make, and is not what is asked
        shutil.copytree(SITE / FOLDER, html / FOLDER)
    command = [Path(sys.executable).with_name("jupyter-book"), "build", tmp_path]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    page = BeautifulSoup((html / "notebooks" / f"{name}.html").read_text("utf8"), "html.parser")
    links = [link["href"] for link in page.select("a[href]")]
    assert f"https://github.com/Ada/tradeoffs/edit/main/notebooks/{name}.ipynb" in links
    assert f"https://colab.research.google.com/github/Ada/tradeoffs/blob/main/notebooks/{name}.ipynb" in links
    assert [link for link in links if link.startswith("https://github.com/Ada/tradeoffs/issues/new")]
    download = f"../_sources/notebooks/{name}.ipynb"
    assert download in links and (html / "_sources" / "notebooks" / f"{name}.ipynb").is_file()
    head = {tag["property"]: tag["content"] for tag in page.select("meta[property]")}
    assert head["og:url"] == f"https://ada.github.io/tradeoffs/notebooks/{name}.html"
    assert (
        head["og:image"] == "https://ada.github.io/tradeoffs/_static/figure.png"
        and (html / "_static/figure.png").is_file()
    )
    assert 'href="/tradeoffs/_static/' in (html / "404.html").read_text("utf8")
    for other in html.glob("*.html"):  # pages that no file was written for
        assert not re.search(r"tradeoffs/(edit|blob)/[^\"]*(404|genindex|search)", other.read_text("utf8")), (
            other.name
        )
