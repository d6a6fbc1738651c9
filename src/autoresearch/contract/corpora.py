"""What text there is: the embedded corpus and folders of parquet shards, read as a stream of documents.

A corpus has training shards and three slices of validation text. A shard is a parquet file with a string column
`text`, one document a row; a training shard holds no validation document. Nothing here downloads: `sources` puts shards
into the cache, and says in a record beside them (`contract.shard_record`) which there are and what they must hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autoresearch.contract.dataset_names import (
    EMBEDDED,
    DatasetName,
    canonical,
    dataset_dir,
    parse_dataset,
    prepare_command,
)
from autoresearch.contract.shard_record import ALL_SHARDS, check_size, read_record
from autoresearch.vocabulary import DataCorrupt, DataMissing, Slice, UsageError

EMBEDDED_PACKAGE = "autoresearch_corpus"
MANIFEST_FORMAT = 1
_REINSTALL = "pip install --force-reinstall --no-deps autoresearch (in a clone of the repository: pip install -e .)"
_HASH_CHUNK = 1 << 20  # bytes
_hashed: dict[tuple[str, int, int, int, int], str] = {}


class CorpusKind(StrEnum):
    """Where a corpus comes from."""

    EMBEDDED = "embedded"  # in the package, its files pinned by a manifest
    SHARDS = "shards"  # a folder in the cache, its files pinned by a record


@dataclass(frozen=True)
class Span:
    """Documents `start` to `stop` (exclusive; None is the end) of one shard."""

    path: Path
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Corpus:
    """Training text and three slices of validation text.

    `train_shards` are in order and hold training text only: a recipe may be given them file by file. `pinned` holds the
    sha256 that each file must have. `num_shards` is how many of the source's training files they come from, None where
    that is no choice.
    """

    name: str
    kind: CorpusKind
    train_shards: tuple[Path, ...]
    validation: Mapping[Slice, Span]
    pinned: Mapping[Path, str]
    hint: str  # what to type when a file of this corpus is damaged
    num_shards: int | None = None

    def train_documents(self) -> Iterator[str]:
        """Every training document once, shard by shard.

        Raises:
            DataCorrupt, DataMissing: as `read_documents`.
        """
        for shard in self.train_shards:
            yield from self.shard_documents(shard)

    def shard_documents(self, shard: Path) -> Iterator[str]:
        """The documents of one training shard, in the order of the file.

        Raises:
            DataCorrupt, DataMissing: as `read_documents`.
        """
        return read_documents(shard, hint=self.hint)

    def shard_sha256(self, shard: Path) -> str:
        """sha256 of one training shard's file, in hex.

        Raises:
            DataCorrupt, DataMissing: as `train_sha256`.
        """
        return self._file_sha256(shard)

    def validation_documents(self, part: Slice) -> Iterator[str]:
        """The documents of one slice, in the order of the file.

        Raises:
            DataCorrupt, DataMissing: as `read_documents`.
        """
        span = self.validation[part]
        return read_documents(span.path, start=span.start, stop=span.stop, hint=self.hint)

    def train_sha256(self) -> str:
        """Hash of the training text: of the shards' content hashes, in order. Hex; reads every byte of every shard.

        Raises:
            DataCorrupt: a file is not the one its manifest pins.
            DataMissing: a file has gone.
        """
        return self._sha256_of(self.train_shards)

    def validation_sha256(self) -> str:
        """Hash of the validation text of all three slices and of how it is cut: what a fingerprint holds.

        Raises:
            DataCorrupt, DataMissing: as `train_sha256`.
        """
        digest = hashlib.sha256()
        for part in Slice:
            span = self.validation[part]
            digest.update(f"{part} {self._file_sha256(span.path)} {span.start} {span.stop}\n".encode())
        return digest.hexdigest()

    def corpus_sha256(self) -> str:
        """Hash of everything: training shards, then validation shards.

        Raises:
            DataCorrupt, DataMissing: as `train_sha256`.
        """
        validation = dict.fromkeys(self.validation[part].path for part in Slice)
        return self._sha256_of((*self.train_shards, *validation))

    def _sha256_of(self, paths: tuple[Path, ...]) -> str:
        digest = hashlib.sha256()
        for path in paths:
            digest.update(f"{self._file_sha256(path)}\n".encode())
        return digest.hexdigest()

    def _file_sha256(self, path: Path) -> str:
        found = file_sha256(path, hint=self.hint)
        expected = self.pinned.get(path, found)
        if found != expected:
            raise DataCorrupt(f"{path} was altered: sha256 {found[:16]}…, expected {expected[:16]}…", hint=self.hint)
        return found


def cache_root() -> Path:
    """Where prepared data lies: `$AUTORESEARCH_CACHE`, or `$XDG_CACHE_HOME/autoresearch`, or `~/.cache/autoresearch`.

    The XDG base directory specification says that a relative XDG_CACHE_HOME is to be ignored. Creates nothing.

    Raises:
        UsageError: AUTORESEARCH_CACHE is relative, or there is no home directory.
    """
    own = os.environ.get("AUTORESEARCH_CACHE", "")
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if own:
            path = Path(own).expanduser()
            if not path.is_absolute():
                raise UsageError(
                    f"AUTORESEARCH_CACHE is a relative path: {own}",
                    hint=f"export AUTORESEARCH_CACHE={shlex.quote(str(path.absolute()))}",
                )
            return path
        return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "autoresearch"
    except RuntimeError as error:
        raise UsageError("no home directory for the cache", hint="export AUTORESEARCH_CACHE=/some/folder") from error


def open_corpus(dataset: str, root: Path, *, num_shards: int | None = None) -> Corpus:
    """The corpus of that dataset in the cache `root`. Looks at names and sizes, reads no training text.

    num_shards: training files of the source; None is as many as were prepared last, -1 all there are.

    Raises:
        UsageError: no such dataset; the message names the known ones.
        DataMissing: the package, a shard or the folder is not there; the hint is the command that gets it.
        DataCorrupt: a file has the wrong size, or a record cannot be read.
    """
    if dataset == EMBEDDED:
        return _open_embedded()
    return _open_shards(parse_dataset(dataset), root, num_shards)


def transfer_documents() -> Iterator[str]:
    """The second domain (public addresses), never trained on: does a gain on the novels hold elsewhere?

    Raises:
        DataCorrupt, DataMissing: as `read_documents`.
    """
    folder = _embedded_dir()
    return read_documents(_embedded_file(folder, _manifest(folder), "addresses.parquet"), hint=_REINSTALL)


def file_sha256(path: Path, *, hint: str = "") -> str:
    """sha256 of a file's content in hex, a mebibyte at a time.

    A file that this process has hashed is not read again while its inode, size and time of change stay: `prepare` asks
    for the same hashes when it looks for damage, when it names the corpus and when it writes them down.

    Raises:
        DataMissing: there is no such file.
        DataCorrupt: the disk cannot read it.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            key = (str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if key in _hashed:
                return _hashed[key]
            while chunk := stream.read(_HASH_CHUNK):
                digest.update(chunk)
    except FileNotFoundError as error:
        raise DataMissing(f"no file {path}", hint=hint or _refetch(path)) from error
    except OSError as error:
        raise DataCorrupt(f"cannot read {path}: {error.strerror}", hint=hint or _refetch(path)) from error
    _hashed[key] = digest.hexdigest()
    return _hashed[key]


def num_documents(path: Path, *, hint: str = "") -> int:
    """Documents in a shard, from its footer.

    Raises:
        DataMissing, DataCorrupt: as `read_documents`.
    """
    with _Shard(path, hint) as shard:
        return shard.num_rows


def read_documents(path: Path, *, start: int = 0, stop: int | None = None, hint: str = "") -> Iterator[str]:
    """Documents `start` to `stop` (exclusive) of a shard; one row group in memory at a time.

    Raises, when the first document or the damaged row group is asked for:
        DataMissing: there is no such file.
        DataCorrupt: not parquet, truncated, a page fails its checksum, no string column `text`, or a null in it.
    """
    with _Shard(path, hint) as shard:
        end = shard.num_rows if stop is None else min(stop, shard.num_rows)
        first = 0  # number of the row group's first document
        for group, size in enumerate(shard.group_sizes):
            if first < end and first + size > start:
                texts = shard.read_group(group)
                yield from texts[max(0, start - first) : end - first]
            first += size


class _Shard:
    """The one door to pyarrow: its errors become ours, naming the file and what to type next."""

    def __init__(self, path: Path, hint: str) -> None:
        self.path = path
        self.hint = hint or _refetch(path)

    def __enter__(self) -> _Shard:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.path.is_file():
            raise DataMissing(f"no file {self.path}", hint=self.hint)
        try:
            self._file = pq.ParquetFile(self.path, page_checksum_verification=True)
            schema = self._file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._corrupt(f"not a whole parquet file ({_first_line(error)})") from error
        if "text" not in schema.names:
            self._file.close()
            raise self._corrupt(f"no column `text`, only {', '.join(schema.names) or 'none at all'}")
        kind = schema.field("text").type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            self._file.close()
            raise self._corrupt(f"column `text` holds {kind}, not strings")
        metadata = self._file.metadata
        self.num_rows = int(metadata.num_rows)
        self.group_sizes = [int(metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups)]
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read_group(self, group: int) -> list[str]:
        """The documents of one row group."""
        import pyarrow as pa

        try:
            texts: list[str | None] = self._file.read_row_group(group, columns=["text"]).column("text").to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: UTF-8 that is none
            raise self._corrupt(f"row group {group} cannot be read ({_first_line(error)})") from error
        whole = [text for text in texts if text is not None]
        if len(whole) != self.group_sizes[group]:
            missing = self.group_sizes[group] - len(whole)
            raise self._corrupt(f"{missing} rows of row group {group} hold no text")
        return whole

    def _corrupt(self, what: str) -> DataCorrupt:
        return DataCorrupt(f"{self.path}: {what}", hint=self.hint)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _refetch(path: Path) -> str:
    return f"rm -f {shlex.quote(str(path))}, put a whole copy there, then: autoresearch prepare"


# ---- the embedded corpus ---------------------------------------------------------------------------------------------


def _open_embedded() -> Corpus:
    folder = _embedded_dir()
    manifest = _manifest(folder)
    train = _embedded_file(folder, manifest, "train.parquet")
    validation = {part: Span(_embedded_file(folder, manifest, f"{part}.parquet")) for part in Slice}
    paths = (train, *(span.path for span in validation.values()))
    pinned = {path: str(manifest["files"][path.name]["sha256"]) for path in paths}
    return Corpus(EMBEDDED, CorpusKind.EMBEDDED, (train,), validation, pinned, _REINSTALL)


def _embedded_dir() -> Path:
    """The package's folder, found without importing it."""
    spec = find_spec(EMBEDDED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataMissing(f"the package {EMBEDDED_PACKAGE} is not installed", hint=_REINSTALL)
    return Path(next(iter(spec.submodule_search_locations)))


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataMissing(f"no file {path}", hint=_REINSTALL) from error
    except ValueError as error:
        raise DataCorrupt(f"{path} is not JSON: {error}", hint=_REINSTALL) from error
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        raise DataCorrupt(f"{path} is not a manifest of format {MANIFEST_FORMAT}", hint=_REINSTALL)
    return manifest


def _embedded_file(folder: Path, manifest: Mapping[str, Any], name: str) -> Path:
    path = folder / name
    try:
        expected = int(manifest["files"][name]["file_bytes"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataCorrupt(f"{folder / 'manifest.json'} does not describe {name}", hint=_REINSTALL) from error
    if not path.is_file():
        raise DataMissing(f"no file {path}", hint=_REINSTALL)
    if path.stat().st_size != expected:
        raise DataCorrupt(f"{path} has {path.stat().st_size} bytes, expected {expected}", hint=_REINSTALL)
    return path


# ---- folders of shards -----------------------------------------------------------------------------------------------


def _open_shards(name: DatasetName, root: Path, num_shards: int | None) -> Corpus:
    dataset = canonical(name)
    folder = dataset_dir(dataset, root)
    record = read_record(folder)
    command = prepare_command(dataset, num_shards=num_shards)
    if record is None or not record.num_shards:
        raise DataMissing(f"no shards of {dataset} in {folder}", hint=command)
    wanted = record.num_shards if num_shards is None else num_shards
    if wanted == ALL_SHARDS:
        wanted = record.num_files
    chosen = record.first(wanted)
    if chosen is None:
        raise DataMissing(
            f"{record.num_ready} of the {wanted} training files of {dataset} that are wanted are there", hint=command
        )
    for shard in (*chosen, record.validation):
        check_size(folder, shard, hint=command)
    pinned = {folder / shard.file: shard.sha256 for shard in (*chosen, record.validation)}
    train = tuple(folder / shard.file for shard in chosen)
    validation = _thirds(folder / record.validation.file, command)
    return Corpus(dataset, CorpusKind.SHARDS, train, validation, pinned, command, wanted)


def _thirds(path: Path, hint: str) -> dict[Slice, Span]:
    """Three contiguous thirds of a shard's documents, one for each slice."""
    total = num_documents(path, hint=hint)
    if total < len(Slice):
        raise DataCorrupt(f"{path}: {total} documents cannot be cut into {len(Slice)} slices", hint=hint)
    return {part: Span(path, total * i // len(Slice), total * (i + 1) // len(Slice)) for i, part in enumerate(Slice)}
