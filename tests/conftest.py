"""Fixtures that several rooms share."""

import shutil

import pytest
import torch
from helpers import DATA
from hypothesis import settings

import qlib

settings.register_profile("stable", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("stable")


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def bench():
    return qlib.load_bench("digits")


@pytest.fixture(scope="session")
def data_folder():
    """A network and images that the project did not make, beside the repository."""
    if not DATA.is_dir():
        pytest.skip(f"there is no folder {DATA.name!r} beside the repository")
    return DATA


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium that this machine has, driven by Playwright's synchronous interface: ``browser.new_page()``."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = [path for path in map(shutil.which, names) if path]
    if not found:
        pytest.skip("no Chromium and no Chrome on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found[0], args=["--no-sandbox"])  # containers run as root
        yield browser
        browser.close()
