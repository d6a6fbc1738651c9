"""Streams of documents into parquet shards, and which documents are held out for validation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from autoresearch.sources.overlap import document_key

# A shard of climbmix holds about 250 million characters; the field cuts TinyStories into 21 of 104 million.
SHARD_CHARACTERS = 100_000_000
_GROUP_DOCUMENTS = 1024  # of a row group: what is in memory at once when it is read
_GROUP_CHARACTERS = 8_000_000
# Validation text held out by hash: a tenth, as much as 400 MB and, where that is little, as much as a third.
# 400 MB is what the `standard` contract scores (3 slices of 21 million tokens at 4.7 bytes) and some more; 1 MB is what
# `tiny` does (3 slices of 65,536 tokens at 3 bytes), and the margin for rows that packing leaves open.
HELD_OUT = 0.1
_MOST_BYTES = 400_000_000
_LEAST_BYTES = 1_000_000
_MOST_HELD_OUT = 1 / 3


def held_out_share(total_bytes: int) -> float:
    """Share (0..1) of documents that are held out of text of that size."""
    if total_bytes <= 0:
        return HELD_OUT
    least, most = _LEAST_BYTES / total_bytes, _MOST_BYTES / total_bytes
    return min(_MOST_HELD_OUT, max(least, min(HELD_OUT, most)))


def is_held_out(text: str, share: float) -> bool:
    """Whether a document belongs to the validation text: by its words alone, so that equal documents stay together."""
    key = document_key(text)
    return key is not None and int.from_bytes(key[:8], "big") < share * 2.0**64


class ShardWriter:
    """Writes documents into parquet files in `folder`, each of about so many characters.

    Row groups are small, pages carry checksums, text is compressed with zstd. Use as a context; the files are whole when
    it ends without an exception.
    """

    def __init__(
        self, folder: Path, name_of: Callable[[int], str], *, max_characters: int | None = SHARD_CHARACTERS
    ) -> None:
        """name_of: a file's name without its suffix, from its number (from 0). max_characters None: one file."""
        self.paths: list[Path] = []
        self._folder = folder
        self._name_of = name_of
        self._most = max_characters
        self._pending: list[str] = []
        self._characters = 0  # pending
        self._written = 0  # characters of the open file
        self._open: Any = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._flush()
            if not self.paths:
                self._begin()  # no document at all: still a file that can be read
        self._close()

    def add(self, text: str) -> None:
        """One more document."""
        self._pending.append(text)
        self._characters += len(text)
        if len(self._pending) >= _GROUP_DOCUMENTS or self._characters >= _GROUP_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._pending:
            return
        if self._open is not None and self._most is not None and self._written + self._characters > self._most:
            self._close()
        if self._open is None:
            self._begin()
        table = pa.table({"text": pa.array(self._pending, pa.string())})
        self._open.write_table(table, row_group_size=len(self._pending))
        self._written += self._characters
        self._pending, self._characters = [], 0

    def _begin(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._folder / f"{self._name_of(len(self.paths))}.parquet"
        schema = pa.schema([("text", pa.string())])
        self._open = pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)
        self.paths.append(path)
        self._written = 0

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
            with self.paths[-1].open("rb") as stream:
                os.fsync(stream.fileno())


def one_name(name: str) -> Callable[[int], str]:
    """`name`, then `name`-001 and so on."""
    return lambda number: f"{name}-{number:03d}" if number else name


def without(documents: Iterable[str], numbers: Iterable[int]) -> Iterator[str]:
    """The documents less those of these numbers (from 0)."""
    left_out = frozenset(numbers)
    return (text for at, text in enumerate(documents) if at not in left_out)
