"""Preparing a recipe: its `build` runs in a sandbox, and what it leaves is checked, kept under its hash, and made scorable.

    <cache>/recipes/<key>/           whole or absent: built beside it and renamed
        artefact/                    the recipe's: tokenizer table, groups of tokens (recipes/artefact.py)
        rows.{search,confirm,certify}.npy   ours: the validation text under that tokenizer; no recipe ever sees it
        made.json                    what it was made of and what that took; written last

The key hashes everything the content depends on: the recipe's files, the training shards, the contract's numbers and the
versions of the formats. A discarded experiment therefore leaves nothing that another would read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from autoresearch.contract import frames
from autoresearch.contract.corpora import Corpus
from autoresearch.contract.prepared import Prepared
from autoresearch.contract.rules import Rules
from autoresearch.contract.scored_text import TextNotReproduced, documents_scored, rows_of
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.files import write_json
from autoresearch.hostile_text import one_line
from autoresearch.loop import run_log
from autoresearch.loop.conversation import Conversation, Ended, Limits
from autoresearch.loop.orders import Arena, Order, TrialRun
from autoresearch.loop.recipe_cell import RecipeCell
from autoresearch.recipes import artefact as artefacts
from autoresearch.recipes import preparing
from autoresearch.recipes.key import key_of
from autoresearch.recipes.reading import ArtefactRefused, open_artefact, read_artefact
from autoresearch.recipes.reading import Limits as ArtefactLimits
from autoresearch.recipes.text import source_names
from autoresearch.sandbox.seal import Seal
from autoresearch.sources.overlap import overlap_of
from autoresearch.vocabulary import DataCorrupt, Outcome, Slice, Trial

FORMAT = "autoresearch-made-recipe"
FORMAT_VERSION = 1
_MADE_NAME = "made.json"
ARTEFACT_NAME = "artefact"
_SEED = 0  # of recipes that sample while they prepare: the same in every session, so that a recipe is made once

# An honest recipe only selects from the training text, so it cannot overlap the validation text more than that does.
# Normalising may make a few runs of 13 words alike that were not.
MAX_EXTRA_OVERLAP = 0.002
# What is looked at of a recipe's text: drawn anew each time, so that a recipe cannot know what is.
_OVERLAP_BYTES = 64 * 2**20
_LONG_TOKEN = 24  # bytes from which a token's own text is looked at too


@dataclass(frozen=True)
class PreparationLimits:
    """What a recipe may take to prepare: wall seconds, and MiB that it writes, its artefact included."""

    seconds: float
    disk_mb: float


# Training a tokenizer of 1,024 tokens on the embedded corpus and encoding that takes 4 CPU seconds (benchmarks/recipe.py).
_LIMITS: Mapping[str, PreparationLimits] = {
    "smoke": PreparationLimits(600.0, 512.0),  # tests and installs: a starved machine must pass too
    "tiny": PreparationLimits(120.0, 512.0),
    "small": PreparationLimits(900.0, 8_192.0),
    "long": PreparationLimits(1800.0, 8_192.0),
    "standard": PreparationLimits(3600.0, 65_536.0),
}


def limits_of(rules: Rules) -> PreparationLimits:
    """The limits that this contract sets."""
    return _LIMITS[rules.preset]


@dataclass(frozen=True)
class Pantry:
    """What recipes of a session are made from: its datasets, the first of which is the contract's, and its own data."""

    rules: Rules
    corpora: tuple[Corpus, ...]
    prepared: Prepared
    cache_root: Path
    seal: Seal
    threads: int
    memory_mb: float

    @cached_property
    def names(self) -> list[str]:
        """What a recipe calls the datasets."""
        return source_names([corpus.name for corpus in self.corpora])

    @cached_property
    def train_hashes(self) -> dict[str, str]:
        """sha256 of each dataset's training text, by name; of the contract's it is known from its preparation."""
        found = [self.prepared.hashes["corpus"], *(corpus.train_sha256() for corpus in self.corpora[1:])]
        return dict(zip(self.names, found, strict=True))

    @cached_property
    def other_hashes(self) -> dict[str, str]:
        """Of the datasets beside the contract's, as a session records them."""
        return {f"corpus {name}": self.train_hashes[name] for name in self.names[1:]}

    def key_of(self, files: Mapping[str, str]) -> str:
        """What that recipe's folder is called."""
        return key_of(files, self.train_hashes, self.prepared.hashes["validation"], self.rules)

    def scored(self, part: Slice) -> list[str]:
        """The documents of a slice that a data session is scored on."""
        documents = self.corpora[0].validation_documents(part)
        return documents_scored(documents, self.prepared.tokenizer, self.rules)


class MadeRecipe:
    """A prepared recipe, with the names that a trial asks its text by. `facts` is made.json."""

    def __init__(self, directory: Path, facts: Mapping[str, Any]) -> None:
        """Use `make` or `open_made`, which check first."""
        self.directory = directory
        self.facts = facts

    @property
    def artefact_dir(self) -> Path:
        """The recipe's part: all that its feeder may read."""
        return self.directory / ARTEFACT_NAME

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 in hex of "corpus", "validation", "tokenizer" and of the "recipe" as it was made."""
        return dict(self.facts["hashes"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The recipe's own."""
        return open_artefact(self.artefact_dir).tokenizer

    def rows(self, part: Slice) -> NDArray[np.unsignedinteger[Any]]:
        """Validation rows [n, T+1] of one slice under the recipe's tokenizer; a read-only map."""
        path = self.directory / _rows_name(part)
        try:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise DataCorrupt(f"cannot read {path}: {error}", hint=f"rm -r {self.directory}") from error


def open_made(pantry: Pantry, files: Mapping[str, str]) -> MadeRecipe | None:
    """The recipe as it was made before, or None. A folder that lacks something is none, and is made again."""
    directory = pantry.cache_root / "recipes" / pantry.key_of(files)
    try:
        facts = json.loads((directory / _MADE_NAME).read_bytes())
        sizes = {name: (directory / name).stat().st_size for name in facts["files"]}
        whole = facts["format"] == FORMAT and facts["version"] == FORMAT_VERSION and sizes == facts["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, or damaged: either way it is made anew
    return MadeRecipe(directory, facts) if whole else None


def make(
    pantry: Pantry,
    files: Mapping[str, str],
    log_path: Path,
    *,
    on_start: Callable[[int, float], None] = lambda _pid, _created: None,
    on_line: Callable[[str], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> MadeRecipe:
    """The prepared recipe of these files: as it was made before, or made now.

    log_path receives what the recipe says. `on_start` is told the process number and its creation time, `on_line` a line
    of progress now and then.

    Raises:
        Ended: the recipe failed: outcome and reason. InstallationError: our own module does not start.
        DataMissing, DataCorrupt: our own data cannot be read. DiskError: the cache cannot be written.
    """
    found = open_made(pantry, files)
    if found is not None:
        return found
    home = pantry.cache_root / "recipes"
    home.mkdir(parents=True, exist_ok=True)
    _sweep(home)
    final = home / pantry.key_of(files)
    aside = home / f".making-{os.getpid()}-{secrets.token_hex(4)}"
    (aside / ARTEFACT_NAME).mkdir(parents=True)
    try:
        facts = _make_in(aside, pantry, files, log_path, on_start, on_line, stop or threading.Event())
        write_json(aside / _MADE_NAME, facts)
        _put_in_place(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    made = open_made(pantry, files)
    if made is None:
        raise DataCorrupt(f"cannot keep the prepared recipe in {final}", hint="df -h, then the same command again")
    return made


def prepared_arena(
    arena: Arena,
    pantry: Pantry,
    files: Mapping[str, str],
    order: Order,
    log_path: Path,
    *,
    on_start: Callable[[int, float], None],
    on_line: Callable[[str], None],
    stop: threading.Event,
) -> Arena | TrialRun:
    """The arena with the text that this recipe makes; the trial as it ended, where the recipe failed.

    Raises:
        InstallationError, DataMissing, DataCorrupt, DiskError: as `make`.
    """
    began = time.monotonic()
    allowed = limits_of(arena.rules)
    try:
        made = make(pantry, files, log_path, on_start=on_start, on_line=on_line, stop=stop)
    except Ended as ended:
        log = run_log.read_log(log_path)
        trial = Trial(
            ended.outcome,
            reason=f"preparation: {ended.reason}",
            seed=order.seed,
            slice=order.slice,
            sealed=arena.seal.level,
            total_seconds=time.monotonic() - began,
            preparation_seconds=round(time.monotonic() - began, 2),
            preparation_limits=(allowed.seconds, allowed.disk_mb),
            log_tail=run_log.tail_of(log),
        )
        return TrialRun(trial, log)
    return replace(arena, prepared=made, recipe=dict(files))


def recorded_of(arena: Arena) -> dict[str, Any]:
    """What a trial records of the text that it was fed."""
    found: dict[str, Any] = {"tokenizer_sha256": arena.prepared.tokenizer.sha256}
    if isinstance(arena.prepared, MadeRecipe):
        facts, allowed = arena.prepared.facts, limits_of(arena.rules)
        found |= {
            "recipe_sha256": arena.prepared.hashes["recipe"],
            "preparation_seconds": facts["preparation_seconds"],
            "preparation_disk_mb": facts["preparation_disk_mb"],
            "preparation_limits": (allowed.seconds, allowed.disk_mb),
        }
    return found


def _put_in_place(aside: Path, final: Path) -> None:
    """Give the folder its name. What stands there is damaged, or another process was first: then theirs is as good."""
    if final.exists():
        old = aside.with_name(f"{aside.name}-old")
        final.rename(old)
        shutil.rmtree(old)
    try:
        aside.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _make_in(
    aside: Path,
    pantry: Pantry,
    files: Mapping[str, str],
    log_path: Path,
    on_start: Callable[[int, float], None],
    on_line: Callable[[str], None],
    stop: threading.Event,
) -> dict[str, Any]:
    began = time.monotonic()
    disk_mb, cpu_seconds = _build(aside / ARTEFACT_NAME, pantry, files, log_path, on_start, on_line, stop)
    seconds = time.monotonic() - began
    limits = ArtefactLimits(max_bytes=int(limits_of(pantry.rules).disk_mb * 2**20))
    try:
        left = read_artefact(aside / ARTEFACT_NAME, limits)
        written = {}
        for part in Slice:
            np.save(aside / _rows_name(part), rows_of(pantry.scored(part), left.tokenizer, pantry.rules))
            written[_rows_name(part)] = (aside / _rows_name(part)).stat().st_size
        overlap, plain = _check_overlap(left, pantry)
    except (ArtefactRefused, TextNotReproduced) as error:
        raise Ended(Outcome.REJECTED, str(getattr(error, "message", error))) from error
    for path in sorted((aside / ARTEFACT_NAME).iterdir()):
        written[f"{ARTEFACT_NAME}/{path.name}"] = path.stat().st_size
    hashes = {
        "corpus": hashlib.sha256(json.dumps(pantry.train_hashes, sort_keys=True).encode()).hexdigest(),
        "validation": pantry.prepared.hashes["validation"],
        "tokenizer": left.tokenizer.sha256,
        "recipe": left.sha256,
    }
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "hashes": hashes,
        "text": pantry.train_hashes,
        "vocab_size": left.tokenizer.get_vocab_size(),
        "groups": {
            name: {"documents": group.num_documents, "tokens": group.num_tokens} for name, group in left.groups.items()
        },
        "removed": dict(left.removed),
        "preparation_seconds": round(seconds, 2),
        "preparation_cpu_seconds": round(cpu_seconds, 2),
        "preparation_disk_mb": round(disk_mb, 1),
        "overlap": {"recipe": round(overlap, 6), "training_text": round(plain, 6)},
        "files": written,
    }


def _build(
    out: Path,
    pantry: Pantry,
    files: Mapping[str, str],
    log_path: Path,
    on_start: Callable[[int, float], None],
    on_line: Callable[[str], None],
    stop: threading.Event,
) -> tuple[float, float]:
    """Run `build` in its sandbox, until it says that it is done; MiB it wrote, CPU seconds it took.

    Raises:
        Ended: it failed, was too late, or passed a limit.
    """
    limits = limits_of(pantry.rules)
    shards = [path for corpus in pantry.corpora for path in corpus.train_shards]
    kitchen = RecipeCell(pantry.seal, files, log_path, threads=pantry.threads, readable=shards, writable=[out])
    try:
        kitchen.start(preparing.__name__)
        on_start(kitchen.tree.pid, kitchen.tree.created_at)
        talk = Conversation(kitchen, log_path, Limits(pantry.memory_mb, limits.disk_mb), stop)
        talk.introduced = True  # what fails from here on is the recipe's
        preparing.send_order(
            kitchen.channel,
            preparing.Order(
                surface=kitchen.surface,
                out=kitchen.cell.inside(out),
                shards={
                    name: [kitchen.cell.inside(path) for path in corpus.train_shards]
                    for name, corpus in zip(pantry.names, pantry.corpora, strict=True)
                },
                vocab_size=pantry.rules.vocab_size,
                row_len=pantry.rules.max_seq_len + 1,
                seed=_SEED,
            ),
        )
        deadline = time.monotonic() + limits.seconds
        most_mb, line, shown = 0.0, "", ""
        while True:
            if talk.readable():
                header, _ = talk.receive(preparing.MAX_LINE * 8)
                if header.get("op") == "done":
                    on_line(line)
                    break
                if header.get("op") != "said":
                    raise Ended(Outcome.REJECTED, "the recipe sent what is no message of a preparation")
                line = one_line(str(header.get("line", "")), preparing.MAX_LINE)
            if talk.look():  # some times a second, however much it says
                if line != shown:
                    on_line(line)
                    shown = line
                most_mb = max(most_mb, kitchen.cell.disk_mb())
            if time.monotonic() > deadline:
                raise Ended(Outcome.TIMED_OUT, f"the preparation took more than {limits.seconds:g} s")
        cpu_seconds = kitchen.tree.cpu_seconds()
        return max(most_mb, kitchen.cell.disk_mb()), cpu_seconds
    except frames.BrokenFrame as error:
        raise Ended(Outcome.CRASHED, "the recipe ended before it was told what to prepare") from error
    finally:
        kitchen.close()  # before anything is checked: what was checked must not change afterwards


def _check_overlap(left: artefacts.Artefact, pantry: Pantry) -> tuple[float, float]:
    """Share of the validation text's runs of 13 words that the recipe's text holds, and that the training text holds.

    The training text is read for it only where the recipe's share is large enough to matter: else 0.

    Raises:
        ArtefactRefused: the recipe's holds more of it than the training text that it was given.
    """
    validation = [text for part in Slice for text in pantry.scored(part)]
    found = overlap_of(validation, _texts_of(left)).ngram_share or 0.0
    if found <= MAX_EXTRA_OVERLAP:
        return found, 0.0
    everything = (text for corpus in pantry.corpora for text in corpus.train_documents())
    plain = overlap_of(validation, everything).ngram_share or 0.0
    if found > plain + MAX_EXTRA_OVERLAP:
        raise ArtefactRefused(
            f"{found:.2%} of the validation text stands in the recipe's text, and {plain:.2%} of it in the training text"
        )
    return found, plain


def _texts_of(left: artefacts.Artefact) -> Iterator[str]:
    """Documents of the recipe, drawn anew each time up to some megabytes, and the text of its long tokens."""
    table = left.tokenizer
    for token in range(table.get_vocab_size()):
        text = table.decode_bytes([token])
        if len(text) >= _LONG_TOKEN:
            yield text.decode(errors="replace")
    random = np.random.default_rng(int.from_bytes(os.urandom(16)))
    for group in left.groups.values():
        tokens, offsets = group.shard.open()
        room = _OVERLAP_BYTES * group.num_bytes / max(1, sum(other.num_bytes for other in left.groups.values()))
        for index in random.permutation(group.num_documents):
            if room <= 0:
                break
            text = table.decode_bytes(tokens[offsets[index] : offsets[index + 1]])
            room -= len(text)
            yield text.decode(errors="replace")


def _rows_name(part: Slice) -> str:
    return f"rows.{part}.npy"


def _sweep(home: Path) -> None:
    """Remove what killed preparations left: their folders carry the process number."""
    for path in home.glob(".making-*"):
        owner = path.name.removeprefix(".making-").split("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(path, ignore_errors=True)
