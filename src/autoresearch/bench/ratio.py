"""Two files side by side: the order in which they run, and the ratio with its interval. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# 97.5 % points of Student's t by degrees of freedom, from 1 on: any printed table. Two to eight pairs are what a person
# waits for, and an expansion around the normal point is 44 %, 10 % and 4 % short at 1, 2 and 3 degrees.
STUDENT_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Ratio:
    """Yours over ours in seconds per token: above 1, yours is slower. pairs: of each pair of neighbouring runs.

    interval: 95 %, from Student's t on the logarithms of the pairs; None of a single pair.
    """

    ratio: float
    interval: tuple[float, float] | None
    pairs: tuple[float, ...]


def running_order(rounds: int) -> str:
    """The order of the runs, one letter each: "ABBAAB" for 3. A drift of the machine then meets both files alike."""
    return "".join("AB" if number % 2 == 0 else "BA" for number in range(rounds))


def ratio_of(ours: Sequence[float], yours: Sequence[float]) -> Ratio:
    """The ratio from seconds per token of each run; run i of ours was made next to run i of yours.

    The runs are what is independent, not the steps within one: those share a start, a memory layout and a neighbour.
    """
    logs = [math.log(b / a) for a, b in zip(ours, yours, strict=True)]
    mean = statistics.fmean(logs)
    interval = None
    if len(logs) > 1:
        t = STUDENT_T[min(len(logs) - 1, len(STUDENT_T)) - 1]
        margin = t * statistics.stdev(logs) / math.sqrt(len(logs))
        interval = (math.exp(mean - margin), math.exp(mean + margin))
    return Ratio(math.exp(mean), interval, tuple(math.exp(log) for log in logs))
