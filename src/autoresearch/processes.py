"""Processes that work for this one, on as many cores as there are, and that end when it does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


def processes_for(num_jobs: int, *, memory_bytes: int) -> int:
    """How many processes for so many jobs: no more than jobs, than cores we may use, than memory is free for.

    memory_bytes: what each process needs.
    """
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    room = int(psutil.virtual_memory().available // memory_bytes)
    return max(1, min(num_jobs, cores, room))


class Helpers:
    """A pool of processes. They leave Ctrl-C to this one, and are gone when it is, even by `kill -9`.

    As a context: leaving it waits for what runs, or, by an exception, ends it at once. One that is ended from outside, as
    the kernel does when memory runs out, breaks the pool: futures raise BrokenProcessPool.
    """

    def __init__(self, num_processes: int, begin: Callable[..., object] | None = None, *arguments: Any) -> None:
        """begin: called with `arguments` in each process before its first job; both go there by pickle."""
        context = get_context("spawn")  # fork would copy our threads' locks, and a Mac's libraries do not survive it
        self._theirs, self._ours = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            num_processes, mp_context=context, initializer=_begin, initargs=(self._theirs, begin, arguments)
        )

    def submit(self, job: Callable[_P, _T], /, *arguments: _P.args, **named: _P.kwargs) -> Future[_T]:
        """The job's answer, once one of the processes has it."""
        return self._pool.submit(job, *arguments, **named)

    def stop(self) -> None:
        """End the processes at once. Safe to repeat."""
        self._ours.close()

    def __enter__(self) -> Helpers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.stop()
        self._pool.shutdown(cancel_futures=True)
        self._ours.close()
        self._theirs.close()


def _begin(parent: Connection, begin: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    """In a new process: leave Ctrl-C to the parent, and end when the parent does or closes its end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _end_with(parent: Connection) -> None:
    try:
        parent.recv()
    except (EOFError, OSError):
        os._exit(1)
