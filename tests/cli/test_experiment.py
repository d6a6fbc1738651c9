"""`autoresearch experiment` for real: a sealed trial on `smoke`, processes for its phases, kills, failures and resumes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from calling import done, edit, fill, git, refused
from patience import PATIENCE

from autoresearch.loop.orders import Arena
from autoresearch.loop.scoring import sealed_scorer

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("stand_in_phases.py")
PHASES = ["train", "quantize", "convert", "verify"]


def start(root: Path, *arguments: str, stand_in: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=root,
        env={**os.environ, "COLUMNS": "110", "STAND_IN": stand_in},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def run(root: Path, *arguments: str, stand_in: str = "") -> subprocess.CompletedProcess[str]:
    process = start(root, *arguments, stand_in=stand_in)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def passed(root: Path, *arguments: str, stand_in: str = "") -> str:
    result = run(root, *arguments, stand_in=stand_in)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def calls(root: Path) -> list[str]:
    path = root / "calls.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def phase_json(root: Path, name: str, tag: str = "e") -> dict:
    return json.loads((root / "logs" / tag / f"phase_{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def _once(tmp_path_factory, smoke) -> tuple[Path, str]:
    root = fill(tmp_path_factory.mktemp("experiment") / "lab")
    return root, passed(root, "experiment", "e")


@pytest.fixture
def finished(_once, tmp_path) -> Path:
    """A copy of a workspace whose experiment `e` is finished."""
    shutil.copytree(_once[0], tmp_path / "finished")
    return tmp_path / "finished"


@pytest.fixture
def lab(tmp_path, smoke) -> Path:
    return fill(tmp_path / "lab")


@pytest.mark.slow
def test_every_phase_leaves_its_json_its_words_and_an_entry_of_the_log(finished, _once):
    found = {name: phase_json(finished, name) for name in PHASES}
    assert {name: values["state"] for name, values in found.items()} == dict.fromkeys(PHASES, "done")
    assert "val_bpb" in found["train"]["text"]
    assert found["quantize"]["text"] == "quantize: fine\n"
    assert list(found["convert"]["outputs"]) == ["export/result.json"]
    log = (finished / "EXPERIMENT_LOG.md").read_text(encoding="utf-8")
    assert [line for line in log.splitlines() if line.startswith("## ")] == [f"## e: {name}" for name in PHASES]
    assert calls(finished) == ["quantize --bits 2,3,4", "convert", "verify"]
    lines = _once[1].splitlines()
    assert [line.split(":")[0] for line in lines if line.endswith(": begun")] == PHASES
    assert any(line.startswith("train: done in ") for line in lines)
    assert "\x1b" not in _once[1] and "\r" not in _once[1]


@pytest.mark.slow
def test_the_trial_was_sealed_and_its_checkpoint_scores_as_it_did(finished, smoke):
    kept = finished / "logs" / "e" / "checkpoint"
    metrics = json.loads((kept / "metrics.json").read_text())
    assert metrics["commit"] == git(finished, "rev-parse", "HEAD")
    assert metrics["trial"]["examined"] == "deep"
    assert sorted(path.name for path in kept.iterdir()) == [
        "checkpoint.safetensors",
        "metrics.json",
        "tokenizer.json",
        "train.py",
    ]
    arena = Arena(*smoke, "cpu", accelerators=False)
    score = sealed_scorer(
        arena, {"train.py": (kept / "train.py").read_text()}, "train.py", batch_size=metrics["trial"]["exam_batch_size"]
    )
    assert score((kept / "checkpoint.safetensors").read_bytes()).val_bpb == metrics["val_bpb"]
    assert "phase=ended" in (finished / "logs" / "e" / "train_status.txt").read_text()
    assert "phase=ended" in (finished / "experiment_status.txt").read_text()


@pytest.mark.slow
def test_a_finished_run_does_nothing_again_and_another_width_only_what_follows_from_it(finished):
    said = passed(finished, "experiment", "e", "--resume")
    assert [line for line in said.splitlines() if line.endswith("done before")] == [
        f"{name}: done before" for name in PHASES
    ]
    assert len(calls(finished)) == 3
    passed(finished, "experiment", "--resume", "--bits", "4")  # the newest is meant
    assert calls(finished)[3:] == ["quantize --bits 4", "convert", "verify"]
    passed(finished, "experiment", "--resume", "--benchmark")
    assert calls(finished)[6:] == ["benchmark", "convert", "verify"]
    assert phase_json(finished, "benchmark")["state"] == "done"


@pytest.mark.slow
def test_a_lost_checkpoint_is_trained_again_and_a_changed_result_made_again(finished):
    (finished / "logs" / "e" / "export" / "result.json").write_text("torn")
    passed(finished, "experiment", "e", "--resume")
    assert calls(finished)[3:] == ["convert", "verify"]
    before = phase_json(finished, "train")["ended_at"]
    (finished / "logs" / "e" / "checkpoint" / "checkpoint.safetensors").unlink()
    passed(finished, "experiment", "e", "--resume")
    assert phase_json(finished, "train")["ended_at"] > before


@pytest.mark.slow
def test_a_failing_phase_says_so_with_the_next_thing_to_type_and_the_log_stands(lab):
    result = run(lab, "experiment", "e", stand_in="quantize=fail")
    assert result.returncode == 1
    assert "quantize failed: tensor lm_head.weight holds NaN" in result.stderr
    assert "next: autoresearch experiment again" in result.stderr
    assert "Traceback" not in result.stderr
    assert [phase_json(lab, name)["state"] for name in ("train", "quantize")] == ["done", "failed"]
    log = (lab / "EXPERIMENT_LOG.md").read_text()
    assert "## e: train" in log and "`tensor lm_head.weight holds NaN`" in log
    trained = phase_json(lab, "train")["ended_at"]
    assert "train: done before" in passed(lab, "experiment", "e", "--resume")
    assert phase_json(lab, "train")["ended_at"] == trained
    assert calls(lab) == ["quantize --bits 2,3,4", "quantize --bits 2,3,4", "convert", "verify"]
    log = (lab / "EXPERIMENT_LOG.md").read_text()
    assert log.count("## e: quantize") == 2  # what failed stays in the record


@pytest.mark.slow
def test_an_experiment_file_that_crashes_fails_the_first_phase_and_shows_its_log(lab):
    edit(lab, ("def main():", "def main():\n    raise RuntimeError('no')\n\n\ndef unused():"))
    git(lab, "commit", "-qam", "broken")
    result = run(lab, "experiment", "e")
    assert result.returncode == 1
    assert "train failed: the trial has no score (crashed: RuntimeError: no)" in result.stderr
    assert phase_json(lab, "train")["state"] == "failed"


@pytest.mark.slow
def test_a_phase_that_the_system_kills_is_recorded_as_failed_and_can_go_on(lab):
    result = run(lab, "experiment", "e", stand_in="quantize=die")
    assert result.returncode == 1
    assert "quantize failed: it was ended by signal 9" in result.stderr
    assert "next: autoresearch experiment e --resume" in result.stderr
    assert phase_json(lab, "quantize")["state"] == "failed"
    passed(lab, "experiment", "e", "--resume")


def hanging(root: Path, name: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """An experiment whose phase `name` hangs, and that phase's process."""
    process = start(root, "experiment", "e", stand_in=f"{name}=hang")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"{name}: scoring"):
            break
    (child,) = psutil.Process(process.pid).children()
    return process, child


@pytest.mark.slow
def test_a_kill_of_the_verb_takes_its_phase_along_and_costs_that_phase_alone(lab):
    process, child = hanging(lab, "quantize")
    assert phase_json(lab, "quantize")["state"] == "running"
    assert "phase=quantize\nprogress=0.25\n" in (lab / "experiment_status.txt").read_text()
    process.kill()
    process.communicate()
    psutil.wait_procs([child], timeout=PATIENCE)
    assert not child.is_running()
    trained = phase_json(lab, "train")["ended_at"]
    passed(lab, "experiment", "e", "--resume")
    assert phase_json(lab, "train")["ended_at"] == trained
    assert phase_json(lab, "quantize")["state"] == "done"


@pytest.mark.slow
def test_ctrl_c_stops_the_phase_and_says_how_to_go_on(lab):
    process, child = hanging(lab, "quantize")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "to go on: autoresearch experiment e --resume" in err
    assert not child.is_running()
    assert "## e: quantize" not in (lab / "EXPERIMENT_LOG.md").read_text()  # a stop is no failure


@pytest.mark.slow
def test_a_sessions_verdicts_and_an_experiments_phases_share_the_log(finished):
    done(finished, "research", "night", "--experiments", "1")
    passed(finished, "experiment", "second")
    done(finished, "research", "night", "--experiments", "2", "--resume")
    heads = [line for line in (finished / "EXPERIMENT_LOG.md").read_text().splitlines() if line.startswith("## ")]
    assert [head.split(":")[0].split(" #")[0] for head in heads] == (
        ["## e"] * 4 + ["## night"] * 2 + ["## second"] * 4 + ["## night"]
    )
    assert not list(finished.glob("EXPERIMENT_LOG.md.*.found"))


@pytest.mark.slow
def test_what_cannot_be_meant_is_refused_with_a_next_step(finished):
    refused(run(finished, "experiment", "e"), 2, "'e' is in use")
    refused(run(finished, "experiment", "other", "--resume"), 2, "no experiment 'other'")
    refused(run(finished, "experiment", "e", "--resume", "--contract", "tiny"), 2, "begun under contract")
    edit(finished, ("SHARPNESS = 0.5", "SHARPNESS = 0.6"))
    refused(run(finished, "experiment", "f"), 1, "uncommitted changes")


@pytest.mark.slow
def test_without_any_run_there_is_nothing_to_resume(lab):
    refused(run(lab, "experiment", "--resume"), 2, "no experiment was begun")
