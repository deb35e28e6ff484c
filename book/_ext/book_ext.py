"""What the site needs beyond `_config.yml`: no dead links, what a page says of itself to those who share it,
and the page for addresses that lead nowhere.
"""

import re
import textwrap
from html import escape, unescape
from pathlib import Path
from urllib.parse import urlsplit

from docutils import nodes

from qlib.book.address import is_placeholder, site

PICTURE = "_static/figure.png"
NOT_FOUND = """<h1>There is no such page</h1>
<p>The address may be mistyped, or the page may have moved: addresses of lessons keep their number.</p>
<ul>
<li><a href="{front}">The front page</a> lists all lessons.</li>
<li><a href="book/choose.html">Which tradeoff do I need?</a> starts from your question.</li>
<li><a href="search.html">Search</a> finds words.</li>
</ul>"""


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


def make_not_found_absolute(app, exception):
    """404.html is shown at any depth, so its links begin at the site's root."""
    page = Path(app.outdir, "404.html")
    if exception is None and page.is_file():
        root = urlsplit(app.config.html_baseurl).path or "/"
        relative = r'\b(href|src|action|data-content_root)="(?!#|/|data:|[a-z]+:)(?:\./)?'
        page.write_text(re.sub(relative, rf'\1="{root}', page.read_text("utf8")), "utf8")


def setup(app):
    app.connect("config-inited", hide_dead_links, priority=100)  # before the theme reads its options
    app.connect("html-page-context", describe_page)
    app.connect("html-page-context", mend_roles)
    app.connect("html-collect-pages", add_not_found)
    app.connect("build-finished", make_not_found_absolute)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
