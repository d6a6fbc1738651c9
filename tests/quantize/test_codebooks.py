"""Codebooks: against the published table, against Lloyd's own conditions, against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.quantize.codebooks import Coordinate, lloyd_max, uniform

# Lloyd-Max on N(0, 1): Max 1960, table I, to more digits by quadrature.
GAUSSIAN = {1: 0.36338, 2: 0.11748, 3: 0.03455, 4: 0.00950, 5: 0.00250, 8: 0.000041}
AT_128 = {1: 0.3609, 2: 0.1160, 3: 0.0340, 4: 0.0093}


@pytest.mark.parametrize("bits", GAUSSIAN)
def test_the_gaussian_distortion_is_the_published_one(bits):
    assert lloyd_max(bits).distortion == pytest.approx(GAUSSIAN[bits], abs=5e-6)


@pytest.mark.parametrize("bits", AT_128)
def test_a_coordinate_of_a_unit_vector_of_128_is_a_little_easier_than_a_gaussian(bits):
    assert lloyd_max(bits, 128).distortion == pytest.approx(AT_128[bits], abs=5e-5)
    assert lloyd_max(bits, 128).distortion < lloyd_max(bits).distortion


def test_one_bit_is_the_mean_of_the_half_normal():
    assert lloyd_max(1).levels == pytest.approx([-math.sqrt(2 / math.pi), math.sqrt(2 / math.pi)], abs=1e-13)


def test_the_two_bit_levels_are_the_textbook_ones():
    assert lloyd_max(2).levels[2:] == pytest.approx([0.4528, 1.5104], abs=5e-5)


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(1, 8), d=st.one_of(st.none(), st.integers(3, 5000)))
def test_a_lloyd_iteration_moves_no_level_by_more_than_1e_12(bits, d):
    book = lloyd_max(bits, d)
    law = Coordinate(d)
    c = book.levels[len(book.levels) // 2 :]
    edges = np.concatenate(([0.0], (c[1:] + c[:-1]) / 2))
    nodes, weights = np.polynomial.legendre.leggauss(60)  # another rule than the code's
    low, high = edges[:-1, None], edges[1:, None]
    t = (low + high) / 2 + (high - low) / 2 * nodes
    f = law.density(t) * weights
    means = np.append((t * f).sum(1) / f.sum(1), law.mean_above(edges[-1:]) / law.above(edges[-1:]))
    assert np.abs(means - c).max() < 1e-12


def test_three_dimensions_are_uniform_so_levels_are_equally_spaced():
    """Archimedes: a coordinate of a point on the sphere in R^3 is uniform."""
    assert lloyd_max(3, 3).levels == pytest.approx(math.sqrt(3) * (np.arange(8) - 3.5) / 4, abs=1e-12)
    assert lloyd_max(3, 3).distortion == pytest.approx(4.0**-3, abs=1e-12)


def test_the_sphere_tends_to_the_gaussian():
    gaps = [abs(lloyd_max(4, d).distortion - lloyd_max(4).distortion) for d in (16, 128, 1024)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 3e-5


@settings(max_examples=40, deadline=None)
@given(bits=st.floats(0.25, 8), d=st.one_of(st.none(), st.integers(3, 5000)))
def test_uniform_cells_have_the_entropy_asked_for(bits, d):
    book = uniform(bits, d)
    assert book.entropy == pytest.approx(bits, abs=1e-9)
    assert np.ptp(np.diff(book.thresholds)) < 1e-9


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_entropy_coded_uniform_cells_lie_a_quarter_bit_from_the_bound(bits):
    """Gish and Pierce 1968: 0.2546 bit at high rates, at most that below."""
    gap = bits + 0.5 * math.log2(uniform(float(bits)).distortion)
    assert 0.25 < gap < 0.2547


def test_nobody_can_write_into_a_codebook_that_all_share():
    with pytest.raises(ValueError, match="read-only"):
        lloyd_max(2).levels[0] = 0.0


@pytest.mark.parametrize("bits", [0, 9])
def test_widths_outside_1_to_8_are_refused(bits):
    with pytest.raises(ValueError, match="1 to 8"):
        lloyd_max(bits)
