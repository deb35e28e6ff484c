"""What is imported when: names come when they are asked for, in any order, and nothing comes that is not
needed.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path
from pkgutil import iter_modules

import pytest

import qlib

ROOT = Path(__file__).resolve().parents[1]
NAMES = [*qlib.__all__, "explore"]
MODULES = [module.name for module in iter_modules(qlib.__path__)]
# Jupyter brings a grammar of addresses, compiled on import
GRAMMAR = ("jsonschema", "rfc3987_syntax", "lark")
WHEN_USED = (
    "pandas",
    "torchvision",
    "sklearn",
    "matplotlib",
    "seaborn",
    "ipywidgets",
    "anywidget",
    "pytorchcv",
    *GRAMMAR,
)
SMALL = """
import torch
import qlib
network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10))
batches = [(torch.randn(4, 1, 8, 8), torch.arange(4))]
config = qlib.QuantConfig(weight_bits=4)
"""  # noqa: E501


def fresh(code, folder=ROOT):
    """What a process of its own prints, and the modules that it ends with."""
    code += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    *printed, modules = done.stdout.splitlines()
    return printed, set(json.loads(modules))


def test_the_package_alone_imports_nothing():
    _, modules = fresh("import qlib; dir(qlib); qlib.__version__; hasattr(qlib, '__wrapped__')")
    assert not modules & {"torch", "numpy", "yaml", *WHEN_USED}
    assert {name for name in modules if name.startswith("qlib.")} == set()


def test_a_configuration_needs_no_torch():
    _, modules = fresh("import qlib; assert qlib.QuantConfig(weight_range='mse').weight_bits == 8")
    assert not modules & {"torch", "numpy", *WHEN_USED}


@pytest.mark.parametrize(
    "use",
    [
        "qlib.quantize(network, config, batches)",
        "qlib.evaluate(network, batches)",
        "qlib.footprint(network, batches[0][0], config)",
        "str(qlib.QuantizationCard.from_run(config, qlib.evaluate(qlib.quantize(network, config, batches), "
        "batches)))",
    ],
)
def test_what_measuring_a_small_network_does_not_need_is_not_imported(use):
    _, modules = fresh(SMALL + use)
    assert not modules & set(WHEN_USED)


@pytest.mark.parametrize(
    "command, status",
    [
        ("--help", 0),
        ("--version", 0),
        ("run --help", 0),
        ("card --help", 0),
        ("card check --help", 0),
        ("card new {card}", 0),
        ("card show brecq", 0),
        ("card show brecq --format html", 0),
        ("card show brecq --json", 0),
        ("card validate {brecq}", 0),
        ("card validate {bad}", 2),
        ("card catalogue", 0),
        ("card check brecq --target litert-int8", 1),
        ("card diff brecq adaround", 1),
        ("card from-checkpoint {config}", 0),
        ("card from-checkpoint {bad}", 0),
    ],
)
def test_commands_that_measure_nothing_import_neither_torch_nor_pandas(tmp_path, command, status):
    (tmp_path / "bad.yaml").write_text("schema_version: 1\nname: x\nmethod: {technique: ''}", "utf8")
    (tmp_path / "config.json").write_text(
        '{"quantization_config": {"quant_method": "gptq", "bits": 4}}', "utf8"
    )
    files = {
        "card": tmp_path / "card.yaml",
        "bad": tmp_path / "bad.yaml",
        "config": tmp_path / "config.json",
        "brecq": Path(qlib.__path__[0], "cards", "catalogue", "brecq.yaml"),
    }
    arguments = [argument.format(**files) for argument in command.split()]
    code = f"from qlib.cli import main\ntry:\n    status = main({arguments!r})\nexcept SystemExit as end:\n    status = end.code"  # noqa: E501
    printed, modules = fresh(f"{code}\nprint('status', status)")
    assert printed[-1] == f"status {status}"
    assert not modules & {"torch", *WHEN_USED}


def test_a_checkpoint_is_read_without_what_writes_and_runs_checkpoints(tmp_path):
    settings = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    header = json.dumps(
        {"lm_head.weight": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}}
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    printed, modules = fresh(
        "from qlib import QuantizationCard; "
        f"print(QuantizationCard.from_checkpoint({str(tmp_path)!r})['head_bits'])"
    )
    assert printed == ["float"]
    assert not modules & {"torch", "numpy", "transformers", "safetensors", "gguf", *WHEN_USED}


def test_recorded_rows_are_listed_without_torch():
    printed, modules = fresh("from qlib.cli import main; main(['results', 'skip-residual'])")
    assert printed and "torch" not in modules


def test_only_the_card_stands_on_all_that_reads_and_shows_cards():
    folder = Path(qlib.__path__[0], "cards")
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text("utf8"))
        used = {
            node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1
        }
        assert path.stem in ("card", "__init__") or "card" not in used, path.name
        assert len(path.read_text("utf8").splitlines()) <= 300


def test_a_card_is_read_and_shown_without_what_makes_cards_of_runs():
    _, modules = fresh(
        "from qlib.cards import catalogue; str(catalogue()['brecq']); catalogue()['brecq'].to_yaml()"
    )
    makers = {"qlib.results", "qlib.cards.from_run", "qlib.cards.from_rows"}
    assert not modules & {"torch", "numpy", *makers, *WHEN_USED}


# ---------------------------------------------------------------------------------------------------------- n


def test_no_module_bears_a_public_name():
    """Or it would take the name's place as soon as anything imports it."""
    assert not set(MODULES) & set(NAMES)


def test_what_tools_read_is_what_is_imported():
    tree = ast.parse(Path(qlib.__file__).read_text("utf8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {alias.name: line.module for line in block.body for alias in line.names}
    assert told == qlib._MODULE_OF and set(NAMES) == set(told) and len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize(
    "modules", [MODULES, MODULES[::-1], []], ids=["all modules first", "backwards", "none"]
)
def test_every_name_is_what_it_should_be_whatever_was_imported_before(modules):
    imports = "\n".join(f"import qlib.{name}" for name in modules)
    printed, _ = fresh(f"""
import importlib, qlib
{imports}
for name in {NAMES!r}:
    for value in (getattr(qlib, name), getattr(__import__("qlib", fromlist=[name]), name)):
        assert value is getattr(importlib.import_module("qlib." + qlib._MODULE_OF[name]), name), name
        assert callable(value) and value.__name__ == name
for name in {MODULES!r}:
    assert getattr(qlib, name) is importlib.import_module("qlib." + name), name
""")
    assert printed == []


@pytest.mark.parametrize(
    "code",
    [
        "from qlib.comparison import compare; import qlib; qlib.evaluate; assert qlib.compare is compare",
        "from qlib import evaluate; import qlib.evaluation; assert qlib.evaluate is evaluate is "
        "qlib.evaluation.evaluate",
        "import qlib.footprints; from qlib import footprint; assert qlib.footprint is footprint is "
        "qlib.footprints.footprint",
        "from qlib import results, footprint; assert callable(footprint) and results.__name__ == "
        "'qlib.results'",
        "from qlib.cards import compare; import qlib; assert qlib.compare is not compare and "
        "callable(qlib.compare)",
        "import qlib.network.trace; import qlib; assert callable(qlib.network.read) and "
        "callable(qlib.quantize)",
        "import qlib; assert qlib.affine.Grid and qlib.ranges.MinMax and qlib.plots.PLACEMENTS and "
        "qlib.recording.record",
        "from qlib import *; assert callable(evaluate) and callable(footprint) and callable(quantize) and "
        "'explore' not in globals()",
    ],
)
def test_a_function_is_never_shadowed_and_a_module_is_at_hand(code):
    fresh(code)


def test_names_and_modules_complete_on_tab():
    offered = dir(qlib)
    assert len(offered) == len(set(offered)) and {*NAMES, *MODULES, "__version__", "__all__"} <= set(offered)
    assert not {"import_module", "iter_modules", "TYPE_CHECKING"} & set(offered)


def test_a_misspelt_name_has_a_suggestion():
    for wrong, meant in (("evalute", "evaluate"), ("QuantConfg", "QuantConfig"), ("netwrk", "network")):
        with pytest.raises(
            AttributeError, match=f"module 'qlib' has no attribute '{wrong}'; did you mean '{meant}'"
        ):
            getattr(qlib, wrong)
    with pytest.raises(ImportError, match="cannot import name 'evalute'"):
        from qlib import evalute  # noqa: F401
    assert not hasattr(qlib, "_nothing")
