"""The book of calls to language models, in the ledger's file: what was asked, which model answered, what it cost.

A row is written before a call is made, at the worst that the call can cost. A kill leaves it there, so that what may have
been spent is never forgotten; `end` replaces it by what was measured.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from autoresearch.hostile_text import one_line
from autoresearch.records.database import connect, mended, transaction
from autoresearch.records.ledger import now

_WHY_LIMIT = 400  # characters
REPLAY = "replay"  # provider of answers out of the record: their tokens were paid for once
_LARGEST = 2**53  # a token count beyond it is a provider's nonsense, and not exact in JSON readers

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    id INTEGER PRIMARY KEY,
    tag TEXT NOT NULL,
    number INTEGER NOT NULL,         -- experiment it serves
    purpose TEXT NOT NULL,           -- operator that asked
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    state TEXT NOT NULL,             -- begun, answered, failed, unusable
    why TEXT NOT NULL,               -- why it failed or could not be used
    request_sha256 TEXT,
    reply_sha256 TEXT,
    input_tokens INTEGER NOT NULL,   -- cached ones included; while begun: estimated
    output_tokens INTEGER NOT NULL,  -- reasoning included; while begun: the most that may come
    cached_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    estimated INTEGER NOT NULL,      -- 1: the provider did not say
    usd REAL,                        -- NULL: no price is known; while begun: the worst
    worst_usd REAL,
    worst_tokens INTEGER NOT NULL,
    seconds REAL,
    started_at TEXT NOT NULL,
    ended_at TEXT
) STRICT
"""
_INDEX = "CREATE INDEX IF NOT EXISTS calls_of ON calls(tag, number)"


class CallState(StrEnum):
    """How far a call has come, and how it ended."""

    BEGUN = "begun"
    ANSWERED = "answered"
    FAILED = "failed"
    UNUSABLE = "unusable"


@dataclass(frozen=True)
class Call:
    """One row. Token counts and usd of a begun call are its worst case."""

    id: int
    tag: str
    number: int
    purpose: str
    provider: str
    model: str
    state: CallState
    why: str
    request_sha256: str | None
    reply_sha256: str | None
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    estimated: bool
    usd: float | None
    worst_usd: float | None
    worst_tokens: int
    seconds: float | None
    started_at: str
    ended_at: str | None


@dataclass(frozen=True)
class Spending:
    """Sums over calls. `usd_is_partial`: the price of some of them is not known. Replayed calls count, their tokens do not."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    usd_is_partial: bool = False

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class Cost:
    """What one call took, for `end`. usd is None where no price is known."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    usd: float | None = 0.0


class CallBook:
    """Read and write the book. Every method that writes is one transaction.

    Raises (every method):
        LedgerError: as the ledger's own.
    """

    def __init__(self, ledger_path: Path) -> None:
        self.path = ledger_path
        self._db = connect(ledger_path)
        try:
            with transaction(self._db, self.path) as db:
                db.execute(_SCHEMA)
                db.execute(_INDEX)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def begin(
        self,
        tag: str,
        number: int,
        purpose: str,
        provider: str,
        model: str,
        *,
        request_sha256: str,
        input_tokens: int,
        most_output_tokens: int,
        worst_usd: float | None,
    ) -> int:
        """A call is about to be made; returns its id. `input_tokens` is an estimate; worst_usd None: no price is known."""
        return self._insert(
            tag=tag,
            number=number,
            purpose=purpose,
            provider=provider,
            model=model,
            state=CallState.BEGUN,
            request_sha256=request_sha256,
            cost=Cost(input_tokens, most_output_tokens, estimated=True, usd=worst_usd),
        )

    def end(
        self,
        call_id: int,
        state: CallState,
        *,
        cost: Cost | None,
        seconds: float,
        why: str = "",
        reply_sha256: str = "",
    ) -> None:
        """What became of it. cost None: nobody can say, the worst case stays. A second call changes nothing."""
        values: dict[str, Any] = {
            "id": call_id,
            "state": state,
            "why": one_line(why, _WHY_LIMIT),
            "reply": reply_sha256 or None,
            "seconds": seconds,
            "at": now(),
        }
        costs = ""
        if cost is not None:
            values |= _columns_of(cost)
            costs = "".join(f", {name} = :{name}" for name in _columns_of(cost))
        with transaction(self._db, self.path) as db:
            db.execute(
                "UPDATE calls SET state = :state, why = :why, reply_sha256 = :reply, seconds = :seconds, ended_at = :at"
                f"{costs} WHERE id = :id AND state = 'begun'",
                values,
            )

    def mark_unusable(self, call_id: int, why: str) -> None:
        """The answer came and was paid for, and cannot be used."""
        with transaction(self._db, self.path) as db:
            db.execute(
                "UPDATE calls SET state = 'unusable', why = ? WHERE id = ? AND state = 'answered'",
                (one_line(why, _WHY_LIMIT), call_id),
            )

    def add_external(
        self,
        tag: str,
        number: int,
        purpose: str,
        provider: str,
        model: str,
        *,
        cost: Cost,
        seconds: float,
        why: str = "",
    ) -> int:
        """What a coding agent says that it spent on its own calls; returns the id of the row."""
        call_id = self._insert(
            tag=tag,
            number=number,
            purpose=purpose,
            provider=provider,
            model=model,
            state=CallState.BEGUN,
            request_sha256=None,
            cost=cost,
        )
        self.end(call_id, CallState.FAILED if why else CallState.ANSWERED, cost=cost, seconds=seconds, why=why)
        return call_id

    def of(self, tag: str, number: int | None = None) -> list[Call]:
        """Calls of a session, or of one experiment of it, in their order."""
        query = "SELECT * FROM calls WHERE tag = ?1 AND (?2 IS NULL OR number = ?2) ORDER BY id"
        with mended(self.path):
            return [_call(row) for row in self._db.execute(query, (tag, number)).fetchall()]

    def totals(self, tag: str, number: int | None = None) -> Spending:
        """What a session, or one experiment of it, has spent; a call that never ended at its worst case."""
        query = (
            "SELECT count(*) AS calls, total(input_tokens * (provider <> ?3)) AS input,"
            " total(output_tokens * (provider <> ?3)) AS output, total(usd) AS usd, total(usd IS NULL) AS unknown"
            " FROM calls WHERE tag = ?1 AND (?2 IS NULL OR number = ?2)"
        )
        with mended(self.path):
            row = self._db.execute(query, (tag, number, REPLAY)).fetchone()
        return Spending(row["calls"], int(row["input"]), int(row["output"]), row["usd"], row["unknown"] > 0)

    def usd_by_experiment(self) -> dict[tuple[str, int], float]:
        """What each experiment has cost where prices are known, by session and number; without a call it is not in it."""
        with mended(self.path):
            rows = self._db.execute("SELECT tag, number, total(usd) AS usd FROM calls GROUP BY tag, number").fetchall()
        return {(row["tag"], row["number"]): row["usd"] for row in rows}

    def _insert(self, *, cost: Cost, state: CallState, **texts: Any) -> int:
        values = {
            **texts,
            **_columns_of(cost),
            "state": state,
            "why": "",
            "worst_usd": cost.usd,
            "worst_tokens": min(cost.input_tokens + cost.output_tokens, _LARGEST),
            "started_at": now(),
        }
        names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        with transaction(self._db, self.path) as db:
            return int(db.execute(f"INSERT INTO calls ({names}) VALUES ({marks})", values).lastrowid or 0)


def _columns_of(cost: Cost) -> dict[str, Any]:
    names = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
    counts = {name: max(0, min(getattr(cost, name), _LARGEST)) for name in names}
    return {**counts, "estimated": int(cost.estimated), "usd": cost.usd}


def _call(row: sqlite3.Row) -> Call:
    values = dict(row)
    return Call(**{**values, "state": CallState(values["state"]), "estimated": bool(values["estimated"])})
