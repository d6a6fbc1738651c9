"""Folders that are whole or absent: built beside their place, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Say = Callable[[str], object]


@contextmanager
def aside(final: Path) -> Iterator[Path]:
    """A sibling folder to build in, which then gets the name. Whoever has the old one open keeps reading the old one."""
    folder = final.parent / f".preparing-{os.getpid()}-{secrets.token_hex(4)}"
    old = folder.with_name(folder.name + "-old") if final.exists() else None
    folder.mkdir()
    try:
        yield folder
        if old:
            final.rename(old)
        _give_name(folder, final)
        if old:
            shutil.rmtree(old)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _give_name(aside: Path, final: Path) -> None:
    """Rename, unless another process, where there are no locks, was first: its data is the same, and ours goes."""
    try:
        aside.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(aside)


def sweep(home: Path) -> None:
    """Remove what killed preparations left. Only under the lock: nobody else is building then."""
    for path in home.glob(".preparing-*"):
        shutil.rmtree(path)
