"""Token shards: the documents of one text shard as token ids on disk, memory-mapped by whoever reads them.

    NAME.tokens.npy      uint16 or uint32 [num_tokens]: every document's tokens, end to end, without BOS
    NAME.offsets.npy     int64 [num_documents + 1]: document i is tokens[offsets[i]:offsets[i + 1]]

Plain .npy files (numpy's format 1.0), so that any program reads them. Whole or absent: a shard is there when its offsets
are, which get their name last.
"""

from __future__ import annotations

import filecmp
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from autoresearch.files import writing_whole
from autoresearch.vocabulary import DataCorrupt, DataMissing

Tokens = NDArray[np.unsignedinteger[Any]]

TOKENS_SUFFIX = ".tokens.npy"
OFFSETS_SUFFIX = ".offsets.npy"
_HINT = "autoresearch prepare --force"
_BUFFERED = 1 << 16  # offsets between two writes: half a megabyte in memory
_OFFSET = np.dtype(np.int64)


@dataclass(frozen=True)
class TokenShard:
    """One shard on disk, and what a reader must know before it opens it."""

    tokens_path: Path
    offsets_path: Path
    num_documents: int
    num_tokens: int

    def open(self) -> tuple[Tokens, NDArray[np.int64]]:
        """(tokens [num_tokens], offsets [num_documents + 1]) as read-only views of the mapped files; reads no tokens.

        Raises:
            DataMissing: a file has gone. DataCorrupt: it is no array, or not of this many documents and tokens.
        """
        tokens, offsets = _mapped(self.tokens_path), _mapped(self.offsets_path)
        if tokens.dtype.kind != "u" or tokens.shape != (self.num_tokens,):
            raise _corrupt(self.tokens_path, f"holds {tokens.dtype}{list(tokens.shape)}, not {self.num_tokens} tokens")
        if offsets.dtype != _OFFSET or offsets.shape != (self.num_documents + 1,):
            found = f"{offsets.dtype}{list(offsets.shape)}"
            raise _corrupt(self.offsets_path, f"holds {found}, not {self.num_documents + 1} offsets")
        if offsets[0] != 0 or offsets[-1] != self.num_tokens:
            raise _corrupt(self.offsets_path, f"spans {offsets[0]} to {offsets[-1]}, not {self.num_tokens} tokens")
        return tokens, offsets


def write_token_shard(directory: Path, name: str, documents: Iterable[Tokens], dtype: DTypeLike) -> TokenShard:
    """Write documents (arrays of `dtype`, without BOS) as the shard `name`, replacing one of that name. Streaming.

    Documents without tokens are left out. Whoever has the old files open keeps reading the old ones.

    Raises:
        DataCorrupt: a document is not of `dtype`. OSError: the disk refuses. Then nothing of it is left.
    """
    kind = np.dtype(dtype)
    tokens_path, offsets_path = directory / (name + TOKENS_SUFFIX), directory / (name + OFFSETS_SUFFIX)
    with writing_whole(offsets_path) as offsets_stream, writing_whole(tokens_path) as tokens_stream:
        tokens, offsets = _GrowingArray(tokens_stream, kind), _GrowingArray(offsets_stream, _OFFSET)
        pending = array("q", [0])
        end = 0
        for document in documents:
            if document.dtype != kind:
                raise DataCorrupt(f"a document of {document.dtype} in a shard of {kind}", hint=_HINT)
            if not len(document):
                continue
            end += len(document)
            tokens.append(document.tobytes())
            pending.append(end)
            if len(pending) >= _BUFFERED:
                offsets.append(pending.tobytes())
                pending = array("q")
        offsets.append(pending.tobytes())
        num_tokens, num_documents = tokens.finish(), offsets.finish() - 1
        offsets_stream.flush()
        if offsets_path.exists() and not filecmp.cmp(offsets_stream.name, offsets_path, shallow=False):
            offsets_path.unlink()  # new tokens beside old offsets would look whole
    return TokenShard(tokens_path, offsets_path, num_documents, num_tokens)


def find_token_shard(directory: Path, name: str) -> TokenShard | None:
    """The shard of that name with the counts its files state, or None when it is not there or not whole.

    Reads two headers and the ends of the offsets; says nothing about the content.
    """
    tokens_path, offsets_path = directory / (name + TOKENS_SUFFIX), directory / (name + OFFSETS_SUFFIX)
    try:
        shard = TokenShard(tokens_path, offsets_path, len(_mapped(offsets_path)) - 1, len(_mapped(tokens_path)))
        shard.open()
    except (DataMissing, DataCorrupt):
        return None
    return shard


class _GrowingArray:
    """A one-dimensional .npy whose length is known at the end: numpy pads headers so that the first axis can grow."""

    def __init__(self, stream: BinaryIO, dtype: np.dtype[Any]) -> None:
        self._stream = stream
        self._dtype = dtype
        self._write_header(0)
        self._start = stream.tell()

    def append(self, items: bytes) -> None:
        self._stream.write(items)

    def finish(self) -> int:
        """Put the length into the header; the length."""
        length = (self._stream.tell() - self._start) // self._dtype.itemsize
        self._stream.seek(0)
        self._write_header(length)
        assert self._stream.tell() == self._start, "this numpy does not pad headers; autoresearch needs 1.26 or newer"
        return length

    def _write_header(self, length: int) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(self._stream, header)


def _mapped(path: Path) -> NDArray[Any]:
    """A read-only view of the array in the file."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataMissing(f"no file {path}", hint="autoresearch prepare") from error
    except (OSError, ValueError, EOFError) as error:
        raise _corrupt(path, f"cannot be read: {error}") from error
    # A plain view: slicing numpy's memmap class costs several microseconds per document, a plain array's 0.2.
    return np.asarray(mapped)


def _corrupt(path: Path, what: str) -> DataCorrupt:
    return DataCorrupt(f"{path} {what}", hint=_HINT)
