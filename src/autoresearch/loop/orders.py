"""What a trial is ordered with, and what comes back: the nouns that referee, interview and session share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from autoresearch.contract.rules import Rules
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.loop.conversation import Ended, Limits
from autoresearch.sandbox.layers import probe
from autoresearch.sandbox.seal import Seal
from autoresearch.vocabulary import Outcome, Slice, Trial

MAX_WEIGHTS_BYTES = 4 * 2**30
MAX_ANSWER_BYTES = 2**30
# Names, types and shapes of the tensors: 1.5 MB for ten thousand tensors. 11 MB took 4.4 s to parse.
MAX_WEIGHTS_HEADER_BYTES = 4 * 2**20


class Text(Protocol):
    """What a trial is about: `contract.prepared.Prepared`, or a recipe that was made (`loop.preparation.MadeRecipe`)."""

    @property
    def directory(self) -> Path:
        """Where it lies."""

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 in hex of "corpus", "validation" and "tokenizer", and of a "recipe"."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What turned it into ids."""

    def rows(self, part: Slice, /) -> NDArray[np.unsignedinteger[Any]]:
        """Validation rows [n, T+1] of one slice."""


@dataclass(frozen=True)
class Arena:
    """What every trial of a session has in common. `recipe` is the recipe's files where one feeds the trial.

    max_device_batch_size: rows that one forward pass may have, as measured for this machine (loop/machine_fit.py); 0: no limit.
    blas: library that does the matrix products of a candidate that has none worth using (MLX's CPU build).
    """

    rules: Rules
    prepared: Text
    device_kind: str
    accelerators: bool
    threads: int = 1
    seal: Seal = field(default_factory=probe)
    warm_cache: Path | None = None
    recipe: Mapping[str, str] | None = None
    max_device_batch_size: int = 0
    blas: Path | None = None

    @property
    def limits(self) -> Limits:
        """What a candidate's tree may use: of memory 80 % of what is free now, the referee's share included."""
        return Limits(memory_mb=0.8 * psutil.virtual_memory().available / 2**20)

    @property
    def max_weights_bytes(self) -> int:
        """Largest hand-over: the referee holds it twice while it looks at it. A sixteenth of the machine's memory."""
        return min(MAX_WEIGHTS_BYTES, psutil.virtual_memory().total // 16)

    @cached_property
    def tokenizer_table(self) -> bytes:
        """The tokenizer as a candidate is given it: a table, as JSON."""
        return self.prepared.tokenizer.to_json().encode()


@dataclass(frozen=True)
class DeepWish:
    """When to examine deeply within the trial, and how finely.

    `wanted` is asked with the screened score. `noise_bpb` is what the bound is to come below; `asked_before` counts the
    prefixes that the same commit has answered in earlier deep examinations.
    """

    wanted: Callable[[float], bool]
    noise_bpb: float
    asked_before: int = 0


@dataclass(frozen=True)
class Order:
    """One trial as ordered: these files, this entry, this seed, this slice of validation text.

    Without `deep` a score stays screened, and an implausible one is refused. `is_trusted` marks the user's own file: what
    the compiler makes of it may warm later trials' caches. `startup_allowance` is how much of the clock (seconds, or CPU
    seconds) may pass between the launcher's hello and the first batch; what goes beyond is taken off the budget, or a
    candidate could train there on text of its own. `exam_allowance` is the same for its answers when it is screened, at the
    baseline's speed `usual_tok_sec`: who takes longer is too late, or it could go on training there on text it has kept.
    None, for the baseline: the preset's deadlines alone.
    """

    files: Mapping[str, str]
    entry: str
    seed: int
    slice: Slice = Slice.SEARCH
    deep: DeepWish | None = None
    is_trusted: bool = False
    startup_allowance: float | None = None
    exam_allowance: float | None = None
    usual_tok_sec: float = 0.0


def allowance(honest: Sequence[float], rules: Rules) -> float | None:
    """What work outside the clock may take, from that of the baseline's trials: a quarter more than the most, and slack.

    honest: of the clock (seconds, else CPU seconds). The slack is 5 % of the budget, at most 10 s, at least 1 s: a cold
    compile of another shape, a larger model's initialisation. None without a trial to go by.
    """
    return 1.25 * max(honest) + min(10.0, max(1.0, 0.05 * rules.time_budget)) if honest else None


@dataclass(frozen=True)
class Glimpse:
    """What a running trial shows of itself: for the live line and status files, never for a decision."""

    phase: str
    step: int = 0
    progress: float = 0.0
    remaining: float = 0.0
    tok_sec: float = 0.0
    loss: float | None = None


@dataclass(frozen=True)
class TrialRun:
    """A trial, with what it left behind. opened: rows per forward pass of each data loader that it opened, in order."""

    trial: Trial
    log: str
    weights: bytes | None = None
    opened: tuple[int, ...] = ()


def constants_of(rules: Rules, order: Order, max_device_batch_size: int = 0) -> dict[str, Any]:
    """The constants that `from prepare import ...` gives an experiment file."""
    return {
        "MAX_SEQ_LEN": rules.max_seq_len,
        "TIME_BUDGET": rules.time_budget,
        "SEED": order.seed,
        "PRESET": rules.preset,
        "MAX_DEVICE_BATCH_SIZE": max_device_batch_size,
    }


def answer_in(header: dict[str, Any], payload: bytes) -> NDArray[np.float32]:
    """The array of one "answer" frame.

    Raises:
        Ended: it is not a float32 array of the shape it names.
    """
    shape = header.get("shape")
    if (
        not isinstance(shape, list)
        or not all(isinstance(size, int) and 0 < size < 2**31 for size in shape)
        or len(shape) > 3
        or len(payload) != 4 * math.prod(shape)
    ):
        raise Ended(Outcome.REJECTED, "an answer is not a float32 array of the shape it names")
    return np.frombuffer(payload, dtype=np.float32).reshape(shape)


def system_random() -> np.random.Generator:
    """Randomness that no candidate can foresee."""
    return np.random.default_rng(int.from_bytes(os.urandom(16)))
