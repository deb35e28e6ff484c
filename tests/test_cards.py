"""Cards hold what was said, come from runs without typing, survive strangers, and compare."""

import json
import re
import shutil
import subprocess
import time

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from qlib import Accuracy, QuantConfig, QuantizationCard, results
from qlib import compare as evaluate_compare
from qlib.cards import CATEGORIES, FIELDS, NOT_REPORTED, SCHEMA, catalogue, compare, hardware
from qlib.cli import main

BeautifulSoup = pytest.importorskip("bs4").BeautifulSoup
HOSTILE = '<script>alert(1)</script>"\' \\input{/etc/passwd} $x_1^2$ %#&~{} |*`_[a](javascript:x) \x1b[31m ☠'
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=80).filter(lambda t: t.strip())


def values_of(schema):
    """Whatever a part of the card's schema allows."""
    if "$ref" in schema:
        return values_of(SCHEMA["$defs"][schema["$ref"].split("/")[-1]])
    if "anyOf" in schema:
        return st.one_of([values_of(kind) for kind in schema["anyOf"]])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    least, most = schema.get("minimum", 0), schema.get("maximum", 10**9)
    kind = schema["type"]
    if kind == "array":
        return st.lists(values_of(schema["items"]), min_size=1, max_size=5)
    if kind == "object" and "properties" in schema:
        return st.fixed_dictionaries({name: values_of(part) for name, part in schema["properties"].items()})
    if kind == "object":
        return st.dictionaries(TEXT, values_of(schema["additionalProperties"]), min_size=1, max_size=5)
    if kind == "string" and "pattern" in schema and "^" in schema["pattern"]:
        return st.from_regex(schema["pattern"], fullmatch=True).filter(lambda t: len(t) <= 100)
    return {"boolean": st.booleans(), "integer": st.integers(least, most), "string": TEXT,
            "number": st.floats(least, most) | st.integers(least, most)}[kind]  # fmt: skip


VALUES = {name: values_of(field) for name, field in FIELDS.items()}
DEVIATIONS = st.lists(TEXT | st.booleans() | st.integers(-99, 99) | st.floats(-99, 99), min_size=1, max_size=3)
TOP = {"name": TEXT, "authors": TEXT, "remarks": TEXT, "link": values_of(SCHEMA["properties"]["link"]),
       "deviations": st.dictionaries(st.sampled_from(list(FIELDS)), DEVIATIONS, max_size=3),
       "sources": st.dictionaries(st.sampled_from(list(FIELDS)), TEXT, max_size=3)}  # fmt: skip
CARDS = st.builds(lambda top, fields: QuantizationCard.of(**top, **fields),
                  st.fixed_dictionaries(TOP), st.fixed_dictionaries({}, optional=VALUES))  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return results.load_table(results.table_path("digits", "skip-residual"))


@pytest.fixture(scope="module")
def cards(table):
    def card(**where):
        return QuantizationCard.from_rows(results.select(table, [f"{k}={v}" for k, v in where.items()]), table)

    return [card(activation_bits=4, quantize_residual="false", quantize_skip=skip) for skip in ("true", "false")]


def test_the_schema_is_one_and_its_examples_fit():
    Draft202012Validator.check_schema(SCHEMA)
    assert len(FIELDS) == sum(map(len, CATEGORIES.values()))
    assert SCHEMA["$defs"]["field"]["enum"] == list(FIELDS)
    for name, field in FIELDS.items():
        assert field["description"] and field["examples"]
        for example in field["examples"]:
            assert QuantizationCard.of("x", **{name: example})[name] == example


def test_every_field_of_a_configuration_is_on_the_card():
    assert set(QuantConfig().to_dict()) <= set(FIELDS)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CARDS)
def test_yaml_loses_nothing(card):
    again = QuantizationCard.from_yaml(card.to_yaml())
    assert again == card and again.to_yaml() == card.to_yaml()
    for view in (str(card), card.to_markdown(), card.to_html(), card.to_latex(), compare.report(card, again, [])):
        assert view


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CARDS, CARDS)
def test_swapped_cards_differ_alike(a, b):
    there, back = a.differences(b), b.differences(a)
    assert [(c.field, c.a, c.b) for c in there] == [(c.field, c.b, c.a) for c in back]
    for one, other in zip(there, back, strict=True):
        assert [w.points.points for w in one.worth] == pytest.approx([-w.points.points for w in other.worth])
    assert [c for c in a.differences(a) if c.a != c.b] == []


def test_what_is_left_out_is_not_reported():
    card = QuantizationCard.from_yaml("schema_version: 1\nname: x\n")
    assert {card[name] for name in FIELDS} == {NOT_REPORTED}


LAYERS = st.dictionaries(st.sampled_from(["default", "fc", "conv1"]), st.integers(2, 16), min_size=1)
RANGES, SWITCH = st.sampled_from(["minmax", "percentile", "mse"]), st.booleans()
CHOICES = {"weight_bits": st.integers(2, 16) | LAYERS | st.none(), "activation_bits": st.integers(2, 16) | LAYERS | st.none(),
           "weight_symmetric": SWITCH, "activation_symmetric": SWITCH,
           "symmetric_grid": st.sampled_from(["full", "restricted", "authors"]),
           "weight_granularity": st.sampled_from(["per_channel", "per_tensor"]),
           "activation_granularity": st.sampled_from(["per_tensor", "per_channel"]), "weight_range": RANGES,
           "activation_range": RANGES, "percentile": st.floats(50, 100, exclude_min=True), "activation_dynamic": SWITCH,
           "quantize_skip": SWITCH, "quantize_residual": SWITCH,
           "pooling": st.sampled_from(["high_precision", "low_precision", "float"]),
           "input_bits": st.integers(2, 16) | st.none(), "quantize_output": SWITCH,
           "calibration_upstream": st.sampled_from(["float", "quantized"]), "first_last_bits": st.integers(2, 16) | st.none(),
           "bit_choices": st.lists(st.integers(2, 16), min_size=1, max_size=4, unique=True).map(lambda b: tuple(sorted(b)))}
DERIVED = {  # what else follows from the bits of a side: how they are given to layers, and whether anything is quantized at all
    "weight_bits": {"allocation", "batch_norm", "quantizer", "rounding", "technique"},
    "activation_bits": {"allocation", "batch_norm", "quantizer", "rounding", "technique"}}  # fmt: skip


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
        quantized = [config.weight_bits is not None or config.activation_bits is not None for config in configs]
        assert ("batch_norm" in derived) == (quantized[0] != quantized[1])
        layers = [any(isinstance(b, dict) for b in (config.weight_bits, config.activation_bits)) for config in configs]
        assert ("allocation" in derived) == (layers[0] != layers[1])


def test_a_run_on_a_bench_fills_in_what_the_bench_knows(bench, cards):
    config = QuantConfig(activation_bits=4, activation_range="percentile", quantize_residual=False)
    runs = [Accuracy(np.arange(1000) % 10 < right) for right in (7, 8)]
    card = QuantizationCard.from_run(config, runs, baseline=runs[1], bench=bench, network="base", images=320, labels="none",
                                     steps=0, time=1.5, hardware="here")  # fmt: skip
    assert [name for name in FIELDS if card[name] == NOT_REPORTED] == []
    same = {"accuracy", "float_accuracy", "spread", "seeds", "time", "hardware"}
    assert {name for name in FIELDS if card[name] != cards[0][name]} <= same
    assert card["spread"] == 7.07 and card["accuracy"]["top1"] == 75 and card["accuracy"]["n"] == 1000
    with pytest.raises(ValueError, match="no network 'bse'; did you mean 'base'"):
        QuantizationCard.from_run(config, bench=bench, network="bse")
    own = QuantizationCard.from_run(config, model=bench.models["base"], network="mine")
    assert (own["weights_hash"], own["network"]) == (card["weights_hash"], "mine")


def test_a_card_of_recorded_rows(table, cards):
    card = cards[0]
    rows = results.select(table, ["activation_bits=4", "quantize_residual=false", "quantize_skip=true"])
    assert card["accuracy"]["top1"] == pytest.approx(rows.top1.mean(), abs=0.01) and card["accuracy"]["n"] == 10_000
    assert card["seeds"] == len(rows) == 5 and card["weights_hash"] == rows.weights.iloc[0]
    assert card["spread"] == pytest.approx(rows.top1.std(), abs=0.01)
    assert card["float_accuracy"]["top1"] == 77.31 and card["max_activation_bytes"] == 4608 * 4  # a residual in float
    assert card.data["deviations"] == {"activation_bits": [3, 5, 6, 7, 8], "quantize_skip": [False], "quantize_residual": [True]}
    (session,) = {results.provenance(results.table_path("digits", "skip-residual"))[i]["hardware"] for i in rows.session}
    assert card["hardware"] == session and card["time"] == pytest.approx(rows.seconds.mean(), abs=0.05)
    assert [name for name in FIELDS if card[name] == NOT_REPORTED] == []


def test_a_card_of_learned_rows_has_the_bits_that_were_learned():
    table = results.load_table(results.table_path("digits", "first-last-learned"))
    rows = results.select(table, ["target_activation_bits=4", "first_last_bits=null", "target_weight_bits=4"])
    card = QuantizationCard.from_rows(rows, table)
    bits = rows.iloc[0]["bits"]
    assert card["weight_bits"] == {name: pair[0] for name, pair in bits.items() if pair[0]}
    assert card["activation_range"] == "learned" and card["labels"] == "true" and card["steps"] == 400
    assert card["average_weight_bits"] == pytest.approx(rows.iloc[0]["average_weight_bits"], abs=1e-4)
    assert card["float_accuracy"]["top1"] == 77.31


def test_rows_of_several_settings_have_no_card(table):
    with pytest.raises(ValueError, match="differ in activation_bits.*: a card is about one setting"):
        QuantizationCard.from_rows(table[table.activation_bits.notna()], table)


# ------------------------------------------------------------------------------------------------------------- renderings


def test_renderings_say_every_field(cards):
    for view in (str(cards[0]), cards[0].to_markdown(), cards[0].to_html()):
        plain = view.replace("\\", "")
        assert [f["title"] for f in FIELDS.values() if f["title"] not in plain] == []
        assert "72.3 %" in plain
    assert "72.3 \\%" in cards[0].to_latex() and "not reported" not in cards[0].to_latex()
    assert "\\textit{6 not reported}" in QuantizationCard.of("x", pooling="float").to_latex()


def test_html_of_a_stranger_holds_no_markup_of_theirs():
    card = QuantizationCard.of(HOSTILE, remarks=HOSTILE, authors=HOSTILE, technique=HOSTILE, sources={"technique": HOSTILE})
    page = BeautifulSoup(card.to_html(), "html.parser")
    assert not page.select("script, a, img") and HOSTILE in page.caption.get_text()
    for cell in page.select("tbody tr"):
        assert cell.th["scope"] == "row" and cell.td


def test_markdown_of_a_stranger_holds_no_markup_of_theirs():
    text = QuantizationCard.of(HOSTILE, technique="a | b\n\n# c").to_markdown()
    assert "<script" not in text and "\\[a\\]\\(javascript" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") == 3 for line in rows[1:])


def test_the_terminal_gets_no_control_characters():
    assert "\x1b" not in str(QuantizationCard.of(HOSTILE)) and "\x1b" not in compare.report(
        QuantizationCard.of(HOSTILE), QuantizationCard.of("b", technique="x"), [])  # fmt: skip


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_latex_compiles(tmp_path, cards):
    letters = "".join(chr(c) for c in range(0x20, 0x250))
    strangers = [QuantizationCard.of(name, remarks=HOSTILE, technique=name, deviations={"technique": [name]}) for name in
                 (HOSTILE, letters)]  # fmt: skip
    for name, part in (("ours", [*cards, *catalogue().values()]), ("strangers", strangers)):
        page = "\n\n".join(card.to_latex() for card in part)
        (tmp_path / f"{name}.tex").write_text(f"\\documentclass{{article}}\\begin{{document}}{page}\\end{{document}}", "utf8")
        done = subprocess.run(["pdflatex", "-halt-on-error", f"{name}.tex"], cwd=tmp_path, capture_output=True, timeout=120)
        said = done.stdout.decode("latin1")
        assert done.returncode == 0, said[-800:]
        assert name == "strangers" or "Overfull" not in said, "wider than the page"


ALLOWED = re.compile(r"\\(?:begin|end)\{tabular\}|\\(?:hline|noindent|linewidth)\b|\\multicolumn\{2\}|\\text(?:bf|it)\{"
                     r"|\\(?:text(?:backslash|asciicircum|asciitilde|less|greater|bar)|ldots)\{\}|\\(?:ss|ae|AE|oe|OE|o|O|l|L|i)\{\}"
                     r"|\$(?:\||\\times|\\pm|\\ge|\\le)\$|\\[`'^~\"=u.rHvc]\{[A-Za-z]\}|\\[{}$&#_%]|\\\\")  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CARDS)
def test_latex_holds_nothing_but_these_commands(card):
    latex = card.to_latex().replace("@{}", "")
    assert latex.isascii() and latex.count("{") - latex.count("\\{") == latex.count("}") - latex.count("\\}")
    assert len(re.findall(r"(?<!\\) & ", latex)) >= 1 + len(CATEGORIES)
    assert not set("\\$#%_^~") & set(ALLOWED.sub("", latex))


def test_latex_of_a_stranger_has_no_commands_of_theirs():
    latex = QuantizationCard.of(HOSTILE).to_latex()
    assert r"\input" not in latex and r"\textbackslash{}input\{/etc/passwd\}" in latex and r"\$x\_1\textasciicircum{}2\$" in latex


def contrast(a, b):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_htmls_colours_can_be_read():
    from qlib.cards import render

    for style in (render.STYLE, render.DARK):
        colour = dict(re.findall(r"--(\w+): (#\w{6})", style))
        for text, ground in (("ink", "paper"), ("ink", "head"), ("link", "paper")):
            assert contrast(colour[text], colour[ground]) >= 4.5


# ------------------------------------------------------------------------------------------------------------- strangers


BAD = {
    "not YAML": ("name: [", r"line \d: not YAML"),
    "a list": ("- a", "a card is a mapping"),
    "a tag": ("!!python/object/apply:os.system [ls]", "not YAML"),
    "unknown": ("schema_version: 1\nname: x\nmethods: {}", "no \"methods\"; did you mean 'method'"),
    "unknown field": ("schema_version: 1\nname: x\nmethod: {quantiser: uniform}", "did you mean 'quantizer'"),
    "wrong place": ("schema_version: 1\nname: x\nmethod: {weight_bits: 4}", "belongs to mixed_precision"),
    "wrong type": ("schema_version: 1\nname: x\nmixed_precision: {weight_bits: four}", 'mixed_precision.weight_bits: "four"'),
    "blank": ("schema_version: 1\nname: x\nmethod: {technique: ''}", "method.technique"),
    "nothing": ("schema_version: 1\nname: x\nmethod: {technique: }", "method.technique: null"),
    "future": ("schema_version: 2\nname: x", "this qlib reads version 1"),
    "not finite": ("schema_version: 1\nname: x\nresources: {time: .nan}", "not finite"),
    "a date": ("schema_version: 1\nname: 2020-01-01", "dates in quotes"),
    "twice": ("schema_version: 1\nname: x\nname: y", "line 3: \"name\" stands there twice"),
    "a number as a name": ("schema_version: 1\nname: x\nmixed_precision: {weight_bits: {1: 8}}", "names must be text"),
    "alias bomb": ("a: &a [x]\n" + "".join(f"{b}: &{b} [{f'*{a}, ' * 9}]\n" for a, b in ("ab", "bc", "cd", "de", "ef", "fg")),
                   "aliases are not allowed"),
    "deep": ("[" * 20_000, "nested too deeply|nesting depth"), "deep lists": ("- " * 400_000, "nested too deeply"),
    "deep mappings": ("\n".join(" " * i + "a:" for i in range(900)), "line 21: nested too deeply"),
    "many names": ("\n".join(f"k{i}: 8" for i in range(80_000)), "more than 100,000 values"),
    "long list": ("[" + "8, " * 300_000 + "]", "more than 100,000 values"),
    "huge number": ("schema_version: 1\nname: x\nresources: {steps: " + "9" * 500_000 + "}", "number of 500,000 digits"),
    "base 60": ("schema_version: 1\nname: x\nresources: {steps: " + "1:" * 100_000 + "1}", "number of 200,001 digits"),
    "empty": ("", "a card is a mapping"), "half a character": ('schema_version: 1\nname: "\\ud800"', "Unicode"),
    "binary": ("schema_version: 1\nname: !!binary aGVsbG8=", "more than text"),
    "script link": ("schema_version: 1\nname: x\nlink: javascript:alert(1)", "link"),
}  # fmt: skip


@pytest.mark.parametrize("text, message", BAD.values(), ids=BAD.keys())
def test_a_bad_card_gets_one_clear_line(tmp_path, capsys, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text, "utf8")
    start = time.process_time()
    assert main(["card", "validate", str(path)]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "bad.yaml" in said and len(said) < 500
    for arguments in (["show", str(path)], ["diff", "brecq", str(path)], ["check", "brecq", "--target", str(path)]):
        assert main(["card", *arguments, "--json"]) == 2
        said, error = capsys.readouterr()
        assert json.loads(said) == {"error": error.strip().removeprefix("qlib: ")} and "bad.yaml" in error
    assert time.process_time() - start < 4
    with pytest.raises(ValueError, match=message):
        QuantizationCard.from_yaml(text)


BYTES = {"junk": bytes(range(256)) * 100, "latin 1": b"schema_version: 1\nname: caf\xe9", "utf 16": "name: x".encode("utf16"),
         "zeros": bytes(1000)}  # fmt: skip


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


def test_every_file_is_validated(tmp_path, capsys):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    QuantizationCard.of("x").save(good)
    bad.write_text("- a", "utf8")
    assert main(["card", "validate", str(bad), str(good), "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said[str(good)] is True and "a card is a mapping" in said[str(bad)]["error"]


def test_whole_numbers_are_whole_and_half_characters_are_refused():
    assert repr(QuantizationCard.of("x", weight_bits=8.0, weight_bytes=196164.0)["weight_bits"]) == "8"
    with pytest.raises(ValueError, match="half of a character"):
        QuantizationCard.of("\ud800")


# ------------------------------------------------------------------------------------------------------------- comparing


def test_differences_name_the_choice_its_observation_and_its_worth(cards):
    (skip,) = [choice for choice in cards[0].differences(cards[1]) if not choice.confound]
    assert (skip.field, skip.a, skip.b, skip.observation) == ("quantize_skip", True, False, 3)
    assert skip.worth[0].points.points == pytest.approx(compare.gap(*cards), abs=0.05)
    (reverse,) = [choice for choice in cards[1].differences(cards[0]) if not choice.confound]
    assert reverse.worth[0].points.points == pytest.approx(-skip.worth[0].points.points)
    assert all(choice.field in ("hardware",) for choice in cards[0].differences(cards[1])[1:])


RUN = QuantizationCard.from_run(QuantConfig())


@pytest.mark.parametrize("field, a, b, table", [
    ("weight_range", "mse", "minmax", "clipping-weights"), ("weight_range", "minmax", "percentile", "clipping-weights"),
    ("activation_range", "mse", "minmax", "clipping-activations"), ("pooling", "float", "low_precision", "pooling"),
    ("labels", "soft", "true", "pseudo-labels"), ("images", 1, 1024, "calibration-images"),
    ("float_accuracy", 77.7, 76.1, "float-baseline"), ("allocation", "learned", "uniform", "channel-bits"),
])  # fmt: skip
def test_a_worth_is_that_of_these_two_values_and_turns_with_them(field, a, b, table):
    there, back = compare.worth(field, a, b), compare.worth(field, b, a)
    assert [w.table for w in there] == [f"digits/{table}"] and there[0].points.n == 10_000
    assert there[0].points.points == pytest.approx(-back[0].points.points)


@pytest.mark.parametrize("field, a, b", [
    ("weight_range", "mse", "search for the least error"), ("images", 320, 1024), ("weight_range", "mse", "mse"),
    ("weight_granularity", "per_group", "per_channel"), ("float_accuracy", 76.1, 76.1), ("bias", "float", 32),
    ("images", True, 1024),
])  # fmt: skip
def test_values_that_were_not_measured_have_no_worth(field, a, b):
    assert compare.worth(field, a, b) == ()


def test_a_worth_is_what_the_recorded_rows_say():
    table = results.load_table(results.table_path("digits", "clipping-weights"))
    where = {"weight_bits": 4, "weight_granularity": "per_channel"}
    sides = [results.accuracies(table, **where, weight_range=value) for value in ("mse", "percentile")]
    assert compare.worth("weight_range", "mse", "percentile")[0].points == evaluate_compare(*sides)


def test_what_does_not_act_does_not_differ():
    def differing(**changes):
        return [c.field for c in RUN.differences(QuantizationCard.from_run(QuantConfig(**changes))) if not c.confound]

    assert differing(percentile=99.0) == differing(symmetric_grid="restricted") == differing(bit_choices=(2, 4, 8)) == []
    assert differing(activation_symmetric=True, symmetric_grid="restricted") == ["activation_symmetric", "symmetric_grid"]
    assert differing(activation_bits=None) == ["activation_bits"]


TABLES = {  # the paper's, word by word where it speaks of choices
    "garg-table-3": """Uniform | Asymmetric | Per-channel weights, Per-tensor activations | Static quantizer parameters |
        Percentile clipping at 99.99th percentile for activations | Full precision skip connection |
        Full precision residual connection |
        Average pooling computed at high precision and requantized | 8 bit weights | Fixed activation bitwidth | First and last
        layer weights at 8 bits, output activations of first and last layer at 8 bits | 320 examples | Unlabeled training data |
        Baseline accuracy: 76 % | Quantized accuracy: figure 5""",
    "garg-table-4": """Uniform | Asymmetric | Per-channel weights, Per-tensor activations | Static quantizer parameters | Learned
        activation quantizer min/max | Quantized skip connection | Quantized residual connection | Average pooling computed at
        high precision and requantized | Mixed precision weights | Mixed precision activations | All layers quantized | Any
        integer bitwidth | 1,024 examples | Labeled training data | Baseline accuracy: 76 % | Quantized accuracy: table 2""",
}


@pytest.mark.parametrize("name", TABLES)
def test_the_papers_tables_render_like_the_papers(name):
    said = catalogue()[name].to_latex().replace("\\%", "%").replace("&", "$|$").replace("\\\\\n", "$|$")
    parts, wanted = [part.strip() for part in said.split("$|$")], [" ".join(w.split()) for w in TABLES[name].split("|")]
    places = [next(i for i, part in enumerate(parts) if part.startswith(phrase)) for phrase in wanted]
    assert places == sorted(places)
    assert [line.split(" & ")[0] for line in catalogue()[name].to_latex().splitlines() if " & " in line][1:6] == [
        "Quantization method", "Quantized operations", "Mixed precision", "Resource complexity", "Pretrained model"]  # fmt: skip


def test_what_one_side_leaves_open_is_a_confound(cards):
    other = QuantizationCard.of("a paper", **{name: cards[0][name] for name in FIELDS if name != "pooling"})
    (choice,) = cards[0].differences(other)
    assert choice.field == "pooling" and choice.confound and choice.b == NOT_REPORTED


def test_every_worth_compares_rows_that_differ_in_that_choice():
    known = {w.field for w in compare.worths()}
    assert known <= set(FIELDS) and len(known) == 17
    assert all(w.points.n == 10_000 for w in compare.worths())


# ------------------------------------------------------------------------------------------------------------- hardware


@pytest.mark.parametrize("name", hardware.profiles())
def test_profiles_are_valid_and_know_their_fields(name):
    profile = hardware.load_profile(name)
    assert profile["name"] == name and all(s["link"].startswith("http") for s in profile["statements"])


def test_what_a_chip_cannot_do_is_found(cards):
    found = {finding.field: finding.verdict for finding in cards[0].fits("litert-int8")}
    assert found == dict.fromkeys(("activation_bits", "weight_symmetric", "pooling", "quantize_residual", "bias"), "cannot")
    mixed = QuantizationCard.of("mixed", weight_bits={"default": 4, "fc": 3}, activation_bits=8)
    (slower, unknown) = mixed.fits("integer-2-4-8")
    assert (slower.field, slower.verdict, slower.value, slower.layers) == ("weight_bits", "slower", 3, ("fc",))
    assert "= 3 in fc. Units fuse" in str(slower) and (unknown.field, unknown.verdict) == ("first_last_bits", "unknown")


def test_first_and_last_layer_are_weights_too():
    card = QuantizationCard.of("x", weight_bits=8, activation_bits=8, first_last_bits=6)
    assert [(f.field, f.verdict) for f in card.fits("integer-2-4-8")] == [("first_last_bits", "slower")]
    assert ("first_last_bits", "cannot") in [(f.field, f.verdict) for f in card.fits("litert-int8")]


def test_what_the_card_does_not_say_is_unknown():
    assert {f.verdict for f in QuantizationCard.of("x").fits("litert-int8")} == {"unknown"}


def test_a_profile_of_ones_own(tmp_path):
    profile = {"name": "mine", "title": "My chip", "link": "https://example.org", "statements": [
        {"field": "first_last_bits", "runs": ["like the rest"], "why": "One array.", "link": "https://example.org"}]}  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(profile), "utf8")
    assert [f.field for f in QuantizationCard.of("x", first_last_bits=8).fits(path)] == ["first_last_bits"]
    path.write_text(yaml.safe_dump(profile | {"statements": [{"field": "weight_bit"}]}), "utf8")
    with pytest.raises(ValueError, match="mine.yaml: a card has no field .weight_bit.; did you mean 'weight_bits'"):
        hardware.load_profile(path)


BAD_PROFILES = {
    "no why": ({"field": "weight_bits", "runs": [8], "link": "https://example.org"}, "statements.0: 'why' is a required"),
    "no list": ({"field": "weight_bits", "runs": 8, "why": "x", "link": "https://example.org"}, "statements.0.runs"),
    "no link": ({"field": "weight_bits", "runs": [8], "why": "x", "link": "the manual"}, "statements.0.link"),
    "no value": ({"field": "weight_granularity", "runs": ["per-channel"], "why": "x", "link": "https://example.org"},
                 "weight_granularity: \"per-channel\" is not what belongs there"),
}  # fmt: skip


@pytest.mark.parametrize("statement, message", BAD_PROFILES.values(), ids=BAD_PROFILES.keys())
def test_a_bad_profile_gets_one_clear_line(statement, message):
    profile = {"name": "x", "title": "x", "link": "https://example.org", "statements": [statement]}
    with pytest.raises(ValueError, match=message) as error:
        hardware.load_profile(profile)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="this is a card"):
        hardware.load_profile(dict(RUN.data))


# ------------------------------------------------------------------------------------------------------------- commands


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
    assert main(["card", "new", str(path), "--force", "--experiment", "skip-residual", "--where", "activation_bit=4"]) == 2
    assert "did you mean 'activation_bits'" in capsys.readouterr().err
    assert main(["card", "new", str(path), "--force", "--experiment", "skip-residal"]) == 2
    assert "did you mean 'digits/skip-residual'" in capsys.readouterr().err
    own = results.table_path("digits", "skip-residual")
    assert main(["card", "new", str(path), "--force", "--experiment", str(own), "--where", *where, "--name", "mine"]) == 0
    assert (QuantizationCard.load(path).name, QuantizationCard.load(path)["activation_bits"]) == ("mine", 4)


# ------------------------------------------------------------------------------------------------------------- catalogue


@pytest.mark.parametrize("name", catalogue())
def test_a_card_of_the_catalogue_has_a_source_for_every_field_that_it_reports(name):
    card = catalogue()[name]
    reported = [field for field in FIELDS if card[field] != NOT_REPORTED]
    assert set(card.data["sources"]) == set(reported) and len(reported) >= 10
    assert all(source.startswith("https://") for source in card.data["sources"].values())
    assert card.data["link"].startswith("https://") and card.data["authors"] != NOT_REPORTED
    assert card.to_markdown() and card.to_html() and card.to_latex() and str(card)


def test_the_catalogue_holds_the_methods_and_the_papers_tables():
    methods = "adaround brecq qdrop adaquant zeroq lapq aciq hawq-v3 bit-split smoothquant gptq awq".split()
    assert {*methods, "garg-table-3", "garg-table-4"} <= set(catalogue())


def test_commands_know_the_catalogue(capsys):
    assert main(["card", "show", "brecq"]) == 0 and main(["card", "diff", "brecq", "adaround"]) == 1
    assert main(["card", "catalogue"]) == 0 and "AdaRound" in capsys.readouterr().out
    assert main(["card", "show", "breqc"]) == 2 and "did you mean 'brecq'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["new", "show", "validate", "diff", "check", "from-onnx", "catalogue"])
def test_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["card", verb, "--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and "--json" in said and "Exit codes: 0" in said


def test_a_float_network_is_called_better_only_beyond_its_interval_and_on_one_data_set():
    def card(top1, half, dataset="ImageNet"):
        measured = {"top1": top1, "low": top1 - half, "high": top1 + half, "n": 1000}
        return QuantizationCard.of("a card", dataset=dataset, float_accuracy=measured, weight_bits=5)

    def worth(a, b):
        return next(choice.worth for choice in a.differences(b) if choice.field == "float_accuracy")

    assert worth(card(77, 0.4), card(74, 0.4))
    assert not worth(card(77, 2), card(74, 2)) and not worth(card(77, 0.4), card(74, 0.4, "CIFAR-10"))
