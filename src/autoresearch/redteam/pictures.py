"""Pictures of what must not change: files, shared memory and queues, and the most that was used meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# path -> what changes with it. The change time cannot be set back by an unprivileged writer, the other times can.
Picture = dict[str, tuple[int, int, int]]
_SAMPLE_EVERY = 0.1  # seconds
_MARKED_DEPTH = 2  # folders below each place that is searched for marks
_PATIENCE = 20_000  # names looked at in one place


def picture_of(folders: Sequence[Path], *, suffixes: tuple[str, ...] = (), depth: int = 64) -> Picture:
    """Mode, size and change time (ns) of every file and folder below these; with `suffixes`, of such files only.

    `depth` 0 looks at the entries of the folders themselves.
    """
    picture: Picture = {}
    for folder in folders:
        for here, names, files in os.walk(folder):
            level = len(Path(here).relative_to(folder).parts)
            names[:] = [name for name in names if name != "__pycache__"]
            wanted = [name for name in files if not suffixes or name.endswith(suffixes)]
            for name in [*wanted, *([] if suffixes else names)]:
                path = f"{here}/{name}"
                with contextlib.suppress(OSError):  # it went between listing and looking: the next picture shows it
                    facts = os.lstat(path)
                    is_folder = name in names
                    # a folder's size and times follow from what is in it, and that is looked at by itself
                    picture[path] = (facts.st_mode, *((0, 0) if is_folder else (facts.st_size, facts.st_ctime_ns)))
            if level >= depth:
                names.clear()
    return picture


def changes(before: Picture, after: Picture) -> list[str]:
    """Paths that were added, removed or changed, sorted."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def marked_paths(mark: str, places: Sequence[Path]) -> list[Path]:
    """Files and folders at or a little below these places whose name carries the mark."""
    found: dict[Path, None] = {}
    for place in dict.fromkeys(places):
        left = _PATIENCE
        for here, names, files in os.walk(place):
            for name in [*names, *files]:
                if mark in name:
                    found[Path(here) / name] = None
            left -= len(names) + len(files)
            if left < 0 or len(Path(here).relative_to(place).parts) >= _MARKED_DEPTH:
                names.clear()
    return list(found)


def ipc_objects() -> set[str]:
    """System V shared memory, semaphores and message queues, POSIX shared memory and queues, by name."""
    found = set()
    for kind in ("shm", "sem", "msg"):
        path = Path("/proc/sysvipc") / kind
        if path.is_file():
            lines = path.read_text().splitlines()[1:]
            found |= {f"System V {kind} {line.split()[1]}" for line in lines}
    for folder in (Path("/dev/shm"), Path("/dev/mqueue")):
        if folder.is_dir():
            found |= {str(path) for path in folder.iterdir()}
    return found


def left_behind(before: set[str]) -> set[str]:
    """Objects that were not there before, and that no living process has in use: another program's pool is not ours to blame.

    Pools of processes in Python keep their semaphores, `sem.mp-…`, in /dev/shm as long as they run.
    """
    new = ipc_objects() - before
    if not new:
        return new
    used = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            used |= {line.split(maxsplit=5)[-1] for line in (folder / "maps").read_text().splitlines()}
    return (new - used) & ipc_objects()  # what was removed while we looked was not left


@dataclass
class Sampled:
    """The most that was seen: MiB of disk gone, bytes of log, part of the machine's memory."""

    disk_mb: float = 0.0
    log_bytes: int = 0
    memory_part: float = 0.0


class Sampler:
    """Looks ten times a second, in a thread, from its making to its `end`."""

    def __init__(self, log_path: Path) -> None:
        self._log_path = log_path
        self._free = self._free_mb()
        self._most = Sampled()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    def end(self) -> Sampled:
        """Stop, and say what was the most."""
        self._ending.set()
        self._thread.join()
        return self._most

    @staticmethod
    def _free_mb() -> float:
        return shutil.disk_usage(tempfile.gettempdir()).free / 2**20

    def _look_on(self) -> None:
        most = self._most
        while not self._ending.wait(_SAMPLE_EVERY):
            most.disk_mb = max(most.disk_mb, self._free - self._free_mb())
            most.memory_part = max(most.memory_part, psutil.virtual_memory().percent / 100)
            if self._log_path.is_file():
                most.log_bytes = max(most.log_bytes, self._log_path.stat().st_size)
