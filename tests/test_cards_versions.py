"""Cards of version 1 say what they said; fields speak where the schema says so; some may become choices."""

import copy
import dataclasses
import json

import pytest
from card_strategies import CARDS
from hypothesis import HealthCheck, given, settings

from qlib import QuantConfig, QuantizationCard, strict_yaml
from qlib.cards import FIELDS, NOT_REPORTED, SCHEMA, catalogue, hardware
from qlib.cards.fields import CHOICES, PLAIN, fields_of
from qlib.choices import choice

NEW = [name for name, field in FIELDS.items() if field.get("since") == 2]


def of_version_1(card):
    """The card's file, as version 1 had it."""
    data = copy.deepcopy(dict(card.data))
    data["schema_version"] = 1
    del data["evaluation"], data["faults"]
    for name in NEW:
        data.get(PLAIN.category_of[name], {}).pop(name, None)
        data["deviations"].pop(name, None)
        data["sources"].pop(name, None)
    return data


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CARDS)
def test_a_card_of_version_1_says_what_it_said_and_is_saved_as_version_2(card):
    data = of_version_1(card)
    for text in (strict_yaml.to_yaml(data), strict_yaml.to_json(data)):
        read = QuantizationCard.from_yaml(text)
        assert {name: read[name] for name in FIELDS if name not in NEW} == {
            name: card[name] for name in FIELDS if name not in NEW
        }
        assert {read[name] for name in NEW} == {NOT_REPORTED}
        assert read.to_yaml().startswith("schema_version: 2\n")
        assert QuantizationCard.from_yaml(read.to_yaml()) == read


@pytest.mark.parametrize("name", NEW)
def test_a_card_of_version_1_cannot_state_what_came_later(name):
    data = of_version_1(QuantizationCard.of("x"))
    data.setdefault(PLAIN.category_of[name], {})[name] = FIELDS[name]["examples"][0]
    with pytest.raises(
        ValueError, match="came with version 2 of the schema: write schema_version: 2"
    ) as error:
        QuantizationCard(data)
    assert "\n" not in str(error.value)
    assert QuantizationCard({**data, "schema_version": 2})[name] == FIELDS[name]["examples"][0]


def test_the_catalogue_is_of_version_2():
    assert {card.data["schema_version"] for card in catalogue().values()} == {2}
    assert (catalogue()["gptq"]["metric"], catalogue()["brecq"]["metric"]) == ("perplexity", "top1")


def test_32_bits_of_weights_or_activations_are_float():
    card = QuantizationCard.of(
        "x", weight_bits={"conv": 8, "fc": 32}, activation_bits=32, bias=32, accumulator_bits=32, kv_bits=32
    )
    assert card["weight_bits"] == {"conv": 8, "fc": "float"} and card["activation_bits"] == "float"
    assert (card["bias"], card["accumulator_bits"], card["kv_bits"]) == (32, 32, "float")
    bits = {name for name in PLAIN if PLAIN.float_at_32(name)}
    assert bits >= {"weight_bits", "activation_bits", "input_bits", "first_last_bits", "embedding_bits"}
    assert not bits & {"bias", "accumulator_bits", "group_size"}
    run = QuantizationCard.from_run(QuantConfig(weight_bits={"fc": 32, "conv": 17}))
    assert run["weight_bits"] == {"fc": "float", "conv": 17}
    source = "https://example.org"
    statement = {
        "field": "weight_bits",
        "values": [8, "float"],
        "verdict": "runs",
        "why": "x",
        "source": source,
    }
    about = {"profile_version": 2, "name": "x", "title": "x", "version": "1", "link": source}
    mixed = QuantizationCard.of("x", weight_bits={"a": 8, "b": 32}, first_last_bits=8)
    found = hardware.check(mixed, {**about, "statements": [statement]})
    ends = [finding.verdict for finding in found if finding.field in ("weight_bits", "first_last_bits")]
    assert ends and set(ends) == {"runs"}
    assert "8 to 8 and float (5 entries)" in str(
        QuantizationCard.of("x", weight_bits={**dict.fromkeys("abcd", 8), "e": 32})
    )


# ------------------------------------------------------------------------------------------------------------


def test_what_the_others_do_not_ask_for_is_silent_unless_it_is_reported():
    images = QuantizationCard.of(
        "images", metric="top1", weight_granularity="per_channel", allocation="uniform"
    )
    needing = [name for name in NEW if "needs" in FIELDS[name]]
    assert {"context", "bos", "column_order", "penalty", "latency_ratio"} <= set(needing)
    needing += ["kv_bits", "embedding_bits"]  # choices, of which the same holds
    assert QuantizationCard.of("told", group_size=32).acts("group_size") and not images.acts("group_size")
    page = str(images)
    for name in needing:
        assert not images.acts(name) and FIELDS[name]["title"] not in page
        told = QuantizationCard.of("told", metric="top1", **{name: FIELDS[name]["examples"][0]})
        assert told.acts(name) and FIELDS[name]["title"] in str(told)
        assert name not in {c.field for c in images.differences(images)}
        assert (name in {c.field for c in images.differences(told)}) == (not FIELDS[name].get("outcome"))
    for name, fields in (
        ("context", {"metric": "perplexity"}),
        ("group_size", {"weight_granularity": "per_group"}),
        ("checkpoint", {"allocation": "learned"}),
    ):
        asked = QuantizationCard.of("asked", **fields)
        assert asked.acts(name) and FIELDS[name]["title"] in str(asked)


def test_needs_name_fields_and_values_that_a_card_can_hold():
    for field in FIELDS.values():
        for other, values in field.get("needs", {}).items():
            for value in values:
                assert QuantizationCard.of("x", **{other: value})[other] == value
        assert field.get("like", "weight_bits") in FIELDS


def test_a_result_is_a_value_with_a_metric():
    card = QuantizationCard.of("x", accuracy={"metric": "perplexity", "value": 6.09})
    assert "perplexity 6.09\n" in str(card) + "\n"
    full = {"metric": "rank correlation", "value": 0.7, "low": 0.6, "high": 0.8, "n": 900}
    assert "rank correlation 0.7 (0.6 to 0.8, n = 900)" in str(QuantizationCard.of("x", accuracy=full))


def test_any_other_field_keeps_its_name():
    wrong = dataclasses.make_dataclass(
        "Wrong",
        [("bos", bool, choice(False, "BOS", "Whether.", since="later"))],
        bases=(QuantConfig,),
        frozen=True,
    )
    with pytest.raises(ValueError, match="Wrong.bos: a card has something else of that name"):
        fields_of(wrong)


def test_schema_and_its_required_fields_are_in_order():
    assert list(SCHEMA["properties"])[-3:] == ["evaluation", "deviations", "sources"]
    assert CHOICES not in json.dumps(SCHEMA)
