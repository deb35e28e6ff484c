"""Fixtures that several rooms share."""

import functools
import http.server
import os
import shutil
import threading

import pytest
import torch
from helpers import DATA, MEASURED, SITE
from hypothesis import settings

import qlib
from qlib import results

ARGUMENTS = [
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",  # no other host is there
]

settings.register_profile("stable", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("stable")

if "PYTEST_XDIST_WORKER" in os.environ:  # processes of several threads each would only wait for one another
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def bench():
    return qlib.load_bench("digits")


@pytest.fixture(scope="session")
def cards():
    """Two cards of recorded rows that differ in one choice: the skip connection quantized, and in float."""
    table = results.load_table(results.table_path("digits", "skip-residual"))

    def card(**where):
        return qlib.QuantizationCard.from_rows(
            results.select(table, [f"{k}={v}" for k, v in where.items()]), table
        )

    return [
        card(activation_bits=4, quantize_residual="false", quantize_skip=skip) for skip in ("true", "false")
    ]


@pytest.fixture(scope="session")
def data_folder():
    """A network and images that the project did not make, beside the repository."""
    if not DATA.is_dir():
        pytest.skip(f"there is no folder {DATA.name!r} beside the repository")
    return DATA


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium that this machine has, driven by Playwright's synchronous interface:
    ``browser.new_page()``.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = [path for path in map(shutil.which, names) if path]
    if not found:
        pytest.skip("no Chromium and no Chrome on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found[0], args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def measured_site(tmp_path_factory):
    """A folder with the files that a page measures with, for the networks `helpers.MEASURED`."""
    from qlib.widgets.engine import bundle

    folder = tmp_path_factory.mktemp("site")
    built = SITE / bundle.FOLDER
    if built.is_dir():  # what is made of the same stays: ranges take long
        shutil.copytree(built, folder / bundle.FOLDER)
    bundle.write_bundle(folder / bundle.FOLDER, MEASURED)
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def address():
    """Where the built site is served, with a slash at its end."""
    if not SITE.is_dir():
        pytest.skip("the site is not built: run `make book` first")
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=SITE)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def visit(browser, address):
    """Opens a page of the site in one of the two themes, all that is folded unfolded; no other host can be
    reached.
    """
    contexts = []

    def visit(name, theme="light", **options):
        contexts.append(browser.new_context(color_scheme=theme, reduced_motion="reduce", **options))
        contexts[-1].route(
            "**/*",
            lambda route: route.continue_() if route.request.url.startswith(address) else route.abort(),
        )
        page = contexts[-1].new_page()
        page.goto(address + name)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        page.evaluate("document.querySelectorAll('details').forEach(folded => { folded.open = true })")
        return page

    yield visit
    for context in contexts:
        context.close()
