"""Groups of a row, and the random rotation of each: a randomised Hadamard transform for any number of columns.

A group whose length n is a power of two is turned by H D: D random signs, H the orthonormal Hadamard matrix (Ailon and
Chazelle 2006; QuIP#, arXiv 2402.04396). Any other length takes four rounds of the largest power of two below it, laid
alternately over the group's first and last coordinates (they overlap), with new signs each round, as Kac's random walk
does with planes. Nothing is padded, so a rotated row has as many coordinates as the row and no bit is spent on shape.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

OVERLAPPING_ROUNDS = 4
# One product with a Hadamard matrix up to this size; larger transforms are products of two (H_ab = H_a (x) H_b).
LARGEST_MATRIX = 256


@dataclass(frozen=True)
class Layout:
    """How `cols` columns fall into groups: all of `group` columns but the last, which has group / 2 to 3 group / 2.

    (A row shorter than that is one group.) A short rest joins its neighbour, so that no scale is spent on a few weights.
    """

    cols: int
    group: int

    @property
    def num_groups(self) -> int:
        return max(1, (self.cols + self.group // 2) // self.group) if self.group > 1 else self.cols

    @property
    def last(self) -> int:
        """Columns of the last group."""
        return self.cols - (self.num_groups - 1) * self.group

    def spans(self) -> Iterator[tuple[slice, slice, int]]:
        """(columns, groups, length) of each run of groups of equal length; one run or two."""
        split = self.num_groups if self.last == self.group else self.num_groups - 1
        if split:
            yield slice(0, split * self.group), slice(0, split), self.group
        if split < self.num_groups:
            yield slice(split * self.group, self.cols), slice(split, self.num_groups), self.last

    def group_of_column(self) -> list[int]:
        return [min(column // self.group, self.num_groups - 1) for column in range(self.cols)]


def random_bits(name: str, seed: int, purpose: str, count: int) -> bytes:
    """`count` bytes that depend on these words alone, on every machine and in every version: SHAKE-256."""
    return hashlib.shake_256(f"autoresearch/{purpose}/{seed}/{name}".encode()).digest(count)


def signs(name: str, seed: int, count: int) -> torch.Tensor:
    """float32 [count] of +1 and -1 for the tensor of this name: one vector, shared by all rows."""
    import numpy as np
    import torch

    raw = np.frombuffer(random_bits(name, seed, "signs", -(-count // 8)), dtype=np.uint8)
    bits = np.unpackbits(raw, bitorder="little")[:count]
    return torch.from_numpy(1.0 - 2.0 * bits.astype(np.float32))


@dataclass(frozen=True)
class Rotation:
    """The orthogonal matrix R, block-diagonal over the groups of a layout, drawn from (name, seed)."""

    layout: Layout
    name: str
    seed: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x float [N, cols] -> x R^T, rows in the rotated basis, in the dtype and on the device of x."""
        return self._apply(x, inverse=False)

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        """y R, back from the rotated basis."""
        return self._apply(y, inverse=True)

    def conjugate(self, hessian: torch.Tensor) -> torch.Tensor:
        """R H R^T: the Hessian [cols, cols] of the rotated inputs, so that tr(W H W^T) is what it was."""
        return self.forward(self.forward(hessian).T.contiguous()).T.contiguous()

    def _apply(self, x: torch.Tensor, *, inverse: bool) -> torch.Tensor:
        import torch

        parts = []
        drawn = signs(self.name, self.seed, self.layout.cols * OVERLAPPING_ROUNDS).to(x.device, x.dtype)
        drawn = drawn.view(OVERLAPPING_ROUNDS, self.layout.cols)
        for columns, groups, length in self.layout.spans():
            part = x[:, columns].reshape(x.size(0), groups.stop - groups.start, length)
            parts.append(_turn(part, drawn[:, columns], inverse=inverse).reshape(x.size(0), -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _turn(x: torch.Tensor, drawn: torch.Tensor, *, inverse: bool) -> torch.Tensor:
    """Turn the groups x [N, G, n] with signs `drawn` [rounds, G * n]."""
    groups, n = x.shape[1], x.shape[2]
    power = 1 << (n.bit_length() - 1)
    if power == n:
        sign = drawn[0].view(groups, n)
        return _hadamard(x) * sign if inverse else _hadamard(x * sign)
    x = x.clone()
    rounds = range(OVERLAPPING_ROUNDS)
    for index in reversed(rounds) if inverse else rounds:
        sign = drawn[index].view(groups, n)
        place = slice(0, power) if index % 2 == 0 else slice(n - power, n)
        if inverse:
            x[..., place] = _hadamard(x[..., place])
            x = x * sign
        else:
            x = x * sign
            x[..., place] = _hadamard(x[..., place])
    return x


@lru_cache(maxsize=32)
def _hadamard_matrix(n: int) -> torch.Tensor:
    """Entries +1 and -1, float32 [n, n], n a power of two (Sylvester's construction)."""
    import torch

    matrix = torch.ones(1, 1)
    while matrix.size(0) < n:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)), 0)
    return matrix


def _hadamard(x: torch.Tensor) -> torch.Tensor:
    """Orthonormal Hadamard transform of the last dimension, a power of two.

    As matrix products: at 128 columns faster than seven passes of butterflies on every device. TF32, where a program
    switched it on, costs 2^-11 of a coordinate, 1/170 of the mean squared error of 8 bits.
    """
    n = x.size(-1)
    if n == 1:
        return x
    if n <= LARGEST_MATRIX:
        product: torch.Tensor = x @ _hadamard_matrix(n).to(x.device, x.dtype)
        return product.mul_(n**-0.5)
    inner = 1 << (n.bit_length() // 2)
    y = x.reshape(*x.shape[:-1], n // inner, inner)
    y = _hadamard(y)
    return _hadamard(y.transpose(-1, -2)).transpose(-1, -2).reshape(x.shape)


@lru_cache(maxsize=8)
def gaussian_matrix(d: int, seed: int) -> torch.Tensor:
    """float32 [d, d] of independent N(0, 1) from the seed, for QJL's projection S."""
    import numpy as np
    import torch
    from scipy.special import ndtri

    raw = np.frombuffer(random_bits(str(d), seed, "gaussian", 4 * d * d), dtype="<u4")
    return torch.from_numpy(ndtri((raw.astype(np.float64) + 0.5) / 2**32).astype(np.float32).reshape(d, d))
