"""How a session is begun and resumed: the ground it stands on, its branch, its lock, its first experiment."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoresearch.backends.hardware import Hardware, default_preset, detect, device_kind
from autoresearch.contract.corpora import cache_root
from autoresearch.contract.prepared import open_prepared
from autoresearch.contract.rules import Clock, Rules, fingerprint_of, rules_for
from autoresearch.loop.orders import Arena
from autoresearch.loop.session import BASELINE, Reporter, ResearchSession
from autoresearch.loop.settings import Settings
from autoresearch.proposers.registry import needs_model
from autoresearch.records.ledger import Ledger, Session, now
from autoresearch.repository import check_tag
from autoresearch.sandbox.layers import probe
from autoresearch.sandbox.seal import Seal
from autoresearch.vocabulary import Proposal, SessionBusy, UsageError, WorkspaceError
from autoresearch.workspace import BRANCH_PREFIX, SCOPES, Workspace


@dataclass(frozen=True)
class Ground:
    """What a session stands on: this machine, the contract in force, and the prepared data."""

    hardware: Hardware
    arena: Arena
    fingerprint: str

    @property
    def rules(self) -> Rules:
        return self.arena.rules


def find_ground(settings: Settings, *, preset: str | None = None) -> Ground:
    """Detect the machine and open the data of the contract in force.

    Raises:
        UsageError: unknown preset, dataset or sandbox, or one that does not work here. DataMissing,
            DataCorrupt: nothing prepared, or damaged.
    """
    name = preset or settings.contract or default_preset(detect())
    rules = rules_for(name)
    hardware = detect(allow_accelerator=rules.clock is Clock.WALL)
    kind = device_kind(hardware)
    prepared = open_prepared(rules, settings.dataset or rules.dataset, cache_root())
    arena = Arena(
        rules,
        prepared,
        kind,
        accelerators=rules.clock is Clock.WALL,
        threads=settings.threads,
        seal=probe(settings.sandbox),
        warm_cache=warm_cache_dir(kind),
    )
    return Ground(
        hardware, arena, fingerprint_of(rules, validation_sha256=prepared.hashes["validation"], device_kind=kind)
    )


def begin(
    workspace: Workspace, ledger: Ledger, settings: Settings, ground: Ground, tag: str, *, committed: bool
) -> Session:
    """A new session: its row, its branch at the checkout's commit, and the baseline as experiment 0.

    committed: use the committed experiment file although the checkout's differs.

    Raises:
        WorkspaceError: the branch exists, git does not know the user, or the experiment file has uncommitted changes.
    """
    check_tag(tag)
    program = _program(settings)
    branch = f"{BRANCH_PREFIX[program]}/{tag}"
    if ledger.session(tag) is not None or workspace.repository.resolve(f"refs/heads/{branch}"):
        raise WorkspaceError(
            f"the tag {tag!r} is in use: branch {branch} exists",
            hint=f"autoresearch research {tag} --resume   (or choose another tag)",
        )
    workspace.check_writable()
    author = workspace.repository.identity()
    base = workspace.repository.head()
    if settings.file not in SCOPES[program]:
        raise UsageError(
            f"the {program} program edits {' or '.join(SCOPES[program])}, not {settings.file}", hint="--file train.py"
        )
    if not committed and workspace.dirty_surface((settings.file,)):
        raise WorkspaceError(
            f"{settings.file} has uncommitted changes; a session starts from commit {base[:10]}, which does not have them",
            hint=f"git commit -m 'my start' {settings.file}   (or --committed to start from {base[:10]} as it is)",
        )
    text = workspace.read_surface(base, settings.file)
    session = Session(
        tag=tag,
        program=program,
        entry=settings.file,
        preset=ground.rules.preset,
        fingerprint=ground.fingerprint,
        hashes=dict(ground.arena.prepared.hashes),
        settings=asdict(settings),
        machine=asdict(ground.hardware),
        branch=branch,
        base_commit=base,
        author={"name": author.name, "email": author.email},
        created_at=now(),
    )
    ledger.add_session(session)
    baseline = Proposal("baseline", {settings.file: text}, "human")
    ledger.propose(tag, BASELINE, base, baseline, commit=base)
    _point_refs(workspace, session)
    return session


def _point_refs(workspace: Workspace, session: Session) -> None:
    """The branch and the baseline's ref; a kill between the ledger's row and these is mended at resume."""
    workspace.repository.set_ref(f"refs/autoresearch/{session.tag}/{BASELINE}", session.base_commit)
    if workspace.repository.resolve(f"refs/heads/{session.branch}") is None:
        workspace.repository.set_ref(f"refs/heads/{session.branch}", session.base_commit, expect="")


def resume(workspace: Workspace, ledger: Ledger, settings: Settings, tag: str) -> tuple[Session, Ground]:
    """The session of that tag and the ground it stands on, which must be the ground it was begun on.

    Raises:
        WorkspaceError: no such session, or contract, text or machine changed since.
    """
    session = ledger.session(check_tag(tag))
    if session is None:
        known = ", ".join(found.tag for found in ledger.sessions()) or "none"
        raise WorkspaceError(
            f"no session {tag!r} in this repository; known: {known}", hint=f"autoresearch research {tag}"
        )
    if settings.contract is not None and settings.contract != session.preset:
        raise UsageError(
            f"session {tag} runs under contract {session.preset}, not {settings.contract}",
            hint=f"autoresearch research {tag} --resume",
        )
    ground = find_ground(settings, preset=session.preset)
    if ground.fingerprint != session.fingerprint:
        raise WorkspaceError(
            f"session {tag} was measured under fingerprint {session.fingerprint}; this machine, contract and text give"
            f" {ground.fingerprint}, and scores under two fingerprints cannot be compared",
            hint="autoresearch research NEWTAG   (a session of its own)",
        )
    if session.program == "model" and ground.arena.prepared.hashes != session.hashes:
        raise WorkspaceError(
            f"the training text or tokenizer changed since session {tag} began", hint="autoresearch research NEWTAG"
        )
    workspace.check_writable()
    if ledger.experiments(tag):
        _point_refs(workspace, session)
    else:  # killed between the session's row and its baseline
        text = workspace.read_surface(session.base_commit, session.entry)
        ledger.propose(
            tag,
            BASELINE,
            session.base_commit,
            Proposal("baseline", {session.entry: text}, "human"),
            commit=session.base_commit,
        )
        _point_refs(workspace, session)
    return session, ground


def _program(settings: Settings) -> str:
    if settings.program not in SCOPES:
        raise UsageError(f"unknown program {settings.program!r}; known: {', '.join(SCOPES)}", hint="--program model")
    if settings.program != "model":
        raise UsageError("research on the data is not built yet; this version edits the model", hint="--program model")
    return settings.program


@contextmanager
def session_lock(workspace: Workspace, tag: str) -> Iterator[None]:
    """Hold the tag for this process; the system lets go of it however the process ends.

    Raises:
        SessionBusy: another process holds it.
    """
    path = workspace.lock_path(check_tag(tag))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            owner = stream.read().strip() or "unknown"
            raise SessionBusy(
                f"session {tag} is running already (process {owner})", hint="autoresearch status --watch"
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def refuse_checked_out(workspace: Workspace, session: Session) -> None:
    """A session moves its branch, and a branch that someone has checked out must not move under their feet."""
    where = workspace.repository.branch_checked_out_at(session.branch)
    if where is not None:
        raise WorkspaceError(
            f"branch {session.branch} is checked out in {where}, and this session moves it",
            hint=f"git -C '{where}' switch --detach",
        )


def session_on(
    workspace: Workspace,
    ledger: Ledger,
    session: Session,
    ground: Ground,
    settings: Settings,
    reporter: Reporter,
    stop: threading.Event | None = None,
) -> ResearchSession:
    """The session's transitions, bound to their doors."""
    return ResearchSession(workspace, ledger, session, ground.arena, settings, reporter, stop or threading.Event())


def warm_cache_dir(kind: str) -> Path:
    """Where compile caches of trusted baselines are kept, for one kind of device."""
    return cache_root() / "compiled" / re.sub(r"[^A-Za-z0-9._-]+", "-", kind)


def _said_loudly(seal: Seal) -> str:
    if seal.parts:
        return f"{seal.level} ({seal.kind})"
    return "NONE: a candidate can read, write and reach whatever you can.   autoresearch doctor   says what to install"


def describe(session: Session, ground: Ground, settings: Settings, workspace: Workspace) -> list[tuple[str, str]]:
    """What is printed at the start: settings in force and where things will be."""
    rules = ground.rules
    unit = {Clock.WALL: "s", Clock.CPU: "CPU s", Clock.STEPS: "steps"}[rules.clock]
    limits = [
        f"{settings.experiments} experiments" if settings.experiments else "",
        f"{settings.hours:g} h" if settings.hours else "",
        f"{settings.usd:g} USD" if settings.usd else "",
        f"{settings.tokens:,} tokens" if settings.tokens else "",
    ]
    rows: list[tuple[str, Any]] = [
        ("session", f"{session.tag} on branch {session.branch}, from {session.base_commit[:10]}"),
        (
            "contract",
            f"{rules.preset}: {rules.time_budget:g} {unit}, {rules.max_seq_len} tokens a row, vocabulary {rules.vocab_size}",
        ),
        ("fingerprint", session.fingerprint),
        ("machine", f"{ground.hardware.backend}, {ground.hardware.chip}"),
        ("sealed", _said_loudly(ground.arena.seal)),
        ("edits", session.entry),
        ("proposer", settings.proposer_name),
        ("model", settings.model if settings.model and needs_model(settings.proposer_name) else ""),
        ("limits", " and ".join(filter(None, limits)) or "none: runs until stopped (Ctrl-C)"),
        (
            "tables",
            f"{workspace.results_path.name}, {workspace.history_path.name}, {workspace.log_path.name} in {workspace.root}",
        ),
        ("snapshots", str(workspace.session_dir(session.tag))),
        ("ledger", str(workspace.ledger_path)),
    ]
    return [(name, str(value)) for name, value in rows if value != ""]
