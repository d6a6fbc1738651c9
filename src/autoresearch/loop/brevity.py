"""Less code for the same score: what an edit leaves out, and what the session has paid for such edits so far."""

from __future__ import annotations

from collections.abc import Sequence

from autoresearch.loop.program_files import files_at, files_of
from autoresearch.loop.verdict import Brevity, cost_of
from autoresearch.proposers.novelty import num_code_lines
from autoresearch.records.ledger import Experiment, Session
from autoresearch.workspace import Workspace


def brevity_of(workspace: Workspace, session: Session, who: Experiment, judged: Sequence[Experiment]) -> Brevity:
    """What the verdict on an experiment has to know of its length. judged: the session's experiments.

    Raises:
        UsageError, WorkspaceError: as `files_at` does.
    """
    before, after = files_at(workspace, session, who.incumbent), files_of(workspace, session, who)
    costs = [cost_of(found.verdict) for found in judged if found.verdict]
    return Brevity(max(0, num_code_lines(before) - num_code_lines(after)), sum(costs))
