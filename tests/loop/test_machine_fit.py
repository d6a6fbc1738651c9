"""The machine fit: what is measured, what it decides, how it is kept, and what a session does with it."""

from __future__ import annotations

import dataclasses
import json
import threading
from dataclasses import replace

import pytest
from fakes import fake_experiment

from autoresearch.backends.hardware import Hardware, detect
from autoresearch.contract.rules import Clock
from autoresearch.loop import machine_fit as module
from autoresearch.loop.machine_fit import (
    NUM_STEPS,
    Fit,
    changes_since,
    fit_in,
    fit_path,
    from_json,
    kept_fit,
    key_of,
    machine_fit,
    stored_with,
    thread_counts,
    threads_that_pay,
    to_json,
)
from autoresearch.loop.orders import Arena, TrialRun
from autoresearch.loop.referee import run_trial
from autoresearch.loop.session import Stopped
from autoresearch.vocabulary import Outcome, Trial

CPU = Hardware("cpu", "Xeon", 23.4, 4, None, ("float32",), driver="Linux 6.1", on_cpu=True)
GPU = Hardware("cuda", "NVIDIA H100 80GB HBM3", 79.1, 16, 989.5e12, ("bfloat16", "float32"))
FILES = {"train.py": "print('hello')\n"}

# Asks for 16 rows; holds no more than ROWS_IN_MEMORY, and answers by halving before the first batch, as train.py does.
HALVING = (
    fake_experiment()
    .replace(
        '    loader = make_dataloader(tokenizer, DEVICE_BATCH_SIZE, MAX_SEQ_LEN, "train")\n',
        """\
    rows = min(16, MAX_DEVICE_BATCH_SIZE or 16)
    loader = make_dataloader(tokenizer, rows, MAX_SEQ_LEN, "train")
    while rows > ROWS_IN_MEMORY:
        rows //= 2
        loader = make_dataloader(tokenizer, rows, MAX_SEQ_LEN, "train")
""",
    )
    .replace("import MAX_SEQ_LEN,", "import MAX_DEVICE_BATCH_SIZE, MAX_SEQ_LEN,")
)
CRASHING = HALVING.replace("        rows //= 2\n", "        raise MemoryError\n")


def with_room_for(rows: int, text: str = HALVING) -> dict[str, str]:
    return {"train.py": text.replace("class Counts", f"ROWS_IN_MEMORY = {rows}\n\n\nclass Counts", 1)}


@pytest.fixture
def arena(smoke):
    """The smoke contract's text under a wall clock, where there is something to measure."""
    rules, prepared = smoke
    return Arena(replace(rules, clock=Clock.WALL, time_budget=30.0), prepared, "cpu:Xeon", accelerators=False)


class FakeTrials:
    """Trials of a machine whose speed by number of threads is known, round by round."""

    def __init__(self, *rounds: dict[int, float]) -> None:
        self.rounds = rounds
        self.asked: list[tuple[int, int]] = []

    def __call__(self, arena, order, log_path, *, on_examination, stop):
        assert arena.rules.clock is Clock.STEPS and arena.rules.time_budget == NUM_STEPS
        seen = sum(threads == arena.threads for threads, _ in self.asked)
        self.asked.append((arena.threads, arena.max_device_batch_size))
        on_examination()
        assert stop.is_set(), "a measured trial is over with its training"
        speed = self.rounds[min(seen, len(self.rounds) - 1)][arena.threads]
        return TrialRun(Trial(Outcome.ABANDONED, tok_sec=speed), "", opened=(8,))


def measured(arena, folder, run, *, hw=CPU, files=FILES, **options):
    said: list[str] = []
    found = machine_fit(hw, arena, files, "train.py", folder, run=run, say=said.append, **options)
    return found, said


def no_trial(*_, **__):
    raise AssertionError("a trial was run")


# -- what is decided ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tok_sec", "threads"),
    [
        ({1: 100.0}, 1),
        ({1: 100.0, 2: 160.0}, 2),
        ({1: 100.0, 2: 25.0}, 1),  # a busy machine of two cores
        ({1: 100.0, 2: 105.0, 4: 180.0}, 4),
        ({1: 100.0, 2: 160.0, 4: 165.0}, 2),
        ({1: 100.0, 2: 0.0}, 1),
    ],
)
def test_more_threads_must_be_a_tenth_faster(tok_sec, threads):
    assert threads_that_pay(tok_sec) == threads


def test_threads_are_tried_in_powers_of_two_up_to_all_cores_and_only_where_the_cpu_computes():
    assert [thread_counts(replace(CPU, cores=cores)) for cores in (1, 2, 3, 4, 6)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4],
        [1, 2, 4, 6],
    ]
    assert thread_counts(GPU) == [1]
    assert thread_counts(replace(GPU, backend="mlx", on_cpu=True, cores=2)) == [1, 2]


def test_the_worse_of_two_runs_counts(arena, tmp_path):
    trials = FakeTrials({1: 100.0, 2: 190.0, 4: 90.0}, {1: 95.0, 2: 40.0, 4: 300.0})
    found, said = measured(arena, tmp_path, trials)
    assert (found.threads, found.tok_sec) == (1, {"1": 95.0, "2": 40.0, "4": 90.0})
    assert [threads for threads, _ in trials.asked] == [1, 2, 4, 1, 2, 4]
    assert "1 thread: 95 tokens/s" in said


@pytest.mark.parametrize(("clock", "reason"), [(Clock.CPU, "CPU seconds are counted"), (Clock.STEPS, "counts steps")])
def test_where_threads_cannot_pay_nothing_is_measured_and_that_is_said(arena, tmp_path, clock, reason):
    other = replace(arena, rules=replace(arena.rules, clock=clock))
    found, _ = measured(other, tmp_path, no_trial)
    assert (found.threads, found.max_device_batch_size, found.measured_at) == (1, 0, "")
    assert reason in found.in_words()
    assert list(tmp_path.iterdir()) == []


def test_what_the_person_sets_is_not_measured(arena, tmp_path):
    found, _ = measured(arena, tmp_path, no_trial, threads=3, max_device_batch_size=4)
    assert (found.threads, found.max_device_batch_size) == (3, 4)
    half, _ = measured(arena, tmp_path, FakeTrials({1: 100.0, 2: 200.0, 4: 400.0}), threads=2)
    assert (half.threads, half.device_batch_size) == (2, 8)


# -- measured for real --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_whose_batch_fits_gets_no_limit(arena, tmp_path):
    found, _ = measured(arena, tmp_path, run_trial, hw=GPU, files=with_room_for(16))
    assert (found.threads, found.device_batch_size, found.max_device_batch_size) == (1, 16, 0)
    assert found.measured_at
    assert found.in_words() == f"1 thread, device batch 16: measured on {found.measured_at[:10]}"


@pytest.mark.slow
def test_a_file_that_halves_its_batch_in_the_warm_up_passes_on_what_it_settled_on(arena, tmp_path):
    found, _ = measured(arena, tmp_path, run_trial, hw=GPU, files=with_room_for(4))
    assert (found.device_batch_size, found.max_device_batch_size) == (4, 4)
    assert "halved" in found.in_words()


@pytest.mark.slow
def test_a_file_that_runs_out_of_memory_is_tried_with_half_until_it_runs(arena, tmp_path):
    found, said = measured(arena, tmp_path, run_trial, hw=GPU, files=with_room_for(4, CRASHING))
    assert (found.device_batch_size, found.max_device_batch_size) == (4, 4)
    assert said[1:3] == ["out of memory with 16 rows; 8 are tried", "out of memory with 8 rows; 4 are tried"]


@pytest.mark.slow
def test_a_file_that_does_not_run_leaves_one_thread_and_is_not_kept(arena, tmp_path):
    found, _ = measured(arena, tmp_path / "fits", run_trial, files={"train.py": "import no_such_package\n"})
    assert (found.threads, found.measured_at) == (1, "")
    assert "no_such_package" in found.in_words()
    assert not (tmp_path / "fits").exists()


def test_a_user_who_stops_the_measurement_leaves_nothing(arena, tmp_path):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        measured(arena, tmp_path / "fits", run_trial, files=with_room_for(16), stop=stop)
    assert not (tmp_path / "fits").exists()


# -- kept ---------------------------------------------------------------------------------------------------------------


def test_the_second_session_measures_nothing(arena, tmp_path):
    first, _ = measured(arena, tmp_path, FakeTrials({1: 100.0, 2: 200.0, 4: 400.0}))
    second, said = measured(arena, tmp_path, no_trial)
    assert second == first
    assert second.threads == 4
    assert said == [f"4 threads, device batch 8: measured on {first.measured_at[:10]}, and kept since"]


@pytest.mark.parametrize(
    "change",
    [
        {"hw": replace(CPU, cores=8)},
        {"hw": replace(CPU, memory_gb=64.0)},
        {"hw": replace(CPU, driver="Linux 6.6")},
        {"files": {"train.py": "print('other')\n"}},
    ],
)
def test_another_machine_or_file_has_a_fit_of_its_own(arena, tmp_path, change):
    speeds = {count: 100.0 * count for count in (1, 2, 4, 8)}
    measured(arena, tmp_path, FakeTrials(speeds))
    trials = FakeTrials(speeds)
    measured(arena, tmp_path, trials, **change)
    assert trials.asked
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_the_key_names_machine_backend_contract_and_versions(arena):
    key = key_of(CPU, arena, "train.py", "x")
    assert {"device", "memory_gb", "cores", "driver", "contract", "numpy", "torch", "file", "file_sha256"} == set(key)
    assert (key["device"], key["contract"], key["memory_gb"]) == ("cpu:Xeon", "smoke", 23)
    assert "mlx" in key_of(CPU, arena, "train_mlx.py", "x")


GOLDEN = """\
{
  "format": "autoresearch machine fit",
  "version": 1,
  "threads": 2,
  "max_device_batch_size": 8,
  "device_batch_size": 8,
  "measured_at": "2026-11-21T16:00:00+00:00",
  "reason": "",
  "tok_sec": {
    "1": 100.5,
    "2": 190.0
  },
  "key": {
    "cores": 2,
    "device": "cpu:Xeon"
  }
}
"""
KEY = {"cores": 2, "device": "cpu:Xeon"}
FIT = Fit(2, 8, 8, "2026-11-21T16:00:00+00:00", "", {"1": 100.5, "2": 190.0}, KEY)


def test_the_file_of_a_fit_is_this(tmp_path):
    path = tmp_path / "fit.json"
    path.write_text(GOLDEN)
    said: list[str] = []
    assert kept_fit(path, KEY, said.append) == FIT
    assert said == []
    assert to_json(FIT) == json.loads(GOLDEN)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cannot be used"),
        ("{", "cannot be used"),
        ("[1]", "it is no machine fit"),
        ("[" * 100_000, "cannot be used"),
        (GOLDEN.replace('"version": 1', '"version": 0'), "version 0, not 1"),
        (GOLDEN.replace('"threads": 2', '"threads": 0'), "impossible"),
        (GOLDEN.replace('"threads": 2', '"threads": true'), "impossible"),
        (GOLDEN.replace('"threads": 2', '"threads": "2"'), "impossible"),
        (GOLDEN.replace('"cores": 2', '"cores": 3'), "another machine"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_and_measured_again(arena, tmp_path, text, why):
    key = key_of(CPU, arena, "train.py", FILES["train.py"])
    path = fit_path(tmp_path, key)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    trials = FakeTrials({1: 100.0, 2: 200.0, 4: 100.0})
    found, said = measured(arena, tmp_path, trials)
    assert found.threads == 2 and trials.asked
    assert why in said[0] and "measured again" in said[0]
    assert kept_fit(path, key, said.append) == found


# -- in a session -------------------------------------------------------------------------------------------------------


def test_a_session_stores_the_fit_beside_its_settings():
    stored = json.loads(json.dumps(stored_with({"threads": None, "seed": 3}, FIT)))
    assert (stored["threads"], stored["max_device_batch_size"], stored["seed"]) == (2, 8, 3)
    assert fit_in(stored) == FIT


def test_a_session_from_before_there_were_fits_keeps_its_threads():
    assert fit_in({"threads": 2}) == Fit(2)
    assert fit_in({}) == Fit(1)


def test_what_changed_since_is_said_and_changes_nothing():
    nothing = {"threads": None, "max_device_batch_size": None}
    assert changes_since(FIT, KEY, nothing) == []
    (line,) = changes_since(FIT, KEY | {"cores": 4}, nothing)
    assert "cores 2 -> 4" in line and "keeps it" in line
    assert changes_since(FIT, KEY, {"threads": 2, "max_device_batch_size": None}) == []
    (line,) = changes_since(FIT, KEY, {"threads": 4, "max_device_batch_size": None})
    assert line == "threads 4 was asked for; this session's trials had 2, and that stays"


def test_the_format_of_the_file_changes_with_its_fields():
    names = {each.name for each in dataclasses.fields(Fit)} | {"format", "version"}
    assert names == set(json.loads(GOLDEN)), "a new field is a new FORMAT_VERSION"
    with pytest.raises(ValueError):
        from_json({"format": module.FORMAT, "version": module.FORMAT_VERSION})


def test_this_machine_has_thread_counts():
    assert thread_counts(detect(allow_accelerator=False))[0] == 1
