"""Past experiments for tests of proposers: what is not given does not matter there."""

from __future__ import annotations

from typing import Any

from autoresearch.proposers.situation import PastExperiment, Situation
from autoresearch.vocabulary import Outcome, Status

SOURCE = '''# Edited by the model program (program.md).
"""A small experiment."""
from prepare import PRESET, SEED

DEPTH = 8  # layers
MATRIX_LR = 0.04  # Muon
EMBEDDING_LR = 0.6
WEIGHT_DECAY = 0.2
ADAM_BETAS = (0.8, 0.95)

PRESET_OVERRIDES = {"tiny": {"DEPTH": 2}}
globals().update(PRESET_OVERRIDES.get(PRESET, {}))


def block(x):
    y = x * 2
    return y


def head(x):
    return x + 1


def main():
    print(head(block(3)))
'''


def past(
    number: int,
    status: Status | None = Status.DISCARD,
    *,
    text: str | None = None,
    operator: str | None = "improve",
    gain: float | None = None,
    details: dict[str, Any] | None = None,
    outcome: Outcome = Outcome.FINISHED,
    seconds: float = 10.0,
    base: int | None = 0,
    tag: str = "",
    **more: Any,
) -> PastExperiment:
    """One experiment; with an operator it is a model's."""
    said = {"operator": operator} if operator else {}
    return PastExperiment(
        number=number,
        description=more.pop("description", f"idea {number}"),
        files={"train.py": SOURCE + f"\n# {number}\nIDEA_{number} = 1\n" if text is None else text},
        details={**said, **(details or {})},
        status=status,
        val_bpb=None if status is Status.CRASH else 1.0,
        gain=gain,
        outcome=outcome,
        seconds=seconds,
        base=base,
        tag=tag,
        **more,
    )


def situation(*history: PastExperiment, incumbent: str = SOURCE, **more: Any) -> Situation:
    return Situation({"train.py": incumbent}, list(history), **more)
