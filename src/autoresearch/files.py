"""The one door through which records reach the disk: whole files or none."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from autoresearch.hostile_text import json_text
from autoresearch.vocabulary import AutoresearchError

_TEMPORARY = ".tmp"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)

_log = logging.getLogger(__name__)


class DiskError(AutoresearchError):
    """A record could not be written (disk full, read-only). What the ledger holds is unharmed."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace `path` atomically: temporary file beside it, fsync, rename.

    Raises:
        DiskError: the disk is full or the folder cannot be written; the old file is still whole.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.{os.getpid()}.", suffix=_TEMPORARY
        )
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise disk_error(error, path) from error


@contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content becomes `path` when the block ends well, with an fsync; for files too large to hold.

    The stream can seek. After an exception nothing is left, and an old file is untouched. A kill leaves a temporary
    file that `sweep_temporaries` removes. Errors of the operating system fly: the caller knows what to repeat.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{os.getpid()}.", suffix=_TEMPORARY)
    os.close(descriptor)
    try:
        with Path(temporary).open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sweep_temporaries(folder: Path) -> None:
    """Remove what killed processes left of `write_whole` in this folder: their numbers are in the names."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        parts = path.name.removesuffix(_TEMPORARY).rsplit(".", 2)
        if len(parts) == 3 and parts[1].isdigit() and not _runs(int(parts[1])):
            path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    if pid == os.getpid():
        return False  # we write one file at a time and are not writing now
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def append_whole(path: Path, content: str | bytes) -> None:
    """Append `content` with one write and an fsync.

    Raises:
        DiskError: as `write_whole`; a torn tail is mended by whoever rewrites the file from the ledger.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            data = content.encode() if isinstance(content, str) else content
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise disk_error(error, path) from error


def write_json(path: Path, value: Any) -> None:
    """`write_whole` of indented JSON. NaN and infinity are refused: they are not JSON."""
    write_whole(path, json_text(value, indent=2, exact=True) + "\n")


def disk_error(error: OSError, path: Path) -> DiskError:
    """Our error for the operating system's, ending with what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskError(
            f"disk full while writing {path}", hint="free some space (df -h), then run the same command with --resume"
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return DiskError(
            f"cannot write {path}: {error.strerror}", hint=f"make the folder writable: chmod u+w {path.parent}"
        )
    return DiskError(
        f"cannot write {path}: {error.strerror}", hint="check the disk, then run the same command with --resume"
    )


@contextmanager
def one_at_a_time(path: Path, on_wait: Callable[[], object]) -> Iterator[bool]:
    """Hold the lock file `path`; the kernel drops it when the process dies. False where the file system has no locks.

    on_wait: called once when another process holds it, before waiting.

    Raises:
        DiskError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a")
    except OSError as error:
        raise disk_error(error, path) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _log.warning("no file locks in %s: not waiting for others", path.parent)
            yield False
            return
        yield True
