"""A choice that a configuration of one's own adds is a field of its card like all others."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator

from qlib import Accuracy, QuantConfig, QuantizationCard, results
from qlib.cards import FIELDS, NOT_REPORTED, SCHEMA, compare, fields_of
from qlib.choices import choice
from qlib.widgets.comparison import card_comparison


@dataclass(frozen=True)
class Mine(QuantConfig):
    stochastic: bool = choice(
        False, "Stochastic rounding", "Whether codes are drawn between two neighbours.", since="mine"
    )
    noise: str = choice(
        "none_at_all",
        "Noise",
        "What is added to activations while ranges are found.",
        values=("none_at_all", "white_noise"),
        side="activation",
        acts=lambda card: card["activation_range"] != "minmax",
        observation=7,
        since="mine",
    )
    group: int | None = choice(None, "Group", "Inputs in a block.", least=1, none="no groups", since="mine")
    kept: tuple[str, ...] = choice(
        (),
        "Layers kept",
        "By name.",
        category="resources",
        schema={"type": "array", "items": {"$ref": "#/$defs/text"}},
        examples=(["fc"],),
        since="mine",
    )


ADDED = ("stochastic", "noise", "group", "kept")
CARD = QuantizationCard.from_run(
    Mine(stochastic=True, noise="white_noise", activation_range="mse", kept=("fc", "stem")), name="mine"
)


def test_the_schema_follows_from_what_is_stated():
    known = fields_of(Mine)
    Draft202012Validator.check_schema(known.schema)
    assert known is fields_of(Mine) and known["stochastic"] == {
        "title": "Stochastic rounding",
        "description": "Whether codes are drawn between two neighbours.",
        "anyOf": [{"const": NOT_REPORTED}, {"type": "boolean"}],
        "examples": [True, False],
    }
    kinds = [{"const": NOT_REPORTED}, {"type": "number", "minimum": 1}, {"const": "no groups"}]
    assert known["group"]["anyOf"] == kinds and known["group"]["examples"] == ["no groups"]
    assert known["noise"]["observation"] == 7 and known["kept"]["examples"] == [["fc"]]
    assert list(known.categories["method"])[-3:] == ["stochastic", "noise", "group"]
    assert known.category_of["kept"] == "resources"
    assert not set(ADDED) & set(known.schema["properties"]["method"]["required"])  # older cards lack them
    for name in ADDED:
        for example in known[name]["examples"]:
            assert QuantizationCard.of("x", config_class=Mine, **{name: example})[name] == example
    assert list(FIELDS) == [name for name in known if name not in ADDED] == list(fields_of(QuantConfig))
    assert not set(ADDED) & set(SCHEMA["$defs"]["field"]["enum"])


def test_a_choice_of_ones_own_reaches_the_card():
    assert CARD["stochastic"] is True and CARD["noise"] == "white_noise" and CARD["group"] == "no groups"
    assert CARD.data["method"]["stochastic"] is True and CARD.data["resources"]["kept"] == ["fc", "stem"]
    assert CARD["weight_bits"] == 8 and CARD.config_class is Mine and len(CARD.fields) == len(FIELDS) + 4
    plain = QuantizationCard.from_run(QuantConfig())
    with pytest.raises(KeyError, match="no field 'stochastic'"):
        plain["stochastic"]
    with pytest.raises(KeyError, match="no field 'stochastik'; did you mean 'stochastic'"):
        CARD["stochastik"]


def test_it_acts_as_it_states():
    assert CARD.acts("noise") and CARD.acts("stochastic")
    assert not QuantizationCard.from_run(Mine(noise="white_noise")).acts("noise")
    in_float = Mine(noise="white_noise", activation_range="mse", activation_bits=None)
    assert not QuantizationCard.from_run(in_float).acts("noise")


def test_it_is_shown_in_every_view():
    for view in (str(CARD), CARD.to_markdown(), CARD.to_html(), CARD.to_latex()):
        plain = view.replace("\\", "")
        assert "Stochastic rounding" in plain and "white noise" in plain and "fc, stem" in plain
    assert f"{'Stochastic rounding':32} yes" in str(CARD)
    assert "| Stochastic rounding | yes |" in CARD.to_markdown()
    assert '<th scope="row">Stochastic rounding</th><td>yes</td>' in CARD.to_html()
    assert "Stochastic rounding: yes" in CARD.to_latex()


@pytest.mark.parametrize("name", ["card.yaml", "card.json"])
def test_it_is_saved_and_loaded_with_its_class(tmp_path, name):
    path = tmp_path / name
    CARD.save(path)
    again = QuantizationCard.load(path, config_class=Mine)
    assert again == CARD and again.config_class is Mine and again["stochastic"] is True
    assert QuantizationCard.from_yaml(CARD.to_yaml(), Mine) == CARD
    assert list(Draft202012Validator(CARD.fields.schema).iter_errors(json.loads(json.dumps(CARD.data)))) == []
    for read in (lambda: QuantizationCard.load(path), lambda: QuantizationCard(CARD.data)):
        with pytest.raises(
            ValueError, match='method has no field "stochastic".*pass its class as config_'
        ) as e:
            read()
        assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="a card has no field 'stochastic'.*config_class"):
        QuantizationCard.of("x", stochastic=True)


def test_a_card_without_the_choice_can_be_read_with_it():
    old = QuantizationCard(QuantizationCard.from_run(QuantConfig()).data, Mine)
    assert old["stochastic"] == NOT_REPORTED and old["weight_bits"] == 8


def test_cards_with_and_without_it_are_compared():
    plain = QuantizationCard.from_run(Mine(activation_range="mse"))
    choices = {choice.field: choice for choice in CARD.differences(plain) if not choice.confound}
    assert list(choices) == ["stochastic", "noise", "kept"] and choices["noise"].observation == 7
    assert "Noise: white noise | none at all  (Quantization method, observation 7)" in str(choices["noise"])
    other = QuantizationCard.from_run(QuantConfig(activation_range="mse"), name="theirs")
    for a, b in ((CARD, other), (other, CARD)):
        found = {choice.field: choice for choice in a.differences(b)}
        assert set(ADDED) <= set(found) and found["stochastic"].confound
        assert {found["stochastic"].a, found["stochastic"].b} == {True, NOT_REPORTED}
        assert found["kept"].category == "Resource complexity" and found["kept"].to_dict()["confound"]
        assert "Stochastic rounding: " in compare.report(a, b, found.values())


def test_the_figure_that_compares_cards_has_it():
    state = card_comparison({"theirs": QuantizationCard.from_run(QuantConfig()), "mine": CARD}).state
    (place,) = [i for i, field in enumerate(state["fields"]) if field["name"] == "stochastic"]
    assert state["fields"][place]["category"] == "Quantization method"
    assert [card["values"][place] for card in state["cards"]] == [NOT_REPORTED, "yes"]
    assert [card["acts"][place] for card in state["cards"]] == [0, 1]


def test_a_profile_may_speak_about_it(tmp_path):
    about = {"field": "stochastic", "why": "No random numbers.", "source": "https://a.org"}
    statements = [
        {**about, "values": [True], "verdict": "cannot"},
        {**about, "values": [False], "verdict": "runs"},
    ]
    head = {
        "profile_version": 2,
        "name": "mine",
        "title": "My chip",
        "version": "A0",
        "link": "https://a.org",
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**head, "statements": statements}), "utf8")
    finding = CARD.fits(path)[0]
    assert (finding.field, finding.value, finding.verdict) == ("stochastic", True, "cannot")
    assert str(finding).startswith("cannot: Stochastic rounding = yes. No random numbers.")
    assert json.loads(json.dumps(finding.to_dict()))["field"] == "stochastic"
    assert {f.verdict for f in QuantizationCard.from_run(Mine()).fits(path)} == {"unknown"}
    with pytest.raises(ValueError, match='a card has no field "stochastic"'):
        QuantizationCard.from_run(QuantConfig()).fits(path)


def test_recorded_rows_have_a_card_with_it():
    table = results.load_table(results.table_path("digits", "skip-residual"))
    where = ["activation_bits=4", "quantize_residual=false", "quantize_skip=true"]
    usual = QuantizationCard.from_rows(results.select(table, where), table)
    old = QuantizationCard.from_rows(results.select(table, where), table, Mine)  # from before the choices
    assert {old[name] for name in FIELDS if old[name] != usual[name]} == set()
    assert (old["stochastic"], old["noise"], old["group"]) == (False, "none_at_all", "no groups")
    rows = results.select(table, where).assign(stochastic=True)
    mixed = table.assign(stochastic=[key in set(rows.key) for key in table.key])
    card = QuantizationCard.from_rows(rows, mixed, config_class=Mine, name="mine")
    assert card["stochastic"] is True and card.data["deviations"]["stochastic"] == [False]
    assert card["seeds"] == 5 and card["accuracy"] == usual["accuracy"]
    assert QuantizationCard.from_yaml(card.to_yaml(), Mine) == card


@dataclass(frozen=True)
class Recent(QuantConfig):
    stochastic: bool = choice(False, "Stochastic", "Whether.")


def test_rows_that_lack_a_column_are_refused():
    rows = results.load_table(results.table_path("digits", "skip-residual")).iloc[1:2]
    with pytest.raises(ValueError, match="no column 'stochastic', which is a choice of Recent"):
        QuantizationCard.from_rows(rows, config_class=Recent)


def added(**fields):
    """A class with these fields, each a default and what is stated."""
    values = {name: value for name, value in fields.items()}
    annotations = dict.fromkeys(fields, "object")
    return dataclass(frozen=True)(type("Odd", (QuantConfig,), {"__annotations__": annotations, **values}))


ODD = {
    "taken": (
        {"images": choice(1, "T", "H.", least=0)},
        "Odd.images: a card has something else of that name",
    ),
    "about": ({"link": choice("x", "T", "H.")}, "Odd.link: a card has something else of that name"),
    "category": (
        {"x": choice(1, "T", "H.", category="methods")},
        "Odd.x: there is no category 'methods' on a card; did you mean 'method'",
    ),
    "nothing stated": ({"x": 1}, "Odd.x: nothing is stated about it"),
    "no kind": ({"x": choice((), "T", "H.")}, "Odd.x: its default does not tell .* state its schema="),
}


@pytest.mark.parametrize("fields, message", ODD.values(), ids=ODD)
def test_what_no_card_can_hold_is_refused_by_name(fields, message):
    odd = added(**fields)
    with pytest.raises(ValueError, match=message) as error:
        QuantizationCard.from_run(odd())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [Mine(), dict, "Mine", None, {}], ids=str)
def test_a_class_that_is_no_configurations_is_refused(wrong):
    for use in (
        lambda: QuantizationCard.from_yaml(CARD.to_yaml(), wrong),
        lambda: QuantizationCard.of("x", config_class=wrong),
        lambda: fields_of(wrong),
    ):
        with pytest.raises(TypeError, match="config_class must be QuantConfig or a class derived from it"):
            use()


def test_the_accuracy_and_what_a_person_knows_stand_beside_it():
    card = QuantizationCard.from_run(
        Mine(stochastic=True),
        Accuracy(np.array([True, True, False, True])),
        labels="none",
        noise=NOT_REPORTED,
    )
    assert card["accuracy"]["top1"] == 75 and card["labels"] == "none" and card["noise"] == NOT_REPORTED
