"""A short way to open a chain on scripted servers, and doors that a test looks behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoresearch.providers.chain import Caps, Chain, open_chain
from autoresearch.providers.exchange import Message, Request, UnusableReply
from autoresearch.providers.line import Patience
from autoresearch.records.calls import CallBook

REQUEST = Request(system="You edit train.py.", messages=(Message("user", "Give one idea."),), max_tokens=4096)


class Doors:
    """Notes pauses and lines shown, and never sleeps. `stop_after` pauses the user asks to stop."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.pauses: list[float] = []
        self.lines: list[str] = []
        self.now = 0.0
        self.stop_after = stop_after

    def wait(self, seconds: float) -> bool:
        if seconds:
            self.pauses.append(seconds)
            self.now += seconds
        return self.stop_after is not None and len(self.pauses) >= self.stop_after


def opened(spec: str, folder: Path, doors: Doors | None = None, **changes: Any) -> Chain:
    doors = doors or Doors()
    values: dict[str, Any] = {
        "state_dir": folder,
        "tag": "nov21",
        "caps": Caps(),
        "seconds": 20.0,
        "environment": {},
        "wait": doors.wait,
        "say": doors.lines.append,
        "keyring": lambda name: None,
        "clock": lambda: doors.now,
        "patience": Patience(connect=5.0, silence=10.0, whole=20.0),
    }
    return open_chain(spec, **{**values, **changes})


def as_it_is(text: str) -> str:
    return text


def must_say(word: str):
    """A reader that accepts only texts with this word."""

    def read(text: str) -> str:
        if word not in text:
            raise UnusableReply(f"the reply lacks {word!r}")
        return text

    return read


def calls_in(folder: Path, tag: str = "nov21"):
    book = CallBook(folder / "ledger.sqlite3")
    try:
        return book.of(tag)
    finally:
        book.close()


def totals_in(folder: Path, tag: str = "nov21"):
    book = CallBook(folder / "ledger.sqlite3")
    try:
        return book.totals(tag)
    finally:
        book.close()
