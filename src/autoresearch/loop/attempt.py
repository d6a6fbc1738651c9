"""One experiment from the edit in the user's checkout: what `autoresearch try` does."""

from __future__ import annotations

from autoresearch.loop.research import why_refused
from autoresearch.loop.session import ResearchSession
from autoresearch.loop.verdict import judge_failure
from autoresearch.records.ledger import Experiment
from autoresearch.vocabulary import Outcome, Proposal, Status, UsageError
from autoresearch.workspace import SCOPES


def try_edit(session: ResearchSession, description: str) -> Experiment:
    """One experiment from the edit in this checkout: commit, sealed trials, verdict, row.

    After a discard or crash the incumbent's file is back in the checkout; the edit is safe under its ref.

    Raises:
        UsageError: the checkout's file is the incumbent's. Stopped: the user asked to stop.
    """
    session.establish_baseline()
    experiment = session.open_experiment() or _edit_in_checkout(session, description)
    outside = experiment.proposal.details.get("outside_scope", [])
    if outside:
        refusal = f"it touches {outside[0]}, and the {session.session.program} program may edit {', '.join(SCOPES[session.session.program])}"
    else:
        experiment = session.commit(experiment)
        refusal = why_refused(session, experiment)
    verdict = judge_failure(Outcome.REJECTED, refusal) if refusal else session.try_out(experiment)
    concluded = session.conclude(experiment, verdict)
    _bring_checkout_up(session, concluded)
    return concluded


def _edit_in_checkout(session: ResearchSession, description: str) -> Experiment:
    entry = session.session.entry
    text = session.workspace.read_checkout(entry)
    incumbent = session.incumbent()
    if text == session.workspace.read_surface(incumbent.commit_hash or "", entry):
        raise UsageError(
            f"{entry} is the incumbent's (experiment {incumbent.number}); there is nothing to try",
            hint=f"edit {entry}, then: autoresearch try -m '...'",
        )
    allowed = set(session.workspace.in_repository(dict.fromkeys(SCOPES[session.session.program], "")))
    touched = [
        p for p in session.workspace.repository.dirty_paths() if p not in allowed and p.endswith((".py", ".toml"))
    ]
    return session.propose(Proposal(description, {entry: text}, "try", {"outside_scope": touched}))


def _bring_checkout_up(session: ResearchSession, experiment: Experiment) -> None:
    """Leave the incumbent's file in the checkout; when the session's branch is checked out here, its index entry too."""
    entry = session.session.entry
    incumbent = session.incumbent()
    text = session.workspace.read_surface(incumbent.commit_hash or "", entry)
    edited = experiment.proposal.files.get(entry)  # None where the proposal was refused unstored
    if experiment.status is not Status.KEEP and session.workspace.read_checkout(entry) == edited:
        session.workspace.write_checkout(entry, text)
    if (
        session.workspace.repository.branch_checked_out_at(session.session.branch)
        == session.workspace.repository.toplevel
    ):
        session.workspace.repository.refresh_index(
            incumbent.commit_hash or "", list(session.workspace.in_repository({entry: ""}))
        )
