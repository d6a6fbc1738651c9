"""`replay:TAG`: a session's answers out of the record, without a network and without cost."""

from __future__ import annotations

from autoresearch.providers.exchange import Reply
from autoresearch.providers.store import ExchangeStore
from autoresearch.providers.troubles import CallFailed, Trouble
from autoresearch.records.calls import Call, CallBook, CallState

_WITH_REPLY = (CallState.ANSWERED, CallState.UNUSABLE)


class Recording:
    """The recorded calls of one session, each played at most once.

    What was asked word for word before gets the answer it got then, an unusable one too, so that a repair goes the way it
    went. Otherwise the n-th ask of an experiment gets the n-th answer that could be used. A process begins at the first of
    each experiment: one that a kill cut off is asked for from its beginning.
    """

    def __init__(self, book: CallBook, store: ExchangeStore, tag: str) -> None:
        self.tag = tag
        self._store = store
        self._calls = [call for call in book.of(tag) if call.state in _WITH_REPLY and call.reply_sha256]
        self._played: set[int] = set()

    def __len__(self) -> int:
        return len(self._calls)

    def exact(self, request_sha256: str, number: int) -> Reply | None:
        """The answer to the same request of the same experiment, or None when there is none left."""
        same = [call for call in self._left() if call.request_sha256 == request_sha256]
        return self._play([call for call in same if call.number == number])

    def next(self, request_sha256: str, number: int) -> Reply:
        """The answer for this ask.

        Raises:
            CallFailed: the record holds no further answer for this experiment.
        """
        in_order = [call for call in self._left() if call.number == number and call.state is CallState.ANSWERED]
        reply = self.exact(request_sha256, number) or self._play(in_order)
        if reply is None:
            raise CallFailed(Trouble.EMPTY, f"session {self.tag} holds no further reply for experiment {number}")
        return reply

    def _left(self) -> list[Call]:
        return [call for call in self._calls if call.id not in self._played]

    def _play(self, calls: list[Call]) -> Reply | None:
        for call in calls:
            self._played.add(call.id)
            reply = self._store.reply(call.reply_sha256 or "")
            if reply is not None:  # its file may be gone
                return reply
        return None
