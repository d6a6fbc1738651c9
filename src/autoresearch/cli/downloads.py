"""What a download looks like: bars on a terminal, a plain line when each file is there elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from autoresearch.cli import screen
from autoresearch.hostile_text import terminal_line
from autoresearch.sources.telling import Tell

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_NAME_COLUMNS = 44


@contextmanager
def shown_downloads(stream: TextIO) -> Iterator[Tell]:
    """Shows downloads on `stream` while the block runs. Names come from the network: nothing in them drives the terminal."""
    if not stream.isatty():
        yield PlainLines(stream)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=stream)) as progress:
        yield Bars(progress)


class PlainLines:
    """One line for each file that is there, and for everything worth saying."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._sizes: dict[str, tuple[int, int]] = {}  # bytes that are there, and in all

    def say(self, text: str) -> None:
        with self._lock:
            screen.say(text, stream=self._stream)
            self._stream.flush()

    def begin(self, name: str, total_bytes: int, already: int) -> None:
        self._sizes[name] = (already, total_bytes)
        if already:
            self.say(f"{name}: going on at {already / 1e6:.1f} of {total_bytes / 1e6:.1f} MB")

    def advance(self, name: str, num_bytes: int) -> None:
        have, total = self._sizes[name]
        self._sizes[name] = (have + num_bytes, total)

    def end(self, name: str) -> None:
        have, total = self._sizes.pop(name)
        if have >= total:
            self.say(f"{name}: {total / 1e6:.1f} MB")


class Bars:
    """A bar for each file that is under way."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def say(self, text: str) -> None:
        from rich.text import Text

        for line in text.splitlines():
            self._progress.console.print(Text(terminal_line(line)), soft_wrap=True)

    def begin(self, name: str, total_bytes: int, already: int) -> None:
        short = terminal_line(name)[-_NAME_COLUMNS:]
        self._tasks[name] = self._progress.add_task(short, total=total_bytes, completed=already)

    def advance(self, name: str, num_bytes: int) -> None:
        self._progress.advance(self._tasks[name], num_bytes)

    def end(self, name: str) -> None:
        self._progress.remove_task(self._tasks.pop(name))
