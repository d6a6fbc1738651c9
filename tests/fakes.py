"""Experiment files that need no torch and run in a fraction of a second."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "experiments"


def fake_experiment(name: str = "counting") -> str:
    """Text of one of them."""
    return (_FOLDER / f"{name}.py").read_text(encoding="utf-8")
