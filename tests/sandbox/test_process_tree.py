"""What a process tree may hide: nothing. Real processes throughout, in every kind of cell that works here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from cells import EVERY, SEALING, linux_only, seal_of, until
from patience import PATIENCE

from autoresearch.sandbox.process_tree import ProcessTree, kill_leftover

every_kind = pytest.mark.parametrize("kind", EVERY)


def fresh_cpu_seconds(tree: ProcessTree) -> float:
    """CPU seconds as read by a look at every process, however recent the last one."""
    tree._books_made_at = 0.0
    return tree.cpu_seconds()


# -- a tree and its end -----------------------------------------------------------------------------------------------


@every_kind
def test_exit_code_is_negative_for_a_signal(start, kind):
    ended = start(kind, "os.kill(os.getpid(), signal.SIGTERM)")
    assert ended.tree.wait(PATIENCE) == -15
    assert ended.tree.poll() == -15


@every_kind
def test_an_exit_code_of_its_own_is_reported_as_it_is(start, kind):
    assert start(kind, "sys.stdout.flush(); os._exit(3)").tree.wait(PATIENCE) == 3


def test_waiting_for_a_running_tree_gives_none(start):
    running = start("none", "time.sleep(3600)")
    assert running.tree.wait(0.01) is None
    assert running.tree.poll() is None


FAMILY = """
inner = "import os, time; os.write(1, b'grandchild\\\\n'); time.sleep(3600)"
outer = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {inner!r}], close_fds=False)"
subprocess.run([sys.executable, "-S", "-c", outer], close_fds=False)
"""


@every_kind
def test_kill_ends_children_and_grandchildren(start, kind):
    family = start(kind, FAMILY)
    family.word("grandchild")
    assert family.tree.num_processes() >= 3
    assert not family.is_gone()
    family.tree.kill()
    assert family.is_gone()
    assert family.tree.num_processes() == 0


DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        burn({burn})
        say("daemon")
        time.sleep({rest})
    os._exit(0)
os.wait()
{last}
"""


def zombies() -> set[int]:
    return {child.pid for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE}


@linux_only
@every_kind
def test_a_daemon_that_asked_for_a_session_of_its_own_is_killed_with_the_tree(start, kind):
    daemon = start(kind, DAEMON.format(burn=0, rest=3600, last="time.sleep(3600)"))
    daemon.word("daemon")
    daemon.tree.kill()
    assert daemon.is_gone()


@pytest.mark.slow
@linux_only
@every_kind
def test_a_daemon_that_outlives_the_root_is_killed(start, kind):
    before = zombies()  # of a test that failed before this one
    daemon = start(kind, DAEMON.format(burn=0, rest=3600, last="time.sleep(0.3)"))
    daemon.word("daemon")
    assert daemon.tree.wait(PATIENCE) == 0
    daemon.tree.kill()
    assert daemon.is_gone()
    assert zombies() <= before


@linux_only
@pytest.mark.parametrize("kind", SEALING)
def test_a_process_that_replaces_itself_without_end_is_caught(start, kind):
    # each lives for a fraction of a millisecond: a list of processes is out of date before it is complete
    rabbit = start(
        kind,
        """
        say("running")
        if os.fork() == 0:
            while True:
                os.setpgid(0, 0)
                if os.fork():
                    os._exit(0)
        time.sleep(3600)
        """,
    )
    rabbit.word("running")
    rabbit.tree.kill()
    assert rabbit.is_gone(PATIENCE)


@pytest.mark.slow
@every_kind
def test_a_crowd_that_forks_on_is_killed(start, kind):
    crowd = start(
        kind,
        """
        for number in range(60):
            if os.fork() == 0:
                while True:
                    if os.fork() == 0:
                        os._exit(0)
                    os.wait()
                    time.sleep(0.5)
        say("crowd")
        time.sleep(3600)
        """,
    )
    crowd.word("crowd")
    assert crowd.tree.num_processes() >= 60
    crowd.tree.kill()
    assert crowd.is_gone()


def test_our_own_child_is_no_member_of_a_tree_begun_earlier_or_later(start):
    seal_of("landlock")
    command = [sys.executable, "-S", "-c", "import time; time.sleep(3600)"]
    with subprocess.Popen(command) as before:
        tree = start("landlock", "say('up'); time.sleep(3600)")
        tree.word("up")
        with subprocess.Popen(command) as during:
            assert tree.tree.num_processes() == 1
            tree.tree.kill()
            assert before.poll() is None
            assert during.poll() is None
            during.kill()
        before.kill()


@every_kind
def test_killing_twice_is_harmless(start, kind):
    started = start(kind, "time.sleep(3600)")
    started.tree.kill()
    started.tree.kill()
    assert started.tree.poll() == -9


# -- what it used -----------------------------------------------------------------------------------------------------


@every_kind
def test_memory_of_a_child_counts(start, kind):
    parent = start(
        kind,
        """
        child = "block = bytearray(b'x') * 80_000_000; print('ready', flush=True); import time; time.sleep(3600)"
        subprocess.run([sys.executable, "-S", "-c", child])
        """,
    )
    parent.word("ready")
    assert parent.tree.memory_mb() > 80


@pytest.mark.slow
@linux_only
@every_kind
def test_memory_of_a_nameless_file_counts_once_whether_it_is_mapped_or_not(start, kind):
    hiding = start(
        kind,
        """
        import mmap
        file = os.memfd_create("nameless")
        os.posix_fallocate(file, 0, 100_000_000)
        say("filled")
        time.sleep(3600)
        """,
    )
    hiding.word("filled")
    assert 95 < hiding.tree.memory_mb() < 180
    mapping = start(
        kind,
        """
        import mmap
        file = os.memfd_create("nameless")
        os.ftruncate(file, 100_000_000)
        pages = mmap.mmap(file, 0)
        pages[:] = bytes(100_000_000)
        say("filled")
        time.sleep(3600)
        """,
    )
    mapping.word("filled")
    assert 95 < mapping.tree.memory_mb() < 180


@pytest.mark.slow
@linux_only
@every_kind
def test_cpu_of_a_living_daemon_counts(start, kind):
    daemon = start(kind, DAEMON.format(burn=0.3, rest=3600, last="time.sleep(3600)"))
    daemon.word("daemon")
    assert fresh_cpu_seconds(daemon.tree) >= 0.28  # the kernel counts in hundredths


@pytest.mark.slow
@linux_only
@every_kind
def test_cpu_of_a_daemon_that_has_ended_still_counts_and_only_once(start, kind):
    daemon = start(kind, DAEMON.format(burn=1.0, rest=0, last="time.sleep(3600)"))
    daemon.word("daemon")
    alone = 3 if kind == "bubblewrap" else 1
    until(lambda: fresh_cpu_seconds(daemon.tree) and daemon.tree.num_processes() == alone)
    first, second, third = (fresh_cpu_seconds(daemon.tree) for _ in range(3))
    assert 0.98 <= first < 1.9
    assert first == second == third


CHILD_THEN_SPIN = """
{prelude}
child = os.fork()
if child == 0:
    burn(1.0)
    say("burnt")
    hear()
    os._exit(0)
hear()
{reap}
say("reaped")
time.sleep(3600)
"""


def child_story(start, monkeypatch, kind, *, prelude="", reap="os.waitpid(child, 0)"):
    """CPU seconds of a tree whose child burnt 1 s: while the child lives, right after its end, and later."""
    seal_of(kind)
    reader, writer = os.pipe()
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kw: real(*args, **{**kw, "stdin": reader}))
    started = start(kind, CHILD_THEN_SPIN.format(prelude=prelude, reap=reap))
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


@pytest.mark.slow
@every_kind
def test_cpu_of_a_child_counts_once_before_and_after_it_is_waited_for(start, monkeypatch, kind):
    # counted twice, the clock would run ahead and then stand still while the candidate goes on training
    alive, soon, later = child_story(start, monkeypatch, kind)
    # what is left below the second second is for the interpreter's own start: 0.05 s, and ten times that on a starved machine
    assert 0.98 <= alive < 1.9
    assert alive <= soon < alive + 0.9
    assert alive <= later < alive + 0.9


@pytest.mark.slow
@every_kind
def test_cpu_of_children_that_nobody_waits_for_stays_on_the_books(start, monkeypatch, kind):
    # with SIGCHLD ignored the kernel adds an ended child's time to nobody's account
    reap = "until_gone = time.monotonic() + 10\nwhile os.path.exists(f'/proc/{child}') and time.monotonic() < until_gone: pass\nburn(0.3)"
    alive, _soon, later = child_story(
        start, monkeypatch, kind, prelude="signal.signal(signal.SIGCHLD, signal.SIG_IGN)", reap=reap
    )
    assert later >= alive + 0.28


@every_kind
def test_cpu_of_a_short_child_that_was_never_seen_alive_counts(start, kind):
    script = """
    if os.fork() == 0:
        burn(0.2)
        os._exit(0)
    os.wait()
    say("reaped")
    time.sleep(3600)
    """
    started = start(kind, script)
    started.word("reaped")
    assert fresh_cpu_seconds(started.tree) >= 0.18


@pytest.mark.slow
@every_kind
def test_cpu_seconds_never_fall(start, kind):
    ended = start(kind, "burn(0.2)")
    readings = []
    while ended.tree.poll() is None:
        readings.append(ended.tree.cpu_seconds())
    ended.tree.kill()
    readings.append(ended.tree.cpu_seconds())
    assert readings == sorted(readings)
    assert 0.18 <= readings[-1] < 5.0


@every_kind
def test_cpu_of_the_command_itself_is_read_at_every_call(start, kind):
    # a reading a quarter of a second old would let a candidate train on for as long after its budget
    spinning = start(kind, "say('up'); burn(60)")
    spinning.word("up")
    until(lambda: spinning.tree.cpu_seconds() > 0.1)
    spinning.tree._books_made_at = time.monotonic() + 3600
    now = spinning.tree.cpu_seconds()
    until(lambda: spinning.tree.cpu_seconds() > now)


# -- what a killed session left behind --------------------------------------------------------------------------------

KILLED_REFEREE = """
import json, os, sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
from cells import Started
started = Started({kind!r}, {script!r}, Path({folder!r}))
started.word({awaited!r})
print(json.dumps([started.tree.pid, started.tree.created_at]), flush=True)
time.sleep(3600)
"""


@pytest.mark.slow
@linux_only
@pytest.mark.parametrize("kind", SEALING)
def test_nothing_of_a_candidate_survives_a_killed_referee_and_the_next_start(tmp_path, kind):
    seal_of(kind)
    script = DAEMON.format(burn=0, rest=3600, last="time.sleep(3600)")
    source = KILLED_REFEREE.format(
        paths=[path for path in sys.path if path],
        kind=kind,
        script=script,
        folder=str(tmp_path / "left"),
        awaited="daemon",
    )
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as referee:
        pid, created_at = json.loads(referee.stdout.readline())
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        daemons = [process for process in psutil.process_iter() if is_in_session(process, pid)]
        referee.send_signal(signal.SIGKILL)
        referee.wait()
        everyone = {process.pid: process for process in [*family, *daemons]}.values()
        until(lambda: not is_running(family[0]))
        if kind == "landlock":
            assert kill_leftover(pid, created_at)
        until(lambda: not any(is_running(process) for process in everyone))
    assert len(everyone) >= 2
    assert not kill_leftover(pid, created_at)


def is_in_session(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session
    except ProcessLookupError:
        return False


def is_running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@every_kind
def test_leftover_is_killed_with_its_children(start, kind):
    left = start(kind, FAMILY)
    left.word("grandchild")
    assert kill_leftover(left.tree.pid, left.tree.created_at)
    assert left.is_gone(PATIENCE)


def test_a_stranger_with_the_same_number_is_left_alone(start):
    stranger = start("none", "time.sleep(3600)")
    assert not kill_leftover(stranger.tree.pid, stranger.tree.created_at - 30)
    assert not kill_leftover(stranger.tree.pid, stranger.tree.created_at + 30)
    assert stranger.tree.poll() is None


@linux_only
def test_an_unsealed_process_of_a_session_with_the_same_number_is_left_alone():
    source = "import os, time\nif os.fork(): os._exit(0)\nos.write(1, str(os.getpid()).encode())\ntime.sleep(3600)"
    before = time.time()
    command = [sys.executable, "-S", "-c", source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as leader:
        orphan = psutil.Process(int(os.read(leader.stdout.fileno(), 20)))
        leader.wait()
        assert os.getsid(orphan.pid) == leader.pid
        assert not kill_leftover(leader.pid, before)
        assert orphan.is_running()
        orphan.kill()


def test_nothing_left_over_is_no_error(start):
    ended = start("none", "pass")
    ended.tree.wait(PATIENCE)
    assert not kill_leftover(ended.tree.pid, ended.tree.created_at)
