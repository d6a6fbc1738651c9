"""Speed and drift of the row packer against the linear-scan packer of the published benchmark, in one run.

    python benchmarks/packing.py [--quick]

The reference is our own plain writing of the published behaviour (usual_loader.py). Both pack the same log-normal documents (median 400 tokens, sigma 1.27, mean about 900) into
batches of 128 rows of 2049 on one core; CPU time of the process; documents are ready in memory, in the form that each
packer wants. Prints one JSON object. `over_long_share_of_buffer` is the share of buffered documents longer than a row,
at the quarters of the run: it must not grow.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

import numpy as np
from usual_loader import BATCH_SIZE, BOS, ROW_LEN, LinearScan, synthetic_documents

from autoresearch.contract.packing import Packer, pack_batches

NUM_DOCUMENTS = 20_000


class Reference:
    """The reference packer. Counts what it places and what it crops away."""

    def __init__(self, documents: Iterator[list[int]]) -> None:
        self.loader = LinearScan(documents)
        self.num_placed = 0

    def batches(self) -> Iterator[np.ndarray[Any, Any]]:
        """int64 [BATCH_SIZE, ROW_LEN], forever."""
        while True:
            batch = np.empty((BATCH_SIZE, ROW_LEN), dtype=np.int64)
            for row in batch:
                self.fill(row)
            yield batch

    def fill(self, row: np.ndarray[Any, Any]) -> None:
        """One row."""
        for position, piece in self.loader.pieces():
            row[position : position + len(piece)] = piece
        self.num_placed += ROW_LEN


def tokens_per_cpu_second(batches: Iterator[np.ndarray[Any, Any]], num_batches: int) -> float:
    """Millions of packed tokens per CPU second, after a first batch that fills the buffer."""
    next(batches)
    start = time.process_time()
    num_tokens = sum(batch.size for batch in islice(batches, num_batches))
    return num_tokens / (time.process_time() - start) / 1e6


def shares_over_run(fill: Callable[[], object], share: Callable[[], float], num_rows: int) -> list[float]:
    """The share after each quarter of the rows."""
    shares = []
    for row in range(1, num_rows + 1):
        fill()
        if row % (num_rows // 4) == 0:
            shares.append(round(share(), 3))
    return shares


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    quick = parser.parse_args().quick
    arrays = list(synthetic_documents(NUM_DOCUMENTS))
    lists = [[BOS, *document.tolist()] for document in arrays]

    speeds, reference_speeds = [], []
    reference = Reference(cycle(lists))
    reference_batches = reference.batches()
    our_batches = pack_batches(cycle(arrays), BATCH_SIZE, ROW_LEN, BOS)
    for _ in range(3):  # interleaved, best of three: neighbours on the machine disturb both alike
        speeds.append(tokens_per_cpu_second(our_batches, 40 if quick else 400))
        reference_speeds.append(tokens_per_cpu_second(reference_batches, 2 if quick else 10))

    num_rows = 4000 if quick else 12_000
    packer = Packer(cycle(arrays), BOS)
    row = np.empty(ROW_LEN, dtype=np.uint16)

    def our_share() -> float:
        lengths = packer.waiting_lengths()
        return sum(length + 1 > ROW_LEN for length in lengths) / len(lengths)

    drift = shares_over_run(lambda: packer.fill(row), our_share, num_rows)
    fresh = Reference(cycle(lists))
    wide_row = np.empty(ROW_LEN, dtype=np.int64)
    reference_drift = shares_over_run(lambda: fresh.fill(wide_row), fresh.loader.over_long_share, num_rows)

    speed, reference_speed = max(speeds), max(reference_speeds)
    result = {
        "mean_document_tokens": round(float(np.mean([len(document) for document in arrays])), 1),
        "rows": [BATCH_SIZE, ROW_LEN],
        "million_tokens_per_cpu_second": round(speed, 1),
        "reference_million_tokens_per_cpu_second": round(reference_speed, 2),
        "ratio": round(speed / reference_speed, 1),
        "thrown_away": 0.0,
        "reference_thrown_away": round(fresh.loader.num_cropped / (fresh.num_placed + fresh.loader.num_cropped), 4),
        "drift_rows": num_rows,
        "over_long_share_of_buffer": drift,
        "reference_over_long_share_of_buffer": reference_drift,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
