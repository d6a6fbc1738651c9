"""Which documents say what an earlier one said: exactly, or nearly.

Both go by a few numbers for each document, gathered while the text streams past, and are decided at the end: 8 bytes a
document for exact duplicates, 224 for near ones, and 363 while they are decided (benchmarks/recipe.py). No text is held.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from array import array
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from autoresearch.recipes.filters import NGRAM
from autoresearch.vocabulary import UsageError

KEEP, EXACT, NEAR = "keep", "exact", "near"
KINDS = (KEEP, EXACT, NEAR)

NUM_PERMUTATIONS = (
    128  # datasketch's default; the estimate of a similarity of 0.8 then has a standard deviation of 0.035
)
MAX_NEAR_DOCUMENTS = 10_000_000  # 4 GB
_WORD = re.compile(r"\w+")
_MAX_WORDS = 20_000  # of a document, from its beginning, that its signature is made of: 20 MB of memory while it is
_MAX_COMPARED = (
    100  # documents that stay for each shared band: a template that a million share is not a million squared
)


class ExactDuplicates:
    """Documents that are equal when case and white space are folded. The first of them is no duplicate."""

    def __init__(self) -> None:
        self._digests = array("Q")

    def add(self, text: str) -> None:
        """The next document."""
        self._digests.append(folded_hash(text))

    def found(self) -> NDArray[np.bool_]:
        """bool [documents added]: True where an earlier one is equal.

        By 64 bits of a hash: among ten million documents one false find in 400,000 corpora.
        """
        digests = np.frombuffer(self._digests, dtype=np.uint64) if len(self._digests) else np.empty(0, np.uint64)
        duplicate = np.ones(len(digests), dtype=np.bool_)
        duplicate[np.unique(digests, return_index=True)[1]] = False  # the index is that of the first
        return duplicate


class NearDuplicates:
    """Documents whose sets of runs of `NGRAM` words have a Jaccard similarity of at least `threshold`, by MinHash.

    Broder 1997 for the signatures, which datasketch makes; banding (Leskovec, Rajaraman, Ullman, Mining of Massive
    Datasets, chapter 3) with datasketch's choice of bands finds the pairs to look at, and the signatures, eight bits of
    each value (Li and König 2010), decide them. The bands are sorted at the end instead of kept in datasketch's index of
    Python dictionaries, which takes ten times the memory.
    """

    def __init__(self, threshold: float) -> None:
        """Raises UsageError for a threshold that is no similarity above 0."""
        if not 0 < threshold <= 1:
            raise UsageError(
                f"near duplicates from a similarity of {threshold}; possible: above 0, up to 1",
                hint="mend NEAR_DUPLICATE in data_sources.py",
            )
        from datasketch import MinHash, MinHashLSH  # imports scipy: 0.3 s

        index = MinHashLSH(threshold=threshold, num_perm=NUM_PERMUTATIONS)
        self._num_bands, self._band_len = int(index.b), int(index.r)
        self._threshold = threshold
        # scheme and seed are named, so that another version of datasketch finds the same duplicates
        self._new_signature = MinHash(num_perm=NUM_PERMUTATIONS, seed=1, hashfunc=zlib.crc32, scheme="affine32").copy
        self._bands = array("Q")  # num_bands to a document
        self._signatures = bytearray()  # NUM_PERMUTATIONS to a document
        self._num_documents = 0

    def add(self, text: str) -> None:
        """The next document.

        Raises:
            UsageError: more documents than memory is meant to hold.
        """
        if self._num_documents == MAX_NEAR_DOCUMENTS:
            raise UsageError(
                f"near duplicates are looked for among {MAX_NEAR_DOCUMENTS:,} documents at most",
                hint='set DUPLICATES = "exact" in data_sources.py, or use fewer shards',
            )
        signature = self._new_signature()
        signature.update_batch(shingles(text))
        values: NDArray[np.uint32] = signature.hashvalues
        used = values[: self._num_bands * self._band_len].reshape(self._num_bands, self._band_len)
        for number, band in enumerate(used):
            digest = hashlib.blake2b(band.tobytes(), digest_size=8, salt=number.to_bytes(2, "little")).digest()
            self._bands.frombytes(digest)
        # eight bits of each, after Knuth's multiplier: the smallest of many values has high bits of 0
        self._signatures += ((values * np.uint32(2_654_435_761)) >> np.uint32(24)).astype(np.uint8).tobytes()
        self._num_documents += 1

    def found(self) -> NDArray[np.bool_]:
        """bool [documents added]: True where an earlier document that stays is similar.

        A chain of versions, each like the next but not like the first, loses only those that are like one that stays.
        """
        duplicate = np.zeros(self._num_documents, dtype=np.bool_)
        if not self._num_documents:
            return duplicate
        bands = np.frombuffer(self._bands, dtype=np.uint64).reshape(-1, self._num_bands)
        signatures = np.frombuffer(self._signatures, dtype=np.uint8).reshape(-1, NUM_PERMUTATIONS)
        sorted_bands = [_SortedBand(band) for band in bands.T]
        for later in np.flatnonzero(np.any([band.place > band.start for band in sorted_bands], axis=0)).tolist():
            earlier = np.unique(np.concatenate([band.before(later) for band in sorted_bands]))
            earlier = earlier[~duplicate[earlier]]
            if len(earlier):
                duplicate[later] = similarity(signatures[earlier], signatures[later]).max() >= self._threshold
        return duplicate


class _SortedBand:
    """One band of all documents: who shares it, in 12 bytes a document."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        count = len(hashes)
        self.order = np.argsort(hashes, kind="stable").astype(np.int32)  # documents of equal hash in their order
        ordered = hashes[self.order]
        places = np.arange(count, dtype=np.int32)
        begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        self.place = np.empty(count, dtype=np.int32)  # of each document in `order`
        self.place[self.order] = places
        self.start = np.empty(count, dtype=np.int32)  # of those that share its hash
        self.start[self.order] = np.maximum.accumulate(np.where(begins, places, 0))

    def before(self, document: int) -> NDArray[np.int32]:
        """Documents before this one that share its hash: the first `_MAX_COMPARED` of them."""
        start = self.start[document]
        return self.order[start : min(self.place[document], start + _MAX_COMPARED)]


def folded_hash(text: str) -> int:
    """64 bits of BLAKE2b of the text with case folded and every run of white space made one space."""
    folded = " ".join(text.casefold().split())
    return int.from_bytes(hashlib.blake2b(folded.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def shingles(text: str) -> list[bytes]:
    """The distinct runs of `NGRAM` words, case and punctuation aside; of a shorter document all its words as one run.

    A document without a single word is one run of its characters, so that two such are alike only when they are equal.
    """
    words = [match.group() for match in islice(_WORD.finditer(text.casefold()), _MAX_WORDS)] or [text.strip()]
    runs = {" ".join(words[start : start + NGRAM]) for start in range(max(1, len(words) - NGRAM + 1))}
    return [run.encode(errors="surrogatepass") for run in runs]


def similarity(signatures: NDArray[np.uint8], signature: NDArray[np.uint8]) -> NDArray[np.float64]:
    """float64 [n]: estimated Jaccard similarity of each of n signatures to one; by chance 1 in 256 of the bytes agrees."""
    agree: NDArray[np.float64] = (signatures == signature).mean(axis=1)
    return (agree - 1 / 256) / (1 - 1 / 256)
