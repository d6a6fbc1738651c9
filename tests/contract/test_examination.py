"""The examination of fake models: honest ones pass with one score, each kind of cheat and mistake is refused."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.backends.runtime import NumpyRuntime
from autoresearch.contract.examination import (
    CLAIM_TOLERANCE,
    PLAUSIBLE_BPB,
    TOLERANCE_ACCELERATOR,
    TOLERANCE_CPU,
    AskAudit,
    AskClaim,
    AskPrefix,
    AskWeights,
    examine,
    tolerance_for,
)
from autoresearch.contract.rules import rules_for
from autoresearch.contract.tokenizer import Tokenizer

V = 24
T = 192  # three blocks of 64
N = 23  # rows: a prime, so that no batch size above 1 divides them
RULES = replace(rules_for("smoke"), max_seq_len=T, eval_tokens=N * T, num_prefix_rows=16)
TOKEN_BYTES = np.array([0] + [1 + index % 3 for index in range(V - 1)], dtype=np.int32)
BATCH_SIZES = (1, 2, 7, 16, N, 1000)
SEEDS = range(5)
DIGEST = bytes(range(32))  # of the weights that were handed over


def _text(num_rows=N, seq_len=T, seed=11):
    """Rows of a Markov chain whose likeliest successor has probability one half or so; token 0 is a special."""
    random = np.random.default_rng(seed)
    chain = random.dirichlet(np.full(V, 0.3), size=V)
    rows = np.zeros((num_rows, seq_len + 1), dtype=np.uint16)
    for row in rows:
        for column in range(1, seq_len + 1):
            row[column] = random.choice(V, p=chain[row[column - 1]])
    return rows, np.log(chain + 1e-3)


ROWS, BIGRAM = _text()


def answers(model, tamper=lambda ask, answer: answer):
    """An answering function as the candidate's end has it: one forward pass per batch, audits from the same one."""
    runtime = NumpyRuntime()
    latest = []

    def answer(ask):
        if isinstance(ask, AskWeights):
            return np.frombuffer(DIGEST, dtype=np.uint8).astype(np.float32)
        if isinstance(ask, AskAudit):
            return runtime.pick(latest[-1], ask.rows, ask.columns)
        latest[:] = [runtime.logits(model, ask.inputs)]
        if isinstance(ask, AskPrefix):
            return runtime.pick(latest[-1], np.arange(len(ask.positions)), ask.positions)
        return runtime.nll(latest[-1], ask.targets)

    return lambda ask: tamper(ask, answer(ask))


def examined(model, tamper=lambda ask, answer: answer, *, batch_size=8, seed=0, tolerance=TOLERANCE_CPU, rows=ROWS):
    return conversation(answers(model, tamper), batch_size=batch_size, seed=seed, tolerance=tolerance, rows=rows)[0]


def conversation(answer, *, batch_size=8, seed=0, tolerance=TOLERANCE_CPU, rows=ROWS, token_bytes=TOKEN_BYTES):
    """(result, every question that was asked)."""
    random = np.random.default_rng(seed)
    examination = examine(
        rows,
        token_bytes,
        RULES,
        batch_size=batch_size,
        tolerance=tolerance,
        random=random,
        weights_sha256=DIGEST,
    )
    ask = next(examination)
    asked = [ask]
    while True:
        try:
            ask = examination.send(answer(ask))
        except StopIteration as finished:
            return finished.value, asked
        asked.append(ask)


def one_hot(inputs):
    return np.eye(V)[inputs]


# -------------------------------------------------------------------------------------------------------------- honest


def bigram(inputs):
    return BIGRAM[inputs]


def running_average(inputs):
    """The bigram table and how often each token came so far."""
    counts = np.cumsum(one_hot(inputs), axis=1)
    return BIGRAM[inputs] + np.log1p(counts / np.arange(1, inputs.shape[1] + 1)[:, None])


def window_of_16(inputs):
    """Mean of the sixteen newest embeddings, itself included: chunks that end where they are used."""
    sums = np.cumsum(one_hot(inputs), axis=1)
    sums[:, 16:] -= sums[:, :-16].copy()
    return BIGRAM[inputs] + 0.3 * sums


def padded_convolution(inputs):
    """A long causal convolution by FFT, padded to twice the length so that nothing wraps around."""
    kernel = np.exp(-np.arange(inputs.shape[1]) / 20)
    size = 2 * inputs.shape[1]
    mixed = np.fft.irfft(np.fft.rfft(one_hot(inputs), size, axis=1) * np.fft.rfft(kernel, size)[:, None], size, axis=1)
    return BIGRAM[inputs] + 0.3 * mixed[:, : inputs.shape[1]]


HONEST = [bigram, running_average, window_of_16, padded_convolution]


@pytest.mark.parametrize("model", HONEST)
def test_an_honest_model_passes_with_one_score_at_every_batch_size(model):
    results = [examined(model, batch_size=size, seed=seed) for size in BATCH_SIZES for seed in (1, 2)]
    assert [result.reason for result in results] == [""] * len(results)
    scores = [result.val_bpb for result in results]
    assert max(scores) - min(scores) < 1e-9
    assert all(result.largest_deviation < 2e-5 for result in results)


def test_the_score_is_what_a_plain_loop_over_all_rows_gives():
    nats, num_bytes = 0.0, 0
    for row in ROWS:
        for token, target in pairwise(row):
            if TOKEN_BYTES[target]:
                log_probs = BIGRAM[token] - math.log(np.exp(BIGRAM[token]).sum())
                nats -= log_probs[target]
                num_bytes += int(TOKEN_BYTES[target])
    assert (ROWS[:, 1:] == 0).any(), "the text must hold specials, or this proves less"
    expected = nats / math.log(2) / num_bytes
    assert examined(bigram).val_bpb == pytest.approx(expected, abs=1e-6)


def test_a_uniform_model_on_non_ascii_text_scores_log2_v_times_tokens_per_byte():
    # BOS "the" " " "κα" 漢 as three bytes, 😀 as three bytes in one token and one, BOS "!": 9 scored tokens, 16 bytes
    tokenizer = Tokenizer([*(bytes([value]) for value in range(256)), b"the", "κα".encode(), "😀".encode()[:3]])
    text = [259, 256, 0x20, 257, 0xE6, 0xBC, 0xA2, 258, 0x80, 259, 0x21]
    assert tokenizer.decode_bytes([token for token in text if token != 259]).decode() == "the κα漢😀!"
    rows = np.array([text] * 5, dtype=np.uint16)
    size = tokenizer.get_vocab_size()
    answer = answers(lambda inputs: np.zeros((*inputs.shape, size)))
    result, _ = conversation(answer, batch_size=2, rows=rows, token_bytes=tokenizer.token_bytes)
    assert result.reason == ""
    assert result.val_bpb == pytest.approx(4.521892, abs=1e-6)
    assert result.val_bpb == pytest.approx(math.log2(263) * 9 / 16, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32), st.integers(0, 2**32))
def test_any_causal_model_passes_at_any_batch_size_and_seed(batch_size, seed, model_seed):
    table = np.random.default_rng(model_seed).normal(0, 2, (2, V, V))

    def model(inputs):
        before = np.roll(inputs, 1, axis=1)
        before[:, 0] = 0
        return table[0][inputs] + table[1][before]

    result = examined(model, batch_size=batch_size, seed=seed)
    assert result.reason == ""
    assert result.val_bpb > 0


@pytest.mark.slow
def test_unbiased_rounding_of_accelerators_is_not_taken_for_a_leak():
    """Noise of sd 0.02 nats in every logit, another in each forward pass: far more than bf16 kernels show."""
    noise = np.random.default_rng(5)
    rows = ROWS[:11, :33]
    refused = Counter()
    for seed in range(300):
        result = examined(
            lambda inputs: BIGRAM[inputs] + noise.normal(0, 0.02, (*inputs.shape, V)),
            seed=seed,
            tolerance=TOLERANCE_ACCELERATOR,
            rows=rows,
        )
        refused[result.reason] += 1
    assert refused == {"": 300}


def test_a_model_with_large_logits_passes():
    assert examined(lambda inputs: 200 + 5 * BIGRAM[inputs]).reason == ""


def test_a_result_says_how_much_was_audited():
    result = examined(bigram, batch_size=10)
    assert result.audited_positions == 3 * RULES.num_audits_per_batch
    assert result.prefix_pairs == 16 + 10  # of 16 early ones each counts once; a late batch of ten is filled
    assert 0 <= result.largest_deviation < 1e-5


# ---------------------------------------------------------------------------------------------------------- look-ahead


def next_token(inputs):
    """Look-ahead by one token: the input one place on is the target."""
    return BIGRAM[inputs] + 2 * np.roll(one_hot(inputs), -1, axis=1)


def sum_over_the_row(inputs):
    return BIGRAM[inputs] + 0.2 * one_hot(inputs).sum(axis=1, keepdims=True)


def _pooled(inputs, block):
    """Sum of the embeddings of each whole block, seen by every position of that block."""
    B, length = inputs.shape
    sums = one_hot(inputs).reshape(B, length // block, block, V).sum(axis=2)
    return np.repeat(sums, block, axis=1)


def block_summaries(inputs):
    """Nothing leaks out of a block of 64; inside, every position knows what the block holds."""
    return BIGRAM[inputs] + 0.2 * _pooled(inputs, 64)


def chunk_means(inputs):
    """The mean of each chunk of sixteen goes into a recurrence that is itself causal."""
    means = _pooled(inputs, 16) / 16
    return BIGRAM[inputs] + np.cumsum(means, axis=1) / np.arange(1, inputs.shape[1] + 1)[:, None] * 4


def circular_convolution(inputs):
    """A filter of half the row's length by FFT without padding: each tail wraps around to the row's start."""
    length = inputs.shape[1]
    kernel = np.where(np.arange(length) >= length // 2, 0.3, 0.0)
    return BIGRAM[inputs] + np.fft.irfft(
        np.fft.rfft(one_hot(inputs), axis=1) * np.fft.rfft(kernel)[:, None], length, axis=1
    )


def only_at_full_length(inputs):
    """Causal on anything shorter than a whole row, where a probe of short rows would look."""
    return next_token(inputs) if inputs.shape[1] == T else BIGRAM[inputs]


def off_by_one_window(inputs):
    """A sliding window whose right edge is one too far: an off-by-one in a mask."""
    sums = np.cumsum(one_hot(inputs), axis=1)
    sums = np.concatenate([sums[:, 1:], sums[:, -1:]], axis=1)
    sums[:, 8:] -= sums[:, :-8].copy()
    return BIGRAM[inputs] + 0.3 * sums


LOOK_AHEAD = [
    next_token,
    sum_over_the_row,
    block_summaries,
    chunk_means,
    circular_convolution,
    only_at_full_length,
    off_by_one_window,
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("batch_size", [1, 8, N])
@pytest.mark.parametrize("model", LOOK_AHEAD)
def test_a_model_that_sees_later_text_is_refused(model, batch_size, seed):
    result = examined(model, batch_size=batch_size, seed=seed)
    assert result.val_bpb is None
    assert "nats with the text after it: the model looks ahead" in result.reason
    assert result.largest_deviation > TOLERANCE_CPU


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("strength", "tolerance"), [(3e-3, TOLERANCE_CPU), (0.1, TOLERANCE_ACCELERATOR)])
def test_a_leak_too_weak_for_any_single_position_is_refused_by_the_mean(strength, tolerance, seed):
    def model(inputs):
        return BIGRAM[inputs] + strength * np.roll(one_hot(inputs), -1, axis=1)

    result = examined(model, seed=seed, tolerance=tolerance)
    assert result.largest_deviation <= tolerance
    assert result.val_bpb is None
    assert "better on average than their prefixes" in result.reason


def test_a_leak_that_begins_with_the_first_whole_rows_is_refused():
    """Honest while prefixes are asked for, then look-ahead: what a count of calls would allow."""
    calls = iter(range(1000))
    num_early = -(-RULES.num_prefix_rows // 8)
    result = examined(lambda inputs: BIGRAM[inputs] if next(calls) < num_early else next_token(inputs))
    assert "looks ahead" in result.reason


# ------------------------------------------------------------------------------------------- neighbours and memory


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("batch_size", [2, 8, N])
def test_a_model_that_mixes_the_rows_of_a_batch_is_refused(batch_size, seed):
    def batch_mean(inputs):
        return BIGRAM[inputs] + 2 * one_hot(inputs).mean(axis=0, keepdims=True)

    result = examined(batch_mean, batch_size=batch_size, seed=seed)
    assert result.val_bpb is None
    assert "nats" in result.reason


def test_rows_that_score_differently_among_other_neighbours_are_refused():
    """Prefixes are answered alone and honestly, whole rows by the company they keep: the filled-up batch shows it."""
    company = []

    def model(inputs):
        company.append(1)
        late = len(company) > 2  # two batches of early prefixes
        return BIGRAM[inputs] + late * 0.05 * one_hot(inputs).mean(axis=0, keepdims=True)

    result = examined(model, batch_size=8, tolerance=1e-3)
    assert "nats apart among other neighbours" in result.reason


class MemoryOfRows:
    """Recognises a row by its first eight tokens, and then says what followed when it saw it last."""

    def __init__(self):
        self.seen = {}

    def __call__(self, inputs):
        logits = BIGRAM[inputs].copy()
        for line, row in enumerate(inputs):
            known = self.seen.get(tuple(row[:8]))
            if known is not None:
                logits[line, np.arange(T - 1), known[1:]] += 3.0
        for row in inputs:
            self.seen[tuple(row[:8])] = row
        return logits


class LearnsWhileExamined:
    """Counts pairs of tokens over all calls, and predicts by the counts."""

    def __init__(self):
        self.counts = np.exp(BIGRAM) * 20

    def __call__(self, inputs):
        logits = np.log(self.counts)[inputs]
        np.add.at(self.counts, (inputs[:, :-1], inputs[:, 1:]), 1.0)
        return logits


class CarriesState:
    """A recurrent state that is not reset between calls."""

    def __init__(self):
        self.state = np.zeros(V)

    def __call__(self, inputs):
        logits = BIGRAM[inputs] + 0.1 * self.state
        self.state = 0.5 * self.state + one_hot(inputs).mean(axis=(0, 1)) * V
        return logits


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("batch_size", [1, 8, N])
@pytest.mark.parametrize("model_class", [MemoryOfRows, LearnsWhileExamined, CarriesState])
def test_a_model_that_remembers_between_calls_is_refused(model_class, batch_size, seed):
    result = examined(model_class(), batch_size=batch_size, seed=seed)
    assert result.val_bpb is None
    assert "nats" in result.reason


# ---------------------------------------------------------------------------------------------------- dishonest answers


def on_claims(change):
    return lambda ask, answer: change(answer.copy()) if isinstance(ask, AskClaim) else answer


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "change", [lambda nll: nll + 0.01, lambda nll: 0.9 * nll, np.zeros_like, lambda nll: np.full_like(nll, nll.mean())]
)
def test_claims_that_differ_from_the_logits_are_refused(change, seed):
    result = examined(bigram, on_claims(change), seed=seed)
    assert result.val_bpb is None
    assert "a claim differs from its own logits" in result.reason


def test_unnormalised_claims_are_refused():
    """A cache of n-grams whose "probabilities" are scores of their own: minus the logit, clipped at nothing."""
    logits = BIGRAM - BIGRAM.max() - 1e-3

    def tamper(ask, answer):
        if not isinstance(ask, AskClaim):
            return answer
        return -logits[ask.inputs, ask.targets].astype(np.float32) * 0.5

    result = examined(lambda inputs: logits[inputs], tamper)
    assert "a claim differs from its own logits" in result.reason


def test_claims_and_logits_shaded_within_each_tolerance_are_refused_by_the_mean():
    def tamper(ask, answer):
        return np.maximum(answer - np.float32(0.9 * CLAIM_TOLERANCE), 0) if isinstance(ask, AskClaim) else answer

    result = examined(bigram, tamper)
    assert result.largest_deviation < TOLERANCE_CPU
    assert "better on average than their prefixes" in result.reason


@pytest.mark.parametrize("seed", SEEDS)
def test_claims_and_audited_logits_bent_towards_known_targets_are_refused(seed):
    """A candidate that knows the targets bends whole rows by half of what one position may differ."""
    held = []

    def tamper(ask, answer):
        if isinstance(ask, AskClaim):
            held[:] = [ask.targets]
            return answer - np.float32(0.07) * (answer > 0.2)
        if isinstance(ask, AskAudit):
            targets = held[0][ask.rows, ask.columns]
            places = np.arange(len(targets))
            probs = np.exp(answer - answer.max(axis=-1, keepdims=True)).astype(np.float64)
            probs /= probs.sum(axis=-1, keepdims=True)
            old = probs[places, targets]
            new = np.where(-np.log(old) > 0.2, old * np.exp(0.07), old)
            bent = probs * ((1 - new) / (1 - old))[:, None]
            bent[places, targets] = new
            return np.log(bent).astype(np.float32)
        return answer

    result = examined(bigram, tamper, seed=seed, tolerance=TOLERANCE_ACCELERATOR, batch_size=16)
    assert result.largest_deviation <= TOLERANCE_ACCELERATOR
    assert "better on average than their prefixes" in result.reason


@pytest.mark.parametrize("kind", [AskPrefix, AskClaim, AskAudit, AskWeights])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_refused_wherever_it_is(kind, value):
    def tamper(ask, answer):
        if isinstance(ask, kind):
            answer = answer.copy()
            answer.flat[-1] = value
        return answer

    result = examined(bigram, tamper)
    assert result.val_bpb is None
    assert "not all finite" in result.reason


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_claims_of_specials_must_be_finite_too(value):
    def tamper(ask, answer):
        return np.where(ask.targets == 0, np.float32(value), answer) if isinstance(ask, AskClaim) else answer

    assert "not all finite" in examined(bigram, tamper).reason


def test_a_negative_claim_is_refused():
    def last_is_negative(nll):
        nll.flat[-1] = -0.5
        return nll

    result = examined(bigram, on_claims(last_is_negative))
    assert "a claimed negative log-likelihood is negative" in result.reason


@pytest.mark.parametrize(
    ("kind", "reshape"),
    [
        (AskPrefix, lambda answer: answer[:-1]),
        (AskPrefix, lambda answer: answer[:, :-1]),
        (AskPrefix, lambda answer: answer[None]),
        (AskClaim, lambda answer: answer[:, :-1]),
        (AskClaim, lambda answer: answer.ravel()),
        (AskClaim, lambda answer: answer.mean(keepdims=True)),
        (AskClaim, lambda answer: answer[..., None]),
        (AskAudit, lambda answer: answer[:, :1]),
        (AskAudit, lambda answer: answer.T),
        (AskWeights, lambda answer: answer[:-1]),
        *((kind, lambda answer: answer.flat[0].reshape(())) for kind in (AskPrefix, AskClaim, AskAudit, AskWeights)),
    ],
)
def test_an_answer_of_another_shape_is_refused(kind, reshape):
    result = examined(bigram, lambda ask, answer: reshape(answer) if isinstance(ask, kind) else answer)
    assert result.val_bpb is None
    assert "have shape" in result.reason


def test_an_extra_column_of_the_vocabulary_is_refused():
    result = examined(lambda inputs: np.pad(BIGRAM[inputs], ((0, 0), (0, 0), (0, 1))))
    assert f"shape (8, {V + 1}) instead of (8, {V})" in result.reason


def test_a_score_that_no_model_can_reach_is_flagged_for_whoever_asked():
    """Text that one table predicts almost surely: honest in form, but no model of language."""
    rows = np.tile(np.arange(T + 1, dtype=np.uint16) % (V - 1) + 1, (N, 1))
    result = examined(lambda inputs: 12 * np.eye(V)[inputs % (V - 1) + 1], rows=rows)
    assert result.reason == ""
    assert 0 < result.val_bpb < PLAUSIBLE_BPB == 0.3
    assert result.is_implausible
    assert not examined(bigram).is_implausible
    assert not examined(next_token).is_implausible, "what was refused has no score to judge"


# ------------------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("place", [0, 31])
def test_weights_that_change_while_they_are_examined_are_refused(place):
    def tamper(ask, answer):
        if isinstance(ask, AskWeights):
            answer = answer.copy()
            answer[place] += 1
        return answer

    result = examined(bigram, tamper)
    assert result.val_bpb is None
    assert "the weights changed while they were examined" in result.reason
    assert result.claims is None


def test_the_weights_are_asked_for_once_when_all_else_is_answered():
    _, asked = conversation(answers(bigram))
    assert [type(ask) for ask in asked].count(AskWeights) == 1
    assert isinstance(asked[-1], AskWeights)


def test_the_claims_come_back_in_the_order_of_the_rows():
    nats = np.log(np.exp(BIGRAM).sum(axis=1))[ROWS[:, :-1]] - BIGRAM[ROWS[:, :-1], ROWS[:, 1:]]
    for batch_size in BATCH_SIZES:
        claims = examined(bigram, batch_size=batch_size).claims
        assert claims.dtype == np.float64
        np.testing.assert_allclose(claims, nats, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------- questions


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32))
def test_questions_come_in_equal_batches_and_cover_every_row(batch_size, seed):
    rows = ROWS[:, :20]
    table = {tuple(row): index for index, row in enumerate(rows.tolist())}
    assert len(table) == N
    _, asked = conversation(answers(bigram), batch_size=batch_size, seed=seed, rows=rows)
    size = min(batch_size, N)
    claimed = Counter()
    first_claim = next(place for place, ask in enumerate(asked) if isinstance(ask, AskClaim))
    last_claim = max(place for place, ask in enumerate(asked) if isinstance(ask, AskClaim))
    assert all(isinstance(ask, AskPrefix) for ask in asked[:first_claim])
    assert sum(len(ask.positions) for ask in asked[:first_claim]) >= RULES.num_prefix_rows
    late = [ask for ask in asked[last_claim:] if isinstance(ask, AskPrefix)]
    assert sum(len(ask.positions) for ask in late) >= RULES.num_prefix_rows // 2
    for place, ask in enumerate(asked):
        if isinstance(ask, AskClaim):
            assert isinstance(asked[place + 1], AskAudit)
            whole = np.concatenate([ask.inputs, ask.targets[:, -1:]], axis=1)
            assert np.array_equal(whole[:, 1:], ask.targets)
            claimed.update(table[tuple(row)] for row in whole.tolist())
        if isinstance(ask, AskPrefix | AskClaim):
            assert ask.inputs.shape == (size, 19)
            assert ask.inputs.dtype == np.int64
    assert set(claimed) == set(range(N))
    assert sum(claimed.values()) < N + size


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32))
def test_a_prefix_question_never_shows_a_whole_row_and_never_asks_at_its_end(batch_size, seed):
    rows = ROWS[:6, :12]
    whole = {tuple(row) for row in rows[:, :-1].tolist()}
    _, asked = conversation(answers(bigram), batch_size=batch_size, seed=seed, rows=rows)
    for ask in asked:
        if isinstance(ask, AskPrefix):
            assert ask.positions.max() < 10
            for line, position in zip(ask.inputs.tolist(), ask.positions.tolist(), strict=True):
                heads = [row for row in rows.tolist() if row[: position + 1] == line[: position + 1]]
                tails = [row for row in rows.tolist() if row[position + 1 : -1] == line[position + 1 :]]
                assert heads
                assert tails
                # a prefix that two rows share may by chance meet the other's tail; a longer one has its own
                assert tuple(line) not in whole or len(heads) > 1 or len(tails) > 1


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32))
def test_no_more_text_is_shown_before_the_claims_than_the_prefixes_need(batch_size, seed):
    """A batch larger than the number of prefixes repeats its lines; once whole rows were seen, it is filled with more."""
    _, asked = conversation(answers(bigram), batch_size=batch_size, seed=seed, rows=ROWS[:, :20])
    size = min(batch_size, N)
    kinds = [type(ask) for ask in asked]
    first_claim, last_audit = kinds.index(AskClaim), len(kinds) - 1 - kinds[::-1].index(AskAudit)
    lines = [tuple(line) for ask in asked[:first_claim] for line in ask.inputs.tolist()]
    assert len(set(lines)) <= RULES.num_prefix_rows <= len(lines)
    late = [ask for ask in asked[last_audit:] if isinstance(ask, AskPrefix)]
    result, _ = conversation(answers(bigram), batch_size=batch_size, seed=seed, rows=ROWS[:, :20])
    assert result.prefix_pairs == RULES.num_prefix_rows + len(late) * size


def test_order_and_places_change_from_trial_to_trial():
    def inputs_of(seed):
        _, asked = conversation(answers(bigram), seed=seed)
        return [ask.inputs.tobytes() for ask in asked if isinstance(ask, AskPrefix | AskClaim)]

    assert inputs_of(1) == inputs_of(1)
    assert not set(inputs_of(1)) & set(inputs_of(2))


def test_the_tolerance_is_wider_where_kernels_round_to_bf16():
    assert tolerance_for("cpu:Some Chip") == TOLERANCE_CPU == 5e-3
    assert tolerance_for("cuda:NVIDIA H100 80GB HBM3") == tolerance_for("mps:Apple M2") == TOLERANCE_ACCELERATOR
