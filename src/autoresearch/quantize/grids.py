"""Scalar grids, and the fp16 numbers of each group that place a grid over its weights.

A weight becomes `offset + scale * levels[code]`; offset is 0 but for the asymmetric grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoresearch.quantize.codebooks import lloyd_max, uniform
from autoresearch.quantize.scheme import Scheme

if TYPE_CHECKING:
    import torch

LARGEST_HALF = 65504.0  # of IEEE binary16
# Clipping of the asymmetric grid: its range is multiplied by each of these, the best for each group is kept. One bit
# wants 0.3 of a Gaussian group's range, eight bits all of it.
CLIP_FACTORS = np.linspace(1.0, 0.2, 41)


@dataclass(frozen=True)
class Grid:
    """levels float64 [n] ascending, thresholds [n - 1]; step: the width of equal cells (None: they differ)."""

    levels: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    step: float | None = None

    def encode(self, t: torch.Tensor) -> torch.Tensor:
        """Codes of t, int16 in the shape of t."""
        import torch

        if self.step is not None:
            first_cell = self.thresholds[0] / self.step - 0.5 if len(self.thresholds) else 0.0
            return (t / self.step - first_cell).round_().clamp_(0, len(self.levels) - 1).to(torch.int16)
        thresholds = torch.from_numpy(self.thresholds.astype(np.float32)).to(t.device)
        return torch.bucketize(t, thresholds, out_int32=True).to(torch.int16)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """float32 levels of integer codes."""
        import torch

        levels = torch.from_numpy(self.levels.astype(np.float32)).to(codes.device)
        return levels.index_select(0, codes.reshape(-1).int()).view(codes.shape)


def grid_for(scheme: Scheme, d: int) -> Grid | None:
    """The grid of a group of d weights; None where the scheme has none (a trellis, or QJL's signs alone)."""
    kind = scheme.how.grid
    if kind == "trellis" or (scheme.code_bits == 0 and kind != "uniform"):
        return None
    if kind == "lloyd_max":
        book = lloyd_max(scheme.code_bits, d)
        return Grid(book.levels, book.thresholds)
    if kind == "uniform":
        book = uniform(float(scheme.bits), d)
        width = float(book.thresholds[1] - book.thresholds[0])
        return Grid(book.levels, book.thresholds, width)
    if kind == "symmetric":
        reach = max(
            2 ** (scheme.code_bits - 1) - 1, 0.5
        )  # two's complement without its lowest code; one bit: half of absmax
        levels = np.arange(-reach, reach + 1)
    else:
        levels = np.arange(2.0**scheme.code_bits)
    return Grid(levels, (levels[1:] + levels[:-1]) / 2, 1.0)


def num_symbols(scheme: Scheme, lengths: set[int]) -> int:
    """How many codes a tensor with groups of these lengths may hold."""
    if scheme.how.grid == "trellis":
        return int(2**scheme.code_bits)
    return max((len(grid.levels) for d in lengths if (grid := grid_for(scheme, d)) is not None), default=0)


def half(x: torch.Tensor) -> torch.Tensor:
    """Rounded to fp16, the nearest finite number where it is too large."""
    import torch

    return x.clamp(-LARGEST_HALF, LARGEST_HALF).to(torch.float16)


def placed(scheme: Scheme, y: torch.Tensor, d: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(scale, offset) fp16 [rows, groups] for the groups y [rows, groups, d]; offset None where it is 0."""
    if scheme.how.grid == "asymmetric":
        return _clipped(y, scheme.code_bits)
    if scheme.how.grid == "symmetric":
        return half(y.abs().amax(dim=-1) / max(2 ** (scheme.code_bits - 1) - 1, 1)), None
    return half(y.square().mean(dim=-1).sqrt()), None  # the group's norm / sqrt(d): its coordinates get variance 1


def scaled(y: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor | None) -> torch.Tensor:
    """(y - offset) / scale, 0 where the scale is 0. scale and offset float32, of a shape that y's broadcasts with."""
    import torch

    centred = y if offset is None else y - offset
    return torch.where(scale != 0, centred / torch.where(scale != 0, scale, 1.0), 0.0)


def least_squares(y: torch.Tensor, values: torch.Tensor, fallback: torch.Tensor) -> torch.Tensor:
    """fp16 scale [rows, groups] with the least |y - scale * values|^2 in each group, for y and values [rows, groups, d].

    EDEN's scale for reconstruction (arXiv 2604.18555); `fallback` where all values are 0.
    """
    import torch

    energy = values.square().sum(dim=-1)
    best = (y * values).sum(dim=-1) / torch.where(energy > 0, energy, 1.0)
    return torch.where(energy > 0, half(best), fallback)


def _clipped(y: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and offset of the asymmetric grid with the least squared error over CLIP_FACTORS."""
    import torch

    low, high = y.amin(dim=-1), y.amax(dim=-1)
    top = 2**bits - 1
    best_error = torch.full_like(low, torch.inf)
    best_scale, best_offset = half(torch.zeros_like(low)), half(low)
    for factor in CLIP_FACTORS.tolist():
        scale, offset = half((high - low) * (factor / top)), half((low + high) / 2 - (high - low) * (factor / 2))
        s, o = scale.float().unsqueeze(-1), offset.float().unsqueeze(-1)
        error = (scaled(y, s, o).round_().clamp_(0, top) * s + o - y).square_().sum(dim=-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale, best_offset = torch.where(better, scale, best_scale), torch.where(better, offset, best_offset)
    return best_scale, best_offset
