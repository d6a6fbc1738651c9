"""The process that hands out a recipe's rows: `python -m autoresearch.recipes.feeding --fd N`, in a sandbox.

First frame in: {"op": "feed"} with a JSON object as payload (`FeedOrder`). From then on it is a feeder like the
contract's own (contract/feeder.py): one batch for each that is ordered. The process sees neither the clock nor
validation text; progress is what it is told. Whoever receives the batches checks them
(`contract.feeder.batch_problem`): what runs here is code that research edits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from autoresearch.contract import frames
from autoresearch.contract.feeder import serve
from autoresearch.contract.packing import Tokens
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.recipes.door import load_surface
from autoresearch.recipes.reading import open_artefact
from autoresearch.vocabulary import UsageError

MAX_ORDER_BYTES = 1 << 16
_HINT = "mend feed in prepare.py"


class Fed(Protocol):
    """What `feed` of a recipe returns: `recipes.mixing.Mixture`, or its own."""

    @property
    def epoch(self) -> int:
        """From 1."""

    def take(self, num_rows: int, progress: float, /) -> Any:
        """The next rows [num_rows, row_len] of token ids, for a moment of the budget (0..1)."""


@dataclass(frozen=True)
class FeedOrder:
    """What the referee asks for. surface: folder with prepare.py; artefact: folder that `build` left; seed: the trial's."""

    surface: str
    artefact: str
    seed: int

    def encode(self) -> bytes:
        """Payload of the order's frame."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, payload: bytes) -> FeedOrder:
        """The order that `encode` wrote."""
        return cls(**json.loads(payload))


def send_order(channel: socket.socket, order: FeedOrder) -> None:
    """The referee's side of the first frame. Raises BrokenFrame when the process is gone."""
    frames.send(channel, {"op": "feed"}, order.encode())


class RecipeRows:
    """A recipe's rows as the feeder asks for them: `contract.feeder.BatchSource`, sealed or in one process."""

    def __init__(self, feed: Callable[[int], Fed], tokenizer: Tokenizer) -> None:
        """feed: from row_len to what hands out rows of that length. tokenizer: the artefact's."""
        self._feed = feed
        self._dtype = np.dtype(tokenizer.dtype)
        self._vocab_size = tokenizer.get_vocab_size()
        self._fed: Fed | None = None
        self._shape = (0, 0)

    def open(self, batch_size: int, seq_len: int) -> None:
        """Batches are to be [batch_size, seq_len + 1]: of the text that follows, or, at another length, from its start."""
        if self._fed is None or self._shape[1] != seq_len + 1:
            self._fed = self._feed(seq_len + 1)
        self._shape = (batch_size, seq_len + 1)

    def rows(self, progress: float) -> tuple[Tokens, int]:
        """The next batch in the tokenizer's type, and its epoch.

        Raises:
            UsageError: what the recipe gives are no rows of ids. Told here, in its log, before the referee refuses it.
        """
        assert self._fed is not None, "open first"
        rows = np.asarray(self._fed.take(self._shape[0], progress))
        if rows.shape != self._shape or rows.dtype.kind not in "ui":
            raise UsageError(
                f"take() gave {rows.dtype}{list(rows.shape)}; wanted integers {list(self._shape)}", hint=_HINT
            )
        if int(rows.min()) < 0 or int(rows.max()) >= self._vocab_size:
            raise UsageError(
                f"take() gave ids {rows.min()} to {rows.max()}; the vocabulary is {self._vocab_size}", hint=_HINT
            )
        return rows.astype(self._dtype, copy=False), int(self._fed.epoch)


def rows_in(folder: Path, surface: Path, seed: int) -> RecipeRows:
    """The rows of the artefact in `folder` as the recipe of `surface` feeds them.

    Raises:
        ArtefactRefused: there is no artefact. WorkspaceError: there is no recipe.
    """
    artefact = open_artefact(folder)
    loaded = load_surface(surface)
    return RecipeRows(lambda row_len: loaded.feed(artefact, seed, row_len), artefact.tokenizer)


def main(arguments: list[str] | None = None) -> None:
    """Serve one trial. Started by the referee, never by a person."""
    parser = argparse.ArgumentParser(prog="autoresearch-feeding")
    parser.add_argument("--fd", type=int, required=True, help="the channel to the referee")
    options = parser.parse_args(arguments)
    channel = socket.socket(fileno=options.fd)
    with contextlib.suppress(frames.Closed):  # the trial is over: the referee closed its end
        _, payload = frames.receive(channel, MAX_ORDER_BYTES)
        order = FeedOrder.decode(payload)
        serve(channel, rows_in(Path(order.artefact), Path(order.surface), order.seed))


if __name__ == "__main__":
    main()
