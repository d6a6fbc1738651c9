"""A dataset's folder while shards are put into it: adopted as they come, or rewritten; damage found; overlap kept.

    shards.json                 the record, written after each shard (contract.shard_record)
    shards/                     what the record names
    overlap/00007.npy           which of the validation text's runs of words stand in training file 7, as packed bits
    incoming/                   downloads, whole or partial
    given/                      shards that somebody put there by hand; they stay as they are
    .making-*/                  what a killed process left of a rewrite

Everything here is done under the folder's lock, by one process at a time.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoresearch.contract.corpora import file_sha256, num_documents, read_documents
from autoresearch.contract.shard_record import SHARDS_DIR, Shard, ShardRecord, check_size, read_record, write_record
from autoresearch.files import write_whole
from autoresearch.sources.documents import is_shard
from autoresearch.sources.looking import Looking, SourceFile, documents_of, worth_processes
from autoresearch.sources.overlap import Look, Overlap, ValidationIndex, document_key
from autoresearch.sources.shards import ShardWriter, is_held_out, one_name, without
from autoresearch.sources.telling import Tell
from autoresearch.vocabulary import DataCorrupt, DataMissing, Slice

VALIDATION_STEM = "validation"
INCOMING = "incoming"
GIVEN = "given"


class Shelf:
    """The folder of one dataset, and its record as far as it has come."""

    def __init__(
        self,
        folder: Path,
        dataset: str,
        tell: Tell,
        *,
        column: str | None = None,
        lines_are_articles: bool = False,
        alone: bool = True,
    ) -> None:
        """alone: whether the folder's lock is held; only then is it known that nobody is making what lies unfinished."""
        self.folder = folder
        self.record: ShardRecord | None = read_record(folder)
        self._dataset = dataset
        self._tell = tell
        self._column = column
        self._join = lines_are_articles
        self._index: ValidationIndex | None = None
        for left in folder.glob(".making-*") if alone else ():
            shutil.rmtree(left)

    @property
    def incoming(self) -> Path:
        """Where downloads lie until they are adopted."""
        return self.folder / INCOMING

    def drop_damaged(self, num_shards: int) -> list[str]:
        """Forget the shards in use that are missing or not what was written; one line for each. Reads them all."""
        record = self.record
        if record is None:
            return []
        damage: list[str] = []
        if why := self._damage(record.validation):
            damage.append(why)
            self._forget(None)
        for shard in record.training:
            if shard.number is not None and shard.number < num_shards and (why := self._damage(shard)):
                damage.append(why)
                self._forget(shard.number)
        return damage

    def needs_validation(self) -> bool:
        """Whether the validation text is missing."""
        return self.record is None or not (self.folder / self.record.validation.file).is_file()

    def missing(self, num_shards: int) -> list[int]:
        """Numbers of the training files, of the first so many, whose shards are not there."""
        have = {shard.number for shard in self.record.training} if self.record else set()
        return [number for number in range(num_shards) if number not in have]

    def adopt_validation(self, files: list[SourceFile], source: Mapping[str, Any], num_files: int) -> None:
        """Make the validation text of these files. Training shards that were held against another text are forgotten.

        Raises:
            DataMissing: fewer documents than there are slices. DataCorrupt, UsageError: as `read_any`.
        """
        with self._making() as aside:
            called = _listed(files)
            taken = self._take_as_it_is(files[0], aside, VALIDATION_STEM) if len(files) == 1 else None
            if taken is None:
                with ShardWriter(aside, one_name(VALIDATION_STEM), max_characters=None) as writer:
                    for file in files:
                        for text in self._documents(file):
                            writer.add(text)
                taken = writer.paths[0]
            sha256 = files[0].sha256 if len(files) == 1 else None
            self._check_validation(_rows(taken), called)
            (validation,) = self._placed([taken], None, called, sha256, 0)
        before = self.record
        same = before is not None and before.source == source and before.validation.sha256 == validation.sha256
        kept = before.training if before and same else ()
        self._save(
            ShardRecord(self._dataset, dict(source), num_files, before.num_shards if before else 0, validation, kept)
        )

    def looking(self, num_files: int, num_bytes: int) -> Looking | None:
        """Processes that look at training files ahead of `adopt_training`; None where so few bytes are not worth them."""
        several = worth_processes(num_files, num_bytes)
        return Looking(several, self.index(), self._column, self._join) if several > 1 else None

    def adopt_training(self, number: int, file: SourceFile, look: Look | None = None) -> None:
        """Make shards of one training file, less what stands in the validation text; then they are in the record.

        look: what it shares with that text, where it was looked at already.

        Raises:
            DataCorrupt, UsageError: as `read_any`.
        """
        look = look or self.index().look(self._documents(file))
        stem = f"shard_{number:05d}"
        with self._making() as aside:
            taken = None if look.exact else self._take_as_it_is(file, aside, stem, num_documents=look.num_documents)
            paths = [taken] if taken else self._rewritten(file, aside, stem, look)
            self._keep_look(number, look)
            shards = self._placed(paths, number, file.called, file.sha256, len(look.exact))
        if look.exact:
            self._tell.say(
                f"{file.called}: {len(look.exact)} of {look.num_documents} documents stand in the validation text: left out"
            )
        assert self.record is not None, "validation comes first"
        self._save(self.record.without(number).with_shards(shards))
        if file.path.parent == self.incoming:
            file.path.unlink(missing_ok=True)

    def convert(
        self, files: list[SourceFile], held_out: list[SourceFile], source: Mapping[str, Any], share: float
    ) -> None:
        """Make shards of files that are none, all at once.

        Validation text is `held_out`; where there is none, that share of the documents, chosen by their words.

        Raises:
            DataMissing: too few documents. DataCorrupt, UsageError: as `read_any`.
        """
        keys: set[bytes] = set()
        left_out = 0
        with self._making() as aside:
            with (
                ShardWriter(aside, one_name(VALIDATION_STEM), max_characters=None) as validation_writer,
                ShardWriter(aside, "shard_{:05d}".format) as training_writer,
            ):
                for file in held_out:
                    for text in self._documents(file):
                        validation_writer.add(text)
                        keys |= {document_key(text) or b""}
                for file in files:
                    how = "" if held_out else f", {share:.1%} of the documents held out for validation"
                    self._tell.say(f"{file.called}: into shards{how}")
                    for text in self._documents(file):
                        if held_out and document_key(text) in keys:
                            left_out += 1
                        elif not held_out and is_held_out(text, share):
                            validation_writer.add(text)
                        else:
                            training_writer.add(text)
            called = _listed(files)
            self._check_validation(_rows(validation_writer.paths[0]), called)
            if not sum(map(_rows, training_writer.paths)):
                raise DataMissing(f"{called}: no document is left for training", hint="give more text")
            (validation,) = self._placed(validation_writer.paths, None, _listed(held_out or files), None, 0)
            shards = [
                self._placed([path], number, called, None, 0 if number else left_out)[0]
                for number, path in enumerate(training_writer.paths)
            ]
        self._save(ShardRecord(self._dataset, dict(source), len(shards), 0, validation, tuple(shards)))

    def finish(self, num_shards: int) -> Overlap:
        """Put so many training files in force, and say what they share with the validation text.

        Measured when the shards change: for the validation shard of climbmix the hashes alone take some 15 s.
        """
        record = self.record
        assert record is not None, "validation comes first"
        if record.overlap and record.num_shards == num_shards:
            return Overlap(**{**record.overlap, "examples": tuple(record.overlap["examples"])})
        overlap = self.index().overlap(self._look_at(number) for number in range(num_shards))
        left_out = sum(shard.left_out for shard in record.training if (shard.number or 0) < num_shards)
        overlap = replace(overlap, exact_documents=left_out)
        self._save(replace(record, num_shards=num_shards, overlap=asdict(overlap)))
        shutil.rmtree(self.incoming, ignore_errors=True)
        return overlap

    def index(self) -> ValidationIndex:
        """The validation text as hashes, made once."""
        if self._index is None:
            assert self.record is not None, "validation comes first"
            path = self.folder / self.record.validation.file
            self._index = ValidationIndex(read_documents(path))
        return self._index

    def _look_at(self, number: int) -> Look:
        """What training file `number` shares: as kept, or looked at again."""
        assert self.record is not None
        shards = [shard for shard in self.record.training if shard.number == number]
        documents = sum(shard.documents for shard in shards)
        met = self._kept_look(number)
        if met is None:
            texts = (text for shard in shards for text in read_documents(self.folder / shard.file))
            look = self.index().look(texts)
            self._keep_look(number, look)
            return look
        return Look(met, num_documents=documents)

    def _keep_look(self, number: int, look: Look) -> None:
        buffer = io.BytesIO()
        np.save(buffer, np.packbits(look.met))
        write_whole(self._look_path(number), buffer.getvalue())

    def _kept_look(self, number: int) -> Any:
        """The kept answers [num_ngrams] as booleans; None where there are none for this validation text."""
        length = len(self.index().ngrams)
        try:
            bits = np.load(self._look_path(number), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if bits.dtype != np.uint8 or bits.shape != ((length + 7) // 8,):
            return None
        return np.unpackbits(bits, count=length).astype(np.bool_)

    def _look_path(self, number: int) -> Path:
        return self.folder / "overlap" / f"{number:05d}.npy"

    def _documents(self, file: SourceFile) -> Iterator[str]:
        return documents_of(file, self._column, lines_are_articles=self._join)

    def _take_as_it_is(
        self, file: SourceFile, aside: Path, stem: str, *, num_documents: int | None = None
    ) -> Path | None:
        """The file itself where it is a shard already, every row a document, and may be moved; else None."""
        if not file.ours or self._join or not file.called.endswith(".parquet") or not is_shard(file.path, self._column):
            return None
        if num_documents is None:
            num_documents = sum(1 for _ in self._documents(file))
        if _rows(file.path) != num_documents:
            return None
        target = aside / f"{stem}.parquet"
        try:
            os.link(file.path, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(file.path, target)
        return target

    def _rewritten(self, file: SourceFile, aside: Path, stem: str, look: Look) -> list[Path]:
        with ShardWriter(aside, one_name(stem)) as writer:
            for text in without(self._documents(file), look.exact):
                writer.add(text)
        return writer.paths

    def _placed(
        self, paths: Iterable[Path], number: int | None, called: str, sha256: str | None, left_out: int
    ) -> list[Shard]:
        """Move finished files to where they belong and describe them."""
        shards = []
        for at, path in enumerate(paths):
            target = self.folder / SHARDS_DIR / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            shard = Shard(
                file=f"{SHARDS_DIR}/{path.name}",
                bytes=target.stat().st_size,
                sha256=file_sha256(target),
                documents=_rows(target),
                number=number,
                source=called,
                source_sha256=sha256,
                left_out=0 if at else left_out,
            )
            shards.append(shard)
        return shards

    def _check_validation(self, documents: int, called: str) -> None:
        if documents < len(Slice):
            raise DataMissing(
                f"{called}: {documents} documents cannot be cut into the {len(Slice)} slices of validation text",
                hint="give more text, or a validation split of more documents",
            )

    def _damage(self, shard: Shard) -> str:
        """What is wrong with a shard, or nothing."""
        path = self.folder / shard.file
        try:
            check_size(self.folder, shard, hint="")
            found = file_sha256(path)
        except (DataMissing, DataCorrupt) as error:
            return error.message
        return "" if found == shard.sha256 else f"{path} was altered: its hash is not the recorded one"

    def _forget(self, number: int | None) -> None:
        """Take a source file's shards off the shelf; None is the validation text."""
        assert self.record is not None
        if number is None:
            (self.folder / self.record.validation.file).unlink(missing_ok=True)
            return
        gone = [shard for shard in self.record.training if shard.number == number]
        self._save(self.record.without(number))
        for shard in gone:
            (self.folder / shard.file).unlink(missing_ok=True)

    def _save(self, record: ShardRecord) -> None:
        if self.record is not None and record.validation.sha256 != self.record.validation.sha256:
            shutil.rmtree(self.folder / "overlap", ignore_errors=True)
        if self.record is None or record.validation != self.record.validation:
            self._index = None
        self.record = record
        write_record(self.folder, record)

    @contextmanager
    def _making(self) -> Iterator[Path]:
        """A folder beside the shards for files that are not whole yet."""
        aside = self.folder / f".making-{os.getpid()}-{secrets.token_hex(4)}"
        aside.mkdir(parents=True)
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _rows(path: Path) -> int:
    return num_documents(path)


def _listed(files: list[SourceFile]) -> str:
    """Files in a few words."""
    names = [file.called for file in files]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)} files)"
