"""What a candidate is started with, and what it may use: clean environment, own session, watched and killed as a tree.

The layers of the operating system (namespaces, Landlock) are not here yet; `SEALED` says what holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from autoresearch.backends.hardware import hide_accelerators_environment

# Clean environment, isolated launch, referee-held clock, text and score: yes. File system and network: not yet.
SEALED = "partial (no file or network isolation)"

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "ROCM_PATH", "SYSTEMROOT")
_ACCELERATORS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


def clean_environment(scratch: Path, *, accelerators: bool, threads: int) -> dict[str, str]:
    """The candidate's whole environment, by allow-list: no keys, no home, no paths to text.

    threads: for CPU maths. One by default: two threads on a shared machine ran 1.7x to 11x slower than one, because
    their barriers spin; PASSIVE waiting takes the worst of that away.
    """
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if accelerators:
        environment.update({name: os.environ[name] for name in _ACCELERATORS if name in os.environ})
    else:
        environment.update(hide_accelerators_environment())
    scratch_path = str(scratch)
    environment.update(
        {
            "HOME": scratch_path,
            "TMPDIR": scratch_path,
            "XDG_CACHE_HOME": scratch_path,
            "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
            "TRITON_CACHE_DIR": str(scratch / "triton"),
            "PYTHONSAFEPATH": "1",  # -P is not inherited by child interpreters
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
            "PYTHONIOENCODING": "utf-8",
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    )
    return environment


def interpreter(module: str) -> list[str]:
    """Command that runs one of our modules with the referee's own interpreter, isolated; never through `uv run`."""
    return [sys.executable, "-P", "-s", "-B", "-m", module]


@dataclass(frozen=True)
class _Spent:
    """CPU seconds of one process, and of the children it has waited for."""

    own: float
    waited: float


_started: set[int] = set()  # roots of our own trees: children of ours that are nobody's orphans


class ProcessTree:
    """A process and everything it started; with `adopts` also what was reparented to us since.

    Orphans do not say whose they were: only one tree that adopts may have an order at a time.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str],
        output: IO[bytes] | int,
        pass_fds: Sequence[int] = (),
        adopts: bool = True,
    ) -> None:
        if adopts:
            _adopt_orphans()
        self._adopts = adopts
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
        self._reaped_cpu = 0.0  # of adopted orphans that we waited for
        self._lost_cpu = 0.0  # of members that ended and that nobody waited for
        self._most_cpu = 0.0

    def _members(self) -> list[psutil.Process]:
        """Everyone alive but the root. Orphans of the tree are our own children since `_adopt_orphans`."""
        found: dict[int, psutil.Process] = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            for member in self._root.children(recursive=True):
                found[member.pid] = member
        for child in self._adopted():
            found[child.pid] = child
            with contextlib.suppress(psutil.NoSuchProcess):
                for member in child.children(recursive=True):
                    found[member.pid] = member
        return list(found.values())

    def _adopted(self) -> list[psutil.Process]:
        """Children of ours that we did not start: orphans of the tree."""
        if not self._adopts:
            return []
        ours = self._ours_before | _started
        return [child for child in psutil.Process().children() if child.pid not in ours]

    def cpu_seconds(self) -> float:
        """CPU seconds of the whole tree so far, waited-for and adopted children included.

        The root's own is read at each call (tens of microseconds); all else at most four times a second, and together:
        a child's seconds move to whoever waits for it, so a mix of old and new readings would count them twice.
        """
        now = time.monotonic()
        if now - self._books_made_at > 0.25:
            self._make_books()
            self._books_made_at = now
        on_books = sum(spent.own + spent.waited for spent in self._books.values())
        root_then, root_now = self._books.get(self._root), _spent_by(self._root)
        if root_then and root_now:
            on_books += root_now.own - root_then.own
        self._most_cpu = max(self._most_cpu, on_books + self._reaped_cpu + self._lost_cpu)
        return self._most_cpu

    def _make_books(self) -> None:
        """Look at every member once, and keep what a vanished member had spent unless it arrived with its parent.

        The kernel gives the time of an ended child to nobody when its parent ignores SIGCHLD.
        """
        before = self._books
        reaped_before = self._reaped_cpu
        for _ in range(2):  # once more if something is missing: a child may be waited for between two readings
            self._reap_adopted()
            # parents first: what a child hands over meanwhile is then missed until the next look, never counted twice
            looked_at = {member: _spent_by(member) for member in [self._root, *self._members()]}
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
        """Resident memory of the whole tree now, MiB."""
        total = 0
        for member in [self._root, *self._members()]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += member.memory_info().rss
        return total / 2**20

    def poll(self) -> int | None:
        """Exit code of the root process, negative for a signal; None while it runs."""
        return self._popen.poll()

    def wait(self, seconds: float) -> int | None:
        """Exit code once the root ends, or None after `seconds`."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End every process of the tree and wait until none is left."""
        for _ in range(50):
            members = self._members()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            for member in members:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            self._popen.wait()
            self._reap_adopted()
            if not members:
                _started.discard(self.pid)
                return
            psutil.wait_procs(members, timeout=0.1)

    def _reap_adopted(self) -> None:
        """Collect adopted orphans that have ended, and their CPU seconds."""
        for child in self._adopted():
            with contextlib.suppress(ChildProcessError, psutil.NoSuchProcess):
                if child.status() == psutil.STATUS_ZOMBIE:
                    _, _, usage = os.wait4(child.pid, os.WNOHANG)
                    self._reaped_cpu += usage.ru_utime + usage.ru_stime


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


def kill_leftover(pid: int, created_at: float) -> bool:
    """Kill the candidate that a killed session left behind, if that very process still runs; True when it did."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created_at) > 1.0:
            return False
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return False
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=5)
    return True
