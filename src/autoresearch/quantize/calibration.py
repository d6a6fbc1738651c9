"""Calibration for error feedback: what the inputs of each layer look like on training text.

A rounding error in a weight costs what its input makes of it: for a linear layer y = W x the expected squared error of y is
tr(E H E^T), with E the error of W and H = E[x x^T] (OBQ/GPTQ, arXiv:2208.11580, arXiv:2210.17323; LDLQ, arXiv:2307.13304). Only
training text is read here, never a validation row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.packing import pack_rows
from autoresearch.contract.token_shards import Tokens
from autoresearch.vocabulary import DataMissing, UsageError

if TYPE_CHECKING:
    import torch

# 256 rows of 256 tokens on `tiny`: four times the widest layer's inputs there, and what 1 forward pass over its
# validation rows costs. H needs at least as many tokens as the layer has inputs to have full rank.
DEFAULT_TOKENS = 65_536


class TrainingText(Protocol):
    """What is needed of prepared data."""

    def documents(self, seed: int) -> Iterator[tuple[Tokens, int]]:
        """(tokens, epoch) of one training document after the other, forever."""


def training_rows(text: TrainingText, num_tokens: int, length: int, bos: int, *, seed: int) -> NDArray[np.int64]:
    """Rows [n, length] of training text with at least `num_tokens` tokens in all, packed as batches are.

    Raises:
        UsageError: num_tokens is not positive. DataMissing: there is too little text for one row.
    """
    if num_tokens < 1:
        raise UsageError(f"{num_tokens} tokens are no calibration text", hint="--calibration-tokens 65536")
    wanted = -(-num_tokens // length)
    documents = (tokens for tokens, _epoch in text.documents(seed))
    rows = list(islice(pack_rows(documents, length, bos), wanted))
    if not rows:
        raise DataMissing("the training text does not fill one row", hint="autoresearch prepare --force")
    return np.stack(rows).astype(np.int64)


def hessians_of(
    module: torch.nn.Module,
    rows: NDArray[np.int64],
    *,
    device: str = "cpu",
    batch_rows: int = 8,
    on_progress: Callable[[float], object] = lambda _share: None,
) -> dict[str, torch.Tensor]:
    """H = mean of x x^T over all tokens of rows [n, T], float32 [inputs, inputs], by the name of the linear layer's weight.

    module: holds the weights in question; layers that are no torch.nn.Linear (embeddings) have no entry.
    """
    import torch

    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_layer: torch.nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
            x = inputs[0].detach().float().flatten(0, -2)  # [tokens, inputs]
            product = (x.T @ x).double().cpu()
            sums[name] = sums[name] + product if name in sums else product
            counts[name] = counts.get(name, 0) + len(x)

        return hook

    linear = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)]
    hooks = [layer.register_forward_hook(watch(f"{name}.weight")) for name, layer in linear]
    module.to(device).eval()
    try:
        with torch.no_grad():
            for start in range(0, len(rows), batch_rows):
                module(torch.from_numpy(rows[start : start + batch_rows]).to(device))
                on_progress(min(1.0, (start + batch_rows) / len(rows)))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (total / counts[name]).float() for name, total in sums.items()}
