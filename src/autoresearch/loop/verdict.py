"""Keep, discard or ask again: pure functions of scores and noise. No clock, no disk, no git.

First cut of the rule: a sequential test with the pooled noise of repeated trials. One trial decides clear losers; a
promising candidate is repeated, paired with the incumbent, until it is probably better, falls away, or repeats run out.
An edit that leaves code out need not be better, only not worse by more than half the noise (a test of non-inferiority), as
long as the session has not paid more than one noise for such edits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from autoresearch.vocabulary import Outcome, Status, Verdict

_NORMAL = NormalDist()
_Z95 = _NORMAL.inv_cdf(0.975)


@dataclass(frozen=True)
class Policy:
    """Thresholds on the probability that the candidate is better than the incumbent.

    keep: about 0.8 gives the most true gain per run in the design's simulation. repeat: below it one trial decides.
    drop: with pairs, below it the candidate has fallen away. max_pairs bounds what one idea may cost.

    may_lose: how much worse less code may be, in units of the noise of one trial; may_pay: what such keeps may lose
    together, by what is expected. keep_shorter: what the probability of that has to reach. Three pairs and a first run that all score the same as
    an incumbent known from three runs make it 0.77, so at 0.8 an edit that changes nothing would be left out.
    """

    keep: float = 0.8
    repeat: float = 0.65
    drop: float = 0.5
    min_trials: int = 2
    max_pairs: int = 3
    may_lose: float = 0.5
    may_pay: float = 1.0
    keep_shorter: float = 0.75


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
class Brevity:
    """Lines of code that an edit saves, and the val_bpb that the session's keeps for their brevity cost (`cost_of`)."""

    lines_saved: int = 0
    paid: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """What is known of one candidate. Scores are val_bpb; disturbed runs are not among them.

    first: its scores on the search slice. pairs: (candidate, incumbent) on the confirm slice, same seed, run together.
    """

    incumbent: Estimate
    first: Sequence[float]
    pairs: Sequence[tuple[float, float]]
    noise: float
    brevity: Brevity = Brevity()


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
    said = f"gain {gain:+.4f}, P(better) {p_better:.2f}"
    status, reason = _decide(p_better, said, num_trials, len(evidence.pairs), policy)
    lines = 0
    if status is not Status.KEEP and evidence.brevity.lines_saved and _can_pay(evidence, policy, gain, error):
        may_lose = policy.may_lose * evidence.noise
        p_good = _NORMAL.cdf((gain + may_lose) / error)
        said += f"; {_lines(evidence.brevity)} less, P(at most {may_lose:.4f} worse) {p_good:.2f}"
        as_good = replace(policy, keep=policy.keep_shorter)
        status, reason = _decide(p_good, said, num_trials, len(evidence.pairs), as_good, aim="as good")
        lines = evidence.brevity.lines_saved if status is Status.KEEP else 0
    return Verdict(
        status=status,
        reason=reason,
        p_better=p_better,
        estimate=evidence.incumbent.mean - gain,
        interval=(gain - _Z95 * error, gain + _Z95 * error),
        gain=gain,
        noise=evidence.noise,
        num_trials=num_trials,
        lines_saved=lines,
    )


def cost_of(verdict: Verdict) -> float:
    """val_bpb that a keep for its brevity is expected to have lost: 0 of any other verdict.

    The mean of the loss where there is one, for a normal gain with the verdict's estimate and interval. The estimates alone would
    not do: chosen among many, they flatter.
    """
    if not verdict.lines_saved or verdict.gain is None or verdict.interval is None:
        return 0.0
    return _expected_loss(verdict.gain, (verdict.interval[1] - verdict.interval[0]) / (2 * _Z95))


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


def _can_pay(evidence: Evidence, policy: Policy, gain: float, error: float) -> bool:
    """Whether the session may still keep less code that loses what is to be expected of this."""
    return evidence.brevity.paid + _expected_loss(gain, error) <= policy.may_pay * evidence.noise


def _expected_loss(gain: float, error: float) -> float:
    """E[max(0, -g)] of a normal g."""
    return error * _NORMAL.pdf(gain / error) - gain * _NORMAL.cdf(-gain / error)


def _lines(brevity: Brevity) -> str:
    return f"{brevity.lines_saved} line{'' if brevity.lines_saved == 1 else 's'}"


def _combine(one: Estimate, other: Estimate) -> Estimate:
    """Two independent estimates of the same number, weighted by precision."""
    weight, other_weight = one.error**-2, other.error**-2
    mean = (one.mean * weight + other.mean * other_weight) / (weight + other_weight)
    return Estimate(mean, (weight + other_weight) ** -0.5)


def _decide(
    p_good: float, said: str, num_trials: int, num_pairs: int, policy: Policy, *, aim: str = "better"
) -> tuple[Status | None, str]:
    if num_pairs == 0 and p_good < policy.repeat:
        return Status.DISCARD, f"{said}: not promising enough to repeat"
    if num_trials >= policy.min_trials and p_good >= policy.keep:
        return Status.KEEP, f"{said} after {num_trials} trials"
    if num_pairs and p_good < policy.drop:
        return Status.DISCARD, f"{said}: fell away when repeated"
    if num_pairs >= policy.max_pairs:
        return Status.DISCARD, f"{said}: not shown to be {aim} after {num_pairs} pairs"
    return None, f"{said}: promising, to be repeated beside the incumbent"
