"""The nouns of the program and its one error tree. Standard library only; everything else may import this."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """How one trial ended. A candidate's failure is one of these values, never an exception of ours."""

    FINISHED = "finished"
    CRASHED = "crashed"
    TIMED_OUT = "timed out"
    DIVERGED = "diverged"
    REJECTED = "rejected"
    ABANDONED = "abandoned"  # stopped by us or by the user: says nothing about the candidate


class Status(StrEnum):
    """The verdict on one experiment, spelled as the field's `status` column spells it."""

    KEEP = "keep"
    DISCARD = "discard"
    CRASH = "crash"


class Slice(StrEnum):
    """The three parts of the validation text."""

    SEARCH = "search"  # every trial
    CONFIRM = "confirm"  # repeats before a keep, both arms
    CERTIFY = "certify"  # only by the command of that name


class Examination(StrEnum):
    """How strong the evidence for a score is."""

    NONE = ""
    SCREENED = "screened"  # every systematic cheat would have shown
    DEEP = "deep"  # a fresh process with only the weights was asked too; the bound on what is left is recorded


@dataclass(frozen=True)
class Proposal:
    """One idea: the new text of each file it edits, and one line that says what it is.

    `details` is the proposer's own bookkeeping (JSON values only); it travels through the ledger and comes back to the
    same proposer with the experiment's result.
    """

    description: str
    files: dict[str, str]
    proposer: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One ordered run of one commit: what the referee measured, and nothing the candidate said about its score.

    val_bpb is None unless the outcome is FINISHED. Seconds are wall seconds unless named otherwise; memory is MiB.
    `claimed` holds the numbers of the candidate's own summary block: shown, never decided on.
    """

    outcome: Outcome
    val_bpb: float | None = None
    reason: str = ""
    seed: int = 0
    slice: Slice = Slice.SEARCH
    num_steps: int = 0
    num_tokens: int = 0
    device_batch_size: int = 0  # rows of a forward pass, by the data loader that was opened last; 0 before any
    budget_used: float = 0.0  # in the contract's clock: seconds, CPU seconds or steps
    training_seconds: float = 0.0
    startup_seconds: float = 0.0
    startup_used: float = 0.0  # of the contract's clock, from the launcher's hello to the first batch
    exam_seconds: float = 0.0
    exam_used: float = 0.0  # on answers while it was screened: seconds on a wall clock, else CPU seconds
    feeder_wait_seconds: float = 0.0
    recipe_sha256: str = ""  # of the prepared recipe that fed it; empty where the contract's own text did
    tokenizer_sha256: str = ""
    preparation_seconds: float | None = None  # that the recipe took when it was made; None without one
    preparation_disk_mb: float | None = None
    preparation_limits: tuple[float, float] | None = None  # seconds and MiB that were allowed
    total_seconds: float = 0.0
    cpu_seconds: float = 0.0
    cpu_share: float | None = None  # CPU seconds / wall seconds while training; None where it cannot be read
    tok_sec: float = 0.0  # tokens per second of the contract's clock (per CPU second on `tiny`)
    speed_vs_baseline: float | None = None  # tok_sec over the baseline's median
    peak_memory_mb: float = 0.0
    disturbed: str = ""  # why the neighbours spoiled this run, or empty
    sealed: str = "none"
    weights_sha256: str = ""
    audited_positions: int = 0
    prefix_pairs: int = 0
    largest_deviation: float | None = None
    examined: Examination = Examination.NONE
    deep_seconds: float = 0.0
    deep_prefixes: int = 0
    leak_bpb: float | None = None  # what the score owes to text it must not know: estimate, 95 % interval
    leak_interval_bpb: tuple[float, float] | None = None
    leak_bound_bpb: float | None = (
        None  # the most that a cheat escaping one time in twenty can have taken off the score
    )
    exam_batch_size: int = 1  # rows of a forward pass, as the file asked for when it handed its weights over
    objective: str = ""  # what a verdict rests on where it is not val_bpb itself: "bpb@4bit"
    objective_bpb: float | None = None  # val_bpb of the weights as the objective transforms them
    objective_seconds: float = 0.0  # of total_seconds: transforming, scoring and examining them
    claimed: dict[str, float] = field(default_factory=dict)
    log_tail: str = ""

    @property
    def score(self) -> float | None:
        """What a verdict rests on: val_bpb, or under another objective that one's. None without a score."""
        return self.objective_bpb if self.objective else self.val_bpb


@dataclass(frozen=True)
class Verdict:
    """What `judge` answers, with the numbers it used. `status` is None while another repeat is asked for."""

    status: Status | None
    reason: str
    p_better: float | None = None
    estimate: float | None = None  # estimated mean val_bpb of the candidate on the search slice
    interval: tuple[float, float] | None = None  # 95 % interval of the gain (incumbent minus candidate)
    gain: float | None = None  # estimated gain over the incumbent, positive is better
    noise: float | None = None  # standard deviation of one trial that was used
    num_trials: int = 0
    lines_saved: int = 0  # of code, of a keep that is not shown to be better but shorter


class AutoresearchError(Exception):
    """Root of every error this program raises on purpose. `hint` is the next thing to type."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.hint}" if self.hint else self.message


class UsageError(AutoresearchError):
    """The command line or the settings name something that does not exist."""

    exit_code = 2


class WorkspaceError(AutoresearchError):
    """The workspace or its git repository is not in a state we can work with."""


class ScopeError(AutoresearchError):
    """An edit touches a file outside its program's scope."""


class DataMissing(AutoresearchError):
    """No prepared data, no shards, or no tokenizer."""


class DataCorrupt(AutoresearchError):
    """A shard, tokenizer or prepared file is truncated or altered."""


class UnfitWeights(AutoresearchError):
    """Weights that nothing can be made of: not finite, not what their file says, or kept out of reach."""


class InstallationError(AutoresearchError):
    """Our own launcher did not start: the package was changed or broken under a running session."""


class LedgerError(AutoresearchError):
    """The ledger cannot be read or written."""


class SessionBusy(AutoresearchError):
    """Another process holds this session's lock."""


class ProposerExhausted(AutoresearchError):
    """The proposer has nothing new to offer."""


class SessionStopped(AutoresearchError):
    """The session ended itself: a streak of crashes, or a baseline that does not run."""


class ProviderUnavailable(AutoresearchError):
    """No language model of the chain, or no coding agent, gave an answer that can be used."""


class SpendingCapReached(AutoresearchError):
    """A cap on money or tokens leaves no room for another call."""
