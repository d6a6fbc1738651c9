"""A run of several phases, each carried out once: what is finished is known by what it was made from and what it left.

What a phase does comes from the roof. Its place in a run, its record and whether it is due are here. A phase is done when its
last row says so, when that row was made from the same settings and the same files as now, and when what it left is still
there, byte for byte. So a kill at any instruction costs at most the phase that it hit.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from autoresearch.contract.file_facts import file_sha256
from autoresearch.files import disk_error, sweep_temporaries, write_json
from autoresearch.hostile_text import one_line, well_formed
from autoresearch.records.ledger import Ledger, now
from autoresearch.records.phases import FORMAT_VERSION, PhaseBook, PhaseRow, PhaseState, phase_path, write_phase
from autoresearch.records.tables import write_log
from autoresearch.vocabulary import AutoresearchError, LedgerError
from autoresearch.workspace import Workspace

_MOST_TEXT = 20_000  # characters of a phase's words that the record keeps: a table of 100 lines


@dataclass(frozen=True)
class Phase:
    """One phase. `work` does it in this process and returns its exit code; what it prints is its text in the record.

    status: name of the status file that says how far it is, "" for none. settings: what its result depends on besides files.
    made_from: phases whose outputs it reads. outputs: files or folders below logs/TAG that it leaves; none may be missing.
    """

    name: str
    work: Callable[[], int]
    status: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    made_from: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


class PhaseFailed(AutoresearchError):
    """A phase ended without its result; the phases before it stand."""


class PhaseRun:
    """One run of phases, its record, and its folder logs/TAG."""

    def __init__(self, workspace: Workspace, ledger: Ledger, tag: str, phases: Sequence[Phase]) -> None:
        self.workspace = workspace
        self.ledger = ledger
        self.tag = tag
        self.phases = tuple(phases)
        self.folder = workspace.session_dir(tag)
        self.book = PhaseBook(ledger)

    def phase(self, name: str) -> Phase:
        """The phase of that name."""
        return next(phase for phase in self.phases if phase.name == name)

    def made_from(self, phase: Phase) -> str:
        """sha256 in hex of what a phase is made from: its settings, and what the phases before it left."""
        before: dict[str, Any] = {}
        for name in phase.made_from:
            row = self.book.last(self.tag, name)
            before[name] = row.result.get("outputs") if row else None
        body = {"phase": phase.name, "settings": dict(phase.settings), "before": before}
        return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()

    def is_done(self, phase: Phase) -> bool:
        """Whether it need not be run: it ended well, from the same, and what it left is there."""
        row = self.book.last(self.tag, phase.name)
        if row is None or row.state is not PhaseState.DONE or row.made_from != self.made_from(phase):
            return False
        outputs: dict[str, str] = row.result["outputs"]
        return all(
            (path := self.folder / name).is_file() and _sha256(path) == digest for name, digest in outputs.items()
        )

    def due(self) -> list[Phase]:
        """The phases that are to be run now: the first that is not done, and all after it."""
        for place, phase in enumerate(self.phases):
            if not self.is_done(phase):
                return list(self.phases[place:])
        return []

    def write_again(self) -> None:
        """Bring the files that are written from the record up to it.

        Raises:
            DiskError: one could not be written.
        """
        if self.folder.is_dir():
            sweep_temporaries(self.folder)
        for phase in self.phases:
            if (row := self.book.last(self.tag, phase.name)) is not None:
                write_phase(self.folder, row)
        write_log(self.ledger, self.workspace.log_path)

    def carry_out(self, phase: Phase, echo: TextIO) -> PhaseRow:
        """Do the phase here and now, and record how it ended. What it prints goes to `echo` too.

        Raises:
            PhaseFailed: it ended without its result; that is recorded. Other exceptions fly, unrecorded.
        """
        self._say_running(phase)
        began = time.monotonic()
        made_from = self.made_from(phase)
        said = _Said(echo)
        try:
            with contextlib.redirect_stdout(said):
                code = phase.work()
            if code:
                raise PhaseFailed(f"{phase.name} ended with exit code {code}")
            outputs = self._outputs_of(phase)
        except LedgerError:
            raise  # nothing can be recorded then
        except AutoresearchError as error:
            self.failed(phase, error.message, error.hint, time.monotonic() - began, said.text())
            raise PhaseFailed(error.message, hint=error.hint or self.resume_hint()) from error
        result = {"text": said.text(), "outputs": outputs}
        row = self.book.end(self.tag, phase.name, PhaseState.DONE, made_from, result, time.monotonic() - began)
        self.write_again()
        return row

    def failed(self, phase: Phase, why: str, hint: str, seconds: float, text: str = "") -> PhaseRow:
        """Record that a phase ended without its result."""
        result = {"error": one_line(why, 600), "next": hint or self.resume_hint(), "text": text, "outputs": {}}
        row = self.book.end(self.tag, phase.name, PhaseState.FAILED, self.made_from(phase), result, seconds)
        self.write_again()
        return row

    def resume_hint(self) -> str:
        """What goes on with this run."""
        return f"autoresearch experiment {self.tag} --resume"

    def _say_running(self, phase: Phase) -> None:
        """A JSON that says `running` in place of an earlier result, so that a stale one is never read."""
        head = {"format_version": FORMAT_VERSION, "tag": self.tag, "phase": phase.name, "state": "running"}
        write_json(phase_path(self.folder, phase.name), {**head, "started_at": now()})

    def _outputs_of(self, phase: Phase) -> dict[str, str]:
        """sha256 by path below the folder of every file that the phase left.

        Raises:
            PhaseFailed: one that it should leave is missing, or an empty folder.
        """
        found: dict[str, str] = {}
        for name in phase.outputs:
            path = self.folder / name
            files = sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]
            if not files or not all(file.is_file() for file in files):
                raise PhaseFailed(f"{phase.name} left no {name}", hint=self.resume_hint())
            found |= {file.relative_to(self.folder).as_posix(): _sha256(file) for file in files}
        return found


class _Said(io.StringIO):
    """Standard output of a phase: passed on as it comes, its end kept."""

    def __init__(self, echo: TextIO) -> None:
        super().__init__()
        self._echo = echo
        self._kept = ""

    def write(self, text: str) -> int:
        self._kept = (self._kept + text)[-_MOST_TEXT:]
        self._echo.write(text)
        return len(text)

    def flush(self) -> None:
        self._echo.flush()

    def text(self) -> str:
        """The end of what was printed, as text that any file can hold."""
        return well_formed(self._kept)


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise disk_error(error, path) from error
