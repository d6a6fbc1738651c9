"""The book of `autoresearch experiment`, in the ledger's file: which phases of which run ended, how, and what they left.

A row is written when a phase has ended. What is written from it (logs/TAG/phase_NAME.json, EXPERIMENT_LOG.md) may be written again
at any time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from autoresearch.files import write_json
from autoresearch.hostile_text import json_text, markdown_block, markdown_inline
from autoresearch.records.database import connect, mended, transaction
from autoresearch.records.ledger import Ledger, now

FORMAT_VERSION = "1"
_MOST_LISTED = 12  # files of one folder in an entry of the log: a benchmark leaves a hundred cells

_SCHEMA = """
CREATE TABLE IF NOT EXISTS phases (
    id INTEGER PRIMARY KEY,
    tag TEXT NOT NULL,
    phase TEXT NOT NULL,             -- train, quantize, benchmark, convert, verify; empty: the run was begun
    state TEXT NOT NULL,             -- begun, done, failed
    made_from TEXT NOT NULL,         -- sha256 of its settings and of what the phases before it left
    result TEXT NOT NULL,            -- JSON
    num_verdicts INTEGER NOT NULL,   -- that stood in the ledger before it: its place in EXPERIMENT_LOG.md
    seconds REAL NOT NULL,
    ended_at TEXT NOT NULL
) STRICT
"""


class PhaseState(StrEnum):
    """What a row says."""

    BEGUN = "begun"  # of the run as a whole: its settings
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class PhaseRow:
    """One row. result, of a run that was begun: its settings; of a phase: `text` for people, `outputs` (sha256 by path below
    logs/TAG), and of a failed one `error` and `next`, the thing to type."""

    id: int
    tag: str
    phase: str
    state: PhaseState
    made_from: str
    result: dict[str, Any]
    num_verdicts: int
    seconds: float
    ended_at: str


class PhaseBook:
    """Read and write the rows. Opened after the ledger, which makes the file.

    Raises (every method):
        LedgerError: the file is damaged, the disk is full, or another process holds it too long.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.path = ledger.path
        self._db = connect(ledger.path)
        with transaction(self._db, self.path) as db:
            db.execute(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def begin(self, tag: str, settings: dict[str, Any]) -> None:
        """A run of that tag begins with these settings."""
        self._add(tag, "", PhaseState.BEGUN, "", settings, 0.0)

    def end(
        self, tag: str, phase: str, state: PhaseState, made_from: str, result: dict[str, Any], seconds: float
    ) -> PhaseRow:
        """A phase ended; the row as it stands now."""
        return self._add(tag, phase, state, made_from, result, seconds)

    def _add(
        self, tag: str, phase: str, state: PhaseState, made_from: str, result: dict[str, Any], seconds: float
    ) -> PhaseRow:
        with transaction(self._db, self.path) as db:
            cursor = db.execute(
                "INSERT INTO phases (tag, phase, state, made_from, result, num_verdicts, seconds, ended_at) VALUES"
                " (?, ?, ?, ?, ?, (SELECT count(*) FROM experiments WHERE judged_order IS NOT NULL), ?, ?)",
                (tag, phase, state, made_from, json_text(result, exact=True), seconds, now()),
            )
            row = db.execute("SELECT * FROM phases WHERE id = ?", (cursor.lastrowid,)).fetchone()
        return _row(row)

    def rows(self, tag: str | None = None) -> list[PhaseRow]:
        """In the order in which they were written; of one run where a tag is given."""
        with mended(self.path):
            found = self._db.execute(
                "SELECT * FROM phases WHERE (?1 IS NULL OR tag = ?1) ORDER BY id", (tag,)
            ).fetchall()
        return [_row(row) for row in found]

    def settings(self, tag: str) -> dict[str, Any] | None:
        """What the run was last begun or resumed with; None where there is no such run."""
        begun = [row for row in self.rows(tag) if row.state is PhaseState.BEGUN]
        return begun[-1].result if begun else None

    def newest_tag(self) -> str | None:
        """Of the run that was begun last."""
        begun = [row.tag for row in self.rows() if row.state is PhaseState.BEGUN]
        return begun[-1] if begun else None

    def last(self, tag: str, phase: str) -> PhaseRow | None:
        """How the phase ended when it was last run; None where it never ended."""
        found = [row for row in self.rows(tag) if row.phase == phase]
        return found[-1] if found else None


def _row(row: sqlite3.Row) -> PhaseRow:
    values = dict(row)
    values["state"] = PhaseState(values["state"])
    values["result"] = json.loads(values["result"])
    return PhaseRow(**values)


def phase_json(row: PhaseRow) -> dict[str, Any]:
    """logs/TAG/phase_NAME.json: docs/experiment.md has the keys."""
    return {
        "format_version": FORMAT_VERSION,
        "tag": row.tag,
        "phase": row.phase,
        "state": str(row.state),
        "made_from": row.made_from,
        "seconds": round(row.seconds, 3),
        "ended_at": row.ended_at,
        **row.result,
    }


def phase_path(folder: Path, phase: str) -> Path:
    """Where a phase's JSON lies."""
    return folder / f"phase_{phase}.json"


def write_phase(folder: Path, row: PhaseRow) -> None:
    """Write logs/TAG/phase_NAME.json.

    Raises:
        DiskError: the disk is full or the folder cannot be written.
    """
    write_json(phase_path(folder, row.phase), phase_json(row))


def phase_entry(row: PhaseRow) -> str:
    """One phase's entry of EXPERIMENT_LOG.md, its separator included; "" for the row that begins a run."""
    if row.state is PhaseState.BEGUN:
        return ""
    lines = [f"## {row.tag}: {row.phase}", "", f"**{row.state}** · {row.seconds:.0f} s, {row.ended_at}", ""]
    if row.state is PhaseState.FAILED:
        lines.append(f"- {markdown_inline(str(row.result.get('error', '')))}")
        lines.append(f"- next: {markdown_inline(str(row.result.get('next', '')))}")
    lines += _outputs(row.result.get("outputs", {}))
    if text := str(row.result.get("text", "")).strip("\n"):
        lines += ["", markdown_block(text)]
    return "\n".join(lines) + "\n\n---\n\n"


def _outputs(paths: Iterable[str]) -> list[str]:
    """A line per file; a folder of more files than that has one line for all of them."""
    lines = []
    for folder, inside in groupby(sorted(paths, key=lambda path: (_folder_of(path), path)), _folder_of):
        files = list(inside)
        many = len(files) > _MOST_LISTED
        lines += [f"- `{folder}/` ({len(files)} files)"] if many else [f"- `{path}`" for path in files]
    return lines


def _folder_of(path: str) -> PurePosixPath:
    return PurePosixPath(path).parent
