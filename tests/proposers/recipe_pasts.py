"""Situations of the data program for tests: the project's own recipe, and experiments on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoresearch.proposers.situation import MachineFacts, PastExperiment, Situation
from autoresearch.vocabulary import Outcome, Status

ROOT = Path(__file__).resolve().parents[2]
SOURCES, PREPARE = "data_sources.py", "prepare.py"
RECIPE = {name: (ROOT / name).read_text(encoding="utf-8") for name in (SOURCES, PREPARE)}


def edited(file: str, old: str, new: str, files: dict[str, str] | None = None) -> dict[str, str]:
    """The recipe with one place of one file changed."""
    files = RECIPE if files is None else files
    assert files[file].count(old) == 1, old
    return {**files, file: files[file].replace(old, new)}


def tried(number: int, files: dict[str, str], status: Status | None = Status.DISCARD, **more: Any) -> PastExperiment:
    given = {
        "description": f"idea {number}", "details": {}, "val_bpb": 1.0, "gain": -0.005, "base": 0,
        "outcome": Outcome.FINISHED, **more,
    }  # fmt: skip
    return PastExperiment(number=number, files=files, status=status, **given)


def recipe_situation(*history: PastExperiment, incumbent: dict[str, str] | None = None, **more: Any) -> Situation:
    facts = {
        "program": "data", "baseline": RECIPE, "val_bpb": 1.9, "noise": 0.015,
        "machine": MachineFacts("cpu", budget="20 CPU seconds", preparation="120 seconds and 2 GB of disk"), **more,
    }  # fmt: skip
    return Situation(RECIPE if incumbent is None else incumbent, list(history), **facts)
