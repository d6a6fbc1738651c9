"""Processes that pack units of the text ahead of whoever takes the rows.

Processes, because packing is Python that holds the interpreter's lock: with threads two workers are no faster than one
(benchmarks/feeder.py). Units go round the workers, and their rows are taken in the order of the units, so that the
number of workers changes nothing but the speed. Each worker has two units to do, and at most `_MAX_CHUNKS` pieces of
packed rows wait here for each: one unit and a little, 10 MB as uint16.

Frames to a worker: {"op": "text", settings} with the shards as JSON, once; then {"op": "unit", "epoch", "unit",
"row_len", "skip"}. Frames from it: {"op": "rows"} with rows; {"op": "end", "made"} with what is left, int64
[n, 2]; {"op": "failed", "message", "hint"}.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoresearch.contract import frames
from autoresearch.contract.packing import Tokens
from autoresearch.contract.token_shards import TokenShard
from autoresearch.contract.units import Piece, Units, rows_of_unit
from autoresearch.sandbox.environment import interpreter
from autoresearch.vocabulary import AutoresearchError, DataCorrupt

_CHUNK_TOKENS = 1 << 19
_MAX_CHUNKS = 10
_MAX_PAYLOAD_BYTES = 1 << 30  # the list of shards; one row of any length
_FAREWELL_SECONDS = 5.0
_STOPPED = "a process that packs rows stopped"

Frame = tuple[dict[str, Any], bytes]


@dataclass(frozen=True)
class Task:
    """A unit to pack into rows of row_len, without the rows that were made before: (row_len, rows) after each other."""

    epoch: int
    unit: int
    row_len: int
    skip: tuple[tuple[int, int], ...] = ()


class RemoteRows:
    """The rows of one unit as they come from its worker."""

    def __init__(self, receive: Callable[[], Frame], dtype: np.dtype[Any], row_len: int) -> None:
        self._receive = receive
        self._dtype = dtype
        self._row_len = row_len
        self._chunk: Tokens = np.empty((0, row_len), dtype=dtype)
        self._end: Frame | None = None

    def read(self, rows: Tokens) -> int:
        """Fill rows [n, row_len]; how many were filled: fewer than n when the unit's documents end.

        Raises:
            DataCorrupt: the worker stopped, or could not read a shard.
        """
        filled = 0
        while filled < len(rows):
            if not len(self._chunk) and not self._next_chunk():
                break
            got = self._chunk[: len(rows) - filled]
            rows[filled : filled + len(got)] = got
            self._chunk = self._chunk[len(got) :]
            filled += len(got)
        return filled

    @property
    def left(self) -> list[Piece]:
        """What filled no row, by age; known once `read` has filled fewer rows than it was given."""
        assert self._end is not None, "read until fewer rows come than were asked for"
        pairs = np.frombuffer(self._end[1], dtype=np.int64).reshape(-1, 2)
        return [(document, start) for document, start in pairs.tolist()]

    @property
    def made(self) -> int:
        """Rows of the unit's own documents, those skipped included; known when `left` is."""
        assert self._end is not None, "read until fewer rows come than were asked for"
        return int(self._end[0]["made"])

    def _next_chunk(self) -> bool:
        if self._end is not None:
            return False
        header, payload = self._receive()
        if header["op"] == "failed":
            raise DataCorrupt(header["message"], hint=header["hint"])
        if header["op"] == "end":
            self._end = (header, payload)
            return False
        self._chunk = np.frombuffer(payload, dtype=self._dtype).reshape(-1, self._row_len)
        return True


class Workers:
    """As many processes as asked for, and the units they are packing, in order."""

    def __init__(
        self,
        count: int,
        shards: Sequence[TokenShard],
        settings: Mapping[str, Any],
        tasks: Iterator[Task],
        dtype: np.dtype[Any],
    ) -> None:
        """Starts them and gives each two of `tasks`, which never end."""
        self._tasks = tasks
        self._dtype = dtype
        self._workers = [_Worker(shards, settings) for _ in range(count)]
        self._row_lens: list[int] = []
        self._num_given = 0
        self._num_begun = 0
        for _ in range(2 * count):
            self._give_one()

    def next_unit(self) -> RemoteRows:
        """The rows of the next unit, once those of the one before are all read."""
        if self._num_begun:
            self._give_one()
        worker = self._workers[self._num_begun % len(self._workers)]
        self._num_begun += 1
        return RemoteRows(worker.receive, self._dtype, self._row_lens.pop(0))

    def _give_one(self) -> None:
        task = next(self._tasks)
        self._row_lens.append(task.row_len)
        self._workers[self._num_given % len(self._workers)].give(task)
        self._num_given += 1

    def close(self) -> None:
        """End them all."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """Our end of one process: tasks go out, and a thread that only reads lets a bounded number of frames in."""

    def __init__(self, shards: Sequence[TokenShard], settings: Mapping[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        self._channel = ours
        self._end = start_process(theirs)
        theirs.close()
        self._frames: queue.Queue[Frame | None] = queue.Queue(maxsize=_MAX_CHUNKS)
        self._thread = threading.Thread(target=self._read_ahead, daemon=True)
        self._thread.start()
        listed = [[str(s.tokens_path), str(s.offsets_path), s.num_documents, s.num_tokens] for s in shards]
        self._send({"op": "text", **settings}, json.dumps(listed).encode())

    def give(self, task: Task) -> None:
        self._send({"op": "unit", **vars(task)})

    def receive(self) -> Frame:
        frame = self._frames.get()
        if frame is None:
            self._frames.put(None)  # for whoever asks again
            raise DataCorrupt(f"{_STOPPED}; its last words are above", hint="use fewer workers, or none: workers=0")
        return frame

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        while self._frames.get() is not None:  # lets the reading thread out of a full queue
            pass
        self._thread.join()
        self._channel.close()
        self._end()

    def _send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        with contextlib.suppress(frames.BrokenFrame):  # it has ended: why, says what it sent last
            frames.send(self._channel, header, payload)

    def _read_ahead(self) -> None:
        try:
            while True:
                self._frames.put(frames.receive(self._channel, _MAX_PAYLOAD_BYTES))
        except frames.BrokenFrame:
            self._frames.put(None)


def start_process(channel: socket.socket) -> Callable[[], None]:
    """Start a worker on its end of a channel; a function that waits for it to be gone."""
    command = [*interpreter("autoresearch.contract.unit_worker"), "--fd", str(channel.fileno())]
    process = subprocess.Popen(command, pass_fds=[channel.fileno()], stdin=subprocess.DEVNULL)

    def end() -> None:
        try:
            process.wait(_FAREWELL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    return end


def work(channel: socket.socket) -> None:
    """Pack what is asked for until the other side closes: then BrokenFrame is raised."""
    header, payload = frames.receive(channel, _MAX_PAYLOAD_BYTES)
    shards = [TokenShard(Path(a), Path(b), documents, tokens) for a, b, documents, tokens in json.loads(payload)]
    cut = {name: header[name] for name in ("seed", "order", "block_tokens", "unit_tokens")}
    try:
        units = Units(shards, **cut)
        while True:
            task, _ = frames.receive(channel, 0)
            _pack(channel, units, task, header["bos"], header["buffer_size"])
    except AutoresearchError as error:
        frames.send(channel, {"op": "failed", "message": error.message, "hint": error.hint})


def _pack(channel: socket.socket, units: Units, task: Mapping[str, Any], bos: int, buffer_size: int) -> None:
    own = rows_of_unit(units, task["epoch"], task["unit"], bos, buffer_size)
    own.skip(task["skip"])
    rows = np.empty((max(1, _CHUNK_TOKENS // task["row_len"]), task["row_len"]), dtype=units.dtype)
    got = len(rows)
    while got == len(rows):
        got = own.read(rows)
        if got:
            frames.send(channel, {"op": "rows"}, rows[:got].reshape(-1).view(np.uint8).data)
    frames.send(channel, {"op": "end", "made": own.made}, np.array(own.left, dtype=np.int64).tobytes())


def main(arguments: list[str] | None = None) -> None:
    """Serve one stream. Started by it."""
    parser = argparse.ArgumentParser(prog="autoresearch-unit-worker")
    parser.add_argument("--fd", type=int, required=True)
    channel = socket.socket(fileno=parser.parse_args(arguments).fd)
    with contextlib.suppress(frames.BrokenFrame):  # the stream was closed
        work(channel)


if __name__ == "__main__":
    main()
