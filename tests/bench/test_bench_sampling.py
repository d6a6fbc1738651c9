"""Which steps count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.bench.sampling import (
    LEAST_SAMPLES,
    LEAST_WARM_UP,
    MOST_WARM_UP,
    Sampling,
    Spread,
    spread_of,
    warm_up_length,
)


def test_steps_that_are_alike_end_the_warm_up_as_soon_as_two_windows_agree():
    assert warm_up_length([1.0] * 30) == 6


def test_a_slow_first_step_does_not_spoil_a_window_of_three():
    assert warm_up_length([50.0, 1.0, 1.0, 1.0, 1.0, 1.0]) == 6


def test_steps_that_still_get_faster_go_on_warming_up():
    falling = [2.0, 1.8, 1.6, 1.4, 1.2, 1.0]
    assert warm_up_length(falling) is None
    assert warm_up_length(falling + [1.0] * 4) == 10


def test_a_machine_that_never_settles_is_measured_all_the_same():
    assert warm_up_length([1.05**step for step in range(60)]) == MOST_WARM_UP


def test_long_steps_end_the_warm_up_by_the_clock_but_never_before_the_third():
    assert warm_up_length([100.0, 100.0]) is None
    assert warm_up_length([100.0, 100.0, 100.0]) == LEAST_WARM_UP


@given(st.lists(st.floats(0.001, 100.0), max_size=60))
def test_the_length_of_a_warm_up_does_not_change_with_what_comes_after_it(seconds):
    length = warm_up_length(seconds)
    assert length is None or LEAST_WARM_UP <= length <= MOST_WARM_UP
    assert length is None or warm_up_length([*seconds, 1.0]) == length


@pytest.mark.slow
@given(st.lists(st.floats(0.001, 1.0), min_size=40, max_size=60), st.integers(LEAST_SAMPLES, 15))
def test_there_are_enough_samples_after_exactly_as_many_steps_as_were_wanted(seconds, wanted):
    sampling = Sampling(wanted, patience=1e9)
    for second in seconds:
        if sampling.is_enough:
            break
        sampling.add(second, second)
    assert len(sampling.samples) == wanted
    assert sampling.samples == sampling.seconds[sampling.num_warm_up :]


def test_patience_ends_with_fewer_samples_but_not_with_none():
    sampling = Sampling(1000, patience=10.0)
    for _ in range(6 + LEAST_SAMPLES):
        assert not sampling.is_enough
        sampling.add(0.1, 2.0)
    assert sampling.is_enough


def test_quartiles_are_those_of_the_samples_between_which_they_lie():
    assert spread_of([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert spread_of([2.0]) == Spread(2.0, 2.0, 2.0, 1)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_before_the_third_step_nothing_counts(count):
    sampling = Sampling(5, patience=1.0, seconds=[1.0] * count)
    assert sampling.samples == [] and sampling.num_warm_up == count
