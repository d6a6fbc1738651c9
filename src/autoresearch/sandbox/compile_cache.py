"""Compile caches: private to each trial and thrown away, warm from a read-only one that only trusted baselines fill.

A candidate could leave notes, weights or false machine code in a cache that others read; so what it writes stays in its
cell. It starts with a tree of symbolic links to the warm files, which it can read and replace but not change: folders are
real, so that new entries can be added beside the links. Nothing is copied.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path, PurePath

from autoresearch.sandbox.environment import INDUCTOR, TRITON

NAMES = (INDUCTOR, TRITON)
MAX_WARM_MB = 2048  # a compiled model of the presets leaves 5 to 60 MB; full, the cache takes nothing new
_MAX_DEPTH = 12  # the compilers use four levels
_HALF = ".half"  # a file on its way into the warm cache
_NOT_KEPT = (".lock", ".tmp", _HALF)  # locks are opened for writing, which no link into the warm cache can be


def link_warm(cache_dir: Path, warm_cache: Path, seen_at: PurePath) -> int:
    """Fill a private cache with links to every warm file; their number.

    seen_at: where the candidate sees `warm_cache`; the links' texts begin with it, and mean nothing outside.
    Cost: benchmarks/sandbox_start.py measures it.
    """
    num_links = 0
    for name in NAMES:
        num_links += _link_folder(cache_dir / name, warm_cache / name, seen_at / name, 0)
    return num_links


def _link_folder(into: Path, warm: Path, seen_at: PurePath, depth: int) -> int:
    into.mkdir(exist_ok=True)
    if depth >= _MAX_DEPTH or not warm.is_dir():
        return 0
    num_links = 0
    with os.scandir(warm) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                num_links += _link_folder(into / entry.name, Path(entry.path), seen_at / entry.name, depth + 1)
            elif entry.is_file(follow_symlinks=False) and not entry.name.endswith(_NOT_KEPT):
                os.symlink(f"{seen_at}/{entry.name}", f"{into}/{entry.name}")  # noqa: PTH211 (a tenth of the time)
                num_links += 1
    return num_links


def harvest(cache_dir: Path, warm_cache: Path) -> int:
    """Move what a trusted baseline compiled into the warm cache; the number of files moved.

    Call it when the baseline's process tree has ended. Only regular files move, never links, devices or sockets, and
    nothing that is there already is replaced. A kill leaves whole files only: each is copied under another name, flushed
    to disk and renamed (a trial's folder and the warm cache are seldom on one file system). What does not fit into
    MAX_WARM_MB stays behind.
    """
    room = MAX_WARM_MB * 2**20 - _size(warm_cache)
    num_moved = 0
    for name in NAMES:
        source, target = cache_dir / name, warm_cache / name
        if source.is_symlink() or not source.is_dir():
            continue
        moved, room = _move_folder(source, target, room, 0)
        num_moved += moved
    return num_moved


def _move_folder(source: Path, target: Path, room: int, depth: int) -> tuple[int, int]:
    """(files moved, bytes of room left)."""
    num_moved = 0
    if depth >= _MAX_DEPTH:
        return num_moved, room
    with os.scandir(source) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                moved, room = _move_folder(Path(entry.path), target / entry.name, room, depth + 1)
                num_moved += moved
            elif stat.S_ISREG(status.st_mode) and status.st_size <= room and not entry.name.endswith(_NOT_KEPT):
                target.mkdir(parents=True, exist_ok=True)
                if _move_file(Path(entry.path), target / entry.name):
                    num_moved += 1
                    room -= status.st_size
    return num_moved, room


def _move_file(source: Path, target: Path) -> bool:
    """Move one file unless its name is taken; whether it was moved."""
    if os.path.lexists(target):
        return False
    half = target.with_name(f".{os.getpid()}-{target.name}{_HALF}")
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as reading, half.open("wb") as writing:  # noqa: PTH123
        shutil.copyfileobj(reading, writing)
        writing.flush()
        os.fsync(writing.fileno())
        os.fchmod(writing.fileno(), stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o555)
    half.rename(target)
    source.unlink()
    return True


def _size(folder: Path) -> int:
    """Bytes in a folder, and in passing what a killed harvest left half done is removed."""
    total = 0
    for path in folder.rglob("*"):
        if path.name.endswith(_HALF):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        elif path.is_file() and not path.is_symlink():
            total += path.stat().st_size
    return total
