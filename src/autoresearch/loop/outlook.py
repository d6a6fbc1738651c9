"""A session as its proposer may see it: built from the ledger, without validation text, keys or git objects."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from autoresearch.contract.rules import Clock, Rules
from autoresearch.loop.preparation import limits_of
from autoresearch.loop.program_files import files_at, files_of
from autoresearch.loop.session import ResearchSession
from autoresearch.proposers.situation import MachineFacts, PastExperiment, Situation
from autoresearch.records.ledger import Experiment, TrialRow
from autoresearch.records.tables import result_row
from autoresearch.vocabulary import Outcome, Status

_MAX_ELSEWHERE = 20  # keeps of other sessions that a proposer sees: the newest
_UNITS: Mapping[Clock, str] = {Clock.WALL: "seconds", Clock.CPU: "CPU seconds", Clock.STEPS: "steps"}


def situation_of(session: ResearchSession) -> Situation:
    """What a proposer may know of the session now. Before the baseline is measured, scores and noise are None."""
    tag = session.tag
    experiments = session.ledger.experiments(tag)
    incumbent = session.incumbent()
    measured = incumbent.verdict is not None
    estimate = session.incumbent_estimate() if measured else None
    baseline = experiments[0].verdict
    return Situation(
        incumbent=files_at(session.workspace, session.session, incumbent.commit_hash or ""),
        baseline=files_of(session.workspace, session.session, experiments[0]),
        history=_past(session, experiments, session.ledger.trials(tag)),
        tag=tag,
        program=session.session.program,
        incumbent_number=incumbent.number,
        val_bpb=estimate.mean if estimate else None,
        val_bpb_error=estimate.error if estimate else None,
        noise=session.noise().sd if measured else None,
        baseline_val_bpb=baseline.estimate if baseline else None,
        elsewhere=_elsewhere(session),
        machine=_machine_of(session, incumbent),
        objective=session.objective.name if session.objective else "",
    )


def _past(
    session: ResearchSession, experiments: Sequence[Experiment], trials: Sequence[TrialRow]
) -> list[PastExperiment]:
    """Experiments but the baseline, each with what its trials measured."""
    numbers = {found.commit_hash: found.number for found in experiments if found.commit_hash}
    of: dict[int, list[TrialRow]] = {}
    for row in trials:
        of.setdefault(row.number, []).append(row)
    return [
        _past_experiment(found, files_of(session.workspace, session.session, found), of.get(found.number, []), numbers)
        for found in experiments
        if found.number
    ]


def _past_experiment(
    found: Experiment, files: dict[str, str], trials: list[TrialRow], numbers: Mapping[str, int]
) -> PastExperiment:
    verdict = found.verdict
    row = result_row(found, trials) if found.status else None
    own = [t.trial for t in trials if t.trial and t.commit_hash == found.commit_hash]
    ended = [trial for trial in own if trial.outcome is not Outcome.ABANDONED]
    return PastExperiment(
        number=found.number,
        description=found.proposal.description,
        files=files,
        details=found.proposal.details,
        status=found.status,
        val_bpb=verdict.estimate if verdict else None,
        gain=verdict.gain if verdict else None,
        tag=found.tag,
        proposer=found.proposal.proposer,
        base=numbers.get(found.incumbent),
        interval=verdict.interval if verdict else None,
        p_better=verdict.p_better if verdict else None,
        reason=verdict.reason if verdict else "",
        outcome=ended[-1].outcome if ended else Outcome.REJECTED if found.status else None,
        log_tail=ended[-1].log_tail if ended else "",
        seconds=row.seconds if row else 0.0,
        tok_sec=row.avg_tok_sec if row else None,
        memory_gb=row.memory_gb if row else None,
    )


def _elsewhere(session: ResearchSession) -> list[PastExperiment]:
    """The newest keeps of other sessions of this program whose scores may be compared with this one's."""
    own = session.session
    alike = {
        other.tag: other
        for other in session.ledger.sessions()
        if other.tag != own.tag and other.fingerprint == own.fingerprint and other.program == own.program
    }
    kept = [
        found
        for found in session.ledger.judged_experiments()
        if found.tag in alike and found.number and found.status is Status.KEEP
    ]
    return [
        _past_experiment(found, files_of(session.workspace, alike[found.tag], found), [], {})
        for found in kept[-_MAX_ELSEWHERE:]
    ]


def _machine_of(session: ResearchSession, incumbent: Experiment) -> MachineFacts:
    machine, rules = session.session.machine, session.arena.rules
    trials = [
        row.trial
        for row in session.ledger.trials(session.tag)
        if row.commit_hash == incumbent.commit_hash and row.trial and row.trial.val_bpb is not None
    ]
    return MachineFacts(
        device=str(machine.get("backend", "")),
        chip=str(machine.get("chip", "")),
        memory_gb=machine.get("memory_gb"),
        budget=budget_in_words(rules),
        tok_sec=statistics.median(trial.tok_sec for trial in trials) if trials else None,
        peak_memory_gb=max(trial.peak_memory_mb for trial in trials) / 1024 if trials else None,
        preparation=preparation_in_words(rules) if session.session.program == "data" else "",
    )


def budget_in_words(rules: Rules) -> str:
    """ "20 CPU seconds": the budget with its unit."""
    return f"{rules.time_budget:g} {_UNITS[rules.clock]}"


def preparation_in_words(rules: Rules) -> str:
    """ "120 seconds and 512 MB of disk": what a recipe may take before the budget begins."""
    limits = limits_of(rules)
    return f"{limits.seconds:g} seconds and {limits.disk_mb:g} MB of disk"
