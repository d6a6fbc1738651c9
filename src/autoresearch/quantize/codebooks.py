"""Codebooks for one coordinate of a randomly rotated vector: exact Lloyd-Max, and uniform cells for an entropy coder.

A unit vector of d coordinates, uniform on the sphere, has coordinates u with density (1 - u^2)^((d-3)/2), a symmetric
Beta on [-1, 1] (TurboQuant, arXiv 2504.19874, lemma 1). Everything here is in t = u sqrt(d), which has variance 1 and
tends to N(0, 1); `d=None` means that limit. All in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_BITS = 8
TOLERANCE = 1e-12  # of the fixed point: no level moves more in a Lloyd iteration
# Beyond 12 standard deviations N(0, 1) has 4e-33 of its mass: no cell of a uniform codebook lies there.
UNIFORM_REACH = 12.0
# Gauss-Legendre nodes, exact to the last digit for cells of up to two, and of half a standard deviation.
NODES, FINE_NODES = 40, 12


@dataclass(frozen=True)
class Codebook:
    """Levels [n] ascending, thresholds [n - 1] between them, for coordinates of variance 1.

    distortion: mean squared error; since every level is its cell's mean, cosine = sqrt(1 - distortion).
    entropy: bits per code, of the codes' own distribution.
    """

    levels: Floats
    thresholds: Floats
    distortion: float
    entropy: float


@dataclass(frozen=True)
class Coordinate:
    """The law of t, a coordinate of a random vector of d coordinates and length sqrt(d); d=None is N(0, 1)."""

    d: int | None

    @property
    def reach(self) -> float:
        """The largest value that t can take."""
        return math.inf if self.d is None else math.sqrt(self.d)

    def above(self, t: Floats) -> Floats:
        """P(T > t) for t >= 0, with full relative precision in the tail."""
        from scipy.special import betainc, ndtr

        if self.d is None:
            return np.asarray(ndtr(-t))
        a = (self.d - 1) / 2
        return np.asarray(betainc(a, a, np.clip((1 - t / self.reach) / 2, 0.0, 1.0)))

    def density(self, t: Floats) -> Floats:
        if self.d is None:
            return np.asarray(np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi))
        return np.asarray(self._constant * np.clip(1 - t**2 / self.d, 0.0, None) ** ((self.d - 3) / 2) / self.reach)

    def mean_above(self, t: Floats) -> Floats:
        """E[T; T > t]."""
        if self.d is None:
            return self.density(t)
        tail = np.clip(1 - t**2 / self.d, 0.0, None) ** ((self.d - 1) / 2)
        return np.asarray(self.reach * self._constant / (self.d - 1) * tail)

    def quantile_of_cube_root(self, p: Floats) -> Floats:
        """Quantiles of the law with density f^(1/3): where levels of many bits lie (Panter and Dite 1951)."""
        from scipy.special import betaincinv, ndtri

        if self.d is None:
            return np.asarray(math.sqrt(3) * ndtri(p))
        a = (self.d - 3) / 6 + 1
        return np.asarray(self.reach * (2 * betaincinv(a, a, p) - 1))

    @property
    def _constant(self) -> float:
        """Makes the density of u integrate to 1."""
        from scipy.special import gammaln

        assert self.d is not None
        return math.exp(float(gammaln(self.d / 2) - gammaln((self.d - 1) / 2))) / math.sqrt(math.pi)


def law_of(d: int | None) -> Coordinate:
    """The law for groups of d weights. For one or two the Beta has poles at its ends; d = 3 (uniform) stands in."""
    return Coordinate(None if d is None else max(d, 3))


@lru_cache(maxsize=256)
def lloyd_max(bits: int, d: int | None = None) -> Codebook:
    """The codebook of 2**bits levels with the least mean squared error (Lloyd 1957, Max 1960), kept in memory.

    Newton's method on Lloyd's fixed point, which for this log-concave density is unique (Fleischer 1964): 8 bits need 10
    steps where Lloyd's own iteration needs 10^5. By symmetry only the positive half is solved.
    """
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits is {bits}, not 1 to {MAX_BITS}")
    law = law_of(d)
    num = 2 ** (bits - 1)
    c = law.quantile_of_cube_root(0.5 + (np.arange(num) + 0.5) / (2 * num))
    for _ in range(200):
        edges = _edges(c, law)
        mass, means = _cells(edges, law)
        residual = c - means
        if np.abs(residual).max() < TOLERANCE / 10:
            break
        step = _newton_step(residual, edges, mass, means, law)
        proposed = c - step
        ordered = proposed[0] > 0 and proposed[-1] < law.reach and bool((np.diff(proposed) > 0).all())
        c = proposed if ordered else means
    else:
        if np.abs(residual).max() > TOLERANCE:
            raise ArithmeticError(f"Lloyd-Max at {bits} bits, d {d}, stopped at {np.abs(residual).max():.1e}")
    both = np.concatenate((-c[::-1], c))
    p = np.concatenate((mass[::-1], mass))
    return _frozen(both, (both[1:] + both[:-1]) / 2, p)


@lru_cache(maxsize=256)
def uniform(entropy_bits: float, d: int | None = None) -> Codebook:
    """Cells of equal width, one centred on 0, whose codes have the given entropy; levels are the cells' means.

    With an ideal entropy coder this is 0.2546 bit (1.53 dB) from the rate-distortion bound at high rates (Gish and Pierce
    1968) and near the best scalar quantiser at all rates.
    """
    from scipy.optimize import brentq

    if not 0.1 <= entropy_bits <= MAX_BITS:
        raise ValueError(f"entropy is {entropy_bits} bits, not 0.1 to {MAX_BITS}")
    law = law_of(d)
    # High rates: h(N(0, 1)) - log2(width) = entropy, so width is about 4.13 * 2**-entropy; low rates need it wider.
    guess = math.sqrt(2 * math.pi * math.e) * 2.0**-entropy_bits
    width = brentq(
        lambda w: _uniform_cells(w, law).entropy - entropy_bits,
        guess / 4,
        min(3 * guess + 1, 2 * law.reach * 0.999),
        xtol=1e-13,
    )
    return _uniform_cells(float(width), law)


def _uniform_cells(width: float, law: Coordinate) -> Codebook:
    num = max(1, math.ceil(min(law.reach, UNIFORM_REACH) / width - 0.5))  # cells on either side of the central one
    inner = (np.arange(num, dtype=np.float64) + 0.5) * width
    mass, means = _cells(np.append(inner, law.reach), law)
    means = np.where(mass > 0, means, inner)
    central = 1 - 2 * float(law.above(inner[:1])[0])
    levels = np.concatenate((-means[::-1], [0.0], means))
    return _frozen(
        levels, np.concatenate((-inner[::-1], inner)), np.concatenate((mass[::-1], [max(central, 0.0)], mass))
    )


def _edges(c: Floats, law: Coordinate) -> Floats:
    """Edges [n + 1] of the positive cells around the levels c [n]."""
    return np.concatenate(([0.0], (c[1:] + c[:-1]) / 2, [law.reach]))


def _cells(edges: Floats, law: Coordinate) -> tuple[Floats, Floats]:
    """Mass and mean of each cell between the edges: [n] each.

    Inner cells by Gauss-Legendre quadrature, since differences of the incomplete Beta function lose three digits at
    d = 1024; the last cell, which reaches the end of the law, in closed form.
    """
    low, high = edges[:-2, None], edges[1:-1, None]
    is_fine = len(low) > 0 and float((high - low).max()) <= 0.5
    nodes, weights = _quadrature(FINE_NODES if is_fine else NODES)
    t = (low + high) / 2 + (high - low) / 2 * nodes
    f = law.density(t) * weights * (high - low) / 2
    tail = edges[-2:-1]
    mass = np.append(f.sum(axis=1), law.above(tail))
    moment = np.append((t * f).sum(axis=1), law.mean_above(tail))
    return mass, np.divide(moment, mass, out=np.zeros_like(mass), where=mass > 0)


@lru_cache(maxsize=2)
def _quadrature(num_nodes: int) -> tuple[Floats, Floats]:
    """Nodes and weights on [-1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    return nodes, weights


def _newton_step(residual: Floats, edges: Floats, mass: Floats, means: Floats, law: Coordinate) -> Floats:
    """J^-1 residual, where J is the tridiagonal derivative of c - means(c)."""
    from scipy.linalg import solve_banded

    inner = law.density(edges[1:-1])
    below = 0.5 * inner * (means[1:] - edges[1:-1]) / mass[1:]  # of mean i by its lower edge, per level
    above = 0.5 * inner * (edges[1:-1] - means[:-1]) / mass[:-1]  # by its upper edge
    banded = np.zeros((3, len(residual)))
    banded[1] = 1.0
    banded[1, 1:] -= below
    banded[1, :-1] -= above
    banded[0, 1:] = -above
    banded[2, :-1] = -below
    step: Floats = solve_banded((1, 1), banded, residual)
    return step


def _frozen(levels: Floats, thresholds: Floats, mass: Floats) -> Codebook:
    """The codebook, with arrays nobody can write to: they are shared through the cache."""
    for array in (levels, thresholds):
        array.setflags(write=False)
    likely = mass[mass > 0]
    entropy = float(-(likely * np.log2(likely)).sum())
    return Codebook(levels, thresholds, 1.0 - float((mass * levels**2).sum()), entropy)
