"""Who tries next: one queue for each session, first come, first served, across processes and worktrees.

The session's lock (`opening.session_lock`) stays the truth about who runs; the queue only says who may ask for it next. A
place in it is a ticket: a numbered file in the common git directory, which its owner keeps locked. The system lets go of
that lock however the owner ends, so a killed waiter is passed over at once, whatever has got its process number since.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import psutil

from autoresearch.files import disk_error
from autoresearch.loop.opening import session_lock
from autoresearch.vocabulary import SessionBusy
from autoresearch.workspace import Workspace

_POLL_SECONDS = 0.1  # one look takes 0.1 ms for each ticket ahead
_SAME_BIRTH_SECONDS = 1.0  # psutil reckons a birth from the boot time, which clock corrections move a little
_SUFFIX = ".ticket"


@dataclass(frozen=True)
class Ticket:
    """A place in the queue. `started` is the birth of process `pid` in seconds since 1970; both None if unreadable."""

    number: int
    pid: int | None
    started: float | None


@contextmanager
def turn(
    workspace: Workspace,
    tag: str,
    *,
    seconds: float | None = None,
    on_wait: Callable[[str], None] = lambda _why: None,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[float]:
    """Hold the session's lock, in the order of asking. Yields the seconds waited.

    seconds: patience; None waits as long as it takes. on_wait: told why it waits, in one line, whenever that changes. A
    `research` that runs on the tag holds the same lock, and is waited for like any other.

    Raises:
        SessionBusy: patience is over. DiskError: no ticket can be written. KeyboardInterrupt leaves the queue first.
    """
    began = time.monotonic()
    with ExitStack() as held:
        with _ticket(_folder(workspace, tag)) as mine:
            told = ""
            while True:
                why = _why_not_yet(workspace, tag, mine, held)
                waited = time.monotonic() - began
                if not why:
                    break
                if seconds is not None and waited >= seconds:
                    raise SessionBusy(
                        f"gave up after waiting {seconds:g} s for session {tag}: {why}",
                        hint="autoresearch status   (then the same command again, or with a longer --wait)",
                    )
                if why != told:
                    on_wait(why)
                    told = why
                left = _POLL_SECONDS if seconds is None else min(_POLL_SECONDS, seconds - waited)
                pause(left)
        yield waited


def waiting(workspace: Workspace, tag: str) -> list[Ticket]:
    """Who waits for this session now, the next one first. Changes nothing."""
    folder = _folder(workspace, tag)
    return [_read(path) for path in _tickets(folder) if _is_held(path)]


def _why_not_yet(workspace: Workspace, tag: str, mine: Path, held: ExitStack) -> str:
    """Why the turn is not ours yet; or take the session's lock into `held` and return ""."""
    ahead = _ahead(_folder(workspace, tag), mine)
    if ahead:
        return f"{len(ahead)} before this one"
    try:
        held.enter_context(session_lock(workspace, tag))
    except SessionBusy as busy:
        return busy.message
    return ""


def _folder(workspace: Workspace, tag: str) -> Path:
    return workspace.state_dir / "queue" / tag


@contextmanager
def _ticket(folder: Path) -> Iterator[Path]:
    """A ticket of this process while the block runs; yields its path.

    Two that come within the same millisecond may draw one number; then the smaller process number goes first. There is no
    lock around the drawing: a process that is suspended inside one would stop everybody.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path, stream = _drawn(folder)
            held.enter_context(stream)
        except OSError as error:
            raise disk_error(error, folder) from error
        held.callback(path.unlink, missing_ok=True)  # before the stream is closed: nobody sees it without its owner
        yield path


def _drawn(folder: Path) -> tuple[Path, TextIO]:
    """A new ticket, locked by us. It is written first: a locked ticket says whose it is."""
    owner = json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()})
    while True:
        number = 1 + max((_number(path) for path in _tickets(folder)), default=0)
        path = folder / f"{number:010d}-{os.getpid()}-{threading.get_ident()}{_SUFFIX}"
        stream = path.open("x")
        stream.write(owner)
        stream.flush()
        fcntl.flock(stream, fcntl.LOCK_EX)
        if path.exists():
            return path, stream
        stream.close()  # seen before it was locked, it was taken for a dead one's and removed


def _ahead(folder: Path, mine: Path) -> list[Ticket]:
    """Living waiters before `mine`; tickets of dead ones are removed."""
    found = []
    for path in _tickets(folder):
        if path.name >= mine.name:
            break
        ticket = _read(path)
        if not _is_held(path):
            path.unlink(missing_ok=True)
        elif not _is_suspended(ticket):
            found.append(ticket)
    return found


def _tickets(folder: Path) -> list[Path]:
    """In the order of their numbers, which have ten digits each."""
    return sorted(path for path in folder.glob(f"*{_SUFFIX}") if path.name.split("-")[0].isdigit())


def _number(path: Path) -> int:
    return int(path.name.split("-")[0])


def _read(path: Path) -> Ticket:
    try:
        stored = json.loads(path.read_text())
        return Ticket(_number(path), int(stored["pid"]), float(stored["started"]))
    except (OSError, ValueError, KeyError, TypeError):  # gone meanwhile, or its owner was killed while writing
        return Ticket(_number(path), None, None)


def _is_held(path: Path) -> bool:
    """Whether the ticket's owner lives: it holds the file's lock for as long as it does."""
    try:
        with path.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _is_suspended(ticket: Ticket) -> bool:
    """Whether its owner was stopped (Ctrl-Z): it keeps its place, and nobody waits for it."""
    if ticket.pid is None or ticket.started is None:
        return False
    try:
        owner = psutil.Process(ticket.pid)
        born = owner.create_time()
        return abs(born - ticket.started) < _SAME_BIRTH_SECONDS and owner.status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
