"""Tokenizers of a dataset, each with the training shards that it has tokenized.

    <cache>/<dataset>/tokens/
        trained-<key>.json             which shards a tokenizer was trained on, and its sha256
        <tokenizer>/tokenizer.json     the tokenizer; the folder is the beginning of its sha256
        <tokenizer>/<shard>.*          its token shards (`tokenizing`)

A tokenizer belongs to the shards it was trained on: the first ones, up to 1e9 characters, which is what the published
benchmark reads. It is kept while the training shards begin with those: more shards later means that only the new ones
are tokenized. Above the cap (about four shards of ClimbMix) that is also the tokenizer that all of them would give;
below it, it is the one of the shards that were there first. Of several that fit, the one trained on most is taken.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from autoresearch.contract.building import Say
from autoresearch.contract.tokenizer import FILE_NAME, SPLIT_PATTERN, Tokenizer, train_tokenizer
from autoresearch.contract.tokenizing import (
    NAME_LENGTH,
    PROCESS_BYTES,
    ShardFacts,
    ShardReader,
    TextShard,
    find_facts,
    tokenize_shards,
)
from autoresearch.files import sweep_temporaries, write_json, write_whole
from autoresearch.processes import processes_for
from autoresearch.vocabulary import DataCorrupt, DataMissing

FORMAT = "autoresearch-trained"
FORMAT_VERSION = 1
MAX_TOKENIZER_CHARACTERS = 1_000_000_000  # of the published benchmark; merges stop changing long before

_log = logging.getLogger(__name__)


def tokens_dir(home: Path, tokenizer_sha256: str) -> Path:
    """Where the token shards of that tokenizer are. home: the dataset's folder in the cache."""
    return home / "tokens" / tokenizer_sha256[:NAME_LENGTH]


def tokenizer_for(
    home: Path, reader: ShardReader, shards: Sequence[TextShard], vocab_size: int, say: Say, *, again: bool = False
) -> Tokenizer:
    """The tokenizer for these training shards: the kept one that fits, else a new one. again: train it once more.

    Raises:
        DataMissing: no text, or too little of it for the vocabulary. DataCorrupt: a text cannot be read.
        UsageError: an impossible vocabulary. DiskError: it cannot be stored.
    """
    kept = _kept(home, [shard.sha256 for shard in shards], vocab_size)
    if kept is not None:
        trained_on, digest = kept
        tokenizer = None if again else _stored(home, digest)
        if tokenizer is not None:
            return tokenizer
        shards = shards[: len(trained_on)]
    say(f"training a tokenizer of {vocab_size} tokens")
    opened: list[str] = []
    texts = _capped(_texts(reader, shards, opened), MAX_TOKENIZER_CHARACTERS)
    tokenizer = train_tokenizer(texts, vocab_size)
    write_whole(tokens_dir(home, tokenizer.sha256) / FILE_NAME, tokenizer.to_json())
    record = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        **_settings(vocab_size),
        "shards": opened,
        "tokenizer": tokenizer.sha256,
    }
    key = hashlib.sha256(json.dumps([vocab_size, opened]).encode()).hexdigest()[:NAME_LENGTH]
    write_json(home / "tokens" / f"trained-{key}.json", record)
    return tokenizer


def token_shards_for(
    home: Path,
    tokenizer: Tokenizer,
    reader: ShardReader,
    shards: Sequence[TextShard],
    say: Say,
    *,
    again: bool = False,
    alone: bool = True,
    num_processes: int | None = None,
) -> list[ShardFacts]:
    """Facts of each text shard's token shard, in order; those that are absent or damaged are tokenized now.

    What is there is hashed, so that damage is found here and not by a run. again: tokenize all of them.
    alone: nobody else writes here, so that what killed processes left is removed.

    Raises:
        As `tokenizing.tokenize_shards`; what was finished before stays.
    """
    folder = tokens_dir(home, tokenizer.sha256)
    if alone:
        sweep_temporaries(folder)
    found: dict[str, ShardFacts] = {} if again else _sound(folder, shards, say)
    missing = [shard for shard in dict.fromkeys(shards) if shard.sha256 not in found]
    if missing:
        several = num_processes or processes_for(len(missing), memory_bytes=PROCESS_BYTES)
        kept = f"{len(found)} of {len(found) + len(missing)} shards are tokenized; " if found else ""
        say(f"{kept}tokenizing {len(missing)} on {several} process{'es' if several > 1 else ''}")
        try:
            for number, (shard, facts) in enumerate(tokenize_shards(folder, reader, missing, several), start=1):
                found[shard.sha256] = facts
                counts = f"{facts.num_documents:,} documents, {facts.num_tokens:,} tokens"
                say(f"{number} of {len(missing)}: {shard.path.name}, {counts}")
        finally:
            if alone:
                sweep_temporaries(folder)
    return [found[shard.sha256] for shard in shards]


def _sound(folder: Path, shards: Sequence[TextShard], say: Say) -> dict[str, ShardFacts]:
    """By text hash: the facts of those that are whole and unaltered."""
    found = {}
    for shard in dict.fromkeys(shards):
        facts = find_facts(folder, shard)
        if facts is None:
            continue
        damage = facts.damage(folder, deep=True)
        if damage:
            say(f"{damage}: tokenizing it again")
        else:
            found[shard.sha256] = facts
    return found


def _settings(vocab_size: int) -> dict[str, Any]:
    """What a tokenizer depends on besides the text."""
    return {"vocab_size": vocab_size, "pattern": SPLIT_PATTERN, "max_characters": MAX_TOKENIZER_CHARACTERS}


def _kept(home: Path, hashes: list[str], vocab_size: int) -> tuple[list[str], str] | None:
    """(hashes of the shards it was trained on, its sha256) of the recorded tokenizer that fits best, or None."""
    wanted = {"format": FORMAT, "version": FORMAT_VERSION, **_settings(vocab_size)}
    fitting = []
    for path in (home / "tokens").glob("trained-*.json"):
        try:
            record = json.loads(path.read_bytes())
            trained_on, digest = list(record["shards"]), str(record["tokenizer"])
        except (ValueError, KeyError, TypeError) as error:
            _log.warning("%s is damaged (%s): passing over that tokenizer", path, error)
            continue
        if {name: record.get(name) for name in wanted} == wanted and hashes[: len(trained_on)] == trained_on:
            fitting.append((len(trained_on), trained_on, digest))
    return max(fitting)[1:] if fitting else None


def _stored(home: Path, digest: str) -> Tokenizer | None:
    """The stored tokenizer of that sha256, or None when its file is missing or damaged (logged)."""
    try:
        tokenizer = Tokenizer.from_directory(tokens_dir(home, digest))
    except (DataMissing, DataCorrupt) as error:
        _log.warning("%s: training it again", error.message)
        return None
    return tokenizer if tokenizer.sha256 == digest else None


def _texts(reader: ShardReader, shards: Sequence[TextShard], opened: list[str]) -> Iterator[str]:
    """The documents shard by shard; `opened` gets the hash of each shard that is begun."""
    for shard in shards:
        opened.append(shard.sha256)
        yield from reader.shard_documents(shard.path)


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
