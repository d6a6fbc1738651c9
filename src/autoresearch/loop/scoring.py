"""The score of given weights under an experiment file: a fresh sealed process rebuilds the model, and is examined.

The weights are ours by then (quantized and brought back), the file is not: what it makes of them is held to the same
examination as a trial, in a process that has seen no training text and no whole row before. Any architecture can be scored
so, edited or not, as long as its file defines `load_model(weights)`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.bpb import byte_bearing, row_bytes, row_nats
from autoresearch.contract.deep_examination import DeeplyExamined
from autoresearch.contract.examination import Examined
from autoresearch.hostile_text import one_line
from autoresearch.loop import run_log
from autoresearch.loop.candidate import Candidate, worth_preloading
from autoresearch.loop.conversation import Ended
from autoresearch.loop.interview import Interview
from autoresearch.loop.objective import Objective
from autoresearch.loop.orders import Arena, Glimpse, Order, TrialRun
from autoresearch.loop.spare import start_candidate
from autoresearch.loop.weights import bare, check_weights
from autoresearch.vocabulary import Examination, Outcome, Slice, Trial, UnfitWeights

Result = TypeVar("Result", Examined, DeeplyExamined)


@dataclass(frozen=True)
class Scored:
    """How one scoring ended. val_bpb and the arrays are None unless the outcome is FINISHED; `reason` says why.

    row_bits float64 [N], row_bytes int64 [N]: of each row of the slice, in its order, the same rows every time; their sums
    give val_bpb. Seconds are wall seconds, memory MiB. `log` is what the file's processes said.
    """

    outcome: Outcome
    reason: str = ""
    val_bpb: float | None = None
    row_bits: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    row_bytes: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)
    examined: Examination = Examination.NONE
    screening: Examined | None = field(default=None, repr=False, compare=False)
    deep: DeeplyExamined | None = None
    seconds: float = 0.0
    deep_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    log: str = field(default="", repr=False)


def sealed_scorer(
    arena: Arena,
    files: Mapping[str, str],
    entry: str,
    *,
    batch_size: int,
    part: Slice = Slice.SEARCH,
    stop: threading.Event | None = None,
) -> Callable[[bytes], Scored]:
    """A function from weights (safetensors) to their score under these files, whose main one is `entry`.

    batch_size: rows of a forward pass, as the file asked for in its trial (`Trial.exam_batch_size`). Each call is screened by
    a process of its own; nothing is carried from one to the next.
    """
    order = Order(files, entry, seed=0, slice=part)  # the seed is for training: nothing here draws from it

    def score(weights: bytes) -> Scored:
        return score_weights(arena, order, weights, batch_size=batch_size, stop=stop)

    return score


def score_weights(
    arena: Arena,
    order: Order,
    weights: bytes,
    *,
    batch_size: int,
    fresh: Callable[[], Candidate] | None = None,
    stop: threading.Event | None = None,
) -> Scored:
    """Have a fresh process of the order's file rebuild these weights, and examine it on the order's slice.

    Where the order has a deep wish that wants this score, a second fresh process is examined deeply against the claims of the
    first; without a wish an implausible score is refused. A failure of the file is a value. A set `stop` ends it as ABANDONED.

    Raises:
        InstallationError: our launcher does not start.
    """
    return _Scoring(arena, order, weights, batch_size, fresh, stop or threading.Event()).go()


class _Scoring:
    """The state of one scoring while it runs."""

    def __init__(
        self,
        arena: Arena,
        order: Order,
        weights: bytes,
        batch_size: int,
        fresh: Callable[[], Candidate] | None,
        stop: threading.Event,
    ) -> None:
        self._arena = arena
        self._order = order
        self._weights = weights
        self._batch_size = batch_size
        self._stop = stop
        self._fresh = fresh or (lambda: start_candidate(arena, worth_preloading(order.files[order.entry])))
        self._log = ""
        self._peak_memory = 0.0
        self._deep_seconds = 0.0

    def go(self) -> Scored:
        began = time.monotonic()
        examined: Examined | None = None
        deep: DeeplyExamined | None = None
        try:
            check_weights(self._weights)
            self._weights = bare(self._weights)
            examined = self._with_process("score.log", lambda talk: talk.screen(self._weights, self._batch_size))
            deep = self._examine_deeply(examined)
            reason = deep.reason if deep else examined.reason
            outcome = Outcome.REJECTED if reason else Outcome.FINISHED
        except Ended as ended:
            outcome, reason = ended.outcome, ended.reason
        scored = Scored(
            outcome,
            reason,
            screening=examined,
            deep=deep,
            seconds=time.monotonic() - began,
            deep_seconds=self._deep_seconds,
            peak_memory_mb=self._peak_memory,
            log=self._log,
        )
        if outcome is not Outcome.FINISHED or examined is None or examined.claims is None:
            return scored
        rows = self._arena.prepared.rows(self._order.slice)
        token_bytes = self._arena.prepared.tokenizer.token_bytes
        nats = row_nats(examined.claims, byte_bearing(rows, token_bytes))
        return replace(
            scored,
            val_bpb=examined.val_bpb,
            row_bits=nats / math.log(2),
            row_bytes=row_bytes(rows, token_bytes),
            examined=Examination.SCREENED if deep is None else Examination.DEEP,
        )

    def _examine_deeply(self, examined: Examined) -> DeeplyExamined | None:
        if examined.val_bpb is None or examined.claims is None:
            return None
        wish, claims = self._order.deep, examined.claims
        if wish is None:
            if examined.is_implausible:
                raise Ended(Outcome.REJECTED, f"val_bpb {examined.val_bpb:.4f} is below what any such model can reach")
            return None
        if not (examined.is_implausible or wish.wanted(examined.val_bpb)):
            return None
        began = time.monotonic()
        try:
            return self._with_process("deep.log", lambda talk: talk.hold(self._weights, claims, self._batch_size))
        except Ended as ended:
            outcome = Outcome.REJECTED if ended.outcome is Outcome.DIVERGED else ended.outcome
            raise Ended(outcome, f"deep examination: {ended.reason}") from ended
        finally:
            self._deep_seconds = time.monotonic() - began

    def _with_process(self, log_name: str, talk: Callable[[Interview], Result]) -> Result:
        """What comes of talking with one fresh process, which is gone afterwards."""
        candidate = self._fresh()
        log_path = candidate.folder / log_name
        interview = Interview(self._arena, self._order, candidate, log_path, self._stop)
        try:
            return talk(interview)
        finally:
            candidate.close_log()
            self._log += run_log.read_log(log_path)
            self._peak_memory = max(self._peak_memory, interview.peak_memory)
            candidate.close()


def trained_for(order: Order) -> Order:
    """The order of a trial whose weights are scored under an objective: what is judged is examined deeply, and only that."""
    return order if order.deep is None else replace(order, deep=replace(order.deep, wanted=lambda _score: False))


def scored_under(
    objective: Objective,
    arena: Arena,
    order: Order,
    done: TrialRun,
    fresh: Callable[[], Candidate] | None = None,
    on_glimpse: Callable[[Glimpse], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> TrialRun:
    """The trial with the score that a verdict rests on: that of its weights as the objective transforms them.

    A trial that has no score comes back as it is. One whose transformed weights cannot be scored has none either: the outcome
    and the reason are then those of the scoring. The time it took is part of the trial's.

    Raises:
        InstallationError: our launcher does not start.
    """
    trial = replace(done.trial, objective=objective.name)
    if done.weights is None or trial.val_bpb is None:
        return replace(done, trial=trial)
    on_glimpse(Glimpse("objective", step=trial.num_steps, progress=1.0, tok_sec=trial.tok_sec))
    began = time.monotonic()
    try:
        weights = objective.transform(done.weights)
    except UnfitWeights as error:
        scored = Scored(Outcome.REJECTED, one_line(error.message, 300))
    else:
        scored = score_weights(arena, order, weights, batch_size=trial.exam_batch_size, fresh=fresh, stop=stop)
    return TrialRun(
        _with_score(trial, scored, time.monotonic() - began),
        f"{done.log}\n--- {objective.name} ---\n{scored.log}" if scored.log else done.log,
        done.weights if scored.outcome is Outcome.FINISHED else None,
    )


def _with_score(trial: Trial, scored: Scored, seconds: float) -> Trial:
    """The trial with what its scoring took and found."""
    deep = scored.deep
    is_abandoned = scored.outcome is Outcome.ABANDONED
    reason = f"{trial.objective}: {scored.reason}" if scored.reason and not is_abandoned else scored.reason
    return replace(
        trial,
        outcome=scored.outcome,
        reason=reason,
        val_bpb=trial.val_bpb if scored.outcome is Outcome.FINISHED else None,
        objective_bpb=scored.val_bpb,
        objective_seconds=seconds,
        total_seconds=trial.total_seconds + seconds,
        peak_memory_mb=max(trial.peak_memory_mb, scored.peak_memory_mb),
        # what the judged score rests on
        examined=scored.examined,
        deep_seconds=trial.deep_seconds + scored.deep_seconds,
        deep_prefixes=trial.deep_prefixes + (deep.num_prefixes if deep else 0),
        leak_bpb=deep.leak_bpb if deep else None,
        leak_interval_bpb=deep.leak_interval_bpb if deep else None,
        leak_bound_bpb=deep.bound_bpb if deep else None,
        log_tail=run_log.tail_of(scored.log) if scored.reason and scored.log else trial.log_tail,
    )
