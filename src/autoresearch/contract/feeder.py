"""The feeder: its own process turns training text into batches, each when it is ordered.

Frames in: {"op": "open", "stream", "batch_size", "seq_len"} says what batches are to be; {"op": "more", "progress"}
orders one, for a trial that has used that share of its budget. Frames out: {"op": "rows", "stream", "epoch", "dtype"}
with the rows as payload, one for each order, in the order of the orders. The feeder sees no clock but `progress`, and
makes nothing that was not ordered: what it made depends on what it was sent, never on how fast anybody was.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from autoresearch.contract import frames
from autoresearch.contract.packing import Tokens
from autoresearch.contract.prepared import open_prepared_directory
from autoresearch.contract.stream import Position, RowStream
from autoresearch.contract.token_shards import TokenShard

_MAX_EPOCH = 2**31


class BatchSource(Protocol):
    """Who makes batches: the contract's plain text below, or the data program's recipe."""

    def open(self, batch_size: int, seq_len: int) -> None:
        """Batches are to be [batch_size, seq_len + 1] from now on."""

    def rows(self, progress: float) -> tuple[Tokens, int]:
        """The next batch, and its epoch from 1. progress: share of the budget (0..1) that is used as it is ordered."""


class PlainText:
    """All training text in the order of a seed, packed; the same at every progress."""

    def __init__(self, shards: Sequence[TokenShard], seed: int, bos: int, workers: int = 0) -> None:
        self._shards = shards
        self._seed = seed
        self._bos = bos
        self._workers = workers
        self._batch_size = 0
        self._row_len = 0
        self._stream: RowStream | None = None

    def open(self, batch_size: int, seq_len: int) -> None:
        """Go on with text that was not taken yet.

        Raises:
            DataMissing: no training tokens. DataCorrupt: a shard cannot be read. UsageError: rows without a token.
        """
        self._batch_size = batch_size
        if self._stream is not None and self._row_len == seq_len + 1:
            return
        start = Position() if self._stream is None else self._stream.position
        self.close()
        self._row_len = seq_len + 1
        self._stream = RowStream(
            self._shards, seed=self._seed, row_len=self._row_len, bos=self._bos, workers=self._workers, start=start
        )

    def rows(self, progress: float) -> tuple[Tokens, int]:
        """The next batch, and the epoch of its last row.

        Raises:
            DataMissing, DataCorrupt: a shard cannot be read.
        """
        assert self._stream is not None, "open first"
        return self._stream.take(self._batch_size), self._stream.epoch

    def close(self) -> None:
        """End the workers, if there are any."""
        if self._stream is not None:
            self._stream.close()


def serve(channel: socket.socket, source: BatchSource) -> None:
    """Make what is ordered, until the other side closes: then BrokenFrame is raised."""
    stream = None
    while True:
        request, _ = frames.receive(channel, 0)
        if request["op"] == "open":
            stream = request["stream"]
            source.open(request["batch_size"], request["seq_len"])
            continue
        rows, epoch = source.rows(request["progress"])
        header = {"op": "rows", "stream": stream, "epoch": epoch, "dtype": rows.dtype.str}
        frames.send(channel, header, np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)


def batch_problem(header: Mapping[str, Any], payload: bytes, *, num_rows: int, row_len: int, vocab_size: int) -> str:
    """Why this is no batch of num_rows rows of row_len tokens below vocab_size; "" when it is one.

    The number type is that of the tokenizer: two bytes where the vocabulary fits them, else four.
    """
    dtype = "<u2" if vocab_size <= 1 << 16 else "<u4"
    epoch = header.get("epoch")
    if header.get("op") != "rows":
        return f"{str(header.get('op'))[:40]!r} instead of rows"
    if header.get("dtype") != dtype:
        return f"tokens of type {str(header.get('dtype'))[:40]!r}, not {dtype!r}"
    if not isinstance(epoch, int) or isinstance(epoch, bool) or not 1 <= epoch < _MAX_EPOCH:
        return f"an epoch of {str(epoch)[:40]}"
    expected = num_rows * row_len * np.dtype(dtype).itemsize
    if len(payload) != expected:
        return f"{len(payload)} bytes for {num_rows} rows of {row_len} tokens, which are {expected}"
    largest = int(np.frombuffer(payload, dtype=dtype).max())
    if largest >= vocab_size:
        return f"token {largest} of a vocabulary of {vocab_size}"
    return ""


def main(arguments: list[str] | None = None) -> None:
    """Serve one trial. Started by the referee."""
    parser = argparse.ArgumentParser(prog="autoresearch-feeder")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args(arguments)
    prepared = open_prepared_directory(options.prepared)
    bos = prepared.tokenizer.get_bos_token_id()
    channel = socket.socket(fileno=options.fd)
    text = PlainText(prepared.shards, options.seed, bos, options.workers)
    # BrokenFrame: the trial is over, the referee closed its end
    with contextlib.closing(text), contextlib.suppress(frames.BrokenFrame):
        serve(channel, text)


if __name__ == "__main__":
    main()
