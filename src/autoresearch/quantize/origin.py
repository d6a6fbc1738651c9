"""Where a checkpoint comes from: which experiment of which session, under which contract, with which recorded score.

A snapshot folder logs/TAG/N/ says it in its own files, and so does the folder of a run by hand (`train --save`). Nothing in them
is trusted further than to be shown and compared.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch.vocabulary import Slice

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_PRESET = re.compile(r"[a-z]{1,20}")
_MAX_BYTES = 16 * 2**20  # a metrics.json with three trials has 10 kB


@dataclass(frozen=True)
class Origin:
    """What is known of a checkpoint's past; None where nothing is. val_bpb is the record's, of these very weights."""

    tag: str | None = None
    experiment: int | None = None
    commit: str | None = None
    preset: str | None = None
    val_bpb: float | None = None

    def __str__(self) -> str:
        return "" if self.tag is None else f"{self.tag} #{self.experiment}"


def origin_of(checkpoint: Path, weights_sha256: str) -> Origin:
    """The origin of a checkpoint file, or of the one in a folder; all None where the folder says nothing."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    metrics, contract = _read(folder / "metrics.json"), _read(folder / "fingerprint.json")
    tag, number, commit = metrics.get("tag"), metrics.get("experiment"), metrics.get("commit")
    preset = contract.get("preset", metrics.get("preset"))
    if not (isinstance(tag, str) and _TAG.fullmatch(tag) and isinstance(number, int)):
        score = metrics.get("val_bpb")
        return Origin(preset=_preset(preset), val_bpb=score if isinstance(score, float) else None)
    return Origin(
        tag=tag,
        experiment=number,
        commit=commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None,
        preset=_preset(preset),
        val_bpb=_score_of(metrics.get("trials"), weights_sha256),
    )


def _preset(value: Any) -> str | None:
    return value if isinstance(value, str) and _PRESET.fullmatch(value) else None


def _score_of(trials: Any, weights_sha256: str) -> float | None:
    """What the search slice gave the trial that left these weights."""
    for row in trials if isinstance(trials, list) else []:
        trial = row.get("trial") if isinstance(row, dict) else None
        if not isinstance(trial, dict) or trial.get("weights_sha256") != weights_sha256:
            continue
        found = trial.get("val_bpb")
        if trial.get("slice") == Slice.SEARCH and isinstance(found, float):
            return found
    return None


def _read(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is none, or it holds something else."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
