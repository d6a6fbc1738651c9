"""logs/<tag>/<number>/: one experiment, whole. Written from ledger, git and the checkpoint store, again at any time."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from autoresearch.files import disk_error, write_whole
from autoresearch.hostile_text import json_text, well_formed
from autoresearch.records.ledger import Experiment, Ledger, Session
from autoresearch.records.tables import rows_of
from autoresearch.vocabulary import Status

_SOURCE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.py")


def store_checkpoint(checkpoints_dir: Path, weights: bytes) -> str:
    """Keep weights under their sha256, out of reach of a git clean; returns the hash.

    Raises:
        DiskError: the disk is full.
    """
    digest = hashlib.sha256(weights).hexdigest()
    path = checkpoints_dir / f"{digest}.safetensors"
    if not path.exists():
        write_whole(path, weights)
    return digest


def store_tokenizer(checkpoints_dir: Path, table: str) -> None:
    """Keep a tokenizer's JSON beside the weights that were trained with it, under its sha256.

    Raises:
        DiskError: the disk is full.
    """
    path = checkpoints_dir / tokenizer_name(hashlib.sha256(table.encode()).hexdigest())
    if not path.exists():
        write_whole(path, table)


def tokenizer_name(sha256: str) -> str:
    """The file name of `store_tokenizer`."""
    return f"{sha256}.tokenizer.json"


def write_snapshot(
    folder: Path, ledger: Ledger, session: Session, experiment: Experiment, *, diff: str, checkpoints_dir: Path
) -> None:
    """Write every file of one experiment's snapshot that is missing or stale.

    Raises:
        DiskError: the disk is full or the folder is read-only.
    """
    trials = ledger.trials(session.tag, experiment.number)
    for path, text in experiment.proposal.files.items():
        name = PurePosixPath(path).name
        if _SOURCE_NAME.fullmatch(name):  # nothing else can be the edited file; the ledger has it all the same
            write_whole(folder / name, well_formed(text))
    write_whole(folder / "diff.patch", diff)
    _write_json(folder / "settings.json", {"settings": session.settings, "machine": session.machine})
    contract = {"preset": session.preset, "fingerprint": session.fingerprint, **session.hashes}
    _write_json(folder / "fingerprint.json", contract)
    own = [row for row in trials if row.commit_hash == experiment.commit_hash]
    for count, row in enumerate(own, start=1):
        name = "run.log" if count == 1 else f"run.{count}.log"
        write_whole(folder / name, ledger.trial_log(row.id))
    metrics = {
        "tag": session.tag,
        "experiment": experiment.number,
        "commit": experiment.commit_hash,
        "incumbent": experiment.incumbent,
        "description": experiment.proposal.description,
        "proposer": experiment.proposal.proposer,
        "status": experiment.status,
        "verdict": asdict(experiment.verdict) if experiment.verdict else None,
        "row": asdict(rows_of(ledger, [experiment])[0]) if experiment.status else None,
        "trials": [asdict(row) for row in trials],
    }
    _write_json(folder / "metrics.json", metrics)
    if experiment.status is Status.KEEP:
        kept = [row.trial for row in own if row.trial]
        weights = [checkpoints_dir / f"{trial.weights_sha256}.safetensors" for trial in kept if trial.weights_sha256]
        _link_newest(folder / "checkpoint.safetensors", weights)
        tables = [trial.tokenizer_sha256 or session.hashes.get("tokenizer", "") for trial in kept]
        _link_newest(folder / "tokenizer.json", [checkpoints_dir / tokenizer_name(digest) for digest in tables])


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json_text(value, indent=2, exact=True) + "\n")


def _link_newest(target: Path, candidates: list[Path]) -> None:
    """The last of these files that is there, under a second name: a hard link where the file system can, else a copy."""
    stored = [path for path in candidates if path.is_file()]
    if not stored:
        return
    fresh = target.with_name(f".{target.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        try:
            os.link(stored[-1], fresh)
        except OSError:
            shutil.copyfile(stored[-1], fresh)  # another file system, or one without links
        fresh.replace(target)
        fresh.unlink(missing_ok=True)  # renaming one link of a file onto another does nothing
    except OSError as error:
        raise disk_error(error, target) from error
