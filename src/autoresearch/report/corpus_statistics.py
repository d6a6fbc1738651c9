"""What there is to train on, counted: lengths, duplicates, what packing loses, how long an epoch lasts.

Everything streams over the token shards; memory does not grow with the corpus beyond 64 MB of hashes and the signatures
of a sample. Every token is read once, for the hashes of exact duplicates; lengths and packing need the offsets only.
"""

from __future__ import annotations

import hashlib
import tempfile
from bisect import bisect_right, insort
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain, islice, pairwise, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.packing import BUFFER_SIZE, Packer
from autoresearch.contract.prepared import Prepared
from autoresearch.recipes.duplicates import NearDuplicates

NEAR_SIMILARITY = 0.8  # Jaccard, of runs of 13 words: the default of recipes
NEAR_SAMPLE = 5_000  # documents, evenly spread: about 2 ms each
MAX_PACKED = 500_000  # documents that are packed to see what is lost: seconds
_EXACT_LENGTHS = 1 << 16  # lengths up to this are counted one by one, longer ones by powers of two
_HASHES_AT_ONCE = 1 << 22  # documents: 64 MB in memory while duplicates are counted
_HASHED = np.dtype([("digest", np.uint64), ("length", np.uint64)])


@dataclass(frozen=True)
class ShardCount:
    """One shard: the name of its text file, and what it holds. num_bytes are UTF-8 bytes of the text."""

    name: str
    num_documents: int
    num_tokens: int
    num_bytes: int


@dataclass(frozen=True)
class LengthBin:
    """Documents of `shortest` to `longest` tokens."""

    shortest: int
    longest: int
    num_documents: int


@dataclass(frozen=True)
class Lengths:
    """Tokens per document, without BOS. over_a_row: share of documents that do not fit one row with their BOS."""

    mean: float
    median: int
    p90: int
    p99: int
    longest: int
    over_a_row: float
    bins: tuple[LengthBin, ...]


@dataclass(frozen=True)
class Duplicates:
    """Documents that say what an earlier one says.

    exact: of all documents, those whose text equals an earlier one's, and the tokens in them. near: of a sample of
    near_sample documents, those with a Jaccard similarity of NEAR_SIMILARITY to an earlier one of the sample.
    """

    exact_documents: int
    exact_tokens: int
    near_sample: int
    near_documents: int


@dataclass(frozen=True)
class Packing:
    """What becomes of the tokens in rows of `row_len`, found by packing `num_documents`. Shares of all tokens.

    cropped: lost by our packer. published_cropped: lost by the published benchmark's. bos: positions that hold a BOS.
    """

    row_len: int
    num_documents: int
    cropped: float
    published_cropped: float
    bos: float


@dataclass(frozen=True)
class Epoch:
    """What one pass gives: rows, and inputs to train on. tok_sec: measured speed, None when nobody has measured one.

    seconds: to exhaust it at that speed. per_budget: epochs in one budget. Both None without a speed.
    """

    num_rows: int
    num_tokens: int
    tok_sec: float | None
    speed_from: str | None
    seconds: float | None
    per_budget: float | None


@dataclass(frozen=True)
class Speed:
    """Tokens per second of the contract's clock that some trial reached, and which one."""

    tok_sec: float
    measured_by: str


@dataclass(frozen=True)
class CorpusStatistics:
    """All of it."""

    dataset: str
    contract: str
    vocab_size: int
    num_documents: int
    num_tokens: int
    num_bytes: int
    shards: tuple[ShardCount, ...]
    lengths: Lengths
    duplicates: Duplicates
    packing: Packing
    epoch: Epoch

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text for each token."""
        return self.num_bytes / self.num_tokens

    def as_json(self) -> dict[str, Any]:
        """For machines; the keys are frozen by a test."""
        body = asdict(self)
        body["bytes_per_token"] = self.bytes_per_token
        for shard in body["shards"]:
            shard["bytes_per_token"] = shard["num_bytes"] / shard["num_tokens"] if shard["num_tokens"] else None
        return body


def statistics_of(prepared: Prepared, *, time_budget: float, speed: Speed | None = None) -> CorpusStatistics:
    """Count. time_budget: of one trial, in the seconds that `speed` is measured in.

    Raises:
        DataMissing, DataCorrupt: a token shard has gone or is damaged.
    """
    manifest = prepared.manifest
    counts = manifest["counts"]
    row_len = int(manifest["max_seq_len"]) + 1
    packing = _packing(prepared, row_len)
    return CorpusStatistics(
        dataset=str(manifest["dataset"]),
        contract=str(manifest["preset"]),
        vocab_size=int(manifest["vocab_size"]),
        num_documents=int(counts["train_documents"]),
        num_tokens=int(counts["train_tokens"]),
        num_bytes=int(counts["train_bytes"]),
        shards=tuple(
            ShardCount(str(entry["text"]), entry["num_documents"], entry["num_tokens"], entry["num_bytes"])
            for entry in manifest["shards"]
        ),
        lengths=_lengths(prepared, row_len),
        duplicates=_duplicates(prepared),
        packing=packing,
        epoch=_epoch(int(counts["train_tokens"]), packing, time_budget, speed),
    )


def _epoch(num_tokens: int, packing: Packing, time_budget: float, speed: Speed | None) -> Epoch:
    num_rows = int(num_tokens / (1 - packing.bos) / packing.row_len)
    inputs = num_rows * (packing.row_len - 1)
    if speed is None:
        return Epoch(num_rows, inputs, None, None, None, None)
    per_budget = time_budget * speed.tok_sec / inputs if inputs else None
    return Epoch(num_rows, inputs, speed.tok_sec, speed.measured_by, inputs / speed.tok_sec, per_budget)


def _document_lengths(prepared: Prepared) -> Iterator[NDArray[np.int64]]:
    """int64 [documents of the shard], shard by shard. Reads offsets only."""
    for shard in prepared.shards:
        yield np.diff(shard.open()[1])


def _lengths(prepared: Prepared, row_len: int) -> Lengths:
    counted = np.zeros(_EXACT_LENGTHS + 1, dtype=np.int64)
    beyond = np.zeros(64, dtype=np.int64)  # by the exponent of two
    longest = num_over = num_tokens = 0
    for lengths in _document_lengths(prepared):
        short = lengths[lengths <= _EXACT_LENGTHS]
        counted += np.bincount(short, minlength=_EXACT_LENGTHS + 1)
        for length in lengths[lengths > _EXACT_LENGTHS].tolist():
            beyond[length.bit_length() - 1] += 1
        longest = max(longest, int(lengths.max(initial=0)))
        num_over += int((lengths + 1 > row_len).sum())
        num_tokens += int(lengths.sum())
    num_documents = int(counted.sum() + beyond.sum())
    below = np.cumsum(counted)

    def quantile(share: float) -> int:
        """The shortest length that this share of documents does not exceed; of the very long ones, their maximum."""
        place = int(np.searchsorted(below, share * num_documents))
        return place if place <= _EXACT_LENGTHS else longest

    bins = []
    for exponent in range(longest.bit_length()):
        shortest, last = 1 << exponent, (2 << exponent) - 1
        bins.append(LengthBin(shortest, last, int(counted[shortest : last + 1].sum() + beyond[exponent])))
    return Lengths(
        mean=num_tokens / num_documents,
        median=quantile(0.5),
        p90=quantile(0.9),
        p99=quantile(0.99),
        longest=longest,
        over_a_row=num_over / num_documents,
        bins=tuple(bins),
    )


def _duplicates(prepared: Prepared) -> Duplicates:
    exact_documents, exact_tokens = _exact_duplicates(prepared)
    num_documents = sum(shard.num_documents for shard in prepared.shards)
    finder = NearDuplicates(NEAR_SIMILARITY)
    sample = np.unique(np.linspace(0, num_documents - 1, min(NEAR_SAMPLE, num_documents)).astype(np.int64))
    first = 0
    for shard in prepared.shards:
        tokens, offsets = shard.open()
        inside = sample[(sample >= first) & (sample < first + shard.num_documents)] - first
        for index in inside.tolist():
            finder.add(prepared.tokenizer.decode(tokens[offsets[index] : offsets[index + 1]]))
        first += shard.num_documents
    return Duplicates(exact_documents, exact_tokens, len(sample), int(finder.found().sum()))


def _exact_duplicates(prepared: Prepared) -> tuple[int, int]:
    """(documents, tokens in them) that equal an earlier document.

    Equal texts have equal tokens and, as the tokenizer is lossless, the other way round; so 64 bits of BLAKE2b of the
    tokens decide: among 100 million documents one false pair in 3,700 corpora. The hashes are spread over files by their
    value, equal ones into the same file, and each file is sorted by itself.
    """
    num_documents = sum(shard.num_documents for shard in prepared.shards)
    num_parts = 1 + num_documents // _HASHES_AT_ONCE
    with ExitStack() as stack:
        parts = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(num_parts)]
        for shard in prepared.shards:
            tokens, offsets = shard.open()
            hashed = np.empty(shard.num_documents, dtype=_HASHED)
            ends = offsets.tolist()
            digests = b"".join(
                hashlib.blake2b(tokens[start:end].data, digest_size=8).digest() for start, end in pairwise(ends)
            )
            hashed["digest"] = np.frombuffer(digests, dtype="<u8")
            hashed["length"] = np.diff(offsets)
            for number, part in enumerate(parts):
                part.write(hashed[hashed["digest"] % np.uint64(num_parts) == number].tobytes())
        documents = num_tokens = 0
        for part in parts:
            part.seek(0)
            found = np.frombuffer(part.read(), dtype=_HASHED)
            found = found[np.argsort(found["digest"], kind="stable")]
            again = np.flatnonzero(found["digest"][1:] == found["digest"][:-1]) + 1
            documents += len(again)
            num_tokens += int(found["length"][again].sum())
    return documents, num_tokens


def _packing(prepared: Prepared, row_len: int) -> Packing:
    total = sum(shard.num_documents for shard in prepared.shards)
    num_documents = min(total, MAX_PACKED)

    def lengths() -> Iterator[int]:
        """Of the documents that are packed, in the order of the files; epoch after epoch, as a loader meets them."""
        for _ in repeat(None):
            yield from islice(chain.from_iterable(map(np.ndarray.tolist, _document_lengths(prepared))), num_documents)

    cropped, bos = _ours(lengths(), num_documents, row_len)
    return Packing(row_len, num_documents, cropped, _published_crop(lengths(), num_documents, row_len), bos)


def _ours(lengths: Iterator[int], num_documents: int, row_len: int) -> tuple[float, float]:
    """(share of tokens that our packer lost, share of positions that hold BOS) when so many documents are placed."""
    taken: list[int] = [0, 0]  # documents, tokens
    zero = np.zeros(1, dtype=np.uint16)

    def documents() -> Iterator[NDArray[np.uint16]]:
        for length in lengths:
            taken[0] += 1
            taken[1] += length
            yield np.broadcast_to(zero, length)  # as long as the document and without memory: only lengths matter

    packer = Packer(documents(), bos=1, buffer_size=BUFFER_SIZE)
    row = np.empty(row_len, dtype=np.uint16)
    num_rows = num_bos = 0
    while taken[0] < num_documents + BUFFER_SIZE and packer.fill(row):
        num_rows += 1
        num_bos += int(row.sum())
    placed = num_rows * row_len - num_bos
    gone = taken[1] - sum(packer.waiting_lengths())
    return (gone - placed) / gone, num_bos / (num_rows * row_len)


def _published_crop(lengths: Iterator[int], num_documents: int, row_len: int) -> float:
    """Share of tokens that the published benchmark's packer throws away while it places so many documents.

    Its rule, written by ourselves: a buffer of 1,000 documents, each with its BOS; the longest that fits, again and again;
    when none fits, the shortest is cut to fill the row and the rest of it is lost. Only lengths matter for that.
    """
    buffer = sorted(length + 1 for length in islice(lengths, BUFFER_SIZE))
    space, placed, lost = row_len, 0, 0
    for _ in range(num_documents):
        at = bisect_right(buffer, space) - 1
        needed = buffer.pop(max(at, 0))
        used = min(needed, space)
        placed += used
        lost += needed - used
        space = space - used or row_len
        insort(buffer, next(lengths) + 1)
    return lost / (placed + lost)
