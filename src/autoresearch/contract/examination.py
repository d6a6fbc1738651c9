"""Screening: questions about token ids that a candidate answers, and the score the referee works out from them.

Prefixes, claims, audits and agreement as a generator of questions, free of clocks, sockets and frameworks, so that the
sealed trial and the standalone script run the very same code. It catches every honest mistake and every systematic cheat
(look-ahead, sums over the row, state from row to row, unnormalised output, learning while examined). A candidate that
knows the targets could still fake single rows with care: a score from here is *screened*. `deep_examination` bounds what
is left of that.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.bpb import bits_per_byte, byte_bearing, row_nats, target_bytes, total_nats
from autoresearch.contract.rules import Rules

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

# Claim against its own forward pass in float64: float32 log-softmax of logits below 15 errs by less than 1e-5.
CLAIM_TOLERANCE = 1e-3
# Prefix answer against claim, the largest log-probability difference that is taken for rounding.
# CPU: the logits are the same to the last bit in fp32 and bf16, eager and compiled, and at most 9e-7 comes from our own
# rounding (1,600 pairs each, `python benchmarks/examination.py --tolerance`); below 2e-5 on other honest models.
# MLX on a CPU, not compiled: 1.6e-6 in fp32 and in bf16, from the model that claimed and from a rebuilt one. On Metal not
# measured: it has the tolerance of accelerators.
# Accelerators run bf16 with other neighbours in the batch: not measured here yet.
TOLERANCE_CPU = 5e-3
TOLERANCE_ACCELERATOR = 0.15
# The same of a model rebuilt in another process, which may not be compiled as the first was. CPU, same command: 9e-7
# where both are eager, 1.2e-6 compiled against eager in fp32, 0.028 in bf16 (mean -1e-4, sd 0.004), since compiled code
# rounds to bf16 elsewhere; the largest of thousands of pairs lies further out than that of dozens.
DEEP_TOLERANCE_CPU = 0.1
DEEP_TOLERANCE_ACCELERATOR = 0.5
# Rounding has no direction, a leak has: claims may on average beat the prefix answers by this part of the tolerance
# (1e-4 nats on a CPU, five times what rounding measured) and by DIRECTION_SIGMAS standard errors of that average.
# Five standard errors of twelve pairs, the fewest a preset asks for, are passed by chance once in 5,000 trials
# (Student's t, 11 degrees of freedom), and only where rounding is larger than the part allowed.
DIRECTION_PART = 0.02
DIRECTION_SIGMAS = 5.0
# No model of this size is known to read English below this (the published best is 0.96): a score under it is examined
# deeply, or refused where that is not possible.
PLAUSIBLE_BPB = 0.3
NOT_FINITE = "are not all finite"  # how the reason ends where an answer holds NaN or infinity
DIGEST_BYTES = 32  # SHA-256


@dataclass(frozen=True)
class AskPrefix:
    """Next-token logits after a prefix of each row. inputs int64 [B, T]; positions int64 [B]; answer float32 [B, V]."""

    inputs: Ints
    positions: Ints


@dataclass(frozen=True)
class AskClaim:
    """Negative log-likelihood in nats of every target. inputs, targets int64 [B, T]; answer float32 [B, T]."""

    inputs: Ints
    targets: Ints


@dataclass(frozen=True)
class AskAudit:
    """Full logit rows at places of the batch just claimed. rows, columns int64 [K]; answer float32 [K, V]."""

    rows: Ints
    columns: Ints


@dataclass(frozen=True)
class AskWeights:
    """SHA-256 of the weights as they are now, packed as they were handed over; answer float32 [32], a byte each."""


Ask = AskPrefix | AskClaim | AskAudit | AskWeights


@dataclass(frozen=True)
class Examined:
    """The result. val_bpb is None when an answer was refused, and `reason` says which and why.

    claims: float64 [N, T], the nats of every target as the candidate claimed them; None when it was refused.
    """

    val_bpb: float | None
    reason: str = ""
    audited_positions: int = 0
    prefix_pairs: int = 0
    largest_deviation: float | None = None  # nats
    claims: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    @property
    def is_implausible(self) -> bool:
        """True when no such model is known to score this low."""
        return self.val_bpb is not None and self.val_bpb < PLAUSIBLE_BPB


class Refused(Exception):
    """An answer that an honest model cannot give."""


def tolerance_for(device_kind: str) -> float:
    """Largest honest difference, in nats, between a prefix answer and the claim at the same place."""
    return TOLERANCE_CPU if device_kind.startswith("cpu") else TOLERANCE_ACCELERATOR


def deep_tolerance_for(device_kind: str) -> float:
    """Largest honest difference, in nats, between a claim and a fresh process's answer to its prefix."""
    return DEEP_TOLERANCE_CPU if device_kind.startswith("cpu") else DEEP_TOLERANCE_ACCELERATOR


def examine(
    rows: NDArray[np.unsignedinteger],
    token_bytes: NDArray[np.int32],
    rules: Rules,
    *,
    batch_size: int,
    tolerance: float,
    random: np.random.Generator,
    weights_sha256: bytes,
) -> Generator[Ask, NDArray[np.float32], Examined]:
    """Ask about every row of one validation slice, and score the answers.

    rows: [N, T + 1] token ids; token_bytes: [V] bytes of each token, 0 for specials; weights_sha256: of the weights
    handed over, which must be the same when all is answered. Yields questions of exactly `batch_size` rows each; is sent
    the answers. The set of scored rows is all N whatever the batch size: the last batch is filled up with rows seen
    before, whose second claims must agree with their first.
    """
    vocab_size = len(token_bytes)
    num_rows = len(rows)
    batch_size = max(1, min(batch_size, num_rows))
    claims = np.full((num_rows, rows.shape[1] - 1), np.nan, dtype=np.float64)
    prefix_answers: list[tuple[int, int, float]] = []
    audited = 0
    largest = 0.0
    try:
        early = _prefix_batches(rows, batch_size, rules.num_prefix_rows, random)
        # whole rows have been seen by then: the rest of the batch costs nothing and asks more
        num_late = -(-rules.num_prefix_rows // 2 // batch_size) * batch_size
        late = _prefix_batches(rows, batch_size, num_late, random)
        for picked, ask in early:
            prefix_answers += _answered((yield ask), picked, ask, rows, vocab_size)
        order = random.permutation(num_rows)
        for start in range(0, num_rows, batch_size):
            group = order[start : start + batch_size]
            fill = order[: batch_size - len(group)]
            whole = rows[np.concatenate([group, fill])].astype(np.int64)
            claim_ask = AskClaim(inputs=whole[:, :-1].copy(), targets=whole[:, 1:].copy())
            claimed = _checked_claims((yield claim_ask), claim_ask)
            audit = _audit_places(claimed.shape, rules.num_audits_per_batch, random)
            largest = max(largest, _check_audit((yield audit), audit, claim_ask, claimed, vocab_size))
            audited += len(audit.rows)
            claims[group] = claimed[: len(group)]
            if len(fill):
                again = np.abs(claimed[len(group) :] - claims[fill]).max()
                largest = max(largest, float(again))
                require(again <= tolerance, f"the same row scored {again:.4f} nats apart among other neighbours")
        for picked, ask in late:
            prefix_answers += _answered((yield ask), picked, ask, rows, vocab_size)
        digest = checked((yield AskWeights()), (DIGEST_BYTES,), "the weights' digest")
        require(
            bool((digest == np.frombuffer(weights_sha256, np.uint8)).all()),
            "the weights changed while they were examined (running statistics? model.eval() before evaluate_bpb)",
        )
        for row, column, log_prob in prefix_answers:
            apart = abs(log_prob + claims[row, column])
            largest = max(largest, apart)
            require(
                apart <= tolerance,
                f"position {column} of a row changed by {apart:.4f} nats with the text after it: the model looks ahead",
            )
        _check_direction([-log_prob - claims[row, column] for row, column, log_prob in prefix_answers], tolerance)
    except Refused as refusal:
        return Examined(None, str(refusal), audited, len(prefix_answers), largest)
    mask = byte_bearing(rows, token_bytes)
    score = bits_per_byte(total_nats(row_nats(claims, mask)), target_bytes(rows, token_bytes))
    return Examined(score, "", audited, len(prefix_answers), largest, claims)


def _prefix_batches(
    rows: NDArray[np.unsignedinteger], batch_size: int, num_prefixes: int, random: np.random.Generator
) -> list[tuple[Ints, AskPrefix]]:
    """Rows cut at random places, their tails filled with other rows' text, in batches of exactly `batch_size`.

    A batch shows no more text than its prefixes need: where it is larger than `num_prefixes`, its lines repeat.
    `picked` (of the pair) names the rows of the lines that count.
    """
    seq_len = rows.shape[1] - 1
    others = max(1, len(rows) - 1)
    batches = []
    while num_prefixes > 0:
        num_lines = min(num_prefixes, batch_size)
        num_prefixes -= num_lines
        picked = random.integers(0, len(rows), num_lines)
        # never its own tail: that would be a whole row, shown early and agreeing with any look-ahead
        tails = (picked + random.integers(1, others + 1, num_lines)) % len(rows)
        # position p answers for target p + 1 of the row; the last position would be a whole row, so it is left out
        positions = random.integers(0, max(1, seq_len - 1), num_lines)
        inputs = rows[tails, :-1].astype(np.int64)
        for line, (row, position) in enumerate(zip(picked, positions, strict=True)):
            inputs[line, : position + 1] = rows[row, : position + 1]
        filled = np.resize(np.arange(num_lines), batch_size)
        batches.append((picked.astype(np.int64), AskPrefix(inputs[filled], positions[filled].astype(np.int64))))
    return batches


def prefix_log_probs(answer: NDArray[np.float32], targets: Ints, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Log-probability float64 [K] of each target [K] by the first K of the answered logit rows, of `shape` [B, V].

    Raises:
        Refused: the answer has another shape, or a number that is not finite.
    """
    log_probs = _log_softmax(checked(answer, shape, "prefix logits"))
    result: NDArray[np.float64] = log_probs[np.arange(len(targets)), targets]
    return result


def _answered(
    answer: NDArray[np.float32], picked: Ints, ask: AskPrefix, rows: NDArray[np.unsignedinteger], vocab_size: int
) -> list[tuple[int, int, float]]:
    """(row, position, log-probability of the true next token) of each prefix that counts."""
    positions = ask.positions[: len(picked)]
    targets = rows[picked, positions + 1].astype(np.int64)
    log_probs = prefix_log_probs(answer, targets, (len(ask.positions), vocab_size))
    return [(int(r), int(p), float(v)) for r, p, v in zip(picked, positions, log_probs, strict=True)]


def _audit_places(shape: tuple[int, ...], count: int, random: np.random.Generator) -> AskAudit:
    return AskAudit(rows=random.integers(0, shape[0], count), columns=random.integers(0, shape[1], count))


def _checked_claims(answer: NDArray[np.float32], ask: AskClaim) -> NDArray[np.float64]:
    claimed = checked(answer, ask.targets.shape, "claims")
    require(bool((claimed >= -CLAIM_TOLERANCE).all()), "a claimed negative log-likelihood is negative")
    return claimed


def _check_audit(
    answer: NDArray[np.float32], audit: AskAudit, ask: AskClaim, claimed: NDArray[np.float64], vocab_size: int
) -> float:
    """Largest difference between the audited logit rows and the claims made from them."""
    log_probs = _log_softmax(checked(answer, (len(audit.rows), vocab_size), "audited logits"))
    targets = ask.targets[audit.rows, audit.columns]
    apart = np.abs(log_probs[np.arange(len(targets)), targets] + claimed[audit.rows, audit.columns]).max()
    require(bool(apart <= CLAIM_TOLERANCE), f"a claim differs from its own logits by {apart:.4f} nats")
    return float(apart)


def _check_direction(gains: list[float], tolerance: float) -> None:
    """Refuse claims that beat the prefix answers on average: `gains` are prefix answer minus claim, in nats.

    Each pair may hide up to the tolerance, a systematic leak cannot hide in the mean (one-sided t test).
    """
    gain = float(np.mean(gains))
    error = float(np.std(gains, ddof=1)) / len(gains) ** 0.5
    require(
        gain <= DIRECTION_PART * tolerance + DIRECTION_SIGMAS * error,
        f"whole rows scored {gain:.4f} nats better on average than their prefixes: the model looks ahead",
    )


def checked(answer: NDArray[np.float32], shape: tuple[int, ...], what: str) -> NDArray[np.float64]:
    """The answer as float64. Raises Refused when its shape is another or a number is not finite."""
    require(answer.shape == shape, f"{what} have shape {answer.shape} instead of {shape}")
    require(bool(np.isfinite(answer).all()), f"{what} {NOT_FINITE}")
    return answer.astype(np.float64)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def require(condition: bool | np.bool_, reason: str) -> None:
    """Raise Refused with the reason when the condition does not hold."""
    if not condition:
        raise Refused(reason)
