"""Which scores are examined deeply: all that a keep could rest on, and what no one has seen before."""

from __future__ import annotations

from collections.abc import Sequence

from autoresearch.loop.orders import DeepWish
from autoresearch.loop.verdict import Brevity, Estimate, Evidence, Policy, judge
from autoresearch.records.ledger import Purpose
from autoresearch.vocabulary import Status, Trial

_FAR_OUTSIDE = 6.0  # standard deviations of one trial below the incumbent: by chance once in a billion


def deep_wish(
    purpose: Purpose,
    trials: Sequence[Trial],
    incumbent: Estimate | None,
    noise: float,
    policy: Policy,
    brevity: Brevity,
) -> DeepWish:
    """The wish for one more trial of a commit. trials: its earlier ones. incumbent: None while the baseline is measured.

    noise: standard deviation of one trial, bits per byte. brevity: of what it edits, as its verdict will know it.
    """
    passed = [trial for trial in trials if trial.leak_bound_bpb]
    asked = sum(trial.deep_prefixes for trial in passed)
    if incumbent is None:
        return DeepWish(lambda _score: not passed, noise, asked)  # once: it shows that the file can be rebuilt
    if purpose is Purpose.PAIR:
        return DeepWish(lambda _score: True, noise, asked)

    def is_promising(score: float) -> bool:
        return judge(Evidence(incumbent, [score], [], noise, brevity), policy).status is not Status.DISCARD

    def is_far_outside(score: float) -> bool:
        return score < incumbent.mean - _FAR_OUTSIDE * noise

    return DeepWish(is_promising if purpose is Purpose.FIRST else is_far_outside, noise, asked)
