"""Cards hold what was said, come from runs without typing, survive strangers, and compare."""

import json
import time

import numpy as np
import pytest
from card_strategies import CARDS
from choice_strategies import allowed
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from qlib import Accuracy, QuantConfig, QuantizationCard, results, strict_yaml
from qlib.cards import CATEGORIES, FIELDS, NOT_REPORTED, SCHEMA, catalogue, compare
from qlib.choices import choices
from qlib.cli import main


@pytest.fixture(scope="module")
def table():
    return results.load_table(results.table_path("digits", "skip-residual"))


def test_the_schema_is_one_and_its_examples_fit():
    Draft202012Validator.check_schema(SCHEMA)
    assert len(FIELDS) == sum(map(len, CATEGORIES.values()))
    assert SCHEMA["$defs"]["field"]["enum"] == list(FIELDS)
    for name, field in FIELDS.items():
        assert field["description"] and field["examples"]
        for value in field["examples"]:
            assert QuantizationCard.of("x", **{name: value})[name] == value


def test_every_field_of_a_configuration_is_on_the_card_as_it_is_stated():
    stated = choices(QuantConfig)
    assert set(QuantConfig().to_dict()) == set(stated) <= set(FIELDS)
    for name, known in stated.items():
        field = FIELDS[name]
        assert (field["title"], field["description"]) == (known.title, known.help)
        assert name in CATEGORIES[known.category] and field.get("observation") == known.observation
        for value in (*known.values, *([known.none] if known.none else [])):
            assert QuantizationCard.of("x", **{name: value})[name] == value


def test_choices_stand_in_their_order_and_what_came_later_may_be_missing():
    later = [name for name, known in choices(QuantConfig).items() if known.since]
    for category, fields in CATEGORIES.items():
        own = [name for name, known in choices(QuantConfig).items() if known.category == category]
        assert [name for name in fields if name in own] == own
        required = SCHEMA["properties"][category]["required"]
        assert required == [name for name in fields if name not in later]


# Ends of a line to YAML, a byte order mark, controls, and what it does not allow
ODD = (
    "\x85",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\x00",
    "\x07",
    "\t",
    "\n",
    "\r",
    "\x1b",
    "\x7f",
    "\x9f",
    "\ufffe",
    "\uffff",
)


def odd_cards():
    """Cards that hold such a character in a text, in a name of a layer and in a list."""
    for c in ODD:
        for text in (f"a{c}b", f"{c}a", f"a{c}", f"a {c} b", f"a\n{c}{c} b: #"):
            yield QuantizationCard.of(
                text,
                remarks=text,
                technique=text,
                weight_bits={text: 4},
                float_layers=[text],
                deviations={"network": [text]},
                sources={"network": text},
            )


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CARDS)
@example(QuantizationCard.of("x", sources={"quantizer": "0\x85"}))
@example(QuantizationCard.of("1e-06", time=1e-06, deviations={"steps": [-1e16, 1.5e-07, '"2e-06']}))
@example(QuantizationCard.of("x", remarks="one\u2028two", float_layers=["\u2029a", "\ufeff"]))
def test_yaml_loses_nothing(card):
    again = QuantizationCard.from_yaml(card.to_yaml())
    assert again == card and again.to_yaml() == card.to_yaml()
    assert QuantizationCard.from_yaml(strict_yaml.to_json(dict(card.data))) == card
    assert json.loads(strict_yaml.to_json(dict(card.data))) == card.data
    for view in (
        str(card),
        card.to_markdown(),
        card.to_html(),
        card.to_latex(),
        compare.report(card, again, []),
    ):
        assert view


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_file_loses_no_character(tmp_path, suffix):
    path = tmp_path / f"card.{suffix}"
    for card in odd_cards():
        card.save(path)
        assert QuantizationCard.load(path) == card, ascii(card.name)
    QuantizationCard.of("é ü 漢 😀 - plain").save(path)
    assert "é ü 漢 😀 - plain" in path.read_text("utf8")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CARDS, CARDS)
def test_swapped_cards_differ_alike(a, b):
    there = a.differences(b)
    back = b.differences(a)
    assert [(c.field, c.a, c.b) for c in there] == [(c.field, c.b, c.a) for c in back]
    for one, other in zip(there, back, strict=True):
        assert [w.points.points for w in one.worth] == pytest.approx([-w.points.points for w in other.worth])
    assert [c for c in a.differences(a) if c.a != c.b] == []


def test_what_is_left_out_is_not_reported():
    for version in (1, 2):
        card = QuantizationCard.from_yaml(f"schema_version: {version}\nname: x\n")
        assert {card[name] for name in FIELDS} == {NOT_REPORTED}


LAYERS = st.dictionaries(st.sampled_from(["default", "fc", "conv1"]), st.integers(2, 16), min_size=1)
CHOICES = {
    **allowed(),
    "weight_bits": st.integers(2, 16) | LAYERS | st.none(),
    "activation_bits": st.integers(2, 16) | LAYERS | st.none(),
    "input_bits": st.integers(2, 16) | st.none(),
    "first_last_bits": st.integers(2, 16) | st.none(),
    "embedding_bits": st.integers(2, 16) | st.none(),
    "kv_bits": st.integers(2, 16) | st.none(),
    "float_layers": st.sampled_from([(), ("fc",), ("fc", "layer1.*")]),
    "bit_choices": st.lists(st.integers(2, 16), min_size=1, max_size=4, unique=True).map(
        lambda b: tuple(sorted(b))
    ),
}
# What else follows from the bits of a side: how they are given to layers, and whether anything is quantized
# at all
DERIVED = {
    "weight_bits": {"allocation", "quantizer", "rounding", "technique"},
    "activation_bits": {"allocation", "quantizer", "rounding", "technique"},
}


@given(st.fixed_dictionaries(CHOICES), st.sampled_from(list(CHOICES)), st.data())
def test_a_changed_choice_changes_its_field_and_no_other(choices, field, data):
    assert set(CHOICES) == set(QuantConfig().to_dict())
    try:
        configs = [QuantConfig(**choices), QuantConfig(**choices | {field: data.draw(CHOICES[field])})]
    except ValueError:  # a combination that no run can have
        assume(False)
    before, after = map(QuantizationCard.from_run, configs)
    assert QuantizationCard.from_yaml(after.to_yaml()) == after
    changed = {name for name in FIELDS if before[name] != after[name]}
    if configs[0] == configs[1]:
        assert not changed
    else:
        assert field in changed
        derived = changed - {field}
        assert derived <= DERIVED.get(field, set())
        quantized = [
            config.weight_bits is not None or config.activation_bits is not None for config in configs
        ]
        assert ("quantizer" in derived) == (quantized[0] != quantized[1])
        layers = [
            any(isinstance(b, dict) for b in (config.weight_bits, config.activation_bits))
            for config in configs
        ]
        assert ("allocation" in derived) == (layers[0] != layers[1])


def test_a_card_lists_the_layers_that_a_run_left_in_float():
    card = QuantizationCard.from_run(QuantConfig(float_layers=["layer1.*", "fc"]))
    assert card["float_layers"] == ["fc", "layer1.*"] and card.acts("float_layers")
    assert QuantizationCard.from_yaml(card.to_yaml()) == card
    assert f"{'Layers left in float':32} fc, layer1.*" in str(card)
    without = QuantizationCard.from_run(QuantConfig())
    assert without["float_layers"] == [] and not without.acts("float_layers")
    assert f"{'Layers left in float':32} none" in str(without)
    in_float = QuantConfig(weight_bits=None, activation_bits=None, float_layers=["fc"])
    assert not QuantizationCard.from_run(in_float).acts("float_layers")


def test_a_card_from_before_a_field_was_added_stays_valid():
    data = json.loads(json.dumps(QuantizationCard.from_run(QuantConfig(weight_bits=4)).data))
    del data["operations"]["float_layers"]
    assert list(Draft202012Validator(SCHEMA).iter_errors(data)) == []
    old = QuantizationCard(data)
    assert old["float_layers"] == NOT_REPORTED and not old.acts("float_layers")
    now, named = (QuantizationCard.from_run(QuantConfig(float_layers=names)) for names in ((), ("fc",)))
    assert "float_layers" not in {choice.field for choice in old.differences(now)}
    (choice,) = [choice for choice in old.differences(named) if choice.field == "float_layers"]
    assert choice.confound and choice.b == ["fc"]


def test_a_run_on_a_bench_fills_in_what_the_bench_knows(bench, cards):
    config = QuantConfig(activation_bits=4, activation_range="percentile", quantize_residual=False)
    runs = [Accuracy(np.arange(1000) % 10 < right) for right in (7, 8)]
    card = QuantizationCard.from_run(
        config,
        runs,
        baseline=runs[1],
        bench=bench,
        network="base",
        images=320,
        labels="none",
        steps=0,
        time=1.5,
        hardware="here",
    )
    assert [name for name in FIELDS if card[name] == NOT_REPORTED and card.acts(name)] == []
    assert (card["metric"], card["examples"], card["calibration_overlaps_test"]) == ("top1", 1000, False)
    assert card["effective_weight_bits"] > card["average_weight_bits"] and card["accumulator_bits"] == "float"
    same = {"examples", "accuracy", "float_accuracy", "spread", "seeds", "time", "hardware"}
    assert {name for name in FIELDS if card[name] != cards[0][name]} <= same
    assert card["spread"] == 7.07 and card["accuracy"]["top1"] == 75 and card["accuracy"]["n"] == 1000
    with pytest.raises(ValueError, match="no network 'bse'; did you mean 'base'"):
        QuantizationCard.from_run(config, bench=bench, network="bse")
    own = QuantizationCard.from_run(config, model=bench.models["base"], network="mine")
    assert (own["weights_hash"], own["network"]) == (card["weights_hash"], "mine")


def test_a_card_of_recorded_rows(table, cards):
    card = cards[0]
    rows = results.select(table, ["activation_bits=4", "quantize_residual=false", "quantize_skip=true"])
    assert (
        card["accuracy"]["top1"] == pytest.approx(rows.top1.mean(), abs=0.01)
        and card["accuracy"]["n"] == 10_000
    )
    assert card["seeds"] == len(rows) == 5 and card["weights_hash"] == rows.weights.iloc[0]
    assert card["spread"] == pytest.approx(rows.top1.std(), abs=0.01)
    # A residual in float
    assert card["float_accuracy"]["top1"] == 77.31 and card["max_activation_bytes"] == 4608 * 4
    assert card.data["deviations"] == {
        "activation_bits": [3, 5, 6, 7, 8],
        "quantize_skip": [False],
        "quantize_residual": [True],
    }
    (session,) = {
        results.provenance(results.table_path("digits", "skip-residual"))[i]["hardware"] for i in rows.session
    }
    assert card["hardware"] == session and card["time"] == pytest.approx(rows.seconds.mean(), abs=0.05)
    assert [name for name in FIELDS if card[name] == NOT_REPORTED and card.acts(name)] == []


def test_a_card_of_learned_rows_has_the_bits_that_were_learned():
    table = results.load_table(results.table_path("digits", "first-last-learned"))
    rows = results.select(table, ["target_activation_bits=4", "first_last_bits=null", "target_weight_bits=4"])
    card = QuantizationCard.from_rows(rows, table)
    bits = rows.iloc[0]["bits"]
    assert card["weight_bits"] == {name: pair[0] for name, pair in bits.items() if pair[0]}
    assert card["activation_range"] == "learned" and card["labels"] == "true" and card["steps"] == 400
    mean = rows.average_weight_bits.astype(float).mean()  # as the accuracy is; bits by layer are one seed's
    assert card["average_weight_bits"] == pytest.approx(mean, abs=1e-4)
    assert card.data["remarks"].endswith("bytes and effective bits are those of seed 0.")
    single = QuantizationCard.from_rows(rows.iloc[:1], table)
    assert (card["constraint"], card["checkpoint"]) == ("average", "average")
    assert (card["learning_rate"], card["penalty"]) == (0.02, 2)
    assert single["average_weight_bits"] == pytest.approx(rows.iloc[0]["average_weight_bits"], abs=1e-4)
    assert "remarks" not in single.data or "seed" not in single.data["remarks"]
    assert card["float_accuracy"]["top1"] == 77.31


def test_a_card_of_rows_within_a_largest_map_says_what_bits_were_held_to():
    table = results.load_table(results.table_path("digits", "largest-map"))
    analytic = [bool(how and how["largest_map_bits"]) for how in table.allocation]
    card = QuantizationCard.from_rows(table[analytic].iloc[:1], table)
    assert card["constraint"] == "largest feature map" and card.acts("constraint")
    assert (card["learning_rate"], card["checkpoint"]) == (NOT_REPORTED, NOT_REPORTED)
    assert not card.acts("learning_rate") and (card["metric"], card["examples"]) == ("top1", 10_000)


def test_rows_of_several_settings_have_no_card(table):
    with pytest.raises(ValueError, match="differ in activation_bits.*: a card is about one setting"):
        QuantizationCard.from_rows(table[table.activation_bits.notna()], table)


# ------------------------------------------------------------------------------------------------------------


BAD = {
    "not YAML": ("name: [", r"line \d: not YAML"),
    "a list": ("- a", "a card is a mapping"),
    "a tag": ("!!python/object/apply:os.system [ls]", "not YAML"),
    "unknown": ("schema_version: 1\nname: x\nmethods: {}", "no \"methods\"; did you mean 'method'"),
    "unknown field": ("schema_version: 1\nname: x\nmethod: {quantiser: uniform}", "did you mean 'quantizer'"),
    "wrong place": ("schema_version: 1\nname: x\nmethod: {weight_bits: 4}", "belongs to mixed_precision"),
    "wrong type": (
        "schema_version: 1\nname: x\nmixed_precision: {weight_bits: four}",
        'mixed_precision.weight_bits: "four"',
    ),
    "blank": ("schema_version: 1\nname: x\nmethod: {technique: ''}", "method.technique"),
    "nothing": ("schema_version: 1\nname: x\nmethod: {technique: }", "method.technique: null"),
    "future": ("schema_version: 3\nname: x", "this qlib reads versions 1 to 2; a newer one may read it"),
    "none": ("schema_version: 0\nname: x", "this qlib reads versions 1 to 2$"),
    "of version 2": (
        "schema_version: 1\nname: x\nmethod: {group_size: 128}",
        "group_size came with version 2 of the schema: write schema_version: 2 to state it",
    ),
    "a category of version 2": (
        "schema_version: 1\nname: x\nevaluation: {metric: top1}",
        "evaluation came with version 2 of the schema",
    ),
    "not finite": ("schema_version: 1\nname: x\nresources: {time: .nan}", "not finite"),
    "a date": ("schema_version: 1\nname: 2020-01-01", "dates in quotes"),
    "twice": ("schema_version: 1\nname: x\nname: y", 'line 3: "name" stands there twice'),
    "a number as a name": (
        "schema_version: 1\nname: x\nmixed_precision: {weight_bits: {1: 8}}",
        "names must be text",
    ),
    "alias bomb": (
        "a: &a [x]\n"
        + "".join(f"{b}: &{b} [{f'*{a}, ' * 9}]\n" for a, b in ("ab", "bc", "cd", "de", "ef", "fg")),
        "aliases are not allowed",
    ),
    "deep": ("[" * 20_000, "nested too deeply|nesting depth"),
    "deep lists": ("- " * 400_000, "nested too deeply"),
    "deep mappings": ("\n".join(" " * i + "a:" for i in range(900)), "line 21: nested too deeply"),
    "many names": ("\n".join(f"k{i}: 8" for i in range(80_000)), "more than 100,000 values"),
    "long list": ("[" + "8, " * 300_000 + "]", "more than 100,000 values"),
    "huge number": (
        "schema_version: 1\nname: x\nresources: {steps: " + "9" * 500_000 + "}",
        "number of 500,000 digits",
    ),
    "base 60": (
        "schema_version: 1\nname: x\nresources: {steps: " + "1:" * 100_000 + "1}",
        "number of 200,001 digits",
    ),
    "empty": ("", "a card is a mapping"),
    "half a character": ('schema_version: 1\nname: "\\ud800"', "Unicode"),
    "binary": ("schema_version: 1\nname: !!binary aGVsbG8=", "more than text"),
    "script link": ("schema_version: 1\nname: x\nlink: javascript:alert(1)", "link"),
}


@pytest.mark.parametrize("text, message", BAD.values(), ids=BAD.keys())
def test_a_bad_card_gets_one_clear_line(tmp_path, capsys, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text, "utf8")
    start = time.process_time()
    assert main(["card", "validate", str(path)]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "bad.yaml" in said and len(said) < 500
    for arguments in (
        ["show", str(path)],
        ["diff", "brecq", str(path)],
        ["check", "brecq", "--target", str(path)],
    ):
        assert main(["card", *arguments, "--json"]) == 2
        said, error = capsys.readouterr()
        assert json.loads(said) == {"error": error.strip().removeprefix("qlib: ")} and "bad.yaml" in error
    assert time.process_time() - start < 4
    with pytest.raises(ValueError, match=message):
        QuantizationCard.from_yaml(text)


BYTES = {
    "junk": bytes(range(256)) * 100,
    "latin 1": b"schema_version: 1\nname: caf\xe9",
    "utf 16": "name: x".encode("utf16"),
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES.keys())
def test_what_is_no_text_gets_one_clear_line(tmp_path, capsys, content):
    (tmp_path / "bad.yaml").write_bytes(content)
    assert main(["card", "validate", str(tmp_path / "bad.yaml")]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "bad.yaml: " in said


def test_files_that_cannot_be_read_are_named(tmp_path, capsys):
    for path, why in ((tmp_path, "directory"), (tmp_path / "none.yaml", "No such file")):
        assert main(["card", "validate", str(path)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"qlib: {path}: ") and why in said


def test_a_huge_file_is_not_read(tmp_path, capsys):
    path = tmp_path / "huge.yaml"
    with open(path, "wb") as file:
        file.truncate(100_000_000)
    assert main(["card", "show", str(path)]) == 2 and "larger than" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["card.yaml", "card.json"])
def test_a_card_is_written_as_its_name_says_and_read_back(tmp_path, cards, name):
    cards[0].save(tmp_path / name)
    text = (tmp_path / name).read_text("utf8")
    assert QuantizationCard.load(tmp_path / name) == cards[0]
    assert text.startswith("{") == name.endswith("json") and (
        not name.endswith("json") or json.loads(text) == cards[0].data
    )


def test_every_file_is_validated(tmp_path, capsys):
    good = tmp_path / "good.yaml"
    bad = tmp_path / "bad.yaml"
    QuantizationCard.of("x").save(good)
    bad.write_text("- a", "utf8")
    assert main(["card", "validate", str(bad), str(good), "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said[str(good)] is True and "a card is a mapping" in said[str(bad)]["error"]


def test_whole_numbers_are_whole_and_half_characters_are_refused():
    assert repr(QuantizationCard.of("x", weight_bits=8.0, weight_bytes=196164.0)["weight_bits"]) == "8"
    with pytest.raises(ValueError, match="half of a character"):
        QuantizationCard.of("\ud800")


# ------------------------------------------------------------------------------------------------------------


def test_the_commands_and_their_exit_codes(tmp_path, capsys, cards):
    a, b, c = (tmp_path / f"{name}.yaml" for name in "abc")
    assert main(["card", "new", str(a)]) == 0 and main(["card", "new", str(a)]) == 2
    assert "exists" in capsys.readouterr().err
    cards[0].save(a), cards[0].save(b), cards[1].save(c)
    assert main(["card", "validate", str(a), str(b)]) == 0
    assert main(["card", "diff", str(a), str(c), "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])[0]["field"] == "quantize_skip"
    assert main(["card", "check", str(a), "--target", "integer-2-4-8"]) == 0
    assert main(["card", "check", str(a), "--target", "litert-int8", "--json"]) == 1
    assert main(["card", "check", str(a), "--target", "litert"]) == 2
    for view in ("text", "markdown", "html", "latex"):
        assert main(["card", "show", str(a), "--format", view]) == 0
    assert main(["card", "show", str(a), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == cards[0].data
    assert main(["card", "show", str(tmp_path / "none.yaml")]) == 2


def test_a_new_card_of_recorded_rows(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    where = ["activation_bits=4", "quantize_skip=true", "quantize_residual=true"]
    assert main(["card", "new", str(path), "--experiment", "skip-residual", "--where", *where]) == 0
    assert QuantizationCard.load(path)["activation_bits"] == 4
    assert (
        main(
            [
                "card",
                "new",
                str(path),
                "--force",
                "--experiment",
                "skip-residual",
                "--where",
                "activation_bit=4",
            ]
        )
        == 2
    )
    assert "did you mean 'activation_bits'" in capsys.readouterr().err
    assert main(["card", "new", str(path), "--force", "--experiment", "skip-residal"]) == 2
    assert "did you mean 'digits/skip-residual'" in capsys.readouterr().err
    own = results.table_path("digits", "skip-residual")
    assert (
        main(
            [
                "card",
                "new",
                str(path),
                "--force",
                "--experiment",
                str(own),
                "--where",
                *where,
                "--name",
                "mine",
            ]
        )
        == 0
    )
    assert (QuantizationCard.load(path).name, QuantizationCard.load(path)["activation_bits"]) == ("mine", 4)


# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalogue())
def test_a_card_of_the_catalogue_has_a_source_for_every_field_that_it_reports(name):
    card = catalogue()[name]
    reported = [field for field in FIELDS if card[field] != NOT_REPORTED]
    assert set(card.data["sources"]) == set(reported) and len(reported) >= 10
    assert all(source.startswith("https://") for source in card.data["sources"].values())
    assert card.data["link"].startswith("https://") and card.data["authors"] != NOT_REPORTED
    assert card.to_markdown() and card.to_html() and card.to_latex() and str(card)


def test_the_catalogue_holds_the_methods_and_the_papers_tables():
    methods = "adaround brecq qdrop adaquant zeroq lapq aciq hawq-v3 bit-split".split()
    methods += "smoothquant gptq awq quarot".split()
    assert {*methods, "garg-table-3", "garg-table-4"} <= set(catalogue())


def test_commands_know_the_catalogue(capsys):
    assert main(["card", "show", "brecq"]) == 0 and main(["card", "diff", "brecq", "adaround"]) == 1
    assert main(["card", "catalogue"]) == 0 and "AdaRound" in capsys.readouterr().out
    assert main(["card", "show", "breqc"]) == 2 and "did you mean 'brecq'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb", ["new", "show", "validate", "diff", "check", "from-onnx", "from-checkpoint", "catalogue"]
)
def test_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["card", verb, "--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and "--json" in said and "Exit codes: 0" in said
