"""A recipe as the feeder of one trial: its `feed` runs in a sandbox of its own, and what it sends is checked by `Supply`."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract import frames
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.loop import run_log
from autoresearch.loop.orders import Arena
from autoresearch.loop.preparation import ARTEFACT_NAME, MAX_EXTRA_OVERLAP, MadeRecipe
from autoresearch.loop.recipe_cell import RecipeCell
from autoresearch.loop.supply import Start, Supply
from autoresearch.recipes import feeding
from autoresearch.sandbox.process_tree import ProcessTree
from autoresearch.sources.overlap import overlap_of
from autoresearch.vocabulary import DataCorrupt, Slice

_LOOKED_AT_TOKENS = 1 << 20  # of what was handed out, and of each slice: 3 MB of text, 0.2 s
_LAST_BREATH = 10.0  # seconds between a closed channel and the exit that explains it


def supply_of(arena: Arena, seed: int, folder: Path) -> Supply:
    """Who feeds a trial in this arena: the plain feeder, or the recipe's. `folder` exists and holds the feeder's log.

    Raises:
        InstallationError: the seal's program could not be started.
    """
    if arena.recipe is None:
        return Supply(arena.prepared.directory, seed, folder)
    return RecipeSupply(arena, arena.recipe, seed, folder)


class RecipeSupply(Supply):
    """A supply from a recipe's process, with the folder of that process."""

    def __init__(self, arena: Arena, files: Mapping[str, str], seed: int, folder: Path) -> None:
        self._cells: list[RecipeCell] = []
        self._arena = arena
        self._kept: list[NDArray[np.unsignedinteger[Any]]] = []
        self._handed_out = 0
        self._random = np.random.default_rng(
            int.from_bytes(os.urandom(16))
        )  # a recipe cannot know which rows are looked at
        super().__init__(arena.prepared.directory, seed, folder, start=self._starter(arena, files, seed))

    def _starter(self, arena: Arena, files: Mapping[str, str], seed: int) -> Start:
        artefact = arena.prepared.directory / ARTEFACT_NAME

        def start(channel: socket.socket, log_path: Path) -> ProcessTree:
            cell = RecipeCell(arena.seal, files, log_path, threads=arena.threads, readable=[artefact])
            self._cells.append(cell)
            order = feeding.FeedOrder(surface=cell.surface, artefact=cell.cell.inside(artefact), seed=seed)
            cell.start(feeding.__name__, channel=channel)
            with contextlib.suppress(
                frames.BrokenFrame
            ):  # one that is gone already is found so by who asks for a batch
                feeding.send_order(self._channel, order)
            return cell.tree

        return start

    def next(self, deadline: float, progress: float) -> tuple[dict[str, Any], bytes]:
        """As every supply's; keeps some of the rows that go out, each with the same chance, for `text_problem`."""
        header, payload = super().next(deadline, progress)
        num_rows, row_len, _ = self._shape
        rows = np.frombuffer(payload, dtype=header["dtype"]).reshape(num_rows, row_len)
        room = max(1, _LOOKED_AT_TOKENS // row_len)
        for row in rows:
            self._handed_out += 1
            place = len(self._kept) if len(self._kept) < room else int(self._random.integers(self._handed_out))
            if place < room:
                self._kept[place : place + 1] = [row.copy()]
        return header, payload

    def text_problem(self) -> str:
        """Why what was handed out may not be trained on, or "": it holds more of the validation text than the recipe may."""
        made = self._arena.prepared
        assert isinstance(made, MadeRecipe), "a recipe that feeds was made"
        table, bos = made.tokenizer, made.tokenizer.get_bos_token_id()
        scored: list[str] = []
        for part in Slice:
            rows = made.rows(part)
            chosen = self._random.permutation(len(rows))[: max(1, _LOOKED_AT_TOKENS // rows.shape[1])]
            scored += [text for row in rows[np.sort(chosen)] for text in _texts_of(row, table, bos)]
        found = (
            overlap_of(scored, (text for row in self._kept for text in _texts_of(row, table, bos))).ngram_share or 0.0
        )
        allowed = max(made.facts["overlap"].values()) + MAX_EXTRA_OVERLAP
        if found <= allowed:
            return ""
        return f"the recipe's feed handed out {found:.2%} of the validation text, and {allowed:.2%} is the most its text may hold"

    def _stopped(self) -> DataCorrupt:
        """Why the recipe's process ended, from its exit code and its log."""
        code = self.tree.wait(_LAST_BREATH)
        for cell in self._cells:
            cell.close_log()
        _, reason = run_log.why_it_ended(self.log(), code)
        return DataCorrupt(reason, hint="mend feed in prepare.py, or weights in data_sources.py")

    def log(self) -> str:
        """What the recipe's process said."""
        return run_log.read_log(self._log_path)

    def close(self) -> None:
        """End the recipe's process and all it started, and remove its folder."""
        super().close()
        for cell in self._cells:
            cell.close()


def _texts_of(row: NDArray[np.unsignedinteger[Any]], table: Tokenizer, bos: int) -> Iterator[str]:
    """The pieces of documents in a row."""
    for piece in np.split(row, np.flatnonzero(row == bos)):
        yield table.decode_bytes(piece[piece != bos]).decode(errors="replace")
