"""Two files are really both run, in turns, and the slower one reads slower: by a clock that only their work moves."""

from __future__ import annotations

import pytest
from measuring import CountedClock, counted

from autoresearch.bench.benchmark import Bench, Wish
from autoresearch.bench.experiment_file import read_experiment


@pytest.fixture(autouse=True)
def _contract(tmp_path, monkeypatch):
    """Synthetic tokens: opening prepared text six times a test is most of what it would take."""
    monkeypatch.setenv("AUTORESEARCH_CONTRACT", "smoke")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "empty"))


@pytest.fixture
def compare(tmp_path):
    """A function that compares two texts and returns (benchmark, clock)."""

    def run(ours: str, yours: str, rounds: int = 3):
        files = []
        for folder, text in (("ours", ours), ("yours", yours)):
            path = tmp_path / folder / "train.py"
            path.parent.mkdir()
            path.write_text(text)
            files.append(read_experiment(path))
        clock = CountedClock()
        bench = Bench(clock.run, lambda name: tmp_path / name, lambda shown, progress: None)
        return bench.measure(Wish(tuple(files), (), steps=5, rounds=rounds, limit_seconds=1e6)), clock

    return run


def test_a_file_that_does_twice_the_work_takes_twice_as_long(compare):
    found, _ = compare(counted(3), counted(6))
    assert found.comparisons[0].ratio.ratio == pytest.approx(2.0)
    assert found.comparisons[0].ratio.interval == pytest.approx((2.0, 2.0))


def test_with_the_files_exchanged_the_ratio_is_the_inverse(compare):
    found, _ = compare(counted(6), counted(3))
    assert found.comparisons[0].ratio.ratio == pytest.approx(0.5)


def test_both_files_run_in_turns_and_neither_under_the_other_s_name(compare):
    found, clock = compare(counted(3), counted(6))
    ours, yours = (measured.file.sha256 for measured in found.measurements)
    assert clock.ran == [ours, yours, yours, ours, ours, yours]
    assert found.comparisons[0].order == "ABBAAB"


def test_larger_steps_are_compared_by_their_tokens(compare):
    found, _ = compare(counted(3, rows=2), counted(6, rows=4))
    assert found.comparisons[0].ratio.ratio == pytest.approx(1.0)


def test_a_file_is_not_slower_for_starting_up_slowly(compare):
    found, _ = compare(counted(3), counted(3).replace("work(100)", "work(9000)"))
    assert found.comparisons[0].ratio.ratio == pytest.approx(1.0)
    assert found.measurements[1].first["startup_seconds"] == pytest.approx(9000)
    assert found.measurements[0].first["startup_seconds"] == pytest.approx(100)


def test_the_update_counts_where_micro_steps_make_a_step(compare):
    found, _ = compare(counted(3, micro_steps=4, update=0), counted(3, micro_steps=4, update=12))
    assert [measured.step.median for measured in found.measurements] == pytest.approx([12.0, 24.0])
    assert [measured.tokens_per_step for measured in found.measurements] == [4 * 2 * 64] * 2


def test_parts_of_a_file_without_our_names_are_said_to_be_unmeasured(compare):
    found, _ = compare(counted(3), counted(6), rounds=1)
    assert all(measured.parts is None for measured in found.measurements)
    assert "build_model" in found.measurements[0].parts_problem
