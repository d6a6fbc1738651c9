"""How often the examination finds a cheat that is honest almost everywhere, beside the bound that it prints."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.bpb import bits_per_byte, byte_bearing, row_nats, target_bytes, total_nats
from autoresearch.contract.corpora import cache_root, open_corpus
from autoresearch.contract.deep_examination import DeeplyExamined, examine_deeply, num_prefixes_for
from autoresearch.contract.examination import TOLERANCE_CPU, AskClaim, Examined, deep_tolerance_for, examine
from autoresearch.contract.prepared import prepare
from autoresearch.contract.rules import Rules, rules_for
from autoresearch.redteam.adversaries import WEIGHTS_SHA256, CausalModel, Forger, Peeker, Respondent, model_of
from autoresearch.vocabulary import Slice

NUM_TRIALS = 50
_BATCH_SIZE = 8  # what train.py asks for under `tiny`
_Z95 = 1.96


@dataclass(frozen=True)
class Adversary:
    """A kind of cheat: what is screened, and what a fresh process with the same weights is."""

    name: str
    screened: Callable[[], Respondent]
    fresh: Callable[[], Respondent]


@dataclass(frozen=True)
class Rate:
    """How one kind of cheat fared. Gains and bounds in bits per byte of the score.

    `gain_bpb` is the mean of what the cheat takes off the score. `bound_bpb` is the mean of the bounds printed with the
    trials that passed the deep examination (None when none passed), and `beyond_bound` counts those whose gain was
    larger: at most one in twenty may be.
    """

    name: str
    num_trials: int
    gain_bpb: float
    screening_found: int
    deep_found: int
    num_prefixes: float
    bound_bpb: float | None
    beyond_bound: int
    noise_bpb: float

    def as_json(self) -> dict[str, Any]:
        """The fields, with the 95 % intervals of both rates."""
        return {
            **asdict(self),
            "screening_interval": wilson(self.screening_found, self.num_trials),
            "deep_interval": wilson(self.deep_found, self.num_trials),
        }


def adversaries(model: CausalModel) -> list[Adversary]:
    """Those that are reported, the honest model first."""

    def peeker(share: float, *, only_likely: bool = False) -> Callable[[], Respondent]:
        return lambda: Peeker(model, share, only_likely=only_likely)

    found = [Adversary("honest model", peeker(0.0), peeker(0.0))]
    shares = {"10 %": 0.1, "1 %": 0.01, "0.1 %": 0.001}
    for text, share in shares.items():
        found.append(Adversary(f"peeks at {text} of places", peeker(share), peeker(share)))
    boost = peeker(1.0, only_likely=True)
    found.append(Adversary("boosts what is likely already", boost, boost))
    for text, share in shares.items():
        found.append(Adversary(f"careful forger, {text} of places", _forger(model, share), peeker(0.0)))
    return found


def _forger(model: CausalModel, share: float) -> Callable[[], Respondent]:
    return lambda: Forger(model, share)


def detection_rates(
    *, num_trials: int = NUM_TRIALS, preset: str = "tiny", names: Collection[str] = (), seed: int = 0
) -> Iterator[Rate]:
    """The rate of each kind of cheat, as it becomes known. `names` picks some of them; empty means all.

    Raises:
        DataMissing, DataCorrupt: the contract's data cannot be prepared.
    """
    rules = rules_for(preset)
    prepared = prepare(rules, open_corpus(rules.dataset, cache_root()), cache_root())
    model = model_of(prepared)
    rows = np.asarray(prepared.rows(Slice.SEARCH))
    token_bytes = prepared.tokenizer.token_bytes
    honest = score_of(Peeker(model, 0.0), rows, token_bytes)
    for number, adversary in enumerate(adversaries(model)):
        if not names or adversary.name in names:
            random = np.random.default_rng((seed, number))
            yield rate_of(adversary, rows, token_bytes, rules, honest, num_trials, random)


def rate_of(
    adversary: Adversary,
    rows: NDArray[np.unsignedinteger],
    token_bytes: NDArray[np.int32],
    rules: Rules,
    honest_bpb: float,
    num_trials: int,
    random: np.random.Generator,
) -> Rate:
    """Screen and examine deeply `num_trials` times. rows [N, T + 1]; `honest_bpb` is the model's score without the cheat."""
    gains, prefixes, bounds = [], [], []
    screening_found = deep_found = beyond = 0
    for _ in range(num_trials):
        respondent = adversary.screened()
        screened = _screen(respondent, rows, token_bytes, rules, random)
        screening_found += screened.val_bpb is None
        # a refusal ends the screening; what would have been claimed is asked of the same process, with its memory
        claims = screened.claims if screened.claims is not None else _claims(respondent, rows)
        gain = honest_bpb - _score(claims, rows, token_bytes)
        gains.append(gain)
        deep = _deep(adversary.fresh(), rows, token_bytes, claims, rules.noise_prior, random)
        deep_found += not deep.passed
        if deep.bound_bpb is not None:
            bounds.append(deep.bound_bpb)
            prefixes.append(deep.num_prefixes)
            beyond += gain > deep.bound_bpb
    return Rate(
        name=adversary.name,
        num_trials=num_trials,
        gain_bpb=float(np.mean(gains)),
        screening_found=screening_found,
        deep_found=deep_found,
        num_prefixes=float(np.mean(prefixes)) if prefixes else 0.0,
        bound_bpb=float(np.mean(bounds)) if bounds else None,
        beyond_bound=beyond,
        noise_bpb=rules.noise_prior,
    )


def _screen(
    respondent: Respondent,
    rows: NDArray[np.unsignedinteger],
    token_bytes: NDArray[np.int32],
    rules: Rules,
    random: np.random.Generator,
) -> Examined:
    examination = examine(
        rows,
        token_bytes,
        rules,
        batch_size=_BATCH_SIZE,
        tolerance=TOLERANCE_CPU,
        random=random,
        weights_sha256=WEIGHTS_SHA256,
    )
    ask = next(examination)
    while True:
        try:
            ask = examination.send(respondent.answer(ask))
        except StopIteration as finished:
            result: Examined = finished.value
            return result


def _deep(
    respondent: Respondent,
    rows: NDArray[np.unsignedinteger],
    token_bytes: NDArray[np.int32],
    claims: NDArray[np.float64],
    noise_bpb: float,
    random: np.random.Generator,
) -> DeeplyExamined:
    examination = examine_deeply(
        rows,
        token_bytes,
        claims,
        batch_size=_BATCH_SIZE,
        num_prefixes=num_prefixes_for(claims, rows, token_bytes, noise_bpb=noise_bpb),
        tolerance=TOLERANCE_CPU,
        most_apart=deep_tolerance_for("cpu"),
        random=random,
    )
    ask = next(examination)
    while True:
        try:
            ask = examination.send(respondent.answer(ask))
        except StopIteration as finished:
            result: DeeplyExamined = finished.value
            return result


def _claims(respondent: Respondent, rows: NDArray[np.unsignedinteger]) -> NDArray[np.float64]:
    """What it claims of every row: nats float64 [N, T]."""
    found = []
    for start in range(0, len(rows), _BATCH_SIZE):
        whole = rows[start : start + _BATCH_SIZE].astype(np.int64)
        found.append(respondent.answer(AskClaim(whole[:, :-1].copy(), whole[:, 1:].copy())))
    return np.concatenate(found).astype(np.float64)


def _score(claims: NDArray[np.float64], rows: NDArray[np.unsignedinteger], token_bytes: NDArray[np.int32]) -> float:
    mask = byte_bearing(rows, token_bytes)
    return bits_per_byte(total_nats(row_nats(claims, mask)), target_bytes(rows, token_bytes))


def score_of(respondent: Respondent, rows: NDArray[np.unsignedinteger], token_bytes: NDArray[np.int32]) -> float:
    """val_bpb of what it claims of every row, unexamined."""
    return _score(_claims(respondent, rows), rows, token_bytes)


def wilson(found: int, tried: int) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927): sound at 0 and at 1, where the normal one is empty."""
    share = found / tried
    centre = (share + _Z95**2 / (2 * tried)) / (1 + _Z95**2 / tried)
    margin = _Z95 * math.sqrt(share * (1 - share) / tried + _Z95**2 / (4 * tried**2)) / (1 + _Z95**2 / tried)
    return max(0.0, centre - margin), min(1.0, centre + margin)


def rate_line(rate: Rate) -> str:
    """One kind of cheat on one line."""
    low, high = wilson(rate.deep_found, rate.num_trials)
    bound = "none passed" if rate.bound_bpb is None else f"bound {rate.bound_bpb:.4f}, {rate.beyond_bound} beyond it"
    return (
        f"{rate.name:<34} takes {rate.gain_bpb:+.4f} bpb | screening {rate.screening_found}/{rate.num_trials}"
        f" | deep {rate.deep_found}/{rate.num_trials} ({low:.0%} to {high:.0%}) | {bound}"
    )
