"""Best-fit packing of documents into rows: every row begins with BOS, no padding, nothing thrown away.

The algorithm. A buffer holds at least `buffer_size` documents (while there are so many). A row opens with the document
that has waited longest. After that, the longest document that fits the remaining space is taken; when none fits, the
shortest is cut to fill the row, and its remainder waits on, with the age of its document and a BOS of its own.

Why. Longest-fit over a buffer is the packing of the published benchmark. There, the shortest document is cropped, the
rest is lost, and no document longer than a row is ever chosen while a shorter one is there: they pile up until the
buffer holds nothing else, and rows drift from short documents to heads of long ones. Keeping the remainders does not
cure that; serving the oldest does. Simulated on log-normal lengths (mean 900 tokens, rows of 2049, buffer of 1000,
remainders kept, 24,000 rows): with longest-fit alone the buffer is all over-long from row 3,000 on, and the share of
tokens from over-long documents rises from .07 to .45; with the oldest first .26 of the buffer is over-long early and
late, and the share of tokens goes from .40 (first 3,000 rows) to .47 - .53, where it stays.

Cost. Two binary searches over sorted keys per document, O(log n); taking one out of a list of a thousand keys moves at
most 8 KB. 111 million tokens per CPU second against 2.5 of a scan of the buffer (benchmarks/packing.py, beside another program).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.vocabulary import DataCorrupt, UsageError

Tokens = NDArray[np.unsignedinteger[Any]]

BUFFER_SIZE = 1000  # documents; of the published benchmark

# A key is (tokens + BOS) << 40 | (2^40 - 1 - serial): sorted by length, and the older of two equals last.
_SERIAL_BITS = 40
_SERIAL_MASK = (1 << _SERIAL_BITS) - 1


class Packer:
    """The buffer, and the one operation on it: fill a row. Documents are unsigned arrays of one dtype, without BOS."""

    def __init__(self, documents: Iterator[Tokens], bos: int, buffer_size: int = BUFFER_SIZE) -> None:
        """Takes the first `buffer_size` documents at once.

        Raises:
            UsageError: buffer_size below 1. DataCorrupt: documents of several dtypes, or BOS does not fit theirs.
        """
        if buffer_size < 1:
            raise UsageError(f"buffer of {buffer_size} documents", hint="use a buffer_size of 1 or more")
        self._incoming = documents
        self._exhausted = False
        self._bos = bos
        self._buffer_size = buffer_size
        self._keys: list[int] = []
        self._documents: dict[int, Tokens] = {}  # by serial: what is left of it
        self._waiting: deque[int] = deque()  # serials by age; those already gone are skipped when they come up
        self._num_taken = 0
        self._placed: list[tuple[int, Tokens]] = []
        self._dtype: np.dtype[Any] | None = None
        self._refill()

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the documents (uint16 when there is none)."""
        return self._dtype or np.dtype(np.uint16)

    @property
    def placed(self) -> list[tuple[int, Tokens]]:
        """What `fill` put into its last row, in order: (serial of the document, among those not empty; tokens)."""
        return self._placed

    def waiting_lengths(self) -> list[int]:
        """Tokens left of each buffered document, ascending: what the drift of the buffer is measured on."""
        return [(key >> _SERIAL_BITS) - 1 for key in self._keys]

    def fill(self, row: Tokens) -> bool:
        """Fill `row` to the last position; False when the documents end first, and then its content is void.

        Fewer than len(row) tokens are left then, in `placed`. `row` needs at least 2 positions.
        """
        keys, documents, bos = self._keys, self._documents, self._bos
        placed = self._placed = []
        length = len(row)
        position = 0
        while position < length:
            if len(keys) < self._buffer_size and not self._exhausted:
                self._refill()
            space = length - position
            if space == 1 and position:
                row[position] = bos  # nothing can follow it here
                return True
            if not keys:
                return False
            if position:
                index = max(0, bisect_right(keys, space << _SERIAL_BITS | _SERIAL_MASK) - 1)
            else:
                index = self._index_of_oldest()
            key = keys.pop(index)
            needed = key >> _SERIAL_BITS
            serial = _SERIAL_MASK - (key & _SERIAL_MASK)
            row[position] = bos
            if needed <= space:
                end = position + needed
                document = documents.pop(serial)
                row[position + 1 : end] = document
                placed.append((serial, document))
                position = end
            else:
                document = documents[serial]
                head = document[: space - 1]
                row[position + 1 :] = head
                placed.append((serial, head))
                documents[serial] = document[space - 1 :]
                insort(keys, (needed - space + 1) << _SERIAL_BITS | (key & _SERIAL_MASK))
                return True
        return True

    def _index_of_oldest(self) -> int:
        """Where the key of the oldest buffered document is. The buffer is not empty."""
        documents, waiting = self._documents, self._waiting
        while waiting[0] not in documents:
            waiting.popleft()
        serial = waiting[0]
        return bisect_left(self._keys, (len(documents[serial]) + 1) << _SERIAL_BITS | (_SERIAL_MASK - serial))

    def _refill(self) -> None:
        """Take documents until the buffer is full again or the text ends. Empty ones are passed over."""
        while len(self._keys) < self._buffer_size:
            document = next(self._incoming, None)
            if document is None:
                self._exhausted = True
                return
            if not len(document):
                continue
            if document.dtype != self._dtype:
                self._dtype = self._checked_dtype(document)
            serial = self._num_taken
            self._num_taken += 1
            self._documents[serial] = document
            self._waiting.append(serial)
            insort(self._keys, (len(document) + 1) << _SERIAL_BITS | (_SERIAL_MASK - serial))

    def _checked_dtype(self, document: Tokens) -> np.dtype[Any]:
        if self._dtype is not None:
            raise DataCorrupt(
                f"a document of {document.dtype} after documents of {self._dtype}",
                hint="encode every document with one tokenizer",
            )
        if document.dtype.kind != "u" or self._bos > np.iinfo(document.dtype).max or self._bos < 0:
            raise DataCorrupt(
                f"BOS {self._bos} with documents of {document.dtype}; they must be unsigned integers that can hold it",
                hint="encode the documents with the tokenizer's encode_documents",
            )
        return document.dtype


def pack_rows(documents: Iterator[Tokens], row_len: int, bos: int, buffer_size: int = BUFFER_SIZE) -> Iterator[Tokens]:
    """Rows [row_len] of the documents' dtype, until the documents end; callers that train on T tokens ask for T+1.

    A document stays in order over its rows, each piece behind a BOS. Only a last row that cannot be filled is lost.

    Raises:
        UsageError: row_len below 2 or buffer_size below 1. DataCorrupt: documents of several dtypes.
    """
    for batch in pack_batches(documents, 1, row_len, bos, buffer_size):
        yield batch[0]


def pack_batches(
    documents: Iterator[Tokens], batch_size: int, row_len: int, bos: int, buffer_size: int = BUFFER_SIZE
) -> Iterator[Tokens]:
    """The rows of `pack_rows`, as arrays [batch_size, row_len] that the caller may keep; the last one may be shorter.

    Raises:
        UsageError: batch_size below 1, row_len below 2, or buffer_size below 1. DataCorrupt: as `Packer`.
    """
    if batch_size < 1 or row_len < 2:
        raise UsageError(
            f"batches of {batch_size} rows of {row_len} tokens", hint="use 1 row or more, of BOS and 1 token or more"
        )
    packer = Packer(documents, bos, buffer_size)
    while True:
        batch = np.empty((batch_size, row_len), dtype=packer.dtype)
        for index, row in enumerate(batch):
            if not packer.fill(row):
                if index:
                    yield batch[:index]
                return
        yield batch
