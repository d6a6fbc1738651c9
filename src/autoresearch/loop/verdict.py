"""Keep, discard or ask again: pure functions of scores and noise. No clock, no disk, no git.

First cut of the rule: a sequential test with the pooled noise of repeated trials. One trial decides clear losers; a
promising candidate is repeated, paired with the incumbent, until it is probably better, falls away, or repeats run out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from autoresearch.vocabulary import Outcome, Status, Verdict

_NORMAL = NormalDist()
_Z95 = _NORMAL.inv_cdf(0.975)


@dataclass(frozen=True)
class Policy:
    """Thresholds on the probability that the candidate is better than the incumbent.

    keep: about 0.8 gives the most true gain per run in the design's simulation. repeat: below it one trial decides.
    drop: with pairs, below it the candidate has fallen away. max_pairs bounds what one idea may cost.
    """

    keep: float = 0.8
    repeat: float = 0.65
    drop: float = 0.5
    min_trials: int = 2
    max_pairs: int = 3


@dataclass(frozen=True)
class Noise:
    """Standard deviation of one trial's val_bpb. `measured` is None before any repeat; `sd` is pooled with the prior."""

    sd: float
    measured: float | None
    degrees: int


@dataclass(frozen=True)
class Estimate:
    """A mean val_bpb on the search slice and its standard error."""

    mean: float
    error: float


@dataclass(frozen=True)
class Evidence:
    """What is known of one candidate. Scores are val_bpb; disturbed runs are not among them.

    first: its scores on the search slice. pairs: (candidate, incumbent) on the confirm slice, same seed, run together.
    """

    incumbent: Estimate
    first: Sequence[float]
    pairs: Sequence[tuple[float, float]]
    noise: float


def noise_of(groups: Sequence[Sequence[float]], *, prior: float, prior_weight: float) -> Noise:
    """Pooled within-group standard deviation of repeated scores, shrunk towards `prior`.

    Each group holds repeats of one commit on one slice. The prior counts as `prior_weight` degrees of freedom
    (scaled-inverse-chi-square pooling; Gelman et al., Bayesian Data Analysis, 3rd ed., section 2.6): the spread of three
    runs alone is off by a factor of two in one case of five, and a lucky small one would keep luck.
    """
    squares = 0.0
    degrees = 0
    for scores in groups:
        if len(scores) > 1:
            mean = math.fsum(scores) / len(scores)
            squares += math.fsum((score - mean) ** 2 for score in scores)
            degrees += len(scores) - 1
    measured = math.sqrt(squares / degrees) if degrees else None
    pooled = math.sqrt((squares + prior_weight * prior**2) / (degrees + prior_weight))
    return Noise(pooled, measured, degrees)


def estimate_of(scores: Sequence[float], noise: float, prior: Estimate | None = None) -> Estimate | None:
    """Mean of a commit from its scores on the search slice and, if it won its place in pairs, the estimate from then."""
    if not scores:
        return prior
    mean = math.fsum(scores) / len(scores)
    own = Estimate(mean, noise / math.sqrt(len(scores)))
    return own if prior is None else _combine(own, prior)


def judge(evidence: Evidence, policy: Policy) -> Verdict:
    """The verdict, or a request for one more pair (status None)."""
    gain, error = _gain(evidence)
    p_better = _NORMAL.cdf(gain / error)
    num_trials = len(evidence.first) + len(evidence.pairs)
    status, reason = _decide(p_better, gain, num_trials, len(evidence.pairs), policy)
    return Verdict(
        status=status,
        reason=reason,
        p_better=p_better,
        estimate=evidence.incumbent.mean - gain,
        interval=(gain - _Z95 * error, gain + _Z95 * error),
        gain=gain,
        noise=evidence.noise,
        num_trials=num_trials,
    )


def judge_failure(outcome: Outcome, reason: str) -> Verdict:
    """The verdict on a candidate that has no score: rejected ones are discarded, all others crashed."""
    status = Status.DISCARD if outcome is Outcome.REJECTED else Status.CRASH
    return Verdict(status=status, reason=f"{outcome}: {reason}" if reason else str(outcome), num_trials=1)


def _gain(evidence: Evidence) -> tuple[float, float]:
    """Estimated gain (incumbent minus candidate; positive is better) and its standard error."""
    found: Estimate | None = None
    if evidence.first:
        mean = math.fsum(evidence.first) / len(evidence.first)
        error = math.hypot(evidence.noise / math.sqrt(len(evidence.first)), evidence.incumbent.error)
        found = Estimate(evidence.incumbent.mean - mean, error)
    if evidence.pairs:
        apart = [incumbent - candidate for candidate, incumbent in evidence.pairs]
        paired = Estimate(math.fsum(apart) / len(apart), evidence.noise * math.sqrt(2 / len(apart)))
        found = paired if found is None else _combine(found, paired)
    if found is None:
        raise ValueError("a verdict needs at least one score of the candidate")
    return found.mean, found.error


def _combine(one: Estimate, other: Estimate) -> Estimate:
    """Two independent estimates of the same number, weighted by precision."""
    weight, other_weight = one.error**-2, other.error**-2
    mean = (one.mean * weight + other.mean * other_weight) / (weight + other_weight)
    return Estimate(mean, (weight + other_weight) ** -0.5)


def _decide(p_better: float, gain: float, num_trials: int, num_pairs: int, policy: Policy) -> tuple[Status | None, str]:
    said = f"gain {gain:+.4f}, P(better) {p_better:.2f}"
    if num_pairs == 0 and p_better < policy.repeat:
        return Status.DISCARD, f"{said}: not promising enough to repeat"
    if num_trials >= policy.min_trials and p_better >= policy.keep:
        return Status.KEEP, f"{said} after {num_trials} trials"
    if num_pairs and p_better < policy.drop:
        return Status.DISCARD, f"{said}: fell away when repeated"
    if num_pairs >= policy.max_pairs:
        return Status.DISCARD, f"{said}: not shown to be better after {num_pairs} pairs"
    return None, f"{said}: promising, to be repeated beside the incumbent"
