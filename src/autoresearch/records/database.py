"""The SQLite file in the git directory: opened with care, its complaints turned into ours. Ledger and CallBook share it."""

from __future__ import annotations

import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoresearch.files import disk_error
from autoresearch.vocabulary import LedgerError

_PATIENCE_SECONDS = 30.0  # with another process that holds the file


def connect(path: Path) -> sqlite3.Connection:
    """The file at `path`, opened or new, with its folder. Every statement is its own transaction until one is begun.

    Raises:
        LedgerError: the folder cannot be made, the file is damaged, or nobody may write it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refused = disk_error(error, path.parent)
        raise LedgerError(refused.message, hint=refused.hint) from error
    if path.is_file() and path.stat().st_size == 0 and backup_of(path).is_file():
        # SQLite would take it for a new file and start an empty record
        raise LedgerError(f"the ledger {path} is damaged (it is empty)", hint=restore_hint(path))
    with mended(path):
        database = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE_SECONDS)
    try:
        with mended(path):
            database.row_factory = sqlite3.Row
            # WAL: a kill leaves the last transaction whole; FULL: so does a power cut
            _set_wal(database)
            database.execute("PRAGMA synchronous=FULL")
            database.execute("PRAGMA foreign_keys=ON")
    except LedgerError:
        database.close()
        raise
    return database


def _set_wal(database: sqlite3.Connection) -> None:
    """Turn on the write-ahead log. SQLite has no patience here: of three that open a new file at once, one in 36 is refused."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
        time.sleep(0.01)


@contextmanager
def transaction(database: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """All of the block's statements or none. Raises LedgerError as `mended` says."""
    with mended(path):
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
            database.execute("COMMIT")
        except BaseException:
            # a full disk fails the COMMIT and leaves the transaction open, or SQLite has already rolled back
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


@contextmanager
def mended(path: Path) -> Iterator[None]:
    """Turn SQLite's complaints into ours, with what to do next.

    Raises:
        LedgerError: the disk is full, the file is damaged or read-only, or another process holds it too long.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        said = str(error)
        if "full" in said:
            raise LedgerError(
                f"disk full while writing the ledger {path}; the last whole record is kept",
                hint="free some space (df -h), then run the same command with --resume",
            ) from error
        if "readonly" in said or "unable to open" in said:
            raise LedgerError(f"cannot write the ledger {path}: {said}", hint=f"chmod u+w {path.parent}") from error
        raise LedgerError(f"the ledger {path} cannot be used: {said}", hint="autoresearch status") from error
    except sqlite3.IntegrityError as error:
        raise LedgerError(f"the ledger {path} refuses this record: {error}", hint="autoresearch status") from error
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"the ledger {path} is damaged ({error})", hint=restore_hint(path)) from error


def backup_of(path: Path) -> Path:
    """The copy made after the last verdict."""
    return path.with_suffix(".backup.sqlite3")


def restore_hint(path: Path) -> str:
    """Commands that put a damaged file aside, with its -wal (SQLite would replay the damaged file's log into the
    restored one), and restore the copy where there is one."""
    folder, name, backup = shlex.quote(str(path.parent)), shlex.quote(path.name), backup_of(path)
    aside = f"cd {folder} && mv {name}* $(mktemp -d damaged.XXXXXX)"
    if backup.is_file():
        return (
            f"({aside} && cp {shlex.quote(backup.name)} {name})   (the copy made after the last verdict), then --resume"
        )
    return f"({aside})   (every attempt is still in git: git for-each-ref refs/autoresearch)"
