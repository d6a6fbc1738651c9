"""Do two recipes feed the same rows? Then they are one idea, and the second run would only measure luck.

On a text without duplicates a filter for duplicates changes nothing, and no look at the source tells. Where a recipe left
the same tokenizer and the same arrays as an earlier one, both feeds are asked for the same rows, in the sandbox:

    <cache>/recipes/<key>/fed.json   sha256 of the rows that were handed out; written once
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoresearch.contract.file_facts import file_sha256
from autoresearch.files import write_json
from autoresearch.loop.conversation import LOOK_EVERY
from autoresearch.loop.orders import Arena, Order, TrialRun
from autoresearch.loop.preparation import MadeRecipe, Pantry, open_made, recorded_of
from autoresearch.loop.recipe_feeder import RecipeSupply
from autoresearch.loop.supply import AHEAD
from autoresearch.sandbox.process_tree import ProcessTree
from autoresearch.vocabulary import DataCorrupt, Outcome, Trial

FORMAT = "autoresearch-fed"
FORMAT_VERSION = 1
_NAME = "fed.json"

# Over progress 0 to 1: eight times what a trial of `tiny` is fed (0.54 million). On the larger contracts a feed that changes
# only after so many tokens, at no other progress and with the same arrays, passes for equal.
_TOKENS = 2**22
_TOKENS_AT_A_TIME = 2**14
_SECONDS = 60.0  # one that makes 300,000 tokens/s, as the field's loader does with its tokenizing, needs 14
_SEED = 0


def refused_as_repeated(
    arena: Arena, pantry: Pantry, earlier: Iterable[tuple[int, Mapping[str, str]]], order: Order, stop: threading.Event
) -> TrialRun | None:
    """The trial as it ended where an earlier recipe (number of its experiment, files) feeds the rows of this arena's."""
    for number, files in earlier:
        if feeds_the_same(arena, pantry, files, stop):
            trial = Trial(
                Outcome.REJECTED,
                reason=f"the same program was tried as experiment {number}: the recipe feeds the same rows",
                seed=order.seed,
                slice=order.slice,
                sealed=arena.seal.level,
                **recorded_of(arena),
            )
            return TrialRun(trial, "")
    return None


def feeds_the_same(arena: Arena, pantry: Pantry, files: Mapping[str, str], stop: threading.Event) -> bool:
    """Whether the recipe of these files was made, and feeds what the recipe of this arena does. In doubt it does not.

    Raises:
        InstallationError: the seal's program could not be started. DiskError: the cache cannot be written.
    """
    ours, theirs = arena.prepared, open_made(pantry, files)
    if not isinstance(ours, MadeRecipe) or theirs is None:
        return False
    if ours.directory == theirs.directory:
        return True
    if _counts(ours) != _counts(theirs) or not _same_arrays(ours.artefact_dir, theirs.artefact_dir):
        return False
    rows = fed_sha256(arena, stop)
    return rows != "" and rows == fed_sha256(replace(arena, prepared=theirs, recipe=dict(files)), stop)


def fed_sha256(arena: Arena, stop: threading.Event) -> str:
    """sha256 in hex of the rows that the arena's recipe hands out over the budget, as it was found before or is found now.

    "" where its feed fails, or takes too long or too much memory: its trial will say so.

    Raises:
        InstallationError: the seal's program could not be started. DiskError: the cache cannot be written.
    """
    made = arena.prepared
    assert isinstance(made, MadeRecipe) and arena.recipe is not None, "a recipe that was made"
    known = _read(made.directory / _NAME)
    if known:
        return known
    digest = hashlib.sha256()
    row_len = arena.rules.max_seq_len + 1
    num_rows = max(1, _TOKENS_AT_A_TIME // row_len)
    num_batches = max(2, _TOKENS // (num_rows * row_len))
    with tempfile.TemporaryDirectory() as folder:
        supply = RecipeSupply(arena, arena.recipe, _SEED, Path(folder))
        deadline = time.monotonic() + _SECONDS
        try:
            with _watched(supply.tree, arena.limits.memory_mb, deadline, stop):
                supply.open(num_rows, arena.rules.max_seq_len, made.tokenizer.get_vocab_size())
                for number in range(num_batches + AHEAD):  # the last ones ordered are not waited for
                    header, rows = supply.next(deadline, min(1.0, number / (num_batches - 1)))
                    digest.update(json.dumps([header["dtype"], header["epoch"]]).encode())
                    digest.update(rows)
        except DataCorrupt:
            return ""
        finally:
            supply.close()
    write_json(made.directory / _NAME, {"format": FORMAT, "version": FORMAT_VERSION, "sha256": digest.hexdigest()})
    return digest.hexdigest()


@contextmanager
def _watched(tree: ProcessTree, memory_mb: float, deadline: float, stop: threading.Event) -> Iterator[None]:
    """End the tree when it takes more memory or time than it may, or when the user asks to stop; whoever waits learns it."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY):
            if stop.is_set() or time.monotonic() > deadline or tree.memory_mb() > memory_mb:
                tree.kill()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _counts(made: MadeRecipe) -> tuple[Any, ...]:
    """What is known without reading the arrays: groups with documents and tokens, and the table."""
    return made.facts["groups"], made.facts["hashes"]["tokenizer"]


def _same_arrays(ours: Path, theirs: Path) -> bool:
    """Whether both folders hold the same tokens, byte for byte; the page beside them tells of reasons, not of text."""
    names = sorted(path.name for path in ours.glob("*.npy"))
    return names == sorted(path.name for path in theirs.glob("*.npy")) and all(
        file_sha256(ours / name) == file_sha256(theirs / name) for name in names
    )


def _read(path: Path) -> str:
    """The digest found before; "" where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
        is_ours = found["format"] == FORMAT and found["version"] == FORMAT_VERSION
        return str(found["sha256"]) if is_ours else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""
