"""What `prepare` is to a file that is measured: the contract's constants, endless batches, and a stopwatch at the door."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.bench.sampling import Sampling
from autoresearch.contract.channel import Batch, Link, surface_names
from autoresearch.contract.corpora import cache_root
from autoresearch.contract.examination import Ask
from autoresearch.contract.feeder import BatchSource, PlainText
from autoresearch.contract.packing import Tokens
from autoresearch.contract.prepared import open_prepared
from autoresearch.contract.rules import Clock, Rules
from autoresearch.contract.standalone import dataset_names, num_shards
from autoresearch.contract.tokenizer import NUM_BYTES, SPECIALS, Tokenizer
from autoresearch.vocabulary import DataMissing, Slice, UsageError

Seconds = Callable[[], float]


class Enough(BaseException):
    """Raised out of a file's training loop when all steps are measured. No `except Exception` there stops it."""


class SyntheticText:
    """Batches of uniformly drawn tokens, the same one again and again: where nothing is prepared.

    Making them costs nothing, so the data part is the copy to the device alone.
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rows: NDArray[np.uint32] = np.zeros((0, 0), np.uint32)

    def open(self, batch_size: int, seq_len: int) -> None:
        """Batches are to be [batch_size, seq_len + 1] from now on."""
        shape = (batch_size, seq_len + 1)
        self._rows = np.random.default_rng(0).integers(0, self._vocab_size, shape, dtype=np.uint32)

    def rows(self, _progress: float) -> tuple[Tokens, int]:
        """The batch, in epoch 1."""
        return self._rows, 1


def synthetic_tokenizer(vocab_size: int) -> Tokenizer:
    """A tokenizer of exactly that many ids whose merges are pairs of bytes in numerical order: for sizes, not for text."""
    singles = [bytes([value]) for value in range(NUM_BYTES)]
    pairs = [bytes(divmod(number, NUM_BYTES)) for number in range(vocab_size - NUM_BYTES - len(SPECIALS))]
    return Tokenizer(singles + pairs)


@dataclass(frozen=True)
class Text:
    """What batches are made of. kind: "prepared" or "synthetic"; eval_rows: [n, T + 1] to try the evaluation on."""

    kind: str
    dataset: str
    tokenizer: Tokenizer
    source: BatchSource
    eval_rows: NDArray[np.unsignedinteger[Any]]


def text_for(rules: Rules, seed: int) -> Text:
    """The contract's prepared text, or synthetic tokens where nothing is prepared.

    Raises:
        DataCorrupt: what is prepared is damaged.
    """
    dataset = dataset_names(rules, None)[0]
    try:
        prepared = open_prepared(rules, dataset, cache_root(), num_shards=num_shards())
    except DataMissing:
        made_up = SyntheticText(rules.vocab_size)
        made_up.open(min(64, rules.num_eval_rows), rules.max_seq_len)
        tokenizer = synthetic_tokenizer(rules.vocab_size)
        return Text("synthetic", dataset, tokenizer, SyntheticText(rules.vocab_size), made_up.rows(0.0)[0])
    source = PlainText(prepared.shards, seed, prepared.tokenizer.get_bos_token_id())
    return Text("prepared", dataset, prepared.tokenizer, source, prepared.rows(Slice.SEARCH))


@dataclass
class StopwatchLink:
    """Hands out batches for as long as steps are wanted, and writes down when each was asked for.

    A step is the time from asking for its first micro-step's batch to asking for the next step's: everything that the
    file does in between, its own printing and reading of losses included. On an accelerator the loader waits, before it
    asks, until at most two steps are in flight; the times between asks are then those of the device, and nothing waits
    for it that would not wait in a trial.

    micro_steps: called with the batch's shape when the first one is asked for; how many make a step. progress is that of
    a run that has just begun. clock: seconds of what the contract counts (`child.Clocks.counting`). first_asked: by the
    wall clock.
    """

    rules: Rules
    source: BatchSource
    sampling: Sampling
    clock: Seconds
    wall_clock: Seconds
    micro_steps: Callable[[int, int], int]
    rows: int = 0
    seq_len: int = 0
    num_micro_steps: int = 0
    first_asked: float | None = None
    _num_asked: int = 0
    _step_began: float = 0.0
    _wall_began: float = 0.0
    _origin: float = 0.0

    def open_stream(self, batch_size: int, seq_len: int) -> None:
        """What the file asks for. May be called again before the first batch is taken: the last call counts."""
        self.rows, self.seq_len = batch_size, seq_len
        self.source.open(batch_size, seq_len)

    def next_batch(self) -> Batch:
        """The next batch. Raises Enough when everything is measured."""
        now, wall = self.clock(), self.wall_clock()
        if self.first_asked is None:
            self.first_asked, self._origin = wall, now
            self.num_micro_steps = self.micro_steps(self.rows, self.seq_len)
        elif self._num_asked % self.num_micro_steps == 0:
            self.sampling.add(now - self._step_began, wall - self._wall_began)
        if self._num_asked % self.num_micro_steps == 0:
            if self.sampling.is_enough:
                _stop_main_thread()
                raise Enough
            self._step_began, self._wall_began = now, wall
        used = self._num_asked if self.rules.clock is Clock.STEPS else now - self._origin
        progress = min(1.0, used / self.rules.time_budget)
        rows, epoch = self.source.rows(progress)
        self._num_asked += 1
        return Batch(rows, epoch, progress, progress * self.rules.time_budget)

    def examine(self, weights: bytes, batch_size: int, answer: Callable[[Ask], NDArray[np.float32]]) -> float:
        """The file has ended its loop by itself and wants its score: there is none here."""
        raise Enough


def _stop_main_thread() -> None:
    """Where a thread of the file's own fetches batches, its main thread waits for them, and only a signal reaches it."""
    if threading.current_thread() is not threading.main_thread():
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def names_for(link: Link, text: Text, constants: dict[str, Any]) -> dict[str, Any]:
    """Everything that `from prepare import ...` offers, as in a trial; rows longer than the contract's are refused."""
    names = surface_names(link, text.tokenizer, constants)
    make, longest = names["make_dataloader"], constants["MAX_SEQ_LEN"]

    def make_dataloader(tokenizer: Tokenizer, B: int, T: int, split: str = "train") -> Any:  # noqa: N803
        """Batches of B rows of T tokens of training text."""
        if longest < T:
            raise UsageError(
                f"it asks for rows of {T} tokens, and contract {constants['PRESET']} has rows of {longest}",
                hint="autoresearch bench --contract P   (the contract that the file was written for)",
            )
        return make(tokenizer, B, T, split)

    return {**names, "make_dataloader": make_dataloader}
