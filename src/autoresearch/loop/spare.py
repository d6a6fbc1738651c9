"""The process that waits for the next order, so that its imports are behind it when that comes."""

from __future__ import annotations

from collections.abc import Sequence

from autoresearch.loop.candidate import Candidate, worth_preloading
from autoresearch.loop.orders import Arena


def start_candidate(arena: Arena, preload: Sequence[str] = ()) -> Candidate:
    """A candidate process of this arena, waiting for its order."""
    return Candidate(
        seal=arena.seal,
        accelerators=arena.accelerators,
        threads=arena.threads,
        preload=preload,
        warm_cache=arena.warm_cache,
        blas=arena.blas,
    )


class Spare:
    """At most one process ahead of its order."""

    def __init__(self, arena: Arena) -> None:
        self.keeps = False  # set while another trial is sure to follow
        self._arena = arena
        self._waiting: Candidate | None = None

    def start(self, source: str) -> None:
        """Start one that preloads what this experiment file imports, unless one waits or none is to be kept."""
        if self.keeps and self._waiting is None:
            self._waiting = start_candidate(self._arena, worth_preloading(source))

    def take(self) -> Candidate | None:
        """The one that waits, if it lives."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting.tree.poll() is not None:
            waiting.close()  # it died while it waited
            return None
        return waiting

    def fresh(self, source: str) -> Candidate:
        """A process for a deep examination: the one that waits, or a new one. The next is started beside it."""
        fresh = self.take() or start_candidate(self._arena, worth_preloading(source))
        self.start(source)
        return fresh

    def close(self) -> None:
        """End the process that waits, and keep none."""
        self.keeps = False
        if (waiting := self.take()) is not None:
            waiting.close()
