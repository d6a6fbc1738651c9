"""Prepared data: tokenizer, training tokens and validation rows in one folder, built once and then memory-mapped.

    <cache>/<dataset>/prepared-<key>/        whole or absent: built beside it and renamed
        tokenizer.json
        train.tokens.npy                     every training document's tokens, end to end, without BOS
        train.offsets.npy                    int64 [num_documents + 1]: document i is tokens[offsets[i]:offsets[i+1]]
        rows.{search,confirm,certify}.npy    [num_eval_rows, T+1]: the slice, packed in the order of its documents
        manifest.json                        hashes, counts, size and sha256 of each file; written last
    <cache>/<dataset>/current-<recipe>.json  which of them is in force for these rules, so that nobody hashes a corpus

The key hashes everything the content depends on; the recipe is the same without the corpus.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.bpb import target_bytes
from autoresearch.contract.packing import pack_rows
from autoresearch.contract.rules import CONTRACT_VERSION, Rules
from autoresearch.contract.tokenizer import FILE_NAME as TOKENIZER_NAME
from autoresearch.contract.tokenizer import SPLIT_PATTERN, Tokenizer, train_tokenizer
from autoresearch.files import DiskError, write_json
from autoresearch.vocabulary import DataCorrupt, DataMissing, Slice

Tokens = NDArray[np.unsignedinteger[Any]]
Say = Callable[[str], object]

FORMAT = "autoresearch-prepared"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
TOKENS_NAME = "train.tokens.npy"
OFFSETS_NAME = "train.offsets.npy"

MAX_TOKENIZER_CHARACTERS = 1_000_000_000  # of the published benchmark; merges stop changing long before
_DOCUMENTS_AT_A_TIME = 256  # per round of the encoder's threads: some megabytes of text in memory
_SAY_EVERY = 100_000  # documents between two lines of progress

_log = logging.getLogger(__name__)


class Corpus(Protocol):
    """What preparation needs of a corpus: `contract.corpora.Corpus`, or a test's own."""

    @property
    def name(self) -> str:
        """The dataset's name, which is the name of its folder in the cache."""

    def train_documents(self) -> Iterator[str]:
        """Every training document once."""

    def validation_documents(self, part: Slice, /) -> Iterator[str]:
        """The documents of one slice in order."""

    def train_sha256(self) -> str:
        """Hash of the training text."""

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

    def documents(self, seed: int) -> Iterator[tuple[Tokens, int]]:
        """(tokens, epoch) of one training document after the other, forever; tokens are views of the mapped file.

        Epochs count from 1. Each is a permutation of all documents, drawn by numpy's Generator from (seed, epoch).
        """
        tokens, offsets = self._array(TOKENS_NAME), self._array(OFFSETS_NAME)
        epoch = 0
        while True:
            epoch += 1
            for index in np.random.default_rng((seed, epoch)).permutation(len(offsets) - 1):
                yield tokens[offsets[index] : offsets[index + 1]], epoch

    def rows(self, part: Slice) -> Tokens:
        """Validation rows [num_eval_rows, T+1] of one slice; every row begins with BOS. A read-only map."""
        return self._array(_rows_name(part))

    def verify(self) -> None:
        """Hash every file: seconds on small data, minutes on a large corpus.

        Raises:
            DataCorrupt: a file is not the one that was written; the message names it.
        """
        _check_sizes(self.directory, self.manifest)
        for name, facts in self.manifest["files"].items():
            if _file_sha256(self.directory / name) != facts["sha256"]:
                raise DataCorrupt(f"{self.directory / name} was altered", hint=self._hint)

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
    rules: Rules, corpus: Corpus, cache_root: Path, progress: Say | None = None, *, force: bool = False
) -> Prepared:
    """Prepare `corpus` for `rules`, put it in force, and return it; what is there and sound is used, unless `force`.

    Kill-safe: a folder appears under its name only when complete. Processes that prepare the same data at once wait
    for each other. `progress` gets one line of text now and then.

    Raises:
        DataMissing: no training text, or too little text for the vocabulary or for the validation rows.
        DataCorrupt: the text cannot be read, or the tokenizer does not reproduce the validation text byte for byte.
        DiskError: the disk is full or the cache cannot be written.
    """
    say = progress or _log.info
    home = cache_root / corpus.name
    hashes = {"corpus": corpus.train_sha256(), "validation": corpus.validation_sha256()}
    final = home / f"prepared-{_hash_of([*_recipe(rules), hashes])}"
    with _disk_errors(home, rules, corpus.name):
        home.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(home / ".prepare.lock", say) as alone:
            if alone:
                _sweep(home)
            ready = None if force else _sound(final, say)
            if ready is None:
                _build_aside(final, rules, corpus, hashes, say)
                ready = open_prepared_directory(final)
            write_json(_pointer_path(home, rules), {"directory": final.name})
    return ready


def open_prepared(rules: Rules, corpus_name: str, cache_root: Path) -> Prepared:
    """The prepared data in force for these rules. Reads the manifest and the sizes of the files, no text: milliseconds.

    Raises:
        DataMissing: nothing prepared for these rules. DataCorrupt: a file is missing, truncated or has grown.
    """
    home = cache_root / corpus_name
    directory = _pointed_at(_pointer_path(home, rules)) or _newest(home, _hash_of(_recipe(rules)))
    if directory is None:
        hint = _command(rules.preset, corpus_name, rules.dataset)
        raise DataMissing(f"nothing prepared for contract {rules.preset} in {home}", hint=hint)
    return open_prepared_directory(directory)


def open_prepared_directory(directory: Path) -> Prepared:
    """The prepared data in that folder.

    Raises:
        DataMissing: no such folder or manifest. DataCorrupt: the manifest or the size of a file is wrong.
    """
    manifest = _read_manifest(directory)
    _check_sizes(directory, manifest)
    return Prepared(directory, manifest)


def _build_aside(final: Path, rules: Rules, corpus: Corpus, hashes: Mapping[str, str], say: Say) -> None:
    """Build in a sibling folder, then give it its name. Whoever has the old folder open keeps reading the old one."""
    aside = final.parent / f".preparing-{os.getpid()}-{secrets.token_hex(4)}"
    old = aside.with_name(aside.name + "-old") if final.exists() else None
    aside.mkdir()
    try:
        _build(aside, rules, corpus, hashes, say)
        if old:
            final.rename(old)
        _give_name(aside, final)
        if old:
            shutil.rmtree(old)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _give_name(aside: Path, final: Path) -> None:
    """Rename, unless another process, where there are no locks, was first: its data is the same, and ours goes."""
    try:
        aside.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(aside)


def _build(folder: Path, rules: Rules, corpus: Corpus, hashes: Mapping[str, str], say: Say) -> None:
    say(f"training a tokenizer of {rules.vocab_size} tokens on {corpus.name}")
    tokenizer = train_tokenizer(_capped(corpus.train_documents(), MAX_TOKENIZER_CHARACTERS), rules.vocab_size)
    (folder / TOKENIZER_NAME).write_text(tokenizer.to_json(), encoding="utf-8")
    counts = {}
    for part in Slice:
        rows = _validation_rows(tokenizer, corpus, part, rules)
        np.save(folder / _rows_name(part), rows)
        counts[f"{part}_bytes"] = target_bytes(rows, tokenizer.token_bytes)
    say(f"validation: 3 slices of {rules.num_eval_rows} rows, reproduced byte for byte")
    documents, tokens = _write_training_tokens(folder, tokenizer, corpus, say)
    say(f"training text: {documents:,} documents, {tokens:,} tokens")
    files = {}
    for name in _FILE_NAMES:
        files[name] = {"bytes": (folder / name).stat().st_size, "sha256": _file_sha256(folder / name, flush=True)}
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
        "hashes": {**hashes, "tokenizer": tokenizer.sha256},
        "counts": {"train_documents": documents, "train_tokens": tokens, **counts},
        "files": files,
    }
    write_json(folder / MANIFEST_NAME, manifest)


def _validation_rows(tokenizer: Tokenizer, corpus: Corpus, part: Slice, rules: Rules) -> Tokens:
    """[num_eval_rows, T+1]: the first rows that the packer makes of the slice's documents in order."""
    documents = _reproduced(tokenizer, corpus.validation_documents(part), part)
    packed = pack_rows(documents, rules.max_seq_len + 1, tokenizer.get_bos_token_id())
    rows = list(islice(packed, rules.num_eval_rows))
    if len(rows) < rules.num_eval_rows:
        raise DataMissing(
            f"the {part} slice of {corpus.name} fills {len(rows)} of the {rules.num_eval_rows} rows that a score needs",
            hint="add validation text, or take a contract that scores less of it: autoresearch prepare --contract tiny",
        )
    return np.stack(rows)


def _reproduced(tokenizer: Tokenizer, documents: Iterable[str], part: Slice) -> Iterator[Tokens]:
    """Tokens of each document, having seen that they decode to its very bytes: a score counts the text's own bytes.

    Raises:
        DataCorrupt: they do not.
    """
    for text, tokens in _encoded(tokenizer, documents):
        if tokenizer.decode_bytes(tokens) != text.encode():
            raise DataCorrupt(
                f"the tokenizer does not reproduce the {part} text: {text[:60]!r}…",
                hint="autoresearch doctor, and report the versions of rustbpe and tiktoken",
            )
        yield tokens


def _write_training_tokens(folder: Path, tokenizer: Tokenizer, corpus: Corpus, say: Say) -> tuple[int, int]:
    """Stream the training tokens to disk; how many documents and tokens there are. Never the whole text in memory."""
    offsets = [0]
    with (folder / TOKENS_NAME).open("wb") as stream:
        # The length is known at the end. numpy pads headers so that the first axis can grow in place.
        _write_npy_header(stream, tokenizer.dtype, 0)
        start = stream.tell()
        for _, tokens in _encoded(tokenizer, corpus.train_documents()):
            if len(tokens):
                stream.write(tokens.tobytes())
                offsets.append(offsets[-1] + len(tokens))
                if len(offsets) % _SAY_EVERY == 0:
                    say(f"encoded {len(offsets):,} documents, {offsets[-1]:,} tokens")
        stream.seek(0)
        _write_npy_header(stream, tokenizer.dtype, offsets[-1])
        assert stream.tell() == start, "this numpy does not pad headers; autoresearch needs numpy 1.26 or newer"
    np.save(folder / OFFSETS_NAME, np.array(offsets, dtype=np.int64))
    return len(offsets) - 1, offsets[-1]


def _write_npy_header(stream: Any, dtype: type[np.unsignedinteger[Any]], length: int) -> None:
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(stream, header)


def _encoded(tokenizer: Tokenizer, documents: Iterable[str]) -> Iterator[tuple[str, Tokens]]:
    """Each document with its tokens, encoded some at a time on the tokenizer's threads."""
    source = iter(documents)
    while texts := list(islice(source, _DOCUMENTS_AT_A_TIME)):
        yield from zip(texts, tokenizer.encode_documents(texts), strict=True)


def _capped(documents: Iterator[str], max_characters: int) -> Iterator[str]:
    """The documents up to that many characters in all, the last one cut.

    Raises:
        DataMissing: there is no text at all.
    """
    first = next((text for text in documents if text), None)
    if first is None:
        raise DataMissing("the corpus holds no training text", hint="autoresearch prepare --contract tiny")
    left = max_characters
    for text in chain([first], documents):
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def _rows_name(part: Slice) -> str:
    return f"rows.{part}.npy"


_FILE_NAMES = (TOKENIZER_NAME, TOKENS_NAME, OFFSETS_NAME, *map(_rows_name, Slice))


def _recipe(rules: Rules) -> list[Any]:
    """What the content depends on besides the corpus."""
    return [CONTRACT_VERSION, FORMAT_VERSION, rules.vocab_size, rules.max_seq_len, rules.num_eval_rows, SPLIT_PATTERN]


def _hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _pointer_path(home: Path, rules: Rules) -> Path:
    return home / f"current-{_hash_of(_recipe(rules))}.json"


def _command(preset: str, dataset: str, usual_dataset: str) -> str:
    """What to type to prepare this."""
    return f"autoresearch prepare --contract {preset}" + (f" --dataset {dataset}" if dataset != usual_dataset else "")


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
    missing = {"recipe", "command", "created", "hashes", "counts", "files"} - manifest.keys()
    missing |= set(_FILE_NAMES) - set(manifest.get("files", ()))
    if missing:
        raise DataCorrupt(f"{path} lacks {', '.join(sorted(missing))}", hint=hint)
    return manifest


def _check_sizes(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Raises DataCorrupt unless every file is there with its size."""
    for name, facts in manifest["files"].items():
        path = directory / name
        size = path.stat().st_size if path.is_file() else None
        if size != facts["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise DataCorrupt(f"{path} {found}; it was written with {facts['bytes']}", hint=_hint_of(manifest))


def _sound(directory: Path, say: Say) -> Prepared | None:
    """The folder's data when every hash holds; None when there is none or it is damaged (said, then built again)."""
    try:
        ready = open_prepared_directory(directory)
        ready.verify()
    except DataMissing:
        return None
    except DataCorrupt as error:
        say(f"{error.message}: preparing again")
        return None
    return ready


def _file_sha256(path: Path, *, flush: bool = False) -> str:
    with path.open("rb") as stream:
        if flush:  # a power cut after the rename must not leave a file of zeros under a good name
            os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sweep(home: Path) -> None:
    """Remove what killed preparations left. Only under the lock: nobody else is building then."""
    for path in home.glob(".preparing-*"):
        shutil.rmtree(path)


@contextmanager
def _one_at_a_time(path: Path, say: Say) -> Iterator[bool]:
    """Hold the lock; the kernel drops it when the process dies. False where the file system has no locks.

    Without locks two processes do the work twice and one rename wins: both results are the same.
    """
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is preparing this data: waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            _log.warning("no file locks in %s: not waiting for others", path.parent)
            yield False
            return
        yield True


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
