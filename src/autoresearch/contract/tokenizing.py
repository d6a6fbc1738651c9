"""Text shards into token shards, each once, on as many processes as there are cores and memory for.

Processes, not threads: tiktoken gives up the interpreter lock while it encodes, but reading parquet, counting and
writing hold it. Measured on four shards of 20 MB with a vocabulary of 8192 on two busy cores, in tokens per CPU second:
processes 1.60 to 1.69 million, threads 1.11 million, tiktoken's own batch of 8 threads into lists 1.32 million.

    SHARD.tokens.npy, SHARD.offsets.npy    the token shard (`token_shards`)
    SHARD.json                             its facts; written last, so whoever finds them finds all of it

SHARD is the beginning of the text shard's sha256. A kill loses the shards in flight, nothing else.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from autoresearch.contract.file_facts import FileFacts, damage_of, facts_of
from autoresearch.contract.token_shards import OFFSETS_SUFFIX, TOKENS_SUFFIX, Tokens, TokenShard, write_token_shard
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.files import write_json
from autoresearch.processes import Helpers
from autoresearch.vocabulary import AutoresearchError, DataCorrupt

FORMAT = "autoresearch-tokens"
FORMAT_VERSION = 1
NAME_LENGTH = 16  # hex digits of a sha256 in a name: 64 bits, as in git's long abbreviations; the facts hold all of it

PROCESS_BYTES = 1 << 29  # memory to have free for each process: 0.25 GB measured with row groups of 1,024 documents
_SHA256 = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


class ShardReader(Protocol):
    """Reads the documents of a text shard; goes to other processes by pickle, from us to us."""

    def shard_documents(self, shard: Path, /) -> Iterator[str]:
        """The documents in the order of the file."""


@dataclass(frozen=True)
class TextShard:
    """A shard of training text and the sha256 (hex) of its file."""

    path: Path
    sha256: str

    @property
    def name(self) -> str:
        """What its token shard is called."""
        return self.sha256[:NAME_LENGTH]


@dataclass(frozen=True)
class ShardFacts:
    """What is known of a token shard. num_bytes: UTF-8 bytes of its text. files: size and sha256 by file name."""

    text_sha256: str
    num_documents: int
    num_tokens: int
    num_bytes: int
    files: FileFacts

    @property
    def name(self) -> str:
        """What its files are called."""
        return self.text_sha256[:NAME_LENGTH]

    def shard_in(self, folder: Path) -> TokenShard:
        """The shard these facts are about."""
        tokens_path, offsets_path = folder / (self.name + TOKENS_SUFFIX), folder / (self.name + OFFSETS_SUFFIX)
        return TokenShard(tokens_path, offsets_path, self.num_documents, self.num_tokens)

    def damage(self, folder: Path, *, deep: bool = False) -> str:
        """What is wrong with a file, in words, or nothing. Compares sizes; deep: hashes every byte too."""
        return damage_of(folder, self.files, deep=deep)


def facts_from_json(body: Any) -> ShardFacts:
    """The facts in a JSON object as `asdict` makes it.

    Raises:
        DataCorrupt: not such an object, or it names other files than the shard's two.
    """
    try:
        facts = ShardFacts(
            str(body["text_sha256"]),
            int(body["num_documents"]),
            int(body["num_tokens"]),
            int(body["num_bytes"]),
            {
                str(name): {"bytes": int(file["bytes"]), "sha256": str(file["sha256"])}
                for name, file in body["files"].items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataCorrupt(f"not the facts of a token shard: {error!r}", hint="autoresearch prepare") from error
    wanted = {facts.name + TOKENS_SUFFIX, facts.name + OFFSETS_SUFFIX}
    if not _SHA256.fullmatch(facts.text_sha256) or set(facts.files) != wanted:
        raise DataCorrupt(f"the facts of a token shard name {sorted(facts.files)}", hint="autoresearch prepare")
    return facts


def find_facts(folder: Path, shard: TextShard) -> ShardFacts | None:
    """The facts of that text shard's token shard in the folder, or None when it is absent or damaged (logged)."""
    path = folder / f"{shard.name}.json"
    try:
        body = json.loads(path.read_bytes())
        if not isinstance(body, dict) or (body.get("format"), body.get("version")) != (FORMAT, FORMAT_VERSION):
            raise DataCorrupt(f"{path} is not of format {FORMAT} {FORMAT_VERSION}", hint="autoresearch prepare")
        facts = facts_from_json(body)
    except FileNotFoundError:
        return None
    except (ValueError, DataCorrupt) as error:
        _log.warning("%s is damaged (%s): that shard is tokenized again", path, error)
        return None
    return facts if facts.text_sha256 == shard.sha256 else None


def tokenize_shard(folder: Path, tokenizer: Tokenizer, shard: TextShard, documents: Iterable[str]) -> ShardFacts:
    """Write the token shard of these documents and its facts. One document in memory besides what the reader holds.

    Over one that is there: the content is the same, so at no time is a reader without it.

    Raises:
        DataCorrupt: a document is no valid Unicode. OSError: the disk refuses.
    """
    num_bytes = 0

    def encoded() -> Iterator[Tokens]:
        nonlocal num_bytes
        for text in documents:
            tokens = tokenizer.encode_array(text)
            num_bytes += len(text.encode())
            yield tokens

    written = write_token_shard(folder, shard.name, encoded(), tokenizer.dtype)
    files = facts_of(folder, (written.tokens_path.name, written.offsets_path.name))
    facts = ShardFacts(shard.sha256, written.num_documents, written.num_tokens, num_bytes, files)
    write_json(folder / f"{shard.name}.json", {"format": FORMAT, "version": FORMAT_VERSION, **asdict(facts)})
    return facts


def tokenize_shards(
    folder: Path, reader: ShardReader, shards: Sequence[TextShard], num_processes: int
) -> Iterator[tuple[TextShard, ShardFacts]]:
    """Tokenize with the tokenizer in `folder`; each shard and its facts as it is done, in any order.

    When one fails, or the caller stops, the others in flight are ended and leave nothing; so they do when this process
    is killed.

    Raises:
        DataCorrupt, DataMissing: as the reader and `tokenize_shard`. OSError: the disk refuses.
        AutoresearchError: a process was ended from outside, as the kernel does when memory runs out.
    """
    if num_processes < 2 or len(shards) < 2:
        for shard in shards:
            yield shard, _tokenize(folder, reader, shard)
        return
    try:
        with Helpers(num_processes) as helpers:
            running = {helpers.submit(_tokenize, folder, reader, shard): shard for shard in shards}
            for done in as_completed(running):
                yield running[done], done.result()
    except BrokenProcessPool as error:
        raise AutoresearchError(
            "a process that tokenizes was ended from outside (is the memory full?); finished shards are kept",
            hint="the same command again; on one core, with less memory: taskset -c 0 autoresearch prepare",
        ) from error


def _tokenize(folder: Path, reader: ShardReader, shard: TextShard) -> ShardFacts:
    return tokenize_shard(folder, _tokenizer_in(folder), shard, reader.shard_documents(shard.path))


@lru_cache(maxsize=1)
def _tokenizer_in(folder: Path) -> Tokenizer:
    """The folder's tokenizer, built once a process: tiktoken takes a tenth of a second for it."""
    return Tokenizer.from_directory(folder)
