"""What the tests of `try` and of the server share: agents that edit and call at once, and how to wait for them."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from calling import git
from patience import PATIENCE

from autoresearch.loop.queue import waiting
from autoresearch.records.ledger import Experiment, Ledger
from autoresearch.workspace import open_workspace

FLATTER = (0.05, 0.06, 0.07, 0.08)  # nearly uniform predictions: each a sure discard after one trial


def until(condition, *running: subprocess.Popen[str], seconds=PATIENCE):
    """Poll until the condition holds; the test fails when it does not in time, or when one of the processes ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        ended = [process for process in running if process.poll() is not None]
        assert not ended, [end(process) for process in ended]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def incumbent_text(root: Path, tag: str = "a") -> str:
    return git(root, "show", f"autoresearch/{tag}:train.py") + "\n"


def flatter(root: Path, value: float, tag: str = "a") -> str:
    """The incumbent's file with another sharpness."""
    text, count = re.subn(r"SHARPNESS = [0-9.]+", f"SHARPNESS = {value}", incumbent_text(root, tag), count=1)
    assert count == 1
    return text


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """One verb in the background."""
    command = [sys.executable, "-m", "autoresearch", *arguments]
    return subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def start_try(root: Path, message: str, *arguments: str) -> subprocess.Popen[str]:
    """`autoresearch try` in the background, as an agent calls it."""
    return start(root, "try", "-m", message, "--tag", "a", "--json", *arguments)


def num_waiting(root: Path, tag: str = "a") -> int:
    return len(waiting(open_workspace(root), tag))


def experiments(root: Path, tag: str = "a") -> list[Experiment]:
    ledger = Ledger(open_workspace(root).ledger_path)
    try:
        return ledger.experiments(tag)
    finally:
        ledger.close()


def is_training(root: Path, number: int, tag: str = "a") -> bool:
    """Whether a candidate of that experiment runs now."""
    ledger = Ledger(open_workspace(root).ledger_path)
    try:
        return any(row.number == number and row.pid is not None for row in ledger.running_trials(tag))
    finally:
        ledger.close()


def end(process: subprocess.Popen[str], stdin: str | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a process that ends by itself."""
    out, err = process.communicate(stdin, timeout=PATIENCE)
    return process.returncode, out, err
