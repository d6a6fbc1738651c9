"""A candidate's processes, watched and killed as a tree: nothing of it stays, and none of its CPU seconds are lost."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

import psutil

_MOST_FILES = 4096  # of one process that a look goes through: about 8 ms
_SAME_LOOK_SECONDS = 0.02  # how old a list of the members may be within one look of the watchdog
_LOOK_SECONDS = 0.25  # between two looks at every process of a tree
_MOST_LOOKING = 20.0  # and at least as many times what one takes: 5 % of a core where thousands of processes run
_LARGEST_SIGNAL = 64  # on Linux; shells and bubblewrap report death by signal N as exit code 128 + N


class Orphans(Enum):
    """Which children of ours that we did not start belong to a tree.

    NOBODYS: any of them. Only one tree of this kind may have an order at a time, and whatever else of ours is started
    while it runs must be a ProcessTree too.
    SESSION: those whose session is the root's: a candidate that cannot leave its session (a filter answers setsid), and
    bubblewrap's own first process, when its parent ends before it.
    NONE: none at all, for processes that we trust.
    """

    NOBODYS = "nobody's"
    SESSION = "session"
    NONE = "none"


@dataclass(frozen=True)
class _Spent:
    """CPU seconds of one process, and of the children it has waited for."""

    own: float
    waited: float


_started: set[int] = set()  # roots of our own trees: children of ours that are nobody's orphans


class ProcessTree:
    """A process and everything it started, orphans included as `orphans` says."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str],
        output: IO[bytes] | int,
        pass_fds: Sequence[int] = (),
        orphans: Orphans = Orphans.NOBODYS,
        wrapped: bool = False,
    ) -> None:
        """Start it, in a session of its own.

        wrapped: the root is bubblewrap, which reports the signal that ended its command as exit code 128 + N.
        """
        if orphans is not Orphans.NONE:
            _adopt_orphans()
        self._orphans = orphans
        self._wrapped = wrapped
        self._ours_before = {child.pid for child in psutil.Process().children()}
        self._popen = subprocess.Popen(
            list(command),
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
        self.pid = self._popen.pid
        _started.add(self.pid)
        self._root = psutil.Process(self.pid)
        self.created_at = self._root.create_time()
        self._books: dict[psutil.Process, _Spent] = {}  # CPU seconds of each living member when last looked at
        self._books_made_at = 0.0
        self._look_every = _LOOK_SECONDS
        self._reaped_cpu = 0.0  # of adopted orphans that we waited for
        self._lost_cpu = 0.0  # of members that ended and that nobody waited for
        self._most_cpu = 0.0
        self._inner: psutil.Process | None = None  # bubblewrap's grandchild, once it is there
        self._over = False
        self._members_seen: list[psutil.Process] = []
        self._members_seen_at = 0.0

    def members(self) -> list[psutil.Process]:
        """Everyone alive but the root. Orphans of the tree are our own children since `_adopt_orphans`.

        One look at the whole process list, whose cost grows with the machine's: 2 ms for 100 processes.
        """
        ours = psutil.Process().children(recursive=True)
        children: dict[int, list[psutil.Process]] = {}
        for process in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                children.setdefault(process.ppid(), []).append(process)
        found = self._orphans_among(children.get(os.getpid(), []))
        waiting = [self.pid, *(orphan.pid for orphan in found)]
        while waiting:
            born = children.pop(waiting.pop(), [])
            found += born
            waiting += [process.pid for process in born]
        return found

    def _orphans_among(self, children: Iterable[psutil.Process]) -> list[psutil.Process]:
        """Of our children, those that we did not start and that are orphans of the tree."""
        if self._orphans is Orphans.NONE or self._over:
            return []
        if self._orphans is Orphans.SESSION:
            return [child for child in children if child.pid != self.pid and _session_of(child.pid) == self.pid]
        ours = self._ours_before | _started
        return [child for child in children if child.pid not in ours]

    def _members_lately(self) -> list[psutil.Process]:
        """`members`, at most a moment old: a look asks for them several times."""
        if time.monotonic() - self._members_seen_at > _SAME_LOOK_SECONDS:
            self._members_seen = self.members()
            self._members_seen_at = time.monotonic()
        return self._members_seen

    def num_processes(self) -> int:
        """Living processes of the tree now, the root included while it runs; bubblewrap's own two count."""
        return len(self._members_lately()) + (self.poll() is None)

    def cpu_seconds(self) -> float:
        """CPU seconds of the whole tree so far, waited-for and adopted children included.

        The command's own is read at each call (tens of microseconds); all else four times a second or less, and
        together: a child's seconds move to whoever waits for it, so a mix of old and new readings would count them
        twice.
        """
        now = time.monotonic()
        if now - self._books_made_at > self._look_every:
            self._make_books()
            self._books_made_at = now
            self._look_every = max(_LOOK_SECONDS, _MOST_LOOKING * (time.monotonic() - now))
        on_books = sum(spent.own + spent.waited for spent in self._books.values())
        command = self._command_process()
        if command is not None:
            then, latest = self._books.get(command), _spent_by(command)
            if then and latest:
                on_books += latest.own - then.own
        self._most_cpu = max(self._most_cpu, on_books + self._reaped_cpu + self._lost_cpu)
        return self._most_cpu

    def _command_process(self) -> psutil.Process | None:
        """The process that runs the command: the root, or bubblewrap's grandchild; None while there is none yet."""
        if not self._wrapped:
            return self._root
        if self._inner is None:
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                (first,) = self._root.children()[:1] or [self._root]
                self._inner = min(first.children(), key=lambda child: child.create_time(), default=None)
        return self._inner

    def _make_books(self) -> None:
        """Look at every member once, and keep what a vanished member had spent unless it arrived with its parent.

        The kernel gives the time of an ended child to nobody when its parent ignores SIGCHLD.
        """
        before = self._books
        reaped_before = self._reaped_cpu
        for _ in range(2):  # once more if something is missing: a child may be waited for between two readings
            self._reap_adopted()
            # parents first: what a child hands over meanwhile is then missed until the next look, never counted twice
            looked_at = {member: _spent_by(member) for member in [self._root, *self.members()]}
            self._books = {member: spent for member, spent in looked_at.items() if spent is not None}
            vanished = sum(spent.own + spent.waited for member, spent in before.items() if member not in self._books)
            waited = sum(spent.waited for spent in self._books.values()) + self._reaped_cpu
            waited_before = (
                sum(spent.waited for member, spent in before.items() if member in self._books) + reaped_before
            )
            if vanished <= waited - waited_before:
                return
        self._lost_cpu += max(0.0, vanished - max(0.0, waited - waited_before))

    def memory_mb(self) -> float:
        """Memory of the whole tree now, MiB: what is resident, and nameless files in memory that nobody has mapped."""
        total = 0
        nameless: dict[int, int] = {}  # bytes by inode
        mapped: dict[int, int] = {}  # bytes by process that holds one open
        for member in [self._root, *self._members_lately()]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += member.memory_info().rss
                for status in open_files(member.pid):
                    if status.st_nlink == 0 and status.st_dev == _memfd_device() and stat.S_ISREG(status.st_mode):
                        nameless[status.st_ino] = status.st_blocks * 512
                        mapped[member.pid] = _shared_bytes(member.pid)
        # pages that somebody has mapped are in his resident memory already
        return (total + max(0, sum(nameless.values()) - sum(mapped.values()))) / 2**20

    def poll(self) -> int | None:
        """Exit code of the root process, negative for a signal; None while it runs."""
        return self._unwrapped(self._popen.poll())

    def wait(self, seconds: float) -> int | None:
        """Exit code once the root ends, or None after `seconds`."""
        try:
            return self._unwrapped(self._popen.wait(seconds))
        except subprocess.TimeoutExpired:
            return None

    def _unwrapped(self, code: int | None) -> int | None:
        """Bubblewrap's exit code as its command's own."""
        if self._wrapped and code is not None and 128 < code <= 128 + _LARGEST_SIGNAL:
            return 128 - code
        return code

    def kill(self) -> None:
        """End every process of the tree and wait until none is left, one that forks as fast as it can included.

        A signal to a process group reaches everyone in it at once, whoever is being forked included, and a candidate
        under Landlock cannot leave the root's group. Under bubblewrap the death of its first process ends all others at
        once. Elsewhere everyone found is stopped before anyone is killed: what was stopped starts nothing while the rest
        is looked for.
        """
        for _ in range(200):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            members = self.members()
            _signal_all(members, signal.SIGSTOP)
            _kill_groups_of(members)
            _signal_all(members, signal.SIGKILL)
            self._popen.wait()
            self._reap_adopted()
            if not members:
                self._over = True
                self._members_seen = []
                _started.discard(self.pid)
                return
            psutil.wait_procs(members, timeout=0.05)

    def _reap_adopted(self) -> None:
        """Collect adopted orphans that have ended, and their CPU seconds."""
        for child in self._orphans_among(psutil.Process().children()):
            with contextlib.suppress(ChildProcessError, psutil.NoSuchProcess):
                if child.status() == psutil.STATUS_ZOMBIE:
                    _, _, usage = os.wait4(child.pid, os.WNOHANG)
                    self._reaped_cpu += usage.ru_utime + usage.ru_stime


def open_files(pid: int) -> Iterator[os.stat_result]:
    """Status of every file that a process holds open, 4096 at most; nothing where /proc does not tell."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208 (at every look of a watchdog: no Path is made)
    except OSError:
        return
    for name in names[:_MOST_FILES]:
        with contextlib.suppress(OSError):  # closed meanwhile
            yield os.stat(f"{folder}/{name}")  # noqa: PTH116


def _shared_bytes(pid: int) -> int:
    """Resident memory of a process that belongs to files in memory, bytes; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssShmem:"):
                return int(line.split()[1]) * 1024
    return 0


@functools.cache
def _memfd_device() -> int:
    """Number of the file system that nameless files in memory are on; -1 where there are none."""
    if not hasattr(os, "memfd_create"):
        return -1
    descriptor = os.memfd_create("which-device")
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def _signal_all(members: Iterable[psutil.Process], number: signal.Signals) -> None:
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(number)


def _kill_groups_of(members: Iterable[psutil.Process]) -> None:
    """Kill every process group that members of a tree opened. None is a stranger's: each tree has its own session."""
    ours = os.getsid(0)
    for member in members:
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if member.is_running() and os.getsid(member.pid) != ours:
                os.killpg(os.getpgid(member.pid), signal.SIGKILL)


def _session_of(pid: int) -> int | None:
    """Session id of a process, zombies included; None when it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _spent_by(process: psutil.Process) -> _Spent | None:
    """What a process has spent; None when it is gone."""
    try:
        times = process.cpu_times()
    except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        return None
    return _Spent(times.user + times.system, times.children_user + times.children_system)


def _adopt_orphans() -> None:
    """On Linux, become the parent of every orphan below us, so that a double fork hides neither CPU nor itself."""
    if sys.platform == "linux":
        set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER in <sys/prctl.h>
        ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)


def shield_referee() -> None:
    """On Linux, keep processes of the same user from reading our environment and memory, and from tracing us.

    The parent of a candidate holds keys in its environment and validation text in memory; the layers keep a sealed
    candidate away from both, this keeps an unsealed one away too. Root is not held by it. It also means no core file.
    """
    if sys.platform == "linux":
        set_dumpable = 4  # PR_SET_DUMPABLE in <sys/prctl.h>
        ctypes.CDLL(None, use_errno=True).prctl(set_dumpable, 0, 0, 0, 0)


def kill_leftover(pid: int, created_at: float) -> bool:
    """Kill the candidate that a killed session left behind, daemons of its session included; True when one still ran.

    pid, created_at: of its root process, seconds since the epoch. A stranger that has got the same number is left alone:
    the root is known by its time of birth. While any process has the session the kernel gives its number to nobody, so
    the session's other members are known by it, by being younger than the root and by the no_new_privs that every
    sealed candidate sets and cannot clear.
    """
    family: dict[int, psutil.Process] = {}
    try:
        root = psutil.Process(pid)
        if abs(root.create_time() - created_at) > 1.0:
            return False
        if root.status() != psutil.STATUS_ZOMBIE:
            family = {member.pid: member for member in [root, *root.children(recursive=True)]}
    except psutil.NoSuchProcess:
        pass
    for _ in range(50):
        newly = [member for member in _of_session(pid, created_at) if member.pid not in family]
        family.update({member.pid: member for member in newly})
        _signal_all(family.values(), signal.SIGSTOP)
        _kill_groups_of(newly)
        _signal_all(family.values(), signal.SIGKILL)
        psutil.wait_procs(list(family.values()), timeout=0.1 if newly else 5)
        if not newly:
            break
    return bool(family)


def _of_session(pid: int, created_at: float) -> list[psutil.Process]:
    """Sealed processes whose session was opened by process `pid` born at `created_at`; on Linux only."""
    if sys.platform != "linux":
        return []
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, ProcessLookupError):
            if _session_of(process.pid) != pid or process.create_time() < created_at - 1.0:
                continue
            status = Path(f"/proc/{process.pid}/status").read_text()
            if "\nNoNewPrivs:\t1\n" in status and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
