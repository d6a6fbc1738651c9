"""Which of several quantized forms to take: by val_bpb lost per byte, never by the cosine of weights.

Error feedback makes the cosine worse while it makes the model better, so a ranking by cosine picks the wrong one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from autoresearch.quantize.intervals import Interval


class Candidate(Protocol):
    """A quantized form."""

    @property
    def name(self) -> str:
        """How it is called in a table."""

    @property
    def file_bytes(self) -> int:
        """Its size."""

    @property
    def loss(self) -> Interval | None:
        """Bits per byte that it loses; None where it gives no score."""


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True)
class Recommendation:
    """The form to take (None where none gives a score), why, and which forms no other beats in both size and loss."""

    name: str | None
    reason: str
    front: tuple[str, ...]


# Files whose sizes differ by less count as equally large: a longer method name in a header is no reason to lose more.
SAME_SIZE = 0.01


def pareto_front(candidates: Sequence[C]) -> list[C]:
    """Those that no other undercuts, in order of size: every form that is not larger (by SAME_SIZE) loses more."""
    scored = [(candidate, candidate.loss.value) for candidate in candidates if candidate.loss is not None]

    def is_beaten(candidate: C, lost: float) -> bool:
        return any(
            other.file_bytes <= candidate.file_bytes * (1 + SAME_SIZE)
            and (less, other.file_bytes) < (lost, candidate.file_bytes)
            for other, less in scored
        )

    front = [candidate for candidate, lost in scored if not is_beaten(candidate, lost)]
    return sorted(front, key=lambda candidate: candidate.file_bytes)


def recommend(candidates: Sequence[C], noise: float) -> Recommendation:
    """The smallest form whose loss is, at the upper end of its 95 % interval, below the noise of one run (bits per byte).

    Where none is, the one that loses least.
    """
    front = pareto_front(candidates)
    names = tuple(candidate.name for candidate in front)
    if not front:
        return Recommendation(None, "none of them gives a finite score", ())
    for candidate in front:
        most = _most(candidate)
        if most < noise:
            reason = (
                f"the smallest file whose loss, at most {most:+.4f} bpb, is below the noise of one run, {noise:.4f}"
            )
            return Recommendation(candidate.name, reason, names)
    least = front[-1]
    reason = f"it loses least, but at most {_most(least):+.4f} bpb, which is above the noise of one run, {noise:.4f}"
    return Recommendation(least.name, reason, names)


def _most(candidate: Candidate) -> float:
    assert candidate.loss is not None, "only scored forms are on the front"
    return candidate.loss.value if candidate.loss.high is None else candidate.loss.high
