"""Rows of training text without end: what a feeder asks for rows.

Every epoch holds every token of every document once, a document's tokens in order, no padding, every row from BOS on.
Each unit of the text (contract/units.py) is packed by itself; fewer tokens than fill a row are left of each, and wait, with
what earlier units left, until they fill one: rows of left-overs come after the rows of the unit that completes them,
and the last of an epoch in the next. So nothing is lost, no unit needs to know another, and what a position must carry
stays below one row.

Who packs. Without workers the caller's thread, a unit at a time when its first row is asked for: 60 ms of CPU, 61 million tokens
per CPU second at load 4 against 1.9 of the usual loader (benchmarks/feeder.py). With workers as many processes, each a unit
ahead (contract/unit_worker.py). The rows are the same, whatever their number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from autoresearch.contract.packing import BUFFER_SIZE, Tokens
from autoresearch.contract.token_shards import TokenShard
from autoresearch.contract.unit_worker import Task, Workers
from autoresearch.contract.units import BLOCK_TOKENS, UNIT_TOKENS, Piece, UnitRows, Units, rows_of_unit
from autoresearch.vocabulary import DataCorrupt, UsageError

_HINT = "begin anew: without a position"


@dataclass(frozen=True)
class Position:
    """Where a stream is: so many rows into a unit. `as_json` and `from_json` carry it through a file.

    rows: (row_len, rows) after (row_len, rows) made since the unit began. carried: what earlier units left, by age.
    text: hash of shards, seed and order, so that a position is not taken for one of another text; "" for the beginning.
    """

    epoch: int = 1
    unit: int = 0
    rows: tuple[tuple[int, int], ...] = ()
    carried: tuple[Piece, ...] = ()
    text: str = ""

    def as_json(self) -> dict[str, Any]:
        """A JSON object: numbers, a string, and lists of pairs of numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Position:
        """The position that `as_json` wrote.

        Raises:
            DataCorrupt: it is none.
        """
        try:
            rows, carried = (tuple((int(a), int(b)) for a, b in value[name]) for name in ("rows", "carried"))
            position = cls(int(value["epoch"]), int(value["unit"]), rows, carried, str(value["text"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataCorrupt(f"not a position in a text: {error}", hint=_HINT) from error
        if position.epoch < 1 or position.unit < 0 or any(length < 2 or count < 0 for length, count in rows):
            raise DataCorrupt("not a position in a text: it has impossible numbers", hint=_HINT)
        return position


class RowSource(Protocol):
    """Rows of one unit, or of left-overs: `units.UnitRows` in this process, `unit_worker.RemoteRows` in another."""

    def read(self, rows: Tokens) -> int:
        """Fill rows [n, row_len]; how many were filled: fewer than n when the documents end."""

    @property
    def left(self) -> list[Piece]:
        """What filled no row, by age; known once `read` has filled fewer rows than it was given."""

    @property
    def made(self) -> int:
        """Rows so far, those skipped included; known when `left` is."""


class RowStream:
    """Rows [n, row_len] of the shards' dtype, epoch after epoch, in the order of a seed."""

    def __init__(
        self,
        shards: Sequence[TokenShard],
        *,
        seed: int,
        row_len: int,
        bos: int,
        buffer_size: int = BUFFER_SIZE,
        order: str = "shuffled",
        workers: int = 0,
        start: Position = Position(),
        block_tokens: int = BLOCK_TOKENS,
        unit_tokens: int = UNIT_TOKENS,
    ) -> None:
        """Reads no text yet, and starts no worker.

        row_len: T + 1 for training on T tokens. order: one of units.ORDERS; by length, documents are read from all over
        the disk, and which comes first holds up to the packer's buffer. workers: processes that pack ahead; 0 packs in this one. start: a
        `position` of a stream of the same shards, seed and order; its row_len may have been another. The rest of the
        unit is then packed into rows of the new length, so that a change of length repeats and loses nothing.

        Raises:
            DataMissing: no training tokens. DataCorrupt: a shard cannot be read. UsageError: sizes that pack nothing,
            or a position of another text.
        """
        if row_len < 2 or buffer_size < 1 or workers < 0:
            raise UsageError(
                f"rows of {row_len} tokens, a buffer of {buffer_size} documents, {workers} workers",
                hint="rows hold BOS and 1 token or more, the buffer 1 document or more, workers are 0 or more",
            )
        self._units = Units(shards, seed=seed, order=order, block_tokens=block_tokens, unit_tokens=unit_tokens)
        if not 0 <= bos <= np.iinfo(self._units.dtype).max:
            raise UsageError(
                f"BOS {bos} with tokens of {self._units.dtype}",
                hint="take the BOS of the tokenizer that encoded the shards",
            )
        settings = {
            "seed": seed,
            "order": order,
            "bos": bos,
            "buffer_size": buffer_size,
            "block_tokens": block_tokens,
            "unit_tokens": unit_tokens,
        }
        text = _hash_of([settings, [[shard.num_documents, shard.num_tokens] for shard in shards]])
        if start.text not in ("", text) or start.unit >= self._units.count:
            raise UsageError("a position of another text, seed or order", hint=_HINT)
        self._row_len = row_len
        self._bos = bos
        self._buffer_size = buffer_size
        self._at = replace(start, text=text)
        self._epoch = start.epoch
        self._own: RowSource | None = None  # rows of the unit's own documents
        self._leftovers: UnitRows | None = None  # rows of what it and earlier ones left
        self._shards = shards
        self._settings = settings
        self._num_workers = workers
        self._workers: Workers | None = None

    @property
    def epoch(self) -> int:
        """Epoch of the last row taken, from 1; of the first one before any was taken."""
        return self._epoch

    @property
    def position(self) -> Position:
        """Where a stream continues that is to give the rows after those taken so far."""
        return self._at

    def take(self, num_rows: int) -> Tokens:
        """The next rows [num_rows, row_len], the caller's to keep.

        Raises:
            DataMissing, DataCorrupt: a shard cannot be read, or a worker stopped.
        """
        rows = np.empty((num_rows, self._row_len), dtype=self._units.dtype)
        filled = 0
        while filled < num_rows:
            got = self._read(rows[filled:])
            filled += got
            if got:
                self._at = replace(self._at, rows=_counted(self._at.rows, self._row_len, got))
                self._epoch = self._at.epoch
        return rows

    def close(self) -> None:
        """End the workers. Only a stream with workers needs it."""
        if self._workers is not None:
            self._workers.close()

    def __enter__(self) -> RowStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, rows: Tokens) -> int:
        """Fill rows from where the stream is; fewer, also none, where the unit or its left-overs end.

        Turns to the next unit only when it fills none: the rows it fills belong to the unit that the stream is at.
        """
        if self._leftovers is None:
            if self._own is None:
                self._own = self._begin()
            got = self._own.read(rows)
            if got < len(rows):
                self._leftovers = self._leftovers_of(self._own)
            return got
        got = self._leftovers.read(rows)
        if not got:
            epoch, unit = self._after(self._at.epoch, self._at.unit)
            self._at = replace(self._at, epoch=epoch, unit=unit, rows=(), carried=tuple(self._leftovers.left))
            self._own = self._leftovers = None
        return got

    def _begin(self) -> RowSource:
        """Rows of the unit that the stream is at, without those made before."""
        if self._num_workers:
            if self._workers is None:
                tasks = self._tasks()
                self._workers = Workers(self._num_workers, self._shards, self._settings, tasks, self._units.dtype)
            return self._workers.next_unit()
        own = rows_of_unit(self._units, self._at.epoch, self._at.unit, self._bos, self._buffer_size)
        own.skip(self._at.rows)
        return own

    def _tasks(self) -> Iterator[Task]:
        """This unit and all that follow it."""
        epoch, unit, skip = self._at.epoch, self._at.unit, self._at.rows
        while True:
            yield Task(epoch, unit, self._row_len, skip)
            (epoch, unit), skip = self._after(epoch, unit), ()

    def _after(self, epoch: int, unit: int) -> tuple[int, int]:
        return (epoch, unit + 1) if unit + 1 < self._units.count else (epoch + 1, 0)

    def _leftovers_of(self, own: RowSource) -> UnitRows:
        """Rows of what was carried here and what the unit left, without those that were made before."""
        pieces = [*self._at.carried, *own.left]
        documents = [self._units.piece(piece) for piece in pieces]
        rows = UnitRows(pieces, documents, self._bos, self._buffer_size)
        rows.skip(_rest(self._at.rows, own.made))
        return rows


def _rest(made: Iterable[tuple[int, int]], count: int) -> Iterator[tuple[int, int]]:
    """(row_len, rows) after each other, without the first `count` rows."""
    for row_len, rows in made:
        if rows > count:
            yield row_len, rows - count
        count = max(0, count - rows)


def _counted(made: tuple[tuple[int, int], ...], row_len: int, count: int) -> tuple[tuple[int, int], ...]:
    """(row_len, rows) after each other, with so many more rows of row_len."""
    if made and made[-1][0] == row_len:
        return (*made[:-1], (row_len, made[-1][1] + count))
    return (*made, (row_len, count))


def _hash_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
