"""What one session writes into its workspace besides the ledger: tables, snapshots, status files, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoresearch.files import sweep_temporaries
from autoresearch.loop.orders import Arena, TrialRun
from autoresearch.records.ledger import Experiment, Ledger, Session
from autoresearch.records.run_report import write_status
from autoresearch.records.snapshots import store_checkpoint, store_tokenizer, tokenizer_name, write_snapshot
from autoresearch.records.tables import write_tables
from autoresearch.vocabulary import Status
from autoresearch.workspace import Workspace


class SessionRecords:
    """Everything here is written from the ledger, git and the checkpoint store, and may be written again at any time.

    Raises (every method):
        DiskError: the disk is full or the workspace cannot be written; the ledger is unharmed.
    """

    def __init__(self, workspace: Workspace, ledger: Ledger, session: Session) -> None:
        self._workspace = workspace
        self._ledger = ledger
        self._session = session
        self._tag = session.tag

    def write_tables(self) -> None:
        """results.tsv (root and the session's own), results_history.tsv and EXPERIMENT_LOG.md."""
        results = [self._workspace.results_path, self._workspace.session_dir(self._tag) / "results.tsv"]
        write_tables(
            self._ledger,
            self._tag,
            results=results,
            history_path=self._workspace.history_path,
            log_path=self._workspace.log_path,
        )

    def write_snapshot(self, experiment: Experiment) -> None:
        """logs/<tag>/<number>/ of one experiment."""
        diff = ""
        if experiment.commit_hash and experiment.commit_hash != experiment.incumbent:
            diff = self._workspace.repository.diff(experiment.incumbent, experiment.commit_hash)
        write_snapshot(
            self._workspace.snapshot_dir(self._tag, experiment.number),
            self._ledger,
            self._session,
            experiment,
            diff=diff,
            checkpoints_dir=self._workspace.checkpoints_dir(self._tag),
        )
        self.drop_checkpoints()

    def drop_checkpoints(self) -> None:
        """Keep checkpoints of incumbents and of the undecided only; what a kill left between two steps goes too."""
        wanted = {e.commit_hash for e in self._ledger.experiments(self._tag) if e.status in (Status.KEEP, None)}
        trials = [row for row in self._ledger.trials(self._tag) if row.trial and row.commit_hash in wanted]
        kept = {f"{row.trial.weights_sha256}.safetensors" for row in trials if row.trial}
        used = {row.trial.tokenizer_sha256 for row in trials if row.trial} | {self._session.hashes.get("tokenizer", "")}
        kept |= {tokenizer_name(digest) for digest in used}
        folder = self._workspace.checkpoints_dir(self._tag)
        for path in folder.iterdir() if folder.is_dir() else []:
            if path.name not in kept:
                path.unlink()

    def keep_weights(self, weights: bytes, arena: Arena | TrialRun) -> None:
        """Store a candidate's weights until its verdict, and the tokenizer of the arena that it was trained in."""
        folder = self._workspace.checkpoints_dir(self._tag)
        if isinstance(arena, Arena):
            store_tokenizer(folder, arena.prepared.tokenizer.to_json())
        store_checkpoint(folder, weights)

    def sweep(self) -> None:
        """Remove half-written files of killed processes, and checkpoints that no trial came to own."""
        session_dir = self._workspace.session_dir(self._tag)
        snapshots = [path for path in session_dir.iterdir() if path.is_dir()] if session_dir.is_dir() else []
        for folder in (self._workspace.root, self._workspace.data_dir, session_dir, *snapshots):
            sweep_temporaries(folder)
        self.drop_checkpoints()

    def write_status(self, name: str, values: Mapping[str, Any]) -> None:
        """One status file at the workspace's root and the session's own copy."""
        write_status([self._workspace.status_path(name), self._workspace.status_path(name, self._tag)], values)
