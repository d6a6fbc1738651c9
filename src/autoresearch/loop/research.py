"""The research loop, on one screen."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from autoresearch.loop.objective import judged_on
from autoresearch.loop.outlook import situation_of
from autoresearch.loop.program_files import files_at, files_of
from autoresearch.loop.session import Reporter, ResearchSession, Stopped
from autoresearch.loop.settings import Settings
from autoresearch.loop.verdict import judge_failure
from autoresearch.proposers.novelty import is_seed_only_edit, same_files
from autoresearch.proposers.situation import Proposer
from autoresearch.providers.exchange import Interrupted
from autoresearch.records.ledger import Experiment
from autoresearch.vocabulary import (
    Outcome,
    Proposal,
    ProposerExhausted,
    ProviderUnavailable,
    SessionStopped,
    SpendingCapReached,
    Status,
)
from autoresearch.workspace import SCOPES, refusal_of

# Seconds until a proposer that has no answer is asked again: an outage of two hours does not end a night
_PAUSES = (10.0, 60.0, 300.0, 900.0, 1800.0, 1800.0, 2400.0)


def research(session: ResearchSession, proposer: Proposer, reporter: Reporter) -> str:
    """The experiment loop: propose, check scope, run, judge, record, settle. Returns why it ended.

    Raises:
        SessionStopped: the baseline or the incumbent does not run, or candidates crash one after the other.
    """
    limits = Limits(session.settings, session.next_number() - 1)
    session.spare.keeps = True
    try:
        session.establish_baseline()
        while (reached := limits.reached(session.next_number() - 1)) is None or session.open_experiment():
            check_crash_streak(session)
            experiment = session.open_experiment()
            if experiment is None:
                session.refresh_if_due()
                experiment = session.propose(next_idea(session, proposer))
            experiment = session.commit(experiment)
            refusal = why_refused(session, experiment)
            verdict = judge_failure(Outcome.REJECTED, refusal) if refusal else session.try_out(experiment)
            concluded = session.conclude(experiment, verdict)
            reporter.note(one_line_of(concluded, judged_on(session.session)))
    except (Stopped, Interrupted):
        return "stopped"
    except SpendingCapReached as reached_cap:
        return reached_cap.message
    except ProposerExhausted as exhausted:
        return f"the proposer has nothing new: {exhausted.message}"
    finally:
        session.close()
    return reached


def next_idea(session: ResearchSession, proposer: Proposer) -> Proposal:
    """The proposer's next idea. A night must outlive an outage: where no model or agent answers, it is asked again later.

    Raises:
        SessionStopped: it did not answer for as long as _PAUSES last. Stopped: the user asked to stop.
        ProposerExhausted, SpendingCapReached: as the proposer raises them.
    """
    for pause in _PAUSES:
        try:
            return proposer.propose(situation_of(session))
        except ProviderUnavailable as unavailable:
            session.reporter.note(f"no idea yet, asked again in {pause:g} s: {unavailable.message}")
            if session.stop.wait(pause):
                raise Stopped from unavailable
    try:
        return proposer.propose(situation_of(session))
    except ProviderUnavailable as unavailable:
        raise SessionStopped(
            f"{proposer.name} had no idea for {sum(_PAUSES) / 60:.0f} minutes: {unavailable.message}",
            hint=unavailable.hint or f"autoresearch research {session.tag} --resume --proposer hybrid",
        ) from unavailable


def why_refused(session: ResearchSession, experiment: Experiment) -> str:
    """Why a candidate is not run at all, or "" when it is."""
    if refusal := refusal_of(experiment.proposal):
        return refusal  # it was never committed
    allowed = set(session.workspace.in_repository(dict.fromkeys(SCOPES[session.session.program], "")))
    assert experiment.commit_hash is not None
    outside = [
        p
        for p in session.workspace.repository.changed_paths(experiment.incumbent, experiment.commit_hash)
        if p not in allowed
    ]
    if outside:
        return (
            f"it touches {outside[0]}, and the {session.session.program} program may edit {', '.join(sorted(allowed))}"
        )
    workspace, row = session.workspace, session.session
    before, after = files_at(workspace, row, experiment.incumbent), files_of(workspace, row, experiment)
    if same_files(before, after):
        return "the edit changes nothing but layout or comments"
    if is_seed_only_edit(before, after):
        return "the edit only changes the random seed"
    for earlier in session.ledger.experiments(session.tag):
        if earlier.number < experiment.number and same_files(files_of(workspace, row, earlier), after):
            return f"the same program was tried as experiment {earlier.number}"
    return ""


def check_crash_streak(session: ResearchSession) -> None:
    """Raise SessionStopped when the last experiments all crashed: something is wrong that more ideas will not mend."""
    judged = [found for found in session.ledger.experiments(session.tag) if found.status]
    streak = judged[-session.settings.crash_streak :]
    if len(streak) == session.settings.crash_streak and all(found.status is Status.CRASH for found in streak):
        reasons = sorted({found.verdict.reason for found in streak if found.verdict})
        raise SessionStopped(
            f"the last {len(streak)} experiments crashed: {'; '.join(reasons)[:600]}",
            hint=f"autoresearch show {streak[-1].number} --tag {session.tag}   (then --crash-streak {len(streak) + 8} --resume to go on)",
        )


def one_line_of(experiment: Experiment, judged: str = "val_bpb") -> str:
    """What the terminal keeps of a concluded experiment. judged: what its score is."""
    verdict = experiment.verdict
    assert verdict is not None
    estimate = "" if verdict.estimate is None else f"  {judged} {verdict.estimate:.4f}"
    return f"#{experiment.number} {experiment.status}  {experiment.proposal.description}{estimate}  ({verdict.reason})"


@dataclass
class Limits:
    """When a session ends by itself: after so many experiments in all, or so many hours from now."""

    settings: Settings
    already: int
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._began = self.clock()

    def reached(self, experiments: int) -> str | None:
        """The limit that was reached, or None. `experiments` counts the ideas of the session, resumed ones too."""
        most = self.settings.experiments
        if most is not None and experiments >= most:
            return f"{experiments} experiments done"
        if self.settings.hours is not None and self.clock() - self._began >= self.settings.hours * 3600:
            return f"{self.settings.hours:g} hours are over"
        return None
