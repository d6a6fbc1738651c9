"""What a candidate is started with, and what a process tree may hide: nothing. Real processes throughout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from autoresearch.loop import sandbox
from autoresearch.loop.sandbox import ProcessTree, clean_environment, interpreter, kill_leftover

PREAMBLE = """
import os, resource, signal, subprocess, sys, time

def burn(seconds):
    begin = time.process_time()
    while time.process_time() - begin < seconds:
        pass

def say(word):
    print(word, flush=True)

def hear():
    return os.read(0, 1)
"""


def until(condition, seconds=10.0):
    """Poll until the condition holds; the test fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    """True when no such process runs; one that has ended but was not waited for counts as gone."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Started:
    """A tree that runs a script, and the words it printed so far."""

    def __init__(self, script: str, folder: Path, **options):
        self.log = folder / "log"
        script = PREAMBLE + textwrap.dedent(script)
        with self.log.open("wb") as output:
            self.tree = ProcessTree(
                [sys.executable, "-S", "-c", script],
                directory=folder,
                environment=clean_environment(folder, accelerators=False, threads=1),
                output=output,
                **options,
            )

    def words(self) -> list[str]:
        return self.log.read_text().split()

    def word(self, prefix: str) -> str:
        """What follows the prefix in the printed word that has it; waits for that word."""
        until(lambda: any(word.startswith(prefix) for word in self.words()))
        return next(word for word in self.words() if word.startswith(prefix)).removeprefix(prefix)


@pytest.fixture
def start(tmp_path):
    """A function that starts a script as a process tree; whatever is left of it is killed after the test."""
    trees = []

    def begin(script: str, **options) -> Started:
        started = Started(script, tmp_path, **options)
        trees.append(started.tree)
        return started

    yield begin
    for tree in trees:
        tree.kill()


def fresh_cpu_seconds(tree: ProcessTree) -> float:
    """CPU seconds as read by a look at every process, however recent the last one."""
    tree._books_made_at = 0.0
    return tree.cpu_seconds()


# -- environment ------------------------------------------------------------------------------------------------------


def test_a_candidates_environment_holds_no_secret_and_no_home(tmp_path, monkeypatch):
    for name in ("FAKE_API_KEY", "ANTHROPIC_API_KEY", "GITHUB_TOKEN", "AUTORESEARCH_CACHE", "PYTHONPATH", "LD_PRELOAD"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HOME", "/home/someone")
    environment = clean_environment(tmp_path, accelerators=True, threads=1)
    assert "secret" not in environment.values()
    assert {environment[name] for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")} == {str(tmp_path)}


def test_accelerators_are_hidden_unless_they_are_wanted(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert clean_environment(tmp_path, accelerators=True, threads=1)["CUDA_VISIBLE_DEVICES"] == "3"
    assert clean_environment(tmp_path, accelerators=False, threads=1)["CUDA_VISIBLE_DEVICES"] not in ("3", "0")


def test_number_of_threads_reaches_every_maths_library(tmp_path):
    environment = clean_environment(tmp_path, accelerators=False, threads=3)
    assert {environment[f"{library}_NUM_THREADS"] for library in ("OMP", "MKL", "OPENBLAS")} == {"3"}


def test_candidates_start_with_our_own_interpreter_isolated_and_never_through_uv():
    command = interpreter("some.module")
    assert command[0] == sys.executable
    assert "-P" in command and "-s" in command
    assert command[-2:] == ["-m", "some.module"]


# -- a tree and its end -----------------------------------------------------------------------------------------------


def test_exit_code_is_negative_for_a_signal(start):
    ended = start("os.kill(os.getpid(), signal.SIGTERM)")
    assert ended.tree.wait(10) == -15
    assert ended.tree.poll() == -15


def test_waiting_for_a_running_tree_gives_none(start):
    running = start("time.sleep(60)")
    assert running.tree.wait(0.01) is None
    assert running.tree.poll() is None


def test_kill_ends_children_and_grandchildren(start):
    family = start(
        """
        inner = "import os, time; print(f'grandchild={os.getpid()}', flush=True); time.sleep(60)"
        outer = f"import os, subprocess, sys; print(f'child={{os.getpid()}}', flush=True); subprocess.run([sys.executable, '-S', '-c', {inner!r}])"
        subprocess.run([sys.executable, "-S", "-c", outer])
        """
    )
    pids = [int(family.word("child=")), int(family.word("grandchild="))]
    family.tree.kill()
    assert [is_gone(pid) for pid in pids] == [True, True]
    assert is_gone(family.tree.pid)


DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        burn({burn})
        say(f"daemon={{os.getpid()}}")
        time.sleep({rest})
    os._exit(0)
os.wait()
time.sleep(60)
"""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted by prctl, which only Linux has")


@linux_only
def test_a_daemon_in_a_session_of_its_own_is_killed_with_the_tree(start):
    daemon = start(DAEMON.format(burn=0, rest=60))
    pid = int(daemon.word("daemon="))
    assert os.getsid(pid) != os.getsid(daemon.tree.pid)
    daemon.tree.kill()
    assert is_gone(pid)
    assert not psutil.pid_exists(pid), "an adopted orphan must also be waited for"


@linux_only
def test_a_daemon_that_outlives_the_root_is_killed(start):
    daemon = start(DAEMON.format(burn=0, rest=60).replace("os.wait()\ntime.sleep(60)", ""))
    pid = int(daemon.word("daemon="))
    assert daemon.tree.wait(10) == 0
    assert not is_gone(pid)
    daemon.tree.kill()
    assert is_gone(pid)


def test_our_own_earlier_child_is_no_member_of_a_later_tree(start):
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"]) as ours:
        later = start("time.sleep(60)")
        later.tree.kill()
        assert ours.poll() is None
        ours.kill()


def test_killing_twice_is_harmless(start):
    started = start("time.sleep(60)")
    started.tree.kill()
    started.tree.kill()
    assert started.tree.poll() == -9


# -- what it used -----------------------------------------------------------------------------------------------------


def test_memory_of_a_child_counts(start):
    parent = start(
        """
        child = "block = bytearray(b'x') * 80_000_000; print('ready', flush=True); import time; time.sleep(60)"
        subprocess.run([sys.executable, "-S", "-c", child])
        """
    )
    parent.word("ready")
    assert parent.tree.memory_mb() > 80


@linux_only
def test_cpu_of_a_living_daemon_counts(start):
    daemon = start(DAEMON.format(burn=0.3, rest=60))
    daemon.word("daemon=")
    assert fresh_cpu_seconds(daemon.tree) >= 0.28  # the kernel counts in hundredths


@linux_only
def test_cpu_of_a_daemon_that_has_ended_still_counts_and_only_once(start):
    daemon = start(DAEMON.format(burn=0.4, rest=0))
    pid = int(daemon.word("daemon="))
    until(lambda: is_gone(pid))
    first, second, third = (fresh_cpu_seconds(daemon.tree) for _ in range(3))
    assert 0.38 <= first < 0.7
    assert first == second == third
    assert not psutil.pid_exists(pid)


CHILD_THEN_SPIN = """
{prelude}
child = os.fork()
if child == 0:
    burn(0.4)
    say("burnt")
    hear()
    os._exit(0)
hear()
{reap}
say("reaped")
time.sleep(60)
"""


def child_story(start, monkeypatch, *, prelude="", reap="os.waitpid(child, 0)"):
    """CPU seconds of a tree whose child burnt 0.4 s: while the child lives, right after its end, and later."""
    reader, writer = os.pipe()
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kw: real(*args, **{**kw, "stdin": reader}))
    started = start(CHILD_THEN_SPIN.format(prelude=prelude, reap=reap))
    monkeypatch.undo()
    started.word("burnt")
    alive = fresh_cpu_seconds(started.tree)
    os.write(writer, b"12")
    started.word("reaped")
    soon = started.tree.cpu_seconds()
    later = fresh_cpu_seconds(started.tree)
    os.close(reader)
    os.close(writer)
    return alive, soon, later


def test_cpu_of_a_child_counts_once_before_and_after_it_is_waited_for(start, monkeypatch):
    # counted twice, the clock would run ahead and then stand still while the candidate goes on training
    alive, soon, later = child_story(start, monkeypatch)
    assert 0.38 <= alive < 0.6
    assert alive <= soon < alive + 0.2
    assert alive <= later < alive + 0.2


def test_cpu_of_children_that_nobody_waits_for_stays_on_the_books(start, monkeypatch):
    # with SIGCHLD ignored the kernel adds an ended child's time to nobody's account
    reap = "until_gone = time.monotonic() + 10\nwhile os.path.exists(f'/proc/{child}') and time.monotonic() < until_gone: pass\nburn(0.3)"
    alive, _soon, later = child_story(
        start, monkeypatch, prelude="signal.signal(signal.SIGCHLD, signal.SIG_IGN)", reap=reap
    )
    assert later >= alive + 0.28


def test_cpu_of_a_short_child_that_was_never_seen_alive_counts(start):
    script = """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    if os.fork() == 0:
        burn(0.2)
        os._exit(0)
    os.wait()
    say("reaped")
    time.sleep(60)
    """
    started = start(script)
    started.word("reaped")
    assert fresh_cpu_seconds(started.tree) >= 0.18


def test_cpu_seconds_never_fall(start):
    ended = start("burn(0.1)")
    readings = []
    while ended.tree.poll() is None:
        readings.append(ended.tree.cpu_seconds())
    readings.append(ended.tree.cpu_seconds())
    assert readings == sorted(readings)
    assert readings[-1] > 0


# -- what a killed session left behind --------------------------------------------------------------------------------


def test_leftover_is_killed_with_its_children(start):
    left = start(
        """
        subprocess.Popen([sys.executable, "-S", "-c", "import os, time; print(f'child={os.getpid()}', flush=True); time.sleep(60)"])
        time.sleep(60)
        """
    )
    child = int(left.word("child="))
    assert kill_leftover(left.tree.pid, left.tree.created_at)
    assert is_gone(left.tree.pid)
    assert is_gone(child)


def test_a_stranger_with_the_same_number_is_left_alone(start):
    stranger = start("time.sleep(60)")
    assert not kill_leftover(stranger.tree.pid, stranger.tree.created_at - 30)
    assert not kill_leftover(stranger.tree.pid, stranger.tree.created_at + 30)
    assert stranger.tree.poll() is None


def test_nothing_left_over_is_no_error(start):
    ended = start("pass")
    ended.tree.wait(10)
    assert not kill_leftover(ended.tree.pid, ended.tree.created_at)


def test_what_is_said_of_the_seal_admits_what_is_missing():
    assert re.match(r"(full|partial \(.+\)|none)$", sandbox.SEALED)
