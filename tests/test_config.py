"""`QuantConfig`: one frozen, hashable value that survives YAML and JSON."""

import dataclasses
import inspect
import json

import pytest
import yaml
from choice_strategies import allowed, possible
from hypothesis import given
from hypothesis import strategies as st

from qlib import QuantConfig
from qlib.choices import choices
from qlib.names import entry, is_pattern, matches

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1, max_size=12)
SOME_BITS = st.integers(2, 16)
LAYER_BITS = st.one_of(st.integers(2, 32), st.lists(SOME_BITS, min_size=1, max_size=4).map(tuple))
SIDE = st.one_of(st.none(), SOME_BITS, st.dictionaries(NAMES, LAYER_BITS, max_size=3))
STRATEGIES = {
    **allowed(),
    "weight_bits": SIDE,
    "activation_bits": SIDE,
    "input_bits": st.one_of(st.none(), SOME_BITS),
    "first_last_bits": st.one_of(st.none(), SOME_BITS),
    "embedding_bits": st.one_of(st.none(), SOME_BITS),
    "kv_bits": st.one_of(st.none(), SOME_BITS),
    "float_layers": st.lists(NAMES.filter(str.strip), max_size=3),
    "bit_choices": st.lists(st.integers(1, 16), min_size=1, max_size=5),
}
CONFIGS = st.fixed_dictionaries(STRATEGIES).map(possible).map(lambda fields: QuantConfig(**fields))
FIELDS = {field.name: field for field in dataclasses.fields(QuantConfig)}


@given(CONFIGS)
def test_yaml_and_json_give_the_same_configuration_back(config):
    for copy in (
        QuantConfig.from_yaml(config.to_yaml()),
        QuantConfig.from_json(config.to_json()),
        QuantConfig.from_dict(config.to_dict()),
    ):
        assert copy == config and hash(copy) == hash(config)
        assert copy.to_json() == config.to_json()


def test_every_field_is_drawn_by_the_round_trip():
    assert set(STRATEGIES) == set(FIELDS)


@given(CONFIGS)
def test_text_holds_plain_values_only(config):
    assert yaml.safe_load(config.to_yaml()) == config.to_dict() == json.loads(config.to_json())


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_frozen(name):
    config = QuantConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, getattr(config, name))


def test_equal_configurations_hash_alike():
    first = QuantConfig(weight_bits={"a": 3, "b": [2, 4]}, bit_choices=[8, 2, 2])
    second = QuantConfig(weight_bits={"b": (2, 4), "a": 3}, bit_choices=(2, 8))
    assert first == second and len({first, second}) == 1
    assert first != QuantConfig(weight_bits={"a": 3, "b": [4, 2]}, bit_choices=[8, 2])
    named = [QuantConfig(float_layers=names) for names in (["b", "a", "b"], ("a", "b"))]
    assert len(set(named)) == 1 and named[0].float_layers == ("a", "b")


def test_defaults_are_those_of_the_interface():
    assert QuantConfig().to_dict() == {
        "weight_bits": 8,
        "activation_bits": 8,
        "weight_symmetric": False,
        "activation_symmetric": False,
        "symmetric_grid": "full",
        "weight_granularity": "per_channel",
        "group_size": 128,
        "activation_granularity": "per_tensor",
        "weight_range": "minmax",
        "activation_range": "minmax",
        "percentile": 99.99,
        "activation_dynamic": False,
        "quantize_skip": True,
        "quantize_residual": True,
        "pooling": "high_precision",
        "input_bits": 8,
        "quantize_output": True,
        "calibration_upstream": "float",
        "first_last_bits": 8,
        "embedding_bits": None,
        "kv_bits": None,
        "float_layers": [],
        "bit_choices": [1, 2, 3, 4, 5, 6, 7, 8],
    }


def test_a_dictionary_given_is_copied():
    bits = {"default": 4}
    config = QuantConfig(weight_bits=bits)
    bits["default"] = 2
    assert config.weight_bits == {"default": 4}


def test_replace_changes_some_fields_and_checks_them():
    config = QuantConfig(weight_bits=4)
    assert config.replace(percentile=99) == QuantConfig(weight_bits=4, percentile=99.0)
    assert config == QuantConfig(weight_bits=4)
    with pytest.raises(ValueError, match="percentile"):
        config.replace(percentile=40)


def test_fields_left_out_of_a_text_keep_their_default():
    assert QuantConfig.from_yaml("weight_bits: 3") == QuantConfig(weight_bits=3)


def test_a_field_that_was_added_later_is_part_of_a_key_only_where_it_is_set():
    later = {name for name, known in choices(QuantConfig).items() if known.since}
    assert later == {"group_size", "embedding_bits", "kv_bits", "float_layers"}
    for config in (QuantConfig(), QuantConfig(weight_bits=4, float_layers=[])):
        assert config.identity() == {k: value for k, value in config.to_dict().items() if k not in later}
    for name, value in (("float_layers", ["fc"]), ("group_size", 64), ("embedding_bits", 4), ("kv_bits", 4)):
        named = QuantConfig(**{name: value}).identity()
        assert named == {**QuantConfig().identity(), name: value}


@pytest.mark.parametrize("name, side", [("embedding_bits", "weight_bits"), ("kv_bits", "activation_bits")])
def test_bits_of_a_part_are_refused_where_their_side_is_left_in_float(name, side):
    with pytest.raises(ValueError, match=f"{name}=4 with {side}=None.*give {side}={{'default': 32}}"):
        QuantConfig(**{side: None, name: 4})
    QuantConfig(**{side: {"default": 32}, name: 4})


def test_ranges_per_token_are_refused_where_they_are_fixed_before():
    with pytest.raises(ValueError, match="activation_granularity='per_token' needs activation_dynamic=True"):
        QuantConfig(activation_granularity="per_token")
    QuantConfig(activation_granularity="per_token", activation_dynamic=True)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, None])
def test_a_group_has_a_whole_number_of_weights(size):
    with pytest.raises(ValueError, match="group_size must be a whole number"):
        QuantConfig(group_size=size)


def test_yaml_reads_as_a_person_would_write_it():
    config = QuantConfig.from_yaml(
        "activation_bits: {default: 4, fc: [2, 3]}\ninput_bits: null\npercentile: 99"
    )
    assert config == QuantConfig(
        activation_bits={"default": 4, "fc": (2, 3)}, input_bits=None, percentile=99.0
    )


def test_help_shows_every_field_and_its_default():
    shown = inspect.signature(QuantConfig).parameters
    assert {name: p.default for name, p in shown.items()} == {
        f.name: f.default for f in dataclasses.fields(QuantConfig)
    }


# Names and shell patterns


@pytest.mark.parametrize(
    "name, patterns, found",
    [
        ("fc", ["fc"], True),
        ("layer1.0.conv1", ["layer1"], True),  # a module around it
        ("layer1.0.conv1", ["layer1.0"], True),
        ("layer1.0.conv1", ["layer1.*"], True),
        ("layer1", ["layer1.*"], False),
        ("layer10.conv", ["layer1"], False),
        ("layer1.0.conv1", ["conv1"], False),
        ("layer1.0.conv1", ["*.conv?"], True),
        ("layer2.attention.query", ["layer?.attention"], True),
        ("block3", ["block[12]", "block[!3]"], False),
        ("Encoder.fc", ["encoder.*"], False),  # with case
        ("a[0]", ["a[0]"], True),  # a name that looks like a pattern
        ("fc", [], False),
    ],
)
def test_a_module_is_named_by_itself_by_a_pattern_or_by_one_around_it(name, patterns, found):
    assert matches(name, patterns) is found


def test_a_wildcard_makes_a_pattern():
    assert not any(map(is_pattern, ["fc", "layer1.0", "default"]))
    assert all(map(is_pattern, ["layer1.*", "conv?", "block[12]"]))


BITS = {
    "default": 8,
    "*": 7,
    "layer1.*": 6,
    "layer1.*.conv1": 5,
    "layer1.0.conv1": 4,
    "layer[12].0.fc": (2, 3),
}


@pytest.mark.parametrize(
    "name, bits",
    [
        ("layer1.0.conv1", 4),  # an exact name before a pattern
        ("layer1.1.conv1", 5),  # the more specific pattern, though both fit
        ("layer1.1.conv2", 6),
        ("layer2.0.conv1", 7),
        ("layer2.0.fc", (2, 3)),
        ("layer1.0.fc", (2, 3)),  # ten characters that are no wildcards against seven
        ("default", 7),  # a tensor of that name gets what its pattern says
    ],
)
def test_the_more_specific_entry_of_a_bits_dictionary_goes_first(name, bits):
    for table in (BITS, dict(reversed(BITS.items()))):
        assert entry("weight_bits", table, name) == bits


def test_what_no_name_and_no_pattern_fits_has_no_entry():
    assert entry("weight_bits", {"default": 8, "layer1.*": 4, "FC": 3}, "fc") is None
    assert entry("weight_bits", {"default": 8}, "default") is entry("weight_bits", {}, "fc") is None


def test_two_equally_specific_patterns_that_fit_one_name_are_an_error():
    table = {"layer1.*": 4, "*.conv12": 3, "*": 2}
    assert entry("activation_bits", table, "layer1.0.conv1") == 4
    both = r"activation_bits: the patterns 'layer1\.\*' and '\*\.conv12' are .* both fit 'layer1\.0\.conv12'"
    with pytest.raises(ValueError, match=both):
        entry("activation_bits", table, "layer1.0.conv12")
    assert entry("activation_bits", {**table, "layer1.0.conv12": 5}, "layer1.0.conv12") == 5
    assert entry("activation_bits", {**table, "layer1.*.conv12": 6}, "layer1.0.conv12") == 6
