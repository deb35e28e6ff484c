"""What a learner may be told: stated once, checked, and part of keys that do not change."""

import dataclasses
import inspect
import json

import pytest

from qlib import QuantConfig, learn_bitwidths, results
from qlib.bits.settings import LearnerSettings, check_config
from qlib.choices import choice, choices
from qlib.experiments import ALLOCATION_FIELDS, Allocation, Experiment

TABLES = sorted((results.clone() / "book" / "results").glob("*/*.csv"))


def test_every_setting_is_a_choice_in_words():
    for settings in (LearnerSettings, Allocation):
        assert list(choices(settings)) == list(settings.defaults())
        assert all(known.title and known.help.endswith(".") for known in choices(settings).values())


def test_the_learner_takes_every_setting_with_its_default():
    parameters = inspect.signature(learn_bitwidths).parameters
    for name, default in LearnerSettings.defaults().items():
        assert name not in parameters or parameters[name].default == default
        assert name in parameters or name in learn_bitwidths.__doc__


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"target_weight_bits": 0}, "target_weight_bits must be a number above 0, or None, got 0"),
        ({"target_activation_bits": float("nan")}, "target_activation_bits must be a number above 0"),
        ({"target_weight_bits": True}, "target_weight_bits must be"),
        ({"steps": 2.0}, "steps must be a whole number from 1, got 2.0"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0, got 0"),
        ({"penalty": float("inf")}, "penalty must be a number from 0, got inf"),
        ({"parametrization": "log"}, "parametrization must be one of 'bits', 'log2'; got 'log'"),
        ({"per_channel": 1}, "per_channel must be True or False, got 1"),
        ({"checkpoint": None}, "checkpoint must be one of 'average', 'authors', 'last', 'fill'; got None"),
    ],
)
def test_a_setting_out_of_its_bounds_is_named(settings, words):
    with pytest.raises(ValueError, match=words):
        LearnerSettings(**settings)


def test_an_unknown_setting_is_refused_with_a_suggestion():
    for settings in (LearnerSettings, Allocation):
        with pytest.raises(
            TypeError, match=f"{settings.__name__} has no field 'stepz'; did you mean 'steps'"
        ):
            settings(target_weight_bits=3, stepz=5)
        with pytest.raises(ValueError, match="did you mean 'learn_ranges'"):
            settings.from_dict({"target_weight_bits": 3, "learn_range": True})


@pytest.mark.parametrize(
    "settings, config, words",
    [
        ({}, {}, "nothing to learn"),
        ({"target_weight_bits": 4}, {"weight_bits": None}, "weight_bits=None leaves that side in float"),
        ({"target_weight_bits": 4, "learn_ranges": True}, {}, "give target_activation_bits"),
        ({"target_activation_bits": 4, "learn_ranges": True}, {"activation_dynamic": True}, "static"),
        ({"target_activation_bits": 4, "learn_ranges": True}, {"activation_symmetric": True}, "asymmetric"),
    ],
)
def test_a_configuration_that_settings_do_not_fit_is_named(settings, config, words):
    with pytest.raises(ValueError, match=words):
        check_config(LearnerSettings(**settings), QuantConfig(**config))


def test_an_allocation_is_learned_or_analytic():
    assert Allocation(target_activation_bits=4).targets == {"activation": 4}
    assert Allocation(target_weight_bits=3).learned and not Allocation(largest_map_bits=4).learned
    for both_or_none in ({}, {"target_weight_bits": 3, "largest_map_bits": 4}):
        with pytest.raises(ValueError, match="or else largest_map_bits"):
            Allocation(**both_or_none)
    with pytest.raises(ValueError, match="labels must be one of 'true', 'hard', 'soft'; got 'pseudo'"):
        Allocation(target_weight_bits=3, labels="pseudo")


def test_equal_allocations_are_one_whatever_kind_of_number_they_hold():
    assert len({Allocation(target_weight_bits=3), Allocation(target_weight_bits=3.0)}) == 1


def test_a_later_setting_does_not_change_a_key_unless_it_is_used():
    @dataclasses.dataclass(frozen=True)
    class Later(Allocation):
        momentum: float = choice(0.9, "Momentum", "Of Adam.", least=0, since="0.9")

    now = Allocation(target_weight_bits=3, steps=400)
    assert Later(**now.to_dict()).identity() == now.identity()
    assert Later(**now.to_dict(), momentum=0.5).identity() == {**now.identity(), "momentum": 0.5}


def test_settings_that_older_rows_lack_are_in_keys_where_they_are_used():
    usual = Allocation(target_weight_bits=3)
    assert set(usual.identity()) == set(ALLOCATION_FIELDS) - {"batch_size", "allow_infeasible"}
    assert usual.replace(batch_size=64).identity() == {**usual.identity(), "batch_size": 64}
    assert usual.replace(allow_infeasible=True).identity() == {**usual.identity(), "allow_infeasible": True}
    assert Allocation(**usual.replace(batch_size=64).identity()).batch_size == 64


@pytest.mark.parametrize("path", TABLES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_recorded_allocations_read_back_as_they_are_written(path):
    for row in results.load_rows(path):
        run = results.run_of(row)
        assert json.dumps(run.allocation and run.allocation.identity()) == json.dumps(row["allocation"])


def test_an_experiment_may_set_every_setting(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("bench: digits\nfixed: {target_weight_bits: 3, batch_size: 64, allow_infeasible: true}\n")
    allocation = Experiment.load(path).runs()[-1].allocation
    assert (allocation.batch_size, allocation.allow_infeasible) == (64, True)
