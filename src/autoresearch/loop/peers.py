"""A trial beside others of its commit and of the baseline: did it run as fast as usual, or did neighbours disturb it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from autoresearch.contract.rules import Clock
from autoresearch.records.ledger import TrialRow
from autoresearch.vocabulary import Trial

_SPEED_BAND = 0.15  # of this commit's own median tokens/s: facts measured 0.94 and more of it when left alone


def score_of(row: TrialRow) -> float | None:
    """The row's score when it says something about its commit: finished, and left alone by the neighbours."""
    return row.trial.val_bpb if row.trial and not row.trial.disturbed else None


def median_speed(rows: Sequence[TrialRow]) -> float | None:
    """Median tokens per second of the undisturbed trials that have a score; None without one."""
    speeds = [
        row.trial.tok_sec for row in rows if row.trial and row.trial.val_bpb is not None and not row.trial.disturbed
    ]
    return statistics.median(speeds) if speeds else None


def beside_its_peers(trial: Trial, own: Sequence[TrialRow], baseline: Sequence[TrialRow], clock: Clock) -> Trial:
    """The trial with its speed beside the baseline's, and marked when it is far off its own commit's usual speed."""
    usual = median_speed(baseline)
    trial = replace(trial, speed_vs_baseline=trial.tok_sec / usual if usual and trial.tok_sec else None)
    usual_own = median_speed(own)
    counts_steps = clock is Clock.STEPS  # speed does not touch the score there
    if trial.val_bpb is None or trial.disturbed or not usual_own or counts_steps:
        return trial
    ratio = trial.tok_sec / usual_own
    if abs(ratio - 1) > _SPEED_BAND:
        return replace(trial, disturbed=f"ran at {ratio:.0%} of this commit's usual {usual_own:,.0f} tokens/s")
    return trial
