"""The research loop on one screen, and how a session is begun, resumed and ended."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from autoresearch.backends.hardware import Hardware, default_preset, detect, device_kind
from autoresearch.contract.corpora import cache_root
from autoresearch.contract.prepared import open_prepared
from autoresearch.contract.rules import Clock, Rules, fingerprint_of, rules_for
from autoresearch.loop.novelty import is_seed_only, same_program
from autoresearch.loop.proposers import Proposer, make_proposer
from autoresearch.loop.referee import Arena
from autoresearch.loop.session import BASELINE, Reporter, ResearchSession, Stopped
from autoresearch.loop.settings import Settings
from autoresearch.loop.verdict import judge_failure
from autoresearch.records.ledger import Experiment, Ledger, Session, now
from autoresearch.repository import check_tag
from autoresearch.vocabulary import (
    Outcome,
    Proposal,
    ProposerExhausted,
    SessionBusy,
    SessionStopped,
    Status,
    UsageError,
    WorkspaceError,
)
from autoresearch.workspace import BRANCH_PREFIX, SCOPES, Workspace


def research(session: ResearchSession, proposer: Proposer, reporter: Reporter) -> str:
    """The experiment loop: propose, check scope, run, judge, record, settle. Returns why it ended.

    Raises:
        SessionStopped: the baseline or the incumbent does not run, or candidates crash one after the other.
    """
    limits = Limits(session.settings, session.next_number() - 1)
    try:
        session.establish_baseline()
        while (reached := limits.reached(session.next_number() - 1)) is None or session.open_experiment():
            check_crash_streak(session)
            experiment = session.open_experiment()
            if experiment is None:
                session.refresh_if_due()
                entry = session.session.entry
                incumbent = {entry: session.workspace.read_surface(session.incumbent().commit_hash or "", entry)}
                experiment = session.propose(proposer.propose(incumbent, session.past()))
            experiment = session.commit(experiment)
            refusal = why_refused(session, experiment)
            verdict = judge_failure(Outcome.REJECTED, refusal) if refusal else session.try_out(experiment)
            concluded = session.conclude(experiment, verdict)
            reporter.note(one_line_of(concluded))
    except Stopped:
        return "stopped"
    except ProposerExhausted as exhausted:
        return f"the proposer has nothing new: {exhausted.message}"
    return reached


def why_refused(session: ResearchSession, experiment: Experiment) -> str:
    """Why a committed candidate is not run at all, or "" when it is."""
    allowed = set(session.workspace.in_repository(dict.fromkeys(SCOPES[session.session.program], "")))
    assert experiment.commit_hash is not None
    outside = [
        p
        for p in session.workspace.repository.changed_paths(experiment.incumbent, experiment.commit_hash)
        if p not in allowed
    ]
    if outside:
        return (
            f"it touches {outside[0]}, and the {session.session.program} program may edit {', '.join(sorted(allowed))}"
        )
    entry = session.session.entry
    before = session.workspace.read_surface(experiment.incumbent, entry)
    after = experiment.proposal.files.get(entry, before)
    if same_program(before, after):
        return "the edit changes nothing but layout or comments"
    if is_seed_only(before, after):
        return "the edit only changes the random seed"
    for earlier in session.ledger.experiments(session.tag):
        tried = earlier.proposal.files.get(entry)
        if earlier.number < experiment.number and tried is not None and same_program(tried, after):
            return f"the same program was tried as experiment {earlier.number}"
    return ""


def check_crash_streak(session: ResearchSession) -> None:
    """Raise SessionStopped when the last experiments all crashed: something is wrong that more ideas will not mend."""
    judged = [found for found in session.ledger.experiments(session.tag) if found.status]
    streak = judged[-session.settings.crash_streak :]
    if len(streak) == session.settings.crash_streak and all(found.status is Status.CRASH for found in streak):
        reasons = sorted({found.verdict.reason for found in streak if found.verdict})
        raise SessionStopped(
            f"the last {len(streak)} experiments crashed: {'; '.join(reasons)[:600]}",
            hint=f"autoresearch show {streak[-1].number} --tag {session.tag}   (then --crash-streak {len(streak) + 8} --resume to go on)",
        )


def one_line_of(experiment: Experiment) -> str:
    """What the terminal keeps of a concluded experiment."""
    verdict = experiment.verdict
    assert verdict is not None
    estimate = "" if verdict.estimate is None else f"  val_bpb {verdict.estimate:.4f}"
    return f"#{experiment.number} {experiment.status}  {experiment.proposal.description}{estimate}  ({verdict.reason})"


@dataclass
class Limits:
    """When a session ends by itself: after so many experiments in all, or so many hours from now."""

    settings: Settings
    already: int
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._began = self.clock()

    def reached(self, experiments: int) -> str | None:
        """The limit that was reached, or None. `experiments` counts the ideas of the session, resumed ones too."""
        most = self.settings.experiments
        if most is not None and experiments >= most:
            return f"{experiments} experiments done"
        if self.settings.hours is not None and self.clock() - self._began >= self.settings.hours * 3600:
            return f"{self.settings.hours:g} hours are over"
        return None


# -- beginning and resuming -----------------------------------------------------------------------------------------


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
        UsageError: unknown preset or dataset. DataMissing, DataCorrupt: nothing prepared, or damaged.
    """
    name = preset or settings.contract or default_preset(detect())
    rules = rules_for(name)
    hardware = detect(allow_accelerator=rules.clock is Clock.WALL)
    kind = device_kind(hardware)
    prepared = open_prepared(rules, settings.dataset or rules.dataset, cache_root())
    arena = Arena(rules, prepared, kind, accelerators=rules.clock is Clock.WALL, threads=settings.threads)
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


def proposer_for(session: Session, settings: Settings) -> Proposer:
    """The proposer that the settings name, for this session's contract and file."""
    return make_proposer(settings.proposer, preset=session.preset, seed=settings.seed, surface=session.entry)


# -- one experiment from the checkout ---------------------------------------------------------------------------------


def try_edit(session: ResearchSession, description: str) -> Experiment:
    """One experiment from the edit in this checkout: commit, sealed trials, verdict, row.

    After a discard or crash the incumbent's file is back in the checkout; the edit is safe under its ref.

    Raises:
        UsageError: the checkout's file is the incumbent's. Stopped: the user asked to stop.
    """
    session.establish_baseline()
    experiment = session.open_experiment() or _edit_in_checkout(session, description)
    outside = experiment.proposal.details.get("outside_scope", [])
    if outside:
        refusal = f"it touches {outside[0]}, and the {session.session.program} program may edit {', '.join(SCOPES[session.session.program])}"
    else:
        experiment = session.commit(experiment)
        refusal = why_refused(session, experiment)
    verdict = judge_failure(Outcome.REJECTED, refusal) if refusal else session.try_out(experiment)
    concluded = session.conclude(experiment, verdict)
    _bring_checkout_up(session, concluded)
    return concluded


def _edit_in_checkout(session: ResearchSession, description: str) -> Experiment:
    entry = session.session.entry
    path = session.workspace.root / entry
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkspaceError(f"{path} cannot be read: {error}", hint=f"git checkout -- {entry}") from error
    incumbent = session.incumbent()
    if text == session.workspace.read_surface(incumbent.commit_hash or "", entry):
        raise UsageError(
            f"{entry} is the incumbent's (experiment {incumbent.number}); there is nothing to try",
            hint=f"edit {entry}, then: autoresearch try -m '...'",
        )
    allowed = set(session.workspace.in_repository(dict.fromkeys(SCOPES[session.session.program], "")))
    touched = [
        p for p in session.workspace.repository.dirty_paths() if p not in allowed and p.endswith((".py", ".toml"))
    ]
    return session.propose(Proposal(description, {entry: text}, "try", {"outside_scope": touched}))


def _bring_checkout_up(session: ResearchSession, experiment: Experiment) -> None:
    """Leave the incumbent's file in the checkout; when the session's branch is checked out here, its index entry too."""
    entry = session.session.entry
    incumbent = session.incumbent()
    text = session.workspace.read_surface(incumbent.commit_hash or "", entry)
    path = session.workspace.root / entry
    if experiment.status is not Status.KEEP and path.read_text(encoding="utf-8") == experiment.proposal.files[entry]:
        path.write_text(text, encoding="utf-8")
    if (
        session.workspace.repository.branch_checked_out_at(session.session.branch)
        == session.workspace.repository.toplevel
    ):
        session.workspace.repository.refresh_index(
            incumbent.commit_hash or "", list(session.workspace.in_repository({entry: ""}))
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


def describe(session: Session, ground: Ground, settings: Settings, workspace: Workspace) -> list[tuple[str, str]]:
    """What is printed at the start: settings in force and where things will be."""
    rules = ground.rules
    unit = {Clock.WALL: "s", Clock.CPU: "CPU s", Clock.STEPS: "steps"}[rules.clock]
    limits = [
        f"{settings.experiments} experiments" if settings.experiments else "",
        f"{settings.hours:g} h" if settings.hours else "",
    ]
    rows: list[tuple[str, Any]] = [
        ("session", f"{session.tag} on branch {session.branch}, from {session.base_commit[:10]}"),
        (
            "contract",
            f"{rules.preset}: {rules.time_budget:g} {unit}, {rules.max_seq_len} tokens a row, vocabulary {rules.vocab_size}",
        ),
        ("fingerprint", session.fingerprint),
        ("machine", f"{ground.hardware.backend}, {ground.hardware.chip}"),
        ("edits", session.entry),
        ("proposer", settings.proposer),
        ("limits", " and ".join(filter(None, limits)) or "none: runs until stopped (Ctrl-C)"),
        (
            "tables",
            f"{workspace.results_path.name}, {workspace.history_path.name}, {workspace.log_path.name} in {workspace.root}",
        ),
        ("snapshots", str(workspace.session_dir(session.tag))),
        ("ledger", str(workspace.ledger_path)),
    ]
    return [(name, str(value)) for name, value in rows]
