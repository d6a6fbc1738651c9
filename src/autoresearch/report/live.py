"""The live line: what a person, a log file or a program sees while a session runs."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self, TextIO

from autoresearch.hostile_text import json_text, terminal_block, terminal_line
from autoresearch.report.text import columns, count, cut, duration, for_encoding

# Four frames a second: fast enough to look alive, slow enough for a terminal over ssh.
FRAME_SECONDS = 0.25
_SEPARATOR = " | "
_SHORTEST_DESCRIPTION = 16  # columns; below that whole segments go first
_CLEAR_LINE = "\r\x1b[K"
_CLEAR_REST = "\x1b[K"


@dataclass(frozen=True)
class Progress:
    """One moment of a session.

    progress is the fraction of the budget, 0..1. tok_sec is tokens per second of the contract's clock. Times are
    seconds. None means not known yet, and is left out of the line.
    """

    tag: str
    experiment: int
    phase: str  # "start-up", "training", "examination", "calibration", ...
    description: str = ""
    step: int = 0
    loss: float | None = None
    tok_sec: float | None = None
    progress: float = 0.0
    remaining_seconds: float | None = None
    incumbent_val_bpb: float | None = None
    keeps: int = 0
    discards: int = 0
    crashes: int = 0
    experiments_left: int | None = None
    eta_seconds: float | None = None


def render(progress: Progress, width: int) -> str:
    """`progress` on one line of at most `width` columns, without a control character.

    When room is short the description shrinks to 16 columns, then the least needed segments go (experiments left,
    tally, step, speed, ...); experiment and phase go last.
    """
    head = f"#{progress.experiment}"
    description = terminal_line(progress.description)
    segments = _segments(progress)
    while True:
        tail = "".join(_SEPARATOR + text for _, text in segments)
        room = width - columns(head) - columns(tail)
        wanted = 1 + min(columns(description), _SHORTEST_DESCRIPTION) if description else 0
        if room >= wanted or len(segments) <= 1:
            break
        segments.remove(min(segments, key=lambda segment: segment[0]))
    middle = " " + cut(description, room - 1) if description and room > 1 else ""
    return cut(head + middle + tail, width)


class LiveLine:
    """Writes progress to `stream`.

    On a terminal one line is rewritten, four times a second at most. Elsewhere (a file, a pipe, TERM=dumb) a plain line
    comes when the experiment or its phase changes. With `json_lines` every event is one JSON object on a line of its
    own: `{"event": "progress" | "note" | "result", ...}`, non-finite numbers as null.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        json_lines: bool = False,
        is_terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        width: Callable[[], int] | None = None,
    ) -> None:
        self._stream = stream
        self._json = json_lines
        self._rewrites = not json_lines and (_is_terminal(stream) if is_terminal is None else is_terminal)
        self._clock = clock
        self._width = width or _terminal_width
        self._last_frame: float | None = None
        self._last_phase: tuple[int, str] | None = None
        self._on_screen: Progress | None = None

    def update(self, progress: Progress) -> None:
        """Show `progress`; too soon after the last frame and within the same phase, it is dropped."""
        phase = (progress.experiment, progress.phase)
        is_new_phase = phase != self._last_phase
        now = self._clock()
        is_due = self._last_frame is None or now - self._last_frame >= FRAME_SECONDS
        shows = is_new_phase or (is_due and (self._rewrites or self._json))
        if not shows:
            return
        self._last_phase, self._last_frame = phase, now
        if self._json:
            self._write(_json_line("progress", asdict(progress)))
        elif self._rewrites:
            self._on_screen = progress
            self._write(self._frame())
        else:
            self._write(render(progress, 1000) + "\n")

    def note(self, text: str) -> None:
        """A permanent line (or several), above the live one."""
        if self._json:
            self._write(_json_line("note", {"text": text}))
            return
        self._permanent(text)

    def result(self, text: str, fields: Mapping[str, Any] | None = None) -> None:
        """The outcome of an experiment: `text` for people, `fields` for machines."""
        if self._json:
            self._write(_json_line("result", {"text": text, **(fields or {})}))
            return
        self._permanent(text)

    def close(self) -> None:
        """Take the live line off the screen; permanent lines stay."""
        if self._on_screen is not None:
            self._on_screen = None
            self._write(_CLEAR_LINE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _permanent(self, text: str) -> None:
        lines = terminal_block(text.rstrip("\n")) + "\n"
        if self._on_screen is None:
            self._write(lines)
        else:
            self._write(_CLEAR_LINE + lines + self._frame())

    def _frame(self) -> str:
        # One column short: text in the last column makes some terminals wrap before the next carriage return.
        assert self._on_screen is not None, "a frame needs a progress on screen"
        return "\r" + render(self._on_screen, max(1, self._width() - 1)) + _CLEAR_REST

    def _write(self, text: str) -> None:
        self._stream.write(for_encoding(text, self._stream.encoding))
        self._stream.flush()


def _segments(progress: Progress) -> list[tuple[int, str]]:
    """(importance, text) in reading order; the least important is dropped first."""
    found: list[tuple[int, str]] = []
    phase = terminal_line(progress.phase)
    if math.isfinite(progress.progress):
        percent = math.floor(100 * min(1.0, max(0.0, progress.progress)))
        phase = f"{phase} {percent:3d}%"
    found.append((10, phase))
    if progress.step:
        found.append((3, f"step {progress.step}"))
    if progress.loss is not None:
        found.append((7, f"loss {progress.loss:.2f}" if abs(progress.loss) < 1e4 else f"loss {progress.loss:.1e}"))
    if progress.tok_sec is not None:
        found.append((4, f"{count(progress.tok_sec)} tok/s"))
    if progress.remaining_seconds is not None:
        found.append((8, f"{duration(progress.remaining_seconds)} left"))
    if progress.incumbent_val_bpb is not None:
        found.append((6, f"best {progress.incumbent_val_bpb:.4f}"))
    if progress.keeps or progress.discards or progress.crashes:
        found.append((2, _tally(progress)))
    if progress.experiments_left is not None:
        found.append((1, f"{progress.experiments_left} to go"))
    if progress.eta_seconds is not None:
        found.append((5, f"ETA {duration(progress.eta_seconds)}"))
    return found


def _tally(progress: Progress) -> str:
    crashed = f", {progress.crashes} crashed" if progress.crashes else ""
    discarded = f", {progress.discards} discarded" if progress.discards else ""
    return f"{progress.keeps} kept{discarded}{crashed}"


def _json_line(event: str, fields: Mapping[str, Any]) -> str:
    return json_text({"event": event, **fields}) + "\n"


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


def _terminal_width() -> int:
    return shutil.get_terminal_size().columns
