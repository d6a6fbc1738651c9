"""The budget of one trial: when the stream of batches starts to count and when it ends."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise

from autoresearch.contract.rules import Clock, Rules


def own_cpu_seconds() -> float:
    """CPU seconds of this process and of the children it has waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


class Budget:
    """Counts the contract's clock from the first batch handed out.

    `cpu_seconds` reads the CPU seconds of whoever trains; it is only asked under the CPU clock. Under that clock, wall
    time spent waiting for data counts too (`add_wait`), so that a starved candidate cannot train longer than its peers.
    """

    def __init__(
        self, rules: Rules, cpu_seconds: Callable[[], float], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._rules = rules
        self._cpu_seconds = cpu_seconds
        self._monotonic = monotonic
        self._origin: float | None = None
        self._wall_origin = 0.0
        self._waited = 0.0
        self._charged = 0.0
        self._handed_out = 0
        self._asked_at: deque[float] = deque(maxlen=4)

    @property
    def started(self) -> bool:
        return self._origin is not None

    def _now(self) -> float:
        if self._rules.clock is Clock.STEPS:
            return float(self._handed_out)
        if self._rules.clock is Clock.CPU:
            return self._cpu_seconds() + self._waited
        return self._monotonic()

    def used(self) -> float:
        """Budget used so far, in the clock's unit (seconds, CPU seconds or micro-steps); 0 before the first batch."""
        return 0.0 if self._origin is None else self._now() - self._origin + self._charged

    def wall_seconds(self) -> float:
        """Wall seconds since the first batch was handed out; 0 before."""
        return 0.0 if self._origin is None else self._monotonic() - self._wall_origin

    def progress(self) -> float:
        """`used` over the budget, in 0..1: what schedules are driven by."""
        return min(1.0, self.used() / self._rules.time_budget)

    def add_wait(self, seconds: float) -> None:
        """Charge wall time in which the candidate waited for data."""
        if self.started:
            self._waited += seconds

    def now(self) -> float:
        """The clock's reading, in its unit, from a beginning of its own: for time before the first batch."""
        return self._now()

    def charge(self, amount: float) -> None:
        """Count start-up that went beyond what is allowed for it as used. Steps are not charged: nothing else counts."""
        if self._rules.clock is not Clock.STEPS:
            self._charged += max(0.0, amount)

    def another_batch(self) -> bool:
        """Whether one more batch may be handed out now. The first call starts the clock.

        The stream also ends when a micro-step as long as the recent ones would overrun budget and grace: a candidate
        with long steps loses the rest of its budget rather than the trial.
        """
        if self._origin is None:
            self._wall_origin = self._monotonic()
            self._origin = self._now()
        used = self.used()
        self._asked_at.append(used)
        if used >= self._rules.time_budget:
            return False
        if self._rules.clock is not Clock.STEPS and len(self._asked_at) > 1:
            asked = list(self._asked_at)
            longest = max(later - earlier for earlier, later in pairwise(asked))
            if used + longest > self._rules.time_budget + self._rules.grace:
                return False
        self._handed_out += 1
        return True

    def overrun(self) -> bool:
        """True when budget and grace are both spent. Steps have no grace: none is handed out beyond the budget."""
        if self._rules.clock is Clock.STEPS:
            return False
        return self.used() > self._rules.time_budget + self._rules.grace
