"""The profile of ONNX Runtime says what its benchmark recorded, and ONNX Runtime still does so."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import yaml

from qlib.cards.profile import load_profile

onnx = pytest.importorskip("onnx")
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
    measured = [s for s in PROFILE["statements"] if s["source"] == BENCH["SOURCE"]]
    said = [(about({**s, "value": value}), s) for s in measured for value in s["values"]]
    assert sorted(name for name, _ in said) == sorted(recorded)
    for name, statement in said:
        entry = recorded[name]
        assert statement["verdict"] == BENCH["verdict"](entry, RECORD), name
        times = BENCH["times"](entry)
        assert statement.get("times", {}) == ({} if times == PROFILE["times"] else times), name
    assert {s["field"] for s in PROFILE["statements"] if s not in measured} == {
        "accumulator_bits",
        "container",
    }
    own = [note for note in PROFILE["notes"] if note["source"] == BENCH["SOURCE"]]
    (times,) = [note["times"] for note in own if "times" in note]
    assert times == BENCH["times"]({"networks": RECORD["unseen"]})
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
    *[("weight_bits", bits, {"activation_bits": "float"}) for bits in (2, 4, 16)],
    ("weight_bits", 3, {}),
    ("activation_bits", 4, {}),
    ("activation_bits", 4, {"weight_bits": 4}),
    ("activation_bits", 4, {"weight_bits": 16}),
    ("activation_bits", 16, {"weight_bits": 2}),
    ("activation_bits", 16, {}),
    ("activation_symmetric", True, {}),
    ("activation_dynamic", True, {}),
    ("quantize_residual", False, {}),
    ("first_last_bits", "float", {}),
]
as_recorded = pytest.mark.skipif(
    onnxruntime.__version__ != RECORD["versions"]["onnxruntime"], reason="recorded with another ONNX Runtime"
)


def on_codes(outcome):
    """Which layers run on codes; how those in float are called depends on the CPU."""
    return {kind: n for kind, n in outcome.get("kernels", {}).items() if kind in BENCH["ON_CODES"]}


@as_recorded
@pytest.mark.parametrize("field, value, where", FEW)
def test_it_still_runs_on_the_kernels_that_were_recorded(field, value, where):
    (found,) = BENCH["record"]([(field, value, where)])["statements"]
    (before,) = [entry for entry in RECORD["statements"] if about(entry) == about(found)]
    assert list(found["networks"]) == list(before["networks"])
    for name, outcome in found["networks"].items():
        recorded = before["networks"][name]
        assert on_codes(outcome) == on_codes(recorded)
        assert {"message", "settings"} & set(outcome) == {"message", "settings"} & set(recorded)


@as_recorded
def test_what_no_card_says_still_runs_on_the_kernels_that_were_recorded():
    found = BENCH["record"]([])["unseen"]
    assert {name: on_codes(of) for name, of in found.items()} == {
        name: on_codes(of) for name, of in RECORD["unseen"].items()
    }
    assert BENCH["in_float"](found["HardSwish instead of ReLU"]) > 0


def test_sums_have_32_bits():
    inputs, outputs = 512, 3 * 3 * 512 * 255 * 127  # far above 16 bits and what float32 counts exactly
    helper = onnx.helper
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "signed_zero": np.int8(0),
        "weight": np.full((1, inputs, 3, 3), 127, np.int8),
        "bias": np.array([1 - outputs], np.int32),  # so all but one of it is taken off again
    }
    names = ["x", "one", "zero", "weight", "one", "signed_zero", "one", "zero", "bias"]
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", names, ["y"])],
        "sum",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, (1, inputs, 3, 3))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, (1, 1, 1, 1))],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((1, inputs, 3, 3), 255, np.uint8)})
    assert found.item() == 1


def test_of_weights_alone_a_choice_falls_back_where_it_costs_more_than_they_do():
    only = {"activation_bits": "float"}

    def entry(field, value, seconds, **kernels):
        networks = {"a": {"kernels": kernels, "time": [seconds] * 3}}
        return {"field": field, "value": value, "where": only, "networks": networks}

    usual = {**entry("quantizer", "uniform", 0.3, QLinearConv=2), "where": {}}
    alone = entry("weight_bits", 8, 1.5, Conv=2)
    found = {"statements": [usual, alone]}
    assert BENCH["verdict"](alone, found) == "falls back"
    assert BENCH["verdict"](entry("weight_symmetric", False, 1.6, Conv=2), found) == "runs"
    assert BENCH["verdict"](entry("weight_symmetric", False, 2.0, Conv=2), found) == "falls back"
    assert BENCH["verdict"](entry("first_last_bits", 16, 1.5, Conv=2, Gemm=1), found) == "falls back"


def test_a_slow_kernel_on_codes_falls_back():
    usual = {"field": "quantizer", "value": "uniform", "where": {}}
    usual["networks"] = {"convolutions": {"kernels": {"QLinearConv": 1}, "time": [0.4, 0.39, 0.41]}}
    alone = {**usual, "field": "weight_bits", "value": 8, "where": {"activation_bits": "float"}}
    found = {"statements": [usual, alone]}

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
