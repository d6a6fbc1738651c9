import dataclasses

import pytest

from autoresearch.loop.settings import Settings, known_settings, load_settings
from autoresearch.vocabulary import UsageError


def test_without_any_source_the_defaults_hold():
    assert load_settings({}, {}, {}) == Settings()


def test_environment_wins_over_the_table_and_flags_over_both():
    table = {"seed": 1, "hours": 1.0, "experiments": 1}
    environment = {"AUTORESEARCH_HOURS": "2", "AUTORESEARCH_EXPERIMENTS": "2"}
    found = load_settings(table, environment, {"experiments": 3})
    assert (found.seed, found.hours, found.experiments) == (1, 2.0, 3)


def test_a_flag_that_was_not_given_overrides_nothing():
    assert load_settings({"hours": 8}, {}, {"hours": None, "seed": None}).hours == 8.0


def test_a_flag_of_zero_is_a_flag_that_was_given():
    assert load_settings({"seed": 5}, {}, {"seed": 0}).seed == 0


@pytest.mark.parametrize(
    ("table", "environment", "flags", "where"),
    [
        ({"experimets": 3}, {}, {}, "[tool.autoresearch] in pyproject.toml: unknown setting 'experimets'"),
        ({}, {"AUTORESEARCH_HOUR": "1"}, {}, "environment variable AUTORESEARCH_HOUR: unknown setting 'hour'"),
    ],
)
def test_an_unknown_key_says_where_it_is_and_names_every_known_one(table, environment, flags, where):
    with pytest.raises(UsageError) as caught:
        load_settings(table, environment, flags)
    assert caught.value.message == f"{where}; known: {', '.join(known_settings())}"
    assert {"contract", "proposer", "hours", "keep_probability"} <= set(known_settings())
    assert caught.value.hint


def test_every_key_is_known_by_the_name_of_its_field():
    assert known_settings() == tuple(f.name for f in dataclasses.fields(Settings))


@pytest.mark.parametrize("name", ["CACHE", "BACKEND"])
def test_variables_of_other_parts_are_no_settings(name):
    assert load_settings({}, {f"AUTORESEARCH_{name}": "x", "PATH": "/bin", "HOURS": "3"}, {}) == Settings()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("experiments", "many", "is not a whole number"),
        ("experiments", 2.5, "is not a whole number"),
        ("experiments", "2.5", "is not a whole number"),
        ("experiments", True, "is not a whole number"),
        ("seed", [1], "is not a whole number"),
        ("seed", "", "is not a whole number"),
        ("hours", "a night", "is not a number"),
        ("hours", False, "is not a number"),
        ("contract", 3, "is not a text"),
        ("proposer", ["search"], "is not a text"),
        ("file", {"name": "train.py"}, "is not a text"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(key, value, said):
    with pytest.raises(UsageError, match=said) as caught:
        load_settings({key: value}, {}, {})
    assert f"setting {key} = {value!r}" in caught.value.message


def test_texts_of_the_environment_become_numbers_and_whole_numbers_become_hours():
    environment = {"AUTORESEARCH_SEED": "7", "AUTORESEARCH_HOURS": "0.5", "AUTORESEARCH_KEEP_PROBABILITY": "0.9"}
    found = load_settings({"contract": "tiny"}, environment, {})
    assert (found.contract, found.seed, found.hours, found.keep_probability) == ("tiny", 7, 0.5, 0.9)
    assert type(load_settings({"hours": 8}, {}, {}).hours) is float


@pytest.mark.parametrize(
    "key", ["experiments", "hours", "calibration", "max_pairs", "refresh_every", "crash_streak", "threads"]
)
@pytest.mark.parametrize("value", ["0", "-1"])
def test_a_limit_of_nothing_is_refused(key, value):
    with pytest.raises(UsageError, match=f"setting {key} = .* must be more than zero"):
        load_settings({}, {f"AUTORESEARCH_{key.upper()}": value}, {})


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_hours_that_would_never_end_are_refused(value):
    with pytest.raises(UsageError, match="hours"):
        load_settings({}, {"AUTORESEARCH_HOURS": value}, {})


def test_one_calibration_run_is_refused_because_it_says_nothing_about_noise():
    with pytest.raises(UsageError, match="at least 2") as caught:
        load_settings({}, {}, {"calibration": 1})
    assert caught.value.hint == "--calibration 3"
    assert load_settings({}, {}, {"calibration": 2}).calibration == 2


@pytest.mark.parametrize("value", [0.5, 1.0, 0.0, 2, "nan"])
def test_a_keep_probability_outside_its_range_is_refused(value):
    with pytest.raises(UsageError, match="between"):
        load_settings({}, {}, {"keep_probability": value})


def test_a_flag_of_the_wrong_kind_is_refused_too():
    with pytest.raises(UsageError, match="whole number"):
        load_settings({}, {}, {"seed": "x"})


def test_settings_in_force_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_settings({}, {}, {}).seed = 3
