import json
import math
import re

import pytest
from hostile_words import HORROR
from ledgers import HASH, session_of, trial_of

from autoresearch.records.run_report import RunIdentity, read_status, run_json, status_text, write_run, write_status
from autoresearch.vocabulary import Outcome

IDENTITY = RunIdentity(
    session=session_of(),
    experiment=3,
    trial_id=17,
    commit=HASH,
    description="MATRIX_LR 0.04 -> 0.055",
    purpose="first",
    seed=7,
    slice="search",
    started_at="2025-11-21T23:00:00.000Z",
    hyperparameters={"MATRIX_LR": 0.055, "WINDOW_PATTERN": "SSSL"},
)
COMMON = {
    "format_version": "1",
    "run_id": "nov21/3/17",
    "tag": "nov21",
    "program": "model",
    "experiment": 3,
    "commit": HASH,
    "description": "MATRIX_LR 0.04 -> 0.055",
    "purpose": "first",
    "seed": 7,
    "slice": "search",
    "started_at": "2025-11-21T23:00:00.000Z",
    "contract": {"preset": "smoke", "fingerprint": "f" * 12, "corpus": "c0", "validation": "v0", "tokenizer": "t0"},
    "hardware": {"chip": "cpu"},
    "hyperparameters": {"MATRIX_LR": 0.055, "WINDOW_PATTERN": "SSSL"},
}
TRAINING_KEYS = {
    "num_steps", "num_tokens", "device_batch_size", "budget_used", "training_seconds", "startup_seconds", "exam_seconds",
    "feeder_wait_seconds", "total_seconds", "cpu_seconds", "cpu_share", "tok_sec", "speed_vs_baseline", "peak_memory_mb",
    "disturbed", "sealed", "weights_sha256", "audited_positions", "prefix_pairs", "largest_deviation", "claimed",
    "seconds_outside_budget", "examined", "startup_used", "exam_used", "deep_seconds", "deep_prefixes", "leak_bpb", "leak_interval_bpb", "leak_bound_bpb",
        "exam_batch_size",
        "objective",
        "objective_bpb",
        "objective_seconds",
    "recipe_sha256", "tokenizer_sha256", "preparation_seconds", "preparation_disk_mb", "preparation_limits",
}  # fmt: skip


def without_versions(report):
    assert set(report["versions"]) == {"autoresearch", "torch", "numpy", "tiktoken", "rustbpe", "optuna"}
    return {name: value for name, value in report.items() if name != "versions"}


def test_a_running_run_has_no_score_and_says_running():
    assert without_versions(run_json(IDENTITY, None)) == {
        **COMMON,
        "status": "running",
        "ended_at": None,
        "result": {"val_bpb": None},
    }


def test_a_finished_run_has_its_score_under_result_and_the_rest_under_training():
    report = without_versions(run_json(IDENTITY, trial_of()))
    training = report.pop("training")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", report.pop("ended_at"))
    assert report == {**COMMON, "status": "finished", "result": {"val_bpb": 1.9876543, "reason": ""}}
    assert set(training) == TRAINING_KEYS
    assert (training["training_seconds"], training["seconds_outside_budget"]) == (20.0, 7.25)


def test_a_crashed_run_has_a_reason_and_null_for_a_score(tmp_path):
    crashed = trial_of(outcome=Outcome.CRASHED, val_bpb=None, reason="out of memory")
    write_run(tmp_path, run_json(IDENTITY, crashed))
    read = json.loads((tmp_path / "last_run.json").read_text())
    assert (read["status"], read["result"]) == ("crashed", {"val_bpb": None, "reason": "out of memory"})


def test_starting_a_run_overwrites_the_last_score_and_leaves_no_file_of_its_own(tmp_path):
    write_run(tmp_path, run_json(IDENTITY, trial_of()))
    write_run(tmp_path, run_json(IDENTITY, None))
    last = json.loads((tmp_path / "last_run.json").read_text())
    assert (last["status"], last["result"]) == ("running", {"val_bpb": None})
    assert len(list(tmp_path.glob("run_*.json"))) == 1


def test_runs_that_end_in_the_same_second_keep_a_file_each(tmp_path):
    for score in (1.1, 1.2, 1.3):
        write_run(tmp_path, run_json(IDENTITY, trial_of(val_bpb=score)))
    names = sorted(path.name for path in tmp_path.glob("run_*.json"))
    assert all(re.fullmatch(r"run_\d{8}_\d{6}(_\d+)?\.json", name) for name in names)
    assert {json.loads((tmp_path / name).read_text())["result"]["val_bpb"] for name in names} == {1.1, 1.2, 1.3}


def test_a_number_that_is_not_json_is_refused_and_the_old_file_stays(tmp_path):
    write_run(tmp_path, run_json(IDENTITY, None))
    before = (tmp_path / "last_run.json").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_run(tmp_path, run_json(IDENTITY, trial_of(tok_sec=math.nan)))
    assert (tmp_path / "last_run.json").read_bytes() == before


STATUS = {
    "phase": "training",
    "progress": 0.123456789,
    "updated_at": "2025-11-21T23:00:05.000Z",
    "pid": 4242,
    "message": "step 12, loss 3.2",
    "eta_seconds": None,
}
STATUS_TEXT = (
    "phase=training\nprogress=0.123457\nupdated_at=2025-11-21T23:00:05.000Z\npid=4242\nmessage=step 12, loss 3.2\n"
    "eta_seconds=\n"
)


def test_a_status_file_is_one_key_and_value_per_line():
    assert status_text(STATUS) == STATUS_TEXT


def test_every_status_file_gets_the_same_text_and_no_temporary_stays(tmp_path):
    paths = [tmp_path / "train_status.txt", tmp_path / "logs" / "nov21" / "train_status.txt"]
    write_status(paths, STATUS)
    assert [path.read_text() for path in paths] == [STATUS_TEXT, STATUS_TEXT]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["train_status.txt"] * 2


def test_a_hostile_message_adds_no_key(tmp_path):
    path = tmp_path / "train_status.txt"
    write_status([path], {"phase": "training", "message": f"a=b\nphase=done\n{HORROR}", "pid": 1})
    read = read_status(path)
    assert list(read) == ["phase", "message", "pid"]
    assert read["phase"] == "training"
    assert read["message"].startswith('a=b phase=done "tab here next linered')


def test_a_missing_status_file_reads_as_nothing(tmp_path):
    assert read_status(tmp_path / "train_status.txt") == {}
