"""The verb `experiment`: train, quantize, benchmark, convert, verify; each phase once, in a process of its own."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from autoresearch.cli import screen
from autoresearch.cli.experiment_phases import DEFAULT_BITS, Plan, phases_of
from autoresearch.cli.phase_bars import Shown, shown_phases
from autoresearch.cli.work import settings_for
from autoresearch.loop.opening import session_lock
from autoresearch.loop.phases import Phase, PhaseRun
from autoresearch.records.ledger import Ledger, now
from autoresearch.records.phases import PhaseBook, PhaseState, phase_path
from autoresearch.records.run_report import read_status, write_status
from autoresearch.repository import check_tag
from autoresearch.vocabulary import UsageError, WorkspaceError
from autoresearch.workspace import Workspace, open_workspace

PROCESS = (sys.executable, "-m", "autoresearch.cli.phase_process")
_LOOK_EVERY = 0.25  # seconds between looks at the status file
_STATUS_EVERY = 1.0  # seconds between two experiment_status.txt
_LINES_SHOWN = 15  # of a failed phase's log


def experiment(options: argparse.Namespace) -> int:
    """Run what is due of an experiment; 1 when a phase failed, and the phases before it stand."""
    workspace = open_workspace()
    workspace.check_writable()
    ledger = Ledger(workspace.ledger_path)
    book = PhaseBook(ledger)
    tag = _tag(options, book)
    with session_lock(workspace, tag):
        plan = _plan(workspace, ledger, book, options, tag)
        run = PhaseRun(workspace, ledger, tag, phases_of(workspace, plan))
        run.write_again()
        due = run.due()
        for phase in run.phases:
            if phase not in due:
                screen.say(f"{phase.name}: done before")
        code = _run(run, due)
    if code == 0:
        for phase in run.phases:
            row = book.last(tag, phase.name)
            if row is not None and row.result.get("text"):
                screen.say(f"\n{phase.name}\n{row.result['text'].rstrip()}")
    screen.say(f"\n      log  {workspace.log_path}\n   folder  {run.folder}")
    return code


def _tag(options: argparse.Namespace, book: PhaseBook) -> str:
    """The run that is meant: the one named, the newest for --resume, else a new one by the time."""
    if options.tag:
        return check_tag(options.tag)
    if not options.resume:
        return f"experiment-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    newest = book.newest_tag()
    if newest is None:
        raise UsageError("no experiment was begun in this repository", hint="autoresearch experiment")
    return newest


def _plan(workspace: Workspace, ledger: Ledger, book: PhaseBook, options: argparse.Namespace, tag: str) -> Plan:
    """The plan of a run: made now, or the recorded one with what is asked for now besides."""
    recorded = book.settings(tag)
    if options.resume:
        if recorded is None:
            raise UsageError(f"no experiment {tag!r} in this repository", hint=f"autoresearch experiment {tag}")
        before = Plan.from_json(recorded)
        if options.contract not in (None, before.settings.contract):
            raise UsageError(
                f"experiment {tag} was begun under contract {before.settings.contract}, not {options.contract}",
                hint="autoresearch experiment NEWTAG",
            )
        plan = replace(before, bits=options.bits or before.bits, benchmark=before.benchmark or options.benchmark)
    else:
        if recorded is not None or ledger.session(tag) is not None:
            raise UsageError(
                f"the tag {tag!r} is in use", hint=f"autoresearch experiment {tag} --resume   (or choose another tag)"
            )
        settings = settings_for(workspace, options)
        commit = workspace.repository.head()
        for name in workspace.dirty_surface((settings.entry,)) if not options.committed else ():
            raise WorkspaceError(
                f"{name} has uncommitted changes; what is trained is commit {commit[:10]}, which does not have them",
                hint=f"git commit -m 'my start' {name}   (or --committed to train {commit[:10]} as it is)",
            )
        workspace.read_surface(commit, settings.entry)
        plan = Plan(tag, commit, options.bits or DEFAULT_BITS, options.benchmark, settings)
    if recorded != plan.as_json():
        book.begin(tag, plan.as_json())
    return plan


def _run(run: PhaseRun, due: list[Phase]) -> int:
    """Each phase that is due, one after the other, until one fails."""
    with shown_phases(sys.stdout, [phase.name for phase in due]) as shown:
        for number, phase in enumerate(due):
            done = len(run.phases) - len(due) + number
            began = time.monotonic()
            shown.begin(phase.name)
            code = _in_its_own_process(run, phase, shown, done)
            seconds = time.monotonic() - began
            row = run.book.last(run.tag, phase.name)
            recorded = row is not None and row.state is PhaseState.DONE and run.is_done(phase)
            shown.end(phase.name, "done" if recorded else "stopped" if code == 130 else "failed", seconds)
            if not recorded:
                _say_overall(run, phase.name, done, "stopped" if code == 130 else "failed")
                return _failed(run, phase, code, seconds)
    _say_overall(run, "ended", len(run.phases), "done")
    return 0


def _in_its_own_process(run: PhaseRun, phase: Phase, shown: Shown, done: int) -> int:
    """Exit code of the phase's process; 130 where the user stopped it. What it says goes to logs/TAG/PHASE.out."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / f"{phase.name}.out").open("wb") as out:
        process = subprocess.Popen(
            [*PROCESS, run.tag, phase.name],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=run.workspace.root,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on
        )
        said = 0.0
        with _passing_on(process) as asked:
            while process.poll() is None:
                status = _status_of(run, phase, process.pid)
                shown.look(phase.name, status)
                if time.monotonic() - said >= _STATUS_EVERY:
                    said = time.monotonic()
                    _say_overall(run, phase.name, done, status.get("message", ""))
                try:
                    process.wait(_LOOK_EVERY)
                except subprocess.TimeoutExpired:
                    continue
        if process.stdin:
            process.stdin.close()
    return 130 if asked else process.returncode


@contextmanager
def _passing_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Signals that ask us to stop ask the phase to: the first one kindly, the second at once. Yields those that came."""
    came: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        came.append(number)
        process.send_signal(signal.SIGTERM if len(came) == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _status_of(run: PhaseRun, phase: Phase, pid: int) -> dict[str, str]:
    """The phase's status file, of the session or at the root, if that process wrote it."""
    if not phase.status:
        return {}
    for path in (run.workspace.status_path(phase.status, run.tag), run.workspace.status_path(phase.status)):
        found = read_status(path)
        if found.get("pid") == str(pid):
            return found
    return {}


def _say_overall(run: PhaseRun, phase: str, done: int, message: str) -> None:
    """experiment_status.txt: which phase it is, and how many of all are done."""
    values = {
        "phase": phase,
        "progress": done / len(run.phases),
        "updated_at": now(),
        "pid": os.getpid(),
        "message": message,
        "tag": run.tag,
    }
    write_status([run.workspace.status_path("experiment"), run.workspace.status_path("experiment", run.tag)], values)


def _failed(run: PhaseRun, phase: Phase, code: int, seconds: float) -> int:
    """Say why a phase has no result and what to type; record it where its process could not."""
    if code == 130:
        screen.say(f"stopped; to go on: {run.resume_hint()}", stream=sys.stderr)
        return 130
    row = run.book.last(run.tag, phase.name)
    out = run.folder / f"{phase.name}.out"
    recorded = phase_path(run.folder, phase.name)
    if row is None or row.state is not PhaseState.FAILED or '"running"' in recorded.read_text(encoding="utf-8"):
        why = f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"
        row = run.failed(phase, why, "", seconds, _end_of(out))
    screen.say(f"\n{_end_of(out)}", stream=sys.stderr)
    screen.say(
        f"autoresearch: {phase.name} failed: {row.result['error']}\n  next: {row.result['next']}\n   log: {out}",
        stream=sys.stderr,
    )
    return 1


def _end_of(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return "\n".join(lines[-_LINES_SHOWN:])
