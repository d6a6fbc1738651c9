"""The referee's end of the feeder process."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoresearch.contract import frames
from autoresearch.contract.feeder import batch_problem
from autoresearch.sandbox.environment import clean_environment, interpreter
from autoresearch.sandbox.process_tree import Orphans, ProcessTree
from autoresearch.vocabulary import DataCorrupt

# Batches ordered and not yet handed out. Their progress is that many steps old when they are: 3 of a trial's hundreds.
AHEAD = 3
_MAX_BATCH_BYTES = 2**27  # 2^24 tokens, one more in each row, four bytes each
_SEND_SECONDS = 10  # an order has 60 bytes: a feeder that takes none for so long has stopped reading

Start = Callable[[socket.socket, Path], ProcessTree]


class Supply:
    """Orders batches from a feeder and keeps `AHEAD` of them ready. Nothing that the feeder sends is trusted.

    Each call of `next` hands out one batch and orders another for the progress of that moment, so that which batches
    there are depends on the calls and their progress alone: under the clock of steps two runs get the same ones.
    """

    def __init__(self, prepared_dir: Path, seed: int, folder: Path, *, start: Start | None = None) -> None:
        """Starts the feeder in `folder`, or what `start` starts on (the feeder's end of the channel, its log)."""
        ours, theirs = socket.socketpair()
        # by the kernel: a timeout of Python's would be the reading thread's as well
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _SEND_SECONDS, 0))
        self._channel = ours
        self._stream = 0
        self._shape = (0, 0, 0)  # rows, tokens in a row, vocabulary
        self._ordered: deque[int] = deque()  # stream of each order that was not answered yet
        self._ahead: queue.Queue[tuple[dict[str, Any], bytes] | frames.BrokenFrame] = queue.Queue(maxsize=AHEAD + 2)
        self._log_path = folder / "feeder.log"
        self.tree = (start or _own_feeder(prepared_dir, seed, folder))(theirs, self._log_path)
        theirs.close()
        threading.Thread(target=self._read_ahead, daemon=True).start()

    def _read_ahead(self) -> None:
        try:
            while True:
                self._ahead.put(frames.receive(self._channel, _MAX_BATCH_BYTES))
        except frames.BrokenFrame as error:
            self._ahead.put(error)  # whoever waits learns it here

    def open(self, batch_size: int, seq_len: int, vocab_size: int) -> None:
        """Have batches of this shape made from now on, of tokens below vocab_size. Orders the first ones.

        Raises:
            DataCorrupt: the feeder is gone; the message carries what it said.
        """
        self._stream += 1
        self._shape = (batch_size, seq_len + 1, vocab_size)
        self._send({"op": "open", "stream": self._stream, "batch_size": batch_size, "seq_len": seq_len})
        for _ in range(AHEAD):
            self._order(0.0)

    def next(self, deadline: float, progress: float) -> tuple[dict[str, Any], bytes]:
        """Header and rows of the next batch of the shape opened last, checked; and one more is ordered for `progress`.

        Waits until `deadline` (monotonic seconds). progress: share of the budget used, 0..1.

        Raises:
            DataCorrupt: the feeder is gone, delivered nothing in time, or sent something else than what was ordered.
        """
        self._order(progress)
        while True:
            header, payload = self._received(deadline)
            stream = self._ordered.popleft() if self._ordered else None
            if stream is None or header.get("stream") != stream:
                raise self._refused("a batch that nobody ordered")
            if stream != self._stream:
                continue  # it was ordered before the shape changed
            num_rows, row_len, vocab_size = self._shape
            problem = batch_problem(header, payload, num_rows=num_rows, row_len=row_len, vocab_size=vocab_size)
            if problem:
                raise self._refused(problem)
            return header, payload

    def _order(self, progress: float) -> None:
        self._send({"op": "more", "progress": progress})
        self._ordered.append(self._stream)

    def _send(self, request: dict[str, Any]) -> None:
        try:
            frames.send(self._channel, request)
        except frames.BrokenFrame as error:
            raise self._stopped() from error

    def _received(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        try:
            got = self._ahead.get(timeout=max(0.01, deadline - time.monotonic()))
        except queue.Empty as error:
            raise DataCorrupt("the feeder delivered nothing before the deadline", hint="autoresearch doctor") from error
        if isinstance(got, frames.Closed):
            self._ahead.put(got)  # for whoever asks again
            raise self._stopped() from got
        if isinstance(got, frames.BrokenFrame):
            self._ahead.put(got)
            raise self._refused(str(got)) from got
        return got

    def _stopped(self) -> DataCorrupt:
        said = self._log_path.read_text(errors="replace")[-500:].strip()
        return DataCorrupt(f"the feeder stopped: {said or 'no message'}", hint="autoresearch prepare --force")

    def _refused(self, what: str) -> DataCorrupt:
        return DataCorrupt(f"the feeder sent {what}", hint="autoresearch doctor")

    def close(self) -> None:
        """End the feeder and the thread that reads it."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self.tree.kill()
        while True:  # let the reading thread out of a full queue
            try:
                if isinstance(self._ahead.get(timeout=1.0), frames.BrokenFrame):
                    break
            except queue.Empty:
                break
        self._channel.close()


def _own_feeder(prepared_dir: Path, seed: int, folder: Path) -> Start:
    def start(channel: socket.socket, log_path: Path) -> ProcessTree:
        command = [*interpreter("autoresearch.contract.feeder"), "--fd", str(channel.fileno())]
        command += ["--prepared", str(prepared_dir), "--seed", str(seed)]
        with log_path.open("wb") as log:
            return ProcessTree(
                command,
                directory=folder,
                environment=clean_environment(folder, accelerators=False, threads=1),
                output=log,
                pass_fds=[channel.fileno()],
                orphans=Orphans.NONE,
            )

    return start
