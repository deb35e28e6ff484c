"""Fixtures that several rooms share."""

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
