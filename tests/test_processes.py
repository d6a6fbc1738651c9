"""Processes that work for this one: they answer, end when told, and end with the one they work for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest
from patience import PATIENCE

from autoresearch.processes import Helpers, processes_for

_told: list[str] = []


def told(word: str) -> None:
    _told.append(word)


def answer(number: int) -> tuple[list[str], int]:
    return _told, number + 1


def hang(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    threading.Event().wait(3600)


def begun_in(folder: Path) -> list[int]:
    """The numbers of the processes that hang, once there are some."""
    tick = threading.Event()
    for _ in range(int(PATIENCE * 100)):
        if found := [int(path.name) for path in folder.iterdir()]:
            return found
        tick.wait(0.01)
    raise AssertionError("no process began")


def test_no_more_processes_than_jobs_or_than_memory_is_free_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=5 << 29))
    assert [processes_for(jobs, memory_bytes=1 << 29) for jobs in (1, 4, 100)] == [1, 4, 5]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=1 << 20))
    assert processes_for(100, memory_bytes=1 << 29) == 1


@pytest.mark.slow
def test_each_process_is_begun_with_what_it_was_given() -> None:
    with Helpers(2, told, "word") as helpers:
        assert [helpers.submit(answer, number).result() for number in (1, 2)] == [(["word"], 2), (["word"], 3)]
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_leaving_by_an_exception_ends_what_runs(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Helpers(1) as helpers:
        running = helpers.submit(hang, tmp_path)
        begun_in(tmp_path)
        raise KeyboardInterrupt
    assert isinstance(running.exception(), BrokenProcessPool)
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_killed_parent_leaves_no_process(tmp_path: Path) -> None:
    here = Path(__file__)
    program = (
        f"import sys; sys.path[:0] = {[str(here.parent)]!r}\n"
        "from pathlib import Path\n"
        "from test_processes import Helpers, hang\n"
        "if __name__ == '__main__':\n"
        "    helpers = Helpers(1)\n"
        f"    helpers.submit(hang, Path({str(tmp_path)!r})).result()\n"
    )
    script = tmp_path.parent / f"{tmp_path.name}.py"
    script.write_text(program)
    parent = subprocess.Popen([sys.executable, str(script)])
    helper = psutil.Process(begun_in(tmp_path)[0])
    parent.send_signal(signal.SIGKILL)
    parent.wait(PATIENCE)
    helper.wait(PATIENCE)
