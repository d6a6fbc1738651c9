"""Scores of weights, row by row: bits of each validation row beside its bytes of text, so that two scores can be paired."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.bpb import byte_bearing, row_bytes, row_nats
from autoresearch.vocabulary import UsageError

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "torch.Tensor"]
Rows = NDArray[np.integer[Any]]

# Logits of one forward pass, float32: 64 MiB stay in a desktop's cache hierarchy, 2 GiB fill a card without crowding it.
_LOGIT_BYTES_CPU = 64 * 2**20
_LOGIT_BYTES_ACCELERATOR = 2 * 2**30


@dataclass(frozen=True)
class RowBits:
    """A score before it is summed: bits float64 [num_rows], and bytes of text int64 [num_rows] of the same rows."""

    bits: NDArray[np.float64]
    num_bytes: NDArray[np.int64]

    @property
    def val_bpb(self) -> float:
        """Bits per byte of all rows together: what the contract calls the score."""
        return math.fsum(self.bits.tolist()) / float(self.num_bytes.sum())

    @property
    def is_finite(self) -> bool:
        """Whether every row has a score."""
        return bool(np.isfinite(self.bits).all())


Score = Callable[[Tensors], RowBits]
"""Weights by name -> their bits on a fixed set of rows, the same rows each call."""


def module_score(
    module: torch.nn.Module,
    rows: Rows,
    token_bytes: NDArray[np.int32],
    *,
    device: str = "cpu",
    take: Callable[[Tensors], object] | None = None,
    on_progress: Callable[[float], object] = lambda _share: None,
) -> Score:
    """A Score that loads weights into `module` (inputs int64 [B, T] -> logits [B, T, V]) and asks it for rows [n, T+1].

    token_bytes is int32 [V]. take: puts weights into the module (default: by `load_weights`). `on_progress` gets the share of
    the rows that is done, 0..1.

    Raises (the Score):
        UsageError: the weights are not those of this module.
    """
    import torch

    bearing = byte_bearing(rows, token_bytes)
    num_bytes = row_bytes(rows, token_bytes)
    room = _LOGIT_BYTES_CPU if device == "cpu" else _LOGIT_BYTES_ACCELERATOR
    batch = max(1, room // (4 * (rows.shape[1] - 1) * len(token_bytes)))

    @torch.no_grad()
    def score(weights: Mapping[str, torch.Tensor]) -> RowBits:
        if take is None:
            load_weights(module, weights)
        else:
            take(weights)
        module.to(device).eval()
        bits = np.empty(len(rows), dtype=np.float64)
        for start in range(0, len(rows), batch):
            part = slice(start, start + batch)
            tokens = torch.from_numpy(rows[part].astype(np.int64)).to(device)
            logits = module(tokens[:, :-1]).float()  # [B, T, V]
            nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
            bits[part] = row_nats(nats.view(len(tokens), -1).cpu().numpy(), bearing[part]) / math.log(2)
            on_progress(min(1.0, (start + batch) / len(rows)))
        return RowBits(bits, num_bytes)

    return score


def load_weights(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Put weights into a module, in the module's own number types.

    Raises:
        UsageError: names or shapes differ.
    """
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise UsageError(
            f"the weights do not fit the model: {' '.join(str(error).split())[:300]}",
            hint="autoresearch quantize logs/TAG/N   (a snapshot folder, which has its experiment file beside it)",
        ) from error
