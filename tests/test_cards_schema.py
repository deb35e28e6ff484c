"""Our check of a schema says what the package `jsonschema` says."""

import json

import pytest
from card_strategies import CARDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from qlib.cards import SCHEMA, catalogue
from qlib.cards.profile import PROFILE_SCHEMA as PROFILE
from qlib.cards.profile import load_profile, profiles
from qlib.cards.schema import ANNOTATIONS, KEYWORDS, fault
from qlib.choices import same

WORDS = st.sampled_from(
    [
        "",
        " ",
        "x",
        "not reported",
        "float",
        "mixed",
        "uniform",
        "default",
        "fc",
        "weight_bits",
        "minmax",
        "0123abcd",
        "https://example.org",
        "javascript:x",
        "x" * 1001,
    ]
)
SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 40) | st.floats(-2, 120, width=16) | st.just(8.0) | WORDS
)
JUNK = st.recursive(
    SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(WORDS, part, max_size=3), max_leaves=6
)


def places(data, path=()):
    """Every path into nested data."""
    yield path
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def agree(data, schema):
    """Whether both find a fault, and ours at a place as deep at least (where a value may be of two kinds of
    mappings jsonschema names the whole): of several alike either may name another one.
    """
    errors = list(Draft202012Validator(schema).iter_errors(data))
    found = fault(data, schema)
    best = best_match(errors)
    assert (found is None) == (best is None), (found, best)
    if found is not None:
        assert len(found.path) >= len(best.absolute_path), (found, best)
        if len(errors) == 1 and not best.context and "propertyNames" not in best.absolute_schema_path:
            where = data
            for key in found.path:
                where = where[key]
            assert same(where, found.value) and found.message
    return found


@pytest.mark.parametrize("name", catalogue())
def test_cards_of_the_catalogue_fit(name):
    assert agree(json.loads(json.dumps(catalogue()[name].data)), SCHEMA) is None


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(CARDS, st.data())
def test_a_card_with_anything_in_one_place(card, draw):
    data = json.loads(json.dumps(card.data))
    *way, last = draw.draw(st.sampled_from([path for path in places(data) if path]))
    where = data
    for key in way:
        where = where[key]
    action = draw.draw(st.sampled_from(["replace", "remove", "add"]))
    if action == "replace" or not isinstance(where, dict):
        where[last] = draw.draw(JUNK)
    elif action == "remove":
        del where[last]
    else:
        where[draw.draw(WORDS)] = draw.draw(JUNK)
    agree(data, SCHEMA)


@pytest.mark.parametrize("name", profiles())
def test_a_profile_with_anything_in_one_place(name):
    profile = json.loads(json.dumps(load_profile(name)))
    assert agree(profile, PROFILE) is None
    for path in list(places(profile))[1:80]:
        for junk in (None, True, 3, "x", [], {}, [None], {"x": 1}):
            changed = json.loads(json.dumps(profile))
            where = changed
            for key in path[:-1]:
                where = where[key]
            where[path[-1]] = junk
            agree(changed, PROFILE)


@pytest.mark.parametrize(
    "value, path",
    [
        ({"default": 4, "fc": "four"}, ("fc",)),
        ([8, 33], (1,)),
        ({"fc": [8, 0]}, ("fc", 1)),
        ("four", ()),
        (True, ()),
    ],
)
def test_the_fault_is_named_where_it_lies(value, path):
    card = json.loads(json.dumps(catalogue()["brecq"].data))
    card["mixed_precision"]["weight_bits"] = value
    found = agree(card, SCHEMA)
    assert found.path == ("mixed_precision", "weight_bits", *path)


def test_every_keyword_is_known_and_an_unknown_one_is_never_passed_over():
    def keywords(schema):
        for keyword, wanted in schema.items():
            yield keyword
            inner = (
                wanted.values()
                if keyword in ("properties", "$defs")
                else []
                if keyword == "needs"
                else wanted
                if keyword == "anyOf"
                else [wanted]
            )
            for part in inner:
                if isinstance(part, dict) and keyword not in ("examples", "const"):
                    yield from keywords(part)

    for schema in (SCHEMA, PROFILE):
        assert set(keywords(schema)) <= ANNOTATIONS | set(KEYWORDS)
    with pytest.raises(KeyError, match="uniqueItems"):
        fault([1, 1], {"type": "array", "uniqueItems": True})


def test_true_is_not_one():
    assert (
        fault(True, {"const": 1})
        and fault(1, {"enum": [True]})
        and fault(True, {"type": ["integer", "number"]})
    )
    assert (
        not fault(1.0, {"const": 1})
        and not fault(8.0, {"type": "integer"})
        and fault(8.5, {"type": "integer"})
    )


def test_a_long_value_makes_a_short_message():
    found = fault(["x" * 10_000] * 10_000, {"type": "string"})
    assert len(found.message) < 300
