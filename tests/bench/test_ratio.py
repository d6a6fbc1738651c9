"""Two files side by side."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.bench.ratio import STUDENT_T, ratio_of, running_order

SECONDS = st.floats(1e-3, 1e3)


def test_each_pair_of_neighbours_has_one_of_each_and_the_first_changes():
    assert running_order(4) == "ABBAABBA"
    assert running_order(1) == "AB"


def test_a_file_that_takes_twice_as_long_has_the_ratio_two():
    found = ratio_of([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
    assert found.ratio == pytest.approx(2.0)
    assert found.interval == pytest.approx((2.0, 2.0))


def test_one_pair_has_no_interval():
    assert ratio_of([1.0], [3.0]).interval is None


def test_the_interval_is_students_on_the_logarithms():
    found = ratio_of([1.0, 1.0], [math.exp(0.1), math.exp(0.3)])
    # mean 0.2, standard deviation 0.1 sqrt(2), so standard error 0.1
    assert found.interval == pytest.approx((math.exp(0.2 - 1.2706), math.exp(0.2 + 1.2706)))


def test_the_table_falls_towards_the_normal_point():
    assert all(earlier > later for earlier, later in itertools.pairwise(STUDENT_T))
    assert STUDENT_T[-1] > 1.959964 and len(STUDENT_T) == 30


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=40))
def test_ratios_of_swapped_files_are_reciprocal(pairs):
    ours, yours = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = ratio_of(ours, yours), ratio_of(yours, ours)
    assert there.ratio * back.ratio == pytest.approx(1.0)
