"""Mixing: shares of groups, and rows dealt by them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.recipes.mixing import Mixture, shares
from autoresearch.vocabulary import UsageError

SIZES = {"a/0": 100, "a/1": 300, "b/0": 600}


class Numbered:
    """A stream whose rows hold its own number and how many rows came before."""

    def __init__(self, number, epoch=1):
        self.number = number
        self.epoch = epoch
        self.given = 0

    def take(self, num_rows):
        rows = np.array([[self.number, self.given + place] for place in range(num_rows)], dtype=np.uint16)
        self.given += num_rows
        return rows


def mixture(weights, count, seed=0):
    return Mixture({f"g/{number}": Numbered(number) for number in range(count)}, weights, seed)


def dealt(mixed, batches, progress=0.0):
    return np.concatenate([mixed.take(size, progress) for size in batches])


def test_without_weights_every_group_gives_by_its_size():
    assert shares(SIZES, {}, (1.0, 1.0)) == pytest.approx({"a/0": 0.1, "a/1": 0.3, "b/0": 0.6})


def test_a_tiers_weight_counts_beside_its_size():
    assert shares(SIZES, {}, (2.0, 0.0)) == pytest.approx({"a/0": 1 / 7, "a/1": 0.0, "b/0": 6 / 7})


def test_a_datasets_weight_is_its_share_whatever_its_size_and_tiers():
    found = shares(SIZES, {"a": 4, "b": 1}, (3.0, 1.0))
    assert found == pytest.approx({"a/0": 0.4, "a/1": 0.4, "b/0": 0.2})
    assert shares(SIZES, {"b": 0.3}, (1.0, 1.0)) == {"a/0": 0.0, "a/1": 0.0, "b/0": 1.0}


def test_the_name_of_a_dataset_may_hold_slashes():
    assert shares({"org/name/0": 5}, {"org/name": 2.0}, (1.0,)) == {"org/name/0": 1.0}


@pytest.mark.parametrize(
    ("sizes", "sources", "tiers"),
    [
        ({"a": 1}, {}, (1.0,)),
        ({"a/x": 1}, {}, (1.0,)),
        ({"a/1": 1}, {}, (1.0,)),
        ({"a/0": 1}, {}, (0.0,)),
        ({"a/0": 1}, {"b": 1.0}, (1.0,)),
        ({"a/0": 1}, {}, (-1.0,)),
        ({"a/0": 1}, {}, (math.nan,)),
        ({"a/0": 1}, {"a": math.inf}, (1.0,)),
        ({}, {}, (1.0,)),
    ],
)
def test_weights_that_are_none_are_refused(sizes, sources, tiers):
    with pytest.raises(UsageError) as caught:
        shares(sizes, sources, tiers)
    assert "data_sources.py" in caught.value.hint


@pytest.mark.slow
@settings(deadline=None)
@given(
    weights=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=6).filter(lambda each: sum(each) > 0.01),
    batches=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    seed=st.integers(0, 9),
)
def test_every_group_gives_its_share_of_any_number_of_rows(weights, batches, seed):
    named = {f"g/{number}": weight for number, weight in enumerate(weights)}
    rows = dealt(mixture(lambda _: named, len(weights), seed), batches)
    counts = np.bincount(rows[:, 0], minlength=len(weights))
    expected = np.array(weights) / sum(weights) * len(rows)
    assert len(rows) == sum(batches)
    assert np.abs(counts - expected).max() < len(weights) + 1
    for number in range(len(weights)):
        own = rows[rows[:, 0] == number, 1]
        np.testing.assert_array_equal(own, np.arange(len(own)))  # each stream in its order, nothing skipped


def test_eight_and_two_of_ten_are_exact_within_a_row():
    rows = dealt(mixture(lambda _: {"g/0": 8, "g/1": 2}, 2), [1] * 100)
    for count in range(1, 101):
        assert abs((rows[:count, 0] == 1).sum() - 0.2 * count) <= 1.0


def test_batches_do_not_change_the_order_and_the_seed_does():
    weights = {"g/0": 0.5, "g/1": 0.3, "g/2": 0.2}
    whole = dealt(mixture(lambda _: weights, 3, seed=1), [60])
    np.testing.assert_array_equal(dealt(mixture(lambda _: weights, 3, seed=1), [7, 13, 40]), whole)
    assert any((dealt(mixture(lambda _: weights, 3, seed=seed), [60]) != whole).any() for seed in range(2, 6))


def test_weights_follow_progress():
    mixed = mixture(lambda progress: {"g/0": 1 - progress, "g/1": progress}, 2)
    assert [(mixed.take(40, progress)[:, 0] == 1).sum() for progress in (0.0, 1.0)] == [0, 40]
    assert (mixed.take(40, 0.5)[:, 0] == 1).sum() in (19, 20, 21)


def test_a_group_without_a_weight_gives_nothing():
    assert set(dealt(mixture(lambda _: {"g/1": 1.0}, 3), [9])[:, 0]) == {1}


def test_the_epoch_is_that_of_the_group_repeated_most():
    assert Mixture({"a/0": Numbered(0, 2), "b/0": Numbered(1, 5)}, lambda _: {}, 0).epoch == 5


@pytest.mark.parametrize("weights", [{}, {"g/0": 0.0}, {"g/7": 1.0}, {"g/0": -1.0, "g/1": 2.0}, {"g/0": math.nan}])
def test_a_recipe_that_asks_for_nothing_real_is_told(weights):
    with pytest.raises(UsageError):
        mixture(lambda _: weights, 2).take(4, 0.0)
