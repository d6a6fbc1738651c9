"""Intervals that say how sure a loss is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.quantize.intervals import around, mean_over, paired_loss, student_t, together


def test_the_points_of_students_t_are_those_of_the_tables():
    found = [round(student_t(degrees), 3) for degrees in (1, 2, 4, 9, 30, 255)]
    assert found == [12.706, 4.303, 2.776, 2.262, 2.042, 1.969]


def test_a_loss_is_the_difference_of_the_two_scores_and_its_interval_that_of_the_delta_method():
    before, after = np.array([8.0, 6.0, 9.0]), np.array([9.0, 6.0, 11.0])
    num_bytes = np.array([4, 3, 5])
    found = paired_loss(before, after, num_bytes)
    assert found.value == pytest.approx(26 / 12 - 23 / 12)
    # residuals d - R b = 0, -0.75, 0.75; their squares sum to 1.125; mean bytes 4
    error = (1.125 / 6) ** 0.5 / 4
    assert found.half_width == pytest.approx(4.302653 * error, rel=1e-6)


@given(
    st.lists(st.tuples(st.floats(1, 100), st.floats(-5, 5), st.integers(1, 50)), min_size=2, max_size=30),
    st.floats(0.1, 10),
)
def test_a_change_in_proportion_to_the_bytes_is_certain_whatever_the_rows(rows, per_byte):
    before = np.array([bits for bits, _, _ in rows])
    num_bytes = np.array([size for _, _, size in rows])
    found = paired_loss(before, before + per_byte * num_bytes, num_bytes)
    assert found.value == pytest.approx(per_byte, rel=1e-9)
    assert found.half_width == pytest.approx(0.0, abs=1e-9)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty():
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        num_bytes = random.integers(50, 150, 60)
        before = random.normal(2.0, 0.5, 60) * num_bytes
        after = before + num_bytes * random.normal(0.03, 0.05, 60)
        found = paired_loss(before, after, num_bytes)
        hits += found.low <= 0.03 <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_rows_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="do not pair"):
        paired_loss(np.ones(3), np.ones(2), np.ones(3, dtype=int))
    with pytest.raises(ValueError, match="no bytes"):
        paired_loss(np.ones(2), np.ones(2), np.zeros(2, dtype=int))


def test_one_sample_gives_no_interval():
    assert mean_over([0.5]) == around(0.5, None)
    assert paired_loss(np.ones(1), np.ones(1) * 2, np.array([2])) == around(0.5, None)


def test_the_mean_of_five_seeds_has_students_interval():
    found = mean_over([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.value == 3.0
    assert found.half_width == pytest.approx(2.776445 * (2.5 / 5) ** 0.5, rel=1e-6)


def test_independent_doubts_add_in_squares():
    both = together(around(1.0, 3.0), around(7.0, 4.0))
    assert (both.value, both.half_width) == (1.0, 5.0)
    assert together(around(1.0, None), around(1.0, None)) == around(1.0, None)
