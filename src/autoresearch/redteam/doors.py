"""Cheats that are no training candidates, at the real doors they attack: the loop's proposals, its git, its text."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from autoresearch.hostile_text import terminal_block, terminal_line
from autoresearch.loop.opening import begin, find_ground, session_on
from autoresearch.loop.research import one_line_of, why_refused
from autoresearch.loop.session import ResearchSession
from autoresearch.loop.settings import Settings
from autoresearch.loop.verdict import judge_failure
from autoresearch.records.ledger import Experiment, Ledger
from autoresearch.records.tables import COLUMNS, log_text, result_rows, results_text
from autoresearch.redteam.entries import CatalogueError, Door, Entry, source_for
from autoresearch.redteam.judging import Result, judge_door
from autoresearch.repository import Repository, start_repository
from autoresearch.vocabulary import AutoresearchError, Outcome, Proposal
from autoresearch.workspace import Workspace, admitted, open_workspace, refusal_of, template_path

_TAG = "redteam"
_IDENTITY = {
    "GIT_AUTHOR_NAME": "A User",
    "GIT_AUTHOR_EMAIL": "user@example.org",
    "GIT_COMMITTER_NAME": "A User",
    "GIT_COMMITTER_EMAIL": "user@example.org",
}
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def knock(entry: Entry, base: str, folder: Path) -> tuple[Result, str]:
    """What became of an entry at its door. `base` is train.py, `folder` a place to work in.

    Raises:
        CatalogueError: the entry's `attack` or `plan` is none that its door knows.
    """
    assert entry.door is not None
    attack = ATTACKS.get((entry.door, entry.attack))
    if attack is None:
        known = ", ".join(f"{door}: {name}" for door, name in ATTACKS)
        raise CatalogueError(
            f"{entry.folder.name}: no attack {entry.attack!r} at the door {entry.door}; known: {known}",
            hint="autoresearch redteam --list",
        )
    work = Path(tempfile.mkdtemp(prefix="door-", dir=folder))
    try:
        with _identity():
            refusal, harm = attack(entry, base, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return judge_door(entry, refusal=refusal, harm=harm)


# -- loop ---------------------------------------------------------------------------------------------------------------


def _propose(entry: Entry, base: str, folder: Path) -> tuple[str, list[str]]:
    files = {"train.py": source_for(entry, base, {})} if entry.edits or entry.payload else {}
    for name, text in dict(entry.plan.get("files", {})).items():
        standing = template_path(name).read_text(encoding="utf-8") if "{}" in text else ""
        files[name] = text.replace("{}", standing)
    with _session(folder, base) as session:
        if entry.plan.get("twice"):
            first = _committed(session, Proposal("the first time", files, _TAG))
            session.conclude(first, judge_failure(Outcome.CRASHED, "not run"))
        try:
            proposal = admitted(Proposal(entry.title, files, _TAG))
            if refusal := refusal_of(proposal):
                return refusal, []
            return why_refused(session, _committed(session, proposal)), []
        except AutoresearchError as refused:
            return refused.message, []


def _committed(session: ResearchSession, proposal: Proposal) -> Experiment:
    return session.commit(session.propose(proposal))


# -- git ----------------------------------------------------------------------------------------------------------------


def _planted(entry: Entry, base: str, folder: Path) -> tuple[str, list[str]]:
    """Everything the loop does with git, in a repository full of traps."""
    trace, values = _trap(folder)
    plan = _filled(entry.plan, values)
    with _session(folder, base) as session:
        repository = session.workspace.repository
        root = session.workspace.root
        for name, text in plan.get("files", {}).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
            repository.git("add", "--", name)
        if plan.get("files"):
            who = [
                part for key, value in (("user.name", "x"), ("user.email", "x@x")) for part in ("-c", f"{key}={value}")
            ]
            repository.git(*who, "commit", "--quiet", "-m", "planted")
        for name, text in plan.get("git_files", {}).items():
            (repository.common_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (repository.common_dir / name).write_text(text)
        for hook in plan.get("hooks", []):
            path = repository.common_dir / "hooks" / hook
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{values['TRIGGER']}\n")
            path.chmod(0o755)
        for key, value in plan.get("config", {}).items():
            repository.git("config", "--local", key, value)
        trace.unlink(missing_ok=True)  # what planting itself has triggered is not the loop's doing
        return _tour(session, base, trace, values["SECRET"])


def _tour(session: ResearchSession, base: str, trace: Path, secret: str) -> tuple[str, list[str]]:
    """Propose, commit, judge, settle, look; what was harmed on the way."""
    repository = session.workspace.repository
    edited = base.replace("DEPTH = 8", "DEPTH = 9")
    harm = []
    try:
        (session.workspace.root / "train.py").write_text(edited, encoding="utf-8")
        dirty = session.workspace.dirty_surface(("train.py",))
        again = Repository(session.workspace.root)
        experiment = _committed(session, Proposal("one layer more", {"train.py": edited}, _TAG))
        refusal = why_refused(session, experiment)
        assert experiment.commit_hash is not None
        read = session.workspace.read_surface(experiment.commit_hash, "train.py")
        diff = repository.diff(experiment.incumbent, experiment.commit_hash)
        repository.branch_checked_out_at(session.session.branch)
        repository.refresh_index(experiment.commit_hash, ["train.py"])
        session.conclude(experiment, judge_failure(Outcome.CRASHED, "not run"))
        if read != edited:
            harm.append("another train.py was read than was proposed")
        if "\n+DEPTH = 9" not in diff:
            harm.append("the diff does not show what was changed")
        if dirty != ["train.py"]:
            harm.append("a changed train.py was not seen in the checkout")
        if again.head() != repository.head():
            harm.append("the repository was found elsewhere")
        if secret in diff + read:
            harm.append("a file outside the repository was read")
    except AutoresearchError as refused:
        refusal = refused.message
    if trace.exists():
        harm.append("a planted command was run")
    return refusal, harm


def _hostile_commit(entry: Entry, base: str, folder: Path) -> tuple[str, list[str]]:
    """Read the surface file of a commit whose tree was made by hand."""
    trace, values = _trap(folder)
    plan = _filled(entry.plan, values)
    workspace = _workspace(folder, base)
    repository = workspace.repository
    parent = repository.head()
    listing = repository.git("ls-tree", "-z", parent).decode()
    entries = {line.split("\t", 1)[1]: line for line in listing.split("\0") if line}
    for item in plan.get("entries", []):
        mode, path, text = item["mode"], item["path"], item["text"]
        kind = "commit" if mode == "160000" else "blob"
        target = text if kind == "commit" else _blob(repository, text)
        entries[path] = f"{mode} {kind} {target}\t{path}"
    tree_text = "\0".join(entries.values()) + "\0"
    tree = repository.git("mktree", "-z", "--missing", stdin=tree_text.encode()).decode().strip()
    commit = repository.git("commit-tree", tree, "-p", parent, "-m", "hostile").decode().strip()
    try:
        read = workspace.read_surface(commit, "train.py")
    except AutoresearchError as refused:
        return refused.message, ["a planted command was run"] if trace.exists() else []
    harm = ["a file outside the repository was read"] if values["SECRET"] in read else []
    return "", harm


def _blob(repository: Repository, text: str) -> str:
    return repository.git("hash-object", "-w", "--stdin", "--no-filters", stdin=text.encode()).decode().strip()


def _trap(folder: Path) -> tuple[Path, dict[str, str]]:
    """(a file that is there once the trap was sprung, what a plan may name)."""
    trace = folder / "trace"
    script = folder / "trigger.sh"
    script.write_text(f"#!/bin/sh\ntouch '{trace}'\ncat\n")
    script.chmod(0o755)
    secret = f"canary-{secrets.token_hex(16)}"
    (folder / "secret.txt").write_text(secret)
    return trace, {"TRIGGER": str(script), "SECRET_FILE": str(folder / "secret.txt"), "SECRET": secret}


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    """A plan with its {{FIELDS}} filled, at every depth."""
    if isinstance(value, str):
        for name in ("TRIGGER", "SECRET_FILE"):
            value = value.replace(f"{{{{{name}}}}}", values[name])
        return value
    if isinstance(value, Mapping):
        return {key: _filled(item, values) for key, item in value.items()}
    return [_filled(item, values) for item in value] if isinstance(value, list) else value


# -- text ---------------------------------------------------------------------------------------------------------------


def _shown(entry: Entry, base: str, folder: Path) -> tuple[str, list[str]]:
    """The text as description, reason and log tail, wherever a session shows them."""
    text = str(entry.plan["text"])
    with _session(folder, base) as session:
        proposal = admitted(Proposal(text, {"train.py": base.replace("DEPTH = 8", "DEPTH = 9")}, _TAG))
        experiment = _committed(session, proposal)
        concluded = session.conclude(experiment, judge_failure(Outcome.CRASHED, text))
        rows = result_rows(session.ledger, _TAG)
        table, log = results_text(rows), log_text(rows)
        on_terminal = [terminal_line(one_line_of(concluded)), *terminal_block(text).split("\n")]
    harm = []
    lines = table.removesuffix("\n").split("\n")
    if len(lines) != 1 + len(rows) or any(line.count("\t") != len(COLUMNS) - 1 for line in lines):
        harm.append("a row of results.tsv was broken")
    shown = {"results.tsv": table, "EXPERIMENT_LOG.md": log, "the terminal": "\n".join(on_terminal)}
    for place, content in shown.items():
        if found := _HIDDEN.search(content.replace("\n", "").replace("\t", "")):
            harm.append(f"U+{ord(found[0]):04X} reached {place}")
    for wanted in entry.plan.get("forbidden", []):
        if _is_live(wanted, log):
            harm.append(f"{wanted!r} is live in EXPERIMENT_LOG.md")
    return "", harm


def _is_live(piece: str, markdown: str) -> bool:
    """Whether the piece stands in Markdown outside code spans and indented blocks."""
    prose = [line for line in markdown.splitlines() if not line.startswith("    ")]
    return any(piece in re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", line) for line in prose)


# -- a session to attack ------------------------------------------------------------------------------------------------


class _Silent:
    def glimpse(self, values: Mapping[str, Any]) -> None:
        """Nobody watches."""

    def note(self, text: str) -> None:
        """Nobody reads."""


def _workspace(folder: Path, base: str) -> Workspace:
    root = folder / "lab"
    root.mkdir()
    (root / "train.py").write_text(base, encoding="utf-8")
    (root / "prepare.py").write_bytes(template_path("prepare.py").read_bytes())
    (root / ".gitignore").write_bytes(template_path(".gitignore").read_bytes())
    start_repository(root, ["train.py", "prepare.py", ".gitignore"])
    return open_workspace(root)


@contextlib.contextmanager
def _session(folder: Path, base: str) -> Iterator[ResearchSession]:
    """A session of `smoke` in a new workspace whose train.py is `base`."""
    workspace = _workspace(folder, base)
    settings = Settings(contract="smoke", sandbox="none")  # nothing is run here
    ground = find_ground(settings)
    with contextlib.closing(Ledger(workspace.ledger_path)) as ledger:
        row = begin(workspace, ledger, settings, ground, _TAG, committed=True)
        session = session_on(workspace, ledger, row, ground, settings, _Silent(), threading.Event())
        session.conclude(session.ledger.experiment(_TAG, 0), judge_failure(Outcome.ABANDONED, "not run"))
        yield session
        session.close()


@contextlib.contextmanager
def _identity() -> Iterator[None]:
    """An author for the commits, whoever the user is."""
    before = {name: os.environ.get(name) for name in _IDENTITY}
    os.environ.update(_IDENTITY)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# What a cheat may do at which door: (refusal or "", harm that was done).
ATTACKS: Mapping[tuple[Door, str], Callable[[Entry, str, Path], tuple[str, list[str]]]] = {
    (Door.LOOP, "propose"): _propose,
    (Door.GIT, "planted"): _planted,
    (Door.GIT, "commit"): _hostile_commit,
    (Door.TEXT, "shown"): _shown,
}
