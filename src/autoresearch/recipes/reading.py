"""Reads what a recipe left behind, as the referee must: nothing in the folder is believed before it was checked.

What is refused: files that do not belong there, links, pipes and devices; sizes beyond the limits; a page that is not
exactly ours (unknown, missing or repeated keys, numbers that are none); a table that says anything besides its byte
strings; arrays whose header is not the one that the counts give, ids that no text can produce, offsets that do not
rise. No parser but JSON's is run on the content, and nothing is unpickled: the header of an array is compared, byte for
byte, with the one that numpy would write.

The recipe's processes must have ended before: what was checked must not change afterwards.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoresearch.contract.token_shards import TokenShard
from autoresearch.contract.tokenizer import FILE_NAME as TOKENIZER_NAME
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.contract.units import ORDERS
from autoresearch.hostile_text import one_line
from autoresearch.recipes.artefact import (
    FORMAT,
    FORMAT_VERSION,
    GROUP_NAME,
    MAX_BUFFER_SIZE,
    MAX_GROUPS,
    MAX_REASONS,
    REASON,
    RECIPE_NAME,
    Artefact,
    Group,
    shard_of,
)
from autoresearch.vocabulary import AutoresearchError, DataCorrupt

_MAX_PAGE_BYTES = 1 << 20
_MAX_TABLE_BYTES = 1 << 26  # a table of a million tokens of 28 bytes
_MAX_COUNT = 1 << 48
_CHUNK = 1 << 24  # bytes


class ArtefactRefused(AutoresearchError):
    """What a recipe left behind cannot be trained on. The message is the reason of a rejected row: one plain line."""


@dataclass(frozen=True)
class Limits:
    """How much a recipe may leave. max_bytes: of all files together. max_vocab_size: ids, specials included."""

    max_bytes: int = 1 << 36
    max_vocab_size: int = 1 << 17


def read_artefact(directory: Path, limits: Limits = Limits()) -> Artefact:
    """The artefact in that folder, every byte of it checked and hashed: about a second for a gigabyte.

    Raises:
        ArtefactRefused: it is not one, or says what it must not.
    """
    return _read(directory, limits, whole=True)


def open_artefact(directory: Path, limits: Limits = Limits()) -> Artefact:
    """The same without reading the arrays, in milliseconds: for a folder that was checked before, or is one's own.

    Raises:
        ArtefactRefused: as `read_artefact`, but for the arrays' content.
    """
    return _read(directory, limits, whole=False)


def _read(directory: Path, limits: Limits, *, whole: bool) -> Artefact:
    page_bytes = _small_file(directory / RECIPE_NAME, _MAX_PAGE_BYTES)
    page = _page(page_bytes)
    table = _small_file(directory / TOKENIZER_NAME, _MAX_TABLE_BYTES)
    tokenizer = _tokenizer(table)
    if tokenizer.get_vocab_size() != page.vocab_size or page.vocab_size > limits.max_vocab_size:
        raise _refused(
            f"its tokenizer has {tokenizer.get_vocab_size()} tokens, its page says {page.vocab_size}, and "
            f"{limits.max_vocab_size} is the most"
        )
    shards = [
        shard_of(directory, number, counts["documents"], counts["tokens"])
        for number, (_, counts) in enumerate(page.groups)
    ]
    arrays = [path for shard in shards for path in (shard.tokens_path, shard.offsets_path)]
    _check_listing(directory, {RECIPE_NAME, TOKENIZER_NAME, *(path.name for path in arrays)})
    _check_sizes(arrays, limits.max_bytes - len(page_bytes) - len(table))
    digest = hashlib.sha256()
    for name, content in ((RECIPE_NAME, page_bytes), (TOKENIZER_NAME, table)):
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    groups = {}
    bos = tokenizer.get_bos_token_id()
    for shard, (name, counts) in zip(shards, page.groups, strict=True):
        _check_shard(shard, tokenizer, digest if whole else None)
        groups[name] = Group(name, shard, counts["bytes"], bos)
    sha256 = digest.hexdigest() if whole else ""
    return Artefact(directory, tokenizer, groups, page.removed, page.order, page.buffer_size, sha256)


# ---- files ------------------------------------------------------------------------------------------------------------


@contextmanager
def _plain_file(path: Path) -> Iterator[tuple[int, int]]:
    """(descriptor, size) of a plain file with one name; nothing else is opened, not even for a moment that could block."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(f"{path.name} cannot be read: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise _refused(f"{path.name} is not a plain file of its own")
        yield descriptor, found.st_size
    finally:
        os.close(descriptor)


def _small_file(path: Path, max_bytes: int) -> bytes:
    with _plain_file(path) as (descriptor, size):
        if size > max_bytes:
            raise _refused(f"{path.name} has {size} bytes, and {max_bytes} is the most")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(max_bytes)


def _check_listing(directory: Path, expected: set[str]) -> None:
    """Refuses a folder that holds anything else; looks at one entry more than there may be, however many there are."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name not in expected:
                raise _refused(f"{one_line(entry.name, 80)!r} does not belong into its folder")


def _check_sizes(paths: list[Path], most: int) -> None:
    total = 0
    for path in paths:
        with _plain_file(path) as (_, size):
            total += size
    if total > most:
        raise _refused(f"its arrays have {total} bytes, and {most} is the most")


# ---- the page and the table ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Page:
    """recipe.json, checked."""

    vocab_size: int
    groups: list[tuple[str, dict[str, int]]]
    removed: dict[str, int]
    order: str
    buffer_size: int


def _page(content: bytes) -> _Page:
    body = _object(_json(content), {"format", "version", "vocab_size", "groups", "removed", "packing"}, "the page")
    if body["format"] != FORMAT or body["version"] != FORMAT_VERSION or isinstance(body["version"], bool):
        raise _refused(f"its page is not of format {FORMAT} version {FORMAT_VERSION}")
    listed = body["groups"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_GROUPS:
        raise _refused(f"its page lists no groups, or more than {MAX_GROUPS}")
    groups: dict[str, dict[str, int]] = {}
    for item in listed:
        fields = _object(item, {"name", "documents", "tokens", "bytes"}, "a group")
        name = _name(fields.pop("name"), GROUP_NAME, "a group")
        if name in groups:
            raise _refused(f"two groups are called {name}")
        groups[name] = {key: _count(value, f"{key} of {name}", least=1) for key, value in fields.items()}
        if groups[name]["documents"] > groups[name]["tokens"]:
            raise _refused(f"group {name} has more documents than tokens")
    removed = body["removed"]
    if not isinstance(removed, dict) or len(removed) > MAX_REASONS:
        raise _refused(f"its page says removed, and it is no list of at most {MAX_REASONS} reasons")
    counts = {_name(why, REASON, "a reason"): _count(count, f"removed by {why}") for why, count in removed.items()}
    packing = _object(body["packing"], {"order", "buffer_size"}, "packing")
    if not isinstance(packing["order"], str) or packing["order"] not in ORDERS:
        raise _refused(f"its order is none of {', '.join(ORDERS)}")
    buffer_size = _count(packing["buffer_size"], "the buffer", least=1)
    if buffer_size > MAX_BUFFER_SIZE:
        raise _refused(f"its buffer holds {buffer_size} documents, and {MAX_BUFFER_SIZE} is the most")
    return _Page(
        _count(body["vocab_size"], "the vocabulary"), list(groups.items()), counts, packing["order"], buffer_size
    )


def _json(content: bytes) -> Any:
    try:
        return json.loads(content.decode(), object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one; so is an integer of too many digits
        raise _refused(f"its page is not plain JSON: {one_line(str(error), 80)}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _object(value: Any, keys: set[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != keys:
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise _refused(f"{what} must hold {sorted(keys)}, and holds {one_line(str(found), 120)}")
    return dict(value)


def _name(value: Any, pattern: Any, what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _refused(f"{what} is called {one_line(str(value), 60)!r}, which is no plain name")
    return value


def _count(value: Any, what: str, *, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MAX_COUNT:
        raise _refused(f"{one_line(what, 120)} is {one_line(str(value), 40)!r}, which is no count from {least}")
    return value


def _tokenizer(content: bytes) -> Tokenizer:
    """The table. One that says anything else, in other fields or by another spelling, is refused.

    Raises:
        ArtefactRefused: the bytes are not exactly what `Tokenizer.to_json` writes of the tokenizer that they describe.
    """
    try:
        tokenizer = Tokenizer.from_json(content.decode())
    except (DataCorrupt, UnicodeDecodeError, RecursionError) as error:
        raise _refused(f"its tokenizer is no table: {one_line(str(error), 120)}") from error
    if tokenizer.to_json().encode() != content:
        raise _refused("its tokenizer says more than its table does")
    return tokenizer


# ---- the arrays ---------------------------------------------------------------------------------------------------------


def _check_shard(shard: TokenShard, tokenizer: Tokenizer, digest: Any) -> None:
    """Headers and sizes; with a digest, the content too, which the digest then covers."""
    num_text_tokens = tokenizer.get_bos_token_id()  # the specials come after them
    largest = 0
    for chunk in _array(shard.tokens_path, np.dtype(tokenizer.dtype), shard.num_tokens, digest):
        largest = max(largest, int(chunk.max()))
    if largest >= num_text_tokens:
        raise _refused(f"{shard.tokens_path.name} holds id {largest}, and text gives ids below {num_text_tokens}")
    last: int | None = None
    for chunk in _array(shard.offsets_path, np.dtype(np.int64), shard.num_documents + 1, digest):
        rising = bool((chunk[1:] > chunk[:-1]).all()) and (int(chunk[0]) == 0 if last is None else chunk[0] > last)
        if not rising:
            raise _refused(f"{shard.offsets_path.name} does not rise from 0")
        last = int(chunk[-1])
    if last is not None and last != shard.num_tokens:
        raise _refused(f"{shard.offsets_path.name} ends at {last}, and there are {shard.num_tokens} tokens")


def _array(path: Path, dtype: np.dtype[Any], length: int, digest: Any) -> Iterator[np.ndarray[Any, Any]]:
    """The content of an array file in chunks, once its header and size are those of this type and length.

    Without a digest the content is not read. With one, the file's name and hash go into it at the end.
    """
    header = _header(dtype, length)
    with _plain_file(path) as (descriptor, size):
        expected = len(header) + length * dtype.itemsize
        if size != expected:
            raise _refused(f"{path.name} has {size} bytes, and {length} of {dtype} take {expected}")
        if os.pread(descriptor, len(header), 0) != header:
            raise _refused(f"{path.name} is not an array of {length} {dtype}")
        if digest is None:
            return
        own = hashlib.sha256(header)
        position = len(header)
        while position < size:
            content = os.pread(descriptor, min(_CHUNK, size - position), position)
            if not content or len(content) % dtype.itemsize:
                raise _refused(f"{path.name} changed while it was read")
            own.update(content)
            yield np.frombuffer(content, dtype=dtype)
            position += len(content)
    digest.update(f"{path.name} {own.hexdigest()}\n".encode())


def _header(dtype: np.dtype[Any], length: int) -> bytes:
    """The first bytes of the .npy file that numpy writes for this array."""
    stream = io.BytesIO()
    description = {"descr": dtype.str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(stream, description)
    return stream.getvalue()


def _refused(why: str) -> ArtefactRefused:
    return ArtefactRefused(f"the recipe's artefact was refused: {why}", hint="mend build in prepare.py")
