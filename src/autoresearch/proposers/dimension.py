"""One constant that can be searched: its range, its scale, and what a natural step on it is.

Every dimension has a coordinate in which a step of 1 is the natural first try: a factor of two for rates and batch
sizes, half the distance to one for betas, a quarter for fractions, the next rung for anything that comes in rungs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from autoresearch.proposers.constants import Scalar

PATTERN = re.compile(r"[SL]+\Z")  # of attention windows, short and long


class Scale(StrEnum):
    """How a value becomes a coordinate."""

    LOG = "log"  # log2(value)
    BETA = "beta"  # -log2(1 - value)
    LINEAR = "linear"  # 4 * value
    LADDER = "ladder"  # index among the legal values
    CHOICE = "choice"  # index too, and neighbours have nothing in common


@dataclass(frozen=True)
class Dimension:
    """One constant (or element of a tuple) that can be searched. `low` and `high` are coordinates, both allowed.

    weights: of a choice, how early each of the rungs is worth a try. zero: of a ladder, the value that a 0 stands for.
    """

    name: str
    scale: Scale
    low: float
    high: float
    rungs: tuple[Scalar, ...] = ()
    weight: float = 0.3  # 0..1: how early it is worth a try
    first: int = 1  # direction of the first try
    weights: tuple[float, ...] = ()
    zero: float | None = None

    @property
    def has_rungs(self) -> bool:
        """Whether its values are listed."""
        return self.scale in (Scale.LADDER, Scale.CHOICE)

    def coordinate(self, value: Scalar) -> float:
        """Where `value` lies. Where values are listed it must be one of them."""
        if self.has_rungs:
            return float(self.rungs.index(value))
        number = float(value)
        if self.scale is Scale.LINEAR:
            return 4.0 * number
        return math.log2(number) if self.scale is Scale.LOG else -math.log2(1.0 - number)

    def value_at(self, coordinate: float) -> Scalar:
        """The value there, clamped to the range and rounded so that an edit reads well (two significant digits)."""
        inside = min(max(coordinate, self.low), self.high)
        if self.has_rungs:
            return self.rungs[round(inside)]
        if self.scale is Scale.LINEAR:
            return round(inside / 4.0, 2)
        if self.scale is Scale.LOG:
            return round_to(2.0**inside, 2)
        return round(1.0 - round_to(2.0**-inside, 2), 9)

    def holds(self, value: Scalar) -> bool:
        """Whether a value found in some file can be placed on this dimension, if need be by widening it."""
        if self.has_rungs:
            if isinstance(value, str):
                is_pattern = isinstance(self.rungs[0], str) and PATTERN.match(self.rungs[0]) is not None
                return value in self.rungs or (is_pattern and PATTERN.match(value) is not None)
            return value in self.rungs or (is_number(value) and all(is_number(rung) for rung in self.rungs))
        if not is_number(value) or not math.isfinite(float(value)):
            return False
        number = float(value)
        return {Scale.LINEAR: 0.0 <= number <= 1.0, Scale.BETA: 0.0 <= number < 1.0}.get(self.scale, number > 0.0)

    def contains(self, value: Scalar) -> bool:
        """Whether a value lies within the range as it is."""
        if self.has_rungs:
            return value in self.rungs
        return self.holds(value) and self.low <= self.coordinate(value) <= self.high

    def widened(self, values: Iterable[Scalar]) -> Dimension:
        """This dimension with room for every value that it can hold."""
        kept = [value for value in values if self.holds(value)]
        if self.has_rungs:
            missing = {value for value in kept if value not in self.rungs}
            if not missing:
                return self
            rungs = tuple(sorted({*self.rungs, *missing}, key=self._order))
            if self.scale is Scale.CHOICE:
                rungs = (*self.rungs, *(rung for rung in rungs if rung in missing))
            return replace(self, rungs=rungs, high=float(len(rungs) - 1))
        spots = [self.coordinate(value) for value in kept]
        return replace(self, low=min([self.low, *spots]), high=max([self.high, *spots]))

    def _order(self, rung: Scalar) -> tuple[float, float]:
        return rung_order(self.zero if self.zero is not None and rung == 0 else rung)


def round_to(number: float, digits: int) -> float:
    """`number` with that many significant digits."""
    return float(f"{number:.{digits}g}")


def ladder(name: str, rungs: Iterable[Scalar], weight: float = 0.3, first: int = 1) -> Dimension:
    values = tuple(rungs)
    return Dimension(name, Scale.LADDER, 0.0, float(len(values) - 1), values, weight, first)


def rung_order(value: Scalar) -> tuple[float, float]:
    """Numbers by size; patterns by their share of full layers, a longer pattern first."""
    return (value.count("L") / len(value), -len(value)) if isinstance(value, str) else (float(value), 0.0)


def doublings(value: int, reach: int) -> list[int]:
    """Whole numbers among value / 2**reach ... value * 2**reach."""
    halves = [value >> k for k in range(reach, 0, -1) if value % (1 << k) == 0]
    return [v for v in halves if v >= 1] + [value << k for k in range(reach + 1)]


def is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def movable_together(dimensions: Mapping[str, Dimension]) -> list[str]:
    """Names of those that a joint step can move: all but choices among things without an order."""
    return [name for name, dimension in dimensions.items() if dimension.scale is not Scale.CHOICE]
