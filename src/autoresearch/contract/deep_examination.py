"""The deep examination: what a fresh process with only the weights can do, against what was claimed.

The claims are sealed by then. The process that answers has never seen a whole row, and never sees a target before it has
answered for it, so it cannot know what a cheat would have to know. What is left to a cheat is to be honest wherever it
happens to be asked; how much that can hide is the *bound*, and it is printed beside the score.

Statistics. A prefix of a row is drawn uniformly over the places that are scored. `gain` = nats of the prefix answer minus
nats claimed there: zero but for rounding in an honest model, positive where a claim used text after its place. Its mean,
over all scored places, is what the score owes to such claims (estimate and 95 % interval, Student's t). A cheat on a share
f of places escapes m draws with probability (1 - f)^m, below 5 % for f > 3/m (the rule of three: Hanley and
Lippman-Hand, JAMA 1983). At worst the claims of that share were brought to zero where that gains most: what they would
have been is estimated from the claims that are left (`_hidden_nats`), and is the part of the bound that no draw has seen.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.bpb import bits_per_byte, byte_bearing, target_bytes
from autoresearch.contract.examination import (
    DIRECTION_PART,
    DIRECTION_SIGMAS,
    AskPrefix,
    Floats,
    Ints,
    Refused,
    prefix_log_probs,
    require,
)

RULE_OF_THREE = 3.0  # -ln 0.05
# Most prefixes of one trial, over the rows of the slice. With screening (measured 1.1 plain evaluations of the slice) and
# the start of the process that answers, two rows' worth keeps the whole below four plain evaluations (measured 3.7; 4.2 with 2.5).
MOST_PREFIXES_PER_ROW = 2.0
FEWEST_PREFIXES = 32
# Largest honest standard deviation of the gains, over the largest single one: compiled bf16 against its eager rebuild, the
# farthest apart that honest models were seen on a CPU, had 0.0075 of 0.1. A forger who scatters its claims as far as single
# ones may lie would widen the margin of the mean, and hide a gain of one noise in it.
SCATTER_PART = 0.2
TAIL = 0.25  # the upper part of the claims whose steepness stands for what is hidden above them


@dataclass(frozen=True)
class DeeplyExamined:
    """What the claims owe to text they must not know, in bits per byte of the score.

    passed is False when the claims cannot come from the weights, and `reason` says why. `leak_bpb` is the estimate,
    `leak_interval_bpb` its 95 % interval, `bound_bpb` the most that a cheat which escapes at most one time in twenty can
    have taken off the score. `num_prefixes` counts this examination's own.
    """

    passed: bool
    reason: str = ""
    num_prefixes: int = 0
    leak_bpb: float | None = None
    leak_interval_bpb: tuple[float, float] | None = None
    bound_bpb: float | None = None
    largest_gain: float | None = None  # nats


def num_prefixes_for(
    claims: NDArray[np.float64],
    rows: NDArray[np.unsignedinteger],
    token_bytes: NDArray[np.int32],
    *,
    noise_bpb: float,
    asked_before: int = 0,
) -> int:
    """How many prefixes bring the bound below the noise of one trial, within what may be spent on one.

    claims float64 [N, T] in nats, rows [N, T + 1]. `asked_before` counts the prefixes that earlier trials of the same
    commit have answered: the bound is on the commit's habit, so they count. Rounding, which widens the bound a little on
    accelerators, is not foreseen.
    """
    most = max(int(MOST_PREFIXES_PER_ROW * len(rows)), FEWEST_PREFIXES)
    descending = np.sort(claims[byte_bearing(rows, token_bytes)])[::-1]
    affordable_nats = noise_bpb / _bpb_of_mean_nats(1.0, rows, token_bytes)
    counts = range(FEWEST_PREFIXES, most)
    # the hidden part falls as prefixes are added: the first count that brings it low enough, else the most
    return FEWEST_PREFIXES + bisect.bisect_left(
        counts, -affordable_nats, key=lambda count: -_hidden_nats(descending, count + asked_before)
    )


def examine_deeply(
    rows: NDArray[np.unsignedinteger],
    token_bytes: NDArray[np.int32],
    claims: NDArray[np.float64],
    *,
    batch_size: int,
    num_prefixes: int,
    tolerance: float,
    most_apart: float,
    random: np.random.Generator,
    asked_before: int = 0,
) -> Generator[AskPrefix, Floats, DeeplyExamined]:
    """Ask a fresh model about prefixes of the claimed rows. Yields batches of exactly `batch_size`, is sent logits [B, V].

    rows [N, T + 1] token ids and claims [N, T] in nats as `examine` took them; a single gain beyond `most_apart` nats,
    either way, refuses, and so does a mean above a part of `tolerance` that is no chance. The tail of each line is filled with
    tokens drawn from its own prefix, which tell nothing new; the places of one row are asked in ascending order and never
    two in one batch, so that no target is seen too early.
    """
    vocab_size = len(token_bytes)
    batch_size = max(1, min(batch_size, len(rows)))
    gains: list[float] = []
    try:
        for places in _batches(byte_bearing(rows, token_bytes), batch_size, num_prefixes, random):
            picked, columns = places[:, 0], places[:, 1]
            answer = yield _question(rows, places, batch_size, random)
            targets = rows[picked, columns + 1].astype(np.int64)
            nats = -prefix_log_probs(answer, targets, (batch_size, vocab_size))
            gain = nats - claims[picked, columns]
            gains += gain.tolist()
            worst = int(np.argmax(np.abs(gain)))
            # both ways: no weights give other claims than their own, and huge ones would drown the mean below
            require(
                abs(gain[worst]) <= most_apart,
                f"a fresh process with these weights needs {nats[worst]:.3f} nats at position {columns[worst]} of a row, "
                f"and {claims[picked[worst], columns[worst]]:.3f} were claimed",
            )
        mean = float(np.mean(gains))
        error = float(np.std(gains, ddof=1)) / math.sqrt(len(gains))
        scatter = float(np.std(gains, ddof=1))
        require(
            scatter <= SCATTER_PART * most_apart,
            f"claims scatter by {scatter:.4f} nats around what a fresh process with these weights can do",
        )
        require(
            mean <= DIRECTION_PART * tolerance + DIRECTION_SIGMAS * error,
            f"claims are {mean:.4f} nats better on average than a fresh process with these weights can do",
        )
    except Refused as refusal:
        return DeeplyExamined(False, str(refusal), len(gains), largest_gain=max(gains, default=None))
    margin = _student_t(len(gains) - 1) * error
    interval = (mean - margin, mean + margin)
    descending = np.sort(claims[byte_bearing(rows, token_bytes)])[::-1]
    hidden = _hidden_nats(descending, len(gains) + asked_before)
    return DeeplyExamined(
        passed=True,
        num_prefixes=len(gains),
        leak_bpb=_bpb_of_mean_nats(mean, rows, token_bytes),
        leak_interval_bpb=(
            _bpb_of_mean_nats(interval[0], rows, token_bytes),
            _bpb_of_mean_nats(interval[1], rows, token_bytes),
        ),
        bound_bpb=_bpb_of_mean_nats(max(0.0, interval[1]) + hidden, rows, token_bytes),
        largest_gain=max(gains),
    )


def _hidden_nats(descending: NDArray[np.float64], num_prefixes: int) -> float:
    """Mean nats that a cheat can have taken off all places by claiming zero at the share of them that m draws may miss.

    descending float64 [P]: the claims at scored places, largest first; num_prefixes: m, earlier examinations' included.
    The share is s = 3/m. With its s P largest places set to zero, the largest claims left are those of the places below:
    what a share p of claims exceeds, a share p + s of honest nats exceeded. Above the place exceeded by 2 s the honest tail
    is taken to be no heavier than an exponential one as steep as the claims between the upper quarter and there, and the
    mean of its largest share s lies 1 + ln 2 such units higher. A language model's tail is lighter: on `tiny`, after
    20 s of training, the mean excess is 1.38 nats over the upper quarter, 1.06 over the upper tenth, 0.77 over the upper
    1/200; with 32, 640 and 2560 draws this gives 1.17, 1.06 and 1.06 times what the worst cheat takes there, and 1.41, 1.15 and
    1.13 times where nobody cheats.
    """
    share = min(1.0, RULE_OF_THREE / num_prefixes)
    tail = min(
        share, TAIL / 2
    )  # with fewer than 24 draws the share is no tail: what holds for a part holds for the mean
    next_largest = float(descending[int(tail * len(descending))])
    unit = (next_largest - float(descending[int(TAIL * len(descending))])) / math.log((TAIL + tail) / (2 * tail))
    return share * (next_largest + (1 + math.log(2)) * unit)


def _bpb_of_mean_nats(nats: float, rows: NDArray[np.unsignedinteger], token_bytes: NDArray[np.int32]) -> float:
    """What `nats` on every scored place mean for val_bpb."""
    return bits_per_byte(nats * int(byte_bearing(rows, token_bytes).sum()), target_bytes(rows, token_bytes))


def _batches(mask: NDArray[np.bool_], batch_size: int, num_prefixes: int, random: np.random.Generator) -> list[Ints]:
    """(row, column) int64 [K, 2] per batch, K at most batch_size, drawn uniformly over the scored places [N, T].

    Within a row, columns ascend from batch to batch and none shares a batch with another.
    """
    scored = np.argwhere(mask)
    drawn = scored[random.choice(len(scored), min(num_prefixes, len(scored)), replace=False)]
    drawn = drawn[np.lexsort((drawn[:, 1], drawn[:, 0]))]
    firsts = np.searchsorted(drawn[:, 0], drawn[:, 0])
    rounds = np.arange(len(drawn)) - firsts  # 0 for the first place of each row, 1 for the second, ...
    batches = []
    for number in range(int(rounds.max()) + 1):
        of_round = drawn[rounds == number]
        of_round = of_round[random.permutation(len(of_round))]
        batches += [of_round[start : start + batch_size] for start in range(0, len(of_round), batch_size)]
    return batches


def _question(
    rows: NDArray[np.unsignedinteger], places: Ints, batch_size: int, random: np.random.Generator
) -> AskPrefix:
    """The prefixes of these places in a batch of exactly `batch_size` lines; short batches repeat their lines."""
    inputs = np.empty((len(places), rows.shape[1] - 1), dtype=np.int64)
    for line, (row, column) in enumerate(places):
        prefix = rows[row, : column + 1]
        inputs[line] = prefix[random.integers(0, len(prefix), inputs.shape[1])]
        inputs[line, : column + 1] = prefix
    filled = np.resize(np.arange(len(places)), batch_size)
    return AskPrefix(inputs[filled], places[filled, 1])


def _student_t(degrees: int) -> float:
    """97.5 % point of Student's t, from the normal one by Cornish and Fisher's expansion (error below 0.001 from 30 on)."""
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
