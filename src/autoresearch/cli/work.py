"""Verbs that train: train, try, research, calibrate."""

from __future__ import annotations

import argparse
import io
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoresearch.backends.blas import load_blas
from autoresearch.backends.hardware import MLX_FILE, detect
from autoresearch.cli import screen
from autoresearch.cli.objectives import objective_named
from autoresearch.cli.screen import Screen
from autoresearch.hostile_text import why_not_a_file
from autoresearch.loop import attempt, minds, opening, queue
from autoresearch.loop import research as loop
from autoresearch.loop.objective import judged_on, objective_of
from autoresearch.loop.session import ResearchSession, Stopped
from autoresearch.loop.settings import Settings, known_settings, load_settings
from autoresearch.records.ledger import Experiment, Ledger
from autoresearch.report.analysis import summary
from autoresearch.report.live import LiveLine
from autoresearch.repository import MAX_SURFACE_BYTES, check_tag
from autoresearch.sandbox.process_tree import shield_referee
from autoresearch.vocabulary import UsageError
from autoresearch.workspace import Workspace, open_workspace


def settings_for(workspace: Workspace, options: argparse.Namespace) -> Settings:
    """Settings in force: the workspace's table, then the environment, then this command's flags."""
    flags = {name: getattr(options, name) for name in known_settings() if hasattr(options, name)}
    return opening.with_file_in_force(load_settings(workspace.settings(), os.environ, flags), workspace)


def _ledger_to_write(workspace: Workspace) -> Ledger:
    """The ledger of a workspace that records can be written in.

    Raises:
        WorkspaceError: the workspace is read-only. LedgerError: the ledger is damaged or busy.
    """
    workspace.check_writable()
    shield_referee()  # whoever writes the ledger referees: keys in our environment are no candidate's business
    return Ledger(workspace.ledger_path)


def train(options: argparse.Namespace) -> int:
    """One unsealed run in this process."""
    workspace = open_workspace()
    path = Path(options.file).absolute() if options.file else _file_by_hand(workspace, options.contract)
    if not path.is_file():
        raise UsageError(f"no file {options.file or path}", hint="autoresearch train train.py")
    workspace.settings()  # a pyproject.toml that cannot be read is told before the script meets it
    if not (workspace.root / "prepare.py").is_file():
        raise UsageError(
            f"no prepare.py in {workspace.root}, and {path.name} imports its names from there",
            hint=f"autoresearch init mylab   (then copy its prepare.py and data_sources.py to {workspace.root})",
        )
    if options.contract:
        os.environ["AUTORESEARCH_CONTRACT"] = options.contract
    if options.dataset:
        os.environ["AUTORESEARCH_DATASET"] = options.dataset
    if options.num_shards is not None:
        os.environ["AUTORESEARCH_NUM_SHARDS"] = str(options.num_shards)
    if options.save:
        os.environ["AUTORESEARCH_SAVE"] = str(Path(options.save).absolute())
    os.chdir(workspace.root)
    sys.path.insert(0, str(workspace.root))  # where `prepare` is
    sys.argv = [str(path)]
    if path.name == MLX_FILE and sys.platform == "linux":
        chosen = Settings(blas=str(os.environ.get("AUTORESEARCH_BLAS") or workspace.settings().get("blas", "auto")))
        blas = opening.blas_for(chosen, detect(allow_accelerator=False, file=MLX_FILE))
        if blas is not None:
            load_blas(blas)  # before the script imports mlx
    runpy.run_path(str(path), run_name="__main__")
    if options.save:
        screen.say(f"checkpoint: {options.save}   (next: autoresearch sample {options.save})")
    return 0


def _file_by_hand(workspace: Workspace, contract: str | None) -> Path:
    """The experiment file of the backend in force, under the contract that is named or set in the workspace."""
    named = contract or os.environ.get("AUTORESEARCH_CONTRACT") or workspace.settings().get("contract")
    settings = Settings(contract=str(named) if named else None)
    return workspace.root / opening.with_file_in_force(settings, workspace).entry


def research(options: argparse.Namespace) -> int:
    """The night."""
    workspace = open_workspace()
    settings = settings_for(workspace, options)
    ledger = _ledger_to_write(workspace)
    with opening.session_lock(workspace, options.tag), interruptible() as stop:
        shown = Screen(as_json=options.json)
        if options.resume:
            row, ground = opening.resume(workspace, ledger, settings, options.tag)
        else:
            ground = opening.find_ground(settings)
        # before anything is made: a missing key or program ends it here
        proposer = minds.proposer_for(
            workspace,
            settings,
            options.tag,
            preset=ground.rules.preset,
            entry=row.entry if options.resume else settings.entry,
            stop=stop,
            say=shown.note,
        )
        if not options.resume:
            objective_named(settings.objective)
            try:
                row = opening.begin(
                    workspace,
                    ledger,
                    settings,
                    ground,
                    options.tag,
                    committed=options.committed,
                    say=shown.note,
                    stop=stop,
                )
            except Stopped:
                return _nothing_begun(options.tag)
        opening.refuse_checked_out(workspace, row)
        objective = objective_named(objective_of(row))
        session = opening.session_on(workspace, ledger, row, ground, settings, shown, stop, objective)
        shown.bind(session)
        for name, value in opening.describe(row, ground, settings, workspace):
            shown.note(f"{name:>11}  {value}")
        for line in opening.fit_changes(row, ground, settings):
            shown.note(line)
        for line in session.recover():
            shown.note(f"found: {line}")
        try:
            why = loop.research(session, proposer, shown)
        finally:
            shown.live.close()
        shown.end(session, why)
    return _finish(ledger, workspace, session, why, as_json=options.json)


def _nothing_begun(tag: str) -> int:
    print(f"stopped while this machine was measured; session {tag} was not begun", file=sys.stderr)
    return 130


def _finish(ledger: Ledger, workspace: Workspace, session: ResearchSession, why: str, *, as_json: bool) -> int:
    noise = session.noise()
    if as_json:
        found = summary(screen.rows_of(ledger, session.tag), noise.sd)
        screen.print_json({"event": "end", "tag": session.tag, "why": why, **found})
    else:
        screen.print_session(ledger, workspace, session.tag, noise.sd, why=why)
        print(f"\nto go on: autoresearch research {session.tag} --resume")
    return 130 if why == "stopped" else 0


def try_one(options: argparse.Namespace) -> int:
    """One experiment from the edit in this checkout, when its turn has come."""
    called = time.monotonic()
    workspace = open_workspace()
    settings = settings_for(workspace, options)
    ledger = _ledger_to_write(workspace)
    sessions = ledger.sessions()
    tag = check_tag(options.tag or (sessions[-1].tag if sessions else "try"))
    begun = ledger.session(tag)
    if begun:
        attempt.check_limits(ledger, begun, attempt.limits_of(ledger, begun, settings))
    edit = attempt.read_edit(workspace, ledger, begun, settings, _given_text(options.edit))
    with queue.turn(workspace, tag, seconds=options.wait, on_wait=_say_waiting):
        shown = _StatusOnly() if options.json else Screen(as_json=False)
        with interruptible() as stop:
            if ledger.session(tag):
                row, ground = opening.resume(workspace, ledger, settings, tag)
            else:
                objective_named(settings.objective)
                ground = opening.find_ground(settings)
                try:  # the edit is what is tried; the session starts from what is committed
                    row = opening.begin(
                        workspace, ledger, settings, ground, tag, committed=True, say=shown.note, stop=stop
                    )
                except Stopped:
                    return _nothing_begun(tag)
            limits = attempt.limits_of(ledger, row, settings)
            objective = objective_named(objective_of(row))
            session = opening.session_on(workspace, ledger, row, ground, settings, shown, stop, objective)
            shown.bind(session)
            for line in opening.fit_changes(row, ground, settings):
                shown.note(line)
            for line in session.recover():
                shown.note(f"found: {line}")
            try:
                done = attempt.try_edit(session, options.message, edit, limits, note=options.note)
            except Stopped:
                shown.live.close()
                print(f"stopped; to go on: autoresearch try -m '...' --tag {tag}", file=sys.stderr)
                return 130
            finally:
                session.close()
                shown.live.close()
            shown.agent_status(session, "ended", done.experiment.proposal.description, done.experiment.number)
            answer = attempt.answer_of(session, done, called, limits)
    _print_concluded(done.experiment, answer, judged_on(row), as_json=options.json)
    return 0


class _StatusOnly(Screen):
    """Keeps the status files up to date and prints nothing: an agent pays for every line that it reads."""

    def __init__(self) -> None:
        super().__init__(as_json=True)
        self.live = LiveLine(_Nowhere(), json_lines=True)


class _Nowhere(io.StringIO):
    def write(self, text: str) -> int:
        return len(text)


def _given_text(source: str | None) -> str | None:
    """Text of the file that --edit names, or of standard input for `-`; None without one.

    Raises:
        UsageError: it cannot be read as text.
    """
    if source is None:
        return None
    try:
        data = sys.stdin.buffer.read(MAX_SURFACE_BYTES + 1) if source == "-" else Path(source).read_bytes()
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the edit cannot be read from {source}: {error}", hint="autoresearch try -m '...' --edit FILE"
        ) from error
    if why := why_not_a_file(text, MAX_SURFACE_BYTES):
        raise UsageError(f"the edit in {source} {why}", hint="autoresearch try -m '...' --edit FILE")
    return text


def _say_waiting(why: str) -> None:
    screen.say(f"waiting for the turn: {why}", stream=sys.stderr)


def _print_concluded(experiment: Experiment, answer: Mapping[str, Any], judged: str, *, as_json: bool) -> None:
    if as_json:
        screen.print_json(answer)
    else:
        screen.say("\n".join([loop.one_line_of(experiment, judged), *attempt.lines_of(answer)]))


def calibrate(options: argparse.Namespace) -> int:
    """Measure noise by repeating the baseline, or a session's incumbent."""
    workspace = open_workspace()
    settings = settings_for(workspace, options)
    if options.repeats < 2:
        raise UsageError("noise needs at least two runs", hint="autoresearch calibrate --repeats 5")
    ledger = _ledger_to_write(workspace)
    tag = options.tag or f"noise-{workspace.repository.head()[:7]}"
    with opening.session_lock(workspace, tag):
        shown = Screen(as_json=options.json)
        with interruptible() as stop:
            if ledger.session(tag) or options.tag:
                row, ground = opening.resume(workspace, ledger, settings, tag)
            else:
                objective_named(settings.objective)
                ground = opening.find_ground(settings)
                try:
                    row = opening.begin(
                        workspace, ledger, settings, ground, tag, committed=True, say=shown.note, stop=stop
                    )
                except Stopped:
                    return _nothing_begun(tag)
            for line in opening.fit_changes(row, ground, settings):
                shown.note(line)
            objective = objective_named(objective_of(row))
            session = opening.session_on(workspace, ledger, row, ground, settings, shown, stop, objective)
            shown.bind(session)
            session.recover()
            try:
                session.establish_baseline()
                session.calibrate(options.repeats)
            except Stopped:
                return 130
            finally:
                shown.live.close()
    noise = session.noise()
    estimate = session.incumbent_estimate()
    commit = session.incumbent().commit_hash or ""
    if options.json:
        screen.print_json(
            {
                "event": "noise",
                "tag": tag,
                "commit": commit,
                "mean": estimate.mean,
                "sd": noise.sd,
                "measured_sd": noise.measured,
                "degrees": noise.degrees,
            }
        )
    else:
        measured = (
            "not yet measured"
            if noise.measured is None
            else f"{noise.measured:.4f} from {noise.degrees} degrees of freedom"
        )
        print(
            f"mean {judged_on(row)} {estimate.mean:.4f} of {commit[:10]}; noise of one run: measured {measured}, pooled with the prior {noise.sd:.4f}"
        )
    return 0


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second ends the process at once."""
    stop = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)  # the candidate dies with us; the ledger is whole
        stop.set()
        print("\nstopping: the running trial is abandoned (once more to end at once)", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
