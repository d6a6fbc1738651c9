"""What a running session shows: the live line, the status files, and the table and chart at its end."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from autoresearch.contract.rules import Clock
from autoresearch.hostile_text import json_text, terminal_block, terminal_line
from autoresearch.loop.objective import judged_on, objective_of
from autoresearch.loop.orders import Glimpse
from autoresearch.loop.session import ResearchSession
from autoresearch.records.ledger import Ledger, now
from autoresearch.records.tables import result_rows
from autoresearch.report.analysis import Row, save_chart, summary, table, terminal_chart
from autoresearch.report.live import LiveLine, Progress
from autoresearch.report.text import for_encoding
from autoresearch.vocabulary import AutoresearchError, Status
from autoresearch.workspace import Workspace

_STATUS_EVERY = 1.0  # seconds between status files: what pollers expect


def print_json(value: Any) -> None:
    """One JSON document on one line."""
    print(json_text(value))


def say(text: str, *, end: str = "\n", stream: TextIO | None = None) -> None:
    """Print text that may hold words of a machine: nothing in it drives the terminal, and no character is too much for it."""
    target = stream or sys.stdout
    print(for_encoding(terminal_block(text), target.encoding), end=end, file=target)


def width() -> int:
    return max(60, shutil.get_terminal_size((110, 24)).columns)


def rows_of(ledger: Ledger, tag: str) -> list[Row]:
    """The session's experiments as the report shows them: val_bpb is the estimated mean of what is judged."""
    return [
        Row(
            experiment=row.experiment,
            commit=row.commit,
            status=str(row.status),
            description=row.description,
            val_bpb=row.estimate if row.val_bpb is not None else None,
            gain=row.gain,
            interval=row.interval,
            p_better=row.p_better,
            num_trials=row.trials,
            tok_sec=row.avg_tok_sec,
            memory_gb=row.memory_gb,
            seconds=row.seconds,
        )
        for row in result_rows(ledger, tag)
    ]


class Screen:
    """Reports a session as it runs. `bind` it once the session exists."""

    def __init__(self, *, as_json: bool) -> None:
        self.live = LiveLine(sys.stdout, json_lines=as_json)
        self._every_phase = as_json or sys.stdout.isatty()  # a plain log gets two lines a run
        self._session: ResearchSession | None = None
        self._written = 0.0
        self._began = time.monotonic()
        self._done_at_start = 0
        self._run: tuple[Any, ...] = ()
        self._counts: dict[str, Any] = {}

    def bind(self, session: ResearchSession) -> None:
        self._session = session
        self._done_at_start = len(session.ledger.experiments(session.tag))

    def note(self, text: str) -> None:
        self.live.note(text)

    def glimpse(self, values: Mapping[str, Any]) -> None:
        session = self._session
        assert session is not None, "bind the screen before the session runs"
        seen: Glimpse = values["glimpse"]
        is_due = time.monotonic() - self._written >= _STATUS_EVERY
        run = (values["experiment"], values["purpose"], values["description"])
        if run != self._run:
            self._run, self._counts = run, self._count(session)
        counts = self._counts
        counts_steps = session.arena.rules.clock is Clock.STEPS
        progress = Progress(
            tag=session.tag,
            experiment=values["experiment"],
            phase=seen.phase,
            description=values["description"],
            step=seen.step,
            loss=seen.loss,
            tok_sec=seen.tok_sec or None,
            progress=seen.progress,
            remaining_seconds=None if counts_steps else seen.remaining,
            **counts,
        )
        if self._every_phase or seen.phase != "start-up":
            self.live.update(progress)
        if is_due:
            self._written = time.monotonic()
            self._write_status(session, progress)

    def _count(self, session: ResearchSession) -> dict[str, Any]:
        experiments = [found for found in session.ledger.experiments(session.tag) if found.number > 0]
        statuses = [found.status for found in experiments]
        judged = len([status for status in statuses if status])
        wanted = session.settings.experiments
        left = None if wanted is None else max(0, wanted - judged)
        done_here = judged + 1 - self._done_at_start if self._done_at_start else judged
        pace = (time.monotonic() - self._began) / done_here if done_here > 0 else None
        kept = [e for e in session.ledger.experiments(session.tag) if e.status is Status.KEEP and e.verdict]
        best = kept[-1].verdict.estimate if kept and kept[-1].verdict else None
        return {
            "incumbent_val_bpb": best,
            "keeps": statuses.count(Status.KEEP),
            "discards": statuses.count(Status.DISCARD),
            "crashes": statuses.count(Status.CRASH),
            "experiments_left": left,
            "eta_seconds": pace * left if pace is not None and left is not None else None,
        }

    def _write_status(self, session: ResearchSession, progress: Progress) -> None:
        common = {
            "phase": progress.phase,
            "progress": progress.progress,
            "updated_at": now(),
            "pid": os.getpid(),
            "message": progress.description,
        }
        train = {
            "step": progress.step,
            "loss": progress.loss,
            "tok_sec": progress.tok_sec,
            "remaining_seconds": progress.remaining_seconds,
        }
        session.records.write_status("train", {**common, **train})
        self.agent_status(session, progress.phase, progress.description, progress.experiment)

    def agent_status(self, session: ResearchSession, phase: str, message: str, experiment: int) -> None:
        """The heartbeat of the session itself."""
        counts = self._count(session)
        wanted = session.settings.experiments
        judged = counts["keeps"] + counts["discards"] + counts["crashes"]
        values = {
            "phase": phase,
            "progress": judged / wanted if wanted else 0.0,
            "updated_at": now(),
            "pid": os.getpid(),
            "message": message,
            "tag": session.tag,
            "sealed": session.arena.seal.level,
            "objective": objective_of(session.session),
            "experiment": experiment,
            **{name: counts[name] for name in ("incumbent_val_bpb", "keeps", "discards", "crashes")},
        }
        session.records.write_status("agent", values)

    def end(self, session: ResearchSession, why: str) -> None:
        """Table, chart and where everything lies."""
        self.live.close()
        self.agent_status(session, "ended", why, session.next_number() - 1)
        session.records.write_status(
            "train", {"phase": "ended", "progress": 1.0, "updated_at": now(), "pid": os.getpid(), "message": why}
        )


def print_session(
    ledger: Ledger, workspace: Workspace, tag: str, noise: float | None, *, why: str = "", png: bool = True
) -> None:
    """The end of a session, for people: table, chart, sums, and where everything lies."""
    rows = rows_of(ledger, tag)
    judged = judged_in(ledger, tag)
    say(f"\n{table(rows, width(), judged=judged)}\n")
    # its colours are ours
    print(for_encoding(terminal_chart(rows, width=min(100, width()), judged=judged), sys.stdout.encoding))
    found = summary(rows, noise)
    if found["gain_bpb"] is not None:
        over = (
            f" = {found['gain_over_noise']:.1f}x the noise of one run ({noise:.4f})"
            if found["gain_over_noise"] is not None
            else ""
        )
        say(
            f"\nbaseline {found['baseline_val_bpb']:.4f} -> incumbent {found['best_val_bpb']:.4f} (experiment {found['best_experiment']}):"
            f" estimated gain {found['gain_bpb']:+.4f} bpb{over}"
        )
    say(
        f"{found['num_experiments']} experiments, {found['num_keeps']} kept, {found['num_discards']} discarded,"
        f" {found['num_crashes']} crashed, {found['num_trials']} runs of candidates, {found['seconds'] / 60:.1f} minutes{f'; {why}' if why else ''}"
    )
    places = [
        ("tables", f"{workspace.results_path}, {workspace.history_path.name}, {workspace.log_path.name}"),
        ("snapshots", str(workspace.session_dir(tag))),
        ("branch", ledger_branch(ledger, tag)),
        ("ledger", str(workspace.ledger_path)),
    ]
    if png:
        try:
            places.insert(0, ("chart", str(save_chart(rows, workspace.chart_path, noise, tag=tag, judged=judged))))
        except AutoresearchError as error:
            places.insert(0, ("chart", f"not drawn: {error.message} ({error.hint})"))
    say("\n" + "\n".join(f"{name:>10}  {terminal_line(where)}" for name, where in places))


def judged_in(ledger: Ledger, tag: str) -> str:
    """What the session's scores are: val_bpb, or the name of its objective."""
    session = ledger.session(tag)
    return judged_on(session) if session else "val_bpb"


def ledger_branch(ledger: Ledger, tag: str) -> str:
    session = ledger.session(tag)
    return f"{session.branch}   (every attempt: git log refs/autoresearch/{tag}/N)" if session else ""
