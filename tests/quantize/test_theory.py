"""Theory as it is quoted, worked out again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from autoresearch.quantize import theory


def lloyd_max_distortion(bits: int) -> float:
    """Lloyd's iteration on N(0, 1) until nothing moves."""
    count = 2**bits
    levels = math.sqrt(3) * ndtri((np.arange(count) + 0.5) / count)  # the best density of levels is N(0, 3)
    for _ in range(20_000):
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        mass, density = np.diff(ndtr(edges)), np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
        moved = -np.diff(density) / mass
        done = np.abs(moved - levels).max() < 1e-11
        levels = moved
        if done:
            break
    return float(1 - np.sum(levels**2 * mass))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_distortions_of_lloyd_max_are_the_fixed_points_of_lloyds_iteration(bits):
    assert theory.LLOYD_MAX[bits] == pytest.approx(lloyd_max_distortion(bits), rel=1e-5)


def test_no_method_is_predicted_to_beat_the_bound():
    for method in ("turboquant", "lloyd_max", "turboquant_ip"):
        for bits in range(1, 9):
            assert theory.expected_distortion(method, bits) > theory.bound(bits)


def test_the_inner_product_form_is_predicted_to_be_far_worse_for_reconstruction():
    """pi/2 times the distortion of one bit less: 0.0543 at 4 bits, 5.7 times that of the plain form."""
    assert theory.expected_distortion("turboquant_ip", 4) == pytest.approx(0.0543, abs=1e-4)
    assert theory.expected_distortion("turboquant_ip", 4) / theory.expected_distortion("turboquant", 4) > 5.5


def test_the_square_error_of_qjl_is_half_pi_times_the_residuals():
    random = np.random.default_rng(0)
    d, errors = 256, []
    for _ in range(20):
        projections, residual = random.normal(size=(d, d)), random.normal(size=d)
        residual /= np.linalg.norm(residual)
        answer = math.sqrt(math.pi / 2) / d * projections.T @ np.sign(projections @ residual)
        errors.append(np.sum((residual - answer) ** 2))
    assert np.mean(errors) == pytest.approx(theory.QJL_FACTOR, rel=0.05)


def test_methods_without_a_theory_have_none():
    assert theory.expected_distortion("rtn_asymmetric", 4) is None
    assert theory.expected_distortion("turboquant", 2.5) is None


def test_four_bits_of_lloyd_max_lie_two_thirds_of_a_bit_above_the_bound():
    assert theory.bits_above_bound(theory.LLOYD_MAX[4], 4.0) == pytest.approx(0.641, abs=1e-3)
    assert theory.bits_above_bound(theory.bound(3.125), 3.125) == pytest.approx(0.0)
    assert theory.bits_above_bound(0.0, 4.0) is None and theory.sqnr_db(0.0) is None
