"""Tokenized once: what is there stays, what is new is added, and a kill loses the shards in flight only."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from patience import PATIENCE

from autoresearch.contract import token_store
from autoresearch.contract.corpora import Corpus, CorpusKind, Span
from autoresearch.contract.prepared import Prepared, open_prepared, prepare
from autoresearch.contract.rules import rules_for
from autoresearch.contract.tokenizing import TextShard, facts_from_json, find_facts, tokenize_shards
from autoresearch.vocabulary import AutoresearchError, DataCorrupt, DataMissing, Slice

RULES = dataclasses.replace(rules_for("smoke"), dataset="toy", vocab_size=300, max_seq_len=16, eval_tokens=8 * 16)


def corpus_in(folder: Path, num_shards: int) -> Corpus:
    """Shards of 40 documents in real files, and the same validation text whatever their number."""
    folder.mkdir(parents=True, exist_ok=True)
    validation = folder / "validation.parquet"
    write(validation, [f"validation line {i}: the sea, the sea. Ωκεανός" for i in range(60)])
    paths = tuple(folder / f"shard_{number}.parquet" for number in range(num_shards))
    for number, path in enumerate(paths):
        write(path, [f"Shard {number}, document {i}: {'jkqz'[number] * 7}, η θάλασσα." for i in range(40)])
    spans = {part: Span(validation, 20 * i, 20 * i + 20) for i, part in enumerate(Slice)}
    return Corpus("toy", CorpusKind.SHARDS, paths, spans, {}, "put it back")


def write(path: Path, texts: list[str]) -> None:
    if not path.exists():
        pq.write_table(pa.table({"text": texts}), path)


def texts_of(ready: Prepared) -> list[str]:
    found = []
    for shard in ready.shards:
        tokens, offsets = shard.open()
        found += [ready.tokenizer.decode(tokens[offsets[i] : offsets[i + 1]]) for i in range(shard.num_documents)]
    return found


def times_of(ready: Prepared) -> dict[str, int]:
    return {shard.tokens_path.name: shard.tokens_path.stat().st_mtime_ns for shard in ready.shards}


def test_token_shards_hold_the_documents_of_the_text_shards_in_order(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path / "text", 3)
    ready = prepare(RULES, corpus, tmp_path, num_processes=1)
    assert texts_of(ready) == list(corpus.train_documents())
    assert sum(shard.num_tokens for shard in ready.shards) == ready.num_train_tokens


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path / "text", 3)
    one = prepare(RULES, corpus, tmp_path / "one", num_processes=1)
    two = prepare(RULES, corpus, tmp_path / "two", num_processes=2)
    assert two.manifest["shards"] == one.manifest["shards"]
    assert texts_of(two) == texts_of(one)
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.slow
def test_shards_added_later_are_the_only_ones_tokenized_and_the_tokenizer_stays(tmp_path: Path) -> None:
    two = prepare(RULES, corpus_in(tmp_path / "text", 2), tmp_path)
    before = times_of(two)
    lines: list[str] = []
    four = prepare(RULES, corpus_in(tmp_path / "text", 4), tmp_path, lines.append, num_processes=1)
    assert "2 of 4 shards are tokenized; tokenizing 2 on 1 process" in lines
    assert not [line for line in lines if "training a tokenizer" in line]
    assert [line for line in lines if line.startswith("validation: ") and "as they were" in line]
    assert four.hashes["tokenizer"] == two.hashes["tokenizer"]
    assert {name: times_of(four)[name] for name in before} == before
    assert texts_of(four) == list(corpus_in(tmp_path / "text", 4).train_documents())
    assert open_prepared(RULES, "toy", tmp_path).directory == four.directory != two.directory
    for part in Slice:
        assert np.array_equal(four.rows(part), two.rows(part))
    four.verify()


@pytest.mark.slow
def test_fewer_shards_than_a_tokenizer_was_trained_on_get_one_of_their_own(tmp_path: Path) -> None:
    four = prepare(RULES, corpus_in(tmp_path / "text", 4), tmp_path)
    two = prepare(RULES, corpus_in(tmp_path / "text", 2), tmp_path)
    assert two.hashes["tokenizer"] != four.hashes["tokenizer"]
    again = prepare(RULES, corpus_in(tmp_path / "text", 4), tmp_path)
    assert again.hashes["tokenizer"] == four.hashes["tokenizer"]


@pytest.mark.slow
def test_a_tokenizer_belongs_to_the_shards_it_read_before_the_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_in(tmp_path / "text", 4)
    first = sum(map(len, corpus.shard_documents(corpus.train_shards[0])))
    monkeypatch.setattr(token_store, "MAX_TOKENIZER_CHARACTERS", first + 10)
    four = prepare(RULES, corpus, tmp_path)
    (record,) = (tmp_path / "toy" / "tokens").glob("trained-*.json")
    assert json.loads(record.read_text()) == {
        "format": "autoresearch-trained",
        "version": 1,
        "vocab_size": 300,
        "pattern": json.loads((four.directory / "tokenizer.json").read_text())["pattern"],
        "max_characters": first + 10,
        "shards": [corpus.shard_sha256(path) for path in corpus.train_shards[:2]],
        "tokenizer": four.hashes["tokenizer"],
    }
    two = prepare(RULES, corpus_in(tmp_path / "text", 2), tmp_path)
    assert two.hashes["tokenizer"] == four.hashes["tokenizer"]


@pytest.mark.slow
def test_another_vocabulary_is_another_tokenizer_and_other_token_shards(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path / "text", 2)
    small = prepare(dataclasses.replace(RULES, vocab_size=260), corpus, tmp_path)
    large = prepare(RULES, corpus, tmp_path)
    assert small.tokens_dir != large.tokens_dir
    assert small.num_train_tokens == small.manifest["counts"]["train_bytes"]
    assert texts_of(small) == texts_of(large)


@pytest.mark.slow
def test_the_same_text_in_two_shards_is_tokenized_once_and_read_twice(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path / "text", 1)
    twin = tmp_path / "text" / "twin.parquet"
    twin.write_bytes(corpus.train_shards[0].read_bytes())
    ready = prepare(RULES, dataclasses.replace(corpus, train_shards=(*corpus.train_shards, twin)), tmp_path)
    assert ready.shards[0] == ready.shards[1]
    assert texts_of(ready) == 2 * list(corpus.train_documents())


@pytest.mark.slow
def test_one_damaged_shard_is_tokenized_again_and_no_other(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path / "text", 3)
    ready = prepare(RULES, corpus, tmp_path)
    before = times_of(ready)
    damaged = ready.shards[1].tokens_path
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    lines: list[str] = []
    again = prepare(RULES, corpus, tmp_path, lines.append)
    again.verify()
    assert [name for name, when in times_of(again).items() if when != before[name]] == [damaged.name]
    assert f"{damaged} was altered: tokenizing it again" in lines


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "autoresearch-tokens", "version": 1, "files": {}}'])
def test_damaged_facts_are_written_again(tmp_path: Path, content: str) -> None:
    corpus = corpus_in(tmp_path / "text", 2)
    ready = prepare(RULES, corpus, tmp_path)
    path = ready.tokens_dir / f"{ready.shard_facts[0].name}.json"
    whole = path.read_text()
    path.write_text(content)
    prepare(RULES, corpus, tmp_path)
    assert path.read_text() == whole


def test_the_facts_of_a_shard_are_these(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path / "text", 1)
    ready = prepare(RULES, corpus, tmp_path)
    name = ready.shard_facts[0].name
    facts = json.loads((ready.tokens_dir / f"{name}.json").read_text())
    assert list(facts) == [
        *("format", "version", "text_sha256", "num_documents", "num_tokens", "num_bytes", "files"),
    ]
    assert (facts["format"], facts["version"]) == ("autoresearch-tokens", 1)
    assert facts["text_sha256"] == corpus.shard_sha256(corpus.train_shards[0])
    assert facts["num_bytes"] == sum(len(text.encode()) for text in corpus.train_documents())


@pytest.mark.parametrize("name", ["../../secret", "0" * 16 + ".tokens.npy", "x.npy"])
def test_facts_that_name_other_files_are_refused(name: str) -> None:
    body = {"text_sha256": "a" * 64, "num_documents": 1, "num_tokens": 1, "num_bytes": 1}
    with pytest.raises(DataCorrupt, match="name"):
        facts_from_json({**body, "files": {name: {"bytes": 1, "sha256": "b"}}})
    with pytest.raises(DataCorrupt, match="name"):
        facts_from_json({**body, "text_sha256": "../" + "a" * 61, "files": {}})


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, "", "[]", '{"format": "autoresearch-trained"}'])
def test_without_a_record_of_the_tokenizer_it_is_trained_again_and_the_same(
    tmp_path: Path, content: str | None
) -> None:
    corpus = corpus_in(tmp_path / "text", 2)
    ready = prepare(RULES, corpus, tmp_path)
    (record,) = (tmp_path / "toy" / "tokens").glob("trained-*.json")
    record.unlink() if content is None else record.write_text(content)
    again = prepare(RULES, corpus, tmp_path)
    assert (again.directory, times_of(again)) == (ready.directory, times_of(ready))


@pytest.mark.slow
def test_a_damaged_stored_tokenizer_is_trained_again_on_the_shards_it_was_trained_on(tmp_path: Path) -> None:
    two = prepare(RULES, corpus_in(tmp_path / "text", 2), tmp_path)
    (two.tokens_dir / "tokenizer.json").write_text("{}")
    four = prepare(RULES, corpus_in(tmp_path / "text", 4), tmp_path)
    assert four.hashes["tokenizer"] == two.hashes["tokenizer"]


@pytest.mark.slow
def test_force_tokenizes_everything_again_to_the_same_bytes(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path / "text", 2)
    ready = prepare(RULES, corpus, tmp_path)
    before = times_of(ready)
    again = prepare(RULES, corpus, tmp_path, force=True)
    assert again.manifest["shards"] == ready.manifest["shards"]
    assert all(when != before[name] for name, when in times_of(again).items())


class Torn(Corpus):
    """One shard cannot be read."""

    def shard_documents(self, shard: Path) -> Iterator[str]:
        if shard.name == "shard_2.parquet":
            raise DataCorrupt("shard_2 is torn", hint="fetch it again")
        return super().shard_documents(shard)


class Deadly(Corpus):
    """Reading one shard kills its process, as the kernel does when memory runs out."""

    def shard_documents(self, shard: Path) -> Iterator[str]:
        if shard.name == "shard_2.parquet" and os.environ.get("DEADLY") != str(os.getpid()):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().shard_documents(shard)


def as_kind(kind: type[Corpus], corpus: Corpus) -> Corpus:
    return kind(**{field.name: getattr(corpus, field.name) for field in dataclasses.fields(corpus)})


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_shard_that_cannot_be_read_is_named_and_finished_ones_stay(tmp_path: Path, num_processes: int) -> None:
    corpus = corpus_in(tmp_path / "text", 4)
    prepare(RULES, corpus_in(tmp_path / "text", 2), tmp_path)
    with pytest.raises(DataCorrupt, match="shard_2 is torn") as caught:
        prepare(RULES, as_kind(Torn, corpus), tmp_path, num_processes=num_processes)
    assert caught.value.hint == "fetch it again"
    assert not list(tmp_path.rglob(".*.tmp"))
    lines: list[str] = []
    prepare(RULES, corpus, tmp_path, lines.append).verify()
    assert [line for line in lines if line.startswith(("2 of 4 shards", "3 of 4 shards"))]


@pytest.mark.slow
def test_a_process_that_is_killed_is_our_error_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEADLY", str(os.getpid()))
    prepare(RULES, corpus_in(tmp_path / "text", 2), tmp_path)
    with pytest.raises(AutoresearchError, match="ended from outside") as caught:
        prepare(RULES, as_kind(Deadly, corpus_in(tmp_path / "text", 4)), tmp_path, num_processes=2)
    assert "autoresearch prepare" in caught.value.hint
    assert not list(tmp_path.rglob(".*.tmp"))
    prepare(RULES, corpus_in(tmp_path / "text", 4), tmp_path).verify()


class Endless(Corpus):
    """One shard says that it is begun, and never ends."""

    def shard_documents(self, shard: Path) -> Iterator[str]:
        yield from super().shard_documents(shard)
        if shard.name == "shard_3.parquet":
            (shard.parent / "begun").touch()
            while True:
                yield "on and on"


@pytest.mark.slow
def test_a_kill_ends_the_other_processes_and_loses_the_shard_in_flight_only(tmp_path: Path) -> None:
    text = tmp_path / "text"
    prepare(RULES, corpus_in(text, 1), tmp_path)
    corpus = corpus_in(text, 4)
    program = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[2:];"
        "from test_token_store import *;"
        "root = Path(sys.argv[1]); corpus = as_kind(Endless, corpus_in(root / 'text', 4));"
        "prepare(RULES, corpus, root, lambda line: print(line, flush=True), num_processes=2)"
    )
    command = [sys.executable, "-c", program, str(tmp_path), *map(str, Path(__file__).parents[:2])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        lines = [running.stdout.readline() for _ in range(3)]
        assert "tokenizing 3 on 2 processes" in lines[0]
        assert "2 of 3" in lines[2]
        children = psutil.Process(running.pid).children(recursive=True)
        while not (text / "begun").exists():
            time.sleep(0.01)
        running.kill()
    gone, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert gone and not alive
    said: list[str] = []
    ready = prepare(RULES, corpus, tmp_path, said.append)
    assert "3 of 4 shards are tokenized; tokenizing 1 on 1 process" in said
    assert texts_of(ready) == list(corpus.train_documents())
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.slow
def test_a_caller_that_stops_ends_the_processes(tmp_path: Path) -> None:
    ready = prepare(RULES, corpus_in(tmp_path / "text", 1), tmp_path)
    corpus = as_kind(Endless, corpus_in(tmp_path / "text", 4))
    shards = [TextShard(path, corpus.shard_sha256(path)) for path in corpus.train_shards[1:]]
    running = tokenize_shards(ready.tokens_dir, corpus, shards, 2)
    done, facts = next(running)
    assert len(multiprocessing.active_children()) == 2
    assert find_facts(ready.tokens_dir, done) == facts
    running.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_data_of_an_older_format_is_told_and_prepared_again(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path / "text", 1)
    old = tmp_path / "toy" / "prepared-0123456789abcdef"
    old.mkdir(parents=True)
    manifest = {"format": "autoresearch-prepared", "version": 1, "preset": "smoke", "recipe": "x"}
    (old / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataMissing, match="format 1; this version reads 2") as caught:
        open_prepared(RULES, "toy", tmp_path)
    assert caught.value.hint == "autoresearch prepare --contract smoke"
    lines: list[str] = []
    ready = prepare(RULES, corpus, tmp_path, lines.append)
    assert f"{old} is of format 1, which this version does not read; to remove it: rm -r {old}" in lines
    assert open_prepared(RULES, "toy", tmp_path).directory == ready.directory


@pytest.mark.slow
def test_opening_and_the_first_documents_open_no_text_shard(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path / "text", 2)
    ready = prepare(RULES, corpus, tmp_path)
    for path in (tmp_path / "text").iterdir():
        path.unlink()
    opened = open_prepared(RULES, "toy", tmp_path)
    assert texts_of(opened)[0] == "Shard 0, document 0: jjjjjjj, η θάλασσα."
    assert opened.directories == (ready.directory, ready.tokens_dir)
