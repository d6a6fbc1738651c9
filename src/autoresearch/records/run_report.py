"""What one run leaves for machines: data/last_run.json, data/run_*.json, and the status files. docs/records.md has the schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from autoresearch.files import write_whole
from autoresearch.hostile_text import json_text, one_line
from autoresearch.records.ledger import Session, now
from autoresearch.vocabulary import Trial

FORMAT_VERSION = "1"
_MAX_STATUS_BYTES = 64 * 1024  # ours have 300
_VERSIONS_OF = ("autoresearch", "torch", "numpy", "tiktoken", "rustbpe", "optuna")


@dataclass(frozen=True)
class RunIdentity:
    """Which run this is: joins the JSON with its row in the tables."""

    session: Session
    experiment: int
    trial_id: int
    commit: str
    description: str
    purpose: str
    seed: int
    slice: str
    started_at: str
    hyperparameters: Mapping[str, Any]


def run_json(identity: RunIdentity, trial: Trial | None) -> dict[str, Any]:
    """The run as JSON values. Without a trial it is marked running, so that a stale score is never read from it."""
    session = identity.session
    report: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "run_id": f"{session.tag}/{identity.experiment}/{identity.trial_id}",
        "status": "running" if trial is None else str(trial.outcome),
        "tag": session.tag,
        "program": session.program,
        "experiment": identity.experiment,
        "commit": identity.commit,
        "description": one_line(identity.description),
        "purpose": identity.purpose,
        "seed": identity.seed,
        "slice": identity.slice,
        "started_at": identity.started_at,
        "ended_at": None if trial is None else now(),
        "contract": {"preset": session.preset, "fingerprint": session.fingerprint, **session.hashes},
        "hardware": session.machine,
        "versions": _versions(),
        "hyperparameters": dict(identity.hyperparameters),
        "result": {"val_bpb": None},
    }
    if trial is not None:
        measured = asdict(trial)
        measured["seconds_outside_budget"] = trial.total_seconds - trial.training_seconds
        for name in ("outcome", "seed", "slice", "log_tail"):
            del measured[name]
        report["result"] = {"val_bpb": measured.pop("val_bpb"), "reason": measured.pop("reason")}
        report["training"] = measured
    return report


def _versions() -> dict[str, str | None]:
    return {name: _version(name) for name in _VERSIONS_OF}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def write_run(data_dir: Path, report: Mapping[str, Any]) -> None:
    """Replace last_run.json; a finished run also gets its own run_YYYYMMDD_HHMMSS.json (UTC)."""
    text = json_text(report, indent=2, exact=True) + "\n"
    write_whole(data_dir / "last_run.json", text)
    if report["status"] == "running":
        return
    stamp = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    path = data_dir / f"run_{stamp}.json"
    count = 1
    while path.exists():
        count += 1
        path = data_dir / f"run_{stamp}_{count}.json"
    write_whole(path, text)


def status_text(values: Mapping[str, Any]) -> str:
    """key=value lines. Always phase, progress (0..1), updated_at (UTC, ISO 8601), pid and message."""
    return "".join(f"{key}={_status_value(value)}\n" for key, value in values.items())


def _status_value(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return one_line(str(value), 300)


def write_status(paths: list[Path], values: Mapping[str, Any]) -> None:
    """Replace each status file atomically."""
    text = status_text(values)
    for path in paths:
        write_whole(path, text)


def read_status(path: Path) -> dict[str, str]:
    """The key=value lines of a status file; empty when there is none. Anybody may have written into it."""
    if not path.is_file():
        return {}
    with path.open("rb") as stream:
        lines = stream.read(_MAX_STATUS_BYTES).decode(errors="replace").split("\n")
    pairs = (one_line(line, 400).split("=", 1) for line in lines if "=" in line)
    return {pair[0]: pair[1] for pair in pairs}
