"""The files that make up a candidate: one of the model, both of a data recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from autoresearch.backends.hardware import experiment_file
from autoresearch.proposers.constants import read_constants
from autoresearch.records.ledger import Experiment, Session
from autoresearch.workspace import Workspace, surface_of


def names_in(session: Session) -> tuple[str, ...]:
    """Names of the files that a candidate of the session consists of, the one it is known by first."""
    return surface_of(session.program, session.entry)


def trained_file(session: Session) -> str:
    """The file that is trained: the one that research edits; in the data program the frozen one of the session's backend."""
    return session.entry if session.program == "model" else experiment_file(str(session.machine.get("backend", "")))


def by_hand_command(session: Session) -> str:
    """How a person runs what the session edits, unsealed, to see where it fails."""
    trained = trained_file(session)
    return f"python prepare.py && python {trained}" if session.program == "data" else f"autoresearch train {trained}"


def files_at(workspace: Workspace, session: Session, commit: str) -> dict[str, str]:
    """Their texts at a commit, in that order.

    Raises:
        UsageError: one is not there. WorkspaceError: one is there and cannot be read.
    """
    return {name: workspace.read_surface(commit, name) for name in names_in(session)}


def files_of(workspace: Workspace, session: Session, experiment: Experiment) -> dict[str, str]:
    """The files of an experiment's program: those it proposed, the others as its commit has them.

    One that was refused before it had a commit has what it proposed and no more.

    Raises:
        UsageError, WorkspaceError: as `files_at` does.
    """
    proposed, commit = experiment.proposal.files, experiment.commit_hash
    if commit is None:
        return dict(proposed)
    return {
        name: proposed[name] if name in proposed else workspace.read_surface(commit, name) for name in names_in(session)
    }


def hyperparameters_of(files: Mapping[str, str], preset: str) -> dict[str, Any]:
    """The UPPER_CASE literals in force in these files; of one that does not parse there are none: its trial says so."""
    values: dict[str, Any] = {}
    for source in files.values():
        with contextlib.suppress(SyntaxError):
            found = read_constants(source, preset)
            values |= {name: literal.value for name, literal in found.literals.items()}
    return values
