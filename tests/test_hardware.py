"""What a target does with a card's choices."""

import json
from pathlib import Path

import pytest
import yaml
from card_strategies import CARDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlib import QuantConfig, QuantizationCard
from qlib.cards import catalogue, hardware
from qlib.cards.profile import load_profile, profiles
from qlib.cli import main

RUN = QuantizationCard.from_run(QuantConfig())
LINK = "https://example.org"
HEAD = {"profile_version": 2, "name": "mine", "title": "My chip", "version": "A0", "link": LINK}


def statement(field, verdict, *values, **more):
    return {"field": field, "values": list(values), "verdict": verdict, "why": "So.", "source": LINK, **more}


def profile(*statements):
    return {**HEAD, "statements": list(statements)}


def card(**fields):
    return QuantizationCard.of("a card", **fields)


def verdicts(of, target):
    """By field; where layers differ the worst."""
    found = {}
    for finding in hardware.check(of, target):
        found.setdefault(finding.field, finding.verdict)
    return found


@pytest.mark.parametrize("name", profiles())
def test_profiles_are_valid_and_name_version_and_source(name):
    known = load_profile(name)
    assert known["name"] == name and known["version"]
    for said in known["statements"]:
        assert said["source"].startswith(("http", "measured: benchmarks/"))


# what an engineer found to be wrong


@pytest.mark.parametrize(
    "fields, field, verdict",
    [
        (
            {"weight_bits": 4, "weight_granularity": "per_channel", "activation_bits": 8},
            "weight_bits",
            "falls back",
        ),
        (
            {"weight_bits": 4, "weight_granularity": "per_group", "activation_bits": "float"},
            "weight_bits",
            "runs",
        ),
        ({"weight_bits": 8, "activation_bits": 16}, "activation_bits", "falls back"),
        (
            {"weight_bits": 4, "weight_granularity": "per_group", "activation_bits": "float"},
            "weight_granularity",
            "runs",
        ),
        (
            {"weight_bits": 8, "weight_granularity": "per_group", "activation_bits": 8},
            "weight_granularity",
            "falls back",
        ),
        ({"weight_bits": "float", "activation_bits": 8}, "weight_bits", "falls back"),
        ({"weight_bits": 3, "activation_bits": 8}, "weight_bits", "cannot"),
    ],
)
def test_onnx_runtime_runs_or_falls_back_where_it_was_said_to_be_unable(fields, field, verdict):
    assert verdicts(card(**fields), "onnxruntime-cpu")[field] == verdict


@pytest.mark.parametrize("size", ["per_channel", "per_group"])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_weights_alone_have_times_of_their_own(bits, size):
    alone = card(weight_bits=bits, activation_bits="float", weight_granularity=size)
    beside = card(weight_bits=bits, activation_bits=8, weight_granularity=size)
    found = {f.field: f for f in hardware.check(alone, "onnxruntime-cpu")}
    assert found["weight_bits"].times == found["activation_bits"].times != {}
    (other,) = [f for f in hardware.check(beside, "onnxruntime-cpu") if f.field == "weight_bits"]
    assert found["weight_bits"].times != other.times
    assert ("MatMulNBits" in found["weight_bits"].why) == (bits < 16)
    assert bits not in (4, 8) or found["weight_bits"].times["linear layers"] < 1


def test_gptq_is_told_of_no_kernel_for_8_bit_activations():
    found = catalogue()["gptq"].fits("onnxruntime-cpu")
    usual = load_profile("onnxruntime-cpu")["times"]
    (bits,) = [f for f in found if f.field == "weight_bits"]
    linear = bits.times["linear layers"]
    assert linear < 1 and all(time > 1 for time in bits.times.values() if time != linear)
    assert not [f for f in found if any(time == usual.get(name) for name, time in f.times.items())]
    assert "weight_symmetric" not in {f.field for f in found}  # they run alike


@pytest.mark.parametrize(
    "weights, activations, needed",
    [(4, 4, False), (16, 4, False), (8, 4, True), (2, 4, True), (2, 2, True), (4, 8, False), (2, 16, False)],
)
def test_a_setting_is_named_only_where_it_is_needed(weights, activations, needed):
    asked = card(weight_bits=weights, activation_bits=activations, first_last_bits=8)
    found = [f for f in asked.fits("onnxruntime-cpu") if f.field in ("weight_bits", "activation_bits")]
    assert any("disable_quant_qdq" in f.why for f in found) == needed


def test_signed_activations_fall_back_and_where_the_card_is_silent_the_line_says_so():
    signed = card(weight_symmetric=True, activation_bits=8, activation_symmetric=True)
    (found,) = [f for f in signed.fits("onnxruntime-cpu") if f.field == "activation_symmetric"]
    assert found.verdict == "falls back" and found.times
    silent = hardware.check(card(weight_symmetric=True, activation_bits=8), "onnxruntime-cpu")
    (line,) = [line for line in hardware.lines(silent) if "Symmetric activations" in line]
    times = ", ".join(f"{time:g} for {network}" for network, time in found.times.items())
    assert line.endswith(
        f"The card does not say; if yes, it would fall back (times float32's time: {times})."
    )


@pytest.mark.filterwarnings("ignore")  # those of torch's exporter
def test_a_well_chosen_export_passes_where_nothing_may_be_unknown(tmp_path, capsys):
    pytest.importorskip("onnx")
    model, path = str(tmp_path / "best.onnx"), str(tmp_path / "card.yaml")
    export = ["export", model, "weight_symmetric=true", "--for", "onnxruntime", "--calibration-images", "20"]
    assert main(export) == main(["card", "from-onnx", model, "--out", path]) == 0
    data = yaml.safe_load(Path(path).read_text("utf8"))
    data["operations"]["accumulator_bits"] = 32
    Path(path).write_text(yaml.safe_dump(data), "utf8")
    command = ["card", "check", path, "--target", "onnxruntime-cpu", "--strict"]
    capsys.readouterr()
    assert main(command) == 0
    assert not {"falls back", "cannot", "unknown"} & {
        line.partition(":")[0] for line in capsys.readouterr().out.splitlines()
    }


def test_times_name_the_networks_and_the_processor_they_are_of():
    known = load_profile("onnxruntime-cpu")
    title, times, *notes = hardware.report(known, RUN.fits("onnxruntime-cpu")).splitlines()
    assert "AVX-512 VNNI" in title and "convolutions with ReLU and residual additions" in times
    said = " ".join(line for line in notes if line.startswith("note: "))
    assert "activation functions other than ReLU" in said and "depthwise" in said and "saturate" in said


def test_a_float_stem_falls_back_on_tensorrt():
    for stem in (
        {"weight_bits": {"default": 8, "conv1": 32}},
        {"weight_bits": 8, "activation_bits": 8, "float_layers": ["conv1"]},
        {"weight_bits": 8, "first_last_bits": "float"},
    ):
        found = [
            f for f in hardware.check(card(**stem), "tensorrt-int8") if f.verdict in ("cannot", "falls back")
        ]
        assert {(f.verdict, f.value) for f in found} == {("falls back", "float")}


def test_asymmetric_weights_draw_a_remark_with_what_they_cost():
    (found,) = [f for f in RUN.fits("onnxruntime-cpu") if f.field == "weight_symmetric"]
    usual = load_profile("onnxruntime-cpu")["times"]
    assert found.verdict == "falls back"
    assert all(found.times[network] > 1.25 * time for network, time in usual.items())
    assert all(f"{time:g} for {network}" in str(found) for network, time in found.times.items())


def test_an_empty_card_passes_only_where_nobody_is_strict(tmp_path, capsys):
    path = tmp_path / "card.yaml"
    card().save(path)
    command = ["card", "check", str(path), "--target", "litert-int8"]
    assert main(command) == 0 and "nothing was checked: the card reports nothing" in capsys.readouterr().out
    assert main([*command, "--strict"]) == 1


@pytest.mark.parametrize("bits", [32, "float"])
def test_float_layers_are_the_same_in_both_spellings(bits):
    found = hardware.check(card(weight_bits=8, first_last_bits=bits, input_bits=bits), "integer-only")
    assert {f.field: (f.verdict, f.value) for f in found if f.verdict == "cannot"} == {
        "first_last_bits": ("cannot", "float"),
        "input_bits": ("cannot", "float"),
    }


def test_what_no_statement_speaks_about_is_unknown():
    found = {f.field: f for f in hardware.check(RUN, profile(statement("weight_bits", "runs", 8)))}
    assert found["weight_bits"].verdict == found["first_last_bits"].verdict == "runs"
    assert {f.verdict for name, f in found.items() if "_bits" not in name} == {"unknown"}
    odd = hardware.check(card(weight_bits=3), profile(statement("weight_bits", "cannot", 5)))
    assert {f.verdict for f in odd} == {"unknown"}


# ------------------------------------------------------------------------------------------------- answers


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(CARDS, st.sampled_from(profiles()))
def test_every_card_is_answered_and_nothing_is_made_up(asked, target):
    known = load_profile(target)
    said = {(s["verdict"], s["why"], s["source"]) for s in known["statements"]}
    found = hardware.check(asked, target)
    for finding in found:
        if finding.verdict == "unknown" or finding.why.startswith("What comes of it depends on: "):
            assert not finding.source and not finding.times and finding.why
        else:
            assert (finding.verdict, finding.why, finding.source) in said
            assert asked.acts(finding.field)
            assert asked[finding.field] != "not reported" or set(finding.layers) == set(asked["float_layers"])
    for line in hardware.report(known, found).splitlines():
        assert line.isprintable()
    json.dumps([finding.to_dict() for finding in found])


def test_what_a_chip_cannot_do_is_found(cards):
    found = {finding.field: finding.verdict for finding in cards[0].fits("litert-int8")}
    against = {name: verdict for name, verdict in found.items() if verdict != "unknown"}
    cannot = dict.fromkeys(("activation_bits", "weight_symmetric", "pooling", "bias"), "cannot")
    assert against == {**cannot, "quantize_residual": "falls back"}
    mixed = card(weight_bits={"default": 4, "fc": 3}, activation_bits=8)
    slower = mixed.fits("integer-2-4-8")[0]
    assert (slower.field, slower.verdict, slower.value, slower.layers) == (
        "weight_bits",
        "falls back",
        3,
        ("fc",),
    )
    assert "= 3 in fc. Units fuse" in str(slower)


def test_first_and_last_layer_are_weights_too():
    ends = card(weight_bits=8, activation_bits=8, first_last_bits=6)
    assert verdicts(ends, "integer-2-4-8")["first_last_bits"] == "falls back"
    assert verdicts(ends, "litert-int8")["first_last_bits"] == "cannot"
    rest = card(weight_bits=6, first_last_bits="like the rest")
    assert "first_last_bits" not in verdicts(rest, "integer-2-4-8")


def test_layers_left_in_float_are_checked_like_those_of_32_bits():
    floats = QuantizationCard.from_run(QuantConfig(float_layers=["fc", "layer1.*"]))
    found = {f.field: f for f in floats.fits("integer-only")}
    for finding in (found["weight_bits"], found["activation_bits"]):
        assert (finding.verdict, finding.value, finding.layers) == ("cannot", "float", ("fc", "layer1.*"))
    assert "cannot: Weight bits = float in fc, layer1.*. The whole graph" in str(found["weight_bits"])
    assert not {"weight_bits", "activation_bits"} & {f.field for f in RUN.fits("integer-only")}
    weights_only = QuantizationCard.from_run(QuantConfig(activation_bits=None, float_layers=["fc"]))
    assert [f.layers for f in weights_only.fits("integer-only") if f.field == "activation_bits"] == [()]


def test_a_condition_is_asked_of_the_layer_that_has_the_value():
    in_float = statement("weight_bits", "falls back", "float", where={"activation_bits": "float"})
    known = profile(
        in_float, statement("weight_bits", "cannot", "float"), statement("weight_bits", "runs", 8)
    )
    whole = card(weight_bits=8, activation_bits=8, float_layers=["fc"])
    assert verdicts(whole, known)["weight_bits"] == "falls back"
    weights = card(weight_bits={"default": 8, "fc": 32}, activation_bits=8)
    assert verdicts(weights, known)["weight_bits"] == "cannot"


@pytest.mark.parametrize(
    "granularity, verdict",
    [("per_group", "runs"), ("per_channel", "falls back"), ("not reported", "unknown")],
)
def test_the_first_statement_that_fits_counts_and_an_open_condition_is_unknown(granularity, verdict):
    known = profile(
        statement("weight_bits", "runs", 4, where={"weight_granularity": "per_group"}),
        statement("weight_bits", "falls back", 4),
    )
    asked = card(weight_bits=4, weight_granularity=granularity)
    (found,) = [f for f in hardware.check(asked, known) if f.field == "weight_bits"]
    assert found.verdict == verdict
    assert verdict != "unknown" or found.why == "It depends on: Range of weights for."


def test_an_open_condition_does_not_matter_where_both_ways_end_alike():
    known = profile(
        statement("weight_bits", "cannot", 4, where={"weight_granularity": "per_group"}),
        statement("weight_bits", "cannot", 4),
    )
    assert verdicts(card(weight_bits=4), known)["weight_bits"] == "cannot"


@pytest.mark.parametrize("other", [{"why": "To float."}, {"times": {"linear layers": 3}}])
def test_of_several_reasons_for_one_verdict_none_is_stated_as_fact(other):
    known = profile(
        statement(
            "weight_bits", "falls back", 4, where={"activation_bits": "float"}, times={"linear layers": 2}
        ),
        statement("weight_bits", "falls back", 4, **other),
    )
    (found,) = [f for f in hardware.check(card(weight_bits=4), known) if f.field == "weight_bits"]
    assert (found.verdict, found.source, dict(found.times)) == ("falls back", "", {})
    assert found.why == "What comes of it depends on: Activation bits."
    (found,) = [f for f in hardware.check(card(weight_bits=4, activation_bits=8), known) if f.value == 4]
    assert (found.why, found.source) == (other.get("why", "So."), LINK)


def test_what_the_card_does_not_say_comes_with_what_depends_on_it():
    known = profile(
        statement("activation_symmetric", "falls back", True, times={"linear layers": 2}),
        statement("activation_symmetric", "runs", False),
        statement("weight_bits", "falls back", 4, times={"linear layers": 2}),
        statement("weight_bits", "falls back", 16, times={"linear layers": 3}),
        statement("weight_bits", "cannot", 3),
        statement("pooling", "runs", "float"),
    )
    said = {f.field: f.why for f in hardware.check(card(activation_bits=8), known)}
    signed = "if yes, it would fall back (times float32's time: 2 for linear layers)"
    assert said["activation_symmetric"] == f"The card does not say; {signed}."
    assert (
        said["weight_bits"]
        == "The card does not say; if 4, 16, it would fall back; if 3, it could not be run."
    )
    assert said["pooling"] == "The card does not say."


def test_how_codes_were_found_is_not_asked():
    known = profile(statement("weight_bits", "runs", 4))
    found = hardware.check(card(weight_bits=4, column_order="activation", sequential=True), known)
    assert not {"column_order", "sequential"} & {f.field for f in found}


@pytest.mark.parametrize(
    "field", ["weight_bits", "activation_bits", "input_bits", "kv_bits", "embedding_bits"]
)
def test_a_profile_that_says_32_bits_means_float(field):
    known = profile(statement(field, "falls back", 32, 24))
    for bits, verdict in ((32, "falls back"), ("float", "falls back"), (24, "falls back"), (23, "unknown")):
        assert verdicts(card(**{field: bits}), known)[field] == verdict
    biases = profile(statement("bias", "runs", 32))
    assert [verdicts(card(bias=bits), biases)["bias"] for bits in (32, "float")] == ["runs", "unknown"]


def test_a_condition_on_what_does_not_act_is_not_met():
    known = profile(statement("weight_bits", "cannot", 8, where={"activation_symmetric": True}))
    floats = card(weight_bits=8, activation_bits="float", activation_symmetric=True)
    assert verdicts(floats, known)["weight_bits"] == "unknown"


def test_equal_words_with_other_times_stay_apart():
    known = profile(
        statement("weight_bits", "falls back", 4, times={"linear layers": 2}),
        statement("weight_bits", "falls back", 16, times={"linear layers": 3}),
    )
    found = hardware.check(card(weight_bits={"a": 4, "b": 16}), known)
    times = {f.layers: dict(f.times) for f in found if f.verdict == "falls back"}
    assert times == {("a",): {"linear layers": 2}, ("b",): {"linear layers": 3}}


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_groups_its_lines_and_states_its_exit_codes(tmp_path, capsys):
    path, target = tmp_path / "card.yaml", tmp_path / "mine.yaml"
    known = profile(
        statement("weight_bits", "runs", 8),
        statement("activation_bits", "falls back", 8, why="To float."),
        statement("pooling", "cannot", "float"),
    )
    target.write_text(yaml.safe_dump(known), "utf8")

    def run(*options, **fields):
        card(**fields).save(path)
        status = main(["card", "check", str(path), "--target", str(target), *options])
        return status, capsys.readouterr().out

    status, out = run(weight_bits=8, activation_bits=8, pooling="float", batch_norm="folded")
    head, runs, falls, cannot, *unknown = out.splitlines()
    assert status == 1 and head == "My chip, A0" and runs == "runs: Weight bits = 8"
    assert falls.startswith("falls back: Activation bits = 8. To float.") and cannot.startswith(
        "cannot: Average"
    )
    assert any("Batch norm = folded. Nothing is known about it." in line for line in unknown)
    assert any("Bits of biases" in line and "The card does not say." in line for line in unknown)
    assert [run(weight_bits=8)[0], run("--strict", weight_bits=8)[0]] == [0, 1]
    status, out = run("--json", weight_bits=8, activation_bits=8)
    assert status == 1 and [f["verdict"] for f in json.loads(out)][:1] == ["falls back"]
    assert {f["field"] for f in json.loads(out) if f["verdict"] == "runs"} == {"weight_bits"}
    with pytest.raises(SystemExit):
        main(["card", "check", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0 fine; 1" in said and "with --strict also one that is unknown" in said


# --------------------------------------------------------------------------------------------- bad profiles


def test_the_notes_of_a_profile_stand_under_its_name():
    known = {
        **profile(statement("weight_bits", "runs", 8)),
        "notes": [{"note": "Slow.", "times": {"a": 2}, "source": LINK}],
    }
    head, note, *_ = hardware.report(load_profile(known), hardware.check(RUN, known)).splitlines()
    assert (head, note) == ("My chip, A0", f"note: Slow. Times float32's time: 2 for a. ({LINK})")
    with pytest.raises(ValueError, match="notes.0: 'source' is a required property"):
        load_profile({**known, "notes": [{"note": "Slow."}]})


def test_a_profile_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(profile(statement("first_last_bits", "cannot", 8))), "utf8")
    assert [f.field for f in card(first_last_bits=8).fits(path) if f.verdict == "cannot"] == [
        "first_last_bits"
    ]
    path.write_text(yaml.safe_dump(profile({"field": "weight_bit"})), "utf8")
    with pytest.raises(
        ValueError, match="mine.yaml: a card has no field .weight_bit.; did you mean 'weight_bits'"
    ):
        load_profile(path)


def without(key):
    return {name: part for name, part in statement("weight_bits", "runs", 8).items() if name != key}


BAD_STATEMENTS = {
    "no why": (without("why"), "statements.0: 'why' is a required"),
    "no list": ({**without("values"), "values": 8}, "statements.0.values"),
    "no source": ({**without("source"), "source": "the manual"}, "statements.0.source"),
    "no verdict": (statement("weight_bits", "slower", 8), "statements.0.verdict"),
    "no value": (
        statement("weight_granularity", "runs", "per-channel"),
        'weight_granularity: "per-channel" is not what belongs there',
    ),
    "no field in where": (
        statement("weight_bits", "runs", 8, where={"groups": 8}),
        'a card has no field "groups"',
    ),
    "no value in where": (
        statement("weight_bits", "runs", 8, where={"activation_symmetric": "so"}),
        'activation_symmetric: "so" is not what belongs there',
    ),
}


@pytest.mark.parametrize("bad, message", BAD_STATEMENTS.values(), ids=BAD_STATEMENTS.keys())
def test_a_bad_profile_gets_one_clear_line(bad, message):
    with pytest.raises(ValueError, match=message) as error:
        load_profile(profile(bad))
    assert "\n" not in str(error.value)


def test_the_old_form_and_a_card_are_refused_with_the_way_out():
    old = {"field": "weight_bits", "runs": [8], "slower": [4], "why": "x", "link": LINK}
    head = {name: part for name, part in HEAD.items() if name not in ("profile_version", "version")}
    with pytest.raises(ValueError, match="old form .runs, slower.: write profile_version: 2, the version"):
        load_profile({**head, "statements": [old]})
    with pytest.raises(ValueError, match="profile_version: 3 is not one of"):
        load_profile({**profile(statement("weight_bits", "runs", 8)), "profile_version": 3})
    with pytest.raises(ValueError, match="this is a card"):
        load_profile(dict(RUN.data))
