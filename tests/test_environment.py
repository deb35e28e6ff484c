"""environment.yml and pyproject.toml name the same packages with the same bounds."""

import sys
from pathlib import Path

import yaml
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
CONDA_NAMES = {"torch": "pytorch"}


def bounds(requirements):
    parsed = [Requirement(requirement) for requirement in requirements]
    return {CONDA_NAMES.get(one.name, one.name): str(one.specifier) for one in parsed}


def test_environment_agrees_with_pyproject():
    wanted = bounds([*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])])
    wanted["python"] = PROJECT["requires-python"]

    conda = yaml.safe_load((ROOT / "environment.yml").read_text("utf8"))["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    conda = [entry for entry in conda if isinstance(entry, str) and entry != "pip"]
    assert "-e ." in pip
    assert bounds([*conda, *(entry for entry in pip if entry != "-e .")]) == wanted


def test_upper_bounds_are_the_reasoned_ones():
    requirements = bounds([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["book"]])
    assert [name for name, specifier in requirements.items() if "<" in specifier] == ["jupyter-book"]
