"""How much of the validation text stands in the training text: equal documents, and shared runs of 13 words.

Runs of 13 words are how the field measures contamination (Brown et al. 2020, "Language Models are Few-Shot Learners",
appendix C). Words are what `\\w+` finds after NFKC and casefolding, so that spelling of white space, punctuation and case
hides nothing. Memory follows the validation text alone: 16 bytes a document and at most 2^18 runs.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

NGRAM_WORDS = 13
# Above this many distinct runs a sample is looked for, drawn by the hash of the run itself: the share is then known to
# 0.1 % (one standard deviation at p = 0.5), and 6,543 shards keep 32 KiB of answers each.
MAX_NGRAMS = 1 << 18
NUM_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 80
_SEEN_BITS = 22  # a table of 4 MiB that fits a processor's cache says no to 94 % of runs before the search, 0.4 µs each
_CHARACTERS_AT_A_TIME = 250_000  # long arrays make numpy quick, short ones stay in the processor's cache
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd; 2^64 over the golden ratio: Knuth's multiplicative hashing
_WORD = re.compile(r"\w+")
_MARKS = "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}\N{EM DASH}\N{EN DASH}\N{HORIZONTAL ELLIPSIS}\N{NO-BREAK SPACE}\N{BULLET}"
_ASCII = bytes(ord(chr(i).lower()) if chr(i).isalnum() or chr(i) == "_" else 32 for i in range(128)) + bytes(
    range(128, 256)
)


@dataclass(frozen=True)
class Overlap:
    """What training text shares with validation text.

    exact_documents: training documents that equal a validation document word for word.
    ngram_share: share (0..1) of the validation text's distinct runs of 13 words that training text holds; None where
    the validation text has no run so long. num_ngrams: how many were looked for. examples: beginnings of some of the
    equal documents.
    """

    exact_documents: int
    ngram_share: float | None
    num_ngrams: int
    num_training_documents: int
    examples: tuple[str, ...] = ()


@dataclass
class Look:
    """What one pass over training documents found: numbers (from 0) of the equal ones, and which runs were met."""

    met: NDArray[np.bool_]  # [num_ngrams]
    exact: list[int] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    num_documents: int = 0


def overlap_of(validation: Iterable[str], training: Iterable[str]) -> Overlap:
    """The overlap of two streams of documents. Validation is read first and whole, training once."""
    index = ValidationIndex(validation)
    return index.overlap([index.look(training)])


class ValidationIndex:
    """Validation documents as hashes, against which any number of training streams are held."""

    def __init__(self, documents: Iterable[str]) -> None:
        """Reads the documents once; equal texts give an equal index, whatever their order."""
        self._keys: set[bytes] = set()
        self._bits = 0  # a run counts when so many low bits of its hash are zero
        pending: list[NDArray[np.uint64]] = []
        self.ngrams: NDArray[np.uint64] = np.empty(0, np.uint64)  # sorted, distinct
        for batch in _batches(documents):
            words = [words_of(text) for text in batch]
            self._keys.update(filter(None, map(_key, words)))
            pending.append(self._sampled(_runs(words)))
            if sum(map(len, pending)) > MAX_NGRAMS:
                self._take(pending)
        self._take(pending)
        self._seen = np.zeros(1 << _SEEN_BITS, np.bool_)
        self._seen[self._place(self.ngrams)] = True

    def look(self, documents: Iterable[str]) -> Look:
        """Hold training documents against the index, streaming."""
        found = Look(np.zeros(len(self.ngrams), np.bool_))
        for batch in _batches(documents):
            words = [words_of(text) for text in batch]
            for offset, key in enumerate(map(_key, words)):
                if key in self._keys:
                    found.exact.append(found.num_documents + offset)
                    if len(found.examples) < NUM_EXAMPLES:
                        found.examples.append(batch[offset][:_EXAMPLE_CHARACTERS])
            found.num_documents += len(batch)
            self._mark(found.met, self._sampled(_runs(words)))
        return found

    def overlap(self, looks: Iterable[Look]) -> Overlap:
        """The sum of several looks: over all shards of a corpus, for example."""
        met = np.zeros(len(self.ngrams), np.bool_)
        exact = documents = 0
        examples: list[str] = []
        for look in looks:
            met |= look.met
            exact += len(look.exact)
            documents += look.num_documents
            examples += look.examples
        share = float(met.mean()) if len(met) else None
        return Overlap(exact, share, len(met), documents, tuple(examples[:NUM_EXAMPLES]))

    def _take(self, pending: list[NDArray[np.uint64]]) -> None:
        """Merge what is pending, and halve the sample until it fits."""
        self.ngrams = np.unique(np.concatenate([self.ngrams, *pending]))
        pending.clear()
        while len(self.ngrams) > MAX_NGRAMS:
            self._bits += 1
            self.ngrams = self._sampled(self.ngrams)

    def _sampled(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return hashes[(hashes & np.uint64((1 << self._bits) - 1)) == 0] if self._bits else hashes

    @staticmethod
    def _place(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return hashes >> np.uint64(64 - _SEEN_BITS)

    def _mark(self, met: NDArray[np.bool_], hashes: NDArray[np.uint64]) -> None:
        hashes = hashes[self._seen[self._place(hashes)]]
        if not len(hashes):
            return
        places = np.minimum(np.searchsorted(self.ngrams, hashes), len(self.ngrams) - 1)
        met[places[self.ngrams[places] == hashes]] = True


def words_of(text: str) -> bytes:
    """The words of a text, after NFKC and casefolding, in UTF-8 with one space between two.

    English needs no regular expression: what is ASCII once typographic marks are gone goes through one table.
    """
    if not text.isascii():
        for mark in _MARKS:
            text = text.replace(mark, " ")
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text).casefold()
            return " ".join(_WORD.findall(text)).encode(errors="surrogatepass")
    return b" ".join(text.encode().translate(_ASCII).split())


def document_key(text: str) -> bytes | None:
    """Sixteen bytes that are equal for documents of equal words; None for a document without words."""
    return _key(words_of(text))


def _key(words: bytes) -> bytes | None:
    return hashlib.blake2b(words, digest_size=16).digest() if words else None


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in documents:
        batch.append(text)
        size += len(text)
        if size >= _CHARACTERS_AT_A_TIME:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _runs(documents: list[bytes]) -> NDArray[np.uint64]:
    """Hashes [num_runs] of every run of 13 words that lies within one document.

    A run from byte a to byte b hashes to sum(table[byte_i] * M^i, a <= i < b) * M^-a modulo 2^64: one cumulative sum over
    the bytes gives all of them (Karp and Rabin 1987, with a table of random numbers for the bytes' values).
    """
    joined = b" ".join(documents) + b" "
    codes = np.frombuffer(joined, np.uint8)
    ends = np.flatnonzero(codes == ord(" "))  # [num_words], for documents without words are empty and end too
    starts = np.concatenate(([0], ends[:-1] + 1))
    num_runs = len(ends) - NGRAM_WORDS + 1
    if num_runs <= 0:
        return np.empty(0, np.uint64)
    first, last = starts[:num_runs], ends[NGRAM_WORDS - 1 :]
    of_word = np.repeat(np.arange(len(documents)), [words.count(b" ") + 1 for words in documents])
    within = of_word[:num_runs] == of_word[NGRAM_WORDS - 1 :]
    first, last = first[within], last[within]
    powers, inverses = _powers(len(codes) + 1)
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(_table()[codes] * powers[: len(codes)], out=sums[1:])
    hashes: NDArray[np.uint64] = (sums[last] - sums[first]) * inverses[first]
    hashes ^= hashes >> np.uint64(33)  # the low bits of a product see the low bits of its factors only
    hashes *= np.uint64(_MULTIPLIER)
    hashes ^= hashes >> np.uint64(29)
    return hashes


@cache
def _table() -> NDArray[np.uint64]:
    """A random number for each byte: the same in every process."""
    return np.random.default_rng(NGRAM_WORDS).integers(0, 1 << 64, 256, np.uint64)


def _powers(length: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """M^i and M^-i for i below the next power of two: few different sizes are ever made."""
    return _powers_up_to(1 << (length - 1).bit_length())


@lru_cache(maxsize=2)
def _powers_up_to(length: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    inverse = pow(_MULTIPLIER, -1, 1 << 64)
    made = []
    for factor in (_MULTIPLIER, inverse):
        factors = np.full(length, factor, np.uint64)
        factors[0] = 1
        made.append(np.cumprod(factors, dtype=np.uint64))
    return made[0], made[1]
