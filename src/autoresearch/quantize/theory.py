"""What theory says of quantizing Gaussian weights: the distortion of each kind of code, and the bound below them all.

Distortion D is the mean squared error over the mean square; SQNR is -10 log10 D in decibels. A random rotation makes the
coordinates of any weight vector nearly Gaussian (TurboQuant, arXiv:2504.19874), so these hold for rotated weights of every
model, and a code that uses no calibration text cannot do better than `bound` on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

# Scalar Lloyd-Max quantizer of N(0, 1) by bits per weight (Max 1960, "Quantizing for minimum distortion"), solved to 1e-12;
# tests/quantize/test_theory.py iterates it again.
LLOYD_MAX: Mapping[int, float] = {
    1: 0.3633802,
    2: 0.1174818,
    3: 0.0345478,
    4: 0.0095010,
    5: 0.0025047,
    6: 0.00064424,
    7: 0.00016348,
    8: 0.000041185,
}

# Mean square error of what QJL makes of a residual r, over |r|^2, as the dimension d grows. It answers
# e = sqrt(pi/2) |r| / d * S^T sign(S r) with d Gaussian projections S (arXiv:2406.03482): E<r, e> = |r|^2 because it is
# unbiased, E|e|^2 = (1 + pi/2) |r|^2, so E|r - e|^2 = (pi/2) |r|^2. Sampled at d = 256: 1.589.
QJL_FACTOR = math.pi / 2


def bound(bits_per_weight: float) -> float:
    """Least distortion of any code of that rate on Gaussian weights: 4^-b (Shannon's rate-distortion function)."""
    return float(4.0**-bits_per_weight)


def expected_distortion(method: str, bits: float) -> float | None:
    """What theory predicts of a method at `bits` per weight, its scales not counted; None where it predicts nothing.

    TurboQuant's form for reconstruction reaches LLOYD_MAX, and so does Lloyd-Max without rotation where weights are Gaussian
    already. The inner-product form spends one of its bits on QJL, which only makes the remaining error larger.
    """
    if bits != int(bits):
        return None
    whole = int(bits)
    if method in ("turboquant", "lloyd_max"):
        return LLOYD_MAX.get(whole)
    if method == "turboquant_ip":
        left = 1.0 if whole == 1 else LLOYD_MAX.get(whole - 1)
        return None if left is None else left * QJL_FACTOR
    return None


def sqnr_db(distortion: float) -> float | None:
    """Signal to quantization noise in decibels; None without any noise."""
    return -10 * math.log10(distortion) if distortion > 0 else None


def bits_above_bound(distortion: float, bits_per_weight: float) -> float | None:
    """Bits per weight spent beyond the best code of equal distortion, scales included; None without noise."""
    return bits_per_weight + math.log2(distortion) / 2 if distortion > 0 else None
