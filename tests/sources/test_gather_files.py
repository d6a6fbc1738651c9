"""The user's own files as a dataset."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from made_up_text import Heard, parquet, stories

from autoresearch.contract.corpora import open_corpus
from autoresearch.contract.dataset_names import dataset_dir
from autoresearch.sources.gather import gather
from autoresearch.sources.shards import held_out_share
from autoresearch.vocabulary import DataCorrupt, DataMissing, Slice, UsageError


def json_lines(texts: list[str], column: str = "text") -> bytes:
    return "".join(json.dumps({"id": at, column: text}) + "\n" for at, text in enumerate(texts)).encode()


def zstd(data: bytes) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.CompressedOutputStream(stream, "zstd") as compressed:
        compressed.write(data)
    return stream.getvalue().to_pybytes()


def sides(dataset: str, root: Path) -> tuple[list[str], list[str]]:
    corpus = open_corpus(dataset, root)
    return list(corpus.train_documents()), [text for part in Slice for text in corpus.validation_documents(part)]


KINDS = {
    "t.parquet": parquet,
    "t.jsonl": json_lines,
    "t.jsonl.gz": lambda texts: gzip.compress(json_lines(texts)),
    "t.jsonl.zst": lambda texts: zstd(json_lines(texts)),
    "t.txt": lambda texts: "<|endoftext|>".join(texts).encode(),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_of_file_becomes_shards_with_each_document_on_one_side(tmp_path: Path, name: str):
    texts = stories("own", 200)
    path = tmp_path / name
    path.write_bytes(KINDS[name](texts))
    found = gather(str(path), tmp_path / "cache")
    train, held_out = sides(str(path), tmp_path / "cache")
    assert sorted(train + held_out) == sorted(texts)
    assert len(held_out) >= 20
    assert not set(train) & set(held_out)
    assert found.overlap.exact_documents == 0
    assert found.directory.parent == tmp_path / "cache"


def test_the_same_text_is_held_out_whatever_the_kind_of_file(tmp_path: Path):
    texts = stories("own", 100)
    held_out = []
    for name in ("t.jsonl", "t.txt"):
        (tmp_path / name).write_bytes(KINDS[name](texts) + b"\n" * 10)
        gather(str(tmp_path / name), tmp_path / "cache")
        held_out.append(set(sides(str(tmp_path / name), tmp_path / "cache")[1]))
    assert held_out[0] == held_out[1]


def test_equal_documents_stay_on_one_side(tmp_path: Path):
    texts = stories("own", 100)
    (tmp_path / "t.jsonl").write_bytes(json_lines(texts + [text.upper() + "." for text in texts]))
    found = gather(str(tmp_path / "t.jsonl"), tmp_path / "cache")
    train, held_out = sides(str(tmp_path / "t.jsonl"), tmp_path / "cache")
    assert not {text.upper().rstrip(".") for text in train} & {text.upper().rstrip(".") for text in held_out}
    assert found.overlap.exact_documents == 0


def test_a_folder_with_a_validation_file_is_split_as_it_says(tmp_path: Path, heard: Heard):
    folder = tmp_path / "my text"
    (folder / "deep").mkdir(parents=True)
    (folder / ".hidden.txt").write_text("never read")
    (folder / "a.jsonl").write_bytes(json_lines(stories("a", 30)))
    (folder / "deep" / "b.txt").write_text("<|endoftext|>".join([*stories("b", 30), stories("v", 9)[4]]))
    (folder / "validation.jsonl").write_bytes(json_lines(stories("v", 9)))
    (folder / "test.jsonl").write_bytes(json_lines(stories("test", 9)))
    found = gather(str(folder), tmp_path / "cache")
    assert sides(str(folder), tmp_path / "cache") == (stories("a", 30) + stories("b", 30), stories("v", 9))
    assert found.overlap.exact_documents == 1


def test_a_file_that_has_not_changed_is_not_converted_again(tmp_path: Path, heard: Heard):
    path = tmp_path / "t.jsonl"
    path.write_bytes(json_lines(stories("own", 60)))
    first = gather(str(path), tmp_path / "cache", tell=heard)
    assert any("into shards" in line for line in heard.lines)
    heard.lines.clear()
    assert gather(str(path), tmp_path / "cache", tell=heard).shards == first.shards
    assert heard.lines == []


def test_changed_text_is_another_dataset_and_the_old_one_is_not_used(tmp_path: Path):
    path, cache = tmp_path / "t.jsonl", tmp_path / "cache"
    path.write_bytes(json_lines(stories("old", 60)))
    old = gather(str(path), cache)
    path.write_bytes(json_lines(stories("new", 60)))
    with pytest.raises(DataMissing, match="has changed since it was prepared") as raised:
        open_corpus(str(path), cache)
    assert raised.value.hint == f"autoresearch prepare --dataset {path}"
    new = gather(str(path), cache)
    assert new.directory != old.directory
    assert all("new" in text for side in sides(str(path), cache) for text in side)
    path.write_bytes(json_lines(stories("old", 60)))
    assert gather(str(path), cache).directory == old.directory


def test_touching_a_file_converts_nothing(tmp_path: Path, heard: Heard):
    path = tmp_path / "t.jsonl"
    path.write_bytes(json_lines(stories("own", 60)))
    gather(str(path), tmp_path / "cache")
    os.utime(path, (1, 1))
    gather(str(path), tmp_path / "cache", tell=heard)
    assert heard.lines == []
    open_corpus(str(path), tmp_path / "cache")


def test_what_was_prepared_serves_on_when_its_original_is_gone(tmp_path: Path):
    path, cache = tmp_path / "t.jsonl", tmp_path / "cache"
    path.write_bytes(json_lines(stories("own", 60)))
    gather(str(path), cache)
    before = sides(str(path), cache)
    path.unlink()
    assert sides(str(path), cache) == before
    gather(str(path), cache)
    next(dataset_dir(str(path), cache).glob("shards/shard_*")).unlink()
    with pytest.raises(DataMissing, match="has gone, and what was made of it is damaged"):
        gather(str(path), cache)


def test_a_damaged_shard_is_made_again(tmp_path: Path, heard: Heard):
    path, cache = tmp_path / "t.jsonl", tmp_path / "cache"
    path.write_bytes(json_lines(stories("own", 60)))
    gather(str(path), cache)
    before = sides(str(path), cache)
    shard = next(dataset_dir(str(path), cache).glob("shards/shard_*"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(DataCorrupt, match=shard.name):
        open_corpus(str(path), cache)
    gather(str(path), cache, tell=heard)
    assert sides(str(path), cache) == before
    assert any(shard.name in line and "making it again" in line for line in heard.lines)


def test_a_conversion_that_was_killed_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, cache = tmp_path / "t.jsonl", tmp_path / "cache"
    path.write_bytes(json_lines(stories("own", 60)))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("autoresearch.sources.shelf.write_record", killed)
        with pytest.raises(KeyboardInterrupt):
            gather(str(path), cache)
    with pytest.raises(DataMissing):
        open_corpus(str(path), cache)
    found = gather(str(path), cache)
    (found.directory / ".making-1-dead").mkdir()
    gather(str(path), cache)
    assert sorted(entry.name for entry in found.directory.iterdir()) == [
        ".gather.lock",
        "overlap",
        "shards",
        "shards.json",
    ]
    assert len(sides(str(path), cache)[0]) + len(sides(str(path), cache)[1]) == 60


def test_shards_are_cut_at_a_size_and_can_be_chosen_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("autoresearch.sources.shards.ShardWriter.__init__.__kwdefaults__", {"max_characters": 60_000})
    monkeypatch.setattr("autoresearch.sources.shards._GROUP_DOCUMENTS", 16)
    path, cache = tmp_path / "t.jsonl", tmp_path / "cache"
    path.write_bytes(json_lines(stories("own", 2000)))
    every = gather(str(path), cache)
    assert every.num_files > 4
    assert every.num_shards == every.num_files
    whole = sides(str(path), cache)
    two = gather(str(path), cache, num_shards=2)
    assert len(two.corpus.train_shards) == 2
    few = sides(str(path), cache)
    assert few[0] == whole[0][: len(few[0])]
    assert few[1] == whole[1], "the validation text does not depend on how much is trained on"
    with pytest.raises(UsageError, match="training shards, not 99"):
        gather(str(path), cache, num_shards=99)


@pytest.mark.parametrize("number", [0, -2])
def test_a_number_of_shards_that_is_none_is_refused(tmp_path: Path, number: int):
    with pytest.raises(UsageError, match=f"--num-shards {number}"):
        gather("embedded", tmp_path, num_shards=number)


def test_a_column_may_be_named(tmp_path: Path):
    path, cache = tmp_path / "t.jsonl", tmp_path / "cache"
    rows = [{"title": "x", "body": text} for text in stories("own", 40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UsageError, match="the text may be in title, body"):
        gather(str(path), cache)
    gather(f"{path}#body", cache)
    train, held_out = sides(f"{path}#body", cache)
    assert sorted(train + held_out) == sorted(stories("own", 40))


def test_nothing_there_and_nothing_to_read_are_told_apart(tmp_path: Path):
    with pytest.raises(DataMissing, match="no file or folder"):
        gather(str(tmp_path / "absent.txt"), tmp_path / "cache")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "picture.png").write_bytes(b"")
    with pytest.raises(DataMissing, match="nothing to read at"):
        gather(str(tmp_path / "folder"), tmp_path / "cache")
    (tmp_path / "short.txt").write_text("one\n\ntwo")
    with pytest.raises(DataMissing, match="cannot be cut into the 3 slices"):
        gather(str(tmp_path / "short.txt"), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("files/*.json"))


@pytest.mark.parametrize(
    ("total", "share"),
    [(600_000, 1 / 3), (5_000_000, 0.2), (100_000_000, 0.1), (4_000_000_000, 0.1), (40_000_000_000, 0.01)],
)
def test_a_tenth_is_held_out_more_of_little_text_less_of_much(total: int, share: float):
    assert held_out_share(total) == pytest.approx(share)


@pytest.mark.slow
def test_the_embedded_corpus_needs_nothing_and_reports_its_overlap(tmp_path: Path):
    found = gather("embedded", tmp_path)
    assert (found.overlap.exact_documents, found.num_shards) == (0, None)
    assert found.overlap.ngram_share is not None
    assert found.overlap.ngram_share < 0.01
    assert not list(tmp_path.iterdir())
