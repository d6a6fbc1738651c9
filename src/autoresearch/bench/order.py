"""What a measuring process is told, and what it may answer: JSON in both directions."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Task(StrEnum):
    """What one process measures."""

    WHOLE = "whole"  # the file's own training loop, from batch to batch, with nothing put in its way
    PARTS = "parts"  # the same step in pieces, with the device waited for between them; then the evaluation


class Mode(StrEnum):
    """Who decides whether the step is compiled."""

    OWN = "own"  # the file's settings_for, or the file
    EAGER = "eager"
    COMPILED = "compiled"


@dataclass(frozen=True)
class Order:
    """One process: which file, what of it, and for how long.

    The contract, its dataset and the number of CPU threads are in the environment, where the file finds them too.
    is_named: the file defines all of our names. spawned_at: seconds since the epoch when the process was
    started, by the process `parent`. rows, seq_len, micro_steps: batch and
    micro-steps that the file chose in its own loop; given to PARTS only. blas: a library to load before MLX's own, or "".
    """

    file: str
    sha256: str
    task: Task
    mode: Mode
    steps: int
    limit_seconds: float
    spawned_at: float
    is_named: bool
    parent: int
    rows: int = 0
    seq_len: int = 0
    micro_steps: int = 0
    blas: str = ""

    @property
    def patience(self) -> float:
        """Seconds of steps after which fewer samples are enough: half of the limit, since start-up and evaluation
        need their share.
        """
        return self.limit_seconds / 2

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        body: dict[str, Any] = json.loads(text)
        return cls(**{**body, "task": Task(body["task"]), "mode": Mode(body["mode"])})
