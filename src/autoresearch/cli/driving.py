"""Which agent sessions drive research here: one small file each, written by the hooks of the Claude Code plugin.

A branch says where research happens; it does not say that an agent should go on by itself. That is said by a person who
calls `/experiment:model TAG`, and it holds for that one session of the agent.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from autoresearch.files import write_whole
from autoresearch.repository import check_tag
from autoresearch.vocabulary import UsageError
from autoresearch.workspace import BRANCH_PREFIX, SCOPES, Workspace

MAX_IDLE_STOPS = 3  # times an agent is sent back to work without an experiment in between
_FORGOTTEN_SECONDS = 30 * 86400.0
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_CALL = re.compile(r"/experiment:(model|data|run)(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Drive:
    """One agent session at work. Times are seconds since the epoch.

    keeps_going: sent back to work when it stops early; not after `/experiment:run`, which is one experiment. experiments,
    hours: limits the person gave with the call, None where the session's own hold. tried: experiments judged when it
    last wanted to stop. idle_stops: how often it was sent back since then. quiet_at: experiments judged when the person
    last spoke; until the next one it may stop to listen.
    """

    tag: str
    program: str
    keeps_going: bool
    began_at: float
    experiments: int | None = None
    hours: float | None = None
    tried: int = 0
    idle_stops: int = 0
    quiet_at: int | None = None


def called(text: str, began_at: float, newest: str | None) -> Drive | None:
    """What `/experiment:model TAG --experiments N --hours H` begins; None when the text is no such call.

    newest: tag of the newest session, which `/experiment:run` without a tag means.
    """
    match = _CALL.fullmatch(text)
    if match is None:
        return None
    skill, rest = match[1], match[2] or ""
    try:
        words = shlex.split(rest)
    except ValueError:
        words = rest.split()
    experiments = _number_after(words, "--experiments")
    hours = _number_after(words, "--hours")
    tag = next((word for word in words if _is_tag(word)), newest) if skill == "run" else (words or [""])[0]
    if not tag or not _is_tag(tag):
        return None
    return Drive(
        tag=tag,
        program="data" if skill == "data" else "model",
        keeps_going=skill != "run",
        began_at=began_at,
        experiments=None if experiments is None else int(experiments),
        hours=hours,
    )


def _is_tag(word: str) -> bool:
    try:
        return check_tag(word) == word
    except UsageError:
        return False


def _number_after(words: list[str], flag: str) -> float | None:
    for number, word in enumerate(words):
        value = word.partition("=")[2] if word.startswith(f"{flag}=") else ""
        if word == flag and number + 1 < len(words):
            value = words[number + 1]
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) and float(value) > 0:
            return float(value)
    return None


def _path_of(workspace: Workspace, session_id: str) -> Path | None:
    if not _SESSION_ID.fullmatch(session_id):
        return None
    return workspace.state_dir / "drives" / f"{session_id}.json"


def drive_of(workspace: Workspace, session_id: str) -> Drive | None:
    """The research that this agent session drives here, or None."""
    path = _path_of(workspace, session_id)
    if path is None or not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    return Drive(**{f.name: values[f.name] for f in fields(Drive) if f.name in values})


def write_drive(workspace: Workspace, session_id: str, drive: Drive) -> None:
    """Remember it, and forget those that are a month old.

    Raises:
        DiskError: it cannot be written.
    """
    path = _path_of(workspace, session_id)
    if path is None:
        raise UsageError(f"{session_id!r} is no session of an agent", hint="update Claude Code: claude update")
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob("*.json"):
        if old.stat().st_mtime < time.time() - _FORGOTTEN_SECONDS:
            old.unlink(missing_ok=True)
    write_whole(path, json.dumps(asdict(drive)) + "\n")


def program_of_branch(branch: str) -> str | None:
    """`model` of `autoresearch/nov21`, `data` of `autoresearch-data/nov21`; None of any other branch."""
    prefix = branch.partition("/")[0] if "/" in branch else ""
    return next((program for program, name in BRANCH_PREFIX.items() if name == prefix), None)


def may_be_written(workspace: Workspace, program: str, path: Path) -> bool:
    """Whether this is one of the program's own files in this workspace, by its real place and not through a link."""
    if path.name not in SCOPES[program] or path.is_symlink():
        return False
    return path.parent.resolve() == workspace.root.resolve()
