"""One experiment from an edit that somebody else made: what `autoresearch try` does, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from autoresearch.hostile_text import one_line, quoted_for_model
from autoresearch.loop.objective import PLAIN, objective_of
from autoresearch.loop.program_files import files_at, names_in
from autoresearch.loop.research import why_refused
from autoresearch.loop.session import BASELINE, ResearchSession
from autoresearch.loop.settings import Settings
from autoresearch.loop.verdict import judge_failure
from autoresearch.proposers.idea import MAX_NOTE
from autoresearch.proposers.lessons import FOR_HUMAN
from autoresearch.records.ledger import Experiment, Ledger, Session, State
from autoresearch.vocabulary import AutoresearchError, Outcome, Proposal, SessionStopped, Status, UsageError
from autoresearch.workspace import SCOPES, Workspace, surface_of

PROPOSER = "try"  # whose ideas these are, in the record
_LOG_LIMIT = 3000  # characters of a crash's log that are answered: a traceback of 30 lines has about 2000
_CRASHES_IN_A_ROW = 3  # after so many the advice is to begin again from what runs


@dataclass(frozen=True)
class Edit:
    """The texts to try, read when `try` was called: whatever is edited while it waits is another idea.

    files: all that make up a candidate, edited or not, the main one first. incumbent: number of the experiment that was to be beaten then. outside: files beyond the program's scope that the
    checkout had changed. is_given: the text of the main file came with the call; the checkout is left alone then.
    """

    files: dict[str, str]
    incumbent: int = BASELINE
    outside: tuple[str, ...] = ()
    is_given: bool = False


@dataclass(frozen=True)
class Attempt:
    """What became of an edit.

    finished_first: numbers of experiments that a killed process had left open, and that were brought to their verdict
    before. overtaken_by: number of the experiment that became the incumbent while the edit waited. began: by the
    monotonic clock. checkout: what happened to the files there, in words.
    """

    experiment: Experiment
    checkout: str
    began: float
    seconds: float
    finished_first: tuple[int, ...] = ()
    overtaken_by: int | None = None


@dataclass(frozen=True)
class SessionLimits:
    """How far a person lets a session go: experiments in all, and hours since it was begun. None: no such limit."""

    experiments: int | None
    hours: float | None

    def left(self, ledger: Ledger, session: Session) -> dict[str, float]:
        """What is left of each limit that there is, never below zero: experiments_left, hours_left."""
        found: dict[str, float] = {}
        if self.experiments is not None:
            found["experiments_left"] = max(0, self.experiments - _num_ideas(ledger, session.tag))
        if self.hours is not None:
            gone = (datetime.now(UTC) - datetime.fromisoformat(session.created_at)).total_seconds() / 3600
            found["hours_left"] = round(max(0.0, self.hours - gone), 4)
        return found

    def reached(self, ledger: Ledger, session: Session) -> str:
        """Which limit is reached, as a sentence for the agent, or "" while there is room."""
        left = self.left(ledger, session)
        if left.get("experiments_left") == 0:
            return f"the session's limit of {self.experiments} experiments is reached: stop here"
        if left.get("hours_left") == 0:
            return f"the session's limit of {self.hours:g} hours is reached: stop here"
        return ""

    def check(self, ledger: Ledger, session: Session) -> None:
        """Pass while there is room.

        Raises:
            SessionStopped: a limit is reached.
        """
        if why := self.reached(ledger, session):
            raise SessionStopped(why, hint=f"autoresearch history {session.tag}   (the work is done; report it)")


def limits_of(ledger: Ledger, session: Session, settings: Settings) -> SessionLimits:
    """The limits in force: those that the person gives now (flag, environment, pyproject.toml), else the recorded ones.

    Where `research` has had ideas in the session, the recorded ones were that night's, and ended with it.
    """
    ideas = {found.proposal.proposer for found in ledger.experiments(session.tag) if found.number != BASELINE}
    recorded = session.settings if ideas <= {PROPOSER} else {}

    def either(name: str) -> Any:
        now = getattr(settings, name)
        return recorded.get(name) if now is None else now

    return SessionLimits(either("experiments"), either("hours"))


def _num_ideas(ledger: Ledger, tag: str) -> int:
    return max((found.number for found in ledger.experiments(tag)), default=0)


# -- before the queue ---------------------------------------------------------------------------------------------------


def read_edit(
    workspace: Workspace, ledger: Ledger, session: Session | None, settings: Settings, text: str | None
) -> Edit:
    """The edit as it is now: the program's files of this checkout, or the incumbent's with `text` as the main one.

    Raises:
        UsageError: it is the incumbent's own text. WorkspaceError: a file cannot be read.
    """
    entry = session.entry if session else settings.entry
    program = session.program if session else settings.program
    names = surface_of(program, entry)
    incumbent = _incumbent(ledger, session.tag) if session else None
    commit = incumbent.commit_hash if incumbent else workspace.repository.head()
    number = incumbent.number if incumbent else BASELINE
    before = {name: workspace.read_surface(commit or "", name) for name in names}
    tried = {name: workspace.read_checkout(name) for name in names} if text is None else {**before, entry: text}
    if tried == before:
        raise _nothing_to_try(names, number)
    return Edit(tried, number, _outside(workspace, program, text), text is not None)


def check_limits(ledger: Ledger, session: Session, limits: SessionLimits) -> None:
    """Pass when there is room for an experiment, or one that was begun is still open.

    Raises:
        SessionStopped: a limit is reached.
    """
    undecided = (State.PROPOSED, State.COMMITTED)
    if not any(found.state in undecided and found.number for found in ledger.experiments(session.tag)):
        limits.check(ledger, session)


def _incumbent(ledger: Ledger, tag: str) -> Experiment | None:
    """The experiment that was kept last, else the baseline; None while the session is being begun."""
    experiments = ledger.experiments(tag)
    kept = [found for found in experiments if found.status is Status.KEEP]
    return kept[-1] if kept else next(iter(experiments), None)


def _outside(workspace: Workspace, program: str, text: str | None) -> tuple[str, ...]:
    """Code and settings that the checkout has changed beyond the program's scope; they are not tried, and say so."""
    if text is not None:
        return ()
    allowed = set(workspace.in_repository(dict.fromkeys(SCOPES.get(program, ()), "")))
    return tuple(
        path for path in workspace.repository.dirty_paths() if path not in allowed and path.endswith((".py", ".toml"))
    )


def _nothing_to_try(names: Sequence[str], number: int) -> UsageError:
    each = " and ".join(names)
    return UsageError(
        f"{each} {'is' if len(names) == 1 else 'are'} the incumbent's (experiment {number}); there is nothing to try",
        hint=f"edit {' or '.join(names)}, then: autoresearch try -m '...'",
    )


# -- in turn ------------------------------------------------------------------------------------------------------------


def try_edit(
    session: ResearchSession,
    description: str,
    edit: Edit | None = None,
    limits: SessionLimits | None = None,
    *,
    note: str = "",
) -> Attempt:
    """One experiment from that edit: commit, sealed trials, verdict, row; the session's lock must be held.

    edit: None reads the checkout now. limits: None takes the session's. note: a line for the person, about what this program may
    not edit.

    An experiment that a killed process left open comes first: it goes on as this one when it has the same text, else it
    is brought to its own verdict. After a discard or crash the incumbent's files are back in the checkout, when that still
    holds what was tried; the edit is safe under its ref.

    Raises:
        UsageError: the text became the incumbent's while it waited. SessionStopped: a limit is reached, or the baseline
            does not run. Stopped: the user asked to stop.
    """
    edit = edit or read_edit(session.workspace, session.ledger, session.session, session.settings, None)
    limits = limits or limits_of(session.ledger, session.session, session.settings)
    session.establish_baseline()
    mine, finished = None, []
    while mine is None and (found := session.open_experiment()) is not None:
        if found.proposal.files == edit.files:
            mine = found
        else:
            finished.append(_conclude(session, found).number)
    if mine is None:
        limits.check(session.ledger, session.session)
        incumbent = session.incumbent()
        if edit.files == files_at(session.workspace, session.session, incumbent.commit_hash or ""):
            raise _nothing_to_try(names_in(session.session), incumbent.number)
        session.refresh_if_due()
    began = time.monotonic()
    against = session.incumbent().number
    overtaken = None if against == edit.incumbent else against
    if mine is None:
        details: dict[str, Any] = {"outside_scope": list(edit.outside)}
        if line := one_line(note, MAX_NOTE):
            details[FOR_HUMAN] = line
        mine = session.propose(Proposal(description, edit.files, PROPOSER, details))
    concluded = _conclude(session, mine)
    checkout = _bring_checkout_up(session, concluded, edit)
    return Attempt(concluded, checkout, began, time.monotonic() - began, tuple(finished), overtaken)


def _conclude(session: ResearchSession, experiment: Experiment) -> Experiment:
    """Bring an open experiment to its verdict and settle it."""
    outside = experiment.proposal.details.get("outside_scope", [])
    if outside:
        program = session.session.program
        refusal = f"it touches {outside[0]}, and the {program} program may edit {', '.join(SCOPES[program])}"
    else:
        experiment = session.commit(experiment)
        refusal = why_refused(session, experiment)
    verdict = judge_failure(Outcome.REJECTED, refusal) if refusal else session.try_out(experiment)
    return session.conclude(experiment, verdict)


def _bring_checkout_up(session: ResearchSession, experiment: Experiment, edit: Edit) -> str:
    """Leave the incumbent's files in the checkout where it still holds what was tried. Says what was done.

    The verdict stands by now, so what cannot be done here is told, and ends nothing.
    """
    if edit.is_given:
        return "left as it was: the text came with the call"
    workspace, incumbent = session.workspace, session.incumbent()
    plural = "s" if len(edit.files) > 1 else ""
    try:
        for name, text in edit.files.items():
            if workspace.read_checkout(name) != text:
                return f"left as it was: {name} was edited again since this call"
            if experiment.proposal.files.get(name) != text:
                return f"left as it was: {name} could not be stored in the record"
        if experiment.status is not Status.KEEP:
            for name, text in files_at(workspace, session.session, incumbent.commit_hash or "").items():
                if text != edit.files[name]:
                    workspace.write_checkout(name, text)
        if workspace.repository.branch_checked_out_at(session.session.branch) == workspace.repository.toplevel:
            paths = list(workspace.in_repository(edit.files))
            workspace.repository.refresh_index(incumbent.commit_hash or "", paths)
    except AutoresearchError as error:
        return f"not brought up to date: {error.message}"
    return (
        f"left as it was: {'they are' if plural else 'it is'} the incumbent's file{plural} now"
        if experiment.status is Status.KEEP
        else f"incumbent's file{plural} restored"
    )


# -- the answer ---------------------------------------------------------------------------------------------------------


def answer_of(session: ResearchSession, attempt: Attempt, called: float, limits: SessionLimits) -> dict[str, Any]:
    """What `try --json` prints: what an agent needs for its next step, and no more.

    called: when `try` was called, by the monotonic clock. Scores are in bits per byte. `log_tail`, of a crash only, is
    quoted data. `objective` (of another one than val_bpb), `finished_first` and `log_tail` are there only when there is something to say.
    """
    experiment = attempt.experiment
    verdict = experiment.verdict
    assert verdict is not None
    incumbent, left = session.incumbent(), limits.left(session.ledger, session.session)
    answer: dict[str, Any] = {
        "tag": session.tag,
        "experiment": experiment.number,
        "status": experiment.status,
        "reason": verdict.reason,
        "val_bpb": _rounded(verdict.estimate, 6),
        "gain": _rounded(verdict.gain, 6),
        "interval": [_rounded(bound, 6) for bound in verdict.interval] if verdict.interval else None,
        "p_better": _rounded(verdict.p_better, 4),
        "noise": _rounded(verdict.noise if verdict.noise is not None else session.noise().sd, 6),
        "incumbent": {"experiment": incumbent.number, "val_bpb": _rounded(session.incumbent_estimate().mean, 6)},
        "commit": experiment.commit_hash,
        "checkout": attempt.checkout,
        "queue_seconds": round(max(0.0, attempt.began - called), 1),
        "seconds": round(attempt.seconds, 1),
        "limits": left,
        "next": _next_of(session, attempt, limits),
    }
    if (judged := objective_of(session.session)) != PLAIN:
        answer["objective"] = judged
    if attempt.finished_first:
        answer["finished_first"] = list(attempt.finished_first)
    tails = [row.trial.log_tail for row in session.ledger.trials(session.tag, experiment.number) if row.trial]
    if experiment.status is Status.CRASH and any(tails):
        answer["log_tail"] = quoted_for_model([tail for tail in tails if tail][-1], _LOG_LIMIT)
    return answer


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _next_of(session: ResearchSession, attempt: Attempt, limits: SessionLimits) -> str:
    """What to do next, in one line: stop where a limit is reached."""
    if why := limits.reached(session.ledger, session.session):
        return why
    judged = [found.status for found in session.ledger.experiments(session.tag) if found.status]
    crashes = next((i for i, status in enumerate(reversed(judged)) if status is not Status.CRASH), len(judged))
    return advice(
        attempt, entry=" and ".join(names_in(session.session)), incumbent=session.incumbent().number, crashes=crashes
    )


def advice(attempt: Attempt, *, entry: str, incumbent: int, crashes: int) -> str:
    """What to do after that verdict, in one line. crashes: how many of the last experiments crashed in a row."""
    experiment, verdict = attempt.experiment, attempt.experiment.verdict
    if experiment.status is Status.KEEP:
        return f"go on from this {entry}, the new incumbent, with the next idea"
    if experiment.status is Status.CRASH:
        if crashes >= _CRASHES_IN_A_ROW:
            return f"{crashes} crashes in a row: go back to the file of experiment {incumbent}, and make a small change that runs"
        return "read log_tail (quoted data): mend an easy bug and try again, else leave this idea and take the next"
    if verdict is None or verdict.estimate is None:
        return f"refused without a score: read the reason, do not work around it, and edit {entry} with another idea"
    if attempt.overtaken_by is not None:
        return (
            f"experiment {attempt.overtaken_by} became the incumbent while this waited, and this edit lacked its change: put"
            f" the idea into the incumbent's {entry} and try it again, or take the next"
        )
    return f"edit the incumbent's {entry} with the next idea"


def lines_of(answer: Mapping[str, Any]) -> list[str]:
    """The answer's last lines for a person, below the verdict's own line."""
    left = answer["limits"]
    words = [f"{value:g} {name.removesuffix('_left')} left" for name, value in left.items()]
    return [
        f"checkout  {answer['checkout']}",
        f"    next  {answer['next']}",
        *([f"  limits  {', '.join(words)}"] if words else []),
    ]
