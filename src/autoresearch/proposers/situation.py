"""What a proposer may know when it is asked for the next idea, and the protocol it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from autoresearch.vocabulary import Outcome, Proposal, Status


@dataclass(frozen=True)
class PastExperiment:
    """One earlier experiment. Texts in it were written by a machine: mark them as quoted data before a model reads them."""

    number: int
    description: str
    files: dict[str, str]  # text of the candidate's files, unedited ones too; of a refused one what it offered
    details: dict[str, Any]  # `Proposal.details`, as the ledger stored them (JSON values)
    status: Status | None  # None while undecided or abandoned
    val_bpb: float | None  # estimated mean on the search slice, None when it crashed
    gain: float | None  # estimated gain over its incumbent, positive is better
    tag: str = ""  # of its session
    proposer: str = ""
    base: int | None = None  # number of the experiment that was the incumbent then
    interval: tuple[float, float] | None = None  # of the gain
    p_better: float | None = None
    reason: str = ""  # why that verdict
    outcome: Outcome | None = None  # of its last trial; REJECTED when it was refused without a run
    log_tail: str = ""  # end of the log of a trial that failed
    seconds: float = 0.0  # device time of all its trials
    tok_sec: float | None = None
    memory_gb: float | None = None


@dataclass(frozen=True)
class MachineFacts:
    """Where trials run: what a proposer must fit its ideas to."""

    device: str = "cpu"
    chip: str = ""
    memory_gb: float | None = None  # of the device
    budget: str = ""  # in words: "20 CPU seconds"
    tok_sec: float | None = None  # of the incumbent
    peak_memory_gb: float | None = None  # of the incumbent
    preparation: str = ""  # limits of a data recipe, in words: "120 seconds, 2 GB of disk"


@dataclass(frozen=True)
class Situation:
    """A session as its proposer may know it. Nothing of validation text, ledger or keys is in it."""

    incumbent: dict[str, str]  # text of the files that may be edited, by name, the main one first
    history: Sequence[PastExperiment] = ()  # of this session, oldest first, without the baseline
    baseline: dict[str, str] = field(default_factory=dict)  # text of the same files when the session began
    tag: str = ""
    program: str = "model"
    incumbent_number: int = 0  # 0 is the baseline
    val_bpb: float | None = None  # estimated mean of the incumbent
    val_bpb_error: float | None = None  # standard error of that mean
    noise: float | None = None  # standard deviation of one trial's val_bpb
    baseline_val_bpb: float | None = None
    elsewhere: Sequence[PastExperiment] = ()  # keeps of other sessions that were measured under the same fingerprint
    machine: MachineFacts = field(default_factory=MachineFacts)
    objective: str = ""  # what the scores are where they are not val_bpb itself: bpb@4bit

    @property
    def number(self) -> int:
        """The number that the next experiment gets."""
        return max((past.number for past in self.history), default=0) + 1


def program_of(past: PastExperiment, situation: Situation) -> dict[str, str] | None:
    """The whole program of an experiment: the files that the incumbent has, in its order; None where one is not recorded."""
    names = situation.incumbent
    return {name: past.files[name] for name in names} if names.keys() <= past.files.keys() else None


class Proposer(Protocol):
    """Has the next idea. What it remembers is in the history: a resumed session goes on as it would have."""

    name: str

    def propose(self, situation: Situation) -> Proposal:
        """One idea: an edit of the incumbent's files.

        Raises:
            ProposerExhausted: nothing new is left.
        """
