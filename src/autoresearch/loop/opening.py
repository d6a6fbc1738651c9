"""How a session is begun and resumed: the ground it stands on, its branch, its lock, its first experiment."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoresearch.backends.blas import blas_name, find_openblas
from autoresearch.backends.hardware import (
    Hardware,
    default_preset,
    detect,
    device_kind,
    experiment_file,
    file_in_force,
    requested_backend,
)
from autoresearch.contract.channel import REBUILD
from autoresearch.contract.corpora import cache_root, open_corpus
from autoresearch.contract.prepared import open_prepared
from autoresearch.contract.rules import PRESETS, Clock, Rules, fingerprint_of, rules_for
from autoresearch.loop.machine_fit import changes_since, fit_in, key_of, machine_fit, stored_with
from autoresearch.loop.objective import PLAIN, Objective, fingerprint_under, objective_of
from autoresearch.loop.orders import Arena
from autoresearch.loop.preparation import Pantry, limits_of
from autoresearch.loop.program_files import files_at, trained_file
from autoresearch.loop.session import BASELINE, Reporter, ResearchSession
from autoresearch.loop.settings import Settings
from autoresearch.proposers.constants import defines_function
from autoresearch.proposers.registry import needs_model
from autoresearch.recipes.plain import is_plain
from autoresearch.records.ledger import Ledger, Session, now
from autoresearch.repository import check_tag
from autoresearch.sandbox.allowed import allowed_here
from autoresearch.sandbox.layers import probe
from autoresearch.sandbox.seal import Seal
from autoresearch.vocabulary import Proposal, SessionBusy, UsageError, WorkspaceError
from autoresearch.workspace import BRANCH_PREFIX, SCOPES, Workspace, surface_of


@dataclass(frozen=True)
class Ground:
    """What a session stands on: this machine, the contract in force, the prepared data, and what recipes are made from.

    fingerprint: of a session on the contract's own text. recipe_fingerprint: of one whose text a recipe makes, which is scored on
    whole documents instead of a number of rows.
    """

    hardware: Hardware
    arena: Arena
    fingerprint: str
    recipe_fingerprint: str
    pantry: Pantry

    @property
    def rules(self) -> Rules:
        return self.arena.rules


def with_file_in_force(settings: Settings, workspace: Workspace) -> Settings:
    """The settings with the experiment file of the backend in force, where neither they nor the program name another.

    A workspace from before there was such a file goes on with train.py, unless AUTORESEARCH_BACKEND asks for MLX.

    Raises:
        UsageError: AUTORESEARCH_BACKEND names no known backend.
    """
    if settings.file is not None or settings.program != "model":
        return settings
    hides = settings.contract in PRESETS and PRESETS[settings.contract or ""].clock is not Clock.WALL
    file = file_in_force(allow_accelerator=not hides)
    was_asked_for = requested_backend(os.environ) == "mlx"
    if file == settings.entry or not (was_asked_for or os.path.lexists(workspace.root / file)):
        return settings
    return replace(settings, file=file)


def find_ground(settings: Settings, *, preset: str | None = None, trains: str | None = None) -> Ground:
    """Detect the machine and open the data of the contract in force.

    trains: the file that will be trained, where a session has it; it decides between torch and MLX.

    Raises:
        UsageError: unknown preset, dataset or sandbox, or one that does not work here. DataMissing,
            DataCorrupt: nothing prepared, or damaged.
    """
    file = trains or (None if settings.program == "data" else settings.entry)
    name = preset or settings.contract or default_preset(detect(file=file))
    rules = rules_for(name)
    hardware = detect(allow_accelerator=rules.clock is Clock.WALL, file=file)
    blas = blas_for(settings, hardware)
    kind = device_kind(hardware, blas_name(blas)) if blas else device_kind(hardware)
    names = [name.strip() for name in (settings.dataset or rules.dataset).split(",")]
    prepared = open_prepared(rules, names[0], cache_root(), num_shards=settings.num_shards)
    arena = Arena(
        rules,
        prepared,
        kind,
        accelerators=rules.clock is Clock.WALL,
        threads=settings.threads or 1,
        seal=probe(settings.sandbox),
        warm_cache=warm_cache_dir(kind),
        max_device_batch_size=settings.max_device_batch_size or 0,
        blas=blas,
    )
    validation = prepared.hashes["validation"]
    pantry = Pantry(
        rules,
        tuple(open_corpus(name, cache_root(), num_shards=settings.num_shards) for name in names),
        prepared,
        cache_root(),
        arena.seal,
        threads=settings.threads or 1,
        memory_mb=arena.limits.memory_mb,
    )
    by_rows, by_documents = (
        fingerprint_under(fingerprint_of(rules, validation_sha256=text, device_kind=kind), settings.objective)
        for text in (validation, f"{validation} by documents")
    )
    return Ground(hardware, arena, by_rows, by_documents, pantry)


def blas_for(settings: Settings, hardware: Hardware) -> Path | None:
    """The library that does the matrix products of MLX on a CPU; None for any other device, and where none is wanted or found.

    It is code that every candidate loads, so it is looked for where the system keeps its libraries, or named by the person; and a
    candidate must be able to read it.

    Raises:
        UsageError: the named one is missing, or lies where no candidate may read.
    """
    if not (hardware.backend == "mlx" and hardware.on_cpu) or settings.blas == "none":
        return None
    if settings.blas == "auto":
        return find_openblas()
    path = Path(settings.blas)
    if not (path.is_absolute() and path.is_file()):
        raise UsageError(
            f"no library at {settings.blas}: blas takes an absolute path, auto or none", hint="--blas auto"
        )
    real, allowed = path.resolve(), allowed_here()
    if not any(real.is_relative_to(root) for root in allowed.read):
        raise UsageError(
            f"{real} lies where no candidate may read", hint=f"sudo cp {real} /usr/local/lib/   (and name it there)"
        )
    return real


def begin(
    workspace: Workspace,
    ledger: Ledger,
    settings: Settings,
    ground: Ground,
    tag: str,
    *,
    committed: bool,
    say: Callable[[str], object] = lambda _: None,
    stop: threading.Event | None = None,
) -> Session:
    """A new session: its row, its branch at the checkout's commit, and the baseline as experiment 0.

    committed: use the committed experiment file although the checkout's differs. What fits this machine is measured first, where
    it is not known; `say` is told so, and until it is done nothing is recorded.

    Raises:
        Stopped: `stop` was set meanwhile.
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
    entry = settings.entry
    if entry not in SCOPES[program]:
        raise UsageError(
            f"the {program} program edits {' or '.join(SCOPES[program])}, not {entry}",
            hint=f"--file {'data_sources.py' if program == 'data' else 'train.py'}",
        )
    names = surface_of(program, entry)
    for name in workspace.dirty_surface(names) if not committed else ():
        raise WorkspaceError(
            f"{name} has uncommitted changes; a session starts from commit {base[:10]}, which does not have them",
            hint=f"git commit -m 'my start' {name}   (or --committed to start from {base[:10]} as it is)",
        )
    files = {name: workspace.read_surface(base, name) for name in names}
    trained = experiment_file(ground.hardware.backend) if program == "data" else entry
    source = files[entry] if program == "model" else workspace.read_surface(base, trained)  # frozen, and needed
    if program == "data" and "def build(" not in files["prepare.py"]:
        raise UsageError(
            "prepare.py defines no build(text, out): it is from an older version, and says how text is prepared by name only",
            hint="autoresearch init newlab, and copy its prepare.py and data_sources.py here",
        )
    if settings.objective != PLAIN and not defines_function(source, REBUILD):
        raise UsageError(
            f"{trained} defines no {REBUILD}(weights), and {settings.objective} scores a model that is rebuilt from its weights",
            hint=f"write {REBUILD} as docs/contract.md says, or --objective {PLAIN}",
        )
    fit = machine_fit(
        ground.hardware,
        ground.arena,
        {trained: source},
        trained,
        cache_root() / "fits",
        threads=settings.threads,
        max_device_batch_size=settings.max_device_batch_size,
        say=say,
        stop=stop,
    )
    has_recipe = program == "data" or base_recipe(workspace, base) is not None
    session = Session(
        tag=tag,
        program=program,
        entry=entry,
        preset=ground.rules.preset,
        fingerprint=ground.recipe_fingerprint if has_recipe else ground.fingerprint,
        hashes=dict(ground.arena.prepared.hashes) | ground.pantry.other_hashes,
        settings=stored_with(asdict(settings) | {"blas": str(ground.arena.blas or "none")}, fit),
        machine=asdict(ground.hardware),
        branch=branch,
        base_commit=base,
        author={"name": author.name, "email": author.email},
        created_at=now(),
    )
    ledger.add_session(session)
    baseline = Proposal("baseline", files, "human")
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
    dataset = settings.dataset or session.settings.get("dataset")
    objective = objective_of(session)
    if settings.objective not in (PLAIN, objective):
        raise UsageError(
            f"session {tag} judges on {objective}, not {settings.objective}",
            hint=f"autoresearch research {tag} --resume",
        )
    blas = session.settings.get("blas", settings.blas)
    ground = find_ground(
        replace(settings, dataset=dataset, blas=blas, objective=objective),
        preset=session.preset,
        trains=trained_file(session),
    )
    if session.fingerprint not in (ground.fingerprint, ground.recipe_fingerprint):
        raise WorkspaceError(
            f"session {tag} was measured under fingerprint {session.fingerprint}; this machine, contract and text give"
            f" {ground.fingerprint}, and scores under two fingerprints cannot be compared",
            hint="autoresearch research NEWTAG   (a session of its own)",
        )
    if ground.arena.prepared.hashes | ground.pantry.other_hashes != session.hashes:
        raise WorkspaceError(
            f"the training text or tokenizer changed since session {tag} began", hint="autoresearch research NEWTAG"
        )
    workspace.check_writable()
    if ledger.experiments(tag):
        _point_refs(workspace, session)
    else:  # killed between the session's row and its baseline
        files = files_at(workspace, session, session.base_commit)
        baseline = Proposal("baseline", files, "human")
        ledger.propose(tag, BASELINE, session.base_commit, baseline, commit=session.base_commit)
        _point_refs(workspace, session)
    return session, ground


def _program(settings: Settings) -> str:
    if settings.program not in SCOPES:
        raise UsageError(f"unknown program {settings.program!r}; known: {', '.join(SCOPES)}", hint="--program model")
    return settings.program


def base_recipe(workspace: Workspace, commit: str) -> dict[str, str] | None:
    """The workspace's recipe at that commit, where it is not the shipped one; None for that, and where there is none."""
    try:
        files = {name: workspace.read_surface(commit, name) for name in SCOPES["data"]}
    except UsageError:
        return None  # a workspace of train.py alone
    return None if is_plain(files) else files


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
    objective: Objective | None = None,
) -> ResearchSession:
    """The session's transitions, bound to their doors. Its trials get what the session's machine fit says, whatever is set now.

    objective: that of the session's row; None where it is PLAIN.
    """
    given = objective.name if objective else PLAIN
    if given != objective_of(session):
        raise UsageError(
            f"session {session.tag} judges on {objective_of(session)}, not {given}",
            hint=f"autoresearch research {session.tag} --resume",
        )
    fit = fit_in(session.settings)
    arena = replace(ground.arena, threads=fit.threads, max_device_batch_size=fit.max_device_batch_size)
    return ResearchSession(
        workspace,
        ledger,
        session,
        arena,
        settings,
        reporter,
        stop or threading.Event(),
        pantry=replace(ground.pantry, threads=fit.threads),
        base_recipe=base_recipe(workspace, session.base_commit),
        objective=objective,
    )


def warm_cache_dir(kind: str) -> Path:
    """Where compile caches of trusted baselines are kept, for one kind of device."""
    return cache_root() / "compiled" / re.sub(r"[^A-Za-z0-9._-]+", "-", kind)


def _recipe_limits(ground: Ground) -> str:
    limits = limits_of(ground.rules)
    return f"prepared in the sandbox, within {limits.seconds:g} s and {limits.disk_mb:,.0f} MB"


def fit_changes(session: Session, ground: Ground, settings: Settings) -> list[str]:
    """What a resume should say of the session's machine fit: what differs today, and that it stays."""
    now = key_of(ground.hardware, ground.arena, trained_file(session), "")
    asked = {"threads": settings.threads, "max_device_batch_size": settings.max_device_batch_size}
    return changes_since(fit_in(session.settings), now, asked)


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
        ("objective", objective_of(session)),
        ("fingerprint", session.fingerprint),
        ("machine", f"{ground.hardware.backend}, {ground.hardware.chip}"),
        ("driver", ground.hardware.driver),
        ("fit", fit_in(session.settings).in_words()),
        ("blas", str(ground.arena.blas) if ground.arena.blas else ""),
        ("sealed", _said_loudly(ground.arena.seal)),
        ("edits", " and ".join(surface_of(session.program, session.entry))),
        ("trains", trained_file(session) if session.program == "data" else ""),
        ("text", ", ".join(ground.pantry.names)),
        ("recipe", _recipe_limits(ground) if session.fingerprint == ground.recipe_fingerprint else ""),
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
