"""The queue of a session, with real processes: first come, first served, and nobody waits for the dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from patience import PATIENCE

from autoresearch.loop.opening import session_lock
from autoresearch.loop.queue import turn, waiting
from autoresearch.vocabulary import SessionBusy
from autoresearch.workspace import open_workspace

# Takes its turn, and writes its name while it has it.
WAITER = """
import sys
from pathlib import Path
from autoresearch.loop.queue import turn
from autoresearch.workspace import open_workspace
with turn(open_workspace(), sys.argv[1]), Path("order.txt").open("a") as stream:
    stream.write(sys.argv[2] + "\\n")
"""


@pytest.fixture
def workspace(make_workspace):
    return open_workspace(make_workspace())


@pytest.fixture
def start(workspace):
    """A function that starts a waiter for the session `a` and returns once it has its ticket."""
    started = []

    def go(name: str) -> subprocess.Popen:
        before = len(waiting(workspace, "a"))
        started.append(subprocess.Popen([sys.executable, "-c", WAITER, "a", name], cwd=workspace.root))
        until(lambda: len(waiting(workspace, "a")) == before + 1)
        return started[-1]

    yield go
    for process in started:
        process.kill()
        process.wait()


def until(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def order(workspace) -> list[str]:
    path = workspace.root / "order.txt"
    return path.read_text().split() if path.exists() else []


@pytest.mark.slow
def test_waiters_have_their_turns_in_the_order_in_which_they_came(workspace, start):
    with session_lock(workspace, "a"):
        waiters = [start(name) for name in ("first", "second", "third")]
        assert [ticket.pid for ticket in waiting(workspace, "a")] == [waiter.pid for waiter in waiters]
        assert order(workspace) == []
    assert [waiter.wait(PATIENCE) for waiter in waiters] == [0, 0, 0]
    assert order(workspace) == ["first", "second", "third"]
    assert waiting(workspace, "a") == []


@pytest.mark.slow
def test_a_killed_waiter_is_passed_over(workspace, start):
    with session_lock(workspace, "a"):
        first, second = start("first"), start("second")
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert [ticket.pid for ticket in waiting(workspace, "a")] == [second.pid]
    assert second.wait(PATIENCE) == 0
    assert order(workspace) == ["second"]
    assert list((workspace.state_dir / "queue" / "a").glob("*.ticket")) == []


@pytest.mark.slow
def test_a_suspended_waiter_is_passed_over_and_has_its_turn_when_it_goes_on(workspace, start):
    with session_lock(workspace, "a"):
        first = start("first")
        first.send_signal(signal.SIGSTOP)
        second = start("second")
    assert second.wait(PATIENCE) == 0
    first.send_signal(signal.SIGCONT)
    assert first.wait(PATIENCE) == 0
    assert order(workspace) == ["second", "first"]


def test_a_ticket_whose_process_number_belongs_to_a_stranger_now_holds_nobody_up(workspace):
    folder = workspace.state_dir / "queue" / "a"
    folder.mkdir(parents=True)
    (folder / "0000000001-77-1.ticket").write_text(json.dumps({"pid": os.getppid(), "started": 1.0}))
    (folder / "0000000002-78-1.ticket").write_text("")  # its owner was killed before it wrote
    with turn(workspace, "a", seconds=0):
        assert list(folder.glob("*.ticket")) == []


def test_patience_that_is_over_is_told_with_who_runs_and_leaves_the_queue(workspace):
    with session_lock(workspace, "a"):
        gave_up = rf"gave up after waiting 0 s .*process {os.getpid()}\)"
        with pytest.raises(SessionBusy, match=gave_up) as refused, turn(workspace, "a", seconds=0):
            pytest.fail("had its turn although another holds the session")
        assert "--wait" in refused.value.hint
        assert waiting(workspace, "a") == []


def test_an_interrupted_waiter_leaves_the_queue(workspace):
    def interrupted(_seconds: float) -> None:
        assert len(waiting(workspace, "a")) == 1
        raise KeyboardInterrupt

    with session_lock(workspace, "a"):
        with pytest.raises(KeyboardInterrupt), turn(workspace, "a", pause=interrupted):
            pytest.fail("had its turn")
        assert waiting(workspace, "a") == []


def test_it_is_said_once_why_one_waits(workspace):
    told, looks = [], []
    holder = session_lock(workspace, "a")
    holder.__enter__()

    def look_again(_seconds: float) -> None:
        looks.append(1)
        if len(looks) == 5:
            holder.__exit__(None, None, None)

    with turn(workspace, "a", on_wait=told.append, pause=look_again) as waited:
        assert told == [f"session a is running already (process {os.getpid()})"]
        assert waited >= 0
    assert len(looks) == 5


def test_sessions_of_other_names_are_not_waited_for(workspace):
    with turn(workspace, "a"), turn(workspace, "b", seconds=0) as waited:
        assert waited < 60


def test_the_turn_is_the_sessions_own_lock(workspace):
    with turn(workspace, "a"), pytest.raises(SessionBusy, match="running already"), session_lock(workspace, "a"):
        pytest.fail("two hold one session")
    with session_lock(workspace, "a"):
        pass
