"""A candidate's output on its way to the log file: a pipe that we empty, so that no flood reaches the disk."""

from __future__ import annotations

import os
import threading
from pathlib import Path

MAX_LOG_BYTES = 4 * 2**20  # beyond it the run is stopped: a training log is a few hundred kB
_CHUNK = 65_536  # a pipe holds as much


class LogPipe:
    """Copies what is written to `write_fd` into a file, the first MAX_LOG_BYTES of it; the rest is read and dropped.

    The candidate holds the pipe's writing end and never the file: it cannot rewrite what it has said.
    """

    def __init__(self, path: Path) -> None:
        self.write_fd: int
        self._read_fd, self.write_fd = os.pipe()
        self.flooded = threading.Event()
        self._thread = threading.Thread(target=self._copy, args=(path.open("wb"),), daemon=True)
        self._thread.start()

    def _copy(self, file) -> None:  # type: ignore[no-untyped-def]
        room = MAX_LOG_BYTES
        with file:
            while chunk := os.read(self._read_fd, _CHUNK):
                if room:
                    file.write(chunk[:room])
                    file.flush()  # the live line and the status files read along
                room = max(0, room - len(chunk))
                if not room:
                    self.flooded.set()
        os.close(self._read_fd)

    def hand_over(self) -> None:
        """Drop our own writing end, once the candidate has one: the log then ends with the candidate."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def close(self) -> None:
        """Wait for the end of the output. Call it when nobody who could write lives any more."""
        self.hand_over()
        self._thread.join(timeout=5.0)
