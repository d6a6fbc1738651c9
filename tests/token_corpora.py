"""Token shards for tests: every token tells its document and its place in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from autoresearch.contract.token_shards import TokenShard, write_token_shard

BOS = 4_000_000_000
PLACES = 100_000  # token = document * PLACES + place


def shards_of(folder: Path, lengths: list[list[int]], dtype: type = np.uint32) -> list[TokenShard]:
    """One shard for each list, holding documents of these lengths, none of them 0."""
    shards, number = [], 0
    for index, shard in enumerate(lengths):
        documents = []
        for length in shard:
            documents.append((np.arange(length) + number * PLACES).astype(dtype))
            number += 1
        shards.append(write_token_shard(folder, f"shard{index}", documents, dtype))
    return shards


class Ledger:
    """Reads rows and holds them to the rules: BOS first, no padding, a document's tokens in order, none twice."""

    def __init__(self, lengths: list[list[int]]) -> None:
        self.lengths = [length for shard in lengths for length in shard]
        self.begun: Counter[int] = Counter()  # how often each document was begun
        self.pending: Counter[tuple[int, int]] = Counter()  # (document, next place) of documents begun and not ended

    def read(self, rows: np.ndarray) -> None:
        for row in rows.tolist():
            assert row[0] == BOS
            starts = [index for index, token in enumerate(row) if token == BOS]
            for start, end in zip(starts, [*starts[1:], len(row)], strict=True):
                tokens = row[start + 1 : end]
                if not tokens:
                    assert end == len(row), "a BOS without a token is only for a last place that nothing else fits"
                    continue
                self._read_piece(tokens)

    def _read_piece(self, tokens: list[int]) -> None:
        document, place = divmod(tokens[0], PLACES)
        assert tokens == list(range(tokens[0], tokens[0] + len(tokens))), "a piece is cut out of one document"
        if place:
            assert self.pending[document, place], "a token came twice, or before the one ahead of it"
            self.pending[document, place] -= 1
        else:
            self.begun[document] += 1
        if place + len(tokens) < self.lengths[document]:
            self.pending[document, place + len(tokens)] += 1

    def assert_whole_but(self, times: int, carried) -> None:
        """Every document came out so many times, but for the pieces that wait."""
        waiting = Counter((document, start) for document, start in carried)
        for document in range(len(self.lengths)):
            assert self.begun[document] + waiting[document, 0] == times
        assert +self.pending == Counter({piece: n for piece, n in waiting.items() if piece[1]})
