"""A trial beside others of its commit and of the baseline: did it run as fast as usual, or did neighbours disturb it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autoresearch.contract.rules import Clock, Rules
from autoresearch.loop.orders import allowance
from autoresearch.records.ledger import TrialRow
from autoresearch.vocabulary import Outcome, Trial

_SPEED_BAND = 0.15  # of this commit's own median tokens/s: facts measured 0.94 and more of it when left alone

# Below this share of a core the neighbours had the machine. The CPU clock itself forgives a lot: the baseline on `tiny`
# measured 23.6, 22.5, 21.5 and 21.4 thousand tokens per CPU second at shares of 84, 56, 44 and 36 %.
DISTURBED_CPU_SHARE = 0.5
_HANGS_BELOW = 0.05  # of a core: at load 9 a starved candidate had 0.2 of one


def score_of(row: TrialRow) -> float | None:
    """The row's score when it says something about its commit: finished, and left alone by the neighbours."""
    return row.trial.score if row.trial and not row.trial.disturbed else None


def median_speed(rows: Sequence[TrialRow]) -> float | None:
    """Median tokens per second of the undisturbed trials that have a score; None without one."""
    speeds = [
        row.trial.tok_sec for row in rows if row.trial and row.trial.val_bpb is not None and not row.trial.disturbed
    ]
    return statistics.median(speeds) if speeds else None


def allowances(baseline: Sequence[TrialRow], rules: Rules) -> dict[str, Any]:
    """What a candidate may do before the clock and while it is examined, from the baseline's own trials: of an `Order`."""
    trials = [row.trial for row in baseline if row.trial and row.trial.val_bpb is not None]
    return {
        "startup_allowance": allowance([trial.startup_used for trial in trials], rules),
        "exam_allowance": allowance([trial.exam_used for trial in trials], rules),
        "usual_tok_sec": median_speed(baseline) or 0.0,
    }


def accepted(trials: Sequence[Trial], reruns: int) -> Trial | None:
    """Of the trials of one seed, oldest first, the one that counts; None while another is due.

    The last one that was left alone, else the last once it was repeated `reruns` times.
    """
    ended = [trial for trial in trials if trial.outcome is not Outcome.ABANDONED]
    undisturbed = [trial for trial in ended if not trial.disturbed]
    if undisturbed:
        return undisturbed[-1]
    return ended[-1] if len(ended) > reruns else None


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


def disturbance(share: float | None, rules: Rules, *, is_over: bool = False) -> str:
    """Why the neighbours spoiled a run, or ""; is_over: it ran out of wall time, which one that hangs does by itself."""
    if rules.clock is not Clock.CPU or share is None or share >= DISTURBED_CPU_SHARE:
        return ""
    if is_over and share < _HANGS_BELOW:
        return ""
    return f"the candidate had {share:.0%} of a core while training: neighbours used the machine"
