"""The profile of ONNX Runtime says what its benchmark recorded, and ONNX Runtime still does so."""

import json
import runpy
from pathlib import Path

import pytest
import yaml

from qlib.cards.profile import load_profile

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "onnxruntime_profile.py"
BENCH = runpy.run_path(str(SCRIPT))
RECORD = yaml.safe_load(SCRIPT.with_suffix(".yaml").read_text("utf8"))
PROFILE = load_profile("onnxruntime-cpu")
about = BENCH["about"]


def test_the_record_is_of_the_scripts_statements():
    stated = [about({"field": f, "value": v, "where": w}) for f, v, w in BENCH["STATEMENTS"]]
    assert [about(entry) for entry in RECORD["statements"]] == stated and len(stated) == len(set(stated))


def test_the_profile_says_what_was_recorded_statement_by_statement():
    recorded = {about(entry): entry for entry in RECORD["statements"]}
    said = [(about({**s, "value": value}), s) for s in PROFILE["statements"] for value in s["values"]]
    assert sorted(name for name, _ in said) == sorted(recorded)
    for name, statement in said:
        entry = recorded[name]
        assert statement["verdict"] == BENCH["verdict"](entry, RECORD), name
        times = BENCH["times"](entry)
        assert statement.get("times", {}) == ({} if times == PROFILE["times"] else times), name
        assert statement["source"] == "measured: benchmarks/onnxruntime_profile.py"
    assert PROFILE["times"] == BENCH["times"](RECORD["statements"][0])
    assert PROFILE["version"] == f"ONNX Runtime {RECORD['versions']['onnxruntime']}"


def test_setting_the_profile_to_the_record_changes_nothing(tmp_path):
    path = tmp_path / "profile.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(PROFILE))), "utf8")
    BENCH["update_profile"](path, RECORD)
    assert load_profile(path) == PROFILE


FEW = [
    ("weight_bits", 8, {}),
    ("weight_bits", 4, {}),
    ("weight_bits", 4, {"weight_granularity": "per_group", "activation_bits": "float"}),
    ("weight_bits", 3, {}),
    ("activation_bits", 4, {}),
    ("activation_bits", 16, {}),
    ("activation_symmetric", True, {}),
    ("activation_dynamic", True, {}),
    ("quantize_residual", False, {}),
    ("first_last_bits", "float", {}),
]


@pytest.mark.skipif(
    onnxruntime.__version__ != RECORD["versions"]["onnxruntime"], reason="recorded with another ONNX Runtime"
)
@pytest.mark.parametrize("field, value, where", FEW)
def test_it_still_runs_on_the_kernels_that_were_recorded(field, value, where):
    (found,) = BENCH["record"]([(field, value, where)])["statements"]
    (before,) = [entry for entry in RECORD["statements"] if about(entry) == about(found)]

    def on_codes(entry):
        """Which layers run on codes; how those in float are called depends on the CPU."""
        return {
            name: {kind: n for kind, n in of.get("kernels", {}).items() if kind in BENCH["ON_CODES"]}
            for name, of in entry["networks"].items()
        }

    assert on_codes(found) == on_codes(before)
    for name, outcome in found["networks"].items():
        assert {"message", "settings"} & set(outcome) == {"message", "settings"} & set(
            before["networks"][name]
        )


def test_a_slow_kernel_on_codes_falls_back():
    usual = {"networks": {"convolutions": {"kernels": {"QLinearConv": 1}, "time": [0.4, 0.39, 0.41]}}}
    found = {"statements": [usual]}

    def verdict(*time, where=None, kernels=("QLinearConv",)):
        networks = {"convolutions": {"kernels": dict.fromkeys(kernels, 1), "time": list(time)}}
        entry = {"field": "weight_symmetric", "value": False, "where": where or {}, "networks": networks}
        return BENCH["verdict"](entry, found)

    assert verdict(0.6, 0.55, 0.7) == "falls back"
    assert verdict(0.6, 0.45, 0.7) == "runs"  # the interval leaves it open
    assert verdict(0.9, 0.85, 0.95, where={"activation_bits": "float"}) == "runs"  # faster than float32
    assert verdict(0.4, 0.39, 0.41, kernels=("QLinearConv", "Add")) == "falls back"


def test_times_are_kept_where_nothing_else_changed():
    found = BENCH["record"](BENCH["STATEMENTS"][:1])
    old = json.loads(json.dumps(found))
    for outcome in old["statements"][0]["networks"].values():
        outcome["time"] = [1, 1, 1]
    old["timing"] = {"repeats": 1}
    same, other = json.loads(json.dumps(found)), json.loads(json.dumps(found))
    BENCH["keep_times"](same, old)
    assert same == old
    other["cpu"] = {"name": "another", "flags": []}
    BENCH["keep_times"](other, old)
    assert "timing" not in other


def test_times_are_ratios_with_their_interval():
    found = BENCH["record"](BENCH["STATEMENTS"][:1])
    BENCH["add_times"](found, repeats=3)
    for outcome in found["statements"][0]["networks"].values():
        median, low, high = outcome["time"]
        assert 0 < low <= median <= high
