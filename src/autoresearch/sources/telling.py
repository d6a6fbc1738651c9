"""What getting data tells whoever watches: lines now and then, and bytes as they come."""

from __future__ import annotations

from typing import Protocol


class Tell(Protocol):
    """Called from several threads at once."""

    def say(self, text: str) -> None:
        """A line."""

    def begin(self, name: str, total_bytes: int, already: int) -> None:
        """A download begins, `already` bytes of it being there from an earlier attempt."""

    def advance(self, name: str, num_bytes: int) -> None:
        """So many more bytes of it have come; fewer than none when they have to come again."""

    def end(self, name: str) -> None:
        """It is over, well or not."""


class Silent:
    """Tells nobody."""

    def say(self, text: str) -> None:
        pass

    def begin(self, name: str, total_bytes: int, already: int) -> None:
        pass

    def advance(self, name: str, num_bytes: int) -> None:
        pass

    def end(self, name: str) -> None:
        pass
