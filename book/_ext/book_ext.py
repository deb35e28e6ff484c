"""What the site needs beyond `_config.yml`: no dead links, no dead sliders, and the table of the status page."""

import json
from pathlib import Path

from docutils import nodes

from qlib.book import WIDGET_NOTE, WIDGET_VIEW
from qlib.book.address import is_placeholder
from qlib.book.status import as_markdown

STATUS_MARK = "<!-- status table -->"
NO_STATUS = """\
This site was built without `make book`, so only Jupyter Book's own record is here.

```{nb-exec-table}
```"""


def hide_dead_links(app, config):
    """While the repository's address is a placeholder, show no button that leads there."""
    options = config.html_theme_options
    if is_placeholder(options.get("repository_url", "")):
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


def replace_widgets(app, doctree):
    """Outside `make book` a widget arrives here as a script that nothing on the page would run."""
    for node in list(doctree.findall(nodes.raw)):
        if WIDGET_VIEW in node.astext():
            node.replace_self(nodes.paragraph("", "", nodes.emphasis(text=WIDGET_NOTE)))


def setup(app):
    app.connect("config-inited", hide_dead_links, priority=100)  # before the theme reads its options
    app.connect("source-read", fill_status)
    app.connect("doctree-read", replace_widgets)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
