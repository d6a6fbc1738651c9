"""What a trial is ordered with: allowances outside the clock, answers as arrays, bounds on hand-overs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autoresearch.contract.rules import rules_for
from autoresearch.loop.conversation import Ended
from autoresearch.loop.orders import MAX_WEIGHTS_BYTES, Arena, allowance, answer_in
from autoresearch.vocabulary import Outcome


def test_a_baseline_without_trials_gives_no_allowance():
    assert allowance([], rules_for("tiny")) is None


@pytest.mark.parametrize(("preset", "slack"), [("tiny", 1.0), ("standard", 10.0), ("smoke", 1.0)])
def test_an_allowance_is_a_quarter_more_than_the_longest_and_a_bounded_slack(preset, slack):
    assert allowance([4.0, 8.0, 2.0], rules_for(preset)) == pytest.approx(10.0 + slack)


def test_an_answer_is_the_array_that_its_frame_names():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert (answer_in({"shape": [2, 3]}, array.tobytes()) == array).all()


@pytest.mark.parametrize("shape", [None, "2,3", [2, 4], [-2, -3], [2.0, 3.0], [1, 1, 2, 3], [2**40, 1]])
def test_an_answer_of_another_size_or_an_impossible_shape_ends_the_trial(shape):
    with pytest.raises(Ended) as ended:
        answer_in({"shape": shape}, bytes(24))
    assert ended.value.outcome is Outcome.REJECTED


def test_a_hand_over_fits_into_the_referees_memory_several_times(smoke):
    rules, prepared = smoke
    arena = Arena(dataclasses.replace(rules), prepared, "cpu", accelerators=False)
    assert 0 < arena.max_weights_bytes <= MAX_WEIGHTS_BYTES
    assert arena.limits.memory_mb * 2**20 > 4 * arena.max_weights_bytes
