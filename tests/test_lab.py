"""The panel and the figures in a real JupyterLab, in a browser: keys move them, their answers are those of
`qlib`.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import pytest

import qlib
from qlib.widgets import painter, quantizer

pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
# Milliseconds: a busy machine may take long to start a kernel
IMAGES = 500
SLOW = 120_000
CELLS = [
    "import qlib",
    f"panel = qlib.explore(qlib.load_bench('digits'), images={IMAGES})\npanel",
    "print(panel.config.activation_bits, 'bits, symmetric:', panel.config.activation_symmetric)",
]
LAYERS = ["features.init_block.conv.conv"]
FIGURES = [
    f"""import qlib
from qlib.widgets import painter, quantizer
bench = qlib.load_bench("digits")
quantizer.quantizer_explorer(quantizer.tensors_of(bench.models["base"], bench.calibration(16), {LAYERS}))""",
    "painted = painter.paint_bits(bench)\npainted",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab of our own, in an empty folder with two notebooks, up to a
    notebook's name.
    """
    folder = tmp_path_factory.mktemp("lab")
    token = secrets.token_hex(16)
    for name, cells in (("panel", CELLS), ("figures", FIGURES)):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, folder / f"{name}.ipynb")
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {
        name: str(folder / name)
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    path = os.pathsep.join(
        filter(None, [os.path.dirname(os.path.dirname(qlib.__file__)), os.environ.get("PYTHONPATH")])
    )
    environment = {
        **os.environ,
        **own,
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
    ]
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=5).close()
                break
            except (OSError, urllib.error.URLError):
                assert server.poll() is None, (folder / "lab.log").read_text()
                time.sleep(0.2)
        yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}.ipynb?token={token}&reset"
    finally:
        server.terminate()
        server.wait(30)


def opened(browser, address):
    """A notebook whose kernel is ready, with its first cell chosen. Without a kernel, keys that run a cell
    only pass over it.
    """
    page = browser.new_page(viewport={"width": 1100, "height": 1000})
    page.set_default_timeout(SLOW)
    page.goto(address)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.locator(".jp-Notebook .jp-CodeCell").first.click()
    return page


def measure(bench, **fields):
    """The accuracy and the feature maps' bits of a configuration, as the panel writes them."""
    config = qlib.QuantConfig(**fields)
    network = bench.models["base"]
    accuracy = qlib.evaluate(qlib.quantize(network, config, bench.calibration(320)), bench.validation(IMAGES))
    bits = qlib.footprint(network, bench.validation(1)[0][0], config).average_activation_bits
    return [
        f"{accuracy.top1:.2f} %",
        f"{bits:.2f} bits on average, largest",
        f"On all {IMAGES} validation images",
    ]


def settles_at(page, texts):
    """Whether the panel comes to show these, finished."""
    page.wait_for_function(
        """texts => {
        const panel = document.querySelector(".qpanel[role=status]");
        return panel && panel.getAttribute("aria-busy") == "false" && texts.every(text => panel.innerText.includes(text));
    }""",  # noqa: E501
        arg=texts,
    )
    return True


def test_keys_move_a_slider_the_accuracy_follows_and_quick_moves_leave_nothing_stale(lab, browser, bench):
    page = opened(browser, lab("panel"))
    for _ in CELLS[:2]:
        page.keyboard.press("Shift+Enter")
    assert settles_at(page, measure(bench))

    page.locator(".widget-hslider", has_text="Activation bits").locator(".noUi-handle").focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    assert measure(bench, activation_bits=3)[0] != measure(bench)[0]
    assert settles_at(page, measure(bench, activation_bits=3))

    for key in [*["ArrowRight"] * 6, *["ArrowLeft"] * 4]:  # to 9 and back to 5
        page.keyboard.press(key)
    five = measure(bench, activation_bits=5)
    assert settles_at(page, five)
    for _ in range(15):  # were there a queue, another answer would come
        page.wait_for_timeout(100)
        assert all(text in page.locator(".qpanel[role=status]").inner_text() for text in five)

    page.get_by_role("button", name="Show all other choices").focus()
    page.keyboard.press("Space")
    box = page.get_by_label("Symmetric activations")
    box.wait_for()
    box.focus()
    page.keyboard.press("Space")
    assert settles_at(page, measure(bench, activation_bits=5, activation_symmetric=True))

    last = page.locator(".jp-Notebook .jp-CodeCell").nth(2)
    last.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    last.locator(".jp-OutputArea-output").wait_for()
    assert "5 bits, symmetric: True" in last.inner_text()
    page.close()


def test_the_figures_act_as_on_the_page_and_painted_bits_are_measured(lab, browser, bench):
    page = opened(browser, lab("figures"))
    page.keyboard.press("Shift+Enter")
    explorer = page.locator(".qlib-figure section")
    explorer.locator("svg").wait_for()
    explorer.get_by_role("slider", name="Bits").focus()
    page.keyboard.press("ArrowLeft")  # which JupyterLab would take for itself
    rows = quantizer.tensors_of(bench.models["base"], bench.calibration(16), LAYERS)[
        f"weights of {LAYERS[0]}"
    ]
    shown = {
        cell.get_attribute("data-name"): json.loads(cell.get_attribute("data-value"))
        for cell in explorer.locator("td[data-name]").all()
    }
    assert shown == {
        name: pytest.approx(value, rel=5e-7) for name, value in quantizer.measure(rows, 3).items()
    }

    page.locator(".jp-Notebook .jp-CodeCell").nth(1).click()
    page.keyboard.press("Shift+Enter")
    painted = page.locator("section[aria-label='Bits painter']")
    painted.locator("svg").wait_for()
    presets = painter.recorded_presets("digits")
    state = painter.painter_state(bench.models["base"], bench.validation(1)[0][0], presets)
    base = next(iter(presets.values()))[0]
    for preset in state["presets"][:2]:
        painted.get_by_role("combobox", name="Start from").select_option(preset["name"])
        config = painter.painted_config(base, state["layers"], preset)
        accuracy = qlib.evaluate(
            qlib.quantize(bench.models["base"], config, bench.calibration(320)), bench.validation(2000)
        )
        assert settles_at(page, [f"{accuracy.top1:.2f} %", "On all 2,000 validation images"])
    page.close()
