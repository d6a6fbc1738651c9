"""The training text cut into units: the order of one epoch, in parts that can be read and packed each by itself.

    shard -> blocks of 2^17 tokens -> permuted over all shards -> units of 32 blocks -> documents permuted inside a unit

Why blocks. A permutation of all documents reads a corpus larger than memory at a random place of the disk every 900
tokens. A block is a quarter of a megabyte in one place: a disk that takes 10 ms to seek and then gives 150 MB/s still
reads 11 million tokens per second of them, and a flash disk does not notice. A unit mixes 32 such places.

Why units. They are what several workers can pack at once: which documents a unit holds, and in which order, follows
from (shards, seed, order, epoch, unit) alone, never from who packs it. 2^22 tokens are 8 MB as uint16, 60 ms of packing
before a first row, and some 4,700 documents of the usual 900 tokens: with the packer's buffer of a thousand a document
is then cut into 1.244 pieces on average, as in a unit of twice the size. A corpus of less is one unit.

Nothing is read to find a block but offsets: opening a corpus costs the same at any size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.packing import Packer, Tokens
from autoresearch.contract.token_shards import TokenShard
from autoresearch.vocabulary import DataCorrupt, DataMissing, UsageError

Ints = NDArray[np.int64]
Piece = tuple[int, int]  # (document, counted over all shards; its first token that is left)

ORDERS = ("shuffled", "as_is", "short_first", "long_first")  # of the documents of an epoch
BLOCK_TOKENS = 1 << 17
UNIT_TOKENS = 1 << 22
_SPREAD = 16  # rows per row of a group that shares documents, so that a batch of 16 holds about one
_MAX_OPEN_SHARDS = 128  # each holds two files, and 1024 open files are the usual limit of a process
_MAX_COPIED_TOKENS = 1 << 20  # longer runs, of a book or more, are read from the map row by row


class Units:
    """Documents of several token shards, unit by unit. One object is used by one thread."""

    def __init__(
        self,
        shards: Sequence[TokenShard],
        *,
        seed: int,
        order: str = "shuffled",
        block_tokens: int = BLOCK_TOKENS,
        unit_tokens: int = UNIT_TOKENS,
    ) -> None:
        """Opens one shard, to learn the dtype. `block_tokens` and `unit_tokens` are part of the order.

        Raises:
            DataMissing: no training tokens. UsageError: an order or seed that does not exist.
        """
        if order not in ORDERS:
            raise UsageError(f"order {order!r} of documents", hint=f"one of: {', '.join(ORDERS)}")
        if seed < 0 or block_tokens < 1 or unit_tokens < 1:
            raise UsageError(f"seed {seed}, blocks of {block_tokens}, units of {unit_tokens}", hint="a seed from 0 up")
        self._shards = [shard for shard in shards if shard.num_tokens]
        if not self._shards:
            raise DataMissing("no training tokens", hint="autoresearch prepare")
        self._seed = seed
        self._order = order
        self._block_tokens = block_tokens
        self._unit_tokens = unit_tokens
        self._open: OrderedDict[int, tuple[Tokens, Ints]] = OrderedDict()
        self._first_document = np.cumsum([0, *(shard.num_documents for shard in self._shards)])
        self._first_block = np.cumsum([0, *(-(-shard.num_tokens // block_tokens) for shard in self._shards)])
        self._dealt: tuple[int, list[Ints]] | None = None  # the latest epoch, dealt out to its units
        self._lengths: Ints | None = None
        self.dtype: np.dtype[Any] = self._opened(0)[0].dtype
        num_tokens = sum(shard.num_tokens for shard in self._shards)
        num_cut = int(self._first_block[-1]) if order in ("shuffled", "as_is") else int(self._first_document[-1])
        self.count = max(1, min(num_tokens // unit_tokens, num_cut))  # units of every epoch

    def documents(self, epoch: int, unit: int) -> tuple[Ints, list[Tokens]]:
        """(numbers [n], tokens of each) of the non-empty documents of one unit in their order; epochs count from 1.

        Raises:
            DataMissing, DataCorrupt: a shard cannot be read.
        """
        if self._dealt is None or self._dealt[0] != epoch:
            self._dealt = (epoch, self._deal(epoch))
        part = self._dealt[1][unit]
        if self._order in ("shuffled", "as_is"):
            part = np.concatenate([self._documents_of(int(block)) for block in part])
        if self._order == "shuffled":
            part = np.random.default_rng((self._seed, epoch, 1 + unit)).permutation(part)
        tokens = self._read(part)
        filled = [index for index, document in enumerate(tokens) if len(document)]
        return part[filled], [tokens[index] for index in filled]

    def spread_of(self, epoch: int, unit: int) -> tuple[int, ...] | None:
        """The seed of the order of a unit's rows; None where the order of the documents is to be seen in the rows."""
        return (self._seed, epoch, 1 + unit, 1) if self._order == "shuffled" else None

    def piece(self, piece: Piece) -> Tokens:
        """The rest of a document from a token on.

        Raises:
            DataCorrupt: there is no such piece.
        """
        document, start = piece
        if not 0 <= document < self._first_document[-1]:
            raise DataCorrupt(f"no document {document} in these shards", hint="begin anew: without a position")
        tokens = self._read(np.array([document]))[0]
        if not 0 <= start < len(tokens):
            raise DataCorrupt(f"document {document} has no token {start}", hint="begin anew: without a position")
        return tokens[start:]

    def _deal(self, epoch: int) -> list[Ints]:
        """Blocks, or documents where they are ordered by length, of each unit."""
        if self._order == "as_is":
            return list(np.array_split(np.arange(self._first_block[-1]), self.count))
        generator = np.random.default_rng((self._seed, epoch, 0))
        if self._order == "shuffled":
            return list(np.array_split(generator.permutation(self._first_block[-1]), self.count))
        lengths = self._all_lengths()
        # equal lengths are told apart by a permutation: no two keys are equal, so every sort gives the same order
        rank = np.argsort(lengths << 32 | generator.permutation(len(lengths)))
        ordered: Ints = rank if self._order == "short_first" else rank[::-1]
        ends = np.cumsum(lengths[ordered])
        cuts = np.searchsorted(ends, np.arange(1, self.count) * (ends[-1] / self.count))
        parts: list[Ints] = np.split(ordered, cuts)
        return parts

    def _all_lengths(self) -> Ints:
        """Tokens of every document: reads all offsets."""
        if self._lengths is None:
            self._lengths = np.concatenate([np.diff(self._opened(index)[1]) for index in range(len(self._shards))])
        return self._lengths

    def _documents_of(self, block: int) -> Ints:
        """The documents whose first token lies in the block; the last block of a shard takes its end along."""
        index = int(np.searchsorted(self._first_block, block, side="right")) - 1
        within = block - int(self._first_block[index])
        starts = self._opened(index)[1][:-1]
        edges = np.array([within, within + 1], dtype=np.int64) * self._block_tokens
        first, last = np.searchsorted(starts, edges)
        if block + 1 == self._first_block[index + 1]:
            last = len(starts)
        before = int(self._first_document[index])
        return np.arange(before + first, before + last, dtype=np.int64)

    def _read(self, numbers: Ints) -> list[Tokens]:
        """Tokens of these documents, read in the order of the files and copied run by run.

        Copies, so that a disk is read forwards before packing begins, and no file stays open for a buffered document.
        """
        if not len(numbers):
            return []
        by_place = np.argsort(numbers, kind="stable")
        placed = numbers[by_place]
        shard_of = np.searchsorted(self._first_document, placed, side="right") - 1
        breaks = np.flatnonzero((np.diff(placed) != 1) | (np.diff(shard_of) != 0)) + 1
        edges = [0, *breaks.tolist(), len(placed)]
        read: list[Tokens] = []
        for begin, end in pairwise(edges):
            read += self._read_run(int(shard_of[begin]), int(placed[begin]), end - begin)
        result: list[Tokens] = [read[0]] * len(read)
        for index, document in zip(by_place.tolist(), read, strict=True):
            result[index] = document
        return result

    def _read_run(self, index: int, number: int, count: int) -> list[Tokens]:
        """Tokens of `count` consecutive documents of one shard."""
        tokens, offsets = self._opened(index)
        first = number - int(self._first_document[index])
        cuts = offsets[first : first + count + 1].tolist()
        text = tokens[cuts[0] : cuts[-1]]
        if len(text) <= _MAX_COPIED_TOKENS:
            text = text.copy()
        start = cuts[0]
        return [text[begin - start : end - start] for begin, end in pairwise(cuts)]

    def _opened(self, index: int) -> tuple[Tokens, Ints]:
        """The arrays of a shard; those used longest ago are closed when there are too many."""
        arrays = self._open.pop(index, None)
        if arrays is None:
            arrays = self._shards[index].open()
            if index and arrays[0].dtype != self.dtype:
                raise DataCorrupt(
                    f"{self._shards[index].tokens_path} holds {arrays[0].dtype}, the shards before it {self.dtype}",
                    hint="autoresearch prepare --force   (encode every shard with one tokenizer)",
                )
        self._open[index] = arrays
        if len(self._open) > _MAX_OPEN_SHARDS:
            self._open.popitem(last=False)
        return arrays


class UnitRows:
    """Rows of some documents, or of what is left of them, until fewer tokens are left than fill a row.

    With `spread` the rows come out in an order of their own (`_spread`). Without, in the order in which they were
    packed, and that is not the same all along: short documents go early, because they fit, and the buffer's long ones
    come last. Measured on log-normal lengths (mean
    900 tokens, rows of 2049, one unit), share of tokens from documents longer than a row by tenths of the unit: as
    packed .24 in the first, .34 - .52, and .99 in the last; spread .45 - .51 (mean of six seeds, one of them .40 - .56).
    A document of many rows is spread as well, instead of filling one row after the other.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        documents: Sequence[Tokens],
        bos: int,
        buffer_size: int,
        spread: tuple[int, ...] | None = None,
    ) -> None:
        """`documents[k]` is what is left of the document `pieces[k]` begins in; none is empty. Packs nothing yet.

        spread: the seed of the order of the rows; None leaves them as they are packed.
        """
        self.made = 0  # rows so far
        self._pieces = list(pieces)
        self._documents = list(documents)
        self._bos = bos
        self._buffer_size = buffer_size
        self._spread = spread
        self._packed: _Packed | None = None
        self._is_over = False

    def read(self, rows: Tokens) -> int:
        """Fill rows [n, row_len]; how many were filled: fewer than n when the documents end, and then they have ended."""
        packed = self._packed_to(rows.shape[1])
        wanted = 0 if self._is_over else len(rows)
        numbers = packed.order[packed.given : packed.given + wanted]
        got = len(numbers)
        if got:
            np.take(packed.rows, numbers, axis=0, out=rows[:got])
        self._count(packed, got)
        self._is_over = self._is_over or got < len(rows)
        return got

    def skip(self, made: Iterable[tuple[int, int]]) -> None:
        """Pass over what was made before, (row_len, rows) after (row_len, rows), or what there is of it."""
        for row_len, count in made:
            packed = self._packed_to(row_len)
            got = min(count, len(packed.order) - packed.given)
            self._count(packed, got)
            if got < count:
                self._is_over = True
                return

    @property
    def left(self) -> list[Piece]:
        """What filled no row, by age; known once `read` has filled fewer rows than it was given."""
        assert self._packed is not None and self._is_over
        lengths = dict(self._packed.left)
        return [self._piece(serial, len(self._documents[serial]) - lengths[serial]) for serial in sorted(lengths)]

    def _count(self, packed: _Packed, got: int) -> None:
        packed.given += got
        self.made += got

    def _piece(self, serial: int, taken: int) -> Piece:
        document, start = self._pieces[serial]
        return document, start + taken

    def _packed_to(self, row_len: int) -> _Packed:
        """All documents in rows of this length; after a change of length, what no row given so far has held."""
        before = self._packed
        if before is not None and (self._is_over or before.row_len == row_len):
            return before
        if before is not None:
            taken = before.taken(len(self._documents))
            rest = [serial for serial, document in enumerate(self._documents) if taken[serial] < len(document)]
            self._pieces = [self._piece(serial, taken[serial]) for serial in rest]
            self._documents = [self._documents[serial][taken[serial] :] for serial in rest]
        self._packed = _Packed(self._documents, row_len, self._bos, self._buffer_size, self._spread)
        return self._packed


class _Packed:
    """Documents in rows of one length. `order` says which row comes when, `given` how many have been given."""

    def __init__(
        self, documents: Sequence[Tokens], row_len: int, bos: int, buffer_size: int, spread: tuple[int, ...] | None
    ) -> None:
        self.row_len = row_len
        self.given = 0
        num_tokens = sum(map(len, documents))
        # besides tokens, rows hold a BOS for each document and one more each at most: after a cut, or alone at the end
        bound = (num_tokens + len(documents)) // (row_len - 1)
        dtype = documents[0].dtype if documents else np.dtype(np.uint16)
        self.rows: Tokens = np.empty((bound, row_len), dtype=dtype)
        self._placed: list[list[tuple[int, int]]] = []
        packer = Packer(iter(documents), bos, buffer_size)
        for row in self.rows:
            if not packer.fill(row):
                break
            self._placed.append([(serial, len(piece)) for serial, piece in packer.placed])
        else:
            packer.fill(np.empty(row_len, dtype=dtype))
        self.left = [(serial, len(piece)) for serial, piece in packer.placed]
        num_rows = len(self._placed)
        self.order = np.arange(num_rows) if spread is None else _spread(self._placed, np.random.default_rng(spread))

    def taken(self, num_documents: int) -> list[int]:
        """How many tokens of each document the rows given so far hold: its first ones, as rows keep its order."""
        taken = [0] * num_documents
        for number in self.order[: self.given].tolist():
            for serial, length in self._placed[number]:
                taken[serial] += length
        return taken


def _spread(placed: Sequence[Sequence[tuple[int, int]]], generator: np.random.Generator) -> Ints:
    """An order of rows [n] in which those that share a document keep theirs. Each such group gets a place by lot.

    A group of m rows lies over a stretch of `_SPREAD` x m rows: as one block, the groups of hundreds of rows that the
    end of a unit makes, where nothing fits, would be seen; over the whole unit, heads of documents would come early.
    """
    group = list(
        range(len(placed))
    )  # a forest: each row points to another one of its group, or, as its root, to itself

    def root(row: int) -> int:
        while group[row] != row:
            group[row] = row = group[group[row]]
        return row

    latest: dict[int, int] = {}
    for row, pieces in enumerate(placed):
        for serial, _ in pieces:
            before = latest.get(serial)
            if before is not None:
                group[root(before)] = root(row)
            latest[serial] = row
    _, groups, sizes = np.unique([root(row) for row in range(len(placed))], return_inverse=True, return_counts=True)
    spans = np.minimum(1.0, sizes * (_SPREAD / max(1, len(placed))))
    begins = generator.random(len(sizes)) * (1.0 - spans)
    times = begins[groups] + spans[groups] * generator.random(len(placed))
    # the times that fell to a group, in rising order, for its rows as they were packed
    sorted_times = np.empty_like(times)
    sorted_times[np.argsort(groups, kind="stable")] = times[np.lexsort((times, groups))]
    order: Ints = np.argsort(sorted_times, kind="stable")
    return order


def rows_of_unit(units: Units, epoch: int, unit: int, bos: int, buffer_size: int) -> UnitRows:
    """The rows of one unit's own documents. Reads them, and packs them when the first row is asked for."""
    numbers, documents = units.documents(epoch, unit)
    pieces = [(number, 0) for number in numbers.tolist()]
    return UnitRows(pieces, documents, bos, buffer_size, units.spread_of(epoch, unit))
