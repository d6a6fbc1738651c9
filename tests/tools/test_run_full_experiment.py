"""tools/run_full_experiment.sh, run for real: it starts the pipeline, says how far it is, ends with what it found, and can be stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from patience import PATIENCE

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "run_full_experiment.sh"
STAND_IN = ROOT / "tests" / "cli" / "stand_in_phases.py"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture
def environment(tmp_path):
    """PYTHON is a program that runs the tests' stand-in where `-m autoresearch` is asked for."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PYTHON": str(program), "POLL_SECONDS": "0.1", "COLUMNS": "110"}


def started(root: Path, environment: dict[str, str], *arguments: str, stand_in: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SCRIPT), *arguments],
        cwd=root,
        env={**environment, "STAND_IN": stand_in},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


@pytest.mark.slow
def test_it_runs_every_phase_says_how_far_it_is_and_ends_with_the_results(make_workspace, environment):
    root = make_workspace()
    run = started(root, environment, "e", "--benchmark")
    out, err = run.communicate()
    assert run.returncode == 0, out + err
    shown = {line.split("  ")[0] for line in out.splitlines()}
    assert {"train"} <= shown
    assert "\r" not in out and "\x1b" not in out
    assert "val_bpb" in out and "benchmark: fine" in out
    assert out.splitlines()[-1] == "results: EXPERIMENT_LOG.md and logs/e"
    assert (root / "logs" / "e" / "phase_verify.json").is_file()
    assert "## e: benchmark" in (root / "EXPERIMENT_LOG.md").read_text()


@pytest.mark.slow
def test_a_failed_phase_is_said_with_what_to_type_and_a_second_call_goes_on(make_workspace, environment):
    root = make_workspace()
    run = started(root, environment, "e", stand_in="convert=fail")
    _, err = run.communicate()
    assert run.returncode == 1
    assert "convert failed" in err and "next: " in err
    run = started(root, environment, "e", "--resume")
    out, err = run.communicate()
    assert run.returncode == 0, out + err
    assert "train: done before" in out and "quantize: done before" in out


@pytest.mark.slow
def test_stopping_it_stops_the_phase_and_leaves_nothing_running(make_workspace, environment):
    root = make_workspace()
    run = started(root, environment, "e", stand_in="quantize=hang")
    for line in run.stdout:
        if line.startswith("quantize  scoring"):
            break
    children = psutil.Process(run.pid).children(recursive=True)
    assert len(children) >= 2
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate()
    assert run.returncode == 130, out + err
    assert "to go on: autoresearch experiment e --resume" in err
    psutil.wait_procs(children, timeout=PATIENCE)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("script") is None, reason="no script(1) to make a terminal")
def test_in_a_terminal_a_bar_moves(make_workspace, environment):
    root = make_workspace()
    done = subprocess.run(
        ["script", "-qec", f"bash '{SCRIPT}' e", "/dev/null"],
        cwd=root,
        env={**environment, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    out = done.stdout.decode()
    assert done.returncode == 0, out
    assert "\r\x1b[K" in out and "########################" in out


def test_help_says_how_it_is_called_and_starts_nothing(tmp_path, environment):
    run = started(tmp_path, environment, "--help")
    out, _ = run.communicate()
    assert run.returncode == 0
    assert "tools/run_full_experiment.sh [TAG] [--benchmark]" in out and "set -euo" not in out
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("tag", ["../x", "a b", "a/b"])
def test_a_tag_that_is_no_name_is_refused_before_anything_is_made(tmp_path, environment, tag):
    run = started(tmp_path, environment, tag)
    _, err = run.communicate()
    assert run.returncode == 2
    assert "not a tag" in err
    assert not (tmp_path / "logs").exists()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck on PATH")
def test_the_script_is_clean():
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
