"""`QuantConfig`: one frozen, hashable value that survives YAML and JSON."""

import dataclasses
import inspect
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qlib import QuantConfig

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1, max_size=12)
SOME_BITS = st.integers(2, 16)
LAYER_BITS = st.one_of(st.integers(2, 32), st.lists(SOME_BITS, min_size=1, max_size=4).map(tuple))
SIDE = st.one_of(st.none(), SOME_BITS, st.dictionaries(NAMES, LAYER_BITS, max_size=3))
RANGES = st.sampled_from(["minmax", "percentile", "mse"])
GRANULARITIES = st.sampled_from(["per_channel", "per_tensor"])
STRATEGIES = {
    "weight_bits": SIDE,
    "activation_bits": SIDE,
    "weight_symmetric": st.booleans(),
    "activation_symmetric": st.booleans(),
    "symmetric_grid": st.sampled_from(["full", "restricted", "authors"]),
    "weight_granularity": GRANULARITIES,
    "activation_granularity": GRANULARITIES,
    "weight_range": RANGES,
    "activation_range": RANGES,
    "percentile": st.floats(50, 100, exclude_min=True),
    "activation_dynamic": st.booleans(),
    "quantize_skip": st.booleans(),
    "quantize_residual": st.booleans(),
    "pooling": st.sampled_from(["high_precision", "low_precision", "float"]),
    "input_bits": st.one_of(st.none(), SOME_BITS),
    "quantize_output": st.booleans(),
    "calibration_upstream": st.sampled_from(["float", "quantized"]),
    "first_last_bits": st.one_of(st.none(), SOME_BITS),
    "bit_choices": st.lists(st.integers(1, 16), min_size=1, max_size=5),
}
CONFIGS = st.builds(QuantConfig, **STRATEGIES)
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


def test_defaults_are_those_of_the_interface():
    assert QuantConfig().to_dict() == {
        "weight_bits": 8,
        "activation_bits": 8,
        "weight_symmetric": False,
        "activation_symmetric": False,
        "symmetric_grid": "full",
        "weight_granularity": "per_channel",
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


def test_yaml_reads_as_a_person_would_write_it():
    config = QuantConfig.from_yaml("activation_bits: {default: 4, fc: [2, 3]}\ninput_bits: null\npercentile: 99")
    assert config == QuantConfig(activation_bits={"default": 4, "fc": (2, 3)}, input_bits=None, percentile=99.0)


def test_help_shows_every_field_and_its_default():
    shown = inspect.signature(QuantConfig).parameters
    assert {name: p.default for name, p in shown.items()} == {f.name: f.default for f in dataclasses.fields(QuantConfig)}
