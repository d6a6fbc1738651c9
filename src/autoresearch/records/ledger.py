"""The ledger: one SQLite file in the common git directory is the truth. One transaction per transition.

Tables, status files and snapshots are written from it and can be written again at any time. Every state an experiment
passes through is here before anything outside moves, so that a kill at any instruction resumes without loss.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from autoresearch.records.database import backup_of, connect, mended, restore_hint, transaction
from autoresearch.vocabulary import Examination, LedgerError, Outcome, Proposal, Slice, Status, Trial, Verdict

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE sessions (
    tag TEXT PRIMARY KEY,
    program TEXT NOT NULL,
    entry TEXT NOT NULL,            -- the experiment file
    preset TEXT NOT NULL,
    fingerprint TEXT NOT NULL,      -- of contract, validation text and device kind
    hashes TEXT NOT NULL,           -- JSON: corpus, validation, tokenizer
    settings TEXT NOT NULL,         -- JSON: session settings as started
    machine TEXT NOT NULL,          -- JSON: hardware as detected
    branch TEXT NOT NULL,
    base_commit TEXT NOT NULL,
    author TEXT NOT NULL,           -- JSON: name, email
    created_at TEXT NOT NULL
) STRICT;
CREATE TABLE experiments (
    tag TEXT NOT NULL REFERENCES sessions(tag),
    number INTEGER NOT NULL,        -- 0 is the baseline
    state TEXT NOT NULL,            -- proposed, committed, judged, settled
    incumbent TEXT NOT NULL,        -- commit it must beat
    proposer TEXT NOT NULL,
    description TEXT NOT NULL,
    files TEXT NOT NULL,            -- JSON: text of every edited file
    details TEXT NOT NULL,          -- JSON: the proposer's own bookkeeping
    commit_hash TEXT,
    status TEXT,                    -- keep, discard, crash
    verdict TEXT,                   -- JSON
    proposed_at TEXT NOT NULL,
    judged_at TEXT,
    judged_order INTEGER UNIQUE,    -- order of verdicts over all sessions: the order of results_history.tsv
    PRIMARY KEY (tag, number)
) STRICT;
CREATE TABLE trials (
    id INTEGER PRIMARY KEY,
    tag TEXT NOT NULL,
    number INTEGER NOT NULL,        -- experiment it serves
    commit_hash TEXT NOT NULL,      -- commit that was trained (candidate or incumbent)
    purpose TEXT NOT NULL,          -- first, pair, paired incumbent, refresh, calibrate
    seed INTEGER NOT NULL,
    slice TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    state TEXT NOT NULL,            -- running, done
    pid INTEGER,
    pid_created_at REAL,
    result TEXT,                    -- JSON of Trial
    log BLOB,                       -- zlib of the bounded run log
    started_at TEXT NOT NULL,
    ended_at TEXT
) STRICT;
CREATE INDEX trials_of ON trials(tag, number);
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    tag TEXT NOT NULL,
    what TEXT NOT NULL
) STRICT;
"""


class State(StrEnum):
    """How far an experiment has come."""

    PROPOSED = "proposed"
    COMMITTED = "committed"
    JUDGED = "judged"
    SETTLED = "settled"


class Purpose(StrEnum):
    """Why a trial was run."""

    CALIBRATE = "calibrate"
    FIRST = "first"
    PAIR = "pair"
    PAIRED_INCUMBENT = "paired incumbent"
    REFRESH = "refresh"


@dataclass(frozen=True)
class Session:
    """One stretch of research on one branch."""

    tag: str
    program: str
    entry: str
    preset: str
    fingerprint: str
    hashes: dict[str, str]
    settings: dict[str, Any]
    machine: dict[str, Any]
    branch: str
    base_commit: str
    author: dict[str, str]
    created_at: str


@dataclass(frozen=True)
class Experiment:
    """One idea and what became of it. commit_hash, status and verdict are None until reached."""

    tag: str
    number: int
    state: State
    incumbent: str
    proposal: Proposal
    commit_hash: str | None
    status: Status | None
    verdict: Verdict | None
    proposed_at: str
    judged_at: str | None
    judged_order: int | None


@dataclass(frozen=True)
class TrialRow:
    """One trial as recorded. `trial` is None while it runs, or when a kill left it so."""

    id: int
    tag: str
    number: int
    commit_hash: str
    purpose: Purpose
    seed: int
    slice: Slice
    fingerprint: str
    trial: Trial | None
    pid: int | None
    pid_created_at: float | None
    started_at: str
    ended_at: str | None


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Ledger:
    """Read and write the record. Every method that writes is one transaction.

    Raises (every method):
        LedgerError: the file is damaged, the disk is full, or another process holds it too long.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = connect(path)
        try:
            self._prepare()
        except LedgerError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        with self._transaction() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        db.execute(statement)
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise LedgerError(
                    f"{self.path} was written by another version of autoresearch (schema {version})",
                    hint="pip install -U autoresearch",
                )

    def close(self) -> None:
        self._db.close()

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._db, self.path)

    def _mend(self) -> AbstractContextManager[None]:
        return mended(self.path)

    def _restore_hint(self) -> str:
        return restore_hint(self.path)

    @property
    def backup_path(self) -> Path:
        return backup_of(self.path)

    def back_up(self) -> None:
        """Leave a whole copy beside the ledger (a few milliseconds; the file holds no checkpoints)."""
        with self._mend():
            temporary = self.backup_path.with_suffix(".new")
            temporary.unlink(missing_ok=True)
            with closing(sqlite3.connect(temporary)) as copy:
                self._db.backup(copy)
            temporary.replace(self.backup_path)

    # -- sessions ---------------------------------------------------------------------------------------------------

    def add_session(self, session: Session) -> None:
        row = asdict(session)
        for name in ("hashes", "settings", "machine", "author"):
            row[name] = json.dumps(row[name], default=str)
        with self._transaction() as db:
            names = ", ".join(row)
            marks = ", ".join(f":{name}" for name in row)
            db.execute(f"INSERT INTO sessions ({names}) VALUES ({marks})", row)

    def session(self, tag: str) -> Session | None:
        row = self._one("SELECT * FROM sessions WHERE tag = ?", tag)
        return _session(row) if row else None

    def sessions(self) -> list[Session]:
        """Oldest first."""
        return [_session(row) for row in self._all("SELECT * FROM sessions ORDER BY created_at, tag")]

    def add_event(self, tag: str, what: str) -> None:
        """Something worth telling that is neither a trial nor a verdict: a resume, a leftover found, a stop."""
        with self._transaction() as db:
            db.execute("INSERT INTO events (at, tag, what) VALUES (?, ?, ?)", (now(), tag, what))

    def events(self, tag: str) -> list[tuple[str, str]]:
        return [(row["at"], row["what"]) for row in self._all("SELECT * FROM events WHERE tag = ? ORDER BY id", tag)]

    # -- experiments ------------------------------------------------------------------------------------------------

    def propose(
        self, tag: str, number: int, incumbent: str, proposal: Proposal, *, commit: str | None = None
    ) -> Experiment:
        """Record an idea. The baseline (number 0) is a commit already and starts as COMMITTED."""
        state = State.PROPOSED if commit is None else State.COMMITTED
        with self._transaction() as db:
            db.execute(
                "INSERT INTO experiments (tag, number, state, incumbent, proposer, description, files, details,"
                " commit_hash, proposed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    tag,
                    number,
                    state,
                    incumbent,
                    proposal.proposer,
                    proposal.description,
                    json.dumps(proposal.files),
                    json.dumps(proposal.details, default=str),
                    commit,
                    now(),
                ),
            )
        return self.experiment(tag, number)

    def committed(self, tag: str, number: int, commit: str) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE experiments SET state = ?, commit_hash = ? WHERE tag = ? AND number = ? AND state = ?",
                (State.COMMITTED, commit, tag, number, State.PROPOSED),
            )

    def judged(self, tag: str, number: int, verdict: Verdict) -> None:
        """Record the verdict, before git moves. A second call changes nothing."""
        with self._transaction() as db:
            db.execute(
                "UPDATE experiments SET state = ?, status = ?, verdict = ?, judged_at = ?, judged_order ="
                " (SELECT coalesce(max(judged_order), 0) + 1 FROM experiments) WHERE tag = ? AND number = ? AND status IS NULL",
                (State.JUDGED, verdict.status, json.dumps(asdict(verdict)), now(), tag, number),
            )

    def settled(self, tag: str, number: int) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE experiments SET state = ? WHERE tag = ? AND number = ? AND state = ?",
                (State.SETTLED, tag, number, State.JUDGED),
            )

    def experiment(self, tag: str, number: int) -> Experiment:
        row = self._one("SELECT * FROM experiments WHERE tag = ? AND number = ?", tag, number)
        if row is None:
            raise LedgerError(f"session {tag} has no experiment {number}", hint=f"autoresearch history {tag}")
        return _experiment(row)

    def experiments(self, tag: str) -> list[Experiment]:
        """In order of their numbers."""
        return [_experiment(row) for row in self._all("SELECT * FROM experiments WHERE tag = ? ORDER BY number", tag)]

    def judged_experiments(self) -> list[Experiment]:
        """Of every session, in the order of their verdicts."""
        query = "SELECT * FROM experiments WHERE judged_order IS NOT NULL ORDER BY judged_order"
        return [_experiment(row) for row in self._all(query)]

    # -- trials -----------------------------------------------------------------------------------------------------

    def start_trial(
        self, tag: str, number: int, commit: str, purpose: Purpose, seed: int, part: Slice, fingerprint: str
    ) -> int:
        """Record that a trial is about to run; returns its id."""
        with self._transaction() as db:
            cursor = db.execute(
                "INSERT INTO trials (tag, number, commit_hash, purpose, seed, slice, fingerprint, state, started_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 'running', ?)",
                (tag, number, commit, purpose, seed, part, fingerprint, now()),
            )
            return int(cursor.lastrowid or 0)

    def trial_process(self, trial_id: int, pid: int, created_at: float) -> None:
        """Which process runs it: the next start ends that one if a kill left it alive."""
        with self._transaction() as db:
            db.execute("UPDATE trials SET pid = ?, pid_created_at = ? WHERE id = ?", (pid, created_at, trial_id))

    def end_trial(self, trial_id: int, trial: Trial, log: str) -> None:
        packed = zlib.compress(log.encode())
        with self._transaction() as db:
            db.execute(
                "UPDATE trials SET state = 'done', result = ?, log = ?, ended_at = ? WHERE id = ? AND state = 'running'",
                (json.dumps(asdict(trial)), packed, now(), trial_id),
            )

    def trials(self, tag: str | None = None, number: int | None = None) -> list[TrialRow]:
        """In order of their start; of one session or experiment where given."""
        query = f"SELECT {_TRIAL_COLUMNS} FROM trials WHERE (?1 IS NULL OR tag = ?1) AND (?2 IS NULL OR number = ?2) ORDER BY id"
        return [_trial_row(row) for row in self._all(query, tag, number)]

    def running_trials(self, tag: str) -> list[TrialRow]:
        query = f"SELECT {_TRIAL_COLUMNS} FROM trials WHERE tag = ? AND state = 'running' ORDER BY id"
        return [_trial_row(row) for row in self._all(query, tag)]

    def trial_log(self, trial_id: int) -> str:
        row = self._one("SELECT log FROM trials WHERE id = ?", trial_id)
        return zlib.decompress(row["log"]).decode(errors="replace") if row and row["log"] else ""

    def score_groups(self, fingerprint: str) -> list[list[float]]:
        """Undisturbed scores of each session's commits on each slice: what noise is pooled from."""
        groups: dict[tuple[str, str, str], list[float]] = {}
        query = f"SELECT {_TRIAL_COLUMNS} FROM trials WHERE fingerprint = ? AND state = 'done' ORDER BY id"
        for row in map(_trial_row, self._all(query, fingerprint)):
            if row.trial and row.trial.score is not None and not row.trial.disturbed:
                groups.setdefault((row.tag, row.commit_hash, row.slice), []).append(row.trial.score)
        return list(groups.values())

    def check(self) -> str:
        """SQLite's own integrity check: "ok", or what is wrong."""
        with self._mend():
            return str(self._db.execute("PRAGMA integrity_check").fetchone()[0])

    def _one(self, query: str, *values: Any) -> sqlite3.Row | None:
        with self._mend():
            row: sqlite3.Row | None = self._db.execute(query, values).fetchone()
            return row

    def _all(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._mend():
            return self._db.execute(query, values).fetchall()


_TRIAL_COLUMNS = "id, tag, number, commit_hash, purpose, seed, slice, fingerprint, state, pid, pid_created_at, result, started_at, ended_at"


def _session(row: sqlite3.Row) -> Session:
    values = dict(row)
    for name in ("hashes", "settings", "machine", "author"):
        values[name] = json.loads(values[name])
    return Session(**values)


def _experiment(row: sqlite3.Row) -> Experiment:
    verdict = None
    if row["verdict"]:
        stored = json.loads(row["verdict"])
        interval = tuple(stored["interval"]) if stored["interval"] else None
        status = Status(stored["status"]) if stored["status"] else None
        verdict = replace(Verdict(**stored), status=status, interval=interval)
    return Experiment(
        tag=row["tag"],
        number=row["number"],
        state=State(row["state"]),
        incumbent=row["incumbent"],
        proposal=Proposal(row["description"], json.loads(row["files"]), row["proposer"], json.loads(row["details"])),
        commit_hash=row["commit_hash"],
        status=Status(row["status"]) if row["status"] else None,
        verdict=verdict,
        proposed_at=row["proposed_at"],
        judged_at=row["judged_at"],
        judged_order=row["judged_order"],
    )


def _pair(value: list[float] | None) -> tuple[float, float] | None:
    return (value[0], value[1]) if value else None


def _trial_row(row: sqlite3.Row) -> TrialRow:
    trial = None
    if row["result"]:
        stored = json.loads(row["result"])
        known = {f.name for f in fields(Trial)}
        trial = Trial(**{name: value for name, value in stored.items() if name in known})
        trial = replace(
            trial,
            outcome=Outcome(trial.outcome),
            slice=Slice(trial.slice),
            examined=Examination(trial.examined),
            leak_interval_bpb=_pair(stored.get("leak_interval_bpb")),
            preparation_limits=_pair(stored.get("preparation_limits")),
        )
    return TrialRow(
        id=row["id"],
        tag=row["tag"],
        number=row["number"],
        commit_hash=row["commit_hash"],
        purpose=Purpose(row["purpose"]),
        seed=row["seed"],
        slice=Slice(row["slice"]),
        fingerprint=row["fingerprint"],
        trial=trial,
        pid=row["pid"],
        pid_created_at=row["pid_created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
    )
