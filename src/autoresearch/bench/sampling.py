"""Which steps count: a warm-up that ends by a rule, then a number of samples with median and quartiles. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

LEAST_WARM_UP = 3  # steps never counted: allocation, lazy loading of kernels, a compiler that sees a second shape
WINDOW = 3  # steps on each side of the comparison that ends the warm-up
STABLE_WITHIN = 0.05  # the two windows' medians may differ by this part
MOST_WARM_UP = 20  # steps, after which it is as stable as it gets: a shared machine never settles
MOST_WARM_UP_SECONDS = 60.0  # the same in time, for steps of many seconds
LEAST_SAMPLES = 3  # below it no quartiles are given: nothing was measured


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of samples, in their unit, and how many there were."""

    median: float
    q1: float
    q3: float
    num_samples: int


def spread_of(samples: Sequence[float]) -> Spread:
    """Median and quartiles (linear interpolation, both ends included) of at least one sample."""
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0], 1)
    q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, q1, q3, len(samples))


def warm_up_length(seconds: Sequence[float]) -> int | None:
    """How many of the first steps are warm-up, given the seconds of each step so far; None while it goes on.

    At least LEAST_WARM_UP steps; from then on it ends with the first step at which the median of the last WINDOW steps
    lies within STABLE_WITHIN of the median of the WINDOW steps before. MOST_WARM_UP steps, or MOST_WARM_UP_SECONDS,
    end it in any case.
    """
    spent = 0.0
    for length in range(1, len(seconds) + 1):
        spent += seconds[length - 1]
        if length < LEAST_WARM_UP:
            continue
        if length >= MOST_WARM_UP or spent >= MOST_WARM_UP_SECONDS:
            return length
        if length >= 2 * WINDOW:
            before = statistics.median(seconds[length - 2 * WINDOW : length - WINDOW])
            latest = statistics.median(seconds[length - WINDOW : length])
            if abs(latest - before) <= STABLE_WITHIN * before:
                return length
    return None


@dataclass
class Sampling:
    """Takes the seconds of one step after the other and says when there are enough.

    steps: samples wanted after the warm-up. patience: wall seconds after which fewer are enough, LEAST_SAMPLES at least.
    seconds, wall: of every step, warm-up included, by the clock that counts and by the one on the wall.
    """

    steps: int
    patience: float
    seconds: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def add(self, seconds: float, wall: float) -> None:
        """One more step."""
        self.seconds.append(seconds)
        self.wall.append(wall)

    @property
    def num_warm_up(self) -> int:
        """Steps that do not count; all of them while the warm-up goes on."""
        length = warm_up_length(self.seconds)
        return len(self.seconds) if length is None else length

    @property
    def samples(self) -> list[float]:
        """Seconds of each step that counts."""
        return self.seconds[self.num_warm_up :]

    @property
    def wall_samples(self) -> list[float]:
        """The same by the clock on the wall."""
        return self.wall[self.num_warm_up :]

    @property
    def is_enough(self) -> bool:
        wanted = LEAST_SAMPLES if sum(self.wall) >= self.patience else self.steps
        return len(self.samples) >= wanted
