"""What the site needs beyond `_config.yml`: no dead links, no dead sliders, what pages show from data, links
to the glossary, what a page says of itself to those who share it, the page for addresses that lead nowhere,
and the files that pages measure with.
"""

import json
import re
import textwrap
from html import escape, unescape
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from docutils import nodes
from sphinx import addnodes

from qlib.book import (
    WIDGET_NOTE,
    WIDGET_VIEW,
    cards,
    choose,
    costs,
    evidence_page,
    glossary,
    headline_page,
    networks,
    notation,
    processors,
    sessions,
)
from qlib.book.address import is_placeholder, site
from qlib.book.status import as_markdown
from qlib.cards import catalogue
from qlib.headline import said
from qlib.widgets.checkpoint import checkpoint_reader
from qlib.widgets.comparison import card_comparison
from qlib.widgets.engine.bundle import FOLDER, write_bundle
from qlib.widgets.measuring import measuring_panel
from qlib.widgets.opening import opening_figure
from qlib.widgets.paired import paired_answers
from qlib.widgets.tradeoffs import tradeoff_explorer

STATUS_MARK = "<!-- status table -->"
TRIALS_MARK = "<!-- trials table -->"
NO_STATUS = """\
This site was built without `make book`, so only Jupyter Book's own record is here.

```{nb-exec-table}
```"""

GLOSSARY = "book/glossary"
NOT_PROSE = (
    nodes.title,
    nodes.literal,
    nodes.literal_block,
    nodes.reference,
    addnodes.pending_xref,
    nodes.math,
    nodes.raw,
    nodes.block_quote,
    nodes.caption,
    addnodes.desc,
    nodes.comment,
)
FOLDED = ("dropdown", "card")  # of sphinx-design; a card is one link as a whole
PICTURE = "_static/figure.png"
NOT_FOUND = """<h1>There is no such page</h1>
<p>The address may be mistyped, or the page may have moved: addresses of lessons keep their number.</p>
<ul>
<li><a href="{front}">The front page</a> lists all lessons.</li>
<li><a href="book/choose.html">Which tradeoff do I need?</a> starts from your question.</li>
<li><a href="search.html">Search</a> finds words.</li>
</ul>"""


FIGURES = {
    "<!-- opening figure -->": opening_figure,
    "<!-- tradeoff explorer -->": tradeoff_explorer,
    "<!-- paired answers -->": paired_answers,
    "<!-- measuring panel -->": measuring_panel,
    "<!-- card of a checkpoint -->": checkpoint_reader,
    "<!-- comparison of cards -->": lambda: card_comparison(
        {card.name: card for card in catalogue().values()}
    ),
}


def hide_dead_links(app, config):
    """While the repository's address is a placeholder, show no button that leads there. The site's own
    follows from it.
    """
    options = config.html_theme_options
    address = options.get("repository_url", "")
    base = config.html_baseurl or site(address)
    config.html_baseurl = base and base.rstrip("/") + "/"
    if is_placeholder(address):
        options.pop("repository_url")
        options["launch_buttons"] = {}
        for button in ("repository", "issues", "edit_page"):
            options[f"use_{button}_button"] = False


def fill_status(app, docname, source):
    """Put what `make book` wrote down about its runs into the status page."""
    if STATUS_MARK not in source[0]:
        return
    record = Path(app.srcdir, "_build/executed/status.json")
    app.env.note_dependency(str(record))
    table = as_markdown(json.loads(record.read_text("utf8"))) if record.is_file() else NO_STATUS
    source[0] = source[0].replace(STATUS_MARK, table)


def fill_trials(app, docname, source):
    """Put the scores of `book/trials.yaml` into the teachers' page."""
    if TRIALS_MARK not in source[0]:
        return
    record = Path(app.srcdir, "book/trials.yaml")
    app.env.note_dependency(str(record))
    lines = [
        "| lesson | scores (of 10) | last | what went wrong and was mended |",
        "| --- | --- | --- | --- |",
    ]
    for name, trials in yaml.safe_load(record.read_text("utf8")).items():
        scores = ", ".join(str(trial["score"]) for trial in trials) or "not tried yet"
        notes = "; ".join(trial["note"] for trial in trials if trial.get("note"))
        lines.append(
            f"| [](../notebooks/{name}.ipynb) | {scores} | {trials[-1]['date'] if trials else ''} | {notes} |"
        )
    source[0] = source[0].replace(TRIALS_MARK, "\n".join(lines))


def fill_from_data(app, docname, source):
    """Put the catalogue, the schema and the form into the pages about cards, the verdicts into the evidence
    page, what ImageNet costs into the page on reproducing the paper, which networks can be read into theirs,
    and the choices into that of notation.
    """
    marks = {
        **cards.MARKS,
        "<!-- evidence -->": evidence_page.as_markdown,
        "<!-- headline -->": headline_page.as_markdown,
        "<!-- headline results -->": headline_page.results_as_markdown,
        "<!-- headline outcome -->": said.outcome,
        "<!-- costs -->": costs.as_markdown,
        "<!-- networks -->": networks.as_markdown,
        "<!-- sessions -->": sessions.as_markdown,
        "<!-- processors -->": processors.as_markdown,
        notation.MARK: notation.as_markdown,
    }
    for mark, make in marks.items():
        if mark in source[0]:
            source[0] = source[0].replace(mark, make())
    for mark, figure in FIGURES.items():
        if mark in source[0]:
            source[0] = source[0].replace(mark, f"```{{raw}} html\n{figure().to_html()}\n```")
    source[0] = choose.fill(source[0])


def link_terms(app, doctree):
    """Make the first use of each word of the glossary a link, in prose that is neither quoted, nor folded
    away, nor a door.
    """
    page = app.env.docname
    if page == GLOSSARY or GLOSSARY not in app.env.found_docs:
        return
    app.env.note_dependency(str(glossary.PATH))
    linked = set()
    for text in list(doctree.findall(nodes.Text)):
        around = list(ancestors(text))
        explicit = next(
            (n for n in around if isinstance(n, addnodes.pending_xref) and n["reftype"] == "term"), None
        )
        if explicit:
            linked.add(glossary.terms().get(explicit["reftarget"]))
        elif not any(
            isinstance(n, NOT_PROSE) or n.get("nb_element") or n.get("design_component") in FOLDED
            for n in around
        ):
            _link_in(text, page, linked)


def ancestors(node):
    while node.parent is not None:
        node = node.parent
        yield node


def _link_in(text, page, linked):
    """Link the words of ``text`` that are not in ``linked`` yet to their entries."""
    found = []
    for match, term in glossary.uses(text.astext()):
        if glossary.terms()[term] not in linked:
            linked.add(glossary.terms()[term])
            found.append((match, {"reftype": "term", "reftarget": term}))
    link_words(text, page, found, classes=["xref", "std", "std-term"])


def link_words(text, page, found, classes=()):
    """Split ``text`` around matches, each of which becomes a link to what stands beside it."""
    parts = []
    end = 0
    words = text.astext()
    for match, target in found:
        inline = nodes.inline("", match.group(), classes=list(classes))
        link = addnodes.pending_xref(
            "", inline, refdoc=page, refdomain="std", refexplicit=True, refwarn=True, **target
        )
        parts += [nodes.Text(words[end : match.start()]), link]
        end = match.end()
    if parts:
        text.parent.replace(text, [*parts, nodes.Text(words[end:])])


def replace_widgets(app, doctree):
    """Outside `make book` a widget arrives here as a script that nothing on the page would run."""
    for node in list(doctree.findall(nodes.raw)):
        if WIDGET_VIEW in node.astext():
            node.replace_self(nodes.paragraph("", "", nodes.emphasis(text=WIDGET_NOTE)))


def describe_page(app, pagename, templatename, context, doctree):
    """Title, description and picture for search engines and link previews, whose addresses must be absolute:
    without the site's address there is no picture. The front page's stand on the site's own address as
    well.
    """
    title = unescape(re.sub("<[^>]+>", "", context.get("title") or app.config.html_title))
    description, picture, alt = _summary(app, doctree)
    properties = {
        "type": "website" if pagename == app.config.root_doc else "article",
        "site_name": app.config.html_title,
        "title": title,
        "description": description,
    }
    if app.config.html_baseurl:
        properties |= {"url": app.builder.get_target_uri(pagename), "image": picture}
        properties |= {name: app.config.html_baseurl + properties[name] for name in ("url", "image")} | {
            "image:alt": alt
        }
    tags = [f'<meta property="og:{name}" content="{escape(value)}" />' for name, value in properties.items()]
    tags += [
        f'<meta name="description" content="{escape(description)}" />',
        f'<meta name="twitter:card" content="summary{"_large_image" if "image" in properties else ""}" />',
    ]
    context["metatags"] = "\n".join([context.get("metatags", ""), *tags])
    if pagename == app.config.root_doc:
        front = app.builder.get_target_uri(pagename)
        Path(app.outdir, "index.html").write_text(
            "\n".join(
                [
                    "<!DOCTYPE html>",
                    '<html lang="en"><head><meta charset="utf-8" />',
                    f"<title>{escape(title)}</title>",
                    f'<meta http-equiv="refresh" content="0; url={front}" />',
                    *tags,
                    f'</head><body><p><a href="{front}">{escape(title)}</a></p></body></html>',
                    "",
                ]
            ),
            "utf8",
        )


def _summary(app, doctree):
    """First paragraph of a page that is not all in italics, and its first picture with the picture's
    description.
    """
    paragraphs = doctree.findall(nodes.paragraph) if doctree else ()
    words = (
        p.astext()
        for p in paragraphs
        if any(not isinstance(n, nodes.emphasis) for n in p) and p.astext().strip()
    )
    # By now the addresses of images are those of the written page
    images = doctree.findall(nodes.image) if doctree else ()
    pictures = (
        (n["uri"][n["uri"].index(app.builder.imagedir) :], n.get("alt", ""))
        for n in images
        if f"{app.builder.imagedir}/" in n["uri"] and not n["uri"].endswith(".svg")  # previews show none
    )
    front = "Accuracy against activation bits for one network under three placements of its quantizers."
    return (
        textwrap.shorten(next(words, app.config.html_title), 200, placeholder=" …"),
        *next(pictures, (PICTURE, front)),
    )


def mend_roles(app, pagename, templatename, context, doctree):
    """A list of citations whose entries are list items: Sphinx gives them a role that no list may hold."""
    if "citation-list" in context.get("body", ""):
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def add_not_found(app):
    """The page 404.html, which hosts such as GitHub Pages show for every address that leads nowhere."""
    front = app.builder.get_target_uri(app.config.root_doc)
    yield "404", {"title": "There is no such page", "body": NOT_FOUND.format(front=front)}, "page.html"


def add_what_measures(app, exception):
    """The files that pages measure with, once a reader asks for it."""
    if exception is None and app.builder.format == "html":
        write_bundle(Path(app.outdir, FOLDER))


def make_not_found_absolute(app, exception):
    """404.html is shown at any depth, so its links begin at the site's root."""
    page = Path(app.outdir, "404.html")
    if exception is None and page.is_file():
        root = urlsplit(app.config.html_baseurl).path or "/"
        relative = r'\b(href|src|action|data-content_root)="(?!#|/|data:|[a-z]+:)(?:\./)?'
        page.write_text(re.sub(relative, rf'\1="{root}', page.read_text("utf8")), "utf8")


def setup(app):
    app.connect("config-inited", hide_dead_links, priority=100)  # before the theme reads its options
    app.connect("source-read", fill_status)
    app.connect("source-read", fill_trials)
    app.connect("source-read", fill_from_data)
    app.connect("doctree-read", replace_widgets)
    app.connect("doctree-read", link_terms)
    app.connect("html-page-context", describe_page)
    app.connect("html-page-context", mend_roles)
    app.connect("html-collect-pages", add_not_found)
    app.connect("build-finished", make_not_found_absolute)
    app.connect("build-finished", add_what_measures)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
