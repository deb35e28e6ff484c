"""The house: a room imports only from rooms above it, and the core from nothing else."""

import ast
from pathlib import Path

import pytest

QLIB = Path(__file__).resolve().parents[1] / "qlib"
CORE = (
    "names",
    "strict_yaml",
    "own",
    "choices",
    "acting",
    "config",
    "affine",
    "aciq",
    "ranges",
    "network",
    "placement",
    "quantizer",
    "progress",
    "reconstruction",
    "methods",
    "quantization",
    "footprints",
    "intervals",
    "scores",
    "metrics",
    "evaluation",
    "comparison",
)
ROOMS = (
    *CORE,
    "files",
    "noise",
    "advice",
    "diagnosis",
    "looks",
    "bits",
    "benches",
    "devices",
    "experiments",
    "laboratory",
    "provenance",
    "tables",
    "results",
    "equal_bits",
    "shares",
    "workers",
    "recording",
    "export",
    "kernels",
    "cards",
    "plots",
    "headline",
    "widgets",
    "lesson",
    "commands",
    "cli",
    "__main__",
    "book",
)
FILES = sorted(path for path in QLIB.rglob("*.py") if path != QLIB / "__init__.py")


def room_of(path):
    return path.relative_to(QLIB).parts[0].removesuffix(".py")


def imported(path):
    """The rooms that a module imports from, anywhere in it, but for what only tools that read types see."""
    tree = ast.parse(path.read_text("utf8"))
    only_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = path.relative_to(QLIB.parent).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(tree):
        if node in only_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "qlib" and len(name) > 1 and name[1] in ROOMS}
    return found


def test_every_module_is_in_a_room():
    assert {room_of(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(QLIB)))
def test_a_room_imports_only_from_rooms_above_it(path):
    own = room_of(path)
    below = {room for room in imported(path) if ROOMS.index(room) > ROOMS.index(own)}
    assert not below, f"{path.name} imports from {', '.join(sorted(below))}, below {own}"


def test_the_core_imports_nothing_from_the_rest():
    core = [path for path in FILES if room_of(path) in CORE]
    assert len(core) > 25
    assert {room for path in core for room in imported(path)} <= set(CORE)
