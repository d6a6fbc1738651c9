"""What an experiment's phases look like while they run: bars on a terminal, a plain line for each change elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from autoresearch.cli import screen
from autoresearch.hostile_text import terminal_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_MESSAGE_COLUMNS = 40


class Shown(Protocol):
    """Where phases are shown. `status` is a status file's content, or empty."""

    def begin(self, name: str) -> None:
        """A phase begins."""

    def look(self, name: str, status: Mapping[str, str]) -> None:
        """How far it is."""

    def end(self, name: str, state: str, seconds: float) -> None:
        """It ended so."""


@contextmanager
def shown_phases(stream: TextIO, names: Sequence[str]) -> Iterator[Shown]:
    """Shows these phases on `stream` while the block runs."""
    if not stream.isatty():
        yield PlainLines(stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}", markup=False),
    )
    with Progress(*columns, console=Console(file=stream)) as progress:
        yield Bars(progress, names)


class PlainLines:
    """A line when a phase begins, when its status file names another step, and when it ended."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._said = ("", "")

    def begin(self, name: str) -> None:
        self._say(f"{name}: begun")

    def look(self, name: str, status: Mapping[str, str]) -> None:
        step = status.get("phase", "")
        if step and step != "ended" and (name, step) != self._said:
            self._said = (name, step)
            self._say(f"{name}: {step}, {fraction_of(status):.0%}")

    def end(self, name: str, state: str, seconds: float) -> None:
        self._say(f"{name}: {state} in {seconds:.1f} s")

    def _say(self, text: str) -> None:
        screen.say(terminal_line(text), stream=self._stream)
        self._stream.flush()


class Bars:
    """A bar for each phase."""

    def __init__(self, progress: Progress, names: Sequence[str]) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {
            name: progress.add_task(name, total=None, start=False, said="") for name in names
        }

    def begin(self, name: str) -> None:
        self._progress.start_task(self._tasks[name])

    def look(self, name: str, status: Mapping[str, str]) -> None:
        if not status:
            return  # no file tells how far it is: the bar goes to and fro
        said = terminal_line(" ".join(filter(None, (status.get("phase"), status.get("message")))))
        self._progress.update(self._tasks[name], total=1.0, completed=fraction_of(status), said=said[:_MESSAGE_COLUMNS])

    def end(self, name: str, state: str, seconds: float) -> None:
        task = self._tasks[name]
        self._progress.update(task, said=f"{state} in {seconds:.1f} s")
        if state == "done":
            self._progress.update(task, total=1.0, completed=1.0)
        self._progress.stop_task(task)


def fraction_of(status: Mapping[str, str]) -> float:
    """`progress` of a status file, 0 to 1; 0 where it is no such number."""
    try:
        value = float(status.get("progress", ""))
    except ValueError:
        return 0.0
    return min(1.0, max(0.0, value)) if value == value else 0.0
