"""Prepared data: tokenizer and validation rows in one folder, and the token shards that go with them.

    <cache>/<dataset>/prepared-<key>/        whole or absent: built beside it and renamed
        tokenizer.json
        rows.{search,confirm,certify}.npy    [num_eval_rows, T+1]: the slice, packed in the order of its documents
        manifest.json                        hashes, counts, size and sha256 of each file; written last
    <cache>/<dataset>/tokens/                token shards, shared by all that is prepared with one tokenizer (`token_store`)
    <cache>/<dataset>/current-<recipe>.json  which of them is in force for these rules, so that nobody hashes a corpus

The key hashes everything the content depends on; the recipe is the same without the text.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.bpb import target_bytes
from autoresearch.contract.building import Say, aside, sweep
from autoresearch.contract.dataset_names import EMBEDDED, dataset_dir
from autoresearch.contract.file_facts import damage_of, facts_of
from autoresearch.contract.rules import CONTRACT_VERSION, Rules
from autoresearch.contract.shard_record import ALL_SHARDS, read_record
from autoresearch.contract.token_shards import Tokens, TokenShard
from autoresearch.contract.token_store import MAX_TOKENIZER_CHARACTERS, token_shards_for, tokenizer_for, tokens_dir
from autoresearch.contract.tokenizer import FILE_NAME as TOKENIZER_NAME
from autoresearch.contract.tokenizer import SPLIT_PATTERN, Tokenizer
from autoresearch.contract.tokenizing import ShardFacts, TextShard, facts_from_json
from autoresearch.contract.validation_rows import validation_rows
from autoresearch.files import DiskError, one_at_a_time, write_json
from autoresearch.vocabulary import DataCorrupt, DataMissing, Slice

FORMAT = "autoresearch-prepared"
FORMAT_VERSION = 2  # 1 held one pair of token files for all of the training text
MANIFEST_NAME = "manifest.json"

_WAITING = "another process is preparing this data: waiting for it"
_log = logging.getLogger(__name__)


class Corpus(Protocol):
    """What preparation needs of a corpus: `contract.corpora.Corpus`, or a test's own."""

    @property
    def name(self) -> str:
        """The dataset's name, which is the name of its folder in the cache."""

    @property
    def train_shards(self) -> Sequence[Path]:
        """The files of the training text, in order."""

    def shard_documents(self, shard: Path, /) -> Iterator[str]:
        """The documents of one of them in order. Is asked in other processes too: the corpus can be pickled."""

    def shard_sha256(self, shard: Path, /) -> str:
        """sha256 of one of them, in hex."""

    def validation_documents(self, part: Slice, /) -> Iterator[str]:
        """The documents of one slice in order."""

    def validation_sha256(self) -> str:
        """Hash of the validation text and of how it is cut."""


class Prepared:
    """An opened folder of prepared data. Arrays are read-only maps of the files; opening reads none of them."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        """Use `open_prepared`, `open_prepared_directory` or `prepare`, which check first."""
        self.directory = directory
        self.manifest = manifest

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 in hex of "corpus" (training text), "validation" (all slices) and "tokenizer"."""
        return dict(self.manifest["hashes"])

    @property
    def num_train_tokens(self) -> int:
        """Tokens of one epoch, without BOS."""
        return int(self.manifest["counts"]["train_tokens"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of this data.

        Raises:
            DataCorrupt: its file is not the one that was written.
        """
        try:
            tokenizer = Tokenizer.from_directory(self.directory)
        except DataCorrupt as error:
            raise DataCorrupt(error.message, hint=self._hint) from error
        if tokenizer.sha256 != self.hashes["tokenizer"]:
            raise DataCorrupt(f"{self.directory / TOKENIZER_NAME} was altered", hint=self._hint)
        return tokenizer

    @cached_property
    def shards(self) -> tuple[TokenShard, ...]:
        """The training text as token shards, in the order of the text shards. Nothing is opened yet."""
        return tuple(facts.shard_in(self.tokens_dir) for facts in self.shard_facts)

    @cached_property
    def shard_facts(self) -> tuple[ShardFacts, ...]:
        """What is known of each of `shards`."""
        return tuple(facts_from_json(entry) for entry in self.manifest["shards"])

    @property
    def tokens_dir(self) -> Path:
        """The folder of the token shards: beside `directory`, under the same dataset."""
        return tokens_dir(self.directory.parent, self.hashes["tokenizer"])

    @property
    def directories(self) -> tuple[Path, Path]:
        """Every folder that holds a part of this data."""
        return self.directory, self.tokens_dir

    def documents(self, seed: int) -> Iterator[tuple[Tokens, int]]:
        """(tokens, epoch) of one training document after the other, forever; tokens are views of the mapped file.

        Epochs count from 1. Each is a permutation of all documents, drawn by numpy's Generator from (seed, epoch).
        """
        opened = [shard.open() for shard in self.shards]
        ends = np.cumsum([shard.num_documents for shard in self.shards])
        epoch = 0
        while True:
            epoch += 1
            for index in np.random.default_rng((seed, epoch)).permutation(int(ends[-1])):
                number = int(np.searchsorted(ends, index, side="right"))
                tokens, offsets = opened[number]
                place = index - (ends[number] - len(offsets) + 1)
                yield tokens[offsets[place] : offsets[place + 1]], epoch

    def rows(self, part: Slice) -> Tokens:
        """Validation rows [num_eval_rows, T+1] of one slice; every row begins with BOS. A read-only map."""
        return self._array(_rows_name(part))

    def verify(self) -> None:
        """Hash every file: seconds on small data, minutes on a large corpus.

        Raises:
            DataCorrupt: a file is not the one that was written; the message names it.
        """
        damage = self._damage(deep=True)
        if damage:
            raise DataCorrupt(damage, hint=self._hint)

    def _damage(self, *, deep: bool = False) -> str:
        """What is wrong with a file, or nothing. By size; deep: by hash."""
        own = damage_of(self.directory, self.manifest["files"], deep=deep)
        return own or next(filter(None, (facts.damage(self.tokens_dir, deep=deep) for facts in self.shard_facts)), "")

    @property
    def _hint(self) -> str:
        return _hint_of(self.manifest)

    def _array(self, name: str) -> NDArray[Any]:
        path = self.directory / name
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataCorrupt(f"cannot read {path}: {error}", hint=self._hint) from error
        # A plain view: slicing numpy's memmap class costs several microseconds per document, a plain array's 0.2.
        return np.asarray(mapped)


def prepare(
    rules: Rules,
    corpus: Corpus,
    cache_root: Path,
    progress: Say | None = None,
    *,
    force: bool = False,
    num_processes: int | None = None,
) -> Prepared:
    """Prepare `corpus` for `rules`, put it in force, and return it; what is there and sound is used, unless `force`.

    Kill-safe: a folder appears under its name only when complete, and token shards that were finished before are found
    by the next preparation. Processes that prepare the same data at once wait for each other. `progress` gets one line
    of text now and then. num_processes: for tokenizing (default: what cores and memory allow).

    Raises:
        DataMissing: no training text, or too little text for the vocabulary or for the validation rows.
        DataCorrupt: the text cannot be read, or the tokenizer does not reproduce the validation text byte for byte.
        DiskError: the disk is full or the cache cannot be written.
    """
    say = progress or _log.info
    home = dataset_dir(corpus.name, cache_root)
    with _disk_errors(home, rules, corpus.name):
        home.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(home / ".prepare.lock", lambda: say(_WAITING)) as alone:
            if alone:
                sweep(home)
            for path, version in _older(home):
                say(f"{path} is of format {version}, which this version does not read; to remove it: rm -r {path}")
            validation = corpus.validation_sha256()
            shards = [TextShard(path, corpus.shard_sha256(path)) for path in corpus.train_shards]
            tokenizer = tokenizer_for(home, corpus, shards, rules.vocab_size, say, again=force)
            facts = token_shards_for(
                home, tokenizer, corpus, shards, say, again=force, alone=alone, num_processes=num_processes
            )
            if not sum(found.num_tokens for found in facts):
                raise DataMissing("the corpus holds no training text", hint="autoresearch prepare --contract tiny")
            hashes = {"corpus": _corpus_hash(shards), "validation": validation, "tokenizer": tokenizer.sha256}
            final = home / f"prepared-{_hash_of([*_recipe(rules), hashes])}"
            ready = None if force else _sound(final, facts, say)
            if ready is None:
                entries = [
                    {"text": shard.path.name, **asdict(found)} for shard, found in zip(shards, facts, strict=True)
                ]
                earlier = None if force else _with_these_rows(home, rules, hashes)
                with aside(final) as folder:
                    _build(folder, rules, corpus, tokenizer, hashes, entries, earlier, say)
                ready = open_prepared_directory(final)
            for number in {None, getattr(corpus, "num_shards", None)}:
                write_json(_pointer_path(home, rules, number), {"directory": final.name})
    return ready


def open_prepared(rules: Rules, corpus_name: str, cache_root: Path, *, num_shards: int | None = None) -> Prepared:
    """The prepared data in force for these rules. Reads the manifest and the sizes of the files, no text: milliseconds.

    num_shards: training shards it was made of; None is as many as were prepared last, -1 all that the dataset has.

    Raises:
        DataMissing: nothing prepared for these rules. DataCorrupt: a file is missing, truncated or has grown.
        UsageError: no such dataset can be.
    """
    home = dataset_dir(corpus_name, cache_root)
    if corpus_name == EMBEDDED:
        num_shards = None  # it is one
    if num_shards == ALL_SHARDS:
        record = read_record(home)
        num_shards = record.num_files if record else num_shards
    directory = _pointed_at(_pointer_path(home, rules, num_shards))
    if directory is None and num_shards is None:
        directory = _newest(home, _hash_of(_recipe(rules)))
    if directory is None:
        hint = _command(rules.preset, corpus_name, rules.dataset, num_shards)
        old = [version for path, version in _older(home) if _read_any(path).get("preset") == rules.preset]
        if old:
            raise DataMissing(f"{home} is prepared in format {old[0]}; this version reads {FORMAT_VERSION}", hint=hint)
        raise DataMissing(f"nothing prepared for contract {rules.preset} in {home}", hint=hint)
    return open_prepared_directory(directory)


def open_prepared_directory(directory: Path) -> Prepared:
    """The prepared data in that folder.

    Raises:
        DataMissing: no such folder or manifest. DataCorrupt: the manifest or the size of a file is wrong.
    """
    prepared = Prepared(directory, _read_manifest(directory))
    damage = prepared._damage()
    if damage:
        raise DataCorrupt(damage, hint=prepared._hint)
    return prepared


def _build(
    folder: Path,
    rules: Rules,
    corpus: Corpus,
    tokenizer: Tokenizer,
    hashes: Mapping[str, str],
    shards: Sequence[Mapping[str, Any]],
    earlier: Prepared | None,
    say: Say,
) -> None:
    """Write everything into the folder. shards: the manifest's entries. earlier: data whose validation rows are these."""
    (folder / TOKENIZER_NAME).write_text(tokenizer.to_json(), encoding="utf-8")
    counts = {
        f"train_{unit}": sum(entry[f"num_{unit}"] for entry in shards) for unit in ("documents", "tokens", "bytes")
    }
    for part in Slice:
        rows = earlier.rows(part) if earlier else validation_rows(tokenizer, corpus, part, rules)
        np.save(folder / _rows_name(part), rows)
        counts[f"{part}_bytes"] = target_bytes(rows, tokenizer.token_bytes)
    say(
        f"validation: 3 slices of {rules.num_eval_rows} rows, "
        + ("as they were" if earlier else "reproduced byte for byte")
    )
    say(f"training text: {counts['train_documents']:,} documents, {counts['train_tokens']:,} tokens")
    manifest = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "contract_version": CONTRACT_VERSION,
        "recipe": _hash_of(_recipe(rules)),
        "preset": rules.preset,
        "dataset": corpus.name,
        "command": _command(rules.preset, corpus.name, rules.dataset),
        "created": datetime.now(UTC).isoformat(),
        "vocab_size": rules.vocab_size,
        "max_seq_len": rules.max_seq_len,
        "num_eval_rows": rules.num_eval_rows,
        "hashes": dict(hashes),
        "counts": counts,
        "files": facts_of(folder, _FILE_NAMES, flush=True),
        "shards": list(shards),
    }
    write_json(folder / MANIFEST_NAME, manifest)


def _rows_name(part: Slice) -> str:
    return f"rows.{part}.npy"


_FILE_NAMES = (TOKENIZER_NAME, *map(_rows_name, Slice))


def _recipe(rules: Rules) -> list[Any]:
    """What the content depends on besides the corpus."""
    sizes = [rules.vocab_size, rules.max_seq_len, rules.num_eval_rows, MAX_TOKENIZER_CHARACTERS]
    return [CONTRACT_VERSION, FORMAT_VERSION, *sizes, SPLIT_PATTERN]


def _corpus_hash(shards: Sequence[TextShard]) -> str:
    """Hash of the training text: of the shards' content hashes, in order."""
    return hashlib.sha256("".join(f"{shard.sha256}\n" for shard in shards).encode()).hexdigest()


def _hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _pointer_path(home: Path, rules: Rules, num_shards: int | None = None) -> Path:
    """Which folder is in force: for the shards prepared last, or for that many of them."""
    count = "" if num_shards is None else f"-{num_shards}"
    return home / f"current-{_hash_of(_recipe(rules))}{count}.json"


def prepare_command(rules: Rules, dataset: str, num_shards: int | None = None) -> str:
    """What to type to prepare a dataset for these rules."""
    return _command(rules.preset, dataset, rules.dataset, num_shards)


def _command(preset: str, dataset: str, usual_dataset: str, num_shards: int | None = None) -> str:
    """What to type to prepare this."""
    which = "" if dataset == usual_dataset else f" --dataset {shlex.quote(dataset)}"
    count = "" if num_shards is None else f" --num-shards {num_shards}"
    return f"autoresearch prepare --contract {preset}{which}{count}"


def _hint_of(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['command']} --force"


def _pointed_at(pointer: Path) -> Path | None:
    """The folder that the pointer names; None when there is no pointer or it leads nowhere (then the newest counts)."""
    try:
        name = json.loads(pointer.read_bytes())["directory"]
        directory = pointer.parent / Path(name).name
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        _log.warning("%s is damaged (%s): taking the newest prepared folder", pointer, error)
        return None
    return directory if (directory / MANIFEST_NAME).is_file() else None


def _newest(home: Path, recipe: str) -> Path | None:
    """The folder of this recipe that was built last, or None."""
    found = []
    for path in home.glob(f"prepared-*/{MANIFEST_NAME}"):
        try:
            manifest = _read_manifest(path.parent)
        except DataCorrupt as error:
            _log.warning("passing over %s: %s", path.parent, error.message)
            continue
        if manifest["recipe"] == recipe:
            found.append((str(manifest["created"]), path.parent))
    return max(found)[1] if found else None


def _read_manifest(directory: Path) -> dict[str, Any]:
    """The checked manifest. Raises DataMissing when there is none, DataCorrupt when it is damaged or another format."""
    path = directory / MANIFEST_NAME
    hint = "autoresearch prepare --force"
    try:
        manifest = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataMissing(f"no prepared data at {directory}", hint="autoresearch prepare") from error
    except (OSError, ValueError) as error:
        raise DataCorrupt(f"cannot read {path}: {error}", hint=hint) from error
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, FORMAT_VERSION):
        raise DataCorrupt(f"{path} is not a manifest of {FORMAT} version {FORMAT_VERSION}", hint=hint)
    missing = {"recipe", "command", "created", "hashes", "counts", "files", "shards"} - manifest.keys()
    missing |= set(_FILE_NAMES) - set(manifest.get("files", ()))
    if missing:
        raise DataCorrupt(f"{path} lacks {', '.join(sorted(missing))}", hint=hint)
    return manifest


def _read_any(directory: Path) -> dict[str, Any]:
    """The manifest of whatever format, or an empty one when it is none."""
    try:
        manifest = json.loads((directory / MANIFEST_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else {}


def _older(home: Path) -> list[tuple[Path, int]]:
    """(folder, format version) of what earlier versions of this program prepared here."""
    found = ((path, _read_any(path).get("version")) for path in sorted(home.glob("prepared-*")))
    return [(path, version) for path, version in found if isinstance(version, int) and version < FORMAT_VERSION]


def _sound(directory: Path, facts: Sequence[ShardFacts], say: Say) -> Prepared | None:
    """The folder's data when its hashes hold and it names these token shards, which are sound; else None.

    Why not is said, and it is built again.
    """
    try:
        ready = open_prepared_directory(directory)
        damage = damage_of(directory, ready.manifest["files"], deep=True)
    except DataMissing:
        return None
    except DataCorrupt as error:
        damage = error.message
    if damage:
        say(f"{damage}: preparing again")
        return None
    return ready if ready.shard_facts == tuple(facts) else None


def _with_these_rows(home: Path, rules: Rules, hashes: Mapping[str, str]) -> Prepared | None:
    """Prepared data with the same validation rows, unaltered: other training shards with the same tokenizer."""
    for path in home.glob(f"prepared-*/{MANIFEST_NAME}"):
        try:
            earlier = open_prepared_directory(path.parent)
        except (DataMissing, DataCorrupt):
            continue
        same = all(earlier.hashes.get(name) == hashes[name] for name in ("validation", "tokenizer"))
        if not same or earlier.manifest["recipe"] != _hash_of(_recipe(rules)):
            continue
        if not damage_of(earlier.directory, earlier.manifest["files"], deep=True):
            return earlier
    return None


@contextmanager
def _disk_errors(home: Path, rules: Rules, dataset: str) -> Iterator[None]:
    """Turns the operating system's refusal to write into our error, with the command to repeat."""
    command = _command(rules.preset, dataset, rules.dataset)
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(
                f"disk full while preparing in {home}", hint=f"free some space (df -h), then: {command}"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            hint = f"export AUTORESEARCH_CACHE=/a/folder/you/can/write, then: {command}"
            raise DiskError(f"cannot write {home}: {error.strerror}", hint=hint) from error
        raise
