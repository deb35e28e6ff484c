"""What a reader brings is found by its file, and told from other code of that name."""

import functools

import pytest

from qlib.methods.bias import Bias
from qlib.metrics import METRICS
from qlib.own import is_spec, named, origin, place_of, short

CODE = """
def f(x):
    return x

class A:
    pass

a = A()
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def test_a_spec_has_a_colon():
    assert is_spec("a.py:b") and is_spec("a.b:c") and not is_spec("top1") and not is_spec(3)
    assert is_spec("a folder/a.py:b") and not is_spec("name: bias") and not is_spec("name: bias\nsteps: 3")


def test_a_key_holds_no_folder():
    for spec in ("a.py:b", "./a.py:b", "/x y/a.py:b"):
        assert short(spec) == "a.py:b"
    assert (short("top1"), short("package.module:b")) == ("top1", "package.module:b")


def test_a_file_is_run_once_and_again_when_it_has_changed(file):
    first = named(f"{file}:f", "function")
    assert named(f"{file.parent}/../{file.parent.name}/mine.py:f", "function") is first
    file.write_text(CODE.replace("return x", "return 2"))
    assert (first(1), named(f"{file}:f", "function")(1)) == (1, 2)
    file.write_text(CODE)
    assert named(f"{file}:f", "function") is first
    assert not list(file.parent.glob("__pycache__"))


def test_a_module_may_be_named_too():
    assert named("os.path:join", "function")("a", "b")
    for spec in ("nowhere.at.all:f", "nowhere.py:f", ":f"):
        with pytest.raises(
            ValueError, match=f"no function '{spec}' .*: give package.module:name or file.py:"
        ):
            named(spec, "function")
    with pytest.raises(ValueError, match="no function 'os:nothing': os has no 'nothing'"):
        named("os:nothing", "function")


def test_another_process_finds_a_class_where_it_stands(file):
    kind = named(f"{file}:A", "class")
    assert place_of(kind) == f"{file}:A" and named(place_of(kind), "class") is kind
    assert place_of(Bias) is Bias


def test_the_origin_of_code_is_its_file(file):
    code = origin(f"{file}:f")
    assert len(code["code"]) == 16
    for name in ("f", "A", "a"):
        assert origin(named(f"{file}:{name}", "thing")) == origin(f"{file}:{name}") == code
    other = file.with_name("other.py")
    other.write_text(CODE)
    assert origin(f"{other}:f") == code  # the same code elsewhere
    other.write_text(CODE + "# more")
    assert origin(f"{other}:f") != code


def test_all_files_count_once(file):
    other = file.with_name("other.py")
    other.write_text("def g(): pass")
    both = origin(f"{file}:f", f"{other}:g")
    assert both not in (origin(f"{file}:f"), origin(f"{other}:g"), origin(f"{other}:g", f"{file}:f"))
    assert origin(f"{file}:f", None, f"{file}:A", len, Bias, f"{other}:g") == both


def test_what_is_brought_along_has_no_origin():
    assert origin(None, Bias(), Bias, len, functools.partial(len), *(m.each for m in METRICS.values())) == {}


def test_code_without_a_source_is_refused():
    scope = {"__name__": "elsewhere"}
    exec("def f(): pass", scope)
    with pytest.raises(ValueError, match="the source of f cannot be read, .*: put it into a file"):
        origin(scope["f"])
