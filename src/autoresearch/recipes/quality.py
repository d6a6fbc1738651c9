"""How good a document is, cheaply: how near it is to what the training text usually is. Only the ranks are used.

A scorer first learns from the text that passed the filters (its first `MAX_LEARNT_CHARACTERS`), then scores each
document. There is no model and no list of good words: a recipe sees training text only, and so do these.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoresearch.vocabulary import UsageError

WORDS, PAIRS, COMPRESSION, OWN = "words", "pairs", "compression", "own"
KINDS = (WORDS, PAIRS, COMPRESSION, OWN)

MAX_LEARNT_CHARACTERS = 50_000_000  # 25 s of counting; frequencies of common words are known to a percent long before
_MAX_SCORED_CHARACTERS = 20_000  # of a document, from its beginning: its style shows there, and a novel costs no second
_WORD = re.compile(r"\w+|[^\w\s]")
_BITS = 20  # counts are kept by hash: 2^20 of 8 bytes, whatever the text
_DOCUMENTS_AT_A_TIME = 1000
_PAIR_WEIGHT = 0.7  # of the pair's estimate beside the word's own; Jelinek and Mercer's interpolation with one weight


class Scorer(Protocol):
    """Learns from the text once, then scores documents; higher is better."""

    def learn(self, documents: Iterable[str]) -> None:
        """Read the text that will be ranked. May stop early."""

    def score(self, text: str) -> float:
        """One document's quality."""


def scorer(kind: str, own: Callable[[str], float] | None = None) -> Scorer:
    """The scorer of that name; `own` is what "own" calls.

    "words": mean log-likelihood of a word under the training text's own word frequencies. "pairs": the same with each
    word's likelihood after the one before it, so that shuffled words and lists score low too. "compression": nearness of
    the compressed size to what is usual: boilerplate compresses too well, noise too little.

    Raises:
        UsageError: no such kind.
    """
    if kind == WORDS:
        return WordLikelihood(pairs=False)
    if kind == PAIRS:
        return WordLikelihood(pairs=True)
    if kind == COMPRESSION:
        return UsualCompression()
    if kind == OWN and own is not None:
        return OwnScorer(own)
    raise UsageError(f"unknown quality {kind!r}; known: {', '.join(KINDS)}", hint="mend QUALITY in data_sources.py")


class OwnScorer:
    """A plain function as a scorer; it learns nothing."""

    def __init__(self, function: Callable[[str], float]) -> None:
        self._function = function

    def learn(self, documents: Iterable[str]) -> None:
        return

    def score(self, text: str) -> float:
        return float(self._function(text))


class WordLikelihood:
    """Mean natural log of the probability of a document's words, or of each word after its predecessor (`pairs`)."""

    def __init__(self, *, pairs: bool) -> None:
        self._pairs = pairs
        self._words = np.ones(1 << _BITS, dtype=np.int64)  # add one: a word never seen is rare, not impossible
        self._followed = np.zeros(1 << _BITS, dtype=np.int64)
        self._total = 1 << _BITS

    def learn(self, documents: Iterable[str]) -> None:
        learnt = _up_to(documents, MAX_LEARNT_CHARACTERS)
        while texts := list(islice(learnt, _DOCUMENTS_AT_A_TIME)):  # a count of the whole table for each would be slow
            hashes = [_hashes(text) for text in texts]
            words = np.concatenate(hashes)
            self._words += np.bincount(words, minlength=1 << _BITS)
            self._total += len(words)
            if self._pairs:
                pairs = np.concatenate([_hashes_of_pairs(each) for each in hashes])
                self._followed += np.bincount(pairs, minlength=1 << _BITS)

    def score(self, text: str) -> float:
        words = _hashes(text[:_MAX_SCORED_CHARACTERS])
        if not len(words):
            return float("-inf")
        likelihood = self._words[words] / self._total
        if self._pairs:
            after = self._followed[_hashes_of_pairs(words)] / self._words[words[:-1]]
            likelihood[1:] = _PAIR_WEIGHT * np.minimum(after, 1.0) + (1 - _PAIR_WEIGHT) * likelihood[1:]
        return float(np.log(likelihood).mean())


class UsualCompression:
    """Minus the distance of a document's compression (log of compressed over plain bytes, zlib level 1) from the median.

    Short documents compress badly whatever they say, so the median is taken among documents of like length (within a
    factor of two).
    """

    def __init__(self) -> None:
        self._medians: dict[int, float] = {}

    def learn(self, documents: Iterable[str]) -> None:
        found: dict[int, list[float]] = {}
        for text in _up_to(documents, MAX_LEARNT_CHARACTERS):
            size, ratio = _compression(text)
            found.setdefault(size, []).append(ratio)
        self._medians = {size: float(np.median(ratios)) for size, ratios in found.items()}

    def score(self, text: str) -> float:
        size, ratio = _compression(text)
        if not self._medians:
            return 0.0
        nearest = min(self._medians, key=lambda known: abs(known - size))
        return -abs(ratio - self._medians[nearest])


def _compression(text: str) -> tuple[int, float]:
    """(power of two of its length in bytes, log of compressed over plain)."""
    plain = text[:_MAX_SCORED_CHARACTERS].encode(errors="surrogatepass")
    return len(plain).bit_length(), float(np.log(len(zlib.compress(plain, 1)) / max(1, len(plain))))


def _hashes(text: str) -> NDArray[np.int64]:
    """int64 [words]: each word's and each sign's place in the table, case aside."""
    found = [zlib.crc32(word.encode(errors="surrogatepass")) for word in _WORD.findall(text.lower())]
    return np.array(found, dtype=np.int64) & ((1 << _BITS) - 1)


def _hashes_of_pairs(words: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [words - 1]: the place of each word with its predecessor. Knuth's multiplier spreads the first over the table."""
    return (words[:-1] * 2_654_435_761 + words[1:] * 40_503) >> 12 & ((1 << _BITS) - 1)


def _up_to(documents: Iterable[str], characters: int) -> Iterator[str]:
    """Documents from the beginning until so many characters have passed."""
    for text in documents:
        yield text
        characters -= len(text)
        if characters <= 0:
            return
