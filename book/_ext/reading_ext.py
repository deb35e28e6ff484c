"""What helps a reader along: the minutes that a lesson takes, links where a lesson or a word of the glossary
is named, what a dotted word means, and no script that nothing uses.
"""

import json
import re
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

from qlib.book import glossary, minutes

MINUTES = re.compile(r"<!-- minutes: ([\w-]+) -->")
LESSON = re.compile(r"\blesson (\d{1,2})\b", re.I)
NO_LINK = (nodes.reference, addnodes.pending_xref, nodes.title, nodes.literal, nodes.literal_block, nodes.raw)
GLOSSARY = "book/glossary"
NOT_PROSE = (*NO_LINK, nodes.math, nodes.block_quote, nodes.caption, addnodes.desc, nodes.comment)
FOLDED = ("dropdown", "card")  # of sphinx-design; a card is one link as a whole
UNUSED = "THEBE_JS_URL", "sphinx-thebe.js"  # the first stands on every page twice, which is an error


def state_minutes(app, docname, source):
    """Put the computed minutes into a lesson, and where a page asks for them, as `make book` wrote them
    down.
    """
    record = Path(app.srcdir, "_build/executed/status.json")
    status = json.loads(record.read_text("utf8")) if record.is_file() else {}
    app.env.note_dependency(str(record))
    folder, _, name = docname.rpartition("/")
    known = {lesson: run["minutes"] for lesson, run in status.items() if "minutes" in run}
    if folder == "notebooks" and name in known:
        source[0] = minutes.STATED.sub(f"{known[name]} minutes", source[0], count=1)
    source[0] = MINUTES.sub(lambda match: str(known.get(match[1], "")), source[0])


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


def link_lessons(app, doctree):
    """Make "lesson 3" a link, where it is not part of one or on that lesson's own page."""
    page = app.env.docname
    pages = {int(name[10:12]): name for name in app.env.found_docs if re.match(r"notebooks/\d\d-", name)}
    for text in list(doctree.findall(nodes.Text)):
        if any(isinstance(node, NO_LINK) for node in ancestors(text)):
            continue
        targets = ((match, pages.get(int(match[1]))) for match in LESSON.finditer(text.astext()))
        found = [
            (match, {"reftype": "doc", "reftarget": f"/{target}"})
            for match, target in targets
            if target not in (None, page)
        ]
        link_words(text, page, found)


def write_glossary(app):
    """The meanings of words for the bubbles of ``book.js``, by the anchor of their entry."""
    folder = Path(app.outdir).parent / "assets"
    folder.mkdir(parents=True, exist_ok=True)
    meanings = {f"term-{nodes.make_id(term)}": text for term, text in glossary.meanings().items()}
    script = f"window.GLOSSARY = {json.dumps(meanings)};\n"
    (folder / "glossary.js").write_text(script, "utf8")
    app.config.html_static_path.append(str(folder))
    app.add_js_file("glossary.js", defer="defer")


def drop_unused(app, pagename, templatename, context, doctree):
    """Scripts of an extension that this book does not use."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if not any(word in f"{script} {getattr(script, 'attributes', '')}" for word in UNUSED)
    ]


def setup(app):
    app.connect("source-read", state_minutes)
    app.connect("doctree-read", link_terms)
    app.connect("doctree-read", link_lessons)
    app.connect("builder-inited", write_glossary, priority=100)
    app.connect("html-page-context", drop_unused, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
