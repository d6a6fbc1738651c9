"""Size and sha256 of the files of a folder, as a manifest records them, and what has become of them since."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FileFacts = Mapping[str, Mapping[str, Any]]  # by file name: {"bytes": size, "sha256": hex}


def facts_of(folder: Path, names: Iterable[str], *, flush: bool = False) -> dict[str, dict[str, Any]]:
    """Size and sha256 of these files. flush: to the disk too, so that a power cut after a rename leaves no zeros."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name, flush=flush)}
        for name in names
    }


def damage_of(folder: Path, files: FileFacts, *, deep: bool = False) -> str:
    """What is wrong with one of these files, in words, or nothing. By size; deep: by the hash of every byte."""
    for name, facts in files.items():
        size = _size_of(f"{folder}/{name}")  # a Path for each of 13,000 files would cost as much as looking at them
        if size != facts["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            return f"{folder / name} {found}; it was written with {facts['bytes']}"
        if deep and file_sha256(folder / name) != facts["sha256"]:
            return f"{folder / name} was altered"
    return ""


def _size_of(path: str) -> int | None:
    """Bytes of a regular file; None when there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def file_sha256(path: Path, *, flush: bool = False) -> str:
    """sha256 of a file's content in hex."""
    with path.open("rb") as stream:
        if flush:
            os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()
