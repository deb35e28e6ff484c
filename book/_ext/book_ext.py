"""What the site needs beyond `_config.yml`: no dead links, no dead sliders, and what pages show from data."""

import json
from pathlib import Path

import yaml
from docutils import nodes

from qlib.book import WIDGET_NOTE, WIDGET_VIEW, cards, costs, evidence, networks
from qlib.book.address import is_placeholder
from qlib.book.status import as_markdown

STATUS_MARK = "<!-- status table -->"
TRIALS_MARK = "<!-- trials table -->"
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


def fill_trials(app, docname, source):
    """Put the scores of `book/trials.yaml` into the teachers' page."""
    if TRIALS_MARK not in source[0]:
        return
    record = Path(app.srcdir, "book/trials.yaml")
    app.env.note_dependency(str(record))
    lines = ["| lesson | scores (of 10) | last | what went wrong and was mended |", "| --- | --- | --- | --- |"]
    for name, trials in yaml.safe_load(record.read_text("utf8")).items():
        scores = ", ".join(str(trial["score"]) for trial in trials) or "not tried yet"
        notes = "; ".join(trial["note"] for trial in trials if trial.get("note"))
        lines.append(f"| [](../notebooks/{name}.ipynb) | {scores} | {trials[-1]['date'] if trials else ''} | {notes} |")
    source[0] = source[0].replace(TRIALS_MARK, "\n".join(lines))


def fill_from_data(app, docname, source):
    """Put the catalogue, the schema and the form into the pages about cards, the verdicts into the evidence page, what ImageNet
    costs into the page on reproducing the paper, and which networks can be read into theirs."""
    marks = {**cards.MARKS, "<!-- evidence -->": evidence.as_markdown, "<!-- costs -->": costs.as_markdown,
             "<!-- networks -->": networks.as_markdown}  # fmt: skip
    for mark, make in marks.items():
        if mark in source[0]:
            source[0] = source[0].replace(mark, make())


def replace_widgets(app, doctree):
    """Outside `make book` a widget arrives here as a script that nothing on the page would run."""
    for node in list(doctree.findall(nodes.raw)):
        if WIDGET_VIEW in node.astext():
            node.replace_self(nodes.paragraph("", "", nodes.emphasis(text=WIDGET_NOTE)))


def setup(app):
    app.connect("config-inited", hide_dead_links, priority=100)  # before the theme reads its options
    app.connect("source-read", fill_status)
    app.connect("source-read", fill_trials)
    app.connect("source-read", fill_from_data)
    app.connect("doctree-read", replace_widgets)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
