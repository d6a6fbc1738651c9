"""What a recipe leaves behind: a folder with a tokenizer's table, groups of token shards, and a page that describes them.

    recipe.json              format, version, groups with their counts, what each filter removed, packing; written last
    tokenizer.json           contract.tokenizer's table
    group-0.tokens.npy       contract.token_shards, one pair for each group, in the order of recipe.json
    group-0.offsets.npy

The same recipe on the same text leaves the same bytes, so the folder may be kept under its hash. It is written inside a
sandbox by code that research edits (`ArtefactWriter`), and what comes out is read as hostile (recipes/reading.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from autoresearch.contract.packing import BUFFER_SIZE
from autoresearch.contract.stream import RowStream
from autoresearch.contract.token_shards import Tokens, TokenShard, write_token_shard
from autoresearch.contract.tokenizer import FILE_NAME as TOKENIZER_NAME
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.contract.units import ORDERS
from autoresearch.files import write_whole
from autoresearch.vocabulary import UsageError

FORMAT = "autoresearch-recipe"
FORMAT_VERSION = 1
RECIPE_NAME = "recipe.json"
MAX_GROUPS = 256
MAX_BUFFER_SIZE = 1_000_000  # documents; a row is packed in O(log n) of it
MAX_REASONS = 64  # filters that a page tells of

# Parts of letters, digits and . _ - + @ :, none beginning with a dot. Groups are named, files are numbered.
GROUP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@:-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.+@:-]{0,99}){0,3}")
REASON = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .-]{0,39}")

_DOCUMENTS_AT_A_TIME = 256  # per round of the encoder's threads: some megabytes of text in memory
_SAY_EVERY = 100_000  # documents between two lines of progress
_HINT = "mend build in prepare.py"

Say = Callable[[str], object]


@dataclass(frozen=True)
class Group:
    """Documents that are mixed as one: a tier of a dataset, or what a recipe makes a group of.

    num_bytes: of their text in UTF-8.
    """

    name: str
    shard: TokenShard
    num_bytes: int
    bos: int

    @property
    def num_documents(self) -> int:
        return self.shard.num_documents

    @property
    def num_tokens(self) -> int:
        """Tokens of one epoch, without BOS."""
        return self.shard.num_tokens

    def rows(self, *, seed: int, row_len: int, order: str = "shuffled", buffer_size: int = BUFFER_SIZE) -> RowStream:
        """An endless stream of this group's rows, packed by themselves: `take(num_rows)` -> [num_rows, row_len].

        Raises:
            UsageError: an unknown order, or sizes that pack nothing.
        """
        if order not in ORDERS:
            raise UsageError(f"unknown order {order!r}; known: {', '.join(ORDERS)}", hint="mend ORDER")
        return RowStream([self.shard], seed=seed, row_len=row_len, bos=self.bos, buffer_size=buffer_size, order=order)


@dataclass(frozen=True)
class Artefact:
    """An opened folder. groups: by name. removed: documents by what removed them. order, buffer_size: as packed.

    sha256: of the folder's content, hex; "" where only the page was read.
    """

    directory: Path
    tokenizer: Tokenizer
    groups: Mapping[str, Group]
    removed: Mapping[str, int]
    order: str
    buffer_size: int
    sha256: str = ""

    @property
    def num_tokens(self) -> int:
        """Tokens of all groups, without BOS."""
        return sum(group.num_tokens for group in self.groups.values())


class ArtefactWriter:
    """The recipe's side: `write_tokenizer`, then `write_group` for each group; `finish` is called for it.

    Without `finish` the folder has no page, and is not an artefact.
    """

    def __init__(self, folder: Path, say: Say) -> None:
        """folder: exists and is empty. say: gets a line of progress now and then."""
        self._folder = folder
        self._say = say
        self._tokenizer: Tokenizer | None = None
        self._groups: dict[str, dict[str, int]] = {}
        self._removed: dict[str, int] = {}
        self._packing: dict[str, str | int] = {"order": "shuffled", "buffer_size": BUFFER_SIZE}

    def say(self, line: str) -> None:
        """Tell whoever waits what is being done."""
        self._say(line)

    def describe(
        self, *, removed: Mapping[str, int] | None = None, order: str = "shuffled", buffer_size: int = BUFFER_SIZE
    ) -> None:
        """What the page shall say: documents by what removed them, and how rows will be packed.

        Raises:
            UsageError: a reason that is no plain word, an unknown order, or a buffer of no reasonable size.
        """
        reasons = {str(why): int(count) for why, count in (removed or {}).items()}
        if len(reasons) > MAX_REASONS or not all(REASON.fullmatch(why) for why in reasons):
            raise UsageError(f"removed by {list(reasons)}: up to {MAX_REASONS} plain names are possible", hint=_HINT)
        if order not in ORDERS or not 1 <= int(buffer_size) <= MAX_BUFFER_SIZE:
            known = ", ".join(ORDERS)
            raise UsageError(
                f"order {order!r} with a buffer of {buffer_size}; orders: {known}; buffers: 1 to {MAX_BUFFER_SIZE}",
                hint="mend ORDER and BUFFER_SIZE in data_sources.py",
            )
        self._removed = reasons
        self._packing = {"order": order, "buffer_size": int(buffer_size)}

    def write_tokenizer(self, tokenizer: Tokenizer) -> None:
        """The table that encodes every group, and validation text too. Once, before the first group.

        Raises:
            UsageError: it was written before. DiskError: the disk is full.
        """
        if self._tokenizer is not None:
            raise UsageError("a recipe has one tokenizer, and it was written already", hint=_HINT)
        write_whole(self._folder / TOKENIZER_NAME, tokenizer.to_json())
        self._tokenizer = tokenizer
        self._say(f"tokenizer of {tokenizer.get_vocab_size()} tokens")

    def write_group(self, name: str, documents: Iterable[str]) -> None:
        """Encode documents as a group; empty ones are left out. Streaming: some hundred documents are held at a time.

        Raises:
            UsageError: no tokenizer yet, a name that is not plain or was used, too many groups, or no documents.
            DataCorrupt: a document is no valid Unicode. OSError: the disk refuses.
        """
        if self._tokenizer is None:
            raise UsageError("the tokenizer comes before the groups", hint="call out.write_tokenizer first, in build")
        if not GROUP_NAME.fullmatch(name) or name in self._groups or len(self._groups) == MAX_GROUPS:
            raise UsageError(
                f"a group cannot be called {name!r:.100}: names are plain, different, and {MAX_GROUPS} at most",
                hint=_HINT,
            )
        counted = _Counted(self._tokenizer, documents, name, self._say)
        shard = write_token_shard(self._folder, _stem(len(self._groups)), counted, self._tokenizer.dtype)
        if not shard.num_documents:
            raise UsageError(f"group {name!r} has no documents", hint="write only groups that hold text")
        self._groups[name] = {
            "documents": shard.num_documents,
            "tokens": shard.num_tokens,
            "bytes": counted.num_bytes,
        }
        self._say(f"{name}: {shard.num_documents:,} documents, {shard.num_tokens:,} tokens")

    def finish(self) -> None:
        """Write the page: from now on the folder is an artefact.

        Raises:
            UsageError: there is no tokenizer or no group. DiskError: the disk is full.
        """
        if self._tokenizer is None or not self._groups:
            raise UsageError("the recipe wrote no tokenizer or no group", hint=_HINT)
        page = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "vocab_size": self._tokenizer.get_vocab_size(),
            "groups": [{"name": name, **counts} for name, counts in self._groups.items()],
            "removed": self._removed,
            "packing": self._packing,
        }
        write_whole(self._folder / RECIPE_NAME, json.dumps(page, indent=1, allow_nan=False) + "\n")


class _Counted:
    """Each document's tokens, encoded some documents at a time; counts the bytes of the text on its way."""

    def __init__(self, tokenizer: Tokenizer, documents: Iterable[str], name: str, say: Say) -> None:
        self.num_bytes = 0
        self._tokenizer = tokenizer
        self._documents = documents
        self._name = name
        self._say = say

    def __iter__(self) -> Iterator[Tokens]:
        source = iter(self._documents)
        done = 0
        while texts := list(islice(source, _DOCUMENTS_AT_A_TIME)):
            encoded = self._tokenizer.encode_documents(texts)
            self.num_bytes += sum(len(text.encode()) for text in texts)
            yield from encoded
            done += len(texts)
            if done // _SAY_EVERY > (done - len(texts)) // _SAY_EVERY:
                self._say(f"{self._name}: encoded {done:,} documents")


def _stem(number: int) -> str:
    """Name of the files of that group: by number, so that no name of a group reaches the file system."""
    return f"group-{number}"


def shard_of(directory: Path, number: int, num_documents: int, num_tokens: int) -> TokenShard:
    """The token shard of the group of that number."""
    stem = directory / _stem(number)
    return TokenShard(
        stem.with_name(f"{stem.name}.tokens.npy"), stem.with_name(f"{stem.name}.offsets.npy"), num_documents, num_tokens
    )
