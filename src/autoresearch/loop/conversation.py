"""What the referee has with any candidate process: frames with deadlines, and a watch over what the process uses."""

from __future__ import annotations

import select
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autoresearch.contract import frames
from autoresearch.loop import run_log
from autoresearch.loop.log_pipe import MAX_LOG_BYTES
from autoresearch.sandbox.cell import Cell
from autoresearch.sandbox.process_tree import ProcessTree
from autoresearch.vocabulary import InstallationError, Outcome

TICK = 0.05  # seconds between looks at deadlines, memory and log while nothing arrives
LOOK_EVERY = (
    0.25  # seconds between looks at memory, processes and disk: a look costs 3 ms with 90 processes on the machine
)
_STALL = 10.0  # seconds a frame may take once it has begun (200 MB of weights take 0.2)
_LAST_BREATH = 10.0  # seconds between a closed channel and the exit that explains it: a busy machine takes some of them


class Ended(Exception):
    """The trial is over before its score: outcome and reason."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """What a candidate's whole process tree may use."""

    memory_mb: float
    disk_mb: float = 2048.0  # what it writes beside its log: checkpoints of its own, compile caches
    num_processes: int = 512  # torch compiles in up to 32; a fork bomb passes this within one look


class Occupant(Protocol):
    """Who has a cell: a candidate, or a recipe that prepares."""

    @property
    def tree(self) -> ProcessTree:
        """Everything it runs."""

    @property
    def channel(self) -> socket.socket:
        """Our end of what it talks through."""

    @property
    def cell(self) -> Cell:
        """Its place."""

    def log_flooded(self) -> bool:
        """Whether it has said more than a log may hold."""

    def early_log(self) -> str:
        """What it said before its order came."""

    def close_log(self) -> None:
        """End the tree, and wait until all it said is in the log."""


class Conversation:
    """One occupant's channel and tree, from its order to its end."""

    def __init__(self, candidate: Occupant, log_path: Path, limits: Limits, stop: threading.Event) -> None:
        self.candidate = candidate
        self.tree = candidate.tree
        self.peak_memory = 0.0
        self.introduced = False  # set once the launcher has said hello: before it, a failure is ours
        self._channel = candidate.channel
        self._log_path = log_path
        self._limits = limits
        self._stop = stop
        self._last_look = 0.0

    def readable(self) -> bool:
        """Whether a frame has begun to arrive; waits up to TICK seconds.

        Raises:
            Ended: the process is gone and said nothing more.
        """
        if select.select([self._channel], [], [], TICK)[0]:
            return True
        if self.tree.poll() is not None and not select.select([self._channel], [], [], 0)[0]:
            raise self.ended()
        return False

    def receive(self, most_bytes: int) -> tuple[dict[str, Any], bytes]:
        """The next frame, with at most `most_bytes` of payload.

        Raises:
            Ended: the process is gone, or what came is not such a frame.
        """
        try:
            return frames.receive(self._channel, most_bytes, _STALL)
        except frames.Closed as error:
            if self.tree.wait(_LAST_BREATH) is not None:
                raise self.ended() from error
            raise Ended(Outcome.REJECTED, f"the channel broke: {error}") from error
        except frames.BrokenFrame as error:
            raise Ended(Outcome.REJECTED, f"the channel broke: {error}") from error

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Send one frame.

        Raises:
            Ended: the process is gone, or does not read.
        """
        self._channel.settimeout(_STALL)
        try:
            frames.send(self._channel, header, payload)
        except frames.BrokenFrame as error:
            if self.tree.wait(_LAST_BREATH) is not None:
                raise self.ended() from error
            raise Ended(Outcome.REJECTED, f"the candidate does not read its channel: {error}") from error

    def look(self) -> bool:
        """At most four times a second, look at what the tree uses; True when a look was taken.

        Raises:
            Ended: a limit was passed, or the user asked to stop.
        """
        if self._stop.is_set():
            raise Ended(Outcome.ABANDONED, "stopped by the user")
        now = time.monotonic()
        if now - self._last_look < LOOK_EVERY:
            return False
        self._last_look = now
        memory = self.look_at_memory()
        if memory > self._limits.memory_mb:
            raise Ended(Outcome.CRASHED, f"out of memory: {memory:,.0f} MB of {self._limits.memory_mb:,.0f} allowed")
        processes = self.tree.num_processes()
        if processes > self._limits.num_processes:
            raise Ended(Outcome.CRASHED, f"{processes} processes, {self._limits.num_processes} are allowed")
        disk = self.candidate.cell.disk_mb()
        if disk > self._limits.disk_mb:
            raise Ended(Outcome.CRASHED, f"wrote {disk:,.0f} MB to disk, {self._limits.disk_mb:,.0f} are allowed")
        if self.candidate.log_flooded():
            raise Ended(Outcome.CRASHED, f"the log grew beyond {MAX_LOG_BYTES:,} bytes")
        return True

    def look_at_memory(self) -> float:
        """Resident memory of the tree now, MiB; remembers the most."""
        memory = self.tree.memory_mb()
        self.peak_memory = max(self.peak_memory, memory)
        return memory

    def ended(self) -> Ended:
        """Why the process ended, from its exit code and its log.

        Raises:
            InstallationError: it never came to the experiment file, which is no verdict on the candidate.
        """
        code = self.tree.wait(_LAST_BREATH)
        self.candidate.close_log()
        if not self.introduced:
            said = run_log.tail_of(run_log.read_log(self._log_path) + self.candidate.early_log(), 3)
            raise InstallationError(
                f"the candidate's launcher did not start (exit code {code}): {said}",
                hint="autoresearch doctor   (was the package changed meanwhile? then --resume)",
            )
        diverged, reason = run_log.why_it_ended(run_log.read_log(self._log_path), code)
        return Ended(Outcome.DIVERGED if diverged else Outcome.CRASHED, reason)
