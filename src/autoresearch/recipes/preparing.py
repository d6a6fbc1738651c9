"""The process that runs a recipe's one-time preparation: `python -m autoresearch.recipes.preparing --fd N`.

Started by the referee in a sandbox. One frame in: {"op": "prepare"} with a JSON object as payload (`Order`). Frames out:
{"op": "said", "line"} now and then, and {"op": "done"} when the folder holds an artefact. A recipe that fails leaves its
traceback on standard error and ends the process with exit code 1. Deadline, disk limit and the check of what is left
behind are the referee's.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoresearch.contract import frames
from autoresearch.hostile_text import one_line
from autoresearch.recipes.artefact import Artefact, ArtefactWriter, Say
from autoresearch.recipes.door import load_surface
from autoresearch.recipes.reading import open_artefact
from autoresearch.recipes.text import TrainingText

MAX_ORDER_BYTES = 1 << 24  # paths of a hundred thousand shards
MAX_LINE = 500  # characters of a line of progress


@dataclass(frozen=True)
class Order:
    """What the referee asks for. Paths as the process sees them.

    surface: folder with prepare.py and data_sources.py. out: empty folder for the artefact. shards: training shards by
    dataset, the session's first dataset first. vocab_size, row_len (T + 1): the contract's. seed: the session's.
    """

    surface: str
    out: str
    shards: Mapping[str, Sequence[str]]
    vocab_size: int
    row_len: int
    seed: int

    def encode(self) -> bytes:
        """Payload of the order's frame."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Order:
        """The order that `encode` wrote."""
        return cls(**json.loads(payload))

    def text(self) -> TrainingText:
        """What the recipe may read."""
        shards = {name: [Path(path) for path in paths] for name, paths in self.shards.items()}
        return TrainingText(shards, vocab_size=self.vocab_size, row_len=self.row_len, seed=self.seed)


def send_order(channel: socket.socket, order: Order) -> None:
    """The referee's side of the first frame. Raises BrokenFrame when the process is gone."""
    frames.send(channel, {"op": "prepare"}, order.encode())


def build(surface: Path, text: TrainingText, out: Path, say: Say) -> None:
    """Run the recipe of `surface` in this process; `out` exists, is empty, and holds an artefact afterwards.

    Raises:
        WorkspaceError: there is no recipe. Whatever the recipe raises flies through.
    """
    writer = ArtefactWriter(out, say)
    load_surface(surface).build(text, writer)
    writer.finish()


def build_in(
    folder: Path,
    surface: Path,
    shards: Mapping[str, Sequence[Path]],
    *,
    vocab_size: int,
    row_len: int,
    seed: int,
    say: Say,
) -> Artefact:
    """The recipe of `surface`, run unsealed in this process, for people: `folder` is made, or replaced when it is there.

    Built beside it and renamed: a recipe that fails leaves the old one, and a kill the old one or none.

    Raises:
        WorkspaceError, ArtefactRefused: no recipe, or one that leaves no artefact. Whatever the recipe raises flies through.
    """
    text = TrainingText(shards, vocab_size=vocab_size, row_len=row_len, seed=seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as aside:
        made = Path(aside) / "made"
        made.mkdir()
        build(surface, text, made, say)
        if folder.exists():
            folder.rename(Path(aside) / "old")
        made.rename(folder)
    return open_artefact(folder)


def main(arguments: list[str] | None = None) -> None:
    """Take one order and follow it. Started by the referee, never by a person."""
    parser = argparse.ArgumentParser(prog="autoresearch-preparing")
    parser.add_argument("--fd", type=int, required=True, help="the channel to the referee")
    options = parser.parse_args(arguments)
    channel = socket.socket(fileno=options.fd)
    _, payload = frames.receive(channel, MAX_ORDER_BYTES)
    order = Order.decode(payload)

    def say(line: Any) -> None:
        frames.send(channel, {"op": "said", "line": one_line(str(line), MAX_LINE)})

    build(Path(order.surface), order.text(), Path(order.out), say)
    frames.send(channel, {"op": "done"})


if __name__ == "__main__":
    main()
