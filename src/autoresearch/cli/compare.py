"""The verb `compare`: experiments and whole sessions side by side."""

from __future__ import annotations

import argparse
import re
import statistics

from autoresearch.cli import screen
from autoresearch.loop.objective import PLAIN, noise_in, objective_of
from autoresearch.records.ledger import Experiment, Ledger, Session
from autoresearch.records.tables import result_row
from autoresearch.report.comparison import Entry, comparison_json, comparison_text
from autoresearch.report.comparison import compare as compared
from autoresearch.vocabulary import Status, UsageError, WorkspaceError
from autoresearch.workspace import Workspace, open_workspace

_DEFAULT_LAST = 5


def compare(options: argparse.Namespace) -> int:
    """Experiments side by side, in groups whose scores may be compared."""
    workspace = open_workspace()
    if not workspace.ledger_path.exists():
        raise WorkspaceError("no session was ever begun in this repository", hint="autoresearch research TAG")
    ledger = Ledger(workspace.ledger_path)
    if options.items and options.last is not None:
        raise UsageError(
            "name experiments, or say how many of the last; not both", hint="autoresearch compare --last 5"
        )
    if options.last is not None and options.last < 1:
        raise UsageError("--last takes a number from 1 on", hint="autoresearch compare --last 5")
    chosen = (
        [_one(ledger, item, options.tag) for item in options.items]
        if options.items
        else _last(ledger, _session(ledger, options.tag), options.last or _DEFAULT_LAST)
    )
    chosen = list(dict.fromkeys(chosen))
    sessions = {tag: _session(ledger, tag) for tag, _ in chosen}
    is_one_session = len(sessions) == 1
    entries = [_entry(workspace, ledger, sessions[tag], number, short=is_one_session) for tag, number in chosen]
    noise = {session.fingerprint: noise_in(ledger, session).sd for session in sessions.values()}
    groups = compared(entries, noise)
    if options.json:
        screen.print_json({"tags": list(sessions), **comparison_json(groups)})
    else:
        screen.say(comparison_text(groups, screen.width()))
    return 0


def _session(ledger: Ledger, tag: str | None) -> Session:
    sessions = ledger.sessions()
    if not sessions:  # a session that was refused before its beginning leaves an empty ledger
        raise WorkspaceError("no session was ever begun in this repository", hint="autoresearch research TAG")
    found = next((s for s in reversed(sessions) if tag is None or s.tag == tag), None)
    if found is None:
        known = ", ".join(s.tag for s in sessions) or "none"
        raise UsageError(f"no session {tag!r} in this repository; known: {known}", hint="autoresearch compare --last 5")
    return found


def _one(ledger: Ledger, item: str, tag: str | None) -> tuple[str, int]:
    """Session and number that an argument means: `7`, `nov21:7`, or `nov21` for that session's incumbent."""
    named, colon, number = item.rpartition(":")
    if re.fullmatch(r"[0-9]{1,9}", item):
        return _session(ledger, tag).tag, int(item)
    if colon and re.fullmatch(r"[0-9]{1,9}", number):
        return _session(ledger, named).tag, int(number)
    session = _session(ledger, named if colon and not number else item)
    return session.tag, _incumbent(ledger.experiments(session.tag))


def _incumbent(experiments: list[Experiment]) -> int:
    return next((found.number for found in reversed(experiments) if found.status is Status.KEEP), 0)


def _last(ledger: Ledger, session: Session, count: int) -> list[tuple[str, int]]:
    """What the first of the last `count` had to beat (the reference), then those."""
    judged = [found for found in ledger.experiments(session.tag) if found.status]
    if not judged:
        raise WorkspaceError(
            f"session {session.tag} has no verdict yet", hint=f"autoresearch research {session.tag} --resume"
        )
    last = [found for found in judged if found.number][-count:]
    bases = [found.number for found in judged if last and found.commit_hash == last[0].incumbent]
    return [(session.tag, number) for number in [*(bases[:1] or [judged[0].number]), *(found.number for found in last)]]


def _entry(workspace: Workspace, ledger: Ledger, session: Session, number: int, *, short: bool) -> Entry:
    experiment = ledger.experiment(session.tag, number)
    prefix = "" if short else f"{session.tag}:"
    source = experiment.proposal.files.get(session.entry)
    if source is None and experiment.commit_hash:
        source = workspace.read_surface(experiment.commit_hash, session.entry)
    if experiment.status is None:
        raise WorkspaceError(
            f"experiment {number} of {session.tag} has no verdict yet",
            hint=f"autoresearch show {number} --tag {session.tag}",
        )
    trials = ledger.trials(session.tag, number)
    row = result_row(experiment, trials)
    own = [t.trial for t in ledger.trials(session.tag) if t.commit_hash == experiment.commit_hash and t.trial]
    scored = [trial for trial in own if trial.val_bpb is not None and not trial.disturbed]
    numbers = {found.commit_hash: found.number for found in ledger.experiments(session.tag) if found.commit_hash}
    base = numbers.get(experiment.incumbent)
    return Entry(
        label=f"{prefix}{number}",
        fingerprint=session.fingerprint,
        preset=session.preset,
        objective="" if objective_of(session) == PLAIN else objective_of(session),
        status=str(row.status),
        description=row.description,
        source=source,
        val_bpb=row.estimate if row.val_bpb is not None else None,
        gain=row.gain if number else None,
        interval=row.interval if number else None,
        p_better=row.p_better if number else None,
        num_scores=len(scored),
        tok_sec=statistics.median(trial.tok_sec for trial in scored) if scored else row.avg_tok_sec,
        memory_gb=row.memory_gb,
        seconds=row.seconds,
        base="" if base is None or not number else f"{prefix}{base}",
    )
