"""The loader that this field's scripts carry, in our own plain writing: the reference beside our packer and our feeder.

A buffer of a thousand documents as Python lists; every placement scans it for the longest that fits; when none does, the
shortest is cropped and the rest of it is lost.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from autoresearch.contract.packing import BUFFER_SIZE

BATCH_SIZE, ROW_LEN = 128, 2049  # T + 1
BOS, VOCAB_SIZE = 8188, 8192
_MEDIAN_LENGTH, _SIGMA = 400.0, 1.2735  # log-normal: mean = median * exp(sigma^2 / 2) = 900


def synthetic_documents(num_documents: int, seed: int = 0) -> Iterator[np.ndarray[tuple[int], np.dtype[np.uint16]]]:
    """uint16 arrays of random tokens, log-normal lengths."""
    rng = np.random.default_rng(seed)
    for length in np.maximum(1, rng.lognormal(np.log(_MEDIAN_LENGTH), _SIGMA, num_documents)).astype(int):
        yield rng.integers(0, BOS, length).astype(np.uint16)


class LinearScan:
    """Best fit by scanning a list of lists. `num_cropped` counts the tokens it lost."""

    def __init__(self, incoming: Iterator[list[int]]) -> None:
        self._incoming = incoming
        self._buffer: list[list[int]] = []
        self.num_cropped = 0

    def pieces(self) -> Iterator[tuple[int, list[int]]]:
        """(position, tokens) that fill one row: the longest that fits, again and again; then a crop of the shortest."""
        position = 0
        while position < ROW_LEN:
            piece = self._longest_within(ROW_LEN - position)
            yield position, piece
            position += len(piece)

    def _longest_within(self, space: int) -> list[int]:
        while len(self._buffer) < BUFFER_SIZE:
            self._buffer.append(next(self._incoming))
        best, best_length = -1, 0
        for index, document in enumerate(self._buffer):
            length = len(document)
            if best_length < length <= space:
                best, best_length = index, length
        if best >= 0:
            return self._buffer.pop(best)
        shortest = min(range(len(self._buffer)), key=lambda index: len(self._buffer[index]))
        document = self._buffer.pop(shortest)
        self.num_cropped += len(document) - space
        return document[:space]

    def over_long_share(self) -> float:
        """Share of buffered documents that are longer than a row."""
        return sum(len(document) > ROW_LEN for document in self._buffer) / len(self._buffer)
