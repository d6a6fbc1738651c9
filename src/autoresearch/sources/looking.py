"""Training files held against the validation text, on several processes.

One core was measured to look at 18 to 29 million characters a second; a good line brings more, so that one process would be
what a corpus waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch.processes import Helpers, processes_for
from autoresearch.sources.documents import articles, read_any
from autoresearch.sources.overlap import Look, ValidationIndex
from autoresearch.vocabulary import AutoresearchError

# A process takes 0.3 CPU seconds to start, and 2.1 to 3.2 for parquet of 40 MB (60 MB of text): below so much little is gained.
_WORTH_IT_BYTES = 1 << 26
_PROCESS_BYTES = 1 << 29  # memory to have free for each: 0.2 GB measured with row groups of 1,024 documents


@dataclass(frozen=True)
class SourceFile:
    """A file of text that is here. `ours`: nobody else changes its content; `called` is its owner's name for it."""

    path: Path
    called: str
    sha256: str | None
    ours: bool


def documents_of(file: SourceFile, column: str | None, *, lines_are_articles: bool) -> Iterator[str]:
    """The documents of a file.

    Raises:
        DataCorrupt, UsageError: as `read_any`.
    """
    documents = read_any(file.path, column, name=file.called, keep_empty=lines_are_articles)
    return articles(documents) if lines_are_articles else documents


class Looking:
    """Looks at files on several processes, for any number of threads. A context, as its processes are."""

    def __init__(
        self, num_processes: int, index: ValidationIndex, column: str | None, lines_are_articles: bool
    ) -> None:
        self._helpers = Helpers(num_processes, _begin, index, column, lines_are_articles)

    def __call__(self, file: SourceFile) -> Look:
        """What the file shares with the validation text.

        Raises:
            DataCorrupt, UsageError: as `read_any`. AutoresearchError: a process was ended, by `stop` or from outside.
        """
        try:
            return self._helpers.submit(_look, file).result()
        except BrokenProcessPool as error:
            raise AutoresearchError(
                "a process that compares texts was ended from outside (is the memory full?); finished files are kept",
                hint="the same command again; on one core, with less memory: taskset -c 0 autoresearch prepare",
            ) from error

    def stop(self) -> None:
        """End the processes at once."""
        self._helpers.stop()

    def __enter__(self) -> Looking:
        self._helpers.__enter__()
        return self

    def __exit__(self, *why: Any) -> None:
        self._helpers.__exit__(*why)


def worth_processes(num_files: int, num_bytes: int) -> int:
    """How many processes so many files of so many bytes together are worth; 1: none beside this one."""
    return processes_for(num_files, memory_bytes=_PROCESS_BYTES) if num_bytes >= _WORTH_IT_BYTES else 1


_given: tuple[ValidationIndex, str | None, bool] | None = None  # in a helper process: what it was begun with


def _begin(index: ValidationIndex, column: str | None, lines_are_articles: bool) -> None:
    global _given
    _given = (index, column, lines_are_articles)


def _look(file: SourceFile) -> Look:
    assert _given is not None, "a process that was begun"
    index, column, lines_are_articles = _given
    return index.look(documents_of(file, column, lines_are_articles=lines_are_articles))
