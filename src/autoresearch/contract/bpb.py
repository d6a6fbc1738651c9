"""Bits per byte: the score. Total nats over (ln 2 x bytes of the text itself), whatever the tokenizer.

Rows are [num_rows, T+1] token ids; inputs are row[:-1], targets row[1:]. A target counts when it has bytes: specials
(BOS between documents) have none, and neither their nats nor their bytes are in the score.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.vocabulary import DataCorrupt

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]


def bits_per_byte(total_nats: float, total_bytes: int) -> float:
    """Bits per byte of text. NaN and infinity pass through: whoever takes claims judges them first.

    Raises:
        DataCorrupt: no bytes were scored.
    """
    if total_bytes < 1:
        raise DataCorrupt(f"nothing to score: {total_bytes} bytes of text", hint="autoresearch prepare --force")
    return total_nats / (math.log(2) * total_bytes)


def byte_bearing(rows: Ints, token_bytes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """bool [num_rows, T]: which targets of rows [num_rows, T+1] stand for bytes of text. token_bytes is int32[V]."""
    bearing: NDArray[np.bool_] = (token_bytes > 0)[rows[:, 1:]]
    return bearing


def target_bytes(rows: Ints, token_bytes: NDArray[np.int32]) -> int:
    """Bytes of text that the targets of rows [num_rows, T+1] stand for. token_bytes is int32[V]."""
    return int(row_bytes(rows, token_bytes).sum())


def row_bytes(rows: Ints, token_bytes: NDArray[np.int32]) -> NDArray[np.int64]:
    """int64 [num_rows]: bytes of text that each row's targets stand for."""
    sums: NDArray[np.int64] = token_bytes[rows[:, 1:]].sum(axis=1, dtype=np.int64)
    return sums


def row_nats(nats: Floats, bearing: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 [num_rows]: sum of the byte-bearing nats [num_rows, T] of each row, rounded once (math.fsum).

    A row's sum depends on that row alone, so it is the same in every batch; add rows with `total_nats`.
    """
    return np.array([math.fsum(row[mask].tolist()) for row, mask in zip(nats, bearing, strict=True)], dtype=np.float64)


def total_nats(nats_of_rows: Floats) -> float:
    """Sum over rows, rounded once: the same to the last bit in whatever order and grouping the rows were evaluated."""
    return math.fsum(nats_of_rows.tolist())
