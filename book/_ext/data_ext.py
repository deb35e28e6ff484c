"""What pages show from data: tables, figures that act on the page, and the files that these measure with."""

import json
from pathlib import Path

import yaml
from docutils import nodes

from qlib.book import (
    WIDGET_NOTE,
    WIDGET_VIEW,
    cards,
    choose,
    costs,
    evidence_page,
    headline_page,
    networks,
    notation,
    processors,
    sessions,
)
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


def replace_widgets(app, doctree):
    """Outside `make book` a widget arrives here as a script that nothing on the page would run."""
    for node in list(doctree.findall(nodes.raw)):
        if WIDGET_VIEW in node.astext():
            node.replace_self(nodes.paragraph("", "", nodes.emphasis(text=WIDGET_NOTE)))


def add_what_measures(app, exception):
    """The files that pages measure with, once a reader asks for it."""
    if exception is None and app.builder.format == "html":
        write_bundle(Path(app.outdir, FOLDER))


def setup(app):
    app.connect("source-read", fill_status)
    app.connect("source-read", fill_trials)
    app.connect("source-read", fill_from_data)
    app.connect("doctree-read", replace_widgets)
    app.connect("build-finished", add_what_measures)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
