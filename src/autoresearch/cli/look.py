"""Verbs that look: status, history, show, diff. They read the ledger and change nothing, but for `history --write`."""

from __future__ import annotations

import argparse
import os
import re
import time
from dataclasses import asdict
from pathlib import Path

import psutil

from autoresearch.cli import screen
from autoresearch.hostile_text import terminal_line
from autoresearch.loop import attempt, queue
from autoresearch.loop.objective import judged_on, noise_in, objective_of
from autoresearch.loop.opening import session_lock
from autoresearch.loop.session_records import SessionRecords
from autoresearch.loop.settings import Settings, load_settings
from autoresearch.records.ledger import Experiment, Ledger, Session, TrialRow
from autoresearch.records.run_report import read_status
from autoresearch.records.tables import result_row
from autoresearch.report.analysis import save_chart, summary
from autoresearch.vocabulary import Trial, UsageError, WorkspaceError
from autoresearch.workspace import Workspace, open_workspace


def _open() -> tuple[Workspace, Ledger]:
    workspace = open_workspace()
    if not workspace.ledger_path.exists():
        raise WorkspaceError("no session was ever begun in this repository", hint="autoresearch research TAG")
    return workspace, Ledger(workspace.ledger_path)


def _session(ledger: Ledger, tag: str | None) -> Session:
    sessions = ledger.sessions()
    if not sessions:
        raise WorkspaceError("no session was ever begun in this repository", hint="autoresearch research TAG")
    found = next((s for s in reversed(sessions) if tag is None or s.tag == tag), None)
    if found is None:
        known = ", ".join(s.tag for s in sessions)
        raise UsageError(f"no session {tag!r} in this repository; known: {known}", hint="autoresearch history")
    return found


def status(options: argparse.Namespace) -> int:
    """How the newest session stands, and whether it runs."""
    workspace, ledger = _open()
    settings = load_settings(workspace.settings(), os.environ, {})
    while True:
        session = _session(ledger, options.tag)
        values = _status_values(workspace, ledger, session, settings)
        if options.json:
            screen.print_json(values)
        else:
            shown = {name: value for name, value in values.items() if value not in ("", None, {})}
            screen.say("\n".join(f"{name:>20}  {terminal_line(str(value))}" for name, value in shown.items()))
        if not options.watch:
            return 0
        time.sleep(1.0)
        print()


def _status_values(workspace: Workspace, ledger: Ledger, session: Session, settings: Settings) -> dict[str, object]:
    agent = read_status(workspace.status_path("agent", session.tag))
    train = read_status(workspace.status_path("train", session.tag))
    pid = agent.get("pid", "")
    is_number = re.fullmatch(r"[0-9]{1,9}", pid) is not None
    runs = is_number and psutil.pid_exists(int(pid)) and agent.get("phase") != "ended"
    noise = noise_in(ledger, session)
    found = summary(screen.rows_of(ledger, session.tag), noise.sd)
    return {
        "session": session.tag,
        "objective": objective_of(session),
        "state": f"running (process {pid})"
        if runs
        else f"not running; to go on: autoresearch research {session.tag} --resume",
        "phase": agent.get("phase", ""),
        "message": agent.get("message", ""),
        "updated_at": agent.get("updated_at", ""),
        "sealed": agent.get("sealed", ""),
        "progress of the run": train.get("progress", "") if runs else "",
        "loss": train.get("loss", "") if runs else "",
        "waiting": len(queue.waiting(workspace, session.tag)),
        "limits": attempt.limits_of(ledger, session, settings).left(ledger, session),
        **found,
        "measured_noise": noise.measured,
        "noise_degrees": noise.degrees,
    }


def history(options: argparse.Namespace) -> int:
    """Every experiment of a session; with --write, tables and snapshots come back from the ledger."""
    workspace, ledger = _open()
    session = _session(ledger, options.tag)
    if options.write:
        _write_again(workspace, ledger, session)
    noise = noise_in(ledger, session).sd
    rows = screen.rows_of(ledger, session.tag)
    if options.chart:
        save_chart(rows, Path(options.chart).absolute(), noise, tag=session.tag, judged=judged_on(session))
    if options.json:
        for row in rows:
            screen.print_json(asdict(row))
    else:
        screen.print_session(ledger, workspace, session.tag, noise, png=False)
    return 0


def _write_again(workspace: Workspace, ledger: Ledger, session: Session) -> None:
    with session_lock(workspace, session.tag):
        records = SessionRecords(workspace, ledger, session)
        records.write_tables()
        for found in ledger.experiments(session.tag):
            if found.status is not None:
                records.write_snapshot(found)


def _diff_of(workspace: Workspace, experiment: Experiment) -> str:
    if experiment.commit_hash is None or experiment.commit_hash == experiment.incumbent:
        return ""
    return workspace.repository.diff(experiment.incumbent, experiment.commit_hash)


def show(options: argparse.Namespace) -> int:
    """One experiment in full."""
    workspace, ledger = _open()
    session = _session(ledger, options.tag)
    experiment = ledger.experiment(session.tag, options.number)
    trials = ledger.trials(session.tag, options.number)
    if options.json:
        verdict = asdict(experiment.verdict) if experiment.verdict else None
        screen.print_json(
            {
                "tag": session.tag,
                "experiment": experiment.number,
                "commit": experiment.commit_hash,
                "incumbent": experiment.incumbent,
                "description": experiment.proposal.description,
                "proposer": experiment.proposal.proposer,
                "state": experiment.state,
                "status": experiment.status,
                "verdict": verdict,
                "trials": [asdict(row) for row in trials],
            }
        )
        return 0
    screen.say(f"experiment {experiment.number} of {session.tag}: {terminal_line(experiment.proposal.description)}")
    screen.say(f"    status  {experiment.status or experiment.state}")
    if experiment.verdict:
        screen.say(f"   verdict  {terminal_line(experiment.verdict.reason)}")
    screen.say(
        f"    commit  {experiment.commit_hash or 'none'}   against {experiment.incumbent[:10]}, proposed by {terminal_line(experiment.proposal.proposer)}"
    )
    for row in trials:
        screen.say(f"     trial  {terminal_line(_trial_line(row, experiment))}")
    if experiment.status is not None:
        tail = result_row(experiment, trials).log_tail
        if tail:
            screen.say("  the end of its log:")
            screen.say("\n".join(f"    | {line}" for line in tail.split("\n")))
        screen.say(f"  snapshot  {workspace.snapshot_dir(session.tag, experiment.number)}")
    return 0


def _trial_line(row: TrialRow, experiment: Experiment) -> str:
    arm = "candidate" if row.commit_hash == experiment.commit_hash else f"incumbent {row.commit_hash[:7]}"
    if row.trial is None:
        return f"{row.purpose}, {arm}: running since {row.started_at}"
    trial = row.trial
    if trial.val_bpb is None:
        return f"{row.purpose}, {arm}: {trial.outcome}, {trial.reason}"
    share = "" if trial.cpu_share is None else f", {trial.cpu_share:.0%} of a core"
    return (
        f"{row.purpose}, {arm}, {row.slice} slice, seed {row.seed}: {_score_of(trial)} in {trial.num_steps} steps,"
        f" {trial.tok_sec:,.0f} tokens/s{share}, {trial.total_seconds:.1f} s, sealed {trial.sealed}, {_examination_of(trial)}"
        f"{' (disturbed: ' + trial.disturbed + ')' if trial.disturbed else ''}"
    )


def _score_of(trial: Trial) -> str:
    if trial.objective_bpb is None:
        return f"{trial.val_bpb:.6f}"
    return (
        f"{trial.objective} {trial.objective_bpb:.6f} in {trial.objective_seconds:.1f} s (val_bpb {trial.val_bpb:.6f})"
    )


def _examination_of(trial: Trial) -> str:
    if trial.leak_bpb is None or trial.leak_interval_bpb is None or trial.leak_bound_bpb is None:
        return str(trial.examined)
    low, high = trial.leak_interval_bpb
    return (
        f"examined deeply with {trial.deep_prefixes} prefixes in {trial.deep_seconds:.1f} s: leak {trial.leak_bpb:+.5f}"
        f" ({low:+.5f} to {high:+.5f}), bound {trial.leak_bound_bpb:.4f} bpb"
    )


def diff(options: argparse.Namespace) -> int:
    """What an experiment changed, or how two differ."""
    workspace, ledger = _open()
    session = _session(ledger, options.tag)
    one = ledger.experiment(session.tag, options.number)
    if options.other is None:
        screen.say(_diff_of(workspace, one), end="")
        return 0
    other = ledger.experiment(session.tag, options.other)
    if one.commit_hash is None or other.commit_hash is None:
        raise UsageError(
            "one of the two was refused before it became a commit", hint=f"autoresearch show {options.number}"
        )
    screen.say(workspace.repository.diff(one.commit_hash, other.commit_hash), end="")
    return 0
