"""The record beside a dataset's shards: which they are, where each came from, and the hash that each must have.

    <cache>/<dataset>/shards.json
    <cache>/<dataset>/shards/*.parquet          training shards, and the validation text in one file of its own

`sources` writes it after every shard that is whole, so it never names one that is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from autoresearch.files import write_json
from autoresearch.vocabulary import DataCorrupt, DataMissing

RECORD_FORMAT = "autoresearch-shards"
RECORD_VERSION = 1
RECORD_NAME = "shards.json"
SHARDS_DIR = "shards"
ALL_SHARDS = -1  # as a number of training files: all the source has


@dataclass(frozen=True)
class Shard:
    """One parquet file of documents.

    file: relative to the dataset's folder. number: of the source file it was made from, counted from 0 over the
    training files; None for validation text. source, source_sha256: that file, as its owner names it, and its content;
    None where the owner gives no hash. left_out: documents of it that stand in the validation text and were left out.
    """

    file: str
    bytes: int
    sha256: str
    documents: int
    number: int | None
    source: str
    source_sha256: str | None = None
    left_out: int = 0


@dataclass(frozen=True)
class ShardRecord:
    """What a dataset's folder holds.

    source: where it came from ("kind" and what belongs to the kind). num_files: training files that the source has.
    num_shards: how many of them are in use. training: sorted by number; several shards may come from one file.
    overlap: what the training text in use shares with the validation text; empty until it is measured.
    """

    dataset: str
    source: Mapping[str, Any]
    num_files: int
    num_shards: int
    validation: Shard
    training: tuple[Shard, ...] = ()
    overlap: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_ready(self) -> int:
        """Training files whose shards are there, without a gap from the first."""
        numbers = [number for number, _ in groupby(shard.number for shard in self.training)]
        return next((at for at, number in enumerate(numbers) if number != at), len(numbers))

    def first(self, num_shards: int) -> tuple[Shard, ...] | None:
        """The shards of the first `num_shards` training files; None when some are not there."""
        if num_shards > self.num_ready:
            return None
        return tuple(shard for shard in self.training if shard.number is not None and shard.number < num_shards)

    def without(self, number: int | None) -> ShardRecord:
        """The same less what came from one training file."""
        kept = tuple(shard for shard in self.training if shard.number != number)
        return replace(self, training=kept, overlap={})

    def with_shards(self, shards: list[Shard]) -> ShardRecord:
        """The same with more training shards."""
        merged = sorted((*self.training, *shards), key=lambda shard: (shard.number, shard.file))
        return replace(self, training=tuple(merged), overlap={})


def read_record(folder: Path) -> ShardRecord | None:
    """The record in a dataset's folder; None when there is none.

    Raises:
        DataCorrupt: it is not JSON, of another format, or lacks something.
    """
    path = folder / RECORD_NAME
    try:
        body = json.loads(path.read_bytes())
        if (body.pop("format"), body.pop("version")) != (RECORD_FORMAT, RECORD_VERSION):
            raise ValueError(f"not {RECORD_FORMAT} version {RECORD_VERSION}")
        training = tuple(Shard(**shard) for shard in body.pop("training"))
        return ShardRecord(training=training, validation=Shard(**body.pop("validation")), **body)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataCorrupt(
            f"{path} cannot be read: {error}", hint=f"rm -f '{path}', then the same command: shards that are whole stay"
        ) from error


def write_record(folder: Path, record: ShardRecord) -> None:
    """Put the record beside the shards, whole or not at all.

    Raises:
        DiskError: the disk is full or the folder cannot be written.
    """
    write_json(folder / RECORD_NAME, {"format": RECORD_FORMAT, "version": RECORD_VERSION, **asdict(record)})


def check_size(folder: Path, shard: Shard, *, hint: str) -> None:
    """A first look at a shard, without reading it.

    Raises:
        DataMissing: it has gone. DataCorrupt: it has another size than it was written with.
    """
    path = folder / shard.file
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataMissing(f"no file {path}", hint=hint) from error
    if size != shard.bytes:
        raise DataCorrupt(f"{path} has {size} bytes, expected {shard.bytes}", hint=hint)
