"""The lessons run, their sliders and checks do what they say, and they are committed without outputs."""

import re
import statistics
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from qlib.book.minutes import FOLDED, STATED, minutes, words

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
LESSONS = [path for path in NOTEBOOKS if re.match(r"\d\d-", path.stem)]
DEEPER = [path for path in NOTEBOOKS if path not in LESSONS]
SECTIONS = [
    "Question",
    "Predict",
    "The idea in fifteen lines",
    "See",
    "Move",
    "Read",
    "Takeaways",
    "Exercises",
]
TAGS = {"setup", "parameters", "remove-cell", "remove-input", "remove-stderr"}
FIGURES = (
    *("opening_figure", "residual_block", "quantizer_explorer", "card_comparison", "league_table"),
    *("tradeoff_costs", "token_ranges", "perplexity_bits"),
)
LIVING = rf"\b({'|'.join(FIGURES)})\(|^explored$|^compared$"
PANEL = """
import ipywidgets

assert panel.accuracy is not None, "the cell that shows a panel ended before its first answer was complete"
front = [control for control in panel.widget.children if control in panel.controls.values() and not control.disabled]
assert len(front) > 1
for control in front:
    before = panel.config
    if isinstance(control, ipywidgets.Checkbox):
        control.value = not control.value
    else:
        control.index = (control.index + 1) % len(control.options)
    expected = qlib.evaluate(qlib.quantize(panel.model, panel.config, panel.calibration), panel.validation)
    assert (panel.wait(120).accuracy.correct == expected.correct).all()
    assert f"{expected.top1:.2f} %" in panel._answer.value
    assert panel.config != before
"""  # noqa: E501
EXPLORER = """
import numpy

from qlib.widgets.quantizer import measure

rows = list(explored.values())[-1]
for bits, percentile, symmetric in ((4, 99.99, True), (3, 99.99, True), (3, 99.0, True), (3, 99.0, False)):
    ends = [torch.tensor(float(numpy.percentile(rows.double().numpy(), p))) for p in (100 - percentile, percentile)]
    parts = split_error(rows, affine.make_grid(*ends, bits, symmetric))
    found = measure(rows, bits, percentile, symmetric)
    assert numpy.allclose(parts, (found["rounding"], found["clipping"]), rtol=1e-4, atol=1e-9), (parts, found)
"""  # noqa: E501
COMPARISON = """
names = list(everything)
for a, b in (("BRECQ", "QDrop"), ("skip quantized", "skip in float")):
    pair = compared.state["pairs"][f"{names.index(a)} {names.index(b)}"]
    found = everything[a].differences(everything[b])
    assert pair["head"] == compare.report(everything[a], everything[b], found).splitlines()[0]
    assert pair["worth"] == {choice.field: choice.said() for choice in found if choice.said()}
"""
STEPS = (
    PANEL
    + """
moves = learning_steps(learned, BITS).state
for step in (0, learned.step):
    row = learned.history.iloc[step]
    assert moves["bits"][step] == [round(row[f"weight:{layer['name']}"]) for layer in moves["layers"]]
    assert abs(moves["average"][step] - row.average_weight_bits) < 1e-4 and abs(moves["loss"][step] - row.loss) < 1e-4
assert [layer["name"] for layer in moves["layers"]] == layers and moves["kept"] == learned.step
"""  # noqa: E501
)
TOKENS = """
for _, values in samples.values():
    beside = numpy.ones(values.shape, bool)
    token, channel = numpy.unravel_index(numpy.abs(values).argmax(), values.shape)
    beside[token] = beside[:, channel] = False
    for ranges, size in sizes.items():
        for bits in (2, 4, 8):
            error = (rounded(values, bits, size) - values)[beside]
            share = (error**2).sum() / (values[beside] ** 2).sum()
            assert numpy.isclose(share, lost(values, bits, ranges)), (ranges, bits)
"""
GROUPS = """
layer = torch.nn.Linear(weights.shape[1], len(weights), bias=False)
x = torch.randn(2, weights.shape[1])
for bits in BITS:
    for size in SIZES:
        grouped = {"weight_granularity": "per_group", "group_size": size, "first_last_bits": None}
        config = qlib.QuantConfig(weight_bits=bits, activation_bits=None, **grouped)
        assert abs(taken(bits, size) - qlib.footprint(layer, x, config).effective_weight_bits) < 1e-9
assert [p["bits"] for p in perplexities.perplexity_bits(points, in_float).state["points"]] == [
    [round(b, 4) for b in perplexities.bits(point.run.config)] for point in points
]
"""
SLIDERS = {
    "14-language-models": GROUPS,
    "13-transformers": "import numpy\n" + TOKENS,
    "00-uniform-quantization": EXPLORER,
    "09-learning-bitwidths": STEPS,
    "10-quantization-cards": COMPARISON,
}

ANSWERS = {  # the arguments of each lesson's check: right ones, and wrong ones that a reader may well give
    "00-uniform-quantization": ("(0.5, 3)", "(7.5 / 16, 3)", "(0.5, 2)"),
    "01-asymmetric-codes": ("(torch.log2(torch.tensor(3 / 2)).item(),)", "(1,)", "(0,)"),
    "02-per-channel-ranges": (
        "(sum(m.weight.shape[0] for m in bench.models['base'].modules()"
        " if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))),)",
        "(54,)",
    ),
    "03-skip-and-residual": (
        "(qlib.evaluate(qlib.quantize(network, base.replace(activation_bits={'default': 4, **{"
        "e.name: 8 for e in qlib.footprint(network, example, base).layers if e.kind == 'addition'}}),"
        " calibration), validation).top1,)",
        "(live[True, True].top1,)",
    ),
    "04-first-and-last-layer": ("(3.2,)", "(2,)", "(5,)"),
    "05-allowed-bitwidths": ("(4,)", "(3,)", "(27,)"),
    "06-largest-feature-map": ("(4,)", "(0.5,)", "(2,)"),
    "07-pseudo-labels": (
        "(len([m for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]),)",
        "(50,)",
    ),
    "08-float-baseline": ("(100 * top1.better[4] / floats['better'].top1,)", "(top1.better[4],)"),
    "09-learning-bitwidths": ("((8, 2),)", "((4, 4),)", "((2, 2),)"),
    "10-quantization-cards": ("(1,)", "(0,)", "(8,)"),
    "11-method-or-tradeoff": ("(4,)", "(0.25,)", "(2,)"),
    "12-what-a-tradeoff-buys": ("(network.output.in_features,)", "(network.output.out_features,)"),
    "13-transformers": ("(64,)", "(16,)", "(512,)"),
    "14-language-models": ("(4.625,)", "(4.5,)", "(4,)"),
}
CHECK = """
def said(*answer):
    try:
        return check(*answer)
    except AssertionError as error:
        return str(error)


right, *wrong = {answers}
assert said(*(None,) * len(right)) == "waiting for your answer" and said(*right) == "right", said(*right)
for answer in wrong:
    assert said(*answer) not in ("right", "waiting for your answer"), answer
    assert len(said(*answer).split()) > 5, answer
"""


def shows_a_picture(cell):
    kinds = [kind for output in cell.get("outputs", []) for kind in output.get("data", {})]
    return any(kind.startswith("image/") for kind in kinds)


@pytest.mark.parametrize("path", DEEPER, ids=lambda p: p.stem)
def test_a_deeper_page_runs_and_its_figures_are_described(path):
    notebook = parameterize_notebook(load_notebook_node(str(path)), {"LIVE_IMAGES": 500})
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    assert "they disagree" not in str([c.outputs for c in notebook.cells if c.cell_type == "code"])
    about = [cell.metadata.get("mystnb", {}) for cell in filter(shows_a_picture, notebook.cells)]
    assert all(m["image"]["alt"] and m["figure"]["caption"] and m["figure"]["name"] for m in about)


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_runs_and_its_sliders_give_what_quantize_and_evaluate_give(path):
    """With a quarter of the images: the book has them run with all."""
    notebook = parameterize_notebook(load_notebook_node(str(path)), {"LIVE_IMAGES": 500})
    lesson = list(notebook.cells)
    notebook.cells.append(
        nbformat.v4.new_code_cell(CHECK.format(answers=f"[{', '.join(ANSWERS[path.stem])}]"))
    )
    notebook.cells.append(nbformat.v4.new_code_cell(SLIDERS.get(path.stem, PANEL)))
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert "they agree" in str(outputs) and "they disagree" not in str(outputs)
    about = [cell.metadata.get("mystnb", {}) for cell in filter(shows_a_picture, lesson)]
    assert about and all(m["image"]["alt"] and m["figure"]["caption"] and m["figure"]["name"] for m in about)


def visible(notebook):
    return [c for c in notebook.cells if "remove-cell" not in c.metadata.get("tags", [])]


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_begins_with_one_sentence_and_a_living_figure(path):
    first, figure, *_ = visible(nbformat.read(path, as_version=4))
    title, facts, sentence = first.source.split("\n\n")
    assert title.startswith("# ") and STATED.search(facts) and facts.startswith("*")
    assert len(re.findall(r"[.?!](?:\s|$)", sentence)) == 1
    assert figure.cell_type == "code" and figure.metadata["tags"] == ["remove-input"]
    assert re.search(LIVING, figure.source, re.M), figure.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_page_hides_no_code_behind_a_strip_and_prose_comes_in_small_pieces(path):
    notebook = nbformat.read(path, as_version=4)
    assert {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])} <= TAGS
    prose = [words(cell.source) for cell in visible(notebook) if cell.cell_type == "markdown"]
    assert max(prose) <= 90 and statistics.median(prose) <= (50 if path in LESSONS else 60)


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_asks_before_it_tells_and_its_exercises_need_no_kernel(path):
    notebook = nbformat.read(path, as_version=4)
    source = [cell.source for cell in visible(notebook)]
    asked = next(i for i, text in enumerate(source) if "ask.predict(" in text)
    told = next(i for i, text in enumerate(source) if "ask.predicted(" in text)
    begin = next(i for i, text in enumerate(source) if text.startswith("## Exercises"))
    assert asked < told < begin
    assert sum("ask.exercise(" in text for text in source[begin:]) >= 2
    shown = "\n".join(cell.source for cell in visible(notebook) if cell.cell_type == "markdown")
    assert "the panel" not in FOLDED.sub("", shown) and "With a kernel (" not in shown


def test_minutes_count_what_a_reader_sees():
    cells = [
        nbformat.v4.new_markdown_cell("word " * 400 + "\n\n```{dropdown} More\n" + "word " * 900 + "\n```"),
        nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["remove-cell"]}),
        nbformat.v4.new_code_cell("figure", metadata={"tags": ["remove-input"]}),
    ]
    cells[2].outputs = [
        nbformat.v4.new_output("display_data", {"image/svg+xml": "", "text/plain": "<Figure>"})
    ]
    assert minutes(nbformat.v4.new_notebook(cells=cells)) == round(400 / 200 + 0.5)
    cells[2].outputs += cells[2].outputs * 3
    assert minutes(nbformat.v4.new_notebook(cells=cells)) == 4
    assert words("A [link](https://example.org/a/b) and {term}`scale`: $x$") == 5


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_has_its_sections_in_order_short_cells_and_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    assert [line[3:] for line in prose.splitlines() if line.startswith("## ")] == SECTIONS
    code = [c for c in notebook.cells if c.cell_type == "code"]
    lines = [len(c.source.splitlines()) for c in code]
    assert max(lines) <= 15 and statistics.median(lines) < 6 and not any(c.outputs for c in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_lessons_figures_share_one_style_and_are_named_after_it(path):
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert any("plots.use_style()" in c.source for c in code)
    assert not any("set_title(" in c.source for c in code)  # a caption says it
    about = [c.metadata["mystnb"] for c in code if "mystnb" in c.metadata]
    names = [m["figure"]["name"] for m in about if "figure" in m]  # a slider's picture has a description only
    number = path.stem.split("-")[0]
    assert (
        len(set(names)) == len(names)
        and (names or path in DEEPER)
        and all(name.startswith(f"fig-{number}-") for name in names)
    )
    assert all(
        len(m["image"]["alt"]) > 40 and m["image"]["alt"] != m.get("figure", {}).get("caption") for m in about
    )
