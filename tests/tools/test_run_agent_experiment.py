"""tools/run_agent_experiment.sh, run for real: it starts the loop, says how far it is, ends with the table, and can be stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "run_agent_experiment.sh"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def started(root: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "POLL_SECONDS": "0.1", "COLUMNS": "110"}
    return subprocess.Popen(
        ["bash", str(SCRIPT), *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


@pytest.mark.slow
def test_it_runs_the_loop_says_how_far_it_is_and_ends_with_the_table(make_workspace):
    root = make_workspace()
    run = started(root, "t1", "--max-experiments", "1")
    out, err = run.communicate()
    assert run.returncode == 0, err
    progress, _, table = out.partition("\n\n")
    assert any(line.startswith("#0 ") for line in progress.splitlines())
    assert "\r" not in out
    assert "1 experiments, " in table
    assert "autoresearch/t1" in table
    assert (root / "logs" / "t1" / "agent_loop.log").read_text()


@pytest.mark.slow
def test_stopping_it_stops_the_loop_cleanly_and_leaves_nothing_running(make_workspace):
    root = make_workspace()
    run = started(root, "t1")
    assert run.stdout.readline().startswith("#0 ")  # the first line comes when the session is under way
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate()
    assert run.returncode == 130, err
    assert "autoresearch/t1" in out
    assert "stopping" in (root / "logs" / "t1" / "agent_loop.log").read_text()
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_loop_that_cannot_begin_says_why(make_workspace):
    run = started(make_workspace(), "t1", "--seed", "x")
    _, err = run.communicate()
    assert run.returncode == 2
    assert "--seed" in err


@pytest.mark.parametrize("tag", ["../x", "a b", "a/b"])
def test_a_tag_that_is_no_name_is_refused_before_anything_is_made(make_workspace, tag):
    root = make_workspace()
    run = started(root, tag)
    _, err = run.communicate()
    assert run.returncode == 2
    assert "not a tag" in err
    assert not (root / "logs").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("script") is None, reason="no script(1) to make a terminal")
def test_in_a_terminal_one_line_moves(make_workspace):
    root = make_workspace()
    environment = {**os.environ, "PYTHON": sys.executable, "POLL_SECONDS": "0.1", "TERM": "xterm"}
    done = subprocess.run(
        ["script", "-qec", f"bash '{SCRIPT}' t1 --max-experiments 1", "/dev/null"],
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    out = done.stdout.decode()
    assert done.returncode == 0, out
    assert "\r\x1b[K" in out
    assert "%" in out
    assert "1 experiments, " in out


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck on PATH")
def test_the_shell_scripts_are_clean():
    ask = SCRIPT.parents[1] / "experiment-plugin" / "hooks" / "ask.sh"
    done = subprocess.run(["shellcheck", str(SCRIPT), str(ask)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
