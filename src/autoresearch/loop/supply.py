"""The referee's end of the feeder process."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from pathlib import Path
from typing import Any

from autoresearch.contract import frames
from autoresearch.sandbox.environment import clean_environment, interpreter
from autoresearch.sandbox.process_tree import Orphans, ProcessTree
from autoresearch.vocabulary import DataCorrupt

_MAX_BATCH_BYTES = 2**30


class Supply:
    """Our end of the feeder process: a few batches ahead, in a thread that only reads."""

    def __init__(self, prepared_dir: Path, seed: int, folder: Path) -> None:
        ours, theirs = socket.socketpair()
        self._channel = ours
        self._stream = 0
        self._ahead: queue.Queue[tuple[dict[str, Any], bytes] | None] = queue.Queue(maxsize=4)
        self._log_path = folder / "feeder.log"
        environment = clean_environment(folder, accelerators=False, threads=1)
        command = [*interpreter("autoresearch.contract.feeder"), "--fd", str(theirs.fileno())]
        command += ["--prepared", str(prepared_dir), "--seed", str(seed)]
        with self._log_path.open("wb") as log:
            self.tree = ProcessTree(
                command,
                directory=folder,
                environment=environment,
                output=log,
                pass_fds=[theirs.fileno()],
                orphans=Orphans.NONE,
            )
        theirs.close()
        threading.Thread(target=self._read_ahead, daemon=True).start()

    def _read_ahead(self) -> None:
        try:
            while True:
                self._ahead.put(frames.receive(self._channel, _MAX_BATCH_BYTES))
        except frames.BrokenFrame:
            self._ahead.put(None)  # the feeder ended; whoever waits learns it here

    def open(self, batch_size: int, seq_len: int) -> None:
        """Ask for batches of this shape from now on.

        Raises:
            DataCorrupt: the feeder is gone; the message carries what it said.
        """
        self._stream += 1
        request = {"op": "open", "stream": self._stream, "batch_size": batch_size, "seq_len": seq_len}
        try:
            frames.send(self._channel, request)
        except frames.BrokenFrame as error:
            raise self._stopped() from error

    def _stopped(self) -> DataCorrupt:
        said = self._log_path.read_text(errors="replace")[-500:].strip()
        return DataCorrupt(f"the feeder stopped: {said or 'no message'}", hint="autoresearch prepare --force")

    def next(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        """Header and rows of the next batch of the stream opened last; waits until `deadline` (monotonic seconds).

        Raises:
            DataCorrupt: the feeder is gone, or delivered nothing in time.
        """
        while True:
            try:
                got = self._ahead.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty as error:
                raise DataCorrupt(
                    "the feeder delivered nothing before the deadline", hint="autoresearch doctor"
                ) from error
            if got is None:
                raise self._stopped()
            if got[0].get("stream") == self._stream:
                return got

    def close(self) -> None:
        """End the feeder and the thread that reads it."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self.tree.kill()
        while True:  # let the reading thread out of a full queue
            try:
                if self._ahead.get(timeout=1.0) is None:
                    break
            except queue.Empty:
                break
        self._channel.close()
