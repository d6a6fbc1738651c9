"""The parts of a step, and batches of the evaluation, timed with a clock that is passed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.backends.runtime import Runtime
from autoresearch.bench.phases import DATA, OPTIMIZER, Phases
from autoresearch.bench.sampling import Sampling
from autoresearch.contract.channel import answers_of
from autoresearch.contract.examination import AskAudit, AskClaim
from autoresearch.contract.rules import Rules

EVAL_BATCHES = 3  # timed after one that is not


def time_parts(
    phases: Phases,
    batches: Iterator[tuple[Any, Any, int]],
    num_micro_steps: int,
    sampling: Sampling,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
) -> list[dict[str, float]]:
    """Seconds by `clock` of each part of every step, warm-up included, until the sampling has enough.

    The device is waited for at every boundary, so what one part leaves running is not counted in the next. That costs
    an accelerator the overlap of parts: their sum may exceed a whole step, which is measured without any of this.
    """
    steps = []
    while not sampling.is_enough:
        parts = dict.fromkeys((DATA, *phases.passes, OPTIMIZER), 0.0)
        phases.wait()
        wall_began = wall_clock()
        last = clock()

        def lap(name: str, parts: dict[str, float] = parts) -> None:
            nonlocal last
            phases.wait()
            now = clock()
            parts[name] += now - last
            last = now

        for _ in range(num_micro_steps):
            inputs, targets, _epoch = next(batches)
            lap(DATA)
            for name, run in zip(phases.passes, phases.micro_step(inputs, targets), strict=True):
                run()
                lap(name)
        phases.update()
        lap(OPTIMIZER)
        steps.append(parts)
        sampling.add(sum(parts.values()), wall_clock() - wall_began)
    return steps


def num_eval_batches(rules: Rules, rows: int) -> int:
    """Batches of `rows` rows that the screening of one slice asks for: claims, and prefixes before and after them."""
    rows = max(1, min(rows, rules.num_eval_rows))
    questions = (rules.num_eval_rows, rules.num_prefix_rows, math.ceil(rules.num_prefix_rows / 2))
    return sum(math.ceil(lines / rows) for lines in questions)


def time_evaluation(
    model: Any,
    runtime: Runtime,
    eval_rows: NDArray[np.unsignedinteger[Any]],
    rules: Rules,
    rows: int,
    clock: Callable[[], float],
) -> list[float]:
    """Seconds of EVAL_BATCHES batches of the evaluation on the candidate's side: a claim, and the audit of some of it.

    eval_rows: [n, T + 1]; lines repeat where it holds fewer than a batch. What the referee works out meanwhile is its
    own time, and small beside a forward pass.
    """
    answer = answers_of(model, runtime)
    rows = max(1, min(rows, rules.num_eval_rows))
    whole = eval_rows[np.resize(np.arange(len(eval_rows)), rows)].astype(np.int64)
    claim = AskClaim(inputs=whole[:, :-1].copy(), targets=whole[:, 1:].copy())
    places = np.zeros(rules.num_audits_per_batch, dtype=np.int64)
    seconds = []
    for _ in range(1 + EVAL_BATCHES):
        began = clock()
        answer(claim)
        answer(AskAudit(rows=places, columns=places))
        seconds.append(clock() - began)
    return seconds[1:]
