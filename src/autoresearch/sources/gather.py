"""Gets a dataset's text into the cache, whatever it is: the Hub's, the user's own files, or the embedded corpus.

What is there and whole is used without a word to the network; what is missing or damaged is named and got again. A dataset
stays at the commit it was first got at, so that no two of its shards come from different versions.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoresearch.contract.corpora import Corpus, file_sha256, open_corpus
from autoresearch.contract.dataset_names import (
    EMBEDDED,
    FILES_FORMAT,
    FILES_VERSION,
    FilesName,
    HubName,
    KnownName,
    canonical,
    dataset_dir,
    files_folder,
    note_path,
    own_files,
    parse_dataset,
    prepare_command,
    read_note,
    stamps_of,
)
from autoresearch.contract.shard_record import ALL_SHARDS, Shard, ShardRecord
from autoresearch.files import one_at_a_time, write_json
from autoresearch.sources.hub import Hub, HubUnreachable, RemoteFile, Repository, matches
from autoresearch.sources.layout import converted_configs, layout_of, split_named
from autoresearch.sources.looking import Looking, SourceFile
from autoresearch.sources.overlap import Look, Overlap, overlap_of
from autoresearch.sources.registry import HubSource, hub_source
from autoresearch.sources.shards import held_out_share
from autoresearch.sources.shelf import GIVEN, INCOMING, Shelf
from autoresearch.sources.telling import Silent, Tell
from autoresearch.vocabulary import AutoresearchError, DataCorrupt, DataMissing, Slice, UsageError

DEFAULT_WORKERS = 4  # downloads at once: enough to fill a link, few enough for the Hub's limits without a token
# Of a dataset nobody has described to us as much is taken as this; more is asked for with --num-shards.
DEFAULT_BYTES = 5_000_000_000
_PARQUET_BRANCH = "refs/convert/parquet"  # where the Hub keeps its own conversion of datasets made by a script


@dataclass(frozen=True)
class Gathered:
    """A dataset that is whole on this disk.

    num_files: training files that its source has; num_shards: how many of them are in use, None where that is no choice.
    bytes: of all shards in use. fetched_bytes: what came over the network this time.
    """

    dataset: str
    directory: Path
    source: Mapping[str, Any]
    num_files: int
    num_shards: int | None
    shards: tuple[Shard, ...]
    validation: Shard | None
    bytes: int
    fetched_bytes: int
    overlap: Overlap
    corpus: Corpus


def gather(
    dataset: str,
    root: Path,
    *,
    num_shards: int | None = None,
    workers: int = DEFAULT_WORKERS,
    tell: Tell | None = None,
    command: str = "",
) -> Gathered:
    """Have a dataset whole in the cache `root`. Safe to kill and to run twice at once; processes wait for each other.

    num_shards: training files; -1: all; None: as many as last time, at first the dataset's default. command: what the
    user typed, to be typed again after an error.

    Raises:
        UsageError: no such dataset, configuration, split or column, or a number of shards it does not have.
        DataMissing: something could not be got; the message names all of it, what could be got is kept.
        DataCorrupt: the source itself is damaged. DiskError: the disk is full or cannot be written.
    """
    if num_shards is not None and num_shards != ALL_SHARDS and num_shards < 1:
        raise UsageError(f"--num-shards {num_shards}: wanted 1 or more, or -1 for all", hint=prepare_command(dataset))
    name = parse_dataset(dataset)
    if isinstance(name, KnownName) and name.name == EMBEDDED:
        return _embedded(root)
    tell = tell or Silent()
    command = command or prepare_command(dataset, num_shards=num_shards)
    if isinstance(name, FilesName):
        found = _OwnFiles(name, root, tell).gather(num_shards)
    else:
        found = _FromHub(name, root, tell, workers, command).gather(num_shards)
    return replace(found, corpus=replace(found.corpus, hint=command))


def _embedded(root: Path) -> Gathered:
    corpus = open_corpus(EMBEDDED, root)
    held_out = [text for part in Slice for text in corpus.validation_documents(part)]
    overlap = overlap_of(held_out, corpus.train_documents())
    paths = [*corpus.train_shards, *(span.path for span in corpus.validation.values())]
    size = sum(path.stat().st_size for path in paths)
    source = {"kind": "package"}
    return Gathered(EMBEDDED, paths[0].parent, source, 1, None, (), None, size, 0, overlap, corpus)


def _gathered(shelf: Shelf, name: str, root: Path, num_shards: int, fetched: int, overlap: Overlap) -> Gathered:
    record = shelf.record
    assert record is not None
    shards = record.first(num_shards)
    assert shards is not None
    size = sum(shard.bytes for shard in (*shards, record.validation))
    corpus = open_corpus(name, root, num_shards=num_shards)
    source, validation = record.source, record.validation
    return Gathered(
        name, shelf.folder, source, record.num_files, num_shards, shards, validation, size, fetched, overlap, corpus
    )


def _checked_number(num_shards: int | None, record: ShardRecord | None, default: int, num_files: int, name: str) -> int:
    """How many shards are wanted, of so many: as many as last time when nothing is said, at first the default."""
    if num_shards is None:
        return record.num_shards if record and record.num_shards else min(default, num_files)
    if num_shards == ALL_SHARDS:
        return num_files
    if num_shards > num_files:
        raise UsageError(
            f"{name} has {num_files} training shards, not {num_shards}",
            hint=prepare_command(name, num_shards=ALL_SHARDS),
        )
    return num_shards


# ---- the Hub ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What there is to get. `hub` None: the files lie in the folder already and nobody could be asked."""

    hub: Hub | None
    repository: Repository | None
    source: Mapping[str, Any]
    training: tuple[RemoteFile, ...]
    validation: tuple[RemoteFile, ...]
    default: int


class _FromHub:
    def __init__(self, name: KnownName | HubName, root: Path, tell: Tell, workers: int, command: str) -> None:
        self._name = canonical(name)
        self._root = root
        self._source: HubSource = hub_source(name)
        self._tell = tell
        self._workers = max(1, workers)
        self._folder = dataset_dir(self._name, root)
        self._suffix = ""
        self._fetched = 0
        self._command = command

    def gather(self, num_shards: int | None) -> Gathered:
        lock = one_at_a_time(
            self._folder / ".gather.lock",
            lambda: self._tell.say(f"another process is getting {self._name}: waiting for it"),
        )
        with lock as alone:
            self._suffix = "" if alone else f"-{os.getpid()}"
            column = self._source.name.column
            joins = self._source.lines_are_articles
            shelf = Shelf(self._folder, self._name, self._tell, column=column, lines_are_articles=joins, alone=alone)
            wanted = self._complete(shelf, num_shards)
            if wanted is None:
                wanted = self._get(shelf, num_shards)
            overlap = shelf.finish(wanted)
            return _gathered(shelf, self._name, self._root, wanted, self._fetched, overlap)

    def _complete(self, shelf: Shelf, num_shards: int | None) -> int | None:
        """How many training files are in use when all of them are there and whole; None when something is missing."""
        record = shelf.record
        if record is None or (num_shards is None and not record.num_shards):
            return None
        wanted = _checked_number(num_shards, record, record.num_files, record.num_files, self._name)
        for line in shelf.drop_damaged(wanted):
            self._tell.say(f"{line}: getting it again")
        return None if shelf.needs_validation() or shelf.missing(wanted) else wanted

    def _get(self, shelf: Shelf, num_shards: int | None) -> int:
        plan = self._plan(shelf, num_shards)
        if not plan.validation:
            self._hold_out(shelf, plan)
            assert shelf.record is not None
            default = self._source.num_shards or shelf.record.num_files
            return _checked_number(num_shards, shelf.record, default, shelf.record.num_files, self._name)
        num_files = len(plan.training)
        wanted = _checked_number(num_shards, shelf.record, plan.default, num_files, self._name)
        if num_shards is None and wanted < num_files:
            self._tell.say(f"{wanted} of {num_files} training files; --num-shards N takes others, -1 all of them")
        if shelf.needs_validation() or (shelf.record and shelf.record.source != plan.source):
            files = self._all(plan, dict(enumerate(plan.validation)))
            shelf.adopt_validation([files[at] for at in sorted(files)], plan.source, num_files)
        numbers = shelf.missing(wanted)
        self._all(plan, {number: plan.training[number] for number in numbers}, shelf)
        return wanted

    def _hold_out(self, shelf: Shelf, plan: _Plan) -> None:
        files = self._all(plan, dict(enumerate(plan.training)))
        share = held_out_share(sum(file.bytes for file in plan.training))
        shelf.convert([files[at] for at in sorted(files)], [], plan.source, share)

    def _plan(self, shelf: Shelf, num_shards: int | None) -> _Plan:
        """What to get, at the commit of what is there."""
        source = self._source.name
        record = shelf.record
        commit = record.source.get("commit") if record else None
        try:
            hub = Hub()
            repository = hub.repository(source.repository, commit or source.revision)
            layout = self._layout(hub, repository)
        except HubUnreachable as error:
            if record is not None and record.source.get("kind") != "folder":
                raise self._offline(error, shelf, num_shards) from error
            return self._from_folder(error)
        repository, layout = layout
        if not layout.training:
            raise DataMissing(
                f"{self._name} has no data files that we read", hint="autoresearch prepare --contract tiny"
            )
        training = tuple(repository.files[path] for path in layout.training)
        validation = tuple(repository.files[path] for path in layout.validation)
        described = {
            "kind": "hub",
            "repository": source.repository,
            "revision": source.revision or "main",
            "commit": repository.commit,
        }
        return _Plan(hub, repository, described, training, validation, self._default(training))

    def _layout(self, hub: Hub, repository: Repository) -> Any:
        """The repository, or the Hub's own conversion of it, and its layout."""
        source = self._source
        layout = layout_of(source, repository.files, repository.configs)
        if layout.training or source.files is not None:
            return repository, layout
        converted = hub.repository(source.name.repository, _PARQUET_BRANCH)
        return converted, layout_of(source, converted.files, converted_configs(converted.files))

    def _default(self, training: tuple[RemoteFile, ...]) -> int:
        if self._source.num_shards is not None:
            return min(self._source.num_shards, len(training))
        total = number = 0
        for file in training:
            total += file.bytes
            if number and total > DEFAULT_BYTES:
                break
            number += 1
        return number

    def _offline(self, why: DataMissing, shelf: Shelf, num_shards: int | None) -> DataMissing:
        """The error that says what of a dataset is missing where the Hub cannot be asked."""
        assert shelf.record is not None
        default = self._source.num_shards or shelf.record.num_files
        wanted = _checked_number(num_shards, shelf.record, default, shelf.record.num_files, self._name)
        lacking = [str(number) for number in shelf.missing(wanted)]
        what = ["the validation text"] if shelf.needs_validation() else []
        if lacking:
            more = f" and {len(lacking) - 8} more" if len(lacking) > 8 else ""
            what.append(f"training file{'s' * (len(lacking) > 1)} {', '.join(lacking[:8])}{more} of {wanted}")
        return DataMissing(
            f"{self._name} lacks {' and '.join(what)}: {why.message}", hint=f"{why.hint}   (then: {self._command})"
        )

    def _from_folder(self, why: DataMissing) -> _Plan:
        """The shards that somebody put into the folder by hand, where the Hub cannot be asked.

        Raises:
            DataMissing: there are none, or too few; with what to do offline.
        """
        folder = self._folder / GIVEN
        found = sorted(path for path in folder.glob("shard_*.parquet"))
        pinned = self._source.validation_file or (found[-1].name if found else "")
        names = [path.name for path in found]
        if not found or pinned not in names or len(names) < 2:
            lacking = f"; {pinned} is missing" if found and pinned not in names else ""
            raise DataMissing(
                f"no {self._name} here{lacking}: {why.message}. On a machine with a network, run the same command and copy"
                f" {self._folder} here; or put its parquet files (shard_00000.parquet, …) into {folder}",
                hint=f"{why.hint}   (then: {self._command})",
            ) from why
        files = {path.name: RemoteFile(path.name, path.stat().st_size, file_sha256(path), "") for path in found}
        training = tuple(file for name, file in files.items() if name != pinned)
        self._tell.say(f"{why.message}: taking the {len(found)} shards that are in {folder} as they are")
        return _Plan(None, None, {"kind": "folder"}, training, (files[pinned],), len(training))

    def _all(self, plan: _Plan, wanted: Mapping[int, RemoteFile], shelf: Shelf | None = None) -> dict[int, SourceFile]:
        """Fetch files, several at once; with a shelf each is adopted as training text as soon as it is here.

        Raises:
            DataMissing: some could not be got: all of them are named, the others are kept.
        """
        files: dict[int, SourceFile] = {}
        failed: list[AutoresearchError] = []
        num_bytes = sum(file.bytes for file in wanted.values())
        looking = shelf.looking(min(len(wanted), self._workers), num_bytes) if shelf else None
        with looking or nullcontext():
            pool = ThreadPoolExecutor(self._workers, thread_name_prefix="download")
            try:
                coming = {pool.submit(self._looked_at, plan, file, looking): number for number, file in wanted.items()}
                for future in as_completed(coming):
                    try:
                        number, (file, look) = coming[future], future.result()
                        self._fetched += file.path.stat().st_size if file.path.parent.name == INCOMING else 0
                        files[number] = file
                        if shelf is not None:
                            shelf.adopt_training(number, file, look)
                    except (DataMissing, DataCorrupt) as error:
                        failed.append(error)
                        self._tell.say(error.message)
            except BaseException:
                if looking is not None:
                    looking.stop()  # or the threads would wait for it
                raise
            finally:
                if plan.hub is not None:
                    plan.hub.stop()
                pool.shutdown(cancel_futures=True)
                if plan.hub is not None:
                    plan.hub.go_on()
        if failed:
            raise self._failure(failed, len(wanted))
        return files

    def _failure(self, failed: list[AutoresearchError], wanted: int) -> DataMissing:
        if len(failed) == 1:
            return DataMissing(f"{self._name}: {failed[0].message}", hint=f"{failed[0].hint}   ({self._command})")
        lines = "".join(f"\n  {error.message}" for error in failed)
        return DataMissing(
            f"{self._name}: {len(failed)} of {wanted} files could not be got:{lines}", hint=self._command
        )

    def _looked_at(self, plan: _Plan, file: RemoteFile, looking: Looking | None) -> tuple[SourceFile, Look | None]:
        """A file, and what it shares with the validation text where processes look for that."""
        got = self._one(plan, file)
        return got, looking(got) if looking is not None else None

    def _one(self, plan: _Plan, file: RemoteFile) -> SourceFile:
        """A file, from the folder if somebody put it there by hand and it is the right one, else from the Hub."""
        by_hand = self._folder / GIVEN / Path(file.path).name
        if plan.hub is None or (by_hand.is_file() and matches(by_hand, file)):
            return SourceFile(by_hand, file.path, file.sha256, ours=True)
        assert plan.repository is not None
        path = plan.hub.fetch(plan.repository, file, self._folder / INCOMING, self._tell, suffix=self._suffix)
        return SourceFile(path, file.path, file.sha256, ours=True)


# ---- the user's own files --------------------------------------------------------------------------------------------


class _OwnFiles:
    def __init__(self, name: FilesName, root: Path, tell: Tell) -> None:
        self._file_name = name
        self._name = canonical(name)
        self._root = root
        self._tell = tell

    def gather(self, num_shards: int | None) -> Gathered:
        name, root = self._file_name, self._root
        note = read_note(name, root)
        if note is not None and not name.path.exists():
            content = str(note["content_sha256"])  # the original is gone; what was made of it serves on
            files: list[Path] = []
        else:
            files = own_files(name.path)
            stamps = stamps_of(name.path, files)
            content = str(note["content_sha256"]) if note and note["files"] == stamps else self._content(files)
        folder = root / files_folder(name, content)
        lock = one_at_a_time(
            folder / ".gather.lock", lambda: self._tell.say(f"another process is preparing {name.path}: waiting for it")
        )
        with lock as alone:
            shelf = Shelf(folder, self._name, self._tell, column=name.column, alone=alone)
            if not self._is_whole(shelf):
                if not files:
                    raise DataMissing(
                        f"{name.path} has gone, and what was made of it is damaged", hint=f"ls {name.path}"
                    )
                self._make(shelf, files, content)
            if files:
                note = {"path": str(name.path), "directory": folder.name, "content_sha256": content, "files": stamps}
                write_json(note_path(name, root), {"format": FILES_FORMAT, "version": FILES_VERSION, **note})
            assert shelf.record is not None
            default = shelf.record.num_files
            wanted = _checked_number(num_shards, shelf.record, default, shelf.record.num_files, self._name)
            overlap = shelf.finish(wanted)
            return _gathered(shelf, self._name, root, wanted, 0, overlap)

    def _is_whole(self, shelf: Shelf) -> bool:
        if shelf.record is None:
            return False
        for line in shelf.drop_damaged(shelf.record.num_files):
            self._tell.say(f"{line}: making it again")
        return not shelf.needs_validation() and not shelf.missing(shelf.record.num_files)

    def _make(self, shelf: Shelf, files: list[Path], content: str) -> None:
        source = {"kind": "files", "path": str(self._file_name.path), "content_sha256": content}
        training, validation = _by_split(self._file_name.path, files)
        share = held_out_share(sum(path.stat().st_size for path in training))
        shelf.convert(
            [self._source_file(path) for path in training],
            [self._source_file(path) for path in validation],
            source,
            share,
        )

    def _source_file(self, path: Path) -> SourceFile:
        return SourceFile(path, str(path), None, ours=False)

    def _content(self, files: list[Path]) -> str:
        """Hash of the files' names and contents, and of the column that is read."""
        stamps = stamps_of(self._file_name.path, files)
        body = [
            self._file_name.column,
            *([stamp[0], file_sha256(path)] for stamp, path in zip(stamps, files, strict=True)),
        ]
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def _by_split(path: Path, files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Training and validation files of a folder, by their names; files for testing are neither. A file alone is training."""
    if len(files) < 2:
        return files, []
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(split_named(file.relative_to(path).as_posix()), []).append(file)
    training = sorted([*splits.get("train", []), *splits.get("", [])])
    if not training:
        return files, []
    return training, splits.get("validation", [])
