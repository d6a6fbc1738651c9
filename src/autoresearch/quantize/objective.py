"""val_bpb at b bits as an objective of research: weights quantized and brought back, in the file they came in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoresearch.vocabulary import UnfitWeights

if TYPE_CHECKING:
    import torch

# Tensors with fewer values stay as they are: norms, per-layer scalars and gates, 0.1 % of the shipped model.
FEWEST_VALUES = 256
# Most bytes that may stay as they are, of the file's own. A file that keeps copies of its weights in small tensors or in whole
# numbers would otherwise be scored as if it had not been quantized.
MOST_KEPT_SHARE = 0.02
ALWAYS_KEPT_BYTES = 4096


@dataclass(frozen=True)
class AtBits:
    """One such objective. code: a float32 matrix [rows, cols] and its name -> the matrix as it comes back; always the same."""

    name: str
    code: Callable[[str, torch.Tensor], torch.Tensor]

    def transform(self, weights: bytes) -> bytes:
        """safetensors with every tensor of FEWEST_VALUES and more as it comes back from its code, in its own type.

        Vectors are quantized as one row, tensors of more dimensions as rows of their last one.

        Raises:
            UnfitWeights: a weight is not finite, or more than MOST_KEPT_SHARE of the bytes would stay out of reach.
        """
        from safetensors.torch import load, save

        tensors = load(weights)
        check(tensors, kept=[name for name, tensor in tensors.items() if not is_quantized(tensor)])
        for name, tensor in tensors.items():
            if is_quantized(tensor):
                back = self.code(name, rows_of(tensor))
                tensors[name] = back.to(tensor.dtype).reshape(tensor.shape).contiguous()
        return bytes(save(tensors))


def is_quantized(tensor: torch.Tensor) -> bool:
    """Whether an objective quantizes it: floating point, and large enough to matter."""
    return bool(tensor.is_floating_point()) and tensor.numel() >= FEWEST_VALUES


def rows_of(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as float32 [rows, cols]."""
    return tensor.reshape(-1, tensor.shape[-1]).float()


def check(tensors: Mapping[str, torch.Tensor], kept: list[str]) -> None:
    """Pass when all weights are finite and what is kept as it is is a small part.

    Raises:
        UnfitWeights: one is not, or too much is kept.
    """
    import torch

    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UnfitWeights(f"{name} holds weights that are no finite numbers")
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    left = sum(tensors[name].numel() * tensors[name].element_size() for name in kept)
    if left > max(ALWAYS_KEPT_BYTES, MOST_KEPT_SHARE * total):
        raise UnfitWeights(
            f"{left:,} of {total:,} bytes are in whole numbers or in tensors of fewer than {FEWEST_VALUES} values, which stay as"
            f" they are; {MOST_KEPT_SHARE:.0%} may"
        )
