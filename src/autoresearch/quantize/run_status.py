"""How far a long run of quantizing is: `quant_status.txt` and `bench_status.txt`, and whoever watches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from autoresearch.hostile_text import one_line
from autoresearch.records.ledger import now
from autoresearch.records.run_report import write_status

ENDED = "ended"
FAILED = "failed"
_EVERY = 1.0  # seconds between two files of one phase: what pollers expect

Watch = Callable[[str, float, str], object]
"""Gets phase, progress 0..1 and a message, each time one of them is told."""


class RunStatus:
    """Tells phase, progress and a message to status files and to whoever watches. A context: leaving it ends the run.

    The last thing in the files is `ended`, or `failed` with the error's message; a file that is minutes old and says neither
    belongs to a run that was killed.

    Raises (every method):
        DiskError: a status file cannot be written.
    """

    def __init__(
        self, paths: list[Path], watch: Watch = lambda *_told: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._paths = paths
        self._watch = watch
        self._clock = clock
        self._phase = ""
        self._written: float | None = None
        self._progress = 0.0
        self._message = ""
        self._extra: dict[str, Any] = {}

    def tell(self, phase: str, progress: float, message: str, **extra: Any) -> None:
        """Now in this phase of the run, of which `progress` (0..1) is done in all; extra keys go to the files too.

        Within a phase the files follow once a second, and progress never falls.
        """
        self._progress = max(self._progress, min(1.0, progress))
        self._message = message
        self._extra.update(extra)
        self._watch(phase, self._progress, message)
        due = self._written is None or phase != self._phase or self._clock() - self._written >= _EVERY
        self._phase = phase
        if due:
            self._write()

    def _write(self) -> None:
        self._written = self._clock()
        head = {
            "phase": self._phase,
            "progress": self._progress,
            "updated_at": now(),
            "pid": os.getpid(),
            "message": one_line(self._message),
        }
        write_status(self._paths, {**head, **self._extra})

    def __enter__(self) -> RunStatus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None:
            self._phase, self._progress = ENDED, 1.0
        else:
            self._phase = FAILED
            self._message = str(getattr(error, "message", "")) or f"{kind.__name__ if kind else ''} {error}".strip()
        self._write()
