"""The lessons run, their sliders do what they say, and they are committed without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
SECTIONS = ["Question", "Predict", "The idea in fifteen lines", "Measure", "See", "Move", "Read", "What else changed",
            "Takeaways", "Exercises", "References"]  # fmt: skip
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
    assert (panel.wait(120).accuracy.correct == expected.correct).all() and f"{expected.top1:.2f} %" in panel._answer.value
    assert panel.config != before
"""
PICTURE = """
import numpy
from IPython.utils.capture import capture_output

for bits, percentile, symmetric in ((4, 99.99, True), (3, 99.99, True), (3, 99.0, True), (3, 99.0, False)):
    with capture_output() as seen:
        draw(bits, percentile, symmetric)
    ends = [torch.tensor(float(numpy.percentile(x.double().numpy(), p))) for p in (100 - percentile, percentile)]
    error = (affine.fake_quantize(x, affine.make_grid(*ends, bits, symmetric)) - x).square().mean()
    assert f"error {error:.5f}" in seen.stdout, (seen.stdout, error)
"""
PICKER = """
from IPython.utils.capture import capture_output

for a, b in (("BRECQ", "QDrop"), ("skip quantized", "skip in float")):
    with capture_output() as seen:
        compare_cards(a, b, "litert-int8")
    report = compare.report(everything[a], everything[b], everything[a].differences(everything[b]))
    assert seen.stdout.startswith(report) and all(str(finding) in seen.stdout for finding in everything[a].fits("litert-int8"))
"""
STEPS = PANEL + """
from IPython.utils.capture import capture_output

bars = []
plots.plt.show = lambda: bars.append([bar.get_height() for bar in plots.plt.gca().patches])
for step in (0, learned.step):
    steps.value = step
    with capture_output() as seen:
        draw(step)
    row = learned.history.iloc[step]
    assert bars[-1] == [round(row[f"weight:{name}"]) for name in layers]
    assert f"step {step}: loss {row.loss:.3f}, average {row.average_weight_bits:.3f}" in seen.stdout
"""
SLIDERS = {"00-uniform-quantization": PICTURE, "09-learning-bitwidths": STEPS, "10-quantization-cards": PICKER}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_lesson_runs_and_its_sliders_give_what_quantize_and_evaluate_give(path):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(SLIDERS.get(path.stem, PANEL)))
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert "they agree" in str(outputs) and "they disagree" not in str(outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_lesson_has_its_sections_in_order_short_cells_and_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    assert [line[3:] for line in prose.splitlines() if line.startswith("## ")] == SECTIONS
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(len(c.source.splitlines()) <= 15 and not c.outputs for c in code)
