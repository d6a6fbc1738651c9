"""Seconds per MB of what a recipe is made of, and bytes of memory per document of near duplicates; one core.

    OMP_NUM_THREADS=1 python benchmarks/recipe.py [--copies 4]

The text is the training text of the embedded corpus, `--copies` times. Only the first table grows with it.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from autoresearch.contract.corpora import EMBEDDED, cache_root, open_corpus
from autoresearch.recipes.duplicates import ExactDuplicates, NearDuplicates
from autoresearch.recipes.filters import repeated_lines, repeated_ngrams
from autoresearch.recipes.mixing import Mixture
from autoresearch.recipes.quality import COMPRESSION, PAIRS, WORDS, scorer
from autoresearch.recipes.selection import select
from autoresearch.recipes.text import TrainingText
from autoresearch.recipes.tokens import train_table


def report(name: str, megabytes: float, run: Callable[[], object]) -> None:
    start = time.process_time()
    run()
    seconds = time.process_time() - start
    print(f"{name:24} {seconds / megabytes:8.4f} s/MB   {megabytes / seconds:8.1f} MB/s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--copies", type=int, default=2)
    options = parser.parse_args()
    shards = open_corpus(EMBEDDED, cache_root()).train_shards * options.copies
    text = TrainingText({EMBEDDED: shards}, vocab_size=1024, row_len=257, seed=0)
    documents = list(text.documents(EMBEDDED))
    size = sum(len(document.encode()) for document in documents) / 1e6
    print(f"{len(documents):,} documents, {size:.1f} MB, one core, CPU seconds\n")

    def each(function: Callable[[str], object]) -> Callable[[], object]:
        return lambda: [function(document) for document in documents]

    report("read", size, lambda: [None for _ in text.documents(EMBEDDED)])
    report("select, nothing asked", size, lambda: select(text, text.names))
    report("repeated lines", size, each(repeated_lines))
    report("repeated n-grams", size, each(repeated_ngrams))
    for name, make in (("exact", ExactDuplicates), ("near", lambda: NearDuplicates(0.8))):
        finder = make()
        report(f"{name} duplicates, gather", size, each(finder.add))
        report(f"{name} duplicates, decide", size, finder.found)
    for kind in (WORDS, PAIRS, COMPRESSION):
        ranks = scorer(kind)
        report(f"quality {kind}, learn", size, lambda ranks=ranks: ranks.learn(documents))
        report(f"quality {kind}, score", size, each(ranks.score))
    for vocab_size in (1024, 8192):
        tables = []
        report(
            f"train {vocab_size} tokens",
            size,
            lambda vocab_size=vocab_size, tables=tables: tables.append(train_table(documents, vocab_size)),
        )
        report(f"encode {vocab_size} tokens", size, lambda tables=tables: tables[0].encode_documents(documents))
    memory(documents)
    mixing()


def memory(documents: list[str]) -> None:
    """Bytes that the finders hold for each document, by tracemalloc, and while they decide."""
    print()
    for name, make in (("exact", ExactDuplicates), ("near", lambda: NearDuplicates(0.8))):
        finder = make()
        finder.add(documents[0])
        tracemalloc.start()
        for document in documents:
            finder.add(document)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        finder.found()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        count = len(documents)
        print(f"{name:6} duplicates: {held / count:6.0f} bytes a document, {peak / count:6.0f} while deciding")


def mixing() -> None:
    """What mixing adds to packing: rows of 2049 from four streams that cost nothing."""

    class Ready:
        epoch = 1
        rows = np.zeros((64, 2049), dtype=np.uint16)

        def take(self, num_rows: int) -> np.ndarray:
            return self.rows[:num_rows]

    mixture = Mixture({f"a/{tier}": Ready() for tier in range(4)}, lambda _: {f"a/{tier}": 1.0 for tier in range(4)}, 0)
    start = time.process_time()
    for _ in range(500):
        mixture.take(64, 0.5)
    seconds = time.process_time() - start
    print(f"\nmixing four groups, batches of 64 rows of 2048: {500 * 64 * 2048 / seconds / 1e6:,.0f} million tokens/s")


if __name__ == "__main__":
    main()
