"""The budget of a trial under each clock, with clocks that a test moves by hand."""

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.contract.budget import Budget, own_cpu_seconds
from autoresearch.contract.rules import Clock, rules_for


class Times:
    """Wall and CPU seconds, moved by hand; both start anywhere but at nought."""

    def __init__(self) -> None:
        self.wall = 1000.0
        self.cpu = 50.0

    def spend(self, wall: float, cpu: float | None = None) -> None:
        self.wall += wall
        self.cpu += wall if cpu is None else cpu


def started(clock, *, time_budget=10.0, grace=0.5):
    """(budget that has handed out its first batch, its times)."""
    times = Times()
    rules = replace(rules_for("tiny"), clock=clock, time_budget=time_budget, grace=grace)
    budget = Budget(rules, lambda: times.cpu, monotonic=lambda: times.wall)
    times.spend(33.0)  # start-up
    assert not budget.started
    assert budget.another_batch()
    return budget, times


@pytest.mark.parametrize("clock", list(Clock))
def test_start_up_is_not_charged(clock):
    budget, _ = started(clock)
    assert budget.started
    assert budget.wall_seconds() == 0.0
    assert budget.used() == (1.0 if clock is Clock.STEPS else 0.0)


def test_nothing_is_used_before_the_first_batch():
    times = Times()
    budget = Budget(rules_for("tiny"), lambda: times.cpu, monotonic=lambda: times.wall)
    budget.add_wait(5.0)
    times.spend(100.0)
    assert (budget.used(), budget.wall_seconds(), budget.progress()) == (0.0, 0.0, 0.0)
    assert not budget.overrun()


def test_the_wall_clock_counts_wall_seconds_only():
    budget, times = started(Clock.WALL)
    times.spend(wall=4.0, cpu=100.0)
    budget.add_wait(3.0)
    assert budget.used() == 4.0
    assert budget.progress() == 0.4


def test_the_cpu_clock_counts_cpu_seconds_and_waiting_for_data():
    budget, times = started(Clock.CPU)
    times.spend(wall=100.0, cpu=2.0)
    assert budget.used() == 2.0
    budget.add_wait(1.5)
    assert budget.used() == 3.5
    assert budget.wall_seconds() == 100.0


def test_the_wall_and_step_clocks_never_read_the_processes_cpu():
    def unreadable() -> float:
        raise AssertionError("asked for CPU seconds")

    for clock in (Clock.WALL, Clock.STEPS):
        rules = replace(rules_for("smoke"), clock=clock)
        budget = Budget(rules, unreadable, monotonic=lambda: 1.0)
        assert budget.another_batch()
        assert budget.progress() <= 1.0
        assert not budget.overrun()


def test_the_step_clock_hands_out_exactly_the_budget_however_slow_the_steps():
    budget, times = started(Clock.STEPS, time_budget=8)
    num_batches = 1
    while budget.another_batch():
        num_batches += 1
        times.spend(1e6)
    assert num_batches == 8
    assert not budget.another_batch()
    assert budget.progress() == 1.0
    assert not budget.overrun()


@pytest.mark.parametrize("clock", [Clock.WALL, Clock.CPU])
def test_no_batch_is_handed_out_once_the_budget_is_spent(clock):
    budget, times = started(clock)
    times.spend(9.999)
    budget.another_batch()
    times.spend(0.001)
    assert not budget.another_batch()
    assert not budget.another_batch(), "and none later"


@pytest.mark.parametrize("clock", [Clock.WALL, Clock.CPU])
def test_short_steps_use_the_budget_to_its_end(clock):
    budget, times = started(clock)
    steps = 0
    while budget.another_batch():
        times.spend(0.25)
        steps += 1
    assert steps == 40
    assert budget.used() == 10.0
    assert not budget.overrun()


def test_a_step_that_would_overrun_budget_and_grace_is_not_begun():
    budget, times = started(Clock.WALL)
    for _ in range(3):
        times.spend(3.0)
        last = budget.another_batch()
    assert budget.used() == 9.0
    assert not last, "9 + 3 is beyond 10 + 0.5"


def test_a_step_that_ends_within_the_grace_is_begun():
    budget, times = started(Clock.WALL)
    for _ in range(4):
        times.spend(2.1)
        last = budget.another_batch()
    assert budget.used() == pytest.approx(8.4)
    assert last, "8.4 + 2.1 is within 10 + 0.5"


def test_a_slow_step_long_ago_does_not_end_the_stream():
    budget, times = started(Clock.WALL)
    times.spend(5.0)
    assert budget.another_batch()
    for _ in range(9):
        times.spend(0.5)
        last = budget.another_batch()
    assert budget.used() == 9.5
    assert last, "the three newest steps took half a second each"


def test_the_grace_ends_where_it_says():
    budget, times = started(Clock.WALL)
    times.spend(10.5)
    assert not budget.overrun()
    times.spend(0.001)
    assert budget.overrun()


def test_waiting_counts_towards_the_overrun_of_the_cpu_clock():
    budget, times = started(Clock.CPU)
    times.spend(8.0)
    assert not budget.overrun()
    budget.add_wait(2.6)
    assert budget.overrun()


@pytest.mark.slow
@given(st.sampled_from([Clock.WALL, Clock.CPU]), st.lists(st.floats(0.0, 20.0), max_size=30))
def test_progress_never_falls_and_stays_between_nought_and_one(clock, seconds):
    budget, times = started(clock)
    seen = [budget.progress()]
    for spent in seconds:
        times.spend(spent)
        budget.another_batch()
        seen.append(budget.progress())
    assert seen == sorted(seen)
    assert 0.0 <= seen[0] <= seen[-1] <= 1.0


@given(st.floats(0.01, 30.0))
def test_steps_of_equal_length_never_overrun_budget_and_grace(step):
    budget, times = started(Clock.WALL)
    times.spend(step)
    first_fits = step <= 10.5
    while budget.another_batch():
        times.spend(step)
    assert not budget.overrun() or not first_fits, "only a first step longer than the budget may"


def test_own_cpu_seconds_grow_with_work():
    before = own_cpu_seconds()
    spent = os.times()
    while os.times().user + os.times().system <= spent.user + spent.system:
        sum(range(10_000))
    assert own_cpu_seconds() > before


@pytest.mark.parametrize("clock", [Clock.CPU, Clock.WALL])
def test_what_is_charged_is_used_and_ends_the_stream_earlier(clock):
    budget, times = started(clock, time_budget=10.0)
    budget.charge(9.0)
    assert budget.used() == 9.0
    times.spend(1.5)
    assert not budget.another_batch()


def test_nothing_is_charged_where_steps_are_counted_and_nothing_is_ever_given_back():
    budget, _ = started(Clock.STEPS)
    budget.charge(100.0)
    assert budget.used() == 1.0
    budget, _ = started(Clock.CPU)
    budget.charge(-5.0)
    assert budget.used() == 0.0
