"""Whatever is given to `qlib`, it answers with a result or one line: no traceback, nothing written."""

import contextlib
import io
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlib import QuantizationCard, results
from qlib.cards.profile import load_profile, profiles
from qlib.cli import main

WORDS = st.text(max_size=12) | st.sampled_from(
    ["base", "null", "true", "4", "-1", "1e400", "weight_bits", "a: b"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
# What takes long where it is right is left out: an image at most is measured
OPTIONS = st.sampled_from(
    [
        *("--network", "--images", "--calibration-images", "--seed", "--out", "--device", "--precision"),
        *("--bench", "--model", "--weights", "--data", "--preprocess", "--method", "--metric"),
        *("--config-class", "--workers", "--shard", "--where", "--target", "--format", "--json", "--force"),
    ]
)
COMMANDS = st.sampled_from(
    [
        *(["run"], ["sweep"], ["record"], ["merge"], ["results"], ["export"], ["card"], ["diagnose"]),
        *(
            [
                ["card", verb]
                for verb in ("new", "show", "from-onnx", "catalogue", "validate", "diff", "check")
            ]
        ),
    ]
)
GRID = {
    "bench": "digits",
    "images": 1,
    "calibration_images": [1],
    "seeds": [0],
    "networks": ["base"],
    "fixed": {"weight_bits": 4},
    "vary": [{"activation_bits": [4]}],
    "float_baseline": True,
    "own": {"model": "a.py:b", "weights": "c", "data": "d"},
    "metric": "top1",
    "config_class": "a.py:C",
    "name": "x",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder to work in; `clone` is elsewhere, so that nothing is recorded there."""
    patch = pytest.MonkeyPatch()
    path = tmp_path_factory.mktemp("mangled")
    patch.chdir(path)
    patch.setenv("QLIB_CACHE", str(path.parent / "cache"))
    patch.setattr(results, "clone", lambda: path)
    yield path
    patch.undo()


def answered(arguments, folder, may_write=False):
    """The command ends with a status, says at most one line of an error, and leaves the folder as it was."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            status = main([argument.replace("\0", "") for argument in arguments])
        except SystemExit as ended:  # of the parser
            status = ended.code
    assert status in (0, 1, 2)
    if status == 2 and "validate" not in arguments:  # which has a line for every card
        assert errors.getvalue().count("\n") <= 1, errors.getvalue()
    if status == 2 and not may_write:
        assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in set(folder.rglob("*")) - set(before):
        if path.is_file():
            path.unlink()
    return status


def mangled(data, right):
    """A mapping with one place, at any depth, that is something else, more or missing."""
    if not isinstance(right, dict) or not right or data.draw(st.integers(0, 2)) == 0:
        return data.draw(VALUES)
    name = data.draw(st.sampled_from(sorted(right)))
    what = data.draw(st.sampled_from(["other", "missing", "more"]))
    if what == "missing":
        return {key: value for key, value in right.items() if key != name}
    if what == "more":
        return {**right, data.draw(WORDS): data.draw(VALUES)}
    return {**right, name: mangled(data, right[name])}


def text_of(data, right):
    """YAML of something mangled, sometimes mangled again as text."""
    text = yaml.safe_dump(mangled(data, right), allow_unicode=True)
    if data.draw(st.integers(0, 3)) == 0:
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(st.text(max_size=4)) + text[place + data.draw(st.integers(0, 3)) :]
    return text


def write(path, text):
    path.write_bytes(text.encode("utf8", "surrogatepass"))
    return str(path)


FUZZ = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck), max_examples=200
)


@FUZZ
@given(data=st.data())
def test_arguments(folder, data):
    command = data.draw(COMMANDS)
    rest = data.draw(
        st.lists(OPTIONS | WORDS | st.sampled_from(["weight_bits=4", "x.csv", "x.yaml"]), max_size=5)
    )
    if command == ["run"]:
        rest = ["--images", "1", "--calibration-images", "1", *rest]
    answered([*command, *rest], folder)


@FUZZ
@given(data=st.data())
def test_fields(folder, data):
    name = data.draw(
        st.sampled_from(["weight_bits", "bit_choices", "percentile", "float_layers", "steps"]) | WORDS
    )
    value = yaml.safe_dump(data.draw(VALUES), default_flow_style=True).strip()
    answered(["run", f"{name}={value}", "--network", "nowhere"], folder)


@FUZZ
@given(data=st.data())
def test_grids(folder, data):
    given = {**GRID, "networks": ["nowhere"]}
    answered(["sweep", write(folder / "grid.yaml", text_of(data, given))], folder, may_write=True)


CARD = dict(
    QuantizationCard.of("x", weight_bits=4, float_accuracy=71.5, sources={"weight_bits": "here"}).data
)


@FUZZ
@given(data=st.data())
def test_cards_and_profiles(folder, data):
    card = write(folder / "card.yaml", text_of(data, CARD))
    answered(["card", "show", card], folder)
    answered(["card", "validate", card], folder)
    name = data.draw(st.sampled_from(profiles()))
    profile = dict(load_profile(name))
    target = write(folder / "profile.yaml", text_of(data, profile))
    answered(["card", "check", "brecq", "--target", target], folder)


@FUZZ
@given(data=st.data())
def test_tables_and_what_stands_beside_them(folder, data):
    source = Path(__file__).parents[1] / "book" / "results" / "digits" / "float-baseline.csv"
    table, notes = source.read_text("utf8"), source.with_name(f"{source.name}.meta.yaml").read_text("utf8")
    if data.draw(st.booleans()):
        notes = text_of(data, yaml.safe_load(notes))
    else:
        place = data.draw(st.integers(0, len(table)))
        table = table[:place] + data.draw(WORDS) + table[place + data.draw(st.integers(0, 40)) :]
    (folder / "t.csv").write_bytes(table.encode("utf8", "surrogatepass"))
    (folder / "t.csv.meta.yaml").write_bytes(notes.encode("utf8", "surrogatepass"))
    answered(["results", "t.csv"], folder)
    answered(["card", "new", "new.yaml", "--experiment", "t.csv"], folder)
