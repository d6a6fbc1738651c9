"""What the Claude Code plugin asks before and after an agent acts: `autoresearch hook NAME`, the hook's JSON on standard input.

Answers as Claude Code expects them: exit code 0 lets it pass, 2 refuses and shows standard error to the agent, and for
`stop` a JSON decision. Where no research is going on every hook is silent and harmless.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoresearch.cli import driving
from autoresearch.cli.driving import Drive
from autoresearch.hostile_text import one_line
from autoresearch.vocabulary import AutoresearchError, WorkspaceError
from autoresearch.workspace import SCOPES, Workspace, open_workspace

_REFUSED = 2  # the one exit code that stops a tool call; 1 is shown to the person and ignored
_LONGEST_WAIT = 6 * 3600.0  # seconds; the plugin allows its stop hook a little more
_LOOK_EVERY = 1.0
_START_SECONDS = 30.0  # until a trial that was just sent to the background holds its session: 1 to 10 measured
_EDITORS_FIELDS = ("file_path", "notebook_path")


@dataclass(frozen=True)
class Stretch:
    """Research at a place: the workspace, the program whose files may be edited, and what says so."""

    workspace: Workspace
    program: str
    why: str
    drive: Drive | None


def hook(options: argparse.Namespace) -> int:
    """Answer one hook."""
    try:
        given = json.load(sys.stdin)
    except ValueError:
        given = None
    event: dict[str, Any] = given if isinstance(given, dict) else {}
    answers = {"begin": _begin, "scope": _scope, "shell": _shell, "preflight": _preflight, "stop": _stop}
    return answers[options.name](event)


def _folder(event: dict[str, Any]) -> Path:
    return Path(str(event.get("cwd") or Path.cwd()))


def _research_at(folder: Path, session_id: str) -> Stretch | None:
    """The research that binds an agent in this folder: it drives some, or the branch is one of research. Else None."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        workspace = open_workspace(folder)
    except WorkspaceError:
        return None  # no workspace, so nothing of ours to protect
    drive = driving.drive_of(workspace, session_id)
    if drive is not None:
        return Stretch(workspace, drive.program, f"this session drives {drive.tag}", drive)
    branch = workspace.repository.git("branch", "--show-current").decode(errors="replace").strip()
    program = driving.program_of_branch(branch)
    return Stretch(workspace, program, f"the branch is {branch}", None) if program else None


def _stretch_of(event: dict[str, Any]) -> Stretch | None:
    return _research_at(_folder(event), str(event.get("session_id", "")))


def _refuse(why: str, stretch: Stretch) -> int:
    scope = " and ".join(SCOPES[stretch.program])
    print(f"autoresearch: refused, {one_line(why, 600)}", file=sys.stderr)
    print(f"  {stretch.why}: the {stretch.program} program edits {scope} and nothing else.", file=sys.stderr)
    return _REFUSED


# -- what an agent is about to do -----------------------------------------------------------------------------------------


def _scope(event: dict[str, Any]) -> int:
    """Before Edit, Write, MultiEdit, NotebookEdit: only the program's files."""
    tool_input = event.get("tool_input") or {}
    named = next((str(tool_input[name]) for name in _EDITORS_FIELDS if tool_input.get(name)), "")
    path = _folder(event) / named
    stretch = _stretch_of(event) or _research_at(path.parent, "")
    if stretch is None or (named and driving.may_be_written(stretch.workspace, stretch.program, path)):
        return 0
    return _refuse(f"{named or 'a file without a name'} is not in scope", stretch)


def _shell(event: dict[str, Any]) -> int:
    """Before Bash: no push, no writing outside the scope, no inline code, as far as the text of the command shows it."""
    from autoresearch.cli.shell_reading import why_refused

    stretch = _stretch_of(event)
    if stretch is None:
        return 0
    tool_input = event.get("tool_input") or {}
    command = str(tool_input.get("command", ""))

    def may_write(path: str) -> bool:
        return driving.may_be_written(stretch.workspace, stretch.program, _folder(event) / path)

    why = why_refused(command, may_write)
    return _refuse(why, stretch) if why else 0


def _preflight(event: dict[str, Any]) -> int:
    """After an edit of a file in scope: what is wrong with it that can be said without running it."""
    from autoresearch.cli.preflight import findings

    tool_input = event.get("tool_input") or {}
    path = _folder(event) / str(tool_input.get("file_path", ""))
    stretch = _stretch_of(event)
    if stretch is None or not driving.may_be_written(stretch.workspace, stretch.program, path):
        return 0
    try:
        found = findings(stretch.workspace, path.name, _preset_of(stretch))
    except AutoresearchError as error:
        found = [str(error)]
    if not found:
        return 0
    lines = "\n".join(f"  - {one_line(finding, 400)}" for finding in found)
    print(f"autoresearch preflight of {path.name}: mend this before `autoresearch try`\n{lines}", file=sys.stderr)
    return _REFUSED


def _preset_of(stretch: Stretch) -> str | None:
    """The contract that the next trial runs under, as far as it is known: the session's, else the workspace's."""
    from autoresearch.records.ledger import Ledger

    if stretch.workspace.ledger_path.exists():
        ledger = Ledger(stretch.workspace.ledger_path)
        sessions = ledger.sessions()
        ledger.close()
        wanted = stretch.drive.tag if stretch.drive else None
        named = next((s for s in reversed(sessions) if wanted is None or s.tag == wanted), None)
        if named is not None:
            return named.preset
    preset = os.environ.get("AUTORESEARCH_CONTRACT") or stretch.workspace.settings().get("contract")
    return str(preset) if preset else None


# -- going on by itself ---------------------------------------------------------------------------------------------------


def _begin(event: dict[str, Any]) -> int:
    """When a person speaks: note that this session drives research from now on, or that the person is there."""
    try:
        workspace = open_workspace(_folder(event))
    except WorkspaceError:
        return 0
    session_id = str(event.get("session_id", ""))
    text = str(event.get("prompt", "")).strip()
    drive = driving.called(text, time.time(), _newest_tag(workspace))
    if drive is not None:
        driving.write_drive(workspace, session_id, replace(drive, tried=_num_judged(workspace, drive.tag)))
        scope = " and ".join(SCOPES[drive.program])
        print(f"autoresearch: this session drives {drive.tag}. Its hooks let it edit {scope} and nothing else.")
        return 0
    before = driving.drive_of(workspace, session_id)
    if before is not None and not text.startswith("<"):  # "<..." is a note of the client's own
        judged = _num_judged(workspace, before.tag)
        driving.write_drive(workspace, session_id, replace(before, quiet_at=judged, idle_stops=0))
    return 0


def _stop(event: dict[str, Any]) -> int:
    """When the agent wants to end: send it back to work until the limits, unless that leads nowhere."""
    stretch = _stretch_of(event)
    if stretch is None or stretch.drive is None or not stretch.drive.keeps_going:
        return 0
    workspace, drive = stretch.workspace, stretch.drive
    waited = _wait_for_background(event, workspace, drive)
    standing = _standing(workspace, drive)
    if drive.quiet_at == standing.judged:
        return 0  # the person spoke, and nothing was tried since: let them answer
    if standing.why_finished:
        return _let_go(standing.why_finished)
    is_new_turn = not event.get("stop_hook_active")
    idle = 0 if is_new_turn or standing.judged > drive.tried else drive.idle_stops
    if idle >= driving.MAX_IDLE_STOPS:
        return _let_go(f"sent back {idle} times without a new experiment: something is in the way")
    session_id = str(event.get("session_id", ""))
    driving.write_drive(workspace, session_id, replace(drive, tried=standing.judged, idle_stops=idle + 1))
    page = {"model": "program.md", "data": "program_data.md"}[drive.program]
    files = " or ".join(SCOPES["data"]) if drive.program == "data" else SCOPES[drive.program][0]
    first = "The trial in the background has ended; read its verdict. " if waited else ""
    print(
        json.dumps(
            {
                "decision": "block",
                "reason": f"{first}Research on {drive.tag} goes on. Judged so far: {standing.judged}; {standing.left}."
                f" Do not ask whether to continue. Read `autoresearch history {drive.tag}`, edit {files}"
                f" with the next idea, and run `autoresearch try -m '...' --tag {drive.tag} --json` in the foreground"
                f" ({page}). If that cannot work, say what is in the way.",
            }
        )
    )
    return 0


def _let_go(why: str) -> int:
    print(json.dumps({"systemMessage": f"autoresearch: {why}"}))
    return 0


@dataclass(frozen=True)
class _Standing:
    """How far a session has come. `left` and `why_finished` are words for the agent; "" means: not finished."""

    judged: int
    left: str
    why_finished: str


def _num_judged(workspace: Workspace, tag: str) -> int:
    from autoresearch.records.ledger import Ledger

    if not workspace.ledger_path.exists():
        return 0
    ledger = Ledger(workspace.ledger_path)
    judged = sum(bool(found.number and found.status) for found in ledger.experiments(tag))
    ledger.close()
    return judged


def _newest_tag(workspace: Workspace) -> str | None:
    from autoresearch.records.ledger import Ledger

    if not workspace.ledger_path.exists():
        return None
    ledger = Ledger(workspace.ledger_path)
    sessions = ledger.sessions()
    ledger.close()
    return sessions[-1].tag if sessions else None


def _standing(workspace: Workspace, drive: Drive) -> _Standing:
    """Read from the ledger; a session that was not begun yet has judged nothing.

    Raises:
        LedgerError: it cannot be read. UsageError, WorkspaceError: the settings cannot.
    """
    from autoresearch.loop.attempt import limits_of
    from autoresearch.loop.settings import load_settings
    from autoresearch.records.ledger import Ledger

    if not workspace.ledger_path.exists():
        return _Standing(0, "no limit was recorded yet", "")
    ledger = Ledger(workspace.ledger_path)
    try:
        session = ledger.session(drive.tag)
        if session is None:
            return _Standing(0, "no limit was recorded yet", "")
        given = {"experiments": drive.experiments, "hours": drive.hours}
        settings = load_settings(workspace.settings(), os.environ, given)
        limits = limits_of(ledger, session, settings)
        statuses = [found.status for found in ledger.experiments(drive.tag) if found.number and found.status]
        left = [f"{value:g} {name.replace('_', ' ')}" for name, value in limits.left(ledger, session).items()]
        why = limits.reached(ledger, session)
        last = statuses[-settings.crash_streak :]
        if not why and len(last) == settings.crash_streak and all(status == "crash" for status in last):
            why = f"{settings.crash_streak} crashes in a row: a person should look"
        return _Standing(len(statuses), " and ".join(left) or "no limit was given", why)
    finally:
        ledger.close()


def _wait_for_background(event: dict[str, Any], workspace: Workspace, drive: Drive) -> bool:
    """Wait while this session's own trial runs in the background: a client without a person ends it when it ends itself.

    Returns whether there was one.
    """
    tasks = event.get("background_tasks") or []
    running = [t for t in tasks if isinstance(t, dict) and t.get("status") == "running"]
    if not any("autoresearch" in str(task.get("command", "")) for task in running):
        return False
    began, was_seen = time.monotonic(), False
    while time.monotonic() - began < _LONGEST_WAIT:
        is_held = _is_held(workspace.lock_path(drive.tag))
        was_seen = was_seen or is_held
        is_late = time.monotonic() - began > _START_SECONDS or _num_judged(workspace, drive.tag) > drive.tried
        if not is_held and (was_seen or is_late):
            break
        time.sleep(_LOOK_EVERY)
    return True


def _is_held(path: Path) -> bool:
    """Whether some process holds the session's lock."""
    if not path.exists():
        return False
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
