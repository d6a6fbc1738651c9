"""The one door through which records reach the disk: whole files or none."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

from autoresearch.hostile_text import json_text
from autoresearch.vocabulary import AutoresearchError

_TEMPORARY = ".tmp"


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
