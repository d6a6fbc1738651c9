"""Intervals of what a benchmark measures: of a difference in bits per byte, paired over rows, and of a mean over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval. The bounds are None where one sample cannot give them."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def half_width(self) -> float | None:
        """Half of the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def as_json(self) -> dict[str, float | None]:
        """The three numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high}


def interval_from_json(values: dict[str, Any]) -> Interval:
    """What `Interval.as_json` wrote."""
    return Interval(values["value"], values["low"], values["high"])


def around(value: float, half_width: float | None) -> Interval:
    """The interval of that half-width around a value."""
    return Interval(value) if half_width is None else Interval(value, value - half_width, value + half_width)


def paired_loss(before: Floats, after: Floats, num_bytes: NDArray[np.integer[Any]]) -> Interval:
    """What a change costs in bits per byte of text, with its 95 % interval over rows; positive is worse.

    All arrays are [num_rows], of the same rows: bits before, bits after, bytes of text. The estimate is the ratio
    R = sum(d) / sum(b), where d = after - before; it equals the difference of the two val_bpb exactly. Its variance is the
    delta method's (Cochran, Sampling Techniques, 1977, section 2.11): with n rows and mean bytes B,

        var(R) = sum((d - R b)^2) / (n (n - 1) B^2),

    and the interval is R +- t(n - 1) sqrt(var(R)). Rows count as drawn independently from text like this; neighbouring rows
    of one long document resemble each other, so the interval is, if anything, a little narrow.

    Raises:
        ValueError: no rows, no bytes, or arrays of different lengths.
    """
    if not len(before) == len(after) == len(num_bytes) or not len(before):
        raise ValueError(f"rows do not pair: {len(before)} before, {len(after)} after, {len(num_bytes)} of bytes")
    total = float(num_bytes.sum())
    if total <= 0:
        raise ValueError("the rows hold no bytes of text")
    difference = after.astype(np.float64) - before.astype(np.float64)
    ratio = math.fsum(difference.tolist()) / total
    n = len(difference)
    if n < 2:
        return Interval(ratio)
    residual = difference - ratio * num_bytes
    error = math.sqrt(float(np.square(residual).sum()) / (n * (n - 1))) / (total / n)
    return around(ratio, student_t(n - 1) * error)


def mean_over(values: Sequence[float]) -> Interval:
    """The mean of independent repeats with its 95 % interval, Student's t; no interval of a single one.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to average")
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean)
    return around(mean, student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values)))


def together(*parts: Interval) -> Interval:
    """One estimate, uncertain for several independent reasons: the first's value, half-widths added in squares."""
    widths = [part.half_width for part in parts if part.half_width is not None]
    return around(parts[0].value, math.sqrt(math.fsum(width**2 for width in widths)) if widths else None)


def student_t(degrees: int) -> float:
    """97.5 % point of Student's t.

    Raises:
        ValueError: fewer than one degree of freedom.
    """
    from scipy.special import stdtrit

    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom")
    return float(stdtrit(degrees, (1 + _CONFIDENCE) / 2))
