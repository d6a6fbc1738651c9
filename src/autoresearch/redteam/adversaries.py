"""A small real language model, and models that cheat on top of it: they answer the examination's questions in process.

The examination is what is tested here, not the process, so the same generators that the referee drives are driven
directly. A cheat has two sides: the process that is screened, which sees whole rows and may remember them, and the fresh
one that a deep examination asks, which has the weights and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.examination import Ask, AskAudit, AskClaim, AskPrefix, AskWeights, Floats, Ints
from autoresearch.contract.prepared import Prepared

WEIGHTS_SHA256 = bytes(range(32))  # of weights that never change
_TRAINING_TOKENS = 400_000  # enough for bigram counts of a thousand tokens; read in 0.1 s
_CACHE_DECAY = 0.97  # a recurrent memory of about 33 tokens
_MIX = (0.55, 0.25, 0.2)  # bigrams, memory, unigrams: tuned by hand on the training text, nothing rests on it
_ANSWERS_AS_IF_CERTAIN = 0.98
_LIKELY = 0.3  # a boosted token was already this likely
_KNOWN_FROM = 8  # tokens after which a prefix belongs to one row: a forger that forges earlier contradicts itself


class Respondent(Protocol):
    """Whoever answers the examination's questions."""

    def answer(self, ask: Ask) -> Floats:
        """As the question's class says: logits or nats, float32."""


@dataclass(frozen=True)
class CausalModel:
    """Bigrams, unigrams and a decaying memory of the row, mixed: causal, with a long context, from real text.

    bigrams float64 [V, V] and unigrams float64 [V] are probabilities.
    """

    bigrams: NDArray[np.float64]
    unigrams: NDArray[np.float64]

    def at_targets(self, inputs: Ints, targets: Ints) -> NDArray[np.float64]:
        """Probability float64 [B, T] of each target after its prefix. inputs, targets int64 [B, T]."""
        length = inputs.shape[1]
        ages = np.arange(length)[:, None] - np.arange(length)[None, :]
        weights = np.where(ages >= 0, _CACHE_DECAY ** np.maximum(ages, 0), 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
        memory = np.stack(
            [((row[None, :] == aim[:, None]) * weights).sum(axis=1) for row, aim in zip(inputs, targets, strict=True)]
        )
        mixed: NDArray[np.float64] = (
            _MIX[0] * self.bigrams[inputs, targets] + _MIX[1] * memory + _MIX[2] * self.unigrams[targets]
        )
        return mixed

    def after(self, prefix: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probability float64 [V] of every token after this prefix."""
        weights = _CACHE_DECAY ** np.arange(len(prefix))[::-1]
        memory = np.bincount(prefix, weights / weights.sum(), minlength=len(self.unigrams))
        mixed: NDArray[np.float64] = _MIX[0] * self.bigrams[prefix[-1]] + _MIX[1] * memory + _MIX[2] * self.unigrams
        return mixed


def model_of(prepared: Prepared) -> CausalModel:
    """The model, counted from the first training documents."""
    vocab_size = prepared.tokenizer.get_vocab_size()
    pairs = np.ones((vocab_size, vocab_size)) * (1 / vocab_size)
    singles = np.ones(vocab_size)
    num_tokens = 0
    for tokens, _ in prepared.documents(0):
        ids = tokens.astype(np.int64)
        np.add.at(pairs, (ids[:-1], ids[1:]), 1.0)
        singles += np.bincount(ids, minlength=vocab_size)
        num_tokens += len(ids)
        if num_tokens >= _TRAINING_TOKENS:
            break
    return CausalModel(pairs / pairs.sum(axis=1, keepdims=True), singles / singles.sum())


class Peeker:
    """A model with a leak: on a share of places it reads the input that comes next, and answers with it.

    The places follow from the row's first tokens and the place, so they are the same in every process. `share` 0 is the
    honest model. `only_likely`: it answers with the token that it saw only where the model had thought it likely.
    """

    def __init__(self, model: CausalModel, share: float, *, only_likely: bool = False) -> None:
        self._model = model
        self._share = share
        self._only_likely = only_likely
        self._latest: Ints = np.zeros((0, 0), np.int64)

    def answer(self, ask: Ask) -> Floats:
        if isinstance(ask, AskWeights):
            return np.frombuffer(WEIGHTS_SHA256, np.uint8).astype(np.float32)
        if isinstance(ask, AskAudit):
            places = zip(ask.rows.tolist(), ask.columns.tolist(), strict=True)
            return _logits([self._at(self._latest[row], column) for row, column in places])
        self._latest = ask.inputs
        if isinstance(ask, AskPrefix):
            return _logits([self._at(row, int(at)) for row, at in zip(ask.inputs, ask.positions, strict=True)])
        return self._claims(ask)

    def _claims(self, ask: AskClaim) -> Floats:
        honest = self._model.at_targets(ask.inputs, ask.targets)
        seen = self._leaks(ask.inputs)
        seen[:, -1] = False  # there is no next input to read
        if self._only_likely:
            seen &= honest > _LIKELY
        # what it reads is the target: inputs are one token behind
        told = np.where(seen, _blend(honest), honest)
        return (-np.log(told)).astype(np.float32)

    def _at(self, row: NDArray[np.int64], column: int) -> NDArray[np.float64]:
        honest = self._model.after(row[: column + 1])
        if column + 1 == len(row) or not self._leaks(row[None, :])[0, column]:
            return honest
        aim = int(row[column + 1])
        if self._only_likely and honest[aim] <= _LIKELY:
            return honest
        told = honest * (1 - _ANSWERS_AS_IF_CERTAIN)
        told[aim] += _ANSWERS_AS_IF_CERTAIN
        return told

    def _leaks(self, inputs: Ints) -> NDArray[np.bool_]:
        """bool [B, T]: where it peeks. By a hash of the place and of the two tokens there, which any prefix holds."""
        before = np.concatenate([inputs[:, :1], inputs[:, :-1]], axis=1)
        mixed = inputs * 1_000_003 + before * 8_191 + np.arange(inputs.shape[1]) * 2_654_435_761
        mixed = (mixed ^ (mixed >> 15)) * 2_246_822_519 % 2**32
        chosen: NDArray[np.bool_] = (mixed ^ (mixed >> 13)) % 1_000_000 < self._share * 1_000_000
        return chosen


def _blend(honest: NDArray[np.float64]) -> NDArray[np.float64]:
    return honest * (1 - _ANSWERS_AS_IF_CERTAIN) + _ANSWERS_AS_IF_CERTAIN


class Forger:
    """Claims better nats on a share of places, the dearest ones, and answers everything that it was told enough to fake.

    It knows every target once whole rows have come, so audits and late prefixes fit its claims; where it was probed
    before, it claims honestly. In a fresh process it knows nothing, and answers honestly.
    """

    def __init__(self, model: CausalModel, share: float) -> None:
        self._model = model
        self._share = share
        self._probed: set[bytes] = set()
        self._rows: dict[bytes, NDArray[np.float64]] = {}  # by the row's inputs: the probabilities it told
        self._whole: dict[bytes, tuple[Ints, Ints]] = {}
        self._latest = AskClaim(np.zeros((0, 0), np.int64), np.zeros((0, 0), np.int64))
        self._told: NDArray[np.float64] = np.zeros((0, 0))

    def answer(self, ask: Ask) -> Floats:
        if isinstance(ask, AskWeights):
            return np.frombuffer(WEIGHTS_SHA256, np.uint8).astype(np.float32)
        if isinstance(ask, AskPrefix):
            return _logits(
                [self._prefix(row[: int(at) + 1]) for row, at in zip(ask.inputs, ask.positions, strict=True)]
            )
        if isinstance(ask, AskClaim):
            return self._claim(ask)
        places = zip(ask.rows.tolist(), ask.columns.tolist(), strict=True)
        return _logits(
            [
                self._forged(self._latest.inputs[r, : c + 1], int(self._latest.targets[r, c]), self._told[r, c])
                for r, c in places
            ]
        )

    def _claim(self, ask: AskClaim) -> Floats:
        honest = self._model.at_targets(ask.inputs, ask.targets)
        told = honest.copy()
        dear = honest < np.quantile(honest[:, _KNOWN_FROM:], self._share)
        dear[:, :_KNOWN_FROM] = False
        for line, column in np.argwhere(dear):
            if ask.inputs[line, : column + 1].tobytes() not in self._probed:
                told[line, column] = _blend(honest[line, column])
        for line, row in enumerate(ask.inputs):
            # a row that fills up the last batch is claimed twice, and must be claimed alike
            told[line] = self._rows.setdefault(row.tobytes(), told[line])
            self._whole[row.tobytes()] = (row, ask.targets[line])
        self._latest, self._told = ask, told
        return (-np.log(told)).astype(np.float32)

    def _prefix(self, prefix: NDArray[np.int64]) -> NDArray[np.float64]:
        """Honest for what it has not seen whole, and then remembered; fitting its claim for what it has."""
        for key, (row, targets) in self._whole.items():
            if len(prefix) > _KNOWN_FROM and np.array_equal(row[: len(prefix)], prefix):
                at = len(prefix) - 1
                return self._forged(prefix, int(targets[at]), self._rows[key][at])
        self._probed.add(prefix.tobytes())
        return self._model.after(prefix)

    def _forged(self, prefix: NDArray[np.int64], target: int, told: float) -> NDArray[np.float64]:
        """Probabilities that give the target what was told, and the others their honest shares of the rest."""
        probabilities = self._model.after(prefix)
        rest = 1 - probabilities[target]
        probabilities *= (1 - told) / rest
        probabilities[target] = told
        return probabilities


def _logits(probabilities: list[NDArray[np.float64]]) -> Floats:
    return np.log(np.stack(probabilities)).astype(np.float32)
